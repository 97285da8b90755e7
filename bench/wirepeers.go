package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Our way: Peers on both sides, as a node has them. Messages go out in frames of what is
// waiting; a ping is of the class of heartbeats, and is answered by the other side's Peers.

const (
	measuring nexusraft.NodeID = 1 // the process that measures
	receiving nexusraft.NodeID = 2
)

// openings are those of a node, the latest first: each link comes as a later one.
type openings struct {
	boots []nexusraft.Boot
	count nexusraft.Incarnation
}

func (l *openings) next(node nexusraft.NodeID, address string) func() transport.Identity {
	l.boots = append([]nexusraft.Boot{nexusraft.Boot(nexusraft.MintID())}, l.boots...)
	l.count++
	id := transport.Identity{
		Cluster: 1, Node: node, Address: address,
		Incarnation: l.count, Boot: l.boots[0], Earlier: l.boots[1:],
	}
	return func() transport.Identity { return id }
}

// peersLink is the measuring side: a server for the answers, and Peers.
type peersLink struct {
	handler
	unanswered
	echoer
	peers   *transport.Peers
	server  *grpc.Server
	conn    *grpc.ClientConn // for the counts
	pongs   chan struct{}
	dropped atomic.Bool
	sent    uint64
}

// handler is what both sides do for peers, apart from receiving.
type handler struct{ transport.MemberHandler }

func (handler) Hello(transport.Identity) error { return nil }
func (handler) Leaving(nexusraft.NodeID)       {}
func (handler) RequestVote(context.Context, nexusraft.NodeID, []transport.Vote) ([]transport.VoteResult, error) {
	return nil, errors.New("nobody votes here")
}

func (handler) Status(context.Context, nexusraft.ZoneID) (nexusraft.NodeStatus, error) {
	return nexusraft.NodeStatus{}, errors.New("no status")
}

func (r *wireRunner) dialPeers(end remote) (link, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	conn, err := end.dial()
	if err != nil {
		return nil, errors.Join(err, lis.Close())
	}
	id := r.openings.next(measuring, lis.Addr().String())
	l := &peersLink{
		unanswered: newUnanswered(), echoer: echoer{address: end.tcp}, conn: conn,
		pongs: make(chan struct{}, 1),
	}
	l.server = grpc.NewServer(serverOptions(end.tls)...)
	transport.NewServer(id, transport.Handlers{Peer: l, Member: l}).Register(l.server)
	go func() { _ = l.server.Serve(lis) }() // until close stops it
	l.peers = transport.NewPeers(id, transport.PeersOptions{
		TLS:           end.tls,
		OnUnreachable: func(nexusraft.NodeID) { l.dropped.Store(true) },
	})
	l.peers.SetAddress(receiving, end.peers)
	return l, nil
}

// queueFor is how many messages wait before the sender pauses: less than the queue holds.
const queueFor = 2048

func (l *peersLink) send(data []byte) error {
	l.peers.Send(receiving, transport.Append, transport.Message{Zone: 1, Data: data})
	if l.sent++; l.sent%64 != 0 {
		return nil
	}
	for l.peers.Stats()[0].Queued > queueFor {
		time.Sleep(20 * time.Microsecond)
	}
	if l.dropped.Load() {
		return errors.New("messages were dropped")
	}
	return nil
}

func (l *peersLink) append(ctx context.Context, data []byte) error {
	if err := l.wait(ctx, data); err != nil {
		return err
	}
	return l.send(data)
}

func (l *peersLink) ping(ctx context.Context) error {
	for {
		l.peers.Send(receiving, transport.Control, transport.Message{Zone: 1, Data: make([]byte, pingBytes)})
		select {
		case <-l.pongs:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second): // not connected yet
		}
	}
}

// Receive implements transport.PeerHandler: what comes back are answers.
func (l *peersLink) Receive(_ nexusraft.NodeID, msgs []transport.Message) {
	for _, m := range msgs {
		if len(m.Data) == answerBytes {
			l.answered()
			continue
		}
		select {
		case l.pongs <- struct{}{}:
		default:
		}
	}
}

func (l *peersLink) received(ctx context.Context) (counts, error) { return askCounts(ctx, l.conn) }

func (l *peersLink) snapshot(ctx context.Context, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return transport.SendSnapshot(ctx, l.peers, receiving, transport.Snapshot{
		SnapshotHeader: transport.SnapshotHeader{Zone: 1, From: 1, To: 2, Index: 1, Term: 1},
		State:          func(offset uint64) iter.Seq2[[]byte, error] { return pieces(f, offset) },
	})
}

// pieces yields a file from an offset on.
func pieces(f *os.File, offset uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if _, err := f.Seek(int64(offset), io.SeekStart); err != nil {
			yield(nil, err)
			return
		}
		buf := make([]byte, transport.MaxChunkBytes)
		for {
			n, err := f.Read(buf)
			if n > 0 && !yield(buf[:n], nil) {
				return
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					yield(nil, err)
				}
				return
			}
		}
	}
}

func (l *peersLink) close() {
	l.echoer.close()
	l.peers.Close()
	l.server.Stop()
	_ = l.conn.Close() // measured is measured
}

// receiver is the other process, for all ways that have TLS, or all that have not.
type receiver struct {
	handler
	dir             string
	self            remote
	files           string // where files are taken over TCP
	peers           *transport.Peers
	messages, bytes atomic.Uint64
}

// receiveCommand is what the other process runs.
type receiveCommand struct {
	Dir string `arg:""`
}

// Run reads its certificate from the standard input, says its addresses, and receives until
// the input ends.
func (c *receiveCommand) Run(out io.Writer) error {
	var own keyPair
	if err := json.NewDecoder(os.Stdin).Decode(&own); err != nil {
		return fmt.Errorf("read the certificate: %w", err)
	}
	tls, err := own.tls()
	if err != nil {
		return err
	}
	plain, endPlain, err := c.receive(nil)
	if err != nil {
		return err
	}
	defer endPlain()
	secure, endSecure, err := c.receive(tls)
	if err != nil {
		return err
	}
	defer endSecure()
	fmt.Fprintln(out, plain.peers, plain.bare, plain.tcp, secure.peers, secure.bare, secure.tcp)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// receive starts a receiver, with TLS unless that is nil.
func (c *receiveCommand) receive(tls *mtls.TLS) (self remote, end func(), err error) {
	var lis [4]net.Listener
	for i := range lis {
		if lis[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return self, nil, err // the process ends
		}
	}
	self = remote{peers: lis[0].Addr().String(), bare: lis[1].Addr().String(), tcp: lis[3].Addr().String(), tls: tls}
	id := new(openings).next(receiving, self.peers)
	r := &receiver{dir: c.Dir, self: self, files: lis[2].Addr().String()}
	r.peers = transport.NewPeers(id, transport.PeersOptions{TLS: tls})
	node := grpc.NewServer(serverOptions(tls)...)
	handlers := transport.NewServer(id, transport.Handlers{Peer: r, Member: r})
	handlers.Register(node)
	bare := grpc.NewServer(self.bareOptions()...)
	bare.RegisterService(&bareDesc, r)
	go func() { _ = node.Serve(lis[0]) }() // until Stop
	go func() { _ = bare.Serve(lis[1]) }()
	go r.takeFiles(lis[2]) // until Close
	go echoAll(lis[3])
	return self, func() {
		r.peers.Close()
		node.Stop()
		handlers.Close()
		bare.Stop()
		_ = errors.Join(lis[2].Close(), lis[3].Close()) // the process ends
	}, nil
}

func (r *receiver) count(messages, bytes int) {
	r.messages.Add(uint64(messages))
	r.bytes.Add(uint64(bytes))
}

func (r *receiver) counts() counts {
	return counts{Messages: r.messages.Load(), Bytes: r.bytes.Load(), Mallocs: mallocs(), Files: r.files}
}

// Hello implements transport.PeerHandler: each measurement comes from a new address.
func (r *receiver) Hello(peer transport.Identity) error {
	r.peers.SetAddress(peer.Node, peer.Address)
	return nil
}

// Receive implements transport.PeerHandler.
func (r *receiver) Receive(from nexusraft.NodeID, msgs []transport.Message) {
	n, bytes := 0, 0
	for _, m := range msgs {
		if len(m.Data) == pingBytes {
			r.peers.Send(from, transport.Control, m)
			continue
		}
		if isAppend(m.Data) {
			r.peers.Send(from, transport.Append, transport.Message{Zone: m.Zone, Data: make([]byte, answerBytes)})
		}
		n++
		bytes += len(m.Data)
	}
	r.count(n, bytes)
}

// InstallSnapshot implements transport.MemberHandler: into a file, as a copy.
func (r *receiver) InstallSnapshot(
	_ context.Context, _ nexusraft.NodeID, _ transport.SnapshotHeader, chunks iter.Seq2[[]byte, error],
) error {
	f, err := os.Create(filepath.Join(r.dir, "installed"))
	if err != nil {
		return err
	}
	for chunk, err := range chunks {
		if err == nil {
			_, err = f.Write(chunk)
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// writeNoise makes a file of so many random bytes.
func writeNoise(dir string, size int64) (name string, err error) {
	name = filepath.Join(dir, "snapshot")
	f, err := os.Create(name)
	if err != nil {
		return "", err
	}
	for left := size; left > 0 && err == nil; left -= int64(len(noise)) {
		_, err = f.Write(noise[:min(left, int64(len(noise)))])
	}
	return name, errors.Join(err, f.Sync(), f.Close())
}
