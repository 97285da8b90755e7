package hosting

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// tellingRoot is the root zone of three members and a witness, without any replication.
type tellingRoot struct {
	t       testing.TB
	state   *storage.Overlay
	loads   system.Loads
	leads   bool
	term    nexusraft.Term
	tells   []*Registry // of what commands make of the zones
	members nexusraft.Membership
}

const (
	witness1 nexusraft.NodeID = 0x31
	witness2 nexusraft.NodeID = 0x32
)

func newTellingRoot(t testing.TB) *tellingRoot {
	t.Helper()
	z := &tellingRoot{t: t, state: storage.NewOverlay(newEmptyTree(t)), leads: true, term: 1}
	for i, role := range []nexusraft.Role{"member", "member", "witness", "member"} {
		z.members = z.members.With(nexusraft.Member{
			Replica: nexusraft.ReplicaID(i + 1), Node: nexusraft.NodeID(0x11 + 0x10*i), Address: "a:1", Role: role,
		})
	}
	z.command(&pb.NodeCommand{Kind: &pb.NodeCommand_RaiseClusterVersion{
		RaiseClusterVersion: &pb.RaiseClusterVersion{Minor: system.ZonesVersion},
	}})
	return z
}

func newEmptyTree(t testing.TB) *storage.Tree {
	t.Helper()
	store, err := storage.Open("data", &storage.Options{FS: storage.NewMemFS()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	tree, err := store.Tree("root")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func (z *tellingRoot) command(c *pb.NodeCommand) []byte {
	z.t.Helper()
	b, err := proto.Marshal(c)
	if err != nil {
		z.t.Fatal(err)
	}
	effects := storage.NewOverlay(z.state)
	r, err := system.Apply(effects, &z.loads, 1, 1, b)
	if err = errors.Join(err, r.Refused); err != nil {
		z.t.Fatal(err)
	}
	effects.MergeInto(z.state)
	if r.Zone != nil {
		for _, s := range z.tells {
			s.Follow(false, []*system.ZoneChange{r.Zone})
		}
	}
	answer, _ := system.CutAnswer(r.Answer)
	return answer
}

func (z *tellingRoot) create(zones ...string) {
	z.t.Helper()
	for _, name := range zones {
		z.command(&pb.NodeCommand{Kind: &pb.NodeCommand_CreateZone{
			CreateZone: &pb.CreateZone{Name: name, Machine: "kv", Nodes: founders(z.members)},
		}})
	}
}

func (z *tellingRoot) delete(id nexusraft.ZoneID, name string) {
	z.t.Helper()
	z.command(&pb.NodeCommand{Kind: &pb.NodeCommand_DeleteZone{
		DeleteZone: &pb.DeleteZone{Id: uint64(id), Name: name},
	}})
}

// registry returns one of a node that has this state.
func (z *tellingRoot) registry(o Options) *Registry {
	o.Zone = cmp.Or[Root](o.Zone, z)
	s := New(o)
	z.tells = append(z.tells, s)
	return s
}

// Command implements RootZone.
func (z *tellingRoot) Command(context.Context, *pb.NodeCommand) ([]byte, error) {
	return nil, errors.New("the test does not expect this call")
}

// Read implements RootZone.
func (z *tellingRoot) Read(context.Context, func(nexusraft.Reader) error) error {
	return errors.New("the test does not expect this call")
}

// ReadLocal implements RootZone.
func (z *tellingRoot) ReadLocal(fn func(nexusraft.Reader) error) error { return fn(z.state) }

// Members implements RootZone.
func (z *tellingRoot) Members() (nexusraft.Membership, error) { return z.members, nil }

// LeadsIn implements Root.
func (z *tellingRoot) LeadsIn() nexusraft.Term {
	if !z.leads {
		return 0
	}
	return z.term
}

// fakeWitnesses take over whatever they are told, as witnesses do.
type fakeWitnesses struct {
	t      testing.TB
	knows  map[nexusraft.NodeID]uint64
	hosts  map[nexusraft.NodeID][]nexusraft.ZoneID
	calls  []string // "NODE asked", "NODE told VERSION live created"
	before func(node nexusraft.NodeID, t transport.HostedZones) error
}

func newFakeWitnesses(t testing.TB) *fakeWitnesses {
	return &fakeWitnesses{
		t: t, knows: make(map[nexusraft.NodeID]uint64), hosts: make(map[nexusraft.NodeID][]nexusraft.ZoneID),
		before: func(nexusraft.NodeID, transport.HostedZones) error { return nil },
	}
}

func (w *fakeWitnesses) tell(
	ctx context.Context, node nexusraft.NodeID, t transport.HostedZones,
) (version uint64, err error) {
	w.t.Helper()
	if _, bounded := ctx.Deadline(); !bounded {
		w.t.Error("a call without a bound")
	}
	if err := t.Validate(); err != nil {
		w.t.Errorf("told what can't be: %v", err)
	}
	if t.Version == 0 {
		w.calls = append(w.calls, fmt.Sprintf("%x asked", uint64(node)))
	} else {
		w.calls = append(w.calls, fmt.Sprintf("%x told %d %d %d", uint64(node), t.Version, len(t.Live), len(t.Created)))
	}
	if err := w.before(node, t); err != nil || t.Version == 0 {
		return w.knows[node], err
	}
	if t.Version < w.knows[node] {
		w.t.Errorf("told of version %d, it knows %d", t.Version, w.knows[node])
	}
	hosts := slices.DeleteFunc(w.hosts[node], func(z nexusraft.ZoneID) bool { return !slices.Contains(t.Live, z) })
	for _, z := range t.Created {
		if z.Version <= w.knows[node] || z.Replica != system.ReplicaOf(z.Zone, node) {
			w.t.Errorf("told of %+v, it knows version %d", z, w.knows[node])
		}
		hosts = append(hosts, z.Zone)
	}
	if !slices.Equal(hosts, t.Live) {
		w.t.Errorf("told to host %d zones, and how to make %d of them", len(t.Live), len(hosts))
	}
	w.hosts[node], w.knows[node] = hosts, t.Version
	return t.Version, nil
}

// takes is tell without any check.
func (w *fakeWitnesses) takes(
	_ context.Context, node nexusraft.NodeID, t transport.HostedZones,
) (version uint64, err error) {
	w.knows[node] = max(w.knows[node], t.Version)
	return w.knows[node], nil
}

func (w *fakeWitnesses) check(want ...string) {
	w.t.Helper()
	if !slices.Equal(w.calls, want) {
		w.t.Errorf("calls: got %q, want %q", w.calls, want)
	}
	w.calls = nil
}

func newTeller(t *testing.T) (*tellingRoot, *fakeWitnesses, *Registry) {
	t.Helper()
	z, w := newTellingRoot(t), newFakeWitnesses(t)
	return z, w, z.registry(Options{Logger: slog.New(slog.DiscardHandler), TellWitness: w.tell})
}

// TestWitnessesAreTold: a witness is asked once, and told only what it does not know.
func TestWitnessesAreTold(t *testing.T) {
	z, w, s := newTeller(t)
	look := func() { s.tellWitnesses(t.Context()) }
	look()
	w.check() // there has never been a zone
	z.create("zone-a", "zone-b")
	look()
	w.check("31 asked", "31 told 2 2 2")
	look()
	w.check()
	z.create("zone-c")
	z.delete(2, "zone-a")
	look()
	w.check("31 told 4 2 1")
	z.delete(3, "zone-b")
	z.delete(4, "zone-c")
	look()
	w.check("31 told 6 0 0")
	z.members = z.members.With(nexusraft.Member{Replica: 9, Node: witness2, Address: "a:1", Role: nexusraft.RoleWitness})
	z.create("zone-d")
	look()
	w.check("31 told 7 1 1", "32 asked", "32 told 7 1 1")
	z.members = z.members.Without(3)
	z.create("zone-e")
	look()
	w.check("32 told 8 2 1")
	if len(s.told) != 1 {
		t.Errorf("it remembers %d witnesses, one is left", len(s.told))
	}
	// The next leader asks, and finds that the witness knows.
	next := z.registry(s.o)
	next.tellWitnesses(t.Context())
	w.check("32 asked")
	z.leads = false
	z.create("zone-f")
	look()
	w.check()
}

// TestWitnessIsToldInPages: many zones take several calls, and the last ones are not forgotten.
func TestWitnessIsToldInPages(t *testing.T) {
	z, w, s := newTeller(t)
	for i := range 2*transport.MaxCreatedZones + 5 {
		z.create(fmt.Sprintf("z%d", i))
	}
	z.delete(2, "z0")
	z.delete(nexusraft.ZoneID(transport.MaxCreatedZones+10), fmt.Sprintf("z%d", transport.MaxCreatedZones+8))
	s.tellWitnesses(t.Context())
	w.check("31 asked", "31 told 1001 1000 1000", "31 told 2002 2000 1000", "31 told 2007 2003 3")
	all, err := system.Zones(z.state, nexusraft.RootZone, math.MaxInt)
	var live []nexusraft.ZoneID
	for _, z := range all {
		live = append(live, nexusraft.ZoneID(z.GetId()))
	}
	if err != nil || !slices.Equal(w.hosts[witness1], live) {
		t.Errorf("it hosts %d zones, want %d, %v", len(w.hosts[witness1]), len(live), err)
	}
}

// TestWitnessThatFailsIsToldAgain: one that does not answer holds up no other, and is asked again how much
// it knows, as it may have taken something over.
func TestWitnessThatFailsIsToldAgain(t *testing.T) {
	z, w, s := newTeller(t)
	z.members = z.members.With(nexusraft.Member{Replica: 9, Node: witness2, Address: "a:1", Role: nexusraft.RoleWitness})
	z.create("zone-a")
	w.before = func(node nexusraft.NodeID, x transport.HostedZones) error {
		if node == witness1 {
			return transport.ErrUnreachable
		}
		return nil
	}
	for range 2 {
		s.tellWitnesses(t.Context())
	}
	w.check("31 asked", "32 asked", "32 told 1 1 1", "31 asked")
	w.before = func(node nexusraft.NodeID, x transport.HostedZones) error {
		if node == witness1 && x.Version > 0 {
			w.knows[node], w.hosts[node] = x.Version, x.Live // and the answer is lost
			return context.DeadlineExceeded
		}
		return nil
	}
	s.tellWitnesses(t.Context())
	w.check("31 asked", "31 told 1 1 1")
	s.tellWitnesses(t.Context())
	w.check("31 asked")
	// A witness that stays where it is is not told without end.
	z.create("zone-b")
	w.before = func(nexusraft.NodeID, transport.HostedZones) error { return nil }
	s.o.TellWitness = func(_ context.Context, node nexusraft.NodeID, x transport.HostedZones) (uint64, error) {
		w.calls = append(w.calls, "stays")
		return 1, nil
	}
	s.tellWitnesses(t.Context())
	w.check("stays", "stays")
}
