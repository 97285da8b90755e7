package worker

import (
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/storage"
)

// keeping is a state machine that keeps each command as a key.
type keeping struct{}

func (keeping) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	return nil, tx.Set(cmd.Data, []byte("x"))
}

func raise() *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_RaiseClusterVersion{
		RaiseClusterVersion: &pb.RaiseClusterVersion{Minor: system.ZonesVersion},
	}}
}

func create(name string, nodes ...nexusraft.NodeID) *pb.NodeCommand {
	c := &pb.CreateZone{Name: name, Machine: "keeping"}
	slices.Sort(nodes)
	for _, id := range nodes {
		c.Nodes = append(c.Nodes, &pb.Member{Node: uint64(id), Address: "127.0.0.1:1", Role: pb.Role_ROLE_MEMBER})
	}
	return &pb.NodeCommand{Kind: &pb.NodeCommand_CreateZone{CreateZone: c}}
}

func deletion(id nexusraft.ZoneID, name string) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_DeleteZone{DeleteZone: &pb.DeleteZone{Id: uint64(id), Name: name}}}
}

// asks has commands of the nodes wait for the root zone; all of them are taken by one round.
func (w *idleWorker) asks(t *testing.T, commands ...*pb.NodeCommand) (calls []*propose.Call) {
	t.Helper()
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
	return calls
}

// does has commands of the nodes done.
func (w *idleWorker) does(t *testing.T, commands ...*pb.NodeCommand) {
	t.Helper()
	calls := w.asks(t, commands...)
	w.turnWith(t)
	for i, p := range calls {
		if a := answerOf(t, "command", p); a.err != nil {
			t.Fatalf("%v: %v", commands[i], a.err)
		}
	}
}

// foundingWorker is that of a node on a disk whose root zone it leads alone.
func foundingWorker(t *testing.T, disk storage.FS) *idleWorker {
	t.Helper()
	return foundingWorkers(t, 1, disk)
}

// foundingWorkers is foundingWorker with so many workers.
func foundingWorkers(t *testing.T, workers int, disk storage.FS) *idleWorker {
	t.Helper()
	found(t, disk)
	w, err := reopenWith(workers, disk, false, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	for _, x := range w.ask.workers {
		x.o.Logger = slog.New(slog.DiscardHandler)
	}
	close(w.ready)
	if err := w.openAll(); err != nil {
		t.Fatal(err)
	}
	w.elects(t, nexusraft.RootZone)
	return w
}

// elects has the node lead zones whose only voter it is.
func (w *idleWorker) elects(t *testing.T, ids ...nexusraft.ZoneID) {
	t.Helper()
	for _, id := range ids {
		z := w.hosted()[id].replica
		for z.LeaseTicksLeft() > 0 { // the node was started anew
			z.Tick()
		}
		if err := z.Campaign(); err != nil {
			t.Fatal(err)
		}
	}
	w.turns(t)
}

// zoneState returns the IDs of the root zone's records, as they are applied here.
func (w *idleWorker) zoneState(t *testing.T) (ids []nexusraft.ZoneID) {
	t.Helper()
	err := w.o.Replicas.Read(nexusraft.RootZone, func(r nexusraft.Reader) error {
		all, err := system.Zones(r, nexusraft.RootZone, math.MaxInt)
		for _, z := range all {
			ids = append(ids, nexusraft.ZoneID(z.GetId()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// checkHosted checks that what the node hosts, and what its disk has, is the root zone and the zones of
// its records, each once and whole, and nothing else.
func (w *idleWorker) checkHosted(t *testing.T) {
	t.Helper()
	want := append([]nexusraft.ZoneID{nexusraft.RootZone}, w.zoneState(t)...)
	onDisk, err := raftlog.Zones(w.o.Dir.Raft)
	if err != nil {
		t.Fatal(err)
	}
	hosted := slices.Sorted(maps.Keys(w.hosted()))
	if !slices.Equal(hosted, want) || !slices.Equal(onDisk, want) || !slices.Equal(w.o.Replicas.Zones(), want) {
		t.Errorf("the records have zones %v; hosted are %v, on the disk %v, known %v", want, hosted, onDisk,
			w.o.Replicas.Zones())
	}
	trees := make(map[string]bool)
	for _, id := range onDisk {
		log, err := raftlog.Open(w.o.Dir.Raft, id)
		if err != nil {
			t.Fatal(err)
		}
		m, hs := log.Meta(), log.HardState()
		last, _ := log.LastIndex()
		if self := system.ReplicaOf(id, w.ID()); id != nexusraft.RootZone && m.Replica != self ||
			!slices.Equal(m.ConfState.GetVoters(), []uint64{uint64(m.Replica)}) {
			t.Errorf("zone %v is replica %v with voters %v", id, m.Replica, m.ConfState.GetVoters())
		}
		if a := uint64(log.Applied()); a > hs.GetCommit() || hs.GetCommit() > last || a < 8 || hs.GetTerm() == 0 {
			t.Errorf("zone %v: applied %d, last %d, hard state %v", id, a, last, hs)
		}
		trees[m.StateTree] = strings.HasPrefix(m.StateTree, "zone/"+id.String()+"/")
	}
	names, err := w.o.Dir.Store.Trees()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "zone/") && !trees[name] {
			t.Errorf("the tree %s is left, or of another zone than its own", name)
		}
		delete(trees, name)
	}
	if len(trees) > 0 || w.problem() != "" {
		t.Errorf("states %v are not on the disk; the node says %q", slices.Collect(maps.Keys(trees)), w.problem())
	}
}

// promise is what a zone must still know after a crash.
type promise struct {
	term, vote, last uint64
	keys             []string
}

// crashScript is a history of zones on a disk of which copies are taken as crashes would leave it.
type crashScript struct {
	t      *testing.T
	disk   *storage.MemFS
	w      *idleWorker
	last   nexusraft.ZoneID // the newest
	writes int
	then   int // how many workers the node has after a crash
	at     atomic.Pointer[moment]

	mu     sync.Mutex // guards what follows
	rng    *rand.Rand
	clones []crashClone
	taken  int
	ops    int // of the disk so far
	stride int // at each so many of them it crashes
}

// moment is what may be found after a crash while a step of the script is under way.
type moment struct {
	zones    [][]nexusraft.ZoneID // one of these, once the log is applied
	promises map[nexusraft.ZoneID]promise
}

type crashClone struct {
	*moment
	disk *storage.MemFS
	name string
}

// onDisk takes a copy before each operation of the disk.
func (s *crashScript) onDisk(op errorfs.Op) error {
	at := s.at.Load()
	if k := op.Kind; at == nil || k != errorfs.OpFileSync && k != errorfs.OpFileSyncData && k != errorfs.OpFileWrite {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ops++; s.ops%s.stride != 0 {
		return nil
	}
	for _, percent := range []int{0, []int{100, 1 + s.rng.IntN(99)}[s.taken%2]} {
		name := fmt.Sprintf("crash %d, at %s, %d%% of what is not synced is there", s.taken, op.Path, percent)
		s.clones = append(s.clones, crashClone{at, s.disk.CrashClone(s.rng, percent), name})
	}
	s.taken++
	return nil
}

// step has the zones' commands done in one round, has the new zones elect this node and writes to them.
func (s *crashScript) step(commands ...*pb.NodeCommand) {
	s.t.Helper()
	at := *s.at.Load()
	zones := at.zones[len(at.zones)-1]
	at.zones = [][]nexusraft.ZoneID{zones}
	for _, c := range commands {
		if d := c.GetDeleteZone(); d != nil {
			zones = slices.DeleteFunc(slices.Clone(zones), func(id nexusraft.ZoneID) bool { return uint64(id) == d.GetId() })
		} else if c.GetCreateZone() != nil {
			s.last++
			zones = append(slices.Clone(zones), s.last)
		}
		at.zones = append(at.zones, zones)
	}
	s.at.Store(&at)
	s.w.does(s.t, commands...)
	s.settle(zones)
	s.w.checkHosted(s.t)
	for range electTicks {
		for _, x := range s.w.ask.workers {
			x.Tick(nil)
		}
		s.w.turns(s.t)
	}
	s.settle(zones)
	for i, id := range zones {
		if (i+1)*4 > len(zones) && i%4 == 0 || len(zones) < 4 {
			s.write(id)
		}
	}
	s.settle(zones)
	s.reopenAll()
}

// write has a zone, which the node leads, keep one more key.
func (s *crashScript) write(id nexusraft.ZoneID) {
	s.t.Helper()
	p := propose.New(id)
	s.writes++
	p.Command = fmt.Append(nil, "k", s.writes)
	if err := s.w.put(p); err != nil {
		s.t.Fatal(err)
	}
	s.w.turnWith(s.t)
	if a := answerOf(s.t, "write", p); a.err != nil {
		s.t.Fatalf("write to zone %v: %v", id, a.err)
	}
	at := *s.at.Load()
	at.promises = maps.Clone(at.promises)
	x := at.promises[id]
	x.keys = append(slices.Clone(x.keys), string(p.Command))
	at.promises[id] = x
	s.at.Store(&at)
}

// settle notes that there are these zones for certain, and what each has promised.
func (s *crashScript) settle(zones []nexusraft.ZoneID) {
	s.t.Helper()
	if got := s.w.zoneState(s.t); !slices.Equal(got, zones) {
		s.t.Fatalf("there are zones %v, want %v", got, zones)
	}
	at := moment{[][]nexusraft.ZoneID{zones}, make(map[nexusraft.ZoneID]promise)}
	for id, g := range s.w.hosted() {
		hs := g.log.HardState()
		last, _ := g.log.LastIndex()
		at.promises[id] = promise{hs.GetTerm(), hs.GetVote(), last, s.at.Load().promises[id].keys}
	}
	s.at.Store(&at)
}

// reopenAll opens what the crashes have left.
func (s *crashScript) reopenAll() {
	s.t.Helper()
	s.mu.Lock()
	clones := s.clones
	s.clones = nil
	s.mu.Unlock()
	for _, c := range clones {
		c.reopen(s.t, s.then)
		if s.t.Failed() {
			s.t.Fatal(c.name)
		}
	}
}

// reopen opens what a crash has left as a node does, and holds it against what may be found.
func (c crashClone) reopen(t *testing.T, workers int) {
	t.Helper()
	w, err := reopenWith(workers, c.disk, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("open after %s: %v", c.name, err)
	}
	defer w.Close()
	for _, x := range w.ask.workers {
		defer x.batch.Close()
	}
	close(w.ready)
	if err := w.openAll(); err != nil {
		t.Fatalf("open the zones after %s: %v", c.name, err)
	}
	w.turns(t)
	w.checkHosted(t)
	hosted := w.hosted()
	for id, x := range c.promises {
		g := hosted[id]
		if g == nil {
			continue // it was deleted, or its loss shows below
		}
		hs := g.log.HardState()
		if last, _ := g.log.LastIndex(); last < x.last || hs.GetTerm() < x.term ||
			hs.GetTerm() == x.term && hs.GetVote() != x.vote {
			t.Errorf("zone %v: the log ends at %d, hard state %v, want at least %+v", id, last, hs, x)
		}
	}
	w.elects(t, nexusraft.RootZone) // and so it applies all of its log
	w.checkHosted(t)
	zones := w.zoneState(t)
	if !slices.ContainsFunc(c.zones, func(z []nexusraft.ZoneID) bool { return slices.Equal(z, zones) }) {
		t.Errorf("there are zones %v, want one of %v", zones, c.zones)
	}
	for _, id := range zones {
		if x := c.promises[id]; len(x.keys) > 0 {
			w.elects(t, id)
			w.checkKeys(t, id, x.keys)
		}
	}
}

// checkKeys checks that a zone has kept keys.
func (w *idleWorker) checkKeys(t *testing.T, id nexusraft.ZoneID, keys []string) {
	t.Helper()
	err := w.o.Replicas.Read(id, func(r nexusraft.Reader) error {
		r = apply.MachineReader(r)
		for _, key := range keys {
			if _, ok, err := r.Get([]byte(key)); !ok || err != nil {
				t.Errorf("zone %v has lost %q, which was acknowledged: %v", id, key, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Whenever the node crashes, a zone is made or it is not, dropped or not: it is found whole or gone, as the
// root zone's state says, and what it had promised and acknowledged is there (I1, I3).
func TestZonesAfterACrashAtAnyStep(t *testing.T) { zonesAfterACrash(t, 1, 1, 1) }

// So it is with several workers, and whatever their number is afterwards.
func TestZonesOfSeveralWorkersAfterACrash(t *testing.T) {
	zonesAfterACrash(t, 3, 2, 2)
}

// zonesAfterACrash runs the script on so many workers, before and after each crash; it crashes at each so many steps.
func zonesAfterACrash(t *testing.T, workers, then, stride int) {
	s := &crashScript{
		t: t, disk: storage.NewMemFS(), rng: rand.New(rand.NewPCG(1, 2)), last: nexusraft.RootZone,
		stride: stride * crashStride, then: then,
	}
	s.w = foundingWorkers(t, workers, errorfs.Wrap(s.disk, errorfs.InjectorFunc(s.onDisk)))
	s.at.Store(&moment{zones: [][]nexusraft.ZoneID{nil}})
	s.settle(nil)
	self := s.w.ID()
	s.step(raise())
	s.step(create("x-a", self))
	s.step(create("x-b", self))
	s.step(deletion(2, "x-a"))
	s.step(create("x-a", self))
	s.step(deletion(4, "x-a"), create("x-a", self), create("x-c", self), deletion(6, "x-c"))
	var many []*pb.NodeCommand
	for i := range maxHosted + 4 {
		many = append(many, create(fmt.Sprint("many", i), self))
	}
	s.mu.Lock()
	s.stride *= 8 // one is like the other
	s.mu.Unlock()
	s.step(many...)
	for i := range many {
		many[i] = deletion(nexusraft.ZoneID(7+i), fmt.Sprint("many", i))
	}
	s.step(many[:maxHosted+2]...)
	if err := s.w.Close(); err != nil { // what the store writes at its end is a step, too
		t.Fatal(err)
	}
	s.reopenAll()
	t.Logf("%d crashes of each kind", s.taken)
}

// A node whose cluster has version 4 has a directory that no earlier release opens, also without other zones.
func TestEarlierReleasesAreKeptOut(t *testing.T) {
	w := newIdleWorker(t, false)
	if err := w.openAll(); err != nil {
		t.Fatal(err)
	}
	w.turns(t)
	before := w.o.Dir.Store.Stats().Syncs
	if err := w.o.Dir.RequireZones(); err != nil {
		t.Fatal(err)
	}
	if again := w.o.Dir.Store.Stats().Syncs - before; again != 0 {
		t.Errorf("%d syncs to raise the format of the directory: it was not done before", again)
	}
}
