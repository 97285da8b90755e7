package node_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/kv/lessor"
	"github.com/nexi-lab/nexus-raft/node"
)

// newLeaseCluster is newKVCluster with lessors, by the names of their nodes.
func newLeaseCluster(t *testing.T) (*cluster, map[string]*lessor.Lessor) {
	t.Helper()
	lessors := make(map[string]*lessor.Lessor)
	var latest string
	c := emptyCluster(t, func(n *node.Config) {
		latest = n.Name
		lessors[latest] = lessor.New(lessor.Options{Logger: n.Logger})
		n.StateMachine, n.ServerOptions, n.Answer = kv.StateMachine{}, etcd.Options(), lessors[latest].Answer
	})
	var running sync.WaitGroup
	t.Cleanup(running.Wait) // once the nodes have ended
	c.services = func(n *node.Node) func(grpc.ServiceRegistrar) {
		l := lessors[latest]
		running.Go(func() { l.Run(context.Background(), n) })
		return etcd.Config{Lessor: l}.Services(n)
	}
	return c.populate(), lessors
}

// grantWithKey grants a lease with a key on it.
func grantWithKey(t *testing.T, m *member, l *lessor.Lessor, id, ttl int64) {
	t.Helper()
	eventually(t, fmt.Sprintf("grant lease %d", id), func() error {
		_, err := l.Grant(t.Context(), nexusraft.RootZone, id, ttl)
		if errors.Is(err, kv.ErrLeaseExists) {
			return nil
		}
		return err
	})
	command, err := kv.EncodePut(&etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "key%d", id), Lease: id})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "put with a lease", func() error {
		result, err := m.zone().ProposeOnce(t.Context(), nexusraft.RequestID{}, command)
		if err == nil {
			_, err = kv.DecodePutResult(result.Data)
		}
		return err
	})
}

// hasKey reports whether the lease's key is there.
func (m *member) hasKey(id int64) (there bool) {
	m.read(func(r nexusraft.Reader) error {
		resp, err := kv.Range(r, &etcdserverpb.RangeRequest{Key: fmt.Appendf(nil, "key%d", id)})
		there = err == nil && resp.Count == 1
		return err
	})
	return there
}

// The leader crashes. A lease that is renewed through the other member stays, one that is not goes with its key, in
// time and not before; what was left of neither was lost.
func TestLeasesWhenTheLeaderCrashes(t *testing.T) {
	c, lessors := newLeaseCluster(t)
	leader := c.awaitSync()
	other := c.other(leader)
	l := lessors[other.config.Name]
	grantWithKey(t, other, l, 1, 3)
	began := time.Now()
	grantWithKey(t, other, l, 2, 3)
	ctx, stop := context.WithCancel(t.Context())
	var renewing sync.WaitGroup
	answered := 0
	renewing.Go(func() {
		for ctx.Err() == nil {
			if ttl, err := l.Renew(ctx, nexusraft.RootZone, 1); err == nil && ttl != 3 {
				t.Errorf("a renewal is answered with %d", ttl)
				return
			} else if err == nil {
				answered++
			}
		}
	})
	c.crash(leader)
	for other.hasKey(2) {
		if took := time.Since(began); took > patience {
			t.Fatalf("after %v the lease is there", took)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("the lease of 3 s is gone after %v", took)
	}
	if !other.hasKey(1) {
		t.Error("the lease that was renewed is gone")
	}
	if left, err := l.TimeToLive(t.Context(), nexusraft.RootZone, 1); err != nil || left.TTL != 3 || left.Seconds > 3 {
		t.Errorf("got %+v, %v", left, err)
	}
	stop()
	renewing.Wait()
	if answered < 10 {
		t.Errorf("%d renewals were answered", answered)
	}
	eventually(t, "the other lease goes, too", func() error {
		if other.hasKey(1) {
			return errors.New("it is there")
		}
		return nil
	})
	if ttl, err := l.Renew(t.Context(), nexusraft.RootZone, 1); ttl != 0 || err != nil {
		t.Errorf("gone: got %d, %v", ttl, err)
	}
}
