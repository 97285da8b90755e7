package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The bare way: a bidirectional stream of grpc-go with one message for each send, as a program has
// it that uses nothing but grpc. Answers to pings come back on the same stream. A file goes over a
// TCP connection of its own.

const (
	bareService  = "bench.Bare"
	bareMethod   = "/bench.Bare/Exchange"
	countsMethod = "/bench.Bare/Counts"
	bareWindow   = 4096 // messages that are handed over and not sent yet
)

// Messages are told apart by their size.
const (
	pingBytes   = 32 // a ping, and its answer
	answerBytes = 16 // the answer to an append
)

var bareDesc = grpc.ServiceDesc{
	ServiceName: bareService,
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Counts", Handler: func(srv any, _ context.Context, decode func(any) error,
		_ grpc.UnaryServerInterceptor,
	) (any, error) {
		if err := decode(new(wrapperspb.BytesValue)); err != nil {
			return nil, err
		}
		data, err := json.Marshal(srv.(*receiver).counts())
		return wrapperspb.Bytes(data), err
	}}},
	Streams: []grpc.StreamDesc{{
		StreamName: "Exchange", ServerStreams: true, ClientStreams: true,
		Handler: func(srv any, s grpc.ServerStream) error { return srv.(*receiver).bare(s) },
	}},
}

// bare receives one bare stream.
func (r *receiver) bare(s grpc.ServerStream) error {
	for {
		m := new(wrapperspb.BytesValue)
		if err := s.RecvMsg(m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(m.Value) != pingBytes {
			r.count(1, len(m.Value))
			if !isAppend(m.Value) {
				continue
			}
			m = wrapperspb.Bytes(make([]byte, answerBytes))
		}
		if err := s.SendMsg(m); err != nil {
			return err
		}
	}
}

// bareLink is the sender's side.
type bareLink struct {
	unanswered
	echoer
	conn   *grpc.ClientConn
	stream grpc.ClientStream
	cancel context.CancelFunc
	remote remote

	sending sync.Mutex // a stream takes one message at a time
	pongs   chan error
}

func (r *wireRunner) dialBare(end remote) (link, error) {
	conn, err := end.dial()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := conn.NewStream(ctx, &bareDesc.Streams[0], bareMethod)
	if err != nil {
		cancel()
		return nil, errors.Join(err, conn.Close())
	}
	l := &bareLink{
		unanswered: newUnanswered(), echoer: echoer{address: end.tcp}, conn: conn, stream: stream,
		cancel: cancel, remote: end, pongs: make(chan error, 1),
	}
	go l.receive(ctx)
	return l, nil
}

// receive takes what comes back, until the stream ends.
func (l *bareLink) receive(ctx context.Context) {
	for {
		m := new(wrapperspb.BytesValue)
		err := l.stream.RecvMsg(m)
		if err == nil && len(m.Value) == answerBytes {
			l.answered()
			continue
		}
		select {
		case l.pongs <- err:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (l *bareLink) send(data []byte) error {
	l.sending.Lock()
	defer l.sending.Unlock()
	return l.stream.SendMsg(wrapperspb.Bytes(data))
}

func (l *bareLink) append(ctx context.Context, data []byte) error {
	if err := l.wait(ctx, data); err != nil {
		return err
	}
	return l.send(data)
}

func (l *bareLink) ping(ctx context.Context) error {
	if err := l.send(make([]byte, pingBytes)); err != nil {
		return err
	}
	select {
	case err := <-l.pongs:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *bareLink) received(ctx context.Context) (counts, error) { return askCounts(ctx, l.conn) }

func askCounts(ctx context.Context, conn *grpc.ClientConn) (c counts, err error) {
	reply := new(wrapperspb.BytesValue)
	if err := conn.Invoke(ctx, countsMethod, new(wrapperspb.BytesValue), reply); err != nil {
		return c, err
	}
	return c, json.Unmarshal(reply.Value, &c)
}

// snapshot copies the file over TCP: the other process answers with one byte when it has it.
func (l *bareLink) snapshot(ctx context.Context, file string) error {
	where, err := askCounts(ctx, l.conn)
	if err != nil {
		return err
	}
	conn, err := l.remote.dialTCP(ctx, where.Files)
	if err != nil {
		return err
	}
	defer conn.Close()
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := binary.Write(conn, binary.BigEndian, info.Size()); err != nil {
		return err
	}
	// Through memory, as a store that is read has to: no sendfile.
	if _, err := io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{f}, make([]byte, 256<<10)); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}

func (l *bareLink) close() {
	l.echoer.close()
	l.cancel()
	_ = l.conn.Close() // measured is measured
}

// takeFiles writes what comes over TCP connections into a file, and says when it is synced.
func (r *receiver) takeFiles(lis net.Listener) {
	for {
		conn, err := lis.Accept()
		if err != nil {
			return
		}
		if conn, err = r.self.accept(conn); err != nil {
			continue
		}
		if err := r.takeFile(conn); err == nil {
			_, _ = conn.Write([]byte{1}) // the sender notices if it does not come
		}
		_ = conn.Close()
	}
}

func (r *receiver) takeFile(conn net.Conn) error {
	var size int64
	if err := binary.Read(conn, binary.BigEndian, &size); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(r.dir, "copied"))
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(conn, size), make([]byte, 256<<10))
	return errors.Join(err, f.Sync(), f.Close())
}
