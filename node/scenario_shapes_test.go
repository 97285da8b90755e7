package node_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

// shapesCluster is two members, a witness, and two learners of the root zone: four nodes that hold data.
func shapesCluster(t *testing.T) (*cluster, []*member) {
	c := newCluster(t, func(config *node.Config) {
		config.Machines = map[string]nexusraft.StateMachine{"words": words{}}
		config.ElectionTicks = 20 // five nodes share the processors with those of other tests
	})
	nodes := []*member{c.named("n1"), c.named("n2"), c.join("n3", "n1"), c.join("n4", "n1")}
	for _, m := range nodes[2:] {
		waitRole(t, m, nexusraft.RoleLearner)
	}
	return c, nodes
}

// createShape makes a zone of a shape once the cluster has the nodes for it.
func (m *member) createShape(name string, spec node.ZoneSpec) (z *node.Zone) {
	m.t.Helper()
	spec.Machine = "words"
	eventually(m.t, "create zone "+name, func() (err error) {
		ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
		defer cancel()
		z, err = m.node.CreateZone(ctx, name, spec)
		return err
	})
	return z
}

func (m *member) info(id nexusraft.ZoneID) (info nexusraft.ZoneInfo) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("zone %v is known", id), func() error {
		ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
		defer cancel()
		all, err := m.node.Zones(ctx)
		i := slices.IndexFunc(all, func(z nexusraft.ZoneInfo) bool { return z.ID == id })
		if err == nil && i < 0 {
			err = fmt.Errorf("it is not among %+v", all)
		}
		if err == nil {
			info = all[i]
		}
		return err
	})
	return info
}

// reshape changes a zone, and waits until it is where it was placed.
func (m *member) reshape(id nexusraft.ZoneID, name string, want nexusraft.ZoneReshape) (info nexusraft.ZoneInfo) {
	m.t.Helper()
	m.decides(id, name, want)
	return m.awaitPlaced(id)
}

// decides changes a zone.
func (m *member) decides(id nexusraft.ZoneID, name string, want nexusraft.ZoneReshape) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("zone %s is asked to be %v", name, want), func() error {
		ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
		defer cancel()
		_, err := m.node.ReshapeZone(ctx, id, name, want)
		return err
	})
}

func (m *member) awaitPlaced(id nexusraft.ZoneID) (info nexusraft.ZoneInfo) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("zone %v is where it was placed", id), func() error {
		if info = m.info(id); info.Moving {
			return fmt.Errorf("it is under way: %+v", info)
		}
		return nil
	})
	return info
}

// awaitReplicas waits until those nodes have a replica of a zone that are to have one, with the roles that they are to
// have, and no others.
func awaitReplicas(t *testing.T, nodes []*member, info nexusraft.ZoneInfo) {
	t.Helper()
	for _, m := range nodes {
		eventually(t, m.config.Name+" has what it is to have", func() error {
			i := slices.IndexFunc(info.Placement, func(x nexusraft.Member) bool { return x.Node == m.node.ID() })
			z, err := m.node.Zone(info.ID)
			if err != nil {
				return err
			}
			s, err := z.Status(t.Context())
			switch {
			case i < 0 && !errors.Is(err, nexusraft.ErrNotLeader):
				return fmt.Errorf("it has %+v, %v; want no replica", s.Membership, err)
			case i >= 0 && (err != nil || s.Role != info.Placement[i].Role || s.Replica != info.Placement[i].Replica):
				return fmt.Errorf("it has %v, %v, %v; want %+v", s.Replica, s.Role, err, info.Placement[i])
			}
			return nil
		})
	}
}

// sets writes a word until that is acknowledged; it may be written more than once.
func (m *member) sets(id nexusraft.ZoneID, command string) {
	m.t.Helper()
	eventually(m.t, "set "+command, func() error {
		z, err := m.node.Zone(id)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
		defer cancel()
		_, err = z.Propose(ctx, nexusraft.RequestID{}, []byte(command))
		return err
	})
}

// wordsWriters write to a zone by each of some nodes until they are stopped; what was acknowledged is kept.
type wordsWriters struct {
	stop func()
	mu   sync.Mutex
	done map[string]string
}

func writeWords(t *testing.T, nodes []*member, id nexusraft.ZoneID) *wordsWriters {
	ctx, cancel := context.WithCancel(context.Background())
	w := &wordsWriters{done: make(map[string]string)}
	var running sync.WaitGroup
	w.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(w.stop)
	for _, m := range nodes {
		running.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				z, err := m.node.Zone(id)
				if err != nil {
					continue
				}
				key, value := fmt.Sprintf("%s-%d", m.config.Name, i), fmt.Sprint(i)
				one, end := context.WithTimeout(ctx, 5*time.Second)
				_, err = z.Propose(one, nexusraft.RequestID{}, []byte(key+"="+value))
				end()
				time.Sleep(5 * time.Millisecond) // not more than leaves the nodes their processors
				if err == nil {
					w.mu.Lock()
					w.done[key] = value
					w.mu.Unlock()
				}
			}
		})
	}
	return w
}

func (w *wordsWriters) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.done)
}

// more waits until n more writes were acknowledged.
func (w *wordsWriters) more(t *testing.T, n int) {
	t.Helper()
	least := w.count() + n
	eventually(t, "more writes", func() error {
		if now := w.count(); now < least {
			return fmt.Errorf("there are %d, want %d", now, least)
		}
		return nil
	})
}

// verify wants all that was acknowledged on a node.
func (w *wordsWriters) verify(t *testing.T, m *member, id nexusraft.ZoneID) {
	t.Helper()
	w.stop()
	eventually(t, "what was acknowledged is there", func() error {
		z, err := m.node.Zone(id)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		lost := 0
		err = z.Read(ctx, func(r nexusraft.Reader) error {
			for key, want := range w.done {
				if got, _, err := r.Get([]byte(key)); err != nil || string(got) != want {
					lost++
				}
			}
			return nil
		})
		if err == nil && lost > 0 {
			t.Fatalf("%d of %d writes that were acknowledged are lost", lost, len(w.done))
		}
		return err
	})
}

func shape(members, witnesses int) nexusraft.ZoneReshape {
	return nexusraft.ZoneReshape{ZonePlan: nexusraft.ZonePlan{
		Shape: nexusraft.Shape{Members: members, Witnesses: witnesses},
	}}
}

// Zones with shapes, one after the other, in one cluster: its nodes are many for a small machine.
func TestZonesOfOtherShapes(t *testing.T) {
	_, nodes := shapesCluster(t)
	reshapesUnderWrites(t, nodes)
	leavesItsLeader(t, nodes)
	onlyReplicaMoves(t, nodes)
	deletesWhileItMoves(t, nodes)
	nodes[0].deleteZones()
	leavesTheCluster(t, nodes)
}

// awaitWhole waits until a zone's leader says that the zone has all that its shape has.
func awaitWhole(t *testing.T, nodes []*member, id nexusraft.ZoneID) {
	t.Helper()
	eventually(t, "the zone is whole", func() error {
		z, err := leaderOf(t, nodes, id).node.Zone(id)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return z.AwaitWhole(ctx)
	})
}

// deleteZones deletes all zones.
func (m *member) deleteZones() {
	m.t.Helper()
	eventually(m.t, "all zones are deleted", func() error {
		ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
		defer cancel()
		all, err := m.node.Zones(ctx)
		if err != nil {
			return err
		}
		for _, z := range all {
			err = errors.Join(err, m.node.DeleteZone(ctx, z.ID, z.Name))
		}
		return err
	})
}

// A zone goes through the shapes that four nodes have room for, under writes by nodes that have a replica of it and by
// such that have none; none that was acknowledged is lost.
func reshapesUnderWrites(t *testing.T, nodes []*member) {
	t.Helper()
	z := nodes[0].createShape("orders-0", node.ZoneSpec{Members: 2, Witnesses: 1})
	w := writeWords(t, nodes[2:], z.ID())
	w.more(t, 20)
	shapes := []nexusraft.ZoneReshape{shape(3, 0), shape(1, 0), shape(4, 1), shape(2, 1), shape(1, 0), shape(3, 0)}
	for _, next := range shapes[:rounds(4, len(shapes))] {
		info := nodes[0].reshape(z.ID(), "orders-0", next)
		if got := len(info.Placement); got != next.Shape.Members+next.Shape.Witnesses || info.Shape != next.Shape {
			t.Fatalf("reshaped to %v: got %+v", next.Shape, info)
		}
		awaitReplicas(t, nodes, info)
		awaitWhole(t, nodes, z.ID())
		w.more(t, 20)
	}
	info := nodes[0].info(z.ID())
	for _, m := range nodes {
		if slices.ContainsFunc(info.Placement, func(x nexusraft.Member) bool { return x.Node == m.node.ID() }) {
			w.verify(t, m, z.ID())
		}
	}
}

// leaderOf waits until one of the nodes leads a zone, those except left out, and returns it.
func leaderOf(t *testing.T, nodes []*member, id nexusraft.ZoneID, except ...*member) (leader *member) {
	t.Helper()
	eventually(t, "the zone has a leader", func() error {
		var term nexusraft.Term
		leader = nil
		for _, m := range nodes {
			z, err := m.node.Zone(id)
			if err != nil || contains(except, m) {
				continue
			}
			if s, err := z.Status(t.Context()); err == nil && s.State == nexusraft.Leader && s.Term > term {
				leader, term = m, s.Term
			}
		}
		if leader == nil {
			return errors.New("nobody leads it")
		}
		return nil
	})
	return leader
}

// The leader of a zone is told that it is to go: it hands over, and its successor takes it out; under writes, and none
// that was acknowledged is lost.
func leavesItsLeader(t *testing.T, nodes []*member) {
	t.Helper()
	z := nodes[0].createShape("orders-1", node.ZoneSpec{Members: 3})
	w := writeWords(t, nodes[2:], z.ID())
	w.more(t, 20)
	for range rounds(1, 3) {
		leader := leaderOf(t, nodes, z.ID())
		info := leader.reshape(z.ID(), "orders-1", nexusraft.ZoneReshape{Off: leader.node.ID()})
		if len(info.Placement) != 3 {
			t.Fatalf("it is on %v, want 3 nodes", info.Placement)
		}
		awaitReplicas(t, nodes, info)
		w.more(t, 20)
		nodes[0].reshape(z.ID(), "orders-1", shape(3, 0)) // so that the node may have it again
	}
	w.verify(t, leaderOf(t, nodes, z.ID()), z.ID())
}

// One replica is moved to a node that is named, which leads it then: for a moment there are two.
func onlyReplicaMoves(t *testing.T, nodes []*member) {
	t.Helper()
	z := nodes[0].createShape("orders-2", node.ZoneSpec{Members: 1})
	w := writeWords(t, nodes[2:], z.ID())
	w.more(t, 20)
	for range rounds(1, 3) {
		leader := leaderOf(t, nodes, z.ID())
		to := nodes[(slices.Index(nodes, leader)+2)%len(nodes)].node.ID()
		info := leader.reshape(z.ID(), "orders-2", nexusraft.ZoneReshape{Off: leader.node.ID(), With: to})
		if len(info.Placement) != 1 || info.Placement[0].Node != to {
			t.Fatalf("it is on %v, want it on node %v", info.Placement, to)
		}
		awaitReplicas(t, nodes, info)
		w.more(t, 20)
	}
	w.verify(t, leaderOf(t, nodes, z.ID()), z.ID())
}

// Whoever leads a zone crashes while it moves, again and again: it gets where it is to be, with all that was
// acknowledged.
func TestLeadersCrashWhileAZoneMoves(t *testing.T) {
	c, nodes := shapesCluster(t)
	z := nodes[0].createShape("orders", node.ZoneSpec{Members: 3})
	w := writeWords(t, nodes[:1], z.ID())
	w.more(t, 5)
	w.stop()
	shapes := []nexusraft.ZoneReshape{shape(4, 1), shape(2, 1), shape(3, 0), shape(2, 1)}
	for i, next := range shapes[:rounds(2, len(shapes))] {
		leader := leaderOf(t, nodes, z.ID())
		at := slices.Index(nodes, leader)
		asked := nodes[(at+1)%len(nodes)]
		asked.decides(z.ID(), "orders", next)
		if i%2 == 1 { // it has begun
			eventually(t, "it moves", func() error {
				s := leader.info(z.ID())
				if zone, err := leader.node.Zone(z.ID()); err == nil && s.Moving {
					if now, err := zone.Status(t.Context()); err == nil && len(now.Membership.Members) == 4 {
						return fmt.Errorf("it has %v", now.Membership)
					}
				}
				return nil
			})
		}
		nodes[at] = c.start(c.crash(leader))
		info := asked.awaitPlaced(z.ID())
		awaitReplicas(t, nodes, info)
		asked.sets(z.ID(), fmt.Sprintf("after-%d=x", i))
	}
	w.verify(t, leaderOf(t, nodes, z.ID()), z.ID())
}

// A change that is under way to a node that is down is given up for another one; until then another one is refused.
func TestReshapeInsteadOfOneThatIsStuck(t *testing.T) {
	c, nodes := shapesCluster(t)
	z := nodes[0].createShape("orders", node.ZoneSpec{Members: 1})
	nodes[0].sets(z.ID(), "k=v")
	home := leaderOf(t, nodes, z.ID())
	down := nodes[3]
	if home == down {
		down = nodes[2]
	}
	c.isolate(down.config.Name, broken)
	preferred := shape(3, 0)
	preferred.Preferred = down.node.ID()
	home.decides(z.ID(), "orders", preferred)
	if info := home.info(z.ID()); !info.Moving {
		t.Fatalf("it is not under way: %+v", info)
	}
	eventually(t, "another change is refused", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		info, err := home.node.ReshapeZone(ctx, z.ID(), "orders", shape(2, 1))
		if err == nil {
			t.Fatalf("another change is made: %+v", info)
		}
		if !errors.Is(err, nexusraft.ErrRefused) {
			return err
		}
		return nil
	})
	home.decides(z.ID(), "orders", preferred) // which is under way
	instead := shape(1, 0)
	instead.Instead = true
	home.reshape(z.ID(), "orders", instead)
	c.isolate(down.config.Name, open)
	info := home.reshape(z.ID(), "orders", preferred)
	awaitReplicas(t, nodes, info)
	if got := reads(t, home.zoneOf(z.ID()), "k"); got != "v" {
		t.Errorf("got %q", got)
	}
	eventually(t, "the preferred node leads", func() error {
		if leader := leaderOf(t, nodes, z.ID()); leader != down {
			return fmt.Errorf("%s leads", leader.config.Name)
		}
		return nil
	})
}

// A zone that is deleted while it moves is gone from all nodes.
func deletesWhileItMoves(t *testing.T, nodes []*member) {
	t.Helper()
	z := nodes[0].createShape("orders-3", node.ZoneSpec{Members: 3})
	nodes[0].sets(z.ID(), "k=v")
	nodes[1].decides(z.ID(), "orders-3", shape(2, 1))
	eventually(t, "it is deleted", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := nodes[2].node.DeleteZone(ctx, z.ID(), "orders-3")
		if errors.Is(err, nexusraft.ErrRefused) { // an earlier try has done it
			return nil
		}
		return err
	})
	for _, m := range nodes {
		m.gone(z.ID())
	}
}

// Zones with a replica on each node get a shape, and a node that has a zone with a shape can't leave the cluster before
// that has left the node.
func leavesTheCluster(t *testing.T, nodes []*member) {
	t.Helper()
	z := nodes[0].create("orders-4", "words")
	nodes[0].sets(z.ID(), "k=v")
	leaves := nodes[3]
	plan := shape(3, 0)
	plan.Preferred = leaves.node.ID()
	eventually(t, "each node has a replica", func() error {
		s, err := leaderOf(t, nodes, z.ID()).zoneOf(z.ID()).Status(t.Context())
		if err == nil && len(s.Membership.Members) != 5 {
			err = fmt.Errorf("they are %v", s.Membership.Members)
		}
		return err
	})
	awaitReplicas(t, nodes, nodes[0].reshape(z.ID(), "orders-4", plan))
	change := nexusraft.MembershipChange{Remove: leaves.node.ID()}
	root := leaderOf(t, nodes, nexusraft.RootZone)
	if _, err := root.zone().ChangeMembership(t.Context(), change); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("remove a node with a placement: got %v", err)
	}
	leader := leaderOf(t, nodes, z.ID())
	if _, err := leader.zoneOf(z.ID()).ChangeMembership(t.Context(), change); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("change the members of a zone with a shape: got %v", err)
	}
	info := nodes[0].reshape(z.ID(), "orders-4", nexusraft.ZoneReshape{Off: leaves.node.ID()})
	if info.Preferred != 0 || len(info.Placement) != 3 {
		t.Errorf("off its node: got %+v", info)
	}
	awaitReplicas(t, nodes, info)
	eventually(t, "the node leaves the cluster", func() error {
		root := leaderOf(t, nodes, nexusraft.RootZone)
		_, err := root.zone().ChangeMembership(t.Context(), change)
		return err
	})
	leaves.fenced("was removed")
	nodes = nodes[:3]
	awaitReplicas(t, nodes, nodes[0].awaitPlaced(z.ID()))
	leaves = nodes[2] // nobody takes its place, nor does it itself
	info = nodes[0].reshape(z.ID(), "orders-4", nexusraft.ZoneReshape{Off: leaves.node.ID()})
	if len(info.Placement) != 2 {
		t.Errorf("off a node that nobody can replace: got %+v", info)
	}
	awaitReplicas(t, nodes, info)
	change.Remove = leaves.node.ID()
	eventually(t, "that node leaves the cluster, too", func() error {
		root := leaderOf(t, nodes, nexusraft.RootZone)
		_, err := root.zone().ChangeMembership(t.Context(), change)
		return err
	})
	leaves.fenced("was removed")
	if got := reads(t, nodes[0].zoneOf(z.ID()), "k"); got != "v" {
		t.Errorf("got %q", got)
	}
}

// A spare takes the place of a node that is silent for as long as the configuration says; one that comes back has no
// replica any more.
func TestSpareTakesThePlace(t *testing.T) {
	c := newCluster(t, func(config *node.Config) {
		config.Machines = map[string]nexusraft.StateMachine{"words": words{}}
		config.ElectionTicks = 20 // five nodes share the processors with those of other tests
		config.SpareAfter = 5 * time.Second
	})
	nodes := []*member{c.named("n1"), c.named("n2"), c.join("n3", "n1"), c.join("n4", "n1")}
	for _, m := range nodes[2:] {
		waitRole(t, m, nexusraft.RoleLearner)
	}
	z := nodes[0].createShape("orders", node.ZoneSpec{Members: 3, Spare: true, Preferred: nodes[2].node.ID()})
	nodes[0].sets(z.ID(), "k=v")
	lost := nodes[2]
	c.isolate("n3", broken)
	eventually(t, "a spare takes the place", func() error {
		info := nodes[0].info(z.ID())
		isLost := func(m nexusraft.Member) bool { return m.Node == lost.node.ID() }
		if info.Moving || slices.ContainsFunc(info.Placement, isLost) {
			return fmt.Errorf("it is on %v, moving %v", info.Placement, info.Moving)
		}
		return nil
	})
	c.isolate("n3", open)
	awaitReplicas(t, nodes, nodes[0].info(z.ID()))
	nodes[0].sets(z.ID(), "k=w")
	for _, m := range nodes {
		if s, err := m.node.Status(t.Context()); err != nil || !s.Healthy {
			t.Errorf("%s: healthy %v, %s, %v", m.config.Name, s.Healthy, s.Problem, err)
		}
	}
}
