package main

import (
	"context"
	"io"
	"net"
)

// maxUnanswered is how many appends are on their way to a replica of Raft at most, which is
// also what a node has by default.
const maxUnanswered = 256

// unanswered bounds the appends that are on their way.
type unanswered chan struct{} // as many tokens as may still be sent

func newUnanswered() unanswered {
	u := make(unanswered, maxUnanswered)
	for range maxUnanswered {
		u.answered()
	}
	return u
}

// answered makes room for one more.
func (u unanswered) answered() { u <- struct{}{} }

// wait waits for room, and makes data an append.
func (u unanswered) wait(ctx context.Context, data []byte) error {
	select {
	case <-u:
		data[0] = 1
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isAppend reports whether a message is to be answered.
func isAppend(data []byte) bool { return len(data) > answerBytes && data[0] == 1 }

// echoer is a plain TCP connection to the other process.
type echoer struct {
	address string
	conn    net.Conn // nil until it is used
}

func (e *echoer) echo(ctx context.Context) (err error) {
	if e.conn == nil {
		if e.conn, err = new(net.Dialer).DialContext(ctx, "tcp", e.address); err != nil {
			return err
		}
	}
	message := make([]byte, pingBytes)
	if _, err := e.conn.Write(message); err != nil {
		return err
	}
	_, err = io.ReadFull(e.conn, message)
	return err
}

func (e *echoer) close() {
	if e.conn != nil {
		_ = e.conn.Close() // measured is measured
	}
}

// echoAll sends back what comes over each connection, until lis is closed.
func echoAll(lis net.Listener) {
	for {
		conn, err := lis.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}) // its sender notices
		}()
	}
}
