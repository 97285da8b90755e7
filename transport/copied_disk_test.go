package transport

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// An opening is followed by itself and by later ones only.
func TestLifeCheck(t *testing.T) {
	for _, tc := range []struct {
		name   string
		seen   Opening
		fenced bool
	}{
		{"never seen", Opening{}, false},
		{"the same", Opening{5, 1}, false},
		{"a former one", Opening{4, 9}, false},
		{"a later one", Opening{6, 1}, true},
		{"another opening with its number", Opening{5, 2}, true},
		{"kept without a boot", Opening{5, 0}, false},
		{"a former one that it remembers", Opening{3, 8}, false},
		{"a former one that it remembers otherwise", Opening{3, 9}, true},
		{"a former one from before it remembered", Opening{2, 7}, false},
		{"a remembered one kept without a boot", Opening{3, 0}, false},
	} {
		peer := identityA
		peer.Earlier = []nexusraft.Boot{9, 8}
		if err := tc.seen.Check(peer); errors.Is(err, nexusraft.ErrFenced) != tc.fenced || (err != nil) != tc.fenced {
			t.Errorf("%s: got %v, want fenced %t", tc.name, err, tc.fenced)
		}
	}
}

// A copy that was opened so often that it remembers only openings of its own is refused.
func TestLifeBeyondAFullMemory(t *testing.T) {
	boots := manyBoots(1 + MaxEarlier)
	copied := identityA
	copied.Incarnation, copied.Boot, copied.Earlier = 2*MaxEarlier, boots[0], boots[1:]
	if err := (Opening{3, 9}).Check(copied); !errors.Is(err, nexusraft.ErrFenced) {
		t.Errorf("got %v, want ErrFenced", err)
	}
}

// TestAThousandOpeningsWithoutAMeeting: a node that a peer has not met for so many openings is
// known by it, and a copy that was opened as often is not.
func TestAThousandOpeningsWithoutAMeeting(t *testing.T) {
	boots := append(manyBoots(1000), 7)
	node := identityA
	node.Incarnation, node.Boot, node.Earlier = 1003, boots[0], boots[1:]
	sent := hello(node, nodeB)
	if len(sent.GetEarlierBoots()) > 256 {
		t.Errorf("%d earlier boots are sent, and earlier releases take 256", len(sent.GetEarlierBoots()))
	}
	heard, err := checkHello(identityB, sent)
	if err != nil {
		t.Fatalf("the handshake is refused: %v", err)
	}
	if err := (Opening{3, 7}).Check(heard); err != nil {
		t.Errorf("the peer that has met it 1,000 openings ago says: %v", err)
	}
	if err := (Opening{3, 9}).Check(heard); !errors.Is(err, nexusraft.ErrFenced) {
		t.Errorf("the peer that has met another opening then says %v, want ErrFenced", err)
	}
}

// A node of an earlier release remembers 256 openings, and those before are not its own.
func TestFullMemoryOfAnEarlierRelease(t *testing.T) {
	copied := identityA
	copied.Incarnation, copied.Earlier = 500, slices.Repeat([]nexusraft.Boot{8}, 256)
	if err := (Opening{3, 9}).Check(copied); !errors.Is(err, nexusraft.ErrFenced) {
		t.Errorf("got %v, want ErrFenced", err)
	}
}

// A handshake names as many openings as a peer takes, the latest ones.
func TestHandshakeOfAFullMemory(t *testing.T) {
	full := identityA
	full.Earlier = manyBoots(2 * MaxEarlier)
	want := full
	want.Earlier = full.Earlier[:MaxEarlier]
	if got, err := checkHello(identityB, hello(full, nodeB)); err != nil {
		t.Errorf("a full memory is refused: %v", err)
	} else if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a full memory (-want +got):\n%s", diff)
	}
}

// manyBoots returns n boots of one directory, the latest first.
func manyBoots(n int) (boots []nexusraft.Boot) {
	for range n {
		boots = append(boots, nexusraft.Boot(nexusraft.MintID()))
	}
	return boots
}

// A later opening from elsewhere waits until the stream of the former one has ended.
func TestLaterLifeWhileTheFormerSpeaks(t *testing.T) {
	later := identityA
	later.Incarnation++
	moved := later
	moved.Address = "elsewhere:1"
	var n openings
	n.record(identityA)
	_, end, err := n.speaks(&inbound{peer: identityA}, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := n.check(moved); !errors.Is(err, nexusraft.ErrRefused) || errors.Is(err, nexusraft.ErrFenced) ||
		!strings.Contains(err.Error(), "runs at a:1") {
		t.Errorf("from elsewhere: got %v, want ErrRefused that says where it runs", err)
	}
	if err := n.check(later); err != nil {
		t.Errorf("at the same address: %v", err)
	}
	end()
	if err := n.check(moved); err != nil {
		t.Errorf("once the former one is gone: %v", err)
	}
}

// A node that was removed while it was connected, and says nothing, hears of it.
func TestEndIsTold(t *testing.T) {
	var removed atomic.Bool
	f := &fakeNode{hello: func(Identity) error {
		if removed.Load() {
			return fmt.Errorf("%w: node a was removed", nexusraft.ErrFenced)
		}
		return nil
	}}
	s := NewServer(as(identityB), f.handlers())
	addr, _ := serveAt(t, "127.0.0.1:0", s)
	told := make(chan error, 100)
	p := peersOf(t, identityA, PeersOptions{OnFenced: func(_ Identity, err error) {
		select {
		case told <- err:
		default:
		}
	}})
	connect(t, p, addr)
	why := fmt.Errorf("%w: node a was removed", nexusraft.ErrFenced)
	s.End(0xd, why) // nobody is there by that name
	removed.Store(true)
	s.End(nodeA, why)
	if err := await(t, "the refusal", told); !strings.Contains(err.Error(), "node a was removed") {
		t.Errorf("got %v, want that it was removed", err)
	}
}

// A refusal for good reaches the node that it concerns; one of a node that is not of its
// cluster does not count.
func TestFencedIsTold(t *testing.T) {
	addr, _ := serve(t, identityB, &fakeNode{hello: func(Identity) error {
		return fmt.Errorf("%w: node a was removed", nexusraft.ErrFenced)
	}})
	told := make(chan error, 100)
	p := peersOf(t, identityA, PeersOptions{OnFenced: func(_ Identity, err error) {
		select {
		case told <- err:
		default:
		}
	}})
	p.SetAddress(nodeB, addr)
	if err := await(t, "the refusal", told); !errors.Is(err, nexusraft.ErrFenced) ||
		!strings.Contains(err.Error(), "node a was removed") {
		t.Errorf("got %v, want ErrFenced in the peer's words", err)
	}
	stranger := identityB
	stranger.Cluster++
	err := asRefusal(refusalStatus(stranger, hello(identityA, nodeB), fmt.Errorf("%w: so there", nexusraft.ErrFenced)))
	if _, ok := fencedBy(identityA, nodeB, err); ok {
		t.Error("a node of another cluster can fence this one")
	}
}

// The refusal of a node that has been seen in a later life counts for nothing: it is a copy.
func TestFencedByACopy(t *testing.T) {
	refused := make(chan struct{}, 100)
	addr, _ := serve(t, identityB, &fakeNode{hello: func(Identity) error {
		select {
		case refused <- struct{}{}:
		default:
		}
		return fmt.Errorf("%w: so there", nexusraft.ErrFenced)
	}})
	later := identityB
	later.Incarnation++
	p := peersOf(t, identityA, PeersOptions{OnFenced: func(peer Identity,
		err error,
	) {
		t.Errorf("%v fences: %v", peer, err)
	}})
	p.pool.seen.record(later)
	p.SetAddress(nodeB, addr)
	for range 3 { // when it asks again, it has made up its mind about the answer before
		await(t, "a refusal", refused)
	}
}
