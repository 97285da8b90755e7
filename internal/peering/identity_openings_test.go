package peering

import (
	"errors"
	"net"
	"slices"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// An opening is stored by the first word with a peer, once, and not before (I5).
func TestOpeningCountsFromTheFirstWord(t *testing.T) {
	m := founded()
	for range 3 {
		if got := open(t, m, Options{}).Self().Incarnation; got != 4 {
			t.Errorf("an opening that has not spoken is incarnation %d, want 4", got)
		}
	}
	n := open(t, m, Options{})
	if m.writes != 0 {
		t.Errorf("%d writes before the first word", m.writes)
	}
	for range 2 {
		got, stored := n.Introduce(), m.Identity
		if got.Incarnation != 4 || stored.Incarnation != 4 || stored.Boots[0] != got.Boot || m.writes != 1 {
			t.Errorf("it says %+v, stored is %+v after %d writes", got, stored, m.writes)
		}
	}
	if got := open(t, m, Options{}).Self(); got.Incarnation != 5 || got.Earlier[0] != n.Self().Boot {
		t.Errorf("the next opening is %+v", got)
	}
}

// If the opening can't be stored, nothing is said and the node ends.
func TestOpeningThatCanNotBeStored(t *testing.T) {
	m := founded()
	n := open(t, m, Options{})
	m.err = errDisk
	if got := n.Introduce(); got.Node != 0 {
		t.Errorf("it says %+v", got)
	}
	if len(n.failed) != 1 || !errors.Is(n.failed[0], errDisk) {
		t.Errorf("its owner was told %v", n.failed)
	}
}

// TestAThousandOpeningsOfADirectory: a peer that has not met the node since knows it again.
func TestAThousandOpeningsOfADirectory(t *testing.T) {
	m := &memory{}
	o := Options{Join: []string{"a:1"}}
	met := open(t, m, o).Self().Opening()
	for range 999 {
		if err := must(Open(Options{Join: o.Join, Store: m})).Count(); err != nil {
			t.Fatal(err)
		}
	}
	n := open(t, m, o)
	if ago := n.Introduce().Incarnation - met.Incarnation; ago != 1000 {
		t.Fatalf("%d openings count, want 1000", ago)
	}
	if err := met.Check(n.Self()); err != nil {
		t.Errorf("the peer says: %v", err)
	}
}

func TestMint(t *testing.T) {
	m := &memory{}
	if _, err := Open(Options{Store: m}); !errors.Is(err, nexusraft.ErrNotFounded) || m.writes != 0 {
		t.Errorf("nothing to join: got %v after %d writes, want ErrNotFounded after none", err, m.writes)
	}
	n := open(t, m, Options{Join: []string{"a:1"}, Name: "n1"})
	if m.Identity.Node == 0 || m.Identity.Node != n.Self().Node || m.Identity.Name != "n1" || m.Identity.Incarnation != 1 {
		t.Errorf("stored is %+v", m.Identity)
	}
	n.ListenOn(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5})
	if got := n.Introduce().Address; got != "127.0.0.1:5" {
		t.Errorf("its address is %s", got)
	}
}

// Another name counts until the node has joined with one.
func TestName(t *testing.T) {
	for _, tc := range []struct {
		stored, given string
		cluster       nexusraft.ClusterID
		want          string
	}{
		{"", "b", testCluster, "b"},
		{"a", "", testCluster, "a"},
		{"a", "b", testCluster, "a"},
		{"a", "b", 0, "b"},
		{"a", "", 0, "a"},
	} {
		m := founded()
		m.Identity.Name, m.Identity.Cluster = tc.stored, tc.cluster
		if got := open(t, m, Options{Name: tc.given, Join: []string{"a:1"}}).Self().Name; got != tc.want {
			t.Errorf("%+v: got %q", tc, got)
		}
	}
}

// A directory remembers the latest boots, and no more than a handshake names.
func TestNewBoot(t *testing.T) {
	var boots []nexusraft.Boot
	for range 2 * maxBoots {
		next := newBoot(boots)
		if want := min(len(boots), maxBoots-1); next[0] == 0 || !slices.Equal(next[1:], boots[:want]) {
			t.Fatalf("got %v after %v", next, boots)
		}
		boots = next
	}
}
