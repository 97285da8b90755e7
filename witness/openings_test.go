package witness

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/transport"
)

// opened is a witness of a directory; it does not run.
func opened(t *testing.T, f FS, dir string, join ...string) *Witness {
	t.Helper()
	w, err := Open(Config{Dir: dir, FS: f, Join: join})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// An opening is stored once it speaks to a peer, and not before (I5).
func TestOpeningsThatSpeakCount(t *testing.T) {
	f := NewMemFS()
	var first transport.Identity
	for i, speaks := range []bool{true, false, false, true} {
		w := opened(t, f, "w", "a:1")
		self := w.peering.Self()
		if i == 0 {
			first = self
		}
		if want := first.Incarnation + nexusraft.Incarnation([]int{0, 1, 1, 1}[i]); self.Incarnation != want {
			t.Errorf("opening %d is incarnation %d, want %d", i, self.Incarnation, want)
		}
		if speaks {
			must(w.peering.Count())
		}
		must(w.Close())
	}
}

// TestForgetLives: a peer that was refused as a copy is met again, and where it was is kept.
func TestForgetLives(t *testing.T) {
	f := NewMemFS()
	w := opened(t, f, "w", "a:1")
	peer := peering.Peer{Opening: transport.Opening{Incarnation: 7, Boot: 3}, Address: "a:1"}
	must(store{w.keeper, w}.Save(peering.RecordChange{Node: 1, Peer: &peer}))
	must(w.Close())
	if forgotten, err := ForgetLives(f, "w"); err != nil || forgotten != 1 {
		t.Fatalf("got %d, %v", forgotten, err)
	}
	w = opened(t, f, "w", "a:1")
	r, err := store{w.keeper, w}.Load()
	want := map[nexusraft.NodeID]peering.Peer{1: {Address: "a:1"}}
	if diff := cmp.Diff(want, r.Peers); diff != "" || err != nil {
		t.Errorf("known peers (-want +got), %v:\n%s", err, diff)
	}
}

// TestRecordedDirectory reads the identity file of an earlier release (1ab675e), and writes it byte
// by byte as that did.
func TestRecordedDirectory(t *testing.T) {
	f := NewMemFS()
	must(f.MkdirAll("w"))
	for _, name := range []string{"identity.a", "identity.b"} {
		content, err := os.ReadFile(filepath.Join("testdata", "directory", name))
		must(err)
		file, err := f.Create(filepath.Join("w", name))
		must(err)
		must(writeSynced(file, content))
	}
	_, before, err := openSlots(f, "w", identityName)
	must(err)
	k, exists, err := openKeeper(f, "w")
	if err != nil || !exists {
		t.Fatalf("got %t, %v", exists, err)
	}
	s := store{k, nil}
	r, err := s.Load()
	c := r.Credentials
	if err != nil || len(c.Cert) == 0 || len(c.Key) == 0 || len(c.Roots) == 0 {
		t.Errorf("credentials: %+v, %v", c, err)
	}
	want := peering.Records{
		Identity: peering.Identity{
			Node: 0x66d90579a2a27723, Name: "w1", Cluster: 0xc1, Incarnation: 3,
			Boots: []nexusraft.Boot{0xbe64f4b017dadd23, 0xf2456245533e7b1f, 0xb828196ef53c893f},
		},
		Peers: map[nexusraft.NodeID]peering.Peer{
			0x10: {Opening: transport.Opening{Incarnation: 6, Boot: 8}, Address: "n1.example:2026"},
			0x20: {Opening: transport.Opening{Incarnation: 9, Boot: 77}, Address: "[::1]:2026"},
		},
		Credentials: peering.Credentials{
			Cert: c.Cert, Key: c.Key, Roots: c.Roots, Step: 2, Former: [][]byte{[]byte("0123456789abcdef0123456789abcdef")},
		},
		TLSMode: peering.ClustersOwn,
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if r := k.stored(); !r.Files || len(r.Zones) != 1 || r.Zones[0] != 1 {
		t.Errorf("record: %+v", r)
	}
	must(s.Save(peering.RecordChange{Identity: &r.Identity, Credentials: &c, TLSMode: &r.TLSMode}))
	for node, p := range r.Peers {
		must(s.Save(peering.RecordChange{Node: node, Peer: &p}))
	}
	_, after, err := openSlots(f, "w", identityName)
	if diff := cmp.Diff(string(before), string(after)); diff != "" || err != nil {
		t.Errorf("the record was rewritten (-was +is), %v:\n%s", err, diff)
	}
}
