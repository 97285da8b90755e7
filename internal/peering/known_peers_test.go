package peering

import (
	"errors"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

func TestHello(t *testing.T) {
	m := founded()
	n := open(t, m, Options{MaxPeers: 3})
	n.members.Removed = []nexusraft.Tombstone{{Node: 9}}
	joining, forgotten := other(3, 1, 1), other(2, 9, 29)
	joining.Cluster, forgotten.Cluster = 0, 0
	moved := other(2, 6, 26, 25)
	moved.Address = "b:1"
	for _, tc := range []struct {
		what  string
		peer  func() error
		want  error
		known int // peers afterwards
	}{
		{"one that is new", func() error { return n.Hello(other(2, 5, 25)) }, nil, 1},
		{"the same again", func() error { return n.Hello(other(2, 5, 25)) }, nil, 1},
		{"a lower incarnation", func() error { return n.Hello(other(2, 4, 24)) }, nexusraft.ErrFenced, 1},
		{"another opening of that number", func() error { return n.Hello(other(2, 5, 26)) }, nexusraft.ErrFenced, 1},
		{"one that knows nothing of it", func() error { return n.Hello(other(2, 6, 26, 24)) }, nexusraft.ErrFenced, 1},
		{"the next opening, elsewhere", func() error { return n.Hello(moved) }, nil, 1},
		{"one that asks to join", func() error { return n.Hello(joining) }, nil, 1},
		{"one that was here and belongs to none", func() error { return n.Hello(forgotten) }, nexusraft.ErrFenced, 1},
		{"this node", func() error { return n.Hello(other(self, 9, 9)) }, nexusraft.ErrRefused, 1},
		{"one that was removed", func() error { return n.Hello(other(9, 1, 1)) }, nexusraft.ErrFenced, 1},
		{"a second one", func() error { return n.Hello(other(4, 1, 1)) }, nil, 2},
		{"a third one", func() error { return n.Hello(other(5, 1, 1)) }, nil, 3},
		{"one too many", func() error { return n.Hello(other(6, 1, 1)) }, nexusraft.ErrRefused, 3},
	} {
		if err := tc.peer(); !errors.Is(err, tc.want) || len(m.Peers) != tc.known {
			t.Errorf("%s: got %v and %d known peers, want %v and %d", tc.what, err, len(m.Peers), tc.want, tc.known)
		}
	}
	if m.writes != 4 {
		t.Errorf("%d writes, want one for each that is new or has changed", m.writes)
	}
	if got := n.AddressOf(2, "c:1"); got != "b:1" {
		t.Errorf("it is at %s, want where it was last", got)
	}
	if again := open(t, m, Options{}); again.Hello(other(2, 5, 25)) == nil {
		t.Error("an earlier life is accepted after a restart")
	}
}

// What can't be stored is not remembered, and the peer is refused.
func TestPeerThatCanNotBeStored(t *testing.T) {
	m := founded()
	n := open(t, m, Options{})
	m.err = errDisk
	for range 2 {
		if err := n.Hello(other(2, 5, 25)); !errors.Is(err, errDisk) {
			t.Errorf("got %v, want the disk's error", err)
		}
	}
}

// What a peer speaks is what it said last, in a handshake that was accepted, and is asked anew after
// the next start.
func TestMinor(t *testing.T) {
	m := founded()
	n := open(t, m, Options{})
	speaking := func(peer transport.Identity, minor uint32) transport.Identity {
		peer.Minor = minor
		return peer
	}
	joining, copied := speaking(other(8, 1, 1), 4), speaking(other(2, 5, 99), 9)
	joining.Cluster = 0
	const unheard = -1
	for _, tc := range []struct {
		what string
		do   func() error
		node nexusraft.NodeID
		want int
	}{
		{"this node", func() error { return nil }, self, transport.MinorVersion},
		{"a peer that is silent", func() error { return nil }, 2, unheard},
		{"one that calls", func() error { return n.Hello(speaking(other(2, 5, 25), 3)) }, 2, 3},
		{"one that answers", func() error { return n.accepted(speaking(other(3, 1, 1), 4)) }, 3, 4},
		{"its next opening, by a newer program", func() error { return n.Hello(speaking(other(2, 6, 26, 25), 4)) }, 2, 4},
		{"the one after, by the older one", func() error { return n.accepted(speaking(other(2, 7, 27, 26, 25), 3)) }, 2, 3},
		{"the first version", func() error { return n.Hello(other(4, 1, 1)) }, 4, 0},
		{"one that asks to join", func() error { return n.Hello(joining) }, 8, unheard},
		{
			"a copy, which is refused", func() error {
				if n.Hello(copied) == nil || n.accepted(copied) == nil {
					return errors.New("it was accepted")
				}
				n.refusedBy(copied, nexusraft.ErrFenced)
				return nil
			}, 2, 3,
		},
		{
			"one that refuses this node", func() error {
				n.refusedBy(speaking(other(6, 1, 1), 4), nexusraft.ErrFenced)
				return nil
			}, 6, unheard,
		},
		{
			"a handshake that was overtaken", func() error {
				n.heed(speaking(other(2, 6, 26, 25), 4))
				return nil
			}, 2, 3,
		},
	} {
		err := tc.do()
		minor, ok := n.Minor(tc.node)
		got := int(minor)
		if !ok {
			got = unheard
		}
		if err != nil || got != tc.want {
			t.Errorf("%s: node %v speaks %d (%v), want %d", tc.what, tc.node, got, err, tc.want)
		}
	}
	if _, ok := open(t, m, Options{}).Minor(2); ok {
		t.Error("known before the peer has said anything in this opening")
	}
}

// A node that has proved to be a full one is vouched for until the next start.
func TestVouched(t *testing.T) {
	n := open(t, founded(), Options{})
	full, witness := other(2, 1, 1), other(3, 1, 1)
	full.Full = true
	if err := errors.Join(n.Hello(full), n.Hello(witness)); err != nil {
		t.Fatal(err)
	}
	if !n.Vouched(2) || n.Vouched(3) || n.Vouched(4) {
		t.Errorf("vouched for: %t, %t, %t", n.Vouched(2), n.Vouched(3), n.Vouched(4))
	}
}

// A hint changes where a peer is looked for, until it speaks itself, and is not stored.
func TestMoved(t *testing.T) {
	m := founded()
	n := open(t, m, Options{Advertise: "me:1"})
	if err := n.Hello(other(2, 1, 1)); err != nil {
		t.Fatal(err)
	}
	n.Moved(2, "b:1")
	n.Moved(self, "b:2")
	n.Connect(nexusraft.Membership{Members: []nexusraft.Member{
		{Node: 2, Address: "c:1"}, {Node: 3, Address: "c:2"}, {Node: 4}, {Node: self, Address: "c:4"},
	}})
	var at []string
	for _, p := range n.peers.Stats() {
		at = append(at, p.Address)
	}
	if got := strings.Join(at, " "); got != "b:1 c:2" || n.AddressOf(self, "") != "me:1" || m.Peers[2].Address != "a:1" {
		t.Errorf("peers are called at %s, this node is at %s, stored is %+v", got, n.AddressOf(self, ""), m.Peers[2])
	}
	if err := n.Hello(other(2, 1, 1)); err != nil || n.AddressOf(2, "") != "a:1" {
		t.Errorf("after its own word (%v) it is at %s", err, n.AddressOf(2, ""))
	}
}

// One peer that refuses this node is a problem; without a quorum it ends.
func TestRefusedByPeers(t *testing.T) {
	n := open(t, founded(), Options{})
	for _, node := range []nexusraft.NodeID{2, 3, self} {
		n.members = n.members.With(nexusraft.Member{
			Node: node, Replica: nexusraft.ReplicaID(node), Role: nexusraft.RoleMember,
		})
	}
	fenced := func() error { return errors.Join(nexusraft.ErrFenced) }
	if err := n.Hello(other(2, 5, 25)); err != nil {
		t.Fatal(err)
	}
	n.refusedBy(other(2, 4, 24), fenced())
	if p := n.Problem(); p != "" || n.failed != nil {
		t.Errorf("a copy of a peer is believed: %q, %v", p, n.failed)
	}
	n.refusedBy(other(2, 5, 25), fenced())
	if p := n.Problem(); !strings.Contains(p, "0000000000000002") || n.failed != nil {
		t.Errorf("refused by one of three: %q, %v", p, n.failed)
	}
	if err := n.accepted(other(2, 5, 25)); err != nil || n.Problem() != "" {
		t.Errorf("accepted again: %v, %q", err, n.Problem())
	}
	n.refusedBy(other(2, 5, 25), fenced())
	n.refusedBy(other(3, 1, 1), fenced())
	if len(n.failed) != 1 || !errors.Is(n.failed[0], nexusraft.ErrFenced) ||
		!strings.Contains(n.failed[0].Error(), "clear data and join as a new node") {
		t.Errorf("refused by two of three: %v", n.failed)
	}
}
