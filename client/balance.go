package client

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// LeaderMove is a zone's leadership that goes from one node to another.
type LeaderMove struct {
	Zone nexusraft.ZoneID `json:"zone"`
	Name string           `json:"name"`
	From nexusraft.Member `json:"from"`
	To   nexusraft.Member `json:"to"`
	Err  error            `json:"-"` // why it was not moved
}

// Balance moves the leaderships of zones so that each node leads about as many as the others, and a zone that has a
// preferred node is led by that; the root zone's, which counts, stays. Only members that their leader hears of get
// one. It returns the moves, with what became of each, and an error if the cluster can't be looked at. With dry none is
// made. For admins of each of the zones.
func (c *Client) Balance(ctx context.Context, dry bool) ([]LeaderMove, error) {
	infos := map[nexusraft.ZoneID]nexusraft.ZoneInfo{nexusraft.RootZone: rootZone}
	for z, err := range c.Zones(ctx) {
		if err != nil {
			return nil, fmt.Errorf("balance: %w", err)
		}
		infos[z.ID] = z
	}
	answers := c.Survey(ctx)
	if err := oneCluster(answers); err != nil {
		return nil, err
	}
	led := ledZones(infos, answers)
	var moves []LeaderMove
	for i, to := range spread(led) {
		if z := led[i]; to != z.leader.Node {
			m, _ := z.view.Membership.Node(to)
			moves = append(moves, LeaderMove{Zone: z.info.ID, Name: z.info.Name, From: z.leader, To: m})
			if !dry {
				moves[len(moves)-1].Err = c.move(ctx, z, to)
			}
		}
	}
	return moves, nil
}

// move has a zone's leader hand over.
func (c *Client) move(ctx context.Context, z ledZone, to nexusraft.NodeID) error {
	_, err := c.askLeader(ctx, z.at, func(ctx context.Context, zones pb.ZonesClient) (*pb.Error, error) {
		resp, err := zones.TransferLeader(ctx, &pb.TransferLeaderRequest{Zone: uint64(z.info.ID), To: uint64(to)})
		return resp.GetError(), err
	})
	return err
}

// ledZone is a zone that has a leader.
type ledZone struct {
	info   nexusraft.ZoneInfo
	view   nexusraft.ZoneStatus // the leader's
	leader nexusraft.Member
	at     string             // the leader's address
	may    []nexusraft.NodeID // lead it
}

// ledZones returns the zones that have a leader, by ID.
func ledZones(infos map[nexusraft.ZoneID]nexusraft.ZoneInfo, answers []Answer) (led []ledZone) {
	views := make(map[nexusraft.ZoneID][]nexusraft.ZoneStatus)
	from := make(map[nexusraft.ZoneID][]string)
	for _, a := range answers {
		for _, s := range a.Status.Zones {
			views[s.Zone], from[s.Zone] = append(views[s.Zone], s), append(from[s.Zone], a.Address)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(infos)) {
		i := nexusraft.LeaderView(views[id])
		if i < 0 {
			continue
		}
		z := ledZone{info: infos[id], view: views[id][i], at: from[id][i]}
		z.leader, _ = z.view.Membership.Replica(z.view.Leader)
		for _, x := range z.view.Replicas {
			if x.Role == nexusraft.RoleMember && (x.Active || x.Node == z.leader.Node) {
				z.may = append(z.may, x.Node)
			}
		}
		led = append(led, z)
	}
	return led
}

// spread returns which node is to lead each of the zones.
func spread(zones []ledZone) []nexusraft.NodeID {
	s := spreading{zones: zones, leads: make([]nexusraft.NodeID, len(zones)), load: make(map[nexusraft.NodeID]int)}
	fixed := make([]bool, len(zones))
	for i, z := range zones {
		s.leads[i] = z.leader.Node
		if fixed[i] = z.info.ID == nexusraft.RootZone; !fixed[i] && slices.Contains(z.may, z.info.Preferred) {
			s.leads[i], fixed[i] = z.info.Preferred, true
		}
		s.load[s.leads[i]]++
		if !fixed[i] {
			s.free = append(s.free, i)
		}
		for _, node := range z.may {
			s.load[node] += 0 // it is known
		}
	}
	for s.improve() {
		continue
	}
	return s.leads
}

// spreading is a spread under way.
type spreading struct {
	zones []ledZone
	leads []nexusraft.NodeID // each of zones
	free  []int              // zones that may go
	load  map[nexusraft.NodeID]int
}

// improve passes a leadership from a node to one that has less by two at least, by way of others if need be, and
// reports whether there was one. Each time the sum of the loads' squares falls, so that it ends.
func (s *spreading) improve() bool {
	nodes := slices.SortedFunc(maps.Keys(s.load), func(a, b nexusraft.NodeID) int {
		return cmp.Or(cmp.Compare(s.load[b], s.load[a]), cmp.Compare(a, b))
	})
	return slices.ContainsFunc(nodes, s.relieve)
}

func (s *spreading) relieve(from nexusraft.NodeID) bool {
	by := map[nexusraft.NodeID]int{from: -1} // with which zone a node was reached
	for queue := []nexusraft.NodeID{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if s.load[at] <= s.load[from]-2 {
			s.pass(from, at, by)
			return true
		}
		for _, i := range s.free {
			if s.leads[i] != at {
				continue
			}
			for _, to := range s.zones[i].may {
				if _, seen := by[to]; !seen {
					by[to] = i
					queue = append(queue, to)
				}
			}
		}
	}
	return false
}

// pass moves a zone along each step of the way.
func (s *spreading) pass(from, to nexusraft.NodeID, by map[nexusraft.NodeID]int) {
	s.load[from]--
	s.load[to]++
	for to != from {
		i := by[to]
		s.leads[i], to = to, s.leads[i]
	}
}
