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
	eventually(m.t, fmt.Sprintf("zone %s is asked to be %v", name, want), func() error {
		ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
		defer cancel()
		_, err := m.node.ReshapeZone(ctx, id, name, want)
		return err
	})
	return m.awaitPlaced(id)
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

// A zone goes through all shapes that four nodes have room for, under writes by nodes that have a replica of it and by
// such that have none; none that was acknowledged is lost.
func TestZoneIsReshapedUnderWrites(t *testing.T) {
	_, nodes := shapesCluster(t)
	z := nodes[0].createShape("orders", node.ZoneSpec{Members: 2, Witnesses: 1})
	w := writeWords(t, nodes, z.ID())
	w.more(t, 50)
	for _, next := range []nexusraft.ZoneReshape{shape(3, 0), shape(1, 0), shape(4, 1), shape(1, 0), shape(3, 0), shape(2, 1)} {
		info := nodes[0].reshape(z.ID(), "orders", next)
		if got := len(info.Placement); got != next.Shape.Members+next.Shape.Witnesses || info.Shape != next.Shape {
			t.Fatalf("reshaped to %v: got %+v", next.Shape, info)
		}
		awaitReplicas(t, nodes, info)
		w.more(t, 50)
	}
	info := nodes[0].info(z.ID())
	for _, m := range nodes {
		if slices.ContainsFunc(info.Placement, func(x nexusraft.Member) bool { return x.Node == m.node.ID() }) {
			w.verify(t, m, z.ID())
		}
	}
}
