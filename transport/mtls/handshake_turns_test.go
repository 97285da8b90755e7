package mtls

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A handshake computes in its turn, and holds up nobody while it waits for the other side.
func TestHandshakesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := NewLimits(LimitOptions{})
		limits.turns = make(chan struct{}, 1)
		here, there := net.Pipe()
		defer there.Close()
		first := limits.turn(here)
		var second *turnConn
		go func() { second = limits.turn(here) }()
		synctest.Wait()
		if second != nil {
			t.Fatal("two handshakes compute at once, want one")
		}
		read := false
		go func() {
			_, err := first.Read(make([]byte, 1))
			read = err == nil
		}()
		synctest.Wait()
		if second == nil {
			t.Fatal("a handshake that waits for the other side holds up another one")
		}
		if _, err := there.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if read {
			t.Error("a handshake goes on in another one's turn")
		}
		second.end()
		synctest.Wait()
		if !read {
			t.Error("a handshake whose turn it is does not go on")
		}
		first.end()
		if len(limits.turns) != 0 {
			t.Errorf("%d turns are left", len(limits.turns))
		}
	})
}

// Handshakes that say nothing, more than there are turns, hold up nobody.
func TestSilentHandshakesHoldNoTurn(t *testing.T) {
	ca := testCA(t)
	limits := NewLimits(LimitOptions{})
	addr := serve(t, limits, testTLS(testCertificates(t, ca, subject(nodeA))), services{},
		GuardOptions()...)
	for range 4 * cap(limits.turns) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	eventually(t, "their handshakes have begun",
		func() bool { return limits.openOf(kindHandshake) >= 2*cap(limits.turns) })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := vote(ctx, dialWith(t, addr, testTLS(testCertificates(t, ca,
		subject(nodeB))).ClientCredentials(nodeA))); err != nil {
		t.Errorf("a node: got %v, want none", err)
	}
}
