package etcd

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
)

func TestCompact(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	for i := range 5 {
		z.put(t, "a", fmt.Sprint(i))
	}
	for _, tc := range []struct {
		rev  int64
		want error
	}{
		{-1, rpctypes.ErrGRPCCompacted},
		{7, rpctypes.ErrGRPCFutureRev},
		{4, nil},
		{4, rpctypes.ErrGRPCCompacted},
		{3, rpctypes.ErrGRPCCompacted},
		{6, nil}, // the newest
		{6, rpctypes.ErrGRPCCompacted},
	} {
		got, err := client.Compact(t.Context(), &etcdserverpb.CompactionRequest{Revision: tc.rev})
		if status.Convert(err).Message() != status.Convert(tc.want).Message() {
			t.Errorf("compact %d: got %v, want %v", tc.rev, err, tc.want)
		}
		if tc.want != nil {
			continue
		}
		if diff := cmp.Diff(&etcdserverpb.CompactionResponse{Header: header(6)}, got, protocmp.Transform()); diff != "" {
			t.Errorf("compact %d (-want +got):\n%s", tc.rev, diff)
		}
		for rev := int64(1); rev <= 6; rev++ {
			_, err := client.Range(t.Context(), &etcdserverpb.RangeRequest{Key: []byte("a"), Revision: rev})
			if readable := err == nil; readable != (rev >= tc.rev) {
				t.Errorf("compacted at %d, read at %d: got %v", tc.rev, rev, err)
			}
		}
	}
}

// With physical the answer comes once nothing is left to sweep, in steps that each are one command.
func TestPhysicalCompaction(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	for range 3 * sweepChanges {
		z.put(t, "a", "x")
	}
	before := z.proposals
	if _, err := client.Compact(t.Context(), &etcdserverpb.CompactionRequest{Revision: 3 * sweepChanges}); err != nil {
		t.Fatal(err)
	}
	if now, err := kv.StandingOf(z.state); !now.Left() || err != nil {
		t.Fatalf("all is swept already: %v", err)
	}
	z.put(t, "a", "y")
	req := &etcdserverpb.CompactionRequest{Revision: 3*sweepChanges + 1, Physical: true}
	if _, err := client.Compact(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if now, err := kv.StandingOf(z.state); now.Left() || err != nil {
		t.Errorf("left after a physical compaction: %t, %v", now.Left(), err)
	}
	if steps := z.proposals - before; steps < 5 {
		t.Errorf("%d commands, want one for each compaction, the put and some of the sweep", steps)
	}
}

// stuckZone knows no sweep: it has no leader for one.
type stuckZone struct {
	*fakeZone
	err error
}

func (z stuckZone) ProposeOnce(ctx context.Context, id nexusraft.RequestID, c []byte) (nexusraft.Result, error) {
	if c[0] == kv.EncodeSweep(1)[0] {
		return nexusraft.Result{}, z.err
	}
	return z.fakeZone.ProposeOnce(ctx, id, c)
}

// If what was compacted can't be swept in time, the answer says that it is compacted, before the caller's time is over.
func TestPhysicalCompactionThatTakesTooLong(t *testing.T) {
	for _, cause := range []error{&nexusraft.NotLeaderError{Zone: 1}, nexusraft.ErrUncertain, nexusraft.ErrClosed} {
		synctest.Test(t, func(t *testing.T) {
			z := newZone()
			for range 10 {
				z.put(t, "a", "x")
			}
			s := NewKV(fakeZones{nexusraft.RootZone: stuckZone{z, cause}}, func() Identity { return Identity{} }, Config{})
			ctx, cancel := context.WithTimeout(handling(t.Context()), time.Minute)
			defer cancel()
			_, err := s.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: 9, Physical: true})
			if st := status.Convert(err); st.Code() != codes.Unknown || ctx.Err() != nil {
				t.Errorf("%v: got %v, %v", cause, err, ctx.Err())
			}
			now, err := kv.StandingOf(z.state)
			if now.Compacted != 9 || err != nil {
				t.Errorf("%v: compacted at %d, %v", cause, now.Compacted, err)
			}
		})
	}
}

// Reads of an old revision either have all of it or say that it is compacted, while it is compacted and swept.
func TestListsWhileItIsCompacted(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	for i := range 300 {
		z.put(t, fmt.Sprintf("k%02d", i%30), fmt.Sprint(i))
	}
	ended := make(chan error, 1)
	go func() {
		for rev := int64(10); rev <= 301; rev += 10 {
			req := &etcdserverpb.CompactionRequest{Revision: rev, Physical: true}
			if _, err := client.Compact(t.Context(), req); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	for rev, compacted := int64(301), 0; ; rev-- {
		if rev < 31 || compacted > 0 {
			rev, compacted = 301, 0
		}
		got, err := client.Range(t.Context(), &etcdserverpb.RangeRequest{
			Key: []byte("k"), RangeEnd: []byte("l"), Revision: rev,
		})
		switch {
		case status.Code(err) == codes.OutOfRange:
			compacted++
		case err != nil || got.GetCount() != 30:
			t.Fatalf("at %d: got %d keys, %v", rev, got.GetCount(), err)
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
	}
}

// Checksums are the same however far the sweep is, and follow the revision as reads do.
func TestHashKV(t *testing.T) {
	swept, unswept := newZone(), newZone()
	sum := func(z *fakeZone, rev int64) (*etcdserverpb.HashKVResponse, error) {
		conn := serve(t, fakeZones{nexusraft.RootZone: z})
		return etcdserverpb.NewMaintenanceClient(conn).HashKV(t.Context(), &etcdserverpb.HashKVRequest{Revision: rev})
	}
	for _, z := range []*fakeZone{swept, unswept} {
		for i := range 20 {
			z.put(t, fmt.Sprintf("k%d", i%3), fmt.Sprint(i))
		}
		z.compact(t, 15)
	}
	swept.apply(t, kv.EncodeSweep(100), nil)
	var sums []uint32
	for _, rev := range []int64{0, 15, 20, 21} {
		a, err := sum(swept, rev)
		b, err2 := sum(unswept, rev)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, b, protocmp.Transform()); diff != "" {
			t.Errorf("at %d (-swept +not):\n%s", rev, diff)
		}
		want := &etcdserverpb.HashKVResponse{Header: header(21), Hash: a.GetHash(), CompactRevision: 15, HashRevision: rev}
		if rev == 0 {
			want.HashRevision = 21
		}
		if diff := cmp.Diff(want, a, protocmp.Transform()); diff != "" {
			t.Errorf("at %d (-want +got):\n%s", rev, diff)
		}
		sums = append(sums, a.GetHash())
	}
	if sums[0] != sums[3] || sums[1] == sums[2] || sums[2] == sums[3] {
		t.Errorf("sums %v", sums)
	}
	for rev, want := range map[int64]error{14: rpctypes.ErrGRPCCompacted, 22: rpctypes.ErrGRPCFutureRev} {
		if _, err := sum(swept, rev); status.Convert(err).Message() != status.Convert(want).Message() {
			t.Errorf("at %d: got %v, want %v", rev, err, want)
		}
	}
	hash := func(z *fakeZone) *etcdserverpb.HashResponse {
		conn := serve(t, fakeZones{nexusraft.RootZone: z})
		resp, err := etcdserverpb.NewMaintenanceClient(conn).Hash(t.Context(), &etcdserverpb.HashRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	a, again, b := hash(swept), hash(swept), hash(unswept)
	if a.GetHash() != again.GetHash() || a.GetHash() == b.GetHash() || a.GetHeader().GetRevision() != 21 {
		t.Errorf("hashes of the same state %v and %v, of another one %v", a, again, b)
	}
}

// A checksum that is computed ends with its caller, and so does the wait for another one.
func TestChecksumsEndWithTheirCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone()
		keys := NewKV(fakeZones{nexusraft.RootZone: z}, func() Identity { return Identity{} }, Config{})
		s := NewOperator(keys, fakeNode{})
		fillWithOthers(keys.turns.long)
		z.seen = func(nexusraft.Reader) nexusraft.Reader { return &endless{value: make([]byte, 64)} }
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := s.Hash(ctx, &etcdserverpb.HashRequest{})
				errs <- err
			}()
		}
		synctest.Wait()
		if len(errs) != 0 {
			t.Errorf("one has ended: %v", <-errs)
		}
		cancel()
		for range 2 {
			if err := <-errs; status.Code(err) != codes.Canceled {
				t.Errorf("got %v, want its end", err)
			}
		}
		s.summing <- struct{}{} // by one that does not end
		limited, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for name, ctx := range map[string]context.Context{"its deadline": limited, "no deadline": t.Context()} {
			if _, err := s.HashKV(ctx, &etcdserverpb.HashKVRequest{}); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("behind another one, with %s: got %v, want its end", name, err)
			}
		}
	})
}
