package demo

import (
	"context"
	"fmt"
	"strings"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// survey is what the units say of the root zone, all asked at the same time.
type survey struct {
	zones  map[*unit]nexusraft.ZoneStatus // of those that answered and have the zone
	errs   map[*unit]error                // of the others
	leader *unit                          // the one that leads in the newest term; nil if none says so
}

func (c *cluster) survey(ctx context.Context) survey {
	v := survey{zones: make(map[*unit]nexusraft.ZoneStatus), errs: make(map[*unit]error)}
	var mu sync.Mutex
	var asked sync.WaitGroup
	for _, u := range c.units {
		asked.Go(func() {
			z, err := c.zone(ctx, u)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				v.errs[u] = err
				return
			}
			v.zones[u] = z
		})
	}
	asked.Wait()
	for u, z := range v.zones {
		if z.State == nexusraft.Leader && (v.leader == nil || z.Term > v.zones[v.leader].Term) {
			v.leader = u
		}
	}
	return v
}

func (c *cluster) zone(ctx context.Context, u *unit) (nexusraft.ZoneStatus, error) {
	s, err := c.ask(ctx, u)
	if err != nil {
		return nexusraft.ZoneStatus{}, err
	}
	for _, z := range s.Zones {
		if z.Zone == nexusraft.RootZone {
			return z, nil
		}
	}
	return nexusraft.ZoneStatus{}, fmt.Errorf("%s has no replica of the root zone", u.name)
}

// inSync returns what is missing until the zone has its whole shape, every unit follows
// the same leader, and every write that the leader acknowledges is on both members; nil
// if nothing is.
func (v survey) inSync() error {
	for u, err := range v.errs {
		return fmt.Errorf("%s: %w", u.name, err)
	}
	if v.leader == nil {
		return fmt.Errorf("no leader (%v)", v)
	}
	z := v.zones[v.leader]
	if m, w := z.Membership.Count(nexusraft.RoleMember), z.Membership.Count(nexusraft.RoleWitness); m != 2 || w != 1 {
		return fmt.Errorf("the zone has %d members and %d witnesses (%v)", m, w, v)
	}
	for u, x := range v.zones {
		if x.Term != z.Term || x.Leader != z.Replica {
			return fmt.Errorf("%s does not follow %s (%v)", u.name, v.leader.name, v)
		}
	}
	for _, r := range z.Replicas {
		if !r.Active && r.Replica != z.Replica {
			return fmt.Errorf("%s does not hear from %s (%v)", v.leader.name, r.Name, v)
		}
	}
	if z.Sync != nexusraft.InSync {
		return fmt.Errorf("the zone is %q (%v)", z.Sync, v)
	}
	return nil
}

// role names what u is, for people.
func (v survey) role(u *unit) string {
	switch {
	case u.witness:
		return "the witness"
	case u == v.leader:
		return fmt.Sprintf("the leader of term %d", v.zones[u].Term)
	}
	return "the follower"
}

// String is for errors.
func (v survey) String() string {
	var parts []string
	for u, z := range v.zones {
		parts = append(parts, fmt.Sprintf("%s: %s %s term %d leader %v commit %d applied %d last %d",
			u.name, z.Role, z.State, z.Term, z.Leader, z.Commit, z.Applied, z.LastIndex))
	}
	for u := range v.errs {
		parts = append(parts, u.name+": no answer")
	}
	return strings.Join(parts, "; ")
}

// awaitInSync waits until the zone is in sync and returns how it stands.
func (c *cluster) awaitInSync(ctx context.Context) (survey, error) {
	var v survey
	err := c.await(ctx, "the zone is in sync", syncTimeout, func(ctx context.Context) (string, bool) {
		v = c.survey(ctx)
		if err := v.inSync(); err != nil {
			return err.Error(), false
		}
		return "", true
	})
	return v, err
}
