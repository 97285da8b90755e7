package node_test

import (
	"context"
	"errors"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// TestRolledBackBeforeTheJoin: a copy of a member's disk from before it was admitted has the
// member's name and nothing of what it has acknowledged. It must not come back as that
// member, even to a leader that remembers nothing but the records.
func TestRolledBackBeforeTheJoin(t *testing.T) {
	t.Parallel()
	c1 := testConfig(t, "n1")
	n1 := found(t, c1)
	c2 := testConfig(t, "n2")
	disk := storage.NewMemFS()
	c2.Dir, c2.Join, c2.Storage.FS = "data", []string{n1.config.Advertise}, disk
	n, err := node.Open(c2) // mints the identity
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	copied := c2
	copied.Storage.FS = disk.CrashClone(nil, 0)

	n2 := join(t, c2, n1)
	n2.put("a", "1")
	n2.close()
	n1.close()
	start(t, n1.config)
	n2 = start(t, n2.config) // without it nobody leads
	n2.put("a", "2")

	copied.Advertise = ""
	var clone *node.Node
	for range 5 { // its incarnation is that of the member and more: somebody keeps trying
		if clone != nil {
			if err := clone.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if clone, err = node.Open(copied); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	lis := listen(t, "")
	go func() { ended <- clone.Run(ctx, lis, nil) }()
	defer func() {
		cancel()
		<-ended
	}()
	select {
	case err := <-ended:
		ended <- nil
		if !errors.Is(err, nexusraft.ErrFenced) {
			t.Errorf("the copy ended with %v, want ErrFenced", err)
		}
	case <-clone.Ready():
		t.Error("the copy was let in as the member that it was copied from")
	case <-time.After(20 * time.Second):
		t.Error("the copy is neither refused nor let in")
	}
}

// TestHelloRemembersWhoWasHere: a node that has spoken as one of the cluster's does not
// come back as one that belongs to none.
func TestHelloRemembersWhoWasHere(t *testing.T) {
	t.Parallel()
	m := found(t, testConfig(t, "n1"))
	peer := transport.Identity{Cluster: m.node.Cluster(), Node: 0x77, Incarnation: 2, Boot: 1, Address: "127.0.0.1:1"}
	stranger := peer
	stranger.Cluster, stranger.Node = 0, 0x78
	if err := m.node.Handler().Hello(stranger); err != nil {
		t.Errorf("a node that was never here: %v", err)
	}
	if err := m.node.Handler().Hello(peer); err != nil {
		t.Fatal(err)
	}
	peer.Cluster = 0
	peer.Incarnation = 9
	if err := m.node.Handler().Hello(peer); !errors.Is(err, nexusraft.ErrFenced) {
		t.Errorf("a node that was here and belongs to no cluster: %v, want ErrFenced", err)
	}
}

// TestIdleNodeEndsWithItsDisk: a failed sync ends the node, though it was not the worker's
// and there is nothing to write.
func TestIdleNodeEndsWithItsDisk(t *testing.T) {
	disk := newBreakable()
	config := testConfig(t, "n1")
	lis := listen(t, "")
	config.Dir, config.Storage.FS, config.Advertise = "data", disk, lis.Addr().String()
	if _, err := node.Init(config); err != nil {
		t.Fatal(err)
	}
	n, err := node.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx, lis, nil) }()
	m := &member{t: t, config: config, node: n, ended: ended}
	m.put("a", "1")
	disk.broken.Store(true)
	if err := n.Handler().Hello(transport.Identity{
		Cluster: n.Cluster(), Node: 0x77, Incarnation: 1, Boot: 1,
		Address: "127.0.0.1:1",
	}); err == nil {
		t.Error("a peer was stored on a broken disk")
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("Run returned nil")
		}
	case <-time.After(10 * time.Second):
		t.Error("the node goes on without its disk")
		cancel()
		<-ended
	}
}

// TestStoppedZoneSaysSo: who still holds the zone hears that it has stopped, and why.
func TestStoppedZoneSaysSo(t *testing.T) {
	t.Parallel()
	m := found(t, testConfig(t, "n1"))
	z := m.zone()
	_, err := z.ProposeOnce(t.Context(), nexusraft.RequestID{}, []byte("panic"))
	if !errors.Is(err, nexusraft.ErrUncertain) {
		t.Fatalf("propose of a command that panics: %v, want ErrUncertain", err)
	}
	_, err = z.ProposeOnce(t.Context(), nexusraft.RequestID{}, []byte("a=1"))
	if !errors.Is(err, nexusraft.ErrClosed) || errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("propose to a zone that has stopped: %v, want ErrClosed alone", err)
	}
	mentions(t, err, "panicked")
	_, err = z.Status(t.Context())
	mentions(t, err, "panicked")
}
