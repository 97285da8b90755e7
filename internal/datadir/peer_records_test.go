package datadir

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

func openDir(t *testing.T) *Dir {
	t.Helper()
	d, err := Open("data", &storage.Options{FS: storage.NewMemFS()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// TestRecordedRecords reads the records of an earlier release (1ab675e), and writes them byte by byte
// as that did.
func TestRecordedRecords(t *testing.T) {
	content, err := os.ReadFile("testdata/records.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded map[string]json.RawMessage
	if err := json.Unmarshal(content, &recorded); err != nil {
		t.Fatal(err)
	}
	d := openDir(t)
	b := d.Store.NewBatch()
	defer b.Close()
	for key, value := range recorded {
		if err := b.Set(d.node, []byte(key), value); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	r, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	c := r.Credentials
	if len(c.Cert) == 0 || len(c.Key) == 0 || len(c.Roots) == 0 {
		t.Errorf("credentials: %+v", c)
	}
	want := peering.Records{
		Identity: peering.Identity{
			Node: 0x03d1c0f6b2cb516d, Name: "n1", Cluster: 0xf04eb84dfe28745d, Incarnation: 3,
			Boots: []nexusraft.Boot{0x597c16c1fac7a312, 0xf1f4259ef2714a7a, 0xc3330c9453e4e302},
		},
		Peers: map[nexusraft.NodeID]peering.Peer{
			0x20: {Opening: transport.Opening{Incarnation: 7, Boot: 4}, Address: "n2.example:2026"},
			0x30: {Opening: transport.Opening{Incarnation: 9, Boot: 77}, Address: "[::1]:2027"},
		},
		Credentials: peering.Credentials{
			Cert: c.Cert, Key: c.Key, Roots: c.Roots, Step: 2, Former: [][]byte{[]byte("0123456789abcdef0123456789abcdef")},
		},
		TLSMode: peering.ClustersOwn,
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	changes := []peering.RecordChange{{Identity: &r.Identity}, {Credentials: &c}, {TLSMode: &r.TLSMode}}
	for node, p := range r.Peers {
		changes = append(changes, peering.RecordChange{Node: node, Peer: &p})
	}
	for _, c := range changes {
		if err := d.Save(c); err != nil {
			t.Fatal(err)
		}
	}
	for key, value := range recorded {
		got, _, err := d.node.Get([]byte(key))
		if diff := cmp.Diff(string(value), string(got)); diff != "" || err != nil {
			t.Errorf("the record %s was rewritten (-was +is), %v:\n%s", key, err, diff)
		}
	}
}

// TestBadIdentityIsNamed: an identity that names no node is corrupt, and the error says what is.
func TestBadIdentityIsNamed(t *testing.T) {
	d := openDir(t)
	b := d.Store.NewBatch()
	defer b.Close()
	if err := errors.Join(b.Set(d.node, identityKey, []byte(`{"node":"0"}`)), b.Commit(true)); err != nil {
		t.Fatal(err)
	}
	_, err := d.Load()
	if !errors.Is(err, nexusraft.ErrCorrupt) || strings.Contains(err.Error(), "%!") {
		t.Errorf("got %v", err)
	}
}
