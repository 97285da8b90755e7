package transport

import (
	"errors"
	"slices"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestCloseSaysGoodbyeAfterWhatWasQueued(t *testing.T) {
	events := make(chan string, 16)
	addr, _ := serve(t, identityB, &fakeNode{
		receive: func(_ nexusraft.NodeID, msgs []Message) {
			for _, m := range msgs {
				events <- string(m.Data)
			}
		},
		leaving: func(from nexusraft.NodeID) { events <- "leaving " + from.String() },
	})
	p := peersOf(t, identityA, PeersOptions{})
	connect(t, p, addr)
	p.Send(nodeB, Append, Message{Data: []byte("one")})
	p.Send(nodeB, Append, Message{Data: []byte("two")})
	p.Close()
	var got []string
	for range 3 {
		got = append(got, await(t, "an event", events))
	}
	if want := []string{"one", "two", "leaving " + nodeA.String()}; !slices.Equal(got, want) {
		t.Errorf("events: got %q, want %q", got, want)
	}
}

func TestBrokenStreamIsNoGoodbye(t *testing.T) {
	ended := make(chan struct{}, 1)
	addr, stop := serve(t, identityB, &fakeNode{leaving: func(nexusraft.NodeID) { ended <- struct{}{} }})
	p := peersOf(t, identityA, PeersOptions{})
	connect(t, p, addr)
	p.Remove(nodeB) // cancels the stream, as a crash would
	stop()          // every handler has returned
	select {
	case <-ended:
		t.Error("a cancelled stream was taken for an orderly end")
	default:
	}
}

func TestCloseDoesNotWaitForADeadPeer(t *testing.T) {
	p := NewPeers(as(identityA), PeersOptions{Dialer: gatedDialer(nil)})
	p.SetAddress(nodeB, "b:1")
	start := time.Now()
	p.Close()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("Close took %v", took)
	}
}

// A dead leader must not hold up the writes of its survivors: they learn at once that
// nothing was sent.
func TestProposeToADeadPeerFailsAtOnce(t *testing.T) {
	addr, stop := serve(t, identityB, &fakeNode{})
	stop() // nobody listens there any more
	p := peersOf(t, identityA, PeersOptions{VoteTimeout: time.Hour})
	p.SetAddress(nodeB, addr)
	failing := func() bool {
		x := p.peer(nodeB)
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.failing
	}
	eventually(t, "an attempt to connect has failed", failing)
	_, err := p.Propose(t.Context(), nodeB, Proposal{Zone: nexusraft.RootZone, Command: []byte("x")})
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("propose: got %v, want ErrUnreachable", err)
	}
}
