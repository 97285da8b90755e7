//go:build !race

// The race detector needs more memory than these programs may have, and takes its time.

package main

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// attacker is a connection that speaks HTTP/2 by hand, to send what no honest client sends. Its
// methods report false once the connection is closed.
type attacker struct {
	conn   net.Conn
	framer *http2.Framer
	closed chan struct{} // the other side has closed the connection

	mu     sync.Mutex // guards what follows, and what is written
	next   uint32     // the next stream
	header bytes.Buffer
	coder  *hpack.Encoder
}

// attack connects from an address of the loopback network, "" for any; it returns nil where the
// connection is refused.
func attack(t *testing.T, addr, from string, encrypted bool) *attacker {
	t.Helper()
	if !encrypted {
		return attackWith(t, addr, from, nil)
	}
	return attackWith(t, addr, from, &tls.Config{InsecureSkipVerify: true})
}

// attackWith is attack with what a caller shows; nil for no TLS.
func attackWith(t *testing.T, addr, from string, shows *tls.Config) *attacker {
	t.Helper()
	a := mute(t, addr, from, shows)
	if a != nil {
		go a.read()
	}
	return a
}

// dialFrom connects from an address of the loopback network, "" for any; it returns nil where the
// connection is refused.
func dialFrom(t *testing.T, addr, from string) net.Conn {
	t.Helper()
	d := &net.Dialer{Timeout: 5 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// mute is attackWith of one that reads nothing.
func mute(t *testing.T, addr, from string, shows *tls.Config) *attacker {
	t.Helper()
	conn := dialFrom(t, addr, from)
	if conn == nil {
		return nil
	}
	if shows != nil {
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		shows = shows.Clone()
		shows.NextProtos = []string{"h2"}
		secure := tls.Client(conn, shows)
		if err := secure.Handshake(); err != nil {
			conn.Close()
			return nil
		}
		conn.SetDeadline(time.Time{})
		conn = secure
	}
	a := &attacker{conn: conn, framer: http2.NewFramer(conn, conn), closed: make(chan struct{}), next: 1}
	a.framer.MaxHeaderListSize = 1 << 20
	a.coder = hpack.NewEncoder(&a.header)
	if !a.write(func() error {
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			return err
		}
		return a.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	}) {
		conn.Close()
		return nil
	}
	return a
}

// read takes what comes until the connection ends, so that the other side is never kept from
// writing. It grants the answers room.
func (a *attacker) read() {
	defer close(a.closed)
	for {
		f, err := a.framer.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				a.write(a.framer.WriteSettingsAck)
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				data := f.Data
				a.write(func() error { return a.framer.WritePing(true, data) })
			}
		}
	}
}

func (a *attacker) write(op func() error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	return op() == nil
}

// open begins a call; more are fields besides those that each call has.
func (a *attacker) open(method string, more ...hpack.HeaderField) (stream uint32, ok bool) {
	ok = a.write(func() error {
		stream = a.next
		a.next += 2
		a.header.Reset()
		for _, f := range append([]hpack.HeaderField{
			{Name: ":method", Value: "POST"},
			{Name: ":scheme", Value: "http"},
			{Name: ":path", Value: method},
			{Name: ":authority", Value: "x"},
			{Name: "content-type", Value: "application/grpc"},
			{Name: "te", Value: "trailers"},
		}, more...) {
			if err := a.coder.WriteField(f); err != nil {
				return err
			}
		}
		return a.writeBlock(stream, a.header.Bytes())
	})
	return stream, ok
}

// writeBlock writes a header block, in as many frames as it needs.
func (a *attacker) writeBlock(stream uint32, block []byte) error {
	const frame = 16 << 10
	first := block[:min(frame, len(block))]
	block = block[len(first):]
	if err := a.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: first,
		EndHeaders: len(block) == 0,
	}); err != nil {
		return err
	}
	for len(block) > 0 {
		next := block[:min(frame, len(block))]
		block = block[len(next):]
		if err := a.framer.WriteContinuation(stream, len(block) == 0, next); err != nil {
			return err
		}
	}
	return nil
}

// bomb begins a call with a field of a few bytes that is repeated: one byte each on the wire.
func (a *attacker) bomb(method string, repeat int) bool {
	return a.write(func() error {
		stream := a.next
		a.next += 2
		a.header.Reset()
		for _, f := range []hpack.HeaderField{
			{Name: ":method", Value: "POST"},
			{Name: ":scheme", Value: "http"},
			{Name: ":path", Value: method},
			{Name: ":authority", Value: "x"},
			{Name: "content-type", Value: "application/grpc"},
			{Name: "x", Value: "y"},
		} {
			if err := a.coder.WriteField(f); err != nil {
				return err
			}
		}
		block := append(bytes.Clone(a.header.Bytes()), strings.Repeat("\xbe", repeat)...) // the newest entry of the table
		return a.writeBlock(stream, block)
	})
}

// begin sends what a message of a length begins with, and so much of it as is asked for.
func (a *attacker) begin(stream uint32, length, sent int) bool {
	head := make([]byte, 5)
	binary.BigEndian.PutUint32(head[1:], uint32(length))
	return a.data(stream, head) && a.more(stream, sent)
}

// more sends bytes of a message; it takes no notice of windows, which is for the other side to
// notice.
func (a *attacker) more(stream uint32, n int) bool {
	for n > 0 {
		part := min(n, 16<<10)
		if !a.data(stream, make([]byte, part)) {
			return false
		}
		n -= part
	}
	return true
}

func (a *attacker) data(stream uint32, b []byte) bool {
	return a.write(func() error { return a.framer.WriteData(stream, false, b) })
}
