package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/raftwire"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// A zone's ID says which worker has it, the root zone's is the first, and what comes for a zone goes there.
func TestZonesAreDividedAmongWorkers(t *testing.T) {
	const workers = 3
	w := foundingWorkers(t, workers, storage.NewMemFS())
	ids := []nexusraft.ZoneID{1, 5, 2, 2, 3, 7, 6, 8, 0}
	votes, in := make([]*raftwire.Waiter, len(ids)), make([]driver.Inbound, len(ids))
	for i, id := range ids {
		votes[i] = raftwire.NewWaiter(transport.Vote{Zone: id})
		in[i] = driver.Inbound{Zone: id, Message: votes[i].Message(), Vote: votes[i]}
	}
	if n := w.ask.Inbox().Put(in); n != len(in) {
		t.Fatalf("%d of %d messages found room", n, len(in))
	}
	has := make([]int, workers)
	for place, x := range w.ask.workers {
		x.loop.Drain()
		w.turns(t)
		for i, id := range ids {
			answered, mine := len(votes[i].Done()) > 0, x.has(id)
			if mine {
				has[place]++
			}
			if answered != (w.ask.of(id).place <= place) || mine != (w.ask.of(id) == x) {
				t.Errorf("zone %v after the inbox of worker %d: answered %v, its own %v", id, place, answered, mine)
			}
		}
	}
	if w.ask.of(nexusraft.RootZone) != w.worker || slices.Min(has) < 2 {
		t.Errorf("the workers have %v of the zones %v", has, ids)
	}
}

// Votes that find no room are answered all the same, whichever worker they are for.
func TestVotesWithoutRoom(t *testing.T) {
	w := foundingWorkers(t, 2, storage.NewMemFS())
	some := make([]driver.Inbound, inboxBounds.Messages)
	for i := range some {
		some[i] = driver.Inbound{Zone: 2, Message: &raftpb.Message{}}
	}
	if n := w.ask.Inbox().Put(some); n != inboxBounds.Messages/2 {
		t.Errorf("one of two workers takes %d messages, want half of %d", n, inboxBounds.Messages)
	}
	vote, other := raftwire.NewWaiter(transport.Vote{Zone: 2}), raftwire.NewWaiter(transport.Vote{Zone: 1})
	n := w.ask.Inbox().Put([]driver.Inbound{
		{Zone: 2, Message: vote.Message(), Vote: vote}, {Zone: 1, Message: other.Message(), Vote: other},
	})
	if n != 1 || len(vote.Done()) != 1 || len(other.Done()) != 0 {
		t.Errorf("%d have found room, answered are %d and %d, want 1, 1, 0", n, len(vote.Done()), len(other.Done()))
	}
}

// Proposals have one bound on a node, however many workers it has.
func TestProposalsAreBoundedForAllWorkers(t *testing.T) {
	w := foundingWorkers(t, 3, storage.NewMemFS())
	command := make([]byte, nexusraft.MaxCommandBytes)
	took := 0
	var err error
	for ; err == nil && took < 1<<12; took++ {
		p := propose.New(nexusraft.ZoneID(2 + took%3))
		p.Command = command // which all of them share
		err = w.put(p)
	}
	if !errors.Is(err, nexusraft.ErrOverloaded) {
		t.Fatalf("after %d commands: %v, want ErrOverloaded", took, err)
	}
	for id := range nexusraft.ZoneID(3) {
		p := propose.New(20 + id)
		p.Command = command
		if err := w.put(p); !errors.Is(err, nexusraft.ErrOverloaded) {
			t.Errorf("one more, to another zone, on worker %d: %v, want ErrOverloaded", w.ask.of(20+id).place, err)
		}
	}
}

// signals is a network that counts signals of the node's life.
type signals struct {
	raftwire.Network
	n atomic.Int64
}

func (s *signals) Send(_ nexusraft.NodeID, _ transport.Class, m transport.Message) {
	if m.Zone == 0 {
		s.n.Add(1)
	}
}

// beating has workers that know a peer, and what they say to it.
func beating(t *testing.T, workers int) (*idleWorker, *signals) {
	t.Helper()
	w, s := foundingWorkers(t, workers, storage.NewMemFS()), new(signals)
	_, known := w.o.Peering.Minor(leaderNode)
	err := w.o.Peering.Hello(transport.Identity{
		Cluster: w.o.Peering.Self().Cluster, Node: leaderNode, Incarnation: 1, Boot: 1, Address: "127.0.0.1:1",
		Minor: transport.MinorVersion,
	})
	if err != nil || known {
		t.Fatal(err, known)
	}
	w.shared.root.Store(&rootRecords{
		members: w.zones[nexusraft.RootZone].current().Members, peers: []nexusraft.NodeID{leaderNode},
	})
	for _, x := range w.ask.workers {
		x.out.Network, x.root = s, w.shared.root.Load()
	}
	return w, s
}

// A node says that it lives once for each tick of all workers: one that does not tick makes it silent.
func TestStuckWorkerMakesTheNodeSilent(t *testing.T) {
	w, s := beating(t, 3)
	all := w.ask.workers
	for i := range 10 {
		for _, x := range all {
			x.Tick(nil)
		}
		if n := s.n.Load(); n != int64(i+1) {
			t.Fatalf("%d signals after %d ticks of all workers", n, i+1)
		}
	}
	for stuck := range all {
		before := s.n.Load()
		for range 10 {
			for i, x := range all {
				if i != stuck {
					x.Tick(nil)
				}
			}
		}
		if n := s.n.Load() - before; n != 0 {
			t.Errorf("while worker %d is stuck: %d signals", stuck, n)
		}
		all[stuck].Tick(nil)
		if n := s.n.Load() - before; n != 1 {
			t.Errorf("when worker %d goes on: %d signals, want 1", stuck, n)
		}
	}
}

// While a worker is stuck the other nodes don't hear this one: the zones that other workers lead do not sleep,
// before the others notice.
func TestStuckWorkerKeepsLeadersAwake(t *testing.T) {
	w := foundingWorkers(t, 2, storage.NewMemFS())
	w.does(t, raise())
	w.does(t, create("one", w.ID()), create("two", w.ID()))
	other := w.ask.workers[1]
	asleep := func() bool { return w.zones[nexusraft.RootZone].replica.Asleep() }
	tick := func(ws ...*worker) {
		for _, x := range ws {
			x.Tick(nil)
		}
		w.turns(t)
	}
	fallAsleep := func() {
		for range 200 {
			if tick(other, w.worker); asleep() {
				return
			}
		}
		t.Fatal("the root zone does not sleep")
	}
	fallAsleep()
	for range w.patience - 1 {
		if tick(w.worker); !asleep() {
			t.Fatal("the zone wakes before its time")
		}
	}
	for range 100 {
		w.Tick(nil)
		if asleep() {
			t.Fatal("the zone sleeps while the node is silent")
		}
		w.turns(t)
	}
	fallAsleep()
}

// What one worker says of the node's zones changes the signal that all have, and wakes the leaders of all.
func TestSignalOfAllWorkers(t *testing.T) {
	w := foundingWorkers(t, 2, storage.NewMemFS())
	w.does(t, raise())
	w.does(t, create("one", w.ID()), create("two", w.ID()))
	for range 200 {
		for _, x := range w.ask.workers {
			x.Tick(nil)
		}
		w.turns(t)
	}
	root, g := w.zones[nexusraft.RootZone], w.hosted()[2]
	if !root.replica.Asleep() || g.w == w.worker {
		t.Fatalf("the root zone is asleep: %v; zone 2 is on worker %d", root.replica.Asleep(), g.w.place)
	}
	before := w.neighbors.Own()
	g.w.fail(g, errors.New("as a state machine does"))
	if now := w.neighbors.Own(); now.Changes != before.Changes+1 || now != g.w.neighbors.Own() {
		t.Errorf("the signal was %v, and is %v and %v", before, now, g.w.neighbors.Own())
	}
	if w.Tick(nil); root.replica.Asleep() {
		t.Error("the root zone, which this node leads, sleeps on")
	}
}

// runs has the workers run until the test ends, or the function is called, which returns what Run has.
func (w *idleWorker) runs(t testing.TB) (stop func() error) {
	t.Helper()
	for _, x := range w.ask.workers {
		x.batch.Close() // Run makes its own
	}
	end, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- w.ask.Run(end) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		close(end)
		return await(t, "the end of the workers", ended)
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// await waits for what a channel brings.
func await[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(5 * time.Minute):
		t.Fatalf("%s does not come", what)
	}
	return v
}

// openedOn opens what a disk has with so many running workers.
func openedOn(t *testing.T, workers int, disk storage.FS) (w *idleWorker, stop func() error) {
	t.Helper()
	w, err := reopenWith(workers, disk, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	stop = w.runs(t)
	if err := w.ask.OpenZones(); err != nil {
		t.Fatal(err)
	}
	close(w.ready)
	return w, stop
}

// proposes has commands of the nodes done by running workers.
func (w *idleWorker) proposes(t testing.TB, commands ...*pb.NodeCommand) {
	t.Helper()
	var calls []*propose.Call
	for _, c := range commands {
		data, err := proto.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		p := propose.New(nexusraft.RootZone)
		p.Own, p.Command = true, data
		if err := w.put(p); err != nil {
			t.Fatal(err)
		}
		calls = append(calls, p)
	}
	for _, p := range calls {
		if _, err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitZones waits until the node has so many zones, and leads them all.
func (w *idleWorker) awaitZones(t testing.TB, n int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Minute)
	for {
		has, led := len(w.o.Replicas.Zones()), 0
		if has == n {
			led = w.led(t)
		}
		if led == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("there are %d zones of which %d are led, want %d", has, led, n)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A worker that stands still hides no zones of the others from the node's status.
func TestStatusBesideAStuckWorker(t *testing.T) {
	w := foundingWorkers(t, 2, storage.NewMemFS())
	stop, ended := make(chan struct{}), make(chan error)
	go func() { ended <- w.ask.workers[0].run(stop) }() // and not the other one
	defer func() {
		close(stop)
		<-ended
	}()
	all, err := w.ask.Statuses(t.Context(), 0)
	if !errors.Is(err, driver.ErrNoAnswer) || len(all) != 1 || all[0].Zone != nexusraft.RootZone {
		t.Errorf("got %+v, %v, want the root zone, and %v", all, err, driver.ErrNoAnswer)
	}
}

// led returns how many zones the node leads.
func (w *idleWorker) led(t testing.TB) (led int) {
	t.Helper()
	all, err := w.ask.Statuses(t.Context(), 0)
	if err != nil && !errors.Is(err, driver.ErrNoAnswer) {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.State == nexusraft.Leader {
			led++
		}
	}
	return led
}

// Many zones are made, used and dropped by several workers, and opened by another number of them: the
// directory knows nothing of that.
func TestManyZonesOnSeveralWorkers(t *testing.T) {
	const zones = manyZones
	disk := storage.NewMemFS()
	found(t, disk)
	w, stop := openedOn(t, 3, disk)
	w.awaitZones(t, 1)
	w.proposes(t, raise())
	var made, deleted []*pb.NodeCommand
	for i := range zones {
		made = append(made, create(fmt.Sprint("z", i), w.ID()))
		deleted = append(deleted, deletion(nexusraft.ZoneID(2+i), fmt.Sprint("z", i)))
	}
	w.proposes(t, made...)
	w.awaitZones(t, zones+1)
	for _, workers := range []int{1, 4} {
		if err := errors.Join(stop(), w.Close()); err != nil {
			t.Fatal(err)
		}
		w, stop = openedOn(t, workers, disk)
		w.awaitZones(t, zones+1)
	}
	for id := range nexusraft.ZoneID(zones) {
		if _, err := w.ask.Propose(t.Context(), transport.Proposal{Zone: 2 + id, Command: []byte("k")}); err != nil {
			t.Fatalf("zone %v: %v", 2+id, err)
		}
	}
	some, err := w.ask.Statuses(t.Context(), 3)
	if err != nil || len(some) != 2 || some[0].Zone != nexusraft.RootZone || some[1].Zone != 3 {
		t.Errorf("the status of zone 3 is %v, %v", some, err)
	}
	w.proposes(t, deleted[:zones-1]...)
	w.awaitZones(t, 2)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.checkHosted(t)
}

// A worker that can't go on ends all of them, with its error; what waits for the others ends, too.
func TestWorkersEndTogether(t *testing.T) {
	for failing := range 2 {
		t.Run(fmt.Sprint("worker ", failing), func(t *testing.T) {
			disk := storage.NewMemFS()
			found(t, disk)
			w, err := reopenWith(2, disk, false, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			for _, x := range w.ask.workers {
				x.batch.Close()
			}
			ended := make(chan error, 1)
			go func() { ended <- w.ask.Run(nil) }()
			if err := w.ask.OpenZones(); err != nil {
				t.Fatal(err)
			}
			close(w.ready)
			w.awaitZones(t, 1)
			read := make(chan error, 1)
			go func() { read <- w.ask.ConfirmIndex(t.Context(), nexusraft.RootZone, 1<<40) }()
			for w.reads(t) == 0 {
				time.Sleep(time.Millisecond)
			}
			release, fails := make(chan struct{}), w.ask.workers[failing]
			err = errors.Join(
				w.ask.workers[1-failing].inbox.Call(func(error) { <-release }),
				fails.inbox.Call(func(err error) {
					if err == nil {
						panic("raft: out of range")
					}
				}),
			)
			if err != nil {
				t.Fatal(err)
			}
			for !fails.inbox.Closed() {
				time.Sleep(time.Millisecond)
			}
			if len(ended) > 0 {
				t.Error("Run has returned before each worker has ended")
			}
			close(release)
			if err := await(t, "the end", ended); !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Errorf("the workers ended with %v, want ErrCorrupt", err)
			}
			if err := await(t, "the read", read); !errors.Is(err, nexusraft.ErrClosed) {
				t.Errorf("a read of the root zone ended with %v, want ErrClosed", err)
			}
			for id := range nexusraft.ZoneID(4) {
				if _, err := w.ask.Status(t.Context(), id); !w.ask.Ended(id) || !errors.Is(err, nexusraft.ErrClosed) {
					t.Errorf("zone %v: ended %v, status %v", id, w.ask.Ended(id), err)
				}
			}
		})
	}
}

// reads returns how many reads wait in the root zone.
func (w *idleWorker) reads(t *testing.T) (n int) {
	t.Helper()
	n, err := driver.Ask(t.Context(), w.inbox, func(error) int { return w.zones[nexusraft.RootZone].group.Reads() })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The root zone stops on this node while other workers are about to see to what has come of its records: they
// leave it, and go on.
func TestRootZoneStopsBesideOtherWorkers(t *testing.T) {
	w := foundingWorkers(t, 2, storage.NewMemFS())
	w.does(t, raise())
	other := w.ask.workers[1]
	call := w.asks(t, create("two", w.ID()))[0]
	w.loop.Drain()
	for busy := true; busy; { // the root zone's worker alone
		var err error
		if busy, err = w.Turn(); err != nil {
			t.Fatal(err)
		}
	}
	if a := answerOf(t, "creation", call); a.err != nil {
		t.Fatal(a.err)
	}
	w.fail(w.zones[nexusraft.RootZone], errors.New("as a state machine does"))
	if more, err := other.Turn(); more || err != nil || w.o.Replicas.Has(2) {
		t.Errorf("the other worker: more %v, %v; it has the zone: %v", more, err, w.o.Replicas.Has(2))
	}
	if err := other.readRecords(func(nexusraft.Reader) error { return nil }); !errors.Is(err, errNoRecords) {
		t.Errorf("the records are read: %v, want errNoRecords", err)
	}
}

// What was deleted while nobody looked, each worker finds for its own zones: it does not drop the data of a zone that
// another one runs.
func TestWorkersCompareTheirOwnZones(t *testing.T) {
	w := foundingWorkers(t, 2, storage.NewMemFS())
	w.does(t, raise())
	w.does(t, create("one", w.ID()), create("two", w.ID()))
	call := w.asks(t, deletion(2, "one"), deletion(3, "two"))[1]
	w.loop.Drain()
	for busy := true; busy; { // without what Turn does at its end
		var err error
		if busy, err = w.active.Turn(w.driver, nil); err != nil {
			t.Fatal(err)
		}
	}
	if a := answerOf(t, "deletion", call); a.err != nil {
		t.Fatal(a.err)
	}
	for _, x := range w.ask.workers { // as after a snapshot of the root zone
		x.told.take()
		x.told.add(zonesNews{look: true, compare: true})
	}
	if _, err := w.host(); err != nil {
		t.Fatal(err)
	}
	if known := w.o.Replicas; known.Has(3) || !known.Has(2) {
		t.Errorf("the first worker has dropped of its own zone: %v, of the other's: %v", !known.Has(3), !known.Has(2))
	}
	w.turns(t)
	w.checkHosted(t)
}

// A worker makes nothing before it has opened what the directory has.
func TestNothingIsMadeBeforeTheZonesAreOpen(t *testing.T) {
	disk := storage.NewMemFS()
	w := foundingWorkers(t, 2, disk)
	w.does(t, raise())
	w.does(t, create("one", w.ID()), create("two", w.ID()))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w, err := reopenWith(2, disk, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	dir, err := w.openRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range w.ask.workers {
		x.told.add(zonesNews{look: true}) // the root zone's worker may be as early as that
	}
	w.turns(t)
	if has := w.o.Replicas.Zones(); len(has) != 1 {
		t.Errorf("zones %v are there, though none but the root zone was opened", has)
	}
	for _, x := range w.ask.workers {
		if err := x.openZones(dir.zones); err != nil {
			t.Error(err)
		}
	}
	if w.hosted()[nexusraft.RootZone] != nil {
		t.Error("the root zone runs before the others are open: if it stops, they can't be opened by its records")
	}
	w.beginRoot(dir)
	w.turns(t)
	w.checkHosted(t)
}
