package system

import (
	"math"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// ZoneChange is what a command has made of a zone's record.
type ZoneChange struct {
	Zone     nexusraft.ZoneID
	Record   *pb.ZoneRecord // as it is then, not to be changed; nil: it was deleted
	From, To uint64         // versions of the zones' table before it and after it, which no other change has

	had []*pb.PlacedReplica // its placement before
}

// Made reports whether the zone was made.
func (c *ZoneChange) Made() bool { return c.Record != nil && c.Record.GetVersion() == c.To }

// Loads remembers how many replicas of zones with a shape each node has, so that a command that places one need not
// read the records of all zones. It is a copy of what the state says, at one version of the zones' table; for a state
// of another version it is made anew, so that what a command does depends on the state alone (I4). It is one replica's,
// whose applying alone uses it; nil remembers nothing.
type Loads struct {
	version uint64 // of the table; 0: of none
	byNode  map[uint64]int
}

// of returns the loads in a state. They are not to be changed.
func (l *Loads) of(base nexusraft.Reader) (map[uint64]int, error) {
	t, err := ZoneTable(base)
	if err != nil {
		return nil, err
	}
	if l != nil && l.byNode != nil && l.version == t.GetVersion() {
		return l.byNode, nil
	}
	all, err := Zones(base, nexusraft.RootZone, math.MaxInt)
	if err != nil {
		return nil, err
	}
	loads := make(map[uint64]int)
	for _, z := range all {
		for _, p := range z.GetPlacement() {
			loads[p.GetNode()]++
		}
	}
	if l != nil {
		l.version, l.byNode = t.GetVersion(), loads
	}
	return loads, nil
}

// follow takes over a change that goes into the state.
func (l *Loads) follow(c *ZoneChange) {
	switch {
	case l == nil || l.byNode == nil:
		return
	case l.version != c.From: // what was followed before is not in the state
		l.byNode = nil
		return
	}
	for _, p := range c.had {
		l.byNode[p.GetNode()]--
	}
	for _, p := range c.Record.GetPlacement() {
		l.byNode[p.GetNode()]++
	}
	l.version = c.To
}
