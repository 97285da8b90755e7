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

func TestSameAddress(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:2027", "127.0.0.1:2027", true},
		{"localhost:2027", "127.0.0.1:2027", true},
		{"[::1]:2027", "0.0.0.0:2027", true},
		{"127.0.0.1:2026", "127.0.0.1:2027", false},
		{"10.0.0.1:2027", "127.0.0.1:2027", false},
		{"host:2027", "host:2027", true},
		{"host:2027", "nonsense", false},
	} {
		if diff := cmp.Diff(tc.want, SameAddress(tc.a, tc.b)); diff != "" {
			t.Errorf("SameAddress(%q, %q): %s", tc.a, tc.b, diff)
		}
	}
}

// A life is followed by itself and by later ones only.
func TestLifeCheck(t *testing.T) {
	for _, tc := range []struct {
		name   string
		seen   Life
		fenced bool
	}{
		{"never seen", Life{}, false},
		{"the same", Life{5, 1}, false},
		{"a former one", Life{4, 9}, false},
		{"a later one", Life{6, 1}, true},
		{"another opening with its number", Life{5, 2}, true},
		{"kept without a boot", Life{5, 0}, false},
		{"a former one that it remembers", Life{3, 8}, false},
		{"a former one that it remembers otherwise", Life{3, 9}, true},
		{"a former one from before it remembered", Life{2, 7}, false},
		{"a remembered one kept without a boot", Life{3, 0}, false},
	} {
		peer := identityA
		peer.Earlier = []nexusraft.Boot{9, 8}
		if err := tc.seen.Check(peer); errors.Is(err, nexusraft.ErrFenced) != tc.fenced || (err != nil) != tc.fenced {
			t.Errorf("%s: got %v, want fenced %t", tc.name, err, tc.fenced)
		}
	}
}

// A copy that was opened so often that it remembers only lives of its own is refused.
func TestLifeBeyondAFullMemory(t *testing.T) {
	var boots []nexusraft.Boot
	for range 2 * maxEarlier {
		boots = NewBoot(boots)
	}
	copied := identityA
	copied.Incarnation, copied.Boot, copied.Earlier = 2*maxEarlier, boots[0], boots[1:]
	if err := (Life{3, 9}).Check(copied); !errors.Is(err, nexusraft.ErrFenced) {
		t.Errorf("got %v, want ErrFenced", err)
	}
}

// One refusal is a problem; the end is when those that are left are too few for a quorum.
func TestRefusals(t *testing.T) {
	voter := func(node nexusraft.NodeID, role nexusraft.Role) nexusraft.Member {
		return nexusraft.Member{Replica: nexusraft.ReplicaID(node), Node: node, Role: role}
	}
	three := nexusraft.Membership{Members: []nexusraft.Member{
		voter(1, nexusraft.RoleMember), voter(2, nexusraft.RoleMember), voter(3, nexusraft.RoleWitness), voter(4, nexusraft.RoleLearner),
	}}
	two := nexusraft.Membership{Members: three.Members[:2]}
	why := errors.New("was copied")
	var r Refusals
	if r.Final(three) || r.Problem() != "" {
		t.Error("nobody refuses, and it is final or a problem")
	}
	said, news := r.Add(2, fmt.Errorf("%w: it %w", nexusraft.ErrFenced, why))
	if _, again := r.Add(2, why); !news || again || said.Error() != "it was copied" {
		t.Errorf("got %q, news %v and then %v; want the words alone, news once", said, news, again)
	}
	if r.Final(nexusraft.Membership{}) {
		t.Error("final, although the voters are not known yet")
	}
	if r.Final(three) || !r.Final(two) || !strings.Contains(r.Problem(), "was copied") {
		t.Errorf("refused by one: final %v of three, %v of two, %q", r.Final(three), r.Final(two), r.Problem())
	}
	r.Add(4, why)
	if r.Final(three) {
		t.Error("a learner's refusal counts")
	}
	r.Add(3, why)
	if !r.Final(three) {
		t.Error("refused by two of three: not final")
	}
	r.Remove(2)
	if r.Final(three) {
		t.Error("accepted by one again: final")
	}
}

// A data directory remembers as many openings as a handshake may name.
func TestNewBoot(t *testing.T) {
	var boots []nexusraft.Boot
	for range 2 * maxEarlier {
		next := NewBoot(boots)
		if want := min(len(boots), maxEarlier); next[0] == 0 || !slices.Equal(next[1:], boots[:want]) {
			t.Fatalf("got %v after %v", next, boots)
		}
		boots = next
	}
	full := identityA
	full.Boot, full.Earlier = boots[0], boots[1:]
	if got, err := checkHello(identityB, hello(full, nodeB)); err != nil {
		t.Errorf("a full memory is refused: %v", err)
	} else if diff := cmp.Diff(full, got); diff != "" {
		t.Errorf("a full memory (-want +got):\n%s", diff)
	}
}

// A later life from elsewhere waits until the stream of the former one has ended.
func TestLaterLifeWhileTheFormerSpeaks(t *testing.T) {
	later := identityA
	later.Incarnation++
	moved := later
	moved.Address = "elsewhere:1"
	var n lives
	n.record(identityA)
	_, end, err := n.speaks(&inbound{peer: identityA}, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := n.check(moved); !errors.Is(err, nexusraft.ErrRefused) || errors.Is(err, nexusraft.ErrFenced) || !strings.Contains(err.Error(), "runs at a:1") {
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
func TestGreetAgain(t *testing.T) {
	var removed atomic.Bool
	f := &fakeNode{hello: func(Identity) error {
		if removed.Load() {
			return fmt.Errorf("%w: node a was removed", nexusraft.ErrFenced)
		}
		return nil
	}}
	s := NewServer(as(identityB), f, f)
	addr, _ := serveAt(t, "127.0.0.1:0", s)
	told := make(chan error, 100)
	p := peersOf(t, identityA, PeersOptions{OnFenced: func(_ Identity, err error) {
		select {
		case told <- err:
		default:
		}
	}})
	connect(t, p, addr)
	s.GreetAgain(nodeB) // nobody is there by that name
	removed.Store(true)
	s.GreetAgain(nodeA)
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
	if err := await(t, "the refusal", told); !errors.Is(err, nexusraft.ErrFenced) || !strings.Contains(err.Error(), "node a was removed") {
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
	p := peersOf(t, identityA, PeersOptions{OnFenced: func(peer Identity, err error) { t.Errorf("%v fences: %v", peer, err) }})
	p.pool.seen.record(later)
	p.SetAddress(nodeB, addr)
	for range 3 { // when it asks again, it has made up its mind about the answer before
		await(t, "a refusal", refused)
	}
}
