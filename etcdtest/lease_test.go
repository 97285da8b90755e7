package etcdtest

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A lease as etcd's client has it, through the leader and through the follower.
func TestLease(t *testing.T) {
	onEach(t, func(t *testing.T, client *clientv3.Client) {
		ctx := within(t, 30*time.Second)
		granted, err := client.Grant(ctx, 60)
		if err != nil || granted.TTL != 60 || granted.ID <= 0 {
			t.Fatalf("grant: got %+v, %v", granted, err)
		}
		for _, key := range []string{"lease/b", "lease/a"} {
			if _, err := client.Put(ctx, key, "", clientv3.WithLease(granted.ID)); err != nil {
				t.Fatal(err)
			}
		}
		left, err := client.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())
		if err != nil || left.TTL < 50 || left.TTL > 60 || left.GrantedTTL != 60 || len(left.Keys) != 2 {
			t.Errorf("what is left: got %+v, %v", left, err)
		}
		if renewed, err := client.KeepAliveOnce(ctx, granted.ID); err != nil || renewed.TTL != 60 ||
			renewed.Revision < left.Revision {
			t.Errorf("keep alive: got %+v, %v", renewed, err)
		}
		if all, err := client.Leases(ctx); err != nil || len(all.Leases) == 0 {
			t.Errorf("list: got %+v, %v", all, err)
		}
		if _, err := client.Revoke(ctx, granted.ID); err != nil {
			t.Fatal(err)
		}
		if got, err := client.Get(ctx, "lease/", clientv3.WithPrefix()); err != nil || got.Count != 0 {
			t.Errorf("after the revoke: got %v, %v", got, err)
		}
		if left, err = client.TimeToLive(ctx, granted.ID); err != nil || left.TTL != -1 {
			t.Errorf("what is left of it: got %+v, %v", left, err)
		}
		if _, err := client.KeepAliveOnce(ctx, granted.ID); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			t.Errorf("keep it alive: got %v", err)
		}
		if _, err := client.Revoke(ctx, granted.ID); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			t.Errorf("revoke it: got %v", err)
		}
	})
}

// The leader is killed. The lease that etcd's client keeps alive stays, and its channel open; once it is let go, it
// ends, as does one that nobody has renewed.
func TestLeaseFailover(t *testing.T) {
	c := ownCluster(t)
	leader, follower, err := c.roles()
	if err != nil {
		t.Fatal(err)
	}
	c.awaitWitness(t)
	client := dial(t, leader.address, follower.address)
	ctx := within(t, time.Minute)
	grant := func(key string) clientv3.LeaseID {
		t.Helper()
		granted, err := client.Grant(ctx, 4)
		if err == nil {
			_, err = client.Put(ctx, key, "", clientv3.WithLease(granted.ID))
		}
		if err != nil {
			t.Fatal(err)
		}
		return granted.ID
	}
	kept := grant("kept")
	began := time.Now()
	grant("left")
	alive, err := client.KeepAlive(ctx, kept)
	if err != nil {
		t.Fatal(err)
	}
	leader.kill()
	reader := dial(t, follower.address)
	awaitNoKey(t, reader, "left")
	if took := time.Since(began); took < 4*time.Second {
		t.Errorf("a lease of 4 s ended after %v", took)
	}
	for range 5 {
		if got, ok := <-alive; !ok || got.TTL != 4 {
			t.Fatalf("the lease that is kept alive: got %+v, %t", got, ok)
		}
	}
	if got, err := reader.Get(ctx, "kept"); err != nil || got.Count != 1 {
		t.Errorf("the key that is kept: got %v, %v", got, err)
	}
	if err := client.Lease.Close(); err != nil {
		t.Fatal(err)
	}
	awaitNoKey(t, reader, "kept")
}

// awaitWitness waits until the witness runs, without which nobody is elected.
func (c *cluster) awaitWitness(t *testing.T) {
	t.Helper()
	err := poll("the witness runs", func() bool {
		zones, err := c.witness.zones()
		return err == nil && len(zones) > 0 && zones[0].Term > 0
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitNoKey waits until a key is gone.
func awaitNoKey(t *testing.T, client *clientv3.Client, key string) {
	t.Helper()
	err := poll("no key "+key, func() bool {
		got, err := client.Get(within(t, 5*time.Second), key)
		return err == nil && got.Count == 0
	})
	if err != nil {
		t.Fatal(err)
	}
}

// etcd 15247: the leader is stopped, and another one renews the lease. When the first one goes on, it does not revoke
// what has run out by its own memory.
func TestLeaseOfAStoppedLeader(t *testing.T) {
	c := ownCluster(t)
	leader, follower, err := c.roles()
	if err != nil {
		t.Fatal(err)
	}
	c.awaitWitness(t)
	ctx := within(t, time.Minute)
	granted, err := dial(t, leader.address).Grant(ctx, 3)
	if err != nil {
		t.Fatal(err)
	}
	client := dial(t, follower.address)
	if _, err := client.Put(ctx, "stopped", "", clientv3.WithLease(granted.ID)); err != nil {
		t.Fatal(err)
	}
	alive, err := client.KeepAlive(ctx, granted.ID)
	if err != nil {
		t.Fatal(err)
	}
	process := leader.cmd.Process
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for stopped := time.Now(); time.Since(stopped) < 5*time.Second; {
		if _, ok := <-alive; !ok {
			t.Error("the lease has ended while its leader was stopped")
			break
		}
	}
	if err := process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, ok := <-alive; !ok {
			t.Error("the lease has ended after its former leader went on")
			break
		}
	}
	if got, err := client.Get(ctx, "stopped"); err != nil || got.Count != 1 {
		t.Errorf("got %v, %v, want the key", got, err)
	}
}
