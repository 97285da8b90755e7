package witness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/transport"
)

// table is the root zone's table of zones, as a full node has it.
type table struct {
	witness nexusraft.NodeID
	version uint64
	last    nexusraft.ZoneID
	zones   map[nexusraft.ZoneID]transport.HostedZone
	was     map[uint64][]nexusraft.ZoneID // which zones there were, by version
}

func newTable(witness nexusraft.NodeID) *table {
	return &table{
		witness: witness, last: nexusraft.RootZone, zones: make(map[nexusraft.ZoneID]transport.HostedZone),
		was: make(map[uint64][]nexusraft.ZoneID),
	}
}

func (x *table) live() []nexusraft.ZoneID { return slices.Sorted(maps.Keys(x.zones)) }

// replicaIn is the replica of a zone's member 1 or 2, or of the witness, 3.
func replicaIn(z nexusraft.ZoneID, n int) nexusraft.ReplicaID {
	return nexusraft.ReplicaID(z)<<8 + nexusraft.ReplicaID(n)
}

// create makes a zone that begins with two members and, if it founds, the witness.
func (x *table) create(founds bool) nexusraft.ZoneID {
	x.version++
	x.last++
	z := transport.HostedZone{
		Zone: x.last, Version: x.version, Replica: replicaIn(x.last, 3),
		Members: []nexusraft.Member{
			{Replica: replicaIn(x.last, 1), Node: 0x10, Address: "127.0.0.1:1", Role: nexusraft.RoleMember},
			{Replica: replicaIn(x.last, 2), Node: 0x20, Address: "127.0.0.1:1", Role: nexusraft.RoleMember},
		},
	}
	if founds {
		z.Members = append(z.Members, nexusraft.Member{
			Replica: z.Replica, Node: x.witness, Address: "127.0.0.1:1", Role: nexusraft.RoleWitness,
		})
	}
	x.zones[x.last] = z
	x.was[x.version] = x.live()
	return x.last
}

func (x *table) delete(z nexusraft.ZoneID) {
	x.version++
	delete(x.zones, z)
	x.was[x.version] = x.live()
}

// tell is what a witness is told that knows a version.
func (x *table) tell(knows uint64) transport.HostedZones {
	t := transport.HostedZones{Version: x.version, Live: x.live()}
	for _, z := range t.Live {
		if x.zones[z].Version > knows {
			t.Created = append(t.Created, x.zones[z])
		}
	}
	return t
}

var fullNode = transport.Identity{Cluster: testOrigin.Cluster, Node: 0x10, Full: true}

// told has a full node tell the witness all that it does not know.
func (r *running) told(x *table) {
	r.t.Helper()
	knows, err := r.handler().HostZones(r.t.Context(), fullNode, transport.HostedZones{})
	for first := true; err == nil && (first || knows < x.version); first = false { // a slow disk takes several calls
		knows, err = r.handler().HostZones(r.t.Context(), fullNode, x.tell(knows))
	}
	if err != nil {
		r.t.Fatalf("told of version %d: got %d, %v", x.version, knows, err)
	}
}

// hosted are the zones besides the root zone that the witness shows, each with its status.
func (r *running) hosted() map[nexusraft.ZoneID]nexusraft.ZoneStatus {
	r.t.Helper()
	st, err := r.Status(r.t.Context())
	if err != nil || !st.Healthy {
		r.t.Fatalf("status: %+v, %v", st, err)
	}
	zones := make(map[nexusraft.ZoneID]nexusraft.ZoneStatus)
	for _, z := range st.Zones {
		zones[z.Zone] = z
	}
	delete(zones, nexusraft.RootZone)
	return zones
}

// voteIn asks for the witness's vote in a zone, for its member 1.
func (r *running) voteIn(z nexusraft.ZoneID, term nexusraft.Term) transport.VoteResult {
	r.t.Helper()
	h := r.handler()
	rs, err := h.RequestVote(r.t.Context(), 0x10, []transport.Vote{{
		Zone: z, From: replicaIn(z, 1), To: replicaIn(z, 3), Term: term,
		LastIndex: zone.FoundingIndex + 1, LastTerm: term - 1,
	}})
	if errors.Is(err, nexusraft.ErrClosed) {
		return transport.VoteResult{} // it was killed
	}
	if err != nil || len(rs) != 1 {
		r.t.Fatalf("vote in zone %v: got %v, %v", z, rs, err)
	}
	return rs[0]
}

// onDisk are those of some zones that have a record on a witness's disk, in the journal and nowhere else.
func onDisk(t *testing.T, f *MemFS, zones []nexusraft.ZoneID) []nexusraft.ZoneID {
	t.Helper()
	names, err := f.Names("d")
	must(err)
	for _, name := range names {
		if id, ok := zoneOfFile(name); ok && id != nexusraft.RootZone {
			t.Errorf("%s is there", name)
		}
	}
	j, err := openJournal(f.CrashClone(nil, 0), "d", zones, nil)
	must(err)
	return slices.Sorted(maps.Keys(j.zones))
}

// TestZonesAreTakenOver: over the true transport, a witness learns of zones, votes in each of them,
// remembers that, and drops those that are deleted.
func TestZonesAreTakenOver(t *testing.T) {
	f := NewMemFS()
	m, w := joined(t, f)
	x := newTable(w.node())
	for range 2 {
		x.create(true)
	}
	late := x.create(false)
	m.peers.SetAddress(w.node(), w.address)
	call := func(told transport.HostedZones) (uint64, error) {
		return m.peers.HostZones(t.Context(), w.node(), told)
	}
	if v, err := call(transport.HostedZones{}); err != nil || v != 0 {
		t.Fatalf("asked: got %d, %v", v, err)
	}
	for range 2 { // the second time nothing is new
		if v, err := call(x.tell(0)); err != nil || v != x.version {
			t.Fatalf("told: got %d, %v", v, err)
		}
	}
	if v, err := call(transport.HostedZones{}); err != nil || v != x.version {
		t.Fatalf("asked: got %d, %v, want %d", v, err, x.version)
	}
	zones := w.hosted()
	if got := slices.Sorted(maps.Keys(zones)); !slices.Equal(got, x.live()) {
		t.Fatalf("it hosts %v, want %v", got, x.live())
	}
	if z := zones[2]; z.Replica != replicaIn(2, 3) || z.Commit != zone.FoundingIndex || z.Applied != zone.FoundingIndex ||
		z.Term != zone.FoundingTerm || len(z.Membership.Members) != 3 {
		t.Errorf("a zone that it founds: %+v", z)
	}
	if z := zones[late]; z.Replica != replicaIn(late, 3) || z.Commit != 0 || z.Term != 0 {
		t.Errorf("a zone that is to let it in: %+v", z)
	}
	for z, term := range map[nexusraft.ZoneID]nexusraft.Term{2: 5, 3: 9} {
		if r := w.voteIn(z, term); r.Outcome != transport.VoteGranted {
			t.Errorf("zone %v: got %+v, want the vote", z, r)
		}
	}
	before, err := w.Status(t.Context())
	must(err)
	x.delete(3)
	for range 3 {
		w.stopInOrder()
		w = start(t, Config{Dir: "d", FS: f}).awaitReady()
		w.told(x)
		if got := slices.Sorted(maps.Keys(w.hosted())); !slices.Equal(got, x.live()) {
			t.Fatalf("it hosts %v, want %v", got, x.live())
		}
		if got := w.hosted()[2].Term; got != 5 {
			t.Errorf("the term of its vote: got %v", got)
		}
	}
	if got := onDisk(t, f, x.live()); !slices.Equal(got, x.live()) {
		t.Errorf("on the disk are zones %v, want %v", got, x.live())
	}
	if r := w.voteIn(3, 20); r.Outcome != transport.VoteIgnored || !strings.Contains(r.Why, "no replica of zone 3") {
		t.Errorf("in a zone that was deleted: %+v", r)
	}
	after, err := w.Status(t.Context())
	if err != nil || before.DiskBytes < minRoom || after.DiskBytes > before.DiskBytes {
		t.Errorf("disk: %d bytes with a zone less, %d before, %v", after.DiskBytes, before.DiskBytes, err)
	}
	if got := w.zone().Zone; got != nexusraft.RootZone {
		t.Errorf("the root zone: %v", got)
	}
}

// TestZonesAreRefused: whatever can't be taken over is refused, and nothing is changed.
func TestZonesAreRefused(t *testing.T) {
	f := NewMemFS()
	_, w := joined(t, f)
	x := newTable(w.node())
	x.create(true)
	gone := x.create(true)
	x.create(true)
	w.told(x)
	old := x.tell(0)
	x.delete(gone)
	w.told(x)
	again := x.tell(0)
	again.Live, again.Created = old.Live, old.Created
	x.create(true)
	good := x.tell(x.version - 1)
	with := func(change func(*transport.HostedZones)) transport.HostedZones {
		c := good
		c.Live = slices.Clone(c.Live)
		c.Created = slices.Clone(c.Created)
		c.Created[0].Members = slices.Clone(c.Created[0].Members)
		change(&c)
		return c
	}
	huge := make([]nexusraft.ZoneID, nexusraft.MaxZones)
	for i := range huge {
		huge[i] = nexusraft.ZoneID(i+1) << 40
	}
	witness, unknown := fullNode, fullNode
	witness.Witness, witness.Full = true, false
	unknown.Node, unknown.Full = 0x99, false
	before, disk := w.keeper.stored(), logsOf(f)
	for says, tc := range map[string]struct {
		from transport.Identity
		told transport.HostedZones
	}{
		"node 0000000000000010 does not prove":                  {witness, good},
		"node 0000000000000099 does not prove":                  {unknown, good},
		"knows version 4 of the table of zones, and 3 is older": {fullNode, old},
		"has no zone 3": {fullNode, again},
		"has no zone 7": {fullNode, with(func(c *transport.HostedZones) { c.Live = append(c.Live, 7) })},
		"not of witness": {fullNode, with(func(c *transport.HostedZones) {
			c.Created[0].Members[2].Node = 0x77
		})},
		"by its record, not witness": {fullNode, with(func(c *transport.HostedZones) { c.Created[0].Replica = 7 })},
		"is member": {fullNode, with(func(c *transport.HostedZones) {
			c.Created[0].Members[2].Role = nexusraft.RoleMember
		})},
		"do not ascend": {fullNode, with(func(c *transport.HostedZones) { c.Live = append(c.Live, c.Live[0]) })},
		"follows zone": {fullNode, with(func(c *transport.HostedZones) {
			c.Created = append(c.Created, c.Created[0])
		})},
		"has two replicas": {fullNode, with(func(c *transport.HostedZones) { c.Created[0].Members[0].Node = 0x20 })},
		"takes 600000 bytes": {fullNode, with(func(c *transport.HostedZones) {
			c.Live, c.Created = huge, nil
		})},
	} {
		v, err := w.handler().HostZones(t.Context(), tc.from, tc.told)
		want := nexusraft.ErrRefused
		if len(tc.told.Live) == len(huge) {
			want = nexusraft.ErrTooLarge
		}
		if !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %d, %v, want %v with %q", v, err, want, says)
		}
		now := w.keeper.stored()
		if now.ZonesVersion != before.ZonesVersion || !slices.Equal(now.Hosted, before.Hosted) {
			t.Fatalf("after %q it knows version %d and hosts %v, before %d and %v", says, now.ZonesVersion, now.Hosted,
				before.ZonesVersion, before.Hosted)
		}
	}
	if diff := cmp.Diff(disk, logsOf(f)); diff != "" {
		t.Errorf("the disk has changed (-was +is):\n%s", diff)
	}
	if v, err := w.handler().HostZones(t.Context(), fullNode, good); err != nil || v != x.version {
		t.Errorf("what is right, after all that: got %d, %v", v, err)
	}
}

// logsOf are the files of zones as a crash now would leave them.
func logsOf(f *MemFS) map[string]string {
	logs := f.CrashClone(nil, 0).contents()
	maps.DeleteFunc(logs, func(name, _ string) bool { return !zoneFile(name) })
	return logs
}

// contents are all files.
func (m *MemFS) contents() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]string)
	for name, f := range m.files {
		out[name] = string(f.now)
	}
	return out
}

// TestTakingOverCrashesAtEveryStep: a witness is killed at each write, sync and removal of taking zones
// over. Then it hosts what was there as of the version that it knows, no less than it confirmed; its votes
// are as they were; and no zone that was dropped comes back.
func TestTakingOverCrashesAtEveryStep(t *testing.T) {
	base := NewMemFS()
	var self nexusraft.NodeID
	t.Run("join", func(t *testing.T) { // its member, which would find copies of the directory, ends with it
		_, w := joined(t, base)
		self = w.node()
	})
	dead := errors.New("killed")
	for last := int64(0); ; last++ {
		f := base.CrashClone(nil, 0)
		var steps atomic.Int64
		var armed atomic.Bool
		f.Before = func(string, string) error {
			if armed.Load() && steps.Add(1) > last {
				return dead
			}
			return nil
		}
		w := start(t, Config{Dir: "d", FS: f}).awaitReady()
		armed.Store(true)
		x := newTable(self)
		confirmed, voted := uint64(0), false
		script := []func(){
			func() { x.create(true); x.create(false) },
			func() { voted = w.voteIn(2, 7).Outcome == transport.VoteGranted },
			func() { x.delete(3); x.create(true); x.create(true) },
			func() { x.delete(4) },
		}
		for _, act := range script {
			if w.ended() {
				break
			}
			act()
			if v, err := w.handler().HostZones(t.Context(), fullNode, x.tell(confirmed)); err == nil {
				confirmed = v
			} else if !w.crashed() {
				t.Fatalf("killed after %d steps: told of version %d: %v", last, x.version, err)
			}
		}
		cutOff := steps.Load() > last
		for _, unsynced := range []int{0, 50, 100} {
			what := fmt.Sprintf("killed after %d steps, of what was not synced %d %% left", last, unsynced)
			left := f.CrashClone(rand.New(rand.NewPCG(uint64(last), uint64(unsynced))), unsynced)
			checkTakenOver(t, what, left, x, confirmed, voted)
		}
		w.cancel()
		<-w.done
		if !cutOff {
			if last < 15 {
				t.Errorf("taking over took %d steps; the test sees none of them", last)
			}
			return
		}
	}
}

// crashed waits until the witness has ended, as it does after a write that failed.
func (r *running) crashed() bool {
	r.awaitEnd()
	return r.err != nil
}

// checkTakenOver opens what a crash has left.
func checkTakenOver(
	t *testing.T, what string, f *MemFS, x *table, confirmed uint64, voted bool,
) {
	t.Helper()
	w := start(t, Config{Dir: "d", FS: f}).awaitReady()
	knows := w.keeper.stored().ZonesVersion
	hosted := slices.Sorted(maps.Keys(w.hosted()))
	if knows < confirmed || !slices.Equal(hosted, x.was[knows]) {
		t.Fatalf("%s: it confirmed version %d, knows %d and hosts %v, want %v", what, confirmed, knows, hosted, x.was[knows])
	}
	if got := onDisk(t, f, hosted); !slices.Equal(got, hosted) {
		t.Fatalf("%s: it hosts %v, and on the disk are %v", what, hosted, got)
	}
	if voted && slices.Contains(hosted, 2) && w.hosted()[2].Term != 7 {
		t.Fatalf("%s: its vote is forgotten: %+v", what, w.hosted()[2])
	}
	dropped := slices.DeleteFunc([]nexusraft.ZoneID{2, 3, 4, 5}, func(z nexusraft.ZoneID) bool {
		return slices.Contains(hosted, z) || !slices.ContainsFunc(slices.Collect(maps.Keys(x.was)), func(v uint64) bool {
			return v <= knows && slices.Contains(x.was[v], z)
		})
	})
	w.told(x)
	for _, z := range dropped {
		if _, back := w.hosted()[z]; back {
			t.Fatalf("%s: zone %v was dropped and is back", what, z)
		}
	}
	if got := slices.Sorted(maps.Keys(w.hosted())); !slices.Equal(got, x.live()) {
		t.Fatalf("%s: told again it hosts %v, want %v", what, got, x.live())
	}
	w.stopInOrder()
}

// TestManyZonesAreTakenOverInSteps: what was taken over of a long list stays, if the rest fails.
func TestManyZonesAreTakenOverInSteps(t *testing.T) {
	f := NewMemFS()
	dead := errors.New("killed")
	var armed atomic.Bool
	var taken atomic.Int64 // steps
	f.Before = func(step, name string) error {
		if armed.Load() && step == "sync" && strings.HasPrefix(filepath.Base(name), identityName) && taken.Add(1) > 2 {
			return dead
		}
		return nil
	}
	_, w := joined(t, f)
	x := newTable(w.node())
	for range 3 * stepZones {
		x.create(true)
	}
	armed.Store(true)
	var err error
	for knows := uint64(0); err == nil; { // a slow disk takes several calls
		knows, err = w.handler().HostZones(t.Context(), fullNode, x.tell(knows))
	}
	if !errors.Is(err, nexusraft.ErrClosed) {
		t.Fatalf("got %v, want ErrClosed", err)
	}
	if err := w.awaitEnd(); !errors.Is(err, dead) {
		t.Errorf("Run: got %v", err)
	}
	f = f.CrashClone(nil, 0)
	w = start(t, Config{Dir: "d", FS: f}).awaitReady()
	if got, want := w.keeper.stored().ZonesVersion, uint64(2*stepZones); got != want || len(w.hosted()) != 2*stepZones {
		t.Errorf("it knows version %d and hosts %d zones, want %d", got, len(w.hosted()), want)
	}
	// A caller that has gone gets no more than is under way.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.handler().HostZones(ctx, fullNode, x.tell(2*stepZones)); err == nil {
		t.Error("a caller that has gone was answered")
	}
	w.told(x)
	if r := w.voteIn(x.last, 2); r.Outcome != transport.VoteGranted || len(w.hosted()) != 3*stepZones {
		t.Errorf("got %+v in the last of %d zones", r, len(w.hosted()))
	}
}

// TestStopWhileZonesAreTakenOver: an orderly stop in the middle is none of a broken disk, and the next
// opening has what was stored.
func TestStopWhileZonesAreTakenOver(t *testing.T) {
	f := NewMemFS()
	var armed atomic.Pointer[running]
	f.Before = func(step, name string) error {
		if w := armed.Load(); w != nil && step == "sync" && strings.HasPrefix(filepath.Base(name), identityName) {
			w.cancel()
			<-w.stopped
		}
		return nil
	}
	_, w := joined(t, f)
	x := newTable(w.node())
	x.create(true)
	armed.Store(w)
	if v, err := w.handler().HostZones(t.Context(), fullNode, x.tell(0)); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("got %d, %v, want ErrClosed", v, err)
	}
	armed.Store(nil)
	w.stopInOrder()
	w = start(t, Config{Dir: "d", FS: f}).awaitReady()
	if w.keeper.stored().ZonesVersion != x.version || len(w.hosted()) != 1 {
		t.Errorf("it knows version %d and hosts %v", w.keeper.stored().ZonesVersion, w.hosted())
	}
}

// TestZonesBeforeTheAdmission: a witness that is no replica of the root zone yet takes nothing over.
func TestZonesBeforeTheAdmission(t *testing.T) {
	m := newFakeMember(t, 1)
	m.onJoin(func(transport.JoinRequest) (transport.JoinResult, error) {
		return transport.JoinResult{}, fmt.Errorf("not yet: %w", nexusraft.ErrOverloaded)
	})
	w := start(t, Config{Dir: "d", FS: NewMemFS(), Join: []string{m.id.Address}})
	x := newTable(w.node())
	x.create(true)
	if v, err := w.handler().HostZones(t.Context(), fullNode, x.tell(0)); !errors.Is(err, nexusraft.ErrOverloaded) {
		t.Errorf("got %d, %v, want ErrOverloaded", v, err)
	}
}

// TestEarlierReleaseRefusesZones: a release that would lose the zones finds a format that it does not know.
func TestEarlierReleaseRefusesZones(t *testing.T) {
	f := NewMemFS()
	_, w := joined(t, f)
	formats := func() (found []uint32) {
		for _, suffix := range []string{".a", ".b"} {
			found = append(found, formatOf([]byte(f.contents()[filepath.Join("d", identityName+suffix)])))
		}
		return found
	}
	if got := formats(); !slices.Equal(got, []uint32{firstFormat, firstFormat}) {
		t.Errorf("formats without zones: %v", got)
	}
	x := newTable(w.node())
	x.create(true)
	w.told(x)
	if got := formats(); !slices.Contains(got, journalFormat) {
		t.Errorf("formats with zones: %v", got)
	}
	w.stopInOrder()
	start(t, Config{Dir: "d", FS: f}).awaitReady()
	if got := formats(); !slices.Equal(got, []uint32{journalFormat, journalFormat}) {
		t.Errorf("formats after the next opening: %v", got)
	}
}

// TestHostedZonesLogIsLost: what it voted in any zone is unknown then.
func TestHostedZonesLogIsLost(t *testing.T) {
	f := NewMemFS()
	_, w := joined(t, f)
	x := newTable(w.node())
	x.create(true)
	w.told(x)
	w.stopInOrder()
	must(errors.Join(f.Remove(w.journal.path(0)), f.Remove(w.journal.path(1))))
	if _, err := Open(Config{Dir: "d", FS: f}); !errors.Is(err, nexusraft.ErrCorrupt) ||
		!strings.Contains(err.Error(), "the log of zone 2 is gone") {
		t.Errorf("got %v", err)
	}
}
