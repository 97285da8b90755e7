package hosting

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// The records in memory are those of the state, and are read anew only if a change is not known: as this node did not
// lead, has more changes than it keeps, or its state was replaced.
func TestRecordsFollowTheState(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		root := newTellingRoot(t)
		s := root.registry(Options{})
		reads, known := 0, false
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			switch rapid.IntRange(0, 12).Draw(rt, "step") {
			case 0:
				s.records.forget()
				known = false
			case 1:
				s.Follow(true, nil)
				known = false
			case 2: // the state is another one, and so are its changes
				root.tells = nil
				changeZones(rt, root)
				root.tells = []*Registry{s}
				s.Follow(true, nil)
				known = false
			case 3: // a snapshot came before the records were read, which have it
				change := &system.ZoneChange{Zone: 2, To: s.records.version}
				s.Follow(false, []*system.ZoneChange{change})
			case 4, 5, 6:
				before := reads
				err := s.records.update(func(fn func(nexusraft.Reader) error) error {
					reads++
					return root.ReadLocal(fn)
				})
				if err != nil || known && reads > before {
					rt.Fatalf("got %d reads, %v; it knew the records: %v", reads-before, err, known)
				}
				known = true
				sameRecords(rt, root, s)
			default:
				changeZones(rt, root)
			}
		}
	})
}

func sameRecords(t *rapid.T, root *tellingRoot, s *Registry) {
	table, err := system.ZoneTable(root.state)
	if err != nil {
		t.Fatal(err)
	}
	want, err := system.Zones(root.state, nexusraft.RootZone, math.MaxInt)
	if err != nil {
		t.Fatal(err)
	}
	same := func(a, b *pb.ZoneRecord) bool { return proto.Equal(a, b) }
	if s.records.version != table.GetVersion() || !slices.EqualFunc(s.records.all, want, same) {
		t.Fatalf("got version %d: %v\nwant %d: %v", s.records.version, s.records.all, table.GetVersion(), want)
	}
}

// A change that is not the next one, and one that is beyond the bound, have the records read again.
func TestRecordsMissAChange(t *testing.T) {
	root := newTellingRoot(t)
	s := root.registry(Options{})
	reads := 0
	update := func(want int) {
		t.Helper()
		err := s.records.update(func(fn func(nexusraft.Reader) error) error {
			reads++
			return root.ReadLocal(fn)
		})
		if err != nil || reads != want {
			t.Errorf("got %d reads, %v; want %d", reads, err, want)
		}
	}
	update(1)
	root.create("zone-a")
	update(1)
	root.tells = nil
	root.create("zone-b")
	root.tells = []*Registry{s}
	root.create("zone-c")
	update(2)
	for i := range maxChanges {
		root.create(fmt.Sprintf("zone-%d", i))
	}
	update(2)
	for i := range maxChanges {
		root.delete(nexusraft.ZoneID(i+5), fmt.Sprintf("zone-%d", i))
	}
	root.create("zone-z")
	update(3)
	if err := s.records.update(func(func(nexusraft.Reader) error) error { return nexusraft.ErrClosed }); err != nil {
		t.Errorf("it reads what it knows: %v", err)
	}
	s.Follow(true, nil)
	if s.records.update(func(func(nexusraft.Reader) error) error { return nexusraft.ErrClosed }) == nil {
		t.Error("it knows what it could not read")
	}
	update(4)
	s.records.forget()
	update(5)
}

// BenchmarkCreateZone is what the creation of a zone with a shape costs the root zone's leader: applying it, and the
// look after it, which tells the witness.
func BenchmarkCreateZone(b *testing.B) {
	for _, zones := range []int{1000, 9000} {
		b.Run(fmt.Sprint(zones), func(b *testing.B) {
			root, w := newTellingRoot(b), newFakeWitnesses(b)
			s := root.registry(Options{
				Logger: slog.New(slog.DiscardHandler), TellWitness: w.takes,
				Silent: func() map[nexusraft.NodeID]time.Duration { return nil },
			})
			create := func(i int) {
				root.command(&pb.NodeCommand{Kind: &pb.NodeCommand_CreateZone{CreateZone: &pb.CreateZone{
					Name: fmt.Sprintf("zone-%d", i), Machine: "kv", Nodes: nodesOf(root.members),
					Shape: wire.ShapeToProto(nexusraft.DefaultShape),
				}}})
			}
			for i := range zones {
				create(i)
			}
			s.tellWitnesses(b.Context())
			b.ResetTimer()
			for i := range b.N {
				create(zones + i)
				s.tellWitnesses(b.Context())
				s.tendPlacements(b.Context(), 1)
			}
		})
	}
}
