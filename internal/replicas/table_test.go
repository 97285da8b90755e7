package replicas_test

import (
	"errors"
	"slices"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/events"
	"github.com/nexi-lab/nexus-raft/internal/replicas"
	"github.com/nexi-lab/nexus-raft/storage"
)

// peers notes what the table tells it.
type peers struct {
	connected int
	removed   []nexusraft.NodeID
}

func (p *peers) Connect(nexusraft.Membership)     { p.connected++ }
func (p *peers) Removed(node nexusraft.NodeID)    { p.removed = append(p.removed, node) }
func (p *peers) took() (nodes []nexusraft.NodeID) { nodes, p.removed = p.removed, nil; return nodes }

func with(nodes ...nexusraft.NodeID) replicas.Known {
	k := replicas.Known{Events: new(events.Notifier), Applied: new(events.Notifier)}
	for _, n := range nodes {
		k.Members.Members = append(k.Members.Members, nexusraft.Member{Replica: nexusraft.ReplicaID(n), Node: n})
	}
	return k
}

func notified(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// A zone that is not here passes by itself until the node has opened its zones, and not after that.
func TestMissing(t *testing.T) {
	ready := make(chan struct{})
	table := replicas.NewTable(nil, &peers{}, ready)
	for _, want := range []error{nexusraft.ErrOverloaded, nexusraft.ErrZoneNotFound} {
		_, err := table.View(2)
		err2 := table.Read(2, func(nexusraft.Reader) error { return nil })
		for _, err := range []error{err, err2, table.Absent(2)} {
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
		if want == nexusraft.ErrOverloaded {
			close(ready)
		}
	}
}

// A zone that has stopped says why, wakes its subscribers, and is still among the node's zones.
func TestFail(t *testing.T) {
	table := replicas.NewTable(nil, &peers{}, nil)
	k, cause := with(1), errors.New("the state machine panicked")
	table.Publish(2, k)
	if _, err := table.View(2); err != nil || table.Stopped(2) || table.Problem() != "" {
		t.Fatalf("before it stops: %v, stopped %v, problem %q", err, table.Stopped(2), table.Problem())
	}
	waits := k.Events.Wait()
	table.Fail(2, cause)
	_, err := table.View(2)
	err2 := table.Read(2, func(nexusraft.Reader) error { return nil })
	for _, err := range []error{err, err2, table.Absent(2)} {
		if !errors.Is(err, nexusraft.ErrClosed) || !errors.Is(err, cause) {
			t.Errorf("got %v, want ErrClosed and the cause", err)
		}
	}
	if !table.Stopped(2) || table.Problem() != err.Error() || !table.Has(2) || !notified(waits) {
		t.Errorf("stopped %v, problem %q, has %v, notified %v", table.Stopped(2), table.Problem(), table.Has(2),
			notified(waits))
	}
	if table.Publish(2, k); table.Stopped(2) {
		t.Error("it runs again, and is still said to have stopped")
	}
}

// A peer is one for as long as it shares a zone with the node.
func TestPeers(t *testing.T) {
	p := &peers{}
	table := replicas.NewTable(nil, p, nil)
	table.Publish(nexusraft.RootZone, with(1, 2, 3))
	table.Publish(2, with(1, 3))
	if got := p.took(); p.connected != 2 || got != nil {
		t.Errorf("connected %d times, removed %v", p.connected, got)
	}
	table.Publish(nexusraft.RootZone, with(1))
	if got := p.took(); !slices.Equal(got, []nexusraft.NodeID{2}) {
		t.Errorf("without 2 and 3 in the root zone %v are removed, want 2", got)
	}
	if got := table.ZonesWith(3); !slices.Equal(got, []nexusraft.ZoneID{2}) {
		t.Errorf("zones with 3: %v", got)
	}
	if got := table.ZonesWith(1); !slices.Equal(got, []nexusraft.ZoneID{2}) {
		t.Errorf("zones with 1, the root zone left out: %v", got)
	}
	k, _ := table.View(2)
	waits := k.Events.Wait()
	if !table.Withdraw(2) || table.Withdraw(2) || table.Has(2) || !notified(waits) {
		t.Error("the zone was not withdrawn once, or nothing heard of it")
	}
	if got := p.took(); !slices.Equal(got, []nexusraft.NodeID{3}) {
		t.Errorf("without zone 2 %v are removed, want 3", got)
	}
}

// A reader sees one moment, and the tree that the zone has switched to by then.
func TestRead(t *testing.T) {
	store, err := storage.Open("s", &storage.Options{FS: storage.NewMemFS()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	table := replicas.NewTable(store, &peers{}, nil)
	for _, name := range []string{"first", "second"} {
		tree, err := store.Tree(name)
		if err == nil {
			err = tree.Set([]byte("k"), []byte(name))
		}
		if err != nil {
			t.Fatal(err)
		}
		k := with(1)
		k.State = tree
		table.Lock()
		table.PublishLocked(2, k)
		table.Unlock()
		err = table.Read(2, func(r nexusraft.Reader) error {
			if err := tree.Set([]byte("k"), []byte("later")); err != nil {
				return err
			}
			got, ok, err := r.Get([]byte("k"))
			if string(got) != name || !ok {
				t.Errorf("got %q, %v, want %q", got, ok, name)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}
