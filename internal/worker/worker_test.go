package worker

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"strings"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/raftwire"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Two snapshots may wait for one round: after a stall, or from two leaders. The one that
// raft takes is installed, whatever came after it.
func TestSnapshotsOfOneRound(t *testing.T) {
	for _, x := range []struct {
		name    string
		indexes []nexusraft.Index
		from    []nexusraft.NodeID
		want    int // which one is installed
	}{
		{"older second", []nexusraft.Index{20, 15}, []nexusraft.NodeID{leaderNode, leaderNode}, 0},
		{"newer second", []nexusraft.Index{15, 20}, []nexusraft.NodeID{leaderNode, leaderNode}, 1},
		{"refused second", []nexusraft.Index{20, 21}, []nexusraft.NodeID{leaderNode, 0x66}, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			w, h := admittedWorker(t)
			var in []arrived
			for i, index := range x.indexes {
				in = append(in, snapshotAt(t, w, x.from[i], index))
				in[i].offer(t, w)
			}
			w.loop.Drain()
			if _, err := w.Turn(); err != nil {
				t.Fatalf("round with two snapshots: %v", err)
			}
			for i, m := range in {
				err := answered(t, fmt.Sprint("snapshot ", i), m.received.Ended())
				if (err == nil) != (i == x.want) {
					t.Errorf("snapshot %d ended with %v", i, err)
				}
			}
			if h.state != in[x.want].received.Tree || h.log.Applied() != x.indexes[x.want] {
				t.Errorf("state is %s at %d, want %s at %d", h.state.Name(), h.log.Applied(), in[x.want].received.Tree.Name(),
					x.indexes[x.want])
			}
		})
	}
}

// Who waits for a snapshot to be taken up waits without a deadline: it must always hear.
func TestSnapshotOfAStoppingZone(t *testing.T) {
	t.Run("the disk fails", func(t *testing.T) {
		w, _ := admittedWorker(t)
		m := snapshotAt(t, w, leaderNode, 20)
		if err := w.o.Dir.Store.Close(); err != nil {
			t.Fatal(err)
		}
		m.offer(t, w)
		if err := w.run(make(chan struct{})); !errors.Is(err, nexusraft.ErrClosed) {
			t.Fatalf("run with a closed store: %v, want ErrClosed", err)
		}
		if err := answered(t, "snapshot", m.received.Ended()); !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("the snapshot ended with %v, want ErrClosed", err)
		}
	})
	t.Run("the zone fails", func(t *testing.T) {
		w, h := admittedWorker(t)
		m := snapshotAt(t, w, leaderNode, 20)
		m.offer(t, w)
		w.loop.Drain()
		w.fail(h, errors.New("as a state machine does"))
		if err := answered(t, "snapshot", m.received.Ended()); !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("the snapshot ended with %v, want ErrClosed", err)
		}
	})
}

// raft panics where its log contradicts itself. Whoever waited in the same round is told.
func TestPanicWhileDraining(t *testing.T) {
	w, h := admittedWorker(t)
	calls := make(chan error, 2)
	vote := raftwire.NewWaiter(transport.Vote{Zone: h.id})
	p := propose.New(h.id)
	err := errors.Join(
		w.inbox.Call(func(err error) {
			if err == nil {
				panic("raft: out of range")
			}
			calls <- err
		}),
		w.inbox.Call(func(err error) { calls <- err }),
		w.put(p),
	)
	if err != nil {
		t.Fatal(err)
	}
	w.inbox.Put([]driver.Inbound{{
		Zone: h.id, From: leaderNode, Vote: vote,
		Message: raftwire.NewWaiter(transport.Vote{From: leaderReplica, To: selfReplica, Term: 3}).Message(),
	}})
	if err := w.run(make(chan struct{})); !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Errorf("run: %v, want ErrCorrupt", err)
	}
	for range 2 {
		if err := answered(t, "call", calls); !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("a call was answered %v, want ErrClosed", err)
		}
	}
	if a := answerOf(t, "proposal", p); !errors.Is(a.err, nexusraft.ErrClosed) {
		t.Errorf("the proposal was answered %v, want ErrClosed", a.err)
	}
	answered(t, "vote", vote.Done())
}

var errBadBlock = errors.New("bad block")

// badBlocks is a tree that can't be read.
type badBlocks struct{}

func (badBlocks) Get([]byte) ([]byte, bool, error) { return nil, false, errBadBlock }

func (badBlocks) Scan(_, _ []byte) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) { yield(nexusraft.Pair{}, errBadBlock) }
}

func (b badBlocks) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return b.Scan(start, end)
}

// A disk that can't be read while a command is applied ends the node, not just the zone.
func TestUnreadableStateEndsTheWorker(t *testing.T) {
	w := newIdleWorker(t, false)
	h := host(t, w)
	if err := h.replica.Campaign(); err != nil {
		t.Fatal(err)
	}
	ended, stop := make(chan error, 1), make(chan struct{})
	go func() { ended <- w.run(stop) }()
	propose := func() error {
		_, err := w.ask.Propose(t.Context(), transport.Proposal{Zone: h.id, Command: []byte("k")})
		return err
	}
	err := propose()
	deadline := time.Now().Add(10 * time.Second)
	for errors.Is(err, nexusraft.ErrNotLeader) && time.Now().Before(deadline) {
		err = propose()
	}
	_, bad := ask(t.Context(), w.worker, h.id, func(g *group) (struct{}, error) {
		g.overlay = storage.NewOverlay(badBlocks{})
		return struct{}{}, nil
	})
	if err != nil || bad != nil {
		t.Fatal(err, bad)
	}
	if err = propose(); !errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("propose: %v, want ErrUncertain", err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, errBadBlock) {
			t.Errorf("the worker ended with %v, want %v", err, errBadBlock)
		}
	case <-time.After(5 * time.Second):
		t.Error("the worker goes on with a disk that can't be read")
		close(stop)
		<-ended
	}
}

// Reads that nobody waits for any more don't pile up while there is no leader.
func TestAbandonedReadsAreForgotten(t *testing.T) {
	w, h := admittedWorker(t)
	for range 40 {
		for range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- w.ask.Confirm(ctx, h.id) }()
			<-w.inbox.Woken()
			w.loop.Drain()
			cancel()
			if err := <-ended; !errors.Is(err, nexusraft.ErrNoQuorum) {
				t.Fatalf("read without a leader: %v, want ErrNoQuorum", err)
			}
		}
		h.tick()
		if _, err := w.Turn(); err != nil {
			t.Fatal(err)
		}
	}
	if got := h.group.Reads(); got > 100 {
		t.Errorf("%d reads are kept for callers that have gone", got)
	}
}

// A caller that has gone leaves no snapshot behind, which would keep what is deleted later.
func TestAbandonedChecksumKeepsNoSnapshot(t *testing.T) {
	w, h := admittedWorker(t)
	open := func() int { return reflect.ValueOf(w.o.Dir.Store).Elem().FieldByName("snapshots").Len() }
	for range 50 { // either end of the call may come first
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := w.ask.Checksum(ctx, h.id)
			ended <- err
		}()
		<-w.inbox.Woken()
		cancel()
		w.loop.Drain()
		<-ended
	}
	if got := open(); got != 0 {
		t.Errorf("%d snapshots are open and nobody's", got)
	}
}

func TestZoneWithoutStateIsNamed(t *testing.T) {
	w := newIdleWorker(t, false)
	names, err := w.o.Dir.Store.Trees()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "zone/") {
			if err := w.o.Dir.Store.DropTree(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err = openGroup(w.worker, nexusraft.RootZone, "")
	if !errors.Is(err, nexusraft.ErrCorrupt) || strings.Contains(err.Error(), "%!") {
		t.Errorf("a zone without its state: %v", err)
	}
}

// TestCallsThatAreLeftWakeTheWorker: where zones take turns, nothing else may come that wakes it.
func TestCallsThatAreLeftWakeTheWorker(t *testing.T) {
	w := newIdleWorker(t, false)
	for i := range 201 {
		p := propose.New(nexusraft.ZoneID(7 + i/200)) // of zones that there are not
		if err := w.put(p); err != nil {
			t.Fatal(err)
		}
	}
	turns := 0
	for ; len(w.inbox.Woken()) > 0; turns++ {
		<-w.inbox.Woken()
		w.loop.Drain()
	}
	if left := len(w.proposals.Close()); left != 0 || turns < 3 {
		t.Errorf("after %d turns nothing wakes the worker, and %d calls wait", turns, left)
	}
}
