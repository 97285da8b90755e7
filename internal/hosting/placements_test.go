package hosting

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// modelWitness takes over pages by the rules of a real one: a zone that it hosts it keeps as it is while it is there.
type modelWitness struct {
	version uint64
	hosts   map[nexusraft.ZoneID]nexusraft.ReplicaID
}

func (w *modelWitness) takeOver(page transport.HostedZones) error {
	if err := page.Validate(); err != nil {
		return err
	}
	gone := func(id nexusraft.ZoneID, _ nexusraft.ReplicaID) bool { return !slices.Contains(page.Live, id) }
	maps.DeleteFunc(w.hosts, gone)
	for _, z := range page.Created {
		if _, hosted := w.hosts[z.Zone]; !hosted && z.Version > w.version {
			w.hosts[z.Zone] = z.Replica
		}
	}
	for _, id := range page.Live {
		if w.hosts[id] == 0 {
			return fmt.Errorf("zone %v is there, and it is not told how to make it", id)
		}
	}
	if page.Version <= w.version {
		return fmt.Errorf("told of version %d, after %d", page.Version, w.version)
	}
	w.version = page.Version
	return nil
}

// Whenever a witness is told, and however much it has missed, it comes to host the replicas that zones have or may have
// on it, and no others: an earlier replica of a zone is gone before it gets another one.
func TestWitnessFollowsPlacements(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		root := newTellingRoot(t)
		s := root.registry(Options{})
		w := &modelWitness{hosts: make(map[nexusraft.ZoneID]nexusraft.ReplicaID)}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			changeZones(rt, root)
			if rapid.Bool().Draw(rt, "told") {
				follow(rt, s, root, w)
			}
		}
		follow(rt, s, root, w)
	})
}

// follow tells the witness all that it does not know.
func follow(t *rapid.T, s *Registry, root *tellingRoot, w *modelWitness) {
	table, err := system.ZoneTable(root.state)
	if err != nil {
		t.Fatal(err)
	}
	for w.version < table.GetVersion() {
		if err := s.records.update(root.ReadLocal); err != nil {
			t.Fatal(err)
		}
		page := s.page(witness1, w.version)
		if err := w.takeOver(page); err != nil {
			t.Fatalf("version %d of %d: %v: %+v", w.version, table.GetVersion(), err, page)
		}
	}
	all, err := system.Zones(root.state, nexusraft.RootZone, math.MaxInt)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[nexusraft.ZoneID]nexusraft.ReplicaID)
	for _, z := range all {
		if replica, _, ok := system.HostedBy(z, witness1); ok {
			want[nexusraft.ZoneID(z.GetId())] = replica
		}
	}
	if !maps.Equal(w.hosts, want) {
		t.Fatalf("the witness hosts %v, want %v", w.hosts, want)
	}
}

// changeZones makes a zone, or changes or deletes one of those that are there.
func changeZones(t *rapid.T, root *tellingRoot) {
	all, _ := system.Zones(root.state, nexusraft.RootZone, math.MaxInt)
	shape := rapid.SampledFrom([]nexusraft.Shape{{Members: 1}, {Members: 2, Witnesses: 1}, {Members: 3}}).Draw(t, "shape")
	if len(all) == 0 || rapid.IntRange(0, 3).Draw(t, "make") == 0 {
		table, _ := system.ZoneTable(root.state)
		c := &pb.CreateZone{Name: fmt.Sprintf("zone-%d", table.GetLastId()), Machine: "kv", Nodes: nodesOf(root.members)}
		if rapid.Bool().Draw(t, "shaped") {
			c.Shape = wire.ShapeToProto(shape)
		}
		root.command(&pb.NodeCommand{Kind: &pb.NodeCommand_CreateZone{CreateZone: c}})
		return
	}
	z := rapid.SampledFrom(all).Draw(t, "zone")
	switch {
	case rapid.IntRange(0, 7).Draw(t, "delete") == 0:
		root.delete(nexusraft.ZoneID(z.GetId()), z.GetName())
	case !z.GetMoving():
		root.command(reshaping(&pb.ReshapeZone{
			Id: z.GetId(), Name: z.GetName(), Shape: wire.ShapeToProto(shape), Nodes: nodesOf(root.members),
		}))
	default:
		c := &pb.ReportZone{Id: z.GetId(), Changed: z.GetChanged()}
		if rapid.Bool().Draw(t, "removed") {
			for _, p := range z.GetPlacement() {
				c.Removed = append(c.Removed, p.GetReplica())
			}
		}
		root.command(&pb.NodeCommand{Kind: &pb.NodeCommand_ReportZone{ReportZone: c}})
	}
}

// A zone is changed where it has to be, and left alone where nothing can be done.
func TestMendedPlacements(t *testing.T) {
	root := newTellingRoot(t).members // members 0x11, 0x21 and 0x41, and witness 0x31
	place := func(shape nexusraft.Shape, nodes ...uint64) *pb.ZoneRecord {
		z := &pb.ZoneRecord{Id: 2, Name: "a-zone", Shape: wire.ShapeToProto(shape)}
		for _, node := range nodes {
			role := pb.Role_ROLE_MEMBER
			if node == uint64(witness1) || node == uint64(witness2) {
				role = pb.Role_ROLE_WITNESS
			}
			z.Placement = append(z.Placement, &pb.PlacedReplica{Node: node, Replica: node, Role: role})
		}
		return z
	}
	spare := func(z *pb.ZoneRecord) *pb.ZoneRecord { z.Spare = true; return z }
	moving := func(z *pb.ZoneRecord) *pb.ZoneRecord { z.Moving = true; return z }
	left := func(z *pb.ZoneRecord, node uint64) *pb.ZoneRecord { z.Off = append(z.Off, node); return z }
	trio, three := nexusraft.DefaultShape, nexusraft.Shape{Members: 3}
	for name, tc := range map[string]struct {
		z      *pb.ZoneRecord
		lost   nexusraft.NodeID
		off    uint64
		refill bool
	}{
		"whole":                       {place(trio, 0x11, 0x21, 0x31), 0, 0, false},
		"a node is lost":              {place(trio, 0x11, 0x21, 0x31), 0x21, 0, false},
		"and there is a spare":        {spare(place(trio, 0x11, 0x21, 0x31)), 0x21, 0x21, false},
		"also while it moves":         {moving(spare(place(trio, 0x11, 0x21, 0x31))), 0x21, 0x21, false},
		"but nobody to be it":         {spare(place(three, 0x11, 0x21, 0x41)), 0x21, 0, false},
		"the spare is lost as well":   {spare(place(trio, 0x11, 0x21, 0x31)), 0x41, 0, false},
		"the witness is lost":         {spare(place(trio, 0x11, 0x21, 0x31)), 0x31, 0, false},
		"a node has left the cluster": {place(trio, 0x11, 0x51, 0x31), 0, 0x51, false},
		"a place is empty":            {place(three, 0x11, 0x21), 0, 0, true},
		"which nobody can take":       {place(three, 0x11, 0x21), 0x41, 0, false},
		"as the zone has left it":     {left(place(three, 0x11, 0x21), 0x41), 0, 0, false},
		"nor can it be the spare":     {left(spare(place(trio, 0x11, 0x21, 0x31)), 0x41), 0x21, 0, false},
		"while it moves":              {moving(place(three, 0x11, 0x21)), 0, 0, false},
		"the witness is missing":      {place(trio, 0x11, 0x21), 0, 0, true},
	} {
		lost := map[nexusraft.NodeID]bool{tc.lost: true}
		c := mend(tc.z, root, lost, lost)
		if c.GetOff() != tc.off || c.GetRefill() != tc.refill || (c != nil) != (tc.off != 0 || tc.refill) {
			t.Errorf("%s: got %v, want off %#x, refill %v", name, c, tc.off, tc.refill)
		}
	}
}

// reshapingRoot applies what is proposed at once.
type reshapingRoot struct {
	*tellingRoot
	proposed []*pb.NodeCommand
	answer   func(context.Context) error // what proposals come to; nil: they are applied
	deposed  bool                        // by the next proposal
}

func (z *reshapingRoot) Command(ctx context.Context, c *pb.NodeCommand) ([]byte, error) {
	z.proposed = append(z.proposed, c)
	z.leads = z.leads && !z.deposed
	if z.answer != nil {
		return nil, z.answer(ctx)
	}
	return z.command(c), nil
}

func (z *reshapingRoot) Read(_ context.Context, fn func(nexusraft.Reader) error) error {
	return fn(z.state)
}

// record returns a zone's record.
func (z *reshapingRoot) record(id nexusraft.ZoneID) *pb.ZoneRecord {
	z.t.Helper()
	r, err := system.FindZone(z.state, id)
	if err != nil || r == nil {
		z.t.Fatalf("zone %v: got %v, %v", id, r, err)
	}
	return r
}

// report says that a zone is where it was placed.
func (z *reshapingRoot) report(id nexusraft.ZoneID) {
	z.t.Helper()
	z.command(&pb.NodeCommand{Kind: &pb.NodeCommand_ReportZone{
		ReportZone: &pb.ReportZone{Id: uint64(id), Changed: z.record(id).GetChanged()},
	}})
}

// newReshaper is a registry that the nodes of silent have been silent to for a minute.
func newReshaper(t *testing.T) (z *reshapingRoot, s *Registry, silent map[nexusraft.NodeID]time.Duration) {
	t.Helper()
	z, silent = &reshapingRoot{tellingRoot: newTellingRoot(t)}, make(map[nexusraft.NodeID]time.Duration)
	return z, z.registry(Options{
		Zone: z, Logger: slog.New(slog.DiscardHandler), SpareAfter: time.Minute,
		Silent: func() map[nexusraft.NodeID]time.Duration { return silent },
	}), silent
}

func planned(members, witnesses int) nexusraft.ZoneReshape {
	return nexusraft.ZoneReshape{ZonePlan: nexusraft.ZonePlan{
		Shape: nexusraft.Shape{Members: members, Witnesses: witnesses},
	}}
}

func placedOn(info nexusraft.ZoneInfo) (nodes []nexusraft.NodeID) {
	for _, m := range info.Placement {
		nodes = append(nodes, m.Node)
	}
	return nodes
}

// A node that is silent is not chosen, and keeps what it has until the zone does without: its vote may count.
func TestSilentNodesKeepTheirReplicas(t *testing.T) {
	z, s, silent := newReshaper(t)
	z.create("a-zone")
	reshape := func(want nexusraft.ZoneReshape, on ...nexusraft.NodeID) {
		t.Helper()
		info, err := s.Reshape(t.Context(), 2, "a-zone", want)
		if err != nil || !slices.Equal(placedOn(info), on) {
			t.Fatalf("%v: got %+v, %v; want it on %v", want, info, err, on)
		}
		for _, m := range z.members.Members {
			first := system.ReplicaOf(2, m.Node)
			replica, _, ok := system.HostedBy(z.record(2), m.Node)
			if !ok || replica != first || system.Drops(z.record(2), m.Node, first) {
				t.Errorf("%v: node %v: got %v, %v, want it to keep %v", want, m.Node, replica, ok, first)
			}
		}
	}
	silent[0x11], silent[witness1] = time.Minute, time.Minute
	reshape(planned(1, 0), 0x21)
	clear(silent)
	silent[0x21] = time.Minute
	back := planned(2, 1)
	back.Instead = true
	reshape(back, 0x11, 0x21, witness1) // a silent node that it is to be on stays
	clear(silent)
	reshape(nexusraft.ZoneReshape{Off: 0x21, Instead: true}, 0x11, witness1, 0x41)
}

// A zone that was told to leave a node gets no replica there by itself, until its plan is asked for again.
func TestZoneStaysOffANode(t *testing.T) {
	for name, tc := range map[string]struct {
		plan  nexusraft.ZoneReshape
		off   nexusraft.NodeID
		stays []nexusraft.NodeID
	}{
		"a member":  {planned(3, 0), 0x41, []nexusraft.NodeID{0x11, 0x21}},
		"a witness": {planned(2, 1), witness1, []nexusraft.NodeID{0x11, 0x21}},
	} {
		z, s, _ := newReshaper(t)
		z.create("a-zone")
		if _, err := s.Reshape(t.Context(), 2, "a-zone", tc.plan); err != nil {
			t.Fatal(err)
		}
		z.report(2)
		info, err := s.Reshape(t.Context(), 2, "a-zone", nexusraft.ZoneReshape{Off: tc.off})
		if err != nil || !slices.Equal(placedOn(info), tc.stays) {
			t.Fatalf("%s: off: got %+v, %v", name, info, err)
		}
		if !slices.Equal(info.Off, []nexusraft.NodeID{tc.off}) {
			t.Errorf("%s: off: got %v, want %v", name, info.Off, tc.off)
		}
		z.report(2)
		z.proposed = nil
		if s.tendPlacements(t.Context(), 1); len(z.proposed) > 0 || z.record(2).GetMoving() {
			t.Errorf("%s: the next look proposes %v", name, z.proposed)
		}
		if _, _, on := system.HostedBy(z.record(2), tc.off); on {
			t.Errorf("%s: it can't leave the cluster: %v", name, z.record(2))
		}
		info, err = s.Reshape(t.Context(), 2, "a-zone", tc.plan)
		if err != nil || len(info.Placement) != 3 || info.Off != nil {
			t.Errorf("%s: the plan again: got %+v, %v", name, info, err)
		}
	}
}

// A zone with a spare leaves a node that is lost, and may be placed on it again: it was not told to leave it.
func TestLostNodeMayTakeAPlaceAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z, s, silent := newReshaper(t)
		z.spares(s, 1)
		for _, lost := range []nexusraft.NodeID{0x21, 0x41, 0x21} {
			clear(silent)
			silent[lost] = time.Hour
			z.looks(s, time.Minute+2*time.Second)
			if _, on := system.PlacedOn(z.record(2), lost); on || len(z.record(2).GetPlacement()) != 3 {
				t.Fatalf("without %v: got %v", lost, z.record(2))
			}
			z.report(2)
		}
	})
}

// spares makes zones of shape 2+1 with a spare, which are where they are to be.
func (z *reshapingRoot) spares(s *Registry, n int) {
	z.t.Helper()
	plan := planned(2, 1)
	plan.Spare, plan.Preferred = true, 0x21
	for i := range n {
		name, id := fmt.Sprintf("spare-%d", i), nexusraft.ZoneID(i+2)
		z.create(name)
		if _, err := s.Reshape(z.t.Context(), id, name, plan); err != nil {
			z.t.Fatal(err)
		}
		z.report(id)
	}
	z.proposed = nil
}

// looks is so much time with a look a second, as Tend has them.
func (z *reshapingRoot) looks(s *Registry, d time.Duration) {
	for range d / housekeeping {
		if term := z.LeadsIn(); term != 0 {
			s.tendPlacements(z.t.Context(), term)
		}
		time.Sleep(housekeeping)
	}
}

// A zone with a spare moves once a leader has itself seen a node silent for as long as SpareAfter says, in looks one
// after the other; however long the node has been silent by the leader's clock.
func TestSilenceIsCountedInLooks(t *testing.T) {
	long := time.Minute // SpareAfter
	for name, tc := range map[string]struct {
		happens func(z *reshapingRoot, s *Registry, says func(time.Duration))
		moves   bool
	}{
		"really silent": {func(z *reshapingRoot, s *Registry, says func(time.Duration)) {
			says(1000 * time.Hour)
			z.looks(s, long+2*time.Second)
		}, true},
		"almost as long": {func(z *reshapingRoot, s *Registry, says func(time.Duration)) {
			says(1000 * time.Hour)
			z.looks(s, long-2*time.Second)
		}, false},
		"heard of once": {func(z *reshapingRoot, s *Registry, says func(time.Duration)) {
			says(1000 * time.Hour)
			z.looks(s, long-2*time.Second)
			says(time.Second / 2)
			z.looks(s, time.Second)
			says(1000 * time.Hour)
			z.looks(s, long-2*time.Second)
		}, false},
		"the leader pauses": {func(z *reshapingRoot, s *Registry, says func(time.Duration)) {
			z.looks(s, 2*long)
			time.Sleep(time.Hour)
			says(1000 * time.Hour)
			z.looks(s, 10*time.Second)
			says(0)
			z.looks(s, 2*long)
		}, false},
		"the leader pauses again and again": {func(z *reshapingRoot, s *Registry, says func(time.Duration)) {
			says(1000 * time.Hour)
			for range 40 {
				z.looks(s, 10*time.Second)
				time.Sleep(time.Hour)
			}
		}, false},
		"short pauses": {func(z *reshapingRoot, s *Registry, says func(time.Duration)) {
			says(1000 * time.Hour)
			for range 5 {
				z.looks(s, time.Second)
				time.Sleep(20 * time.Second)
			}
		}, false},
		"it comes back in a pause": {func(z *reshapingRoot, s *Registry, says func(time.Duration)) {
			says(1000 * time.Hour)
			z.looks(s, long-time.Second)
			time.Sleep(time.Hour)
			z.looks(s, 5*time.Second)
			says(0)
			z.looks(s, long)
		}, false},
		"another leadership": {func(z *reshapingRoot, s *Registry, says func(time.Duration)) {
			says(1000 * time.Hour)
			z.looks(s, long-2*time.Second)
			z.term++ // also where no look falls in between
			z.looks(s, long-2*time.Second)
		}, false},
		"and that sees it": {func(z *reshapingRoot, s *Registry, says func(time.Duration)) {
			says(1000 * time.Hour)
			z.looks(s, long-2*time.Second)
			z.term++
			z.looks(s, long+2*time.Second)
		}, true},
		"zones change all the time": {func(z *reshapingRoot, s *Registry, says func(time.Duration)) {
			says(1000 * time.Hour)
			for range 100 * (long - 2*time.Second) / time.Second {
				s.tendPlacements(z.t.Context(), z.LeadsIn())
				time.Sleep(time.Second / 100)
			}
		}, false},
		"until it is lost": {func(z *reshapingRoot, s *Registry, says func(time.Duration)) {
			says(1000 * time.Hour)
			for range 100 * (long + 2*time.Second) / time.Second {
				s.tendPlacements(z.t.Context(), z.LeadsIn())
				time.Sleep(time.Second / 100)
			}
		}, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			z, s, silent := newReshaper(t)
			z.spares(s, 1)
			tc.happens(z, s, func(d time.Duration) { silent[0x21] = d })
			if moves := z.record(2).GetMoving(); moves != tc.moves {
				t.Errorf("%s: moves %v, want %v: %v", name, moves, tc.moves, z.proposed)
			}
		})
	}
}

// A look has few zones move, and the next one, which comes a second later, goes on, also while zones change.
func TestALookMovesFewZones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z, s, silent := newReshaper(t)
		z.spares(s, 2*changesALook+1)
		silent[0x21] = time.Hour
		z.looks(s, time.Minute)
		for want := changesALook; len(z.proposed) <= 2*changesALook; want += changesALook {
			for range 5 { // each change is followed by a look
				s.tendPlacements(t.Context(), 1)
			}
			if got := len(z.proposed); got != min(want, 2*changesALook+1) {
				t.Fatalf("got %d zones that move, want %d", got, want)
			}
			time.Sleep(housekeeping)
		}
	})
}

// What can't be is refused before it costs an entry, or before a node of an earlier release could meet it.
func TestReshapeRefusesBeforeItProposes(t *testing.T) {
	for name, tc := range map[string]struct {
		zone  nexusraft.ZoneID
		older bool
		says  string
	}{
		"no such zone":       {9, false, "there is no zone 9"},
		"deleted":            {2, false, "zone 2 was deleted"},
		"the root zone":      {nexusraft.RootZone, false, "the root zone is on all nodes"},
		"an earlier cluster": {2, true, "need a cluster of version"},
	} {
		z, s, _ := newReshaper(t)
		z.create("a-zone")
		z.delete(2, "a-zone")
		if tc.older {
			z.state = storage.NewOverlay(newEmptyTree(t))
		}
		_, err := s.Reshape(t.Context(), tc.zone, "a-zone", planned(1, 0))
		if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), tc.says) || len(z.proposed) > 0 {
			t.Errorf("%s: got %v, and proposals %v; want it to say %q", name, err, z.proposed, tc.says)
		}
	}
}

// A look ends where nothing more can be done, and is as long as one call at most: the next one goes on.
func TestLookEndsEarly(t *testing.T) {
	refused := func(context.Context) error { return nexusraft.ErrRefused }
	silence := func(ctx context.Context) error {
		<-ctx.Done()
		return fmt.Errorf("%w: %w", nexusraft.ErrUncertain, ctx.Err())
	}
	for name, tc := range map[string]struct {
		answer      func(context.Context) error
		deposed     bool
		looks, says int // proposals by a look, and of reports
	}{
		"refusals":           {refused, false, 3, 3},
		"no answer":          {silence, false, 1, 1},
		"it leads no longer": {refused, true, 1, 3}, // any node passes reports on
	} {
		synctest.Test(t, func(t *testing.T) {
			z, s, _ := newReshaper(t)
			for i := range 3 {
				zone, id := fmt.Sprintf("zone-%d", i), nexusraft.ZoneID(i+2)
				z.create(zone)
				if _, err := s.Reshape(t.Context(), id, zone, planned(3, 0)); err != nil {
					t.Fatal(err)
				}
				s.Report(id, z.record(id).GetChanged(), nil)
			}
			z.members = z.members.Without(2)
			z.proposed, z.answer, z.deposed = nil, tc.answer, tc.deposed
			if s.tendPlacements(t.Context(), 1); len(z.proposed) != tc.looks {
				t.Errorf("%s: got %d proposals by a look, want %d", name, len(z.proposed), tc.looks)
			}
			z.proposed = nil
			if s.passOn(t.Context()); len(z.proposed) != tc.says {
				t.Errorf("%s: got %d reports, want %d", name, len(z.proposed), tc.says)
			}
		})
	}
}
