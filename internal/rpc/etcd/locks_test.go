package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/feed"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd/concurrency"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd/concurrency/v3electionpb"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd/concurrency/v3lockpb"
	"github.com/nexi-lab/nexus-raft/kv"
)

// locks are two members' services over one zone that commits at once.
type locks struct {
	t    *testing.T
	zone *fakeZone
	keys *KV
	at   [2]*concurrency.Concurrency
}

func newLocks(t *testing.T) *locks {
	z := newZone()
	z.version = kv.VersionLeases
	l := &locks{t: t, zone: z}
	zones := fakeZones{nexusraft.RootZone: z}
	l.keys = NewKV(zones, func() Identity { return Identity{1, 2} }, Config{})
	for i := range l.at {
		feeds := feed.New(func(nexusraft.ZoneID) (feed.Zone, error) { return z, nil })
		l.at[i] = newConcurrency(l.keys, feeds)
	}
	l.propose(kv.EncodePut(&etcdserverpb.PutRequest{Key: []byte("a key of others")}))
	return l
}

func (l *locks) propose(command []byte, err error) {
	l.t.Helper()
	if err == nil {
		_, err = l.zone.ProposeOnce(l.t.Context(), nexusraft.RequestID{}, command)
	}
	if err != nil {
		l.t.Error(err)
	}
}

func (l *locks) grant(ids ...int64) {
	for _, id := range ids {
		l.propose(kv.EncodeGrant(id, 60))
	}
}

func (l *locks) revoke(id int64) { l.propose(kv.EncodeRevoke(id, 0), nil) }

// get returns the pairs under a prefix.
func (l *locks) get(prefix string) []string {
	l.t.Helper()
	resp, err := l.keys.Range(l.t.Context(), &etcdserverpb.RangeRequest{
		Key: []byte(prefix), RangeEnd: []byte(prefix + "\xff"),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	var all []string
	for _, pair := range resp.Kvs {
		all = append(all, string(pair.Key))
	}
	return all
}

// waiting is a call of Lock.
type waiting struct {
	cancel context.CancelFunc
	resp   *v3lockpb.LockResponse
	err    error
	done   chan struct{}
}

func (w *waiting) ended() bool {
	synctest.Wait()
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func (l *locks) lock(member int, name string, lease int64) *waiting {
	ctx, cancel := context.WithCancel(l.t.Context())
	w := &waiting{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.resp, w.err = l.at[member].Lock(handling(ctx), &v3lockpb.LockRequest{Name: []byte(name), Lease: lease})
	}()
	synctest.Wait()
	return w
}

func (l *locks) holds(w *waiting, want bool) {
	l.t.Helper()
	if got := w.ended() && w.err == nil; got != want {
		l.t.Fatalf("it holds the lock: %t, %v, want %t", got, w.err, want)
	}
}

func (l *locks) unlock(w *waiting) {
	l.t.Helper()
	if _, err := l.at[0].Unlock(handling(l.t.Context()), &v3lockpb.UnlockRequest{Key: w.resp.Key}); err != nil {
		l.t.Error(err)
	}
}

// onLocks runs a test, all of whose calls have ended by its end.
func onLocks(t *testing.T, f func(*testing.T, *locks)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newLocks(t)) })
}

// Who waits gets the lock in the order in which the keys were created, at whatever member, and no other wakes.
func TestLockIsHandedOver(t *testing.T) {
	onLocks(t, func(t *testing.T, l *locks) {
		l.grant(0x1f, 2, 3)
		first, second, third := l.lock(0, "a", 0x1f), l.lock(1, "a", 2), l.lock(0, "a", 3)
		l.holds(first, true)
		if string(first.resp.Key) != "a/1f" || first.resp.Header.GetMemberId() != 2 || first.resp.Header.Revision == 0 {
			t.Errorf("got %v", first.resp)
		}
		l.holds(second, false)
		reads := l.zone.reads
		for range 100 { // what others write wakes nobody
			l.propose(kv.EncodePut(&etcdserverpb.PutRequest{Key: []byte("other")}))
		}
		synctest.Wait()
		if l.zone.reads != reads {
			t.Errorf("%d reads for what others have written", l.zone.reads-reads)
		}
		l.unlock(first)
		l.holds(second, true)
		l.holds(third, false)
		l.revoke(2) // the holder's lease ends
		l.holds(third, true)
		l.unlock(third)
		if left := l.get("a/"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}

// A caller that gives up leaves nothing behind, and who comes after it waits for the one before it.
func TestLockIsGivenUp(t *testing.T) {
	onLocks(t, func(t *testing.T, l *locks) {
		l.grant(1, 2, 3)
		first, second, third := l.lock(0, "a", 1), l.lock(0, "a", 2), l.lock(1, "a", 3)
		second.cancel()
		if !second.ended() || status.Code(second.err) != codes.Canceled {
			t.Errorf("got %v, want Canceled", second.err)
		}
		if got := l.get("a/"); len(got) != 2 {
			t.Errorf("left: %q", got)
		}
		l.holds(third, false)
		l.unlock(first)
		l.holds(third, true)
	})
}

// A caller whose own key goes is told at once, and not when it would be its turn.
func TestLockWhoseLeaseEndsMeanwhile(t *testing.T) {
	onLocks(t, func(t *testing.T, l *locks) {
		l.grant(1, 2)
		l.lock(0, "a", 1)
		second := l.lock(0, "a", 2)
		l.revoke(2)
		if !second.ended() || !strings.Contains(status.Convert(second.err).Message(), "session is expired") {
			t.Errorf("got %v, want an expired session", second.err)
		}
		third := l.lock(0, "a", 2)
		if !third.ended() || status.Code(third.err) != codes.NotFound {
			t.Errorf("a lease that has ended: got %v, want NotFound", third.err)
		}
	})
}

// Calls with one lease are one holder. The one that gives up does not take the place from the one that has come after
// it, at another member perhaps, nor from one that has the lock by then.
func TestLocksWithOneLease(t *testing.T) {
	onLocks(t, func(t *testing.T, l *locks) {
		l.grant(1, 2)
		first := l.lock(0, "a", 1)
		l.holds(l.lock(1, "a", 1), true)
		old, again := l.lock(0, "a", 2), l.lock(1, "a", 2)
		old.cancel()
		if !old.ended() {
			t.Fatal("a call that was cancelled goes on")
		}
		l.holds(again, false)
		l.unlock(first)
		l.holds(again, true)
		if got := l.get("a/"); len(got) != 1 {
			t.Errorf("left: %q", got)
		}
	})
	onLocks(t, func(t *testing.T, l *locks) { // the later one gives up
		l.grant(1, 2)
		first := l.lock(0, "a", 1)
		old, again := l.lock(0, "a", 2), l.lock(1, "a", 2)
		l.unlock(first)
		l.holds(old, true)
		l.holds(again, true)
		again.cancel()
		if got := l.get("a/"); len(got) != 1 {
			t.Errorf("left: %q", got)
		}
	})
}

// A call with the lease of one that holds the lock, or a call that shares its key and can't see any more that it
// does, has the lock too, or fails: it never takes the lock from the holder.
func TestLockIsNotHeldTwiceWithOneLease(t *testing.T) {
	onLocks(t, func(t *testing.T, l *locks) { // the holder's reads and the second call's fail
		l.grant(1, 2)
		l.holds(l.lock(0, "a", 1), true)
		third := l.lock(0, "a", 2)
		l.zone.failReads(nexusraft.ErrNotLeader)
		l.holds(l.lock(1, "a", 1), true)
		l.zone.failReads(nil)
		time.Sleep(time.Minute)
		l.holds(third, false)
		if got := l.get("a/"); len(got) != 2 {
			t.Errorf("left: %q", got)
		}
	})
	onLocks(t, func(t *testing.T, l *locks) { // an etcd client holds it, who does not write the key again
		l.grant(1, 2, 3)
		l.at[1] = newConcurrency(l.keys, deaf{})
		first := l.lock(0, "a", 1)
		l.propose(kv.EncodePut(&etcdserverpb.PutRequest{Key: []byte("a/2"), Lease: 2}))
		shares := l.lock(1, "a", 2)
		third := l.lock(0, "a", 3)
		l.unlock(first)
		shares.cancel()
		if !shares.ended() || shares.err == nil {
			t.Error("a call that was cancelled has not failed")
		}
		l.holds(third, false)
		if got := l.get("a/"); len(got) != 2 {
			t.Errorf("left: %q", got)
		}
	})
	onLocks(t, func(t *testing.T, l *locks) { // nobody holds it: the last one to give up leaves nothing
		l.grant(1, 2)
		first := l.lock(0, "a", 1)
		old, again := l.lock(0, "a", 2), l.lock(1, "a", 2)
		old.cancel()
		again.cancel()
		if !old.ended() || !again.ended() {
			t.Error("a call that was cancelled goes on")
		}
		if got := l.get("a/"); len(got) != 1 {
			t.Errorf("left: %q", got)
		}
		l.unlock(first)
	})
}

// deaf is a feed that is far behind.
type deaf struct{}

func (deaf) Next(ctx context.Context, _ nexusraft.ZoneID, _ int64, _ feed.Want) (feed.Batch, error) {
	<-ctx.Done()
	return feed.Batch{}, context.Cause(ctx)
}

// A call at a member that is behind gives up, while another with its lease has the lock already.
func TestLocksWithOneLeaseAtAMemberThatIsBehind(t *testing.T) {
	onLocks(t, func(t *testing.T, l *locks) {
		l.grant(1, 2)
		l.at[1] = newConcurrency(l.keys, deaf{})
		first := l.lock(0, "a", 1)
		old, again := l.lock(0, "a", 2), l.lock(1, "a", 2)
		l.unlock(first)
		l.holds(old, true)
		again.cancel()
		if !again.ended() || again.err == nil {
			t.Error("a call that was cancelled has not failed")
		}
		if got := l.get("a/"); len(got) != 1 {
			t.Errorf("left: %q", got)
		}
	})
}

// A name is any bytes, and counts with the slash after it. As in etcd a lock waits for those whose names begin so.
func TestNamesOfLocks(t *testing.T) {
	onLocks(t, func(t *testing.T, l *locks) {
		l.grant(1, 2, 3, 4, 5, 6, 7)
		inner := l.lock(0, "a/b", 1)
		l.holds(inner, true)
		l.holds(l.lock(0, "ab", 2), true)
		outer := l.lock(0, "a", 3)
		l.holds(outer, false)
		l.unlock(inner)
		l.holds(outer, true)
		l.holds(l.lock(0, "a/b", 4), true)
		l.holds(l.lock(0, "a\x00\xff", 5), true)
		l.holds(l.lock(0, "", 6), true)
		long := l.lock(0, strings.Repeat("x", 5000), 7)
		if !long.ended() || status.Code(long.err) != codes.InvalidArgument {
			t.Errorf("a name of 5,000 bytes: got %v", long.err)
		}
	})
}

// A caller without a lease gets one of a minute, which goes with its call if that fails.
func TestLockWithoutALease(t *testing.T) {
	onLocks(t, func(t *testing.T, l *locks) {
		first := l.lock(0, "a", 0)
		l.holds(first, true)
		second := l.lock(0, "a", 0)
		second.cancel()
		if !second.ended() {
			t.Fatal("a call that was cancelled goes on")
		}
		err := l.zone.ReadLocal(t.Context(), func(r nexusraft.Reader) error {
			n := 0
			err := kv.Leases(r, func(got kv.Lease) error {
				if n++; got.TTL != 60 {
					t.Errorf("a lease of %d s", got.TTL)
				}
				return nil
			})
			if n != 1 {
				t.Errorf("%d leases, want the holder's", n)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		l.unlock(first)
	})
}

// A key whose put or delete meets a change of the leader is known all the same, and goes.
func TestLockWhileTheLeaderChanges(t *testing.T) {
	for name, lost := range map[string]error{"not run": nexusraft.ErrNotLeader, "unknown": nexusraft.ErrUncertain} {
		onLocks(t, func(t *testing.T, l *locks) {
			l.grant(1, 2)
			l.holds(l.lock(0, "a", 1), true)
			second := l.lock(1, "a", 2)
			l.zone.fail(lost)
			second.cancel()
			time.Sleep(time.Second)
			l.zone.fail(nil)
			time.Sleep(time.Second)
			if got := l.get("a/"); !second.ended() || len(got) != 1 {
				t.Errorf("%s: left: %q", name, got)
			}
		})
	}
	onLocks(t, func(t *testing.T, l *locks) {
		l.grant(1)
		l.zone.fail(nexusraft.ErrUncertain)
		first := l.lock(0, "a", 1)
		time.Sleep(time.Second)
		l.zone.fail(nil)
		time.Sleep(time.Second)
		l.holds(first, true)
	})
}

// Once it is unknown whether a key was written, no later attempt's error says that it was not.
func TestLockWhoseKeyMayBeThere(t *testing.T) {
	for name, later := range map[string]error{
		"no leader": nexusraft.ErrNotLeader, "overloaded": nexusraft.ErrOverloaded, "closed": nexusraft.ErrClosed,
	} {
		onLocks(t, func(t *testing.T, l *locks) { // for good
			l.grant(1)
			l.zone.fail(nexusraft.ErrUncertain)
			first := l.lock(0, "a", 1)
			l.zone.fail(later)
			time.Sleep(11 * time.Second)
			if !first.ended() || status.Code(first.err) != codes.Unknown {
				t.Errorf("%s: got %v, want Unknown", name, first.err)
			}
		})
		if later == nexusraft.ErrClosed {
			continue
		}
		onLocks(t, func(t *testing.T, l *locks) { // for a while
			l.grant(1)
			l.zone.fail(nexusraft.ErrUncertain)
			first := l.lock(0, "a", 1)
			l.zone.fail(later)
			time.Sleep(time.Second)
			l.zone.fail(nil)
			time.Sleep(time.Second)
			l.holds(first, true)
		})
	}
}

// A node that is closed is not asked again: nothing that waits delays its stop.
func TestLockWhileTheNodeStops(t *testing.T) {
	onLocks(t, func(t *testing.T, l *locks) {
		l.grant(1, 2)
		l.holds(l.lock(0, "a", 1), true)
		second := l.lock(0, "a", 2)
		l.zone.fail(nexusraft.ErrClosed)
		second.cancel()
		if !second.ended() {
			t.Error("a call that was cancelled goes on at a node that is closed")
		}
		time.Sleep(11 * time.Second)
	})
}

// A caller's session is its own: what Lock does inside is no part of it.
func TestLockInASession(t *testing.T) {
	onLocks(t, func(t *testing.T, l *locks) {
		l.grant(1)
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("nexus-session", "71/3"))
		_, err := l.at[0].Lock(handling(ctx), &v3lockpb.LockRequest{Name: []byte("a"), Lease: 1})
		if err != nil || l.zone.request != (nexusraft.RequestID{}) {
			t.Errorf("got %v, request %v", err, l.zone.request)
		}
	})
}

// Whatever is cancelled, unlocked and revoked, in whatever order: no two hold the lock at a time, each holder has a
// larger revision than the ones before it, and nobody waits for ever.
func TestMutualExclusion(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			l := newLocks(t)
			h := &holders{t: t}
			var ended sync.WaitGroup
			for i := range int64(8) {
				ended.Go(func() { h.use(l, rand.New(rand.NewPCG(seed, uint64(i))), i+1) })
			}
			ended.Wait()
			if got := l.get("a/"); len(got) > 0 || h.had == 0 {
				t.Errorf("seed %d: left %q, held %d times", seed, got, h.had)
			}
		})
	}
}

// holders knows who holds the lock.
type holders struct {
	t      *testing.T
	mu     sync.Mutex
	holder int64
	newest int64
	had    int
}

// use takes the lock a few times, gives up now and then, and loses its lease now and then.
func (h *holders) use(l *locks, r *rand.Rand, lease int64) {
	for range 5 {
		lease += 100
		l.grant(lease)
		time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
		ctx, cancel := context.WithTimeout(h.t.Context(), time.Duration(1+r.IntN(100))*time.Millisecond)
		resp, err := l.at[r.IntN(2)].Lock(handling(ctx), &v3lockpb.LockRequest{Name: []byte("a"), Lease: lease})
		cancel()
		if err != nil {
			continue
		}
		h.enter(l, lease, string(resp.Key))
		time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
		h.leave(lease)
		if r.IntN(2) == 0 {
			l.revoke(lease)
		} else if _, err := l.at[0].Unlock(handling(h.t.Context()), &v3lockpb.UnlockRequest{Key: resp.Key}); err != nil {
			h.t.Error(err)
		}
	}
}

func (h *holders) enter(l *locks, lease int64, key string) {
	resp, err := l.keys.Range(h.t.Context(), &etcdserverpb.RangeRequest{Key: []byte(key)})
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err != nil || len(resp.Kvs) != 1:
		h.t.Errorf("the key of lease %d is not there: %v", lease, err)
	case h.holder != 0:
		h.t.Errorf("lease %d holds the lock while lease %d does", lease, h.holder)
	case resp.Kvs[0].CreateRevision <= h.newest:
		h.t.Errorf("revision %d after %d", resp.Kvs[0].CreateRevision, h.newest)
	default:
		h.newest = resp.Kvs[0].CreateRevision
	}
	h.holder, h.had = lease, h.had+1
}

func (h *holders) leave(int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holder = 0
}

// What ends the changes of a zone ends those who wait for them; a compaction does not.
func TestLockWhileChangesEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want codes.Code
	}{
		"compacted": {kv.ErrCompacted, codes.OK}, "closed": {nexusraft.ErrClosed, codes.Unavailable},
		"over budget": {&budget.Exceeded{}, codes.ResourceExhausted},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLocks(t)
			l.grant(1, 2)
			feeds := feed.New(func(nexusraft.ZoneID) (feed.Zone, error) { return l.zone, nil })
			failing := &failingOnce{ChangeReader: feeds, err: tc.err}
			l.at[1] = newConcurrency(l.keys, failing)
			first, second := l.lock(0, "a", 1), l.lock(1, "a", 2)
			l.unlock(first)
			if !second.ended() || status.Code(second.err) != tc.want {
				t.Errorf("%s: got %v, want %v", name, second.err, tc.want)
			}
		})
	}
}

// failingOnce fails once.
type failingOnce struct {
	concurrency.ChangeReader
	mu  sync.Mutex
	err error
}

func (f *failingOnce) Next(ctx context.Context, z nexusraft.ZoneID, after int64, w feed.Want) (feed.Batch, error) {
	f.mu.Lock()
	err := f.err
	f.err = nil
	f.mu.Unlock()
	if err != nil {
		return feed.Batch{}, err
	}
	return f.ChangeReader.Next(ctx, z, after, w)
}

// observed is the stream of an Observe.
type observed struct {
	grpc.ServerStream
	ctx context.Context
	mu  sync.Mutex
	all []string
}

func (o *observed) Context() context.Context { return o.ctx }

func (o *observed) Send(r *v3electionpb.LeaderResponse) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r.Header.GetRevision() < r.Kv.ModRevision || r.Header.MemberId == 0 || r.Header.RaftTerm == 0 {
		return errors.New("a header without what it has")
	}
	o.all = append(o.all, fmt.Sprintf("%s=%s", r.Kv.Key, r.Kv.Value))
	return nil
}

func (o *observed) has(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	if got := strings.Join(o.all, " "); got != want {
		t.Errorf("observed %q, want %q", got, want)
	}
}

// An election from its first candidate to its last, as an observer sees it, over a compaction, too.
func TestElection(t *testing.T) {
	onLocks(t, func(t *testing.T, l *locks) {
		s, ctx, name := l.at[0], handling(t.Context()), []byte("e")
		l.grant(1, 2)
		if _, err := s.Leader(ctx, &v3electionpb.LeaderRequest{Name: name}); err == nil ||
			status.Convert(err).Message() != "election: no leader" {
			t.Errorf("got %v, want no leader", err)
		}
		watching, stop := context.WithCancel(ctx)
		o := &observed{ctx: watching}
		ended := make(chan error, 1)
		go func() { ended <- l.at[1].Observe(&v3electionpb.LeaderRequest{Name: name}, o) }()
		o.has(t, "")
		first, err := s.Campaign(ctx, &v3electionpb.CampaignRequest{Name: name, Lease: 1, Value: []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		o.has(t, "e/1=x")
		second := make(chan *v3electionpb.CampaignResponse, 1)
		go func() {
			resp, err := l.at[1].Campaign(ctx, &v3electionpb.CampaignRequest{Name: name, Lease: 2, Value: []byte("y")})
			if err != nil {
				t.Error(err)
			}
			second <- resp
		}()
		synctest.Wait()
		for _, v := range []string{"x2", "x3"} {
			if _, err := s.Proclaim(ctx, &v3electionpb.ProclaimRequest{Leader: first.Leader, Value: []byte(v)}); err != nil {
				t.Error(err)
			}
		}
		o.has(t, "e/1=x e/1=x2 e/1=x3")
		l.propose(kv.EncodeCompact(&etcdserverpb.CompactionRequest{Revision: first.Header.Revision + 2}))
		if _, err := s.Resign(ctx, &v3electionpb.ResignRequest{Leader: first.Leader}); err != nil {
			t.Error(err)
		}
		next := <-second
		if next.Leader.Rev <= first.Leader.Rev || string(next.Leader.Key) != "e/2" || next.Leader.Lease != 2 {
			t.Errorf("got %v", next)
		}
		o.has(t, "e/1=x e/1=x2 e/1=x3 e/2=y")
		late := []*v3electionpb.LeaderKey{first.Leader, {Key: []byte("none"), Rev: 0}, {Key: []byte("e/2"), Rev: 1}}
		for _, leader := range late {
			_, err := s.Proclaim(ctx, &v3electionpb.ProclaimRequest{Leader: leader, Value: []byte("late")})
			if err == nil || status.Convert(err).Message() != "election: not leader" {
				t.Errorf("%v: got %v, want not leader", leader, err)
			}
			if _, err := s.Resign(ctx, &v3electionpb.ResignRequest{Leader: leader}); err != nil {
				t.Errorf("%v: %v", leader, err)
			}
		}
		got, err := s.Leader(ctx, &v3electionpb.LeaderRequest{Name: name})
		if err != nil || string(got.Kv.Value) != "y" || got.Kv.Lease != 2 {
			t.Errorf("got %v, %v", got, err)
		}
		stop()
		if err := <-ended; status.Code(err) != codes.Canceled {
			t.Errorf("Observe ended with %v", err)
		}
	})
}

func TestElectionWithoutALeadersKey(t *testing.T) {
	onLocks(t, func(t *testing.T, l *locks) {
		_, err := l.at[0].Proclaim(t.Context(), &v3electionpb.ProclaimRequest{})
		_, err2 := l.at[0].Resign(t.Context(), &v3electionpb.ResignRequest{})
		for _, err := range []error{err, err2} {
			if status.Convert(err).Message() != `"leader" field must be provided` {
				t.Errorf("got %v", err)
			}
		}
	})
}
