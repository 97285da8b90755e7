package hosting

import (
	"cmp"
	"math"
	"slices"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

// records are those of all zones, in memory while this node leads the root zone: what they are as of one version of
// their table. They are read once, and follow what commands make of them from then on.
type records struct {
	version uint64           // of the table
	all     []*pb.ZoneRecord // ascending by ID; they are not changed

	mu      sync.Mutex           // guards what follows
	follows bool                 // changes are kept
	missed  bool                 // some are not known, or none was kept so far
	changes []*system.ZoneChange // since version; those up to it may be among them
}

// maxChanges bounds the changes that wait for a look. With more of them all records are read again.
const maxChanges = 1024

// follow takes over what was made of the zones; see Registry.Follow.
func (x *records) follow(whole bool, changes []*system.ZoneChange) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.follows {
		return
	}
	if whole || len(x.changes)+len(changes) > maxChanges {
		x.missed = true
	}
	if x.missed {
		x.changes = nil
		return
	}
	x.changes = append(x.changes, changes...)
}

// forget drops all that is known.
func (x *records) forget() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.follows, x.changes, x.all, x.version = false, nil, nil, 0
}

// take returns the changes to take over, and whether they are all since the last call. It comes before the records are
// read, so that no change falls in between.
func (x *records) take() (changes []*system.ZoneChange, complete bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	changes, complete = x.changes, x.follows && !x.missed
	x.follows, x.missed, x.changes = true, false, nil
	return changes, complete
}

// update brings the records up to date: to all that was followed until now, or to what read has.
func (x *records) update(read func(func(nexusraft.Reader) error) error) error {
	changes, complete := x.take()
	for _, c := range changes {
		complete = complete && x.apply(c)
	}
	if complete {
		return nil
	}
	err := read(func(r nexusraft.Reader) error {
		t, err := system.ZoneTable(r)
		if err != nil {
			return err
		}
		all, err := system.Zones(r, nexusraft.RootZone, math.MaxInt)
		if err == nil {
			x.version, x.all = t.GetVersion(), all
		}
		return err
	})
	if err != nil {
		x.forget()
	}
	return err
}

// apply takes over a change; false if it is not the next one.
func (x *records) apply(c *system.ZoneChange) bool {
	if c.To <= x.version { // it was made before the records were read
		return true
	}
	if c.From != x.version {
		return false
	}
	x.version = c.To
	i, there := x.find(c.Zone)
	switch {
	case c.Record == nil && there:
		x.all = slices.Delete(x.all, i, i+1)
	case c.Record != nil && there:
		x.all[i] = c.Record
	case c.Record != nil:
		x.all = slices.Insert(x.all, i, c.Record)
	}
	return true
}

// find returns where a zone is, or would be.
func (x *records) find(id nexusraft.ZoneID) (i int, there bool) {
	return slices.BinarySearchFunc(x.all, uint64(id), func(z *pb.ZoneRecord, id uint64) int {
		return cmp.Compare(z.GetId(), id)
	})
}
