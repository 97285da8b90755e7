package system

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/storage"
)

// zoneCommand draws one that makes, changes or deletes a zone, or is refused.
func zoneCommand(t *rapid.T, base nexusraft.Reader) *pb.NodeCommand {
	all, err := Zones(base, nexusraft.RootZone, math.MaxInt)
	if err != nil {
		t.Fatal(err)
	}
	shape := rapid.SampledFrom([][2]uint32{{1, 0}, {2, 1}, {3, 0}}).Draw(t, "shape")
	kind := rapid.IntRange(0, 7).Draw(t, "kind")
	if len(all) == 0 || kind < 3 {
		name := rapid.SampledFrom([]string{"x", "y", "z", "zz"}).Draw(t, "name")
		if kind == 0 {
			return createZone(name, "kv", 1, 2)
		}
		return createShaped(name, shape[0], shape[1], clusterNodes(4, 1))
	}
	z := rapid.SampledFrom(all).Draw(t, "zone")
	switch kind {
	case 3:
		return deleteZone(z.GetId(), z.GetName())
	case 4:
		return reportCommand(z.GetId(), z.GetChanged())
	case 5:
		if placed := z.GetPlacement(); len(placed) > 0 {
			return reportCommand(z.GetId(), z.GetChanged(), placed[0].GetReplica())
		}
	}
	c := reshaped(z.GetId(), z.GetName(), shape[0], shape[1], clusterNodes(4, 1))
	c.Instead = rapid.Bool().Draw(t, "instead")
	return reshapeCommand(c)
}

// A replica that remembers loads does what one does that has just been started, whatever is refused, whatever it has
// applied for nothing, and whichever state it is given.
func TestLoadsAreWhatTheStateSays(t *testing.T) {
	empty := zonesState(t, emptyState(t))
	rapid.Check(t, func(rt *rapid.T) {
		base, loads := storage.NewOverlay(empty), new(Loads)
		for range rapid.IntRange(1, 30).Draw(rt, "commands") {
			c := own(t, zoneCommand(rt, base))
			first, second := storage.NewOverlay(base), storage.NewOverlay(base)
			a, err := Apply(first, nil, 1, 2, c)
			if err != nil {
				rt.Fatal(err)
			}
			b, err := Apply(second, loads, 1, 2, c)
			if err != nil || string(a.Answer) != string(b.Answer) || fmt.Sprint(a.Refused) != fmt.Sprint(b.Refused) {
				rt.Fatalf("got %q, %v, %v\nwant %q, %v", b.Answer, b.Refused, err, a.Answer, a.Refused)
			}
			if kept := rapid.IntRange(0, 5).Draw(rt, "kept") > 0; kept && b.Refused == nil {
				second.MergeInto(base)
			}
			if rapid.Bool().Draw(rt, "unseen") { // a look would have it read anew
				continue
			}
			got, err := loads.of(base)
			if err != nil {
				rt.Fatal(err)
			}
			want, err := (*Loads)(nil).of(base)
			unloaded := func(_ uint64, n int) bool { return n == 0 }
			if got = maps.Clone(got); err != nil {
				rt.Fatal(err)
			}
			if maps.DeleteFunc(got, unloaded); !maps.Equal(got, want) {
				rt.Fatalf("it remembers %v, the state says %v", got, want)
			}
		}
	})
}

// recordReads counts the records of zones that are read.
type recordReads struct {
	nexusraft.ReadWriter
	n int
}

func (r *recordReads) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		for p, err := range r.ReadWriter.Scan(start, end) {
			if strings.HasPrefix(string(p.Key), string(zonePrefix)) {
				r.n++
			}
			if !yield(p, err) {
				return
			}
		}
	}
}

func (r *recordReads) Get(key []byte) ([]byte, bool, error) {
	if strings.HasPrefix(string(key), string(zonePrefix)) {
		r.n++
	}
	return r.ReadWriter.Get(key)
}

// To make or change one zone more reads as many records with many zones as with few.
func TestPlacingReadsFewRecords(t *testing.T) {
	var reads []int
	for _, zones := range []int{10, 1000} {
		base, loads := &recordReads{ReadWriter: zonesState(t, emptyState(t))}, new(Loads)
		command := func(c *pb.NodeCommand) {
			t.Helper()
			if r, err := Apply(base, loads, 1, 2, own(t, c)); err != nil || r.Refused != nil {
				t.Fatal(err, r.Refused)
			}
		}
		create := func(i int) {
			command(createShaped(fmt.Sprintf("zone-%d", i), 1, 0, clusterNodes(4, 1)))
		}
		for i := range zones {
			create(i)
		}
		base.n = 0
		create(zones)
		for _, members := range []uint32{3, 1} {
			c := reshaped(2, "zone-0", members, 0, clusterNodes(4, 1))
			c.Instead = true
			command(reshapeCommand(c))
		}
		command(deleteZone(3, "zone-1"))
		reads = append(reads, base.n)
	}
	if !slices.Equal(reads, []int{3, 3}) {
		t.Errorf("got %d records read, want one for each zone that is changed", reads)
	}
}
