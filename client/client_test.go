package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

func TestPutGetDelete(t *testing.T) {
	n := start(t, nil)
	c := connect(t, Options{Endpoints: []string{n.address}})
	put, err := c.Put(within(t), []byte("k"), []byte("v"))
	if diff := cmp.Diff(PutResult{Revision: 5, Copies: 2}, put); err != nil || diff != "" {
		t.Errorf("put: %v (-want +got):\n%s", err, diff)
	}
	kv, found, err := c.Get(within(t), []byte("k"))
	want := KeyValue{Key: []byte("k"), Value: []byte("value"), CreateRevision: 2, ModRevision: 4, Version: 3}
	if diff := cmp.Diff(want, kv); err != nil || !found || diff != "" {
		t.Errorf("get: found %t, %v (-want +got):\n%s", found, err, diff)
	}
	del, err := c.Delete(within(t), []byte("k"))
	if diff := cmp.Diff(DeleteResult{Deleted: 1, Revision: 6, Copies: 1}, del); err != nil || diff != "" {
		t.Errorf("delete: %v (-want +got):\n%s", err, diff)
	}
}

func TestGetOfAnAbsentKey(t *testing.T) {
	n := start(t, func(n *fakeNode) {
		n.rangeOf = func(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
			return &etcdserverpb.RangeResponse{}, nil
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	if kv, found, err := c.Get(within(t), []byte("k")); found || err != nil {
		t.Errorf("got %v, found %t, error %v", kv, found, err)
	}
}

func TestTheZoneIsNamed(t *testing.T) {
	zones := make(chan []string, 1)
	n := start(t, func(n *fakeNode) {
		n.rangeOf = func(ctx context.Context, _ *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
			zones <- metadata.ValueFromIncomingContext(ctx, "nexus-zone")
			return &etcdserverpb.RangeResponse{}, nil
		}
	})
	for zone, want := range map[nexusraft.ZoneID]string{0: "1", 0xab: "ab"} {
		c := connect(t, Options{Endpoints: []string{n.address}, Zone: zone})
		if _, _, err := c.Get(within(t), []byte("k")); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{want}, <-zones); diff != "" {
			t.Errorf("zone %d (-want +got):\n%s", zone, diff)
		}
	}
}

// ranges answers from sorted keys, as a node does, and a limit over maxPairs with over.
func ranges(
	keys []string, maxPairs int64, over error,
) func(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	sort.Strings(keys)
	return func(_ context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
		if req.Limit > maxPairs {
			return nil, over
		}
		resp := &etcdserverpb.RangeResponse{}
		for _, k := range keys {
			if k < string(req.Key) || string(req.RangeEnd) != "\x00" && k >= string(req.RangeEnd) {
				continue
			}
			if int64(len(resp.Kvs)) == req.Limit {
				resp.More = true
				break
			}
			resp.Kvs = append(resp.Kvs, &mvccpb.KeyValue{Key: []byte(k)})
		}
		return resp, nil
	}
}

func TestListReadsAllPages(t *testing.T) {
	keys := []string{"\x00", "a", "p", "p\x00", "p\xff", "q", "\xff", "\xffx", "\xff\xff"}
	for i := range 2*pageKeys + 1 {
		keys = append(keys, fmt.Sprintf("p%06d", i))
	}
	tooLarge := answer(nexusraft.ErrTooLarge, codes.InvalidArgument, "etcdserver: request is too large")
	tooLargeForGRPC := status.Error(codes.ResourceExhausted, "grpc: trying to send message larger than max")
	for maxPairs, over := range map[int64]error{pageKeys: nil, 100: tooLarge, 1000: tooLargeForGRPC} {
		n := start(t, func(n *fakeNode) { n.rangeOf = ranges(keys, maxPairs, over) })
		c := connect(t, Options{Endpoints: []string{n.address}})
		for _, prefix := range []string{"", "p", "p0000", "\xff", "\xff\xff", "none"} {
			var want, got []string
			for _, k := range keys {
				if strings.HasPrefix(k, prefix) {
					want = append(want, k)
				}
			}
			for kv, err := range c.List(within(t), []byte(prefix)) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(kv.Key))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pages of %d, prefix %q (-want +got):\n%s", maxPairs, prefix, diff)
			}
		}
	}
}

// A list may take longer than the timeout of a page, and a page may not.
func TestListHasATimeoutForEachPage(t *testing.T) {
	t.Parallel()
	keys := make([]string, 4*pageKeys)
	for i := range keys {
		keys[i] = fmt.Sprintf("%06d", i)
	}
	const pageTimeout = 2 * time.Second
	var pages atomic.Int32
	var earlier time.Time
	n := start(t, func(n *fakeNode) {
		page := ranges(keys, pageKeys, nil)
		n.rangeOf = func(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
			if !wire.WantsPage(ctx) {
				t.Error("a count is asked for")
			}
			deadline, ok := ctx.Deadline()
			if !ok || time.Until(deadline) > pageTimeout || !deadline.After(earlier) {
				t.Errorf("page %d has the deadline %v, the one before %v", pages.Load()+1, deadline, earlier)
			}
			earlier = deadline
			if pages.Add(1) == 4 {
				<-ctx.Done() // which may be a moment before the caller's time is over
				return nil, ctx.Err()
			}
			return page(ctx, req)
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}, PageTimeout: pageTimeout, AttemptTimeout: time.Minute})
	pairs, begun := 0, time.Now()
	var last error
	for _, err := range c.List(within(t), nil) {
		if last = err; err == nil {
			pairs++
		}
	}
	if !errors.Is(last, context.DeadlineExceeded) || pairs != 3*pageKeys {
		t.Errorf("ended after %d pairs and %v with %v", pairs, time.Since(begun), last)
	}
}

func TestListStopsEarlyAndAtAnError(t *testing.T) {
	keys := make([]string, pageKeys+1)
	for i := range keys {
		keys[i] = fmt.Sprintf("%06d", i)
	}
	n := start(t, func(n *fakeNode) {
		page := ranges(keys, pageKeys, nil)
		n.rangeOf = func(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
			if string(req.Key) != "\x00" {
				return nil, answer(nexusraft.ErrCorrupt, codes.DataLoss, "etcdserver: corrupt cluster")
			}
			return page(ctx, req)
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	for range c.List(within(t), nil) {
		break
	}
	if got := n.arrivals.Load(); got != 1 {
		t.Errorf("got %d requests for a list that is left at once, want 1", got)
	}
	pairs, failed := 0, 0
	for _, err := range c.List(within(t), nil) {
		if err == nil {
			pairs++
			continue
		}
		failed++
		if !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("got %v, want %v", err, nexusraft.ErrCorrupt)
		}
	}
	if pairs != pageKeys || failed != 1 {
		t.Errorf("got %d pairs and %d errors, want %d and 1", pairs, failed, pageKeys)
	}
}

func TestStatusAndChecksum(t *testing.T) {
	wantStatus := nexusraft.NodeStatus{Cluster: 1, Node: 2, Name: "n", Healthy: true, Zones: []nexusraft.ZoneStatus{{
		Zone: 1, Role: nexusraft.RoleMember, State: nexusraft.Leader, Term: 3, Sync: nexusraft.InSync,
	}}}
	wantSum := nexusraft.Checksum{Applied: 9, Revision: 4, Sum: []byte{1, 2}, Pairs: 3, Bytes: 5}
	n := start(t, func(n *fakeNode) {
		n.status = &pb.StatusResponse{Status: wire.NodeStatusToProto(wantStatus)}
		n.checksum = &pb.ChecksumResponse{Result: &pb.ChecksumResponse_Checksum{
			Checksum: wire.ChecksumToProto(wantSum),
		}}
	})
	refusing := start(t, func(n *fakeNode) {
		n.checksum = &pb.ChecksumResponse{Result: &pb.ChecksumResponse_Error{
			Error: wire.ErrorToProto(nexusraft.ErrZoneNotFound),
		}}
	})
	empty := start(t, func(n *fakeNode) { n.checksum = &pb.ChecksumResponse{} })
	c := connect(t, Options{Endpoints: []string{deadAddress(t)}}) // any node can be asked
	status, err := c.Status(within(t), n.address)
	if diff := cmp.Diff(wantStatus, status); err != nil || diff != "" {
		t.Errorf("status: %v (-want +got):\n%s", err, diff)
	}
	sum, err := c.Checksum(within(t), n.address, 1)
	if diff := cmp.Diff(wantSum, sum); err != nil || diff != "" {
		t.Errorf("checksum: %v (-want +got):\n%s", err, diff)
	}
	if _, err := c.Checksum(within(t), refusing.address, 1); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("refused checksum: got %v, want %v", err, nexusraft.ErrZoneNotFound)
	}
	if _, err := c.Checksum(within(t), empty.address, 1); err == nil {
		t.Error("empty checksum: got no error")
	}
	dead := c.opts.Endpoints[0]
	if _, err := c.Status(within(t), dead); err == nil || !strings.Contains(err.Error(), dead) {
		t.Errorf("status of a dead node: got %v, want an error that names %s", err, dead)
	}
}

func TestOptions(t *testing.T) {
	_, err := New(Options{Endpoints: []string{"nohost", "a:1"}, DialTimeout: -1})
	for _, want := range []string{`"nohost"`, "timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %s", err, want)
		}
	}
	if _, err := New(Options{}); err == nil {
		t.Error("without endpoints: got no error")
	}
}

func TestClosedClient(t *testing.T) {
	n := start(t, nil)
	c := connect(t, Options{Endpoints: []string{n.address}})
	if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	_, putErr := c.Put(within(t), []byte("k"), nil)
	_, _, getErr := c.Get(within(t), []byte("k"))
	_, statusErr := c.Status(within(t), n.address)
	for what, err := range map[string]error{"put": putErr, "get": getErr, "status": statusErr} {
		if !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("%s: got %v, want %v", what, err, nexusraft.ErrClosed)
		}
	}
}

func TestJudge(t *testing.T) {
	plain := func(code codes.Code) error { return status.Error(code, "from the library") }
	told := func(err error) error { return answer(err, codes.Unavailable, "from a node") }
	notLeader := &nexusraft.NotLeaderError{Zone: 1, Leader: 2, Address: "a:1"}
	tests := []struct {
		err         error
		write, sent bool
		want        class
		uncertain   bool
	}{
		{plain(codes.Unavailable), false, true, again, false},
		{plain(codes.DeadlineExceeded), false, true, again, false},
		{plain(codes.Canceled), false, true, again, false},
		{plain(codes.Internal), false, true, final, false},
		{plain(codes.Unavailable), true, true, final, true},
		{plain(codes.DeadlineExceeded), true, true, final, true},
		{plain(codes.Canceled), true, true, final, true},
		{plain(codes.ResourceExhausted), true, true, final, true},
		{plain(codes.Internal), true, true, final, true},
		{plain(codes.Unknown), true, true, final, true},
		{plain(codes.DataLoss), true, true, final, true},
		{plain(codes.Aborted), true, true, final, true},
		{plain(codes.Unavailable), true, false, again, false},
		{plain(codes.DeadlineExceeded), true, false, again, false},
		{plain(codes.Internal), true, false, final, false},
		{plain(codes.InvalidArgument), true, true, final, false},
		{plain(codes.OutOfRange), false, true, final, false},
		{plain(codes.Unimplemented), true, true, another, false},
		{told(notLeader), true, true, again, false},
		{told(nexusraft.ErrOverloaded), true, true, again, false},
		{told(nexusraft.ErrClosed), true, true, again, false},
		{told(nexusraft.ErrNoQuorum), false, true, again, false},
		{told(nexusraft.ErrZoneNotFound), true, true, another, false},
		{told(nexusraft.ErrNotFounded), true, true, another, false},
		{told(nexusraft.ErrDiskFull), true, true, final, false},
		{told(nexusraft.ErrTooLarge), true, true, final, false},
		{told(nexusraft.ErrUncertain), true, true, final, true},
		{told(nexusraft.ErrCorrupt), true, true, final, true},
		{told(nexusraft.ErrCorrupt), false, true, final, false},
	}
	for _, test := range tests {
		got, err := classify(test.err, test.write, test.sent)
		if got != test.want || errors.Is(err, nexusraft.ErrUncertain) != test.uncertain {
			t.Errorf("%v, write %t, sent %t: got %d and %v, want %d, uncertain %t",
				test.err, test.write, test.sent, got, err, test.want, test.uncertain)
		}
	}
}

// What no node takes does not leave: beyond gRPC's own limit its error would be uncertain.
func TestAPutThatIsTooLargeIsNotSent(t *testing.T) {
	n := start(t, nil)
	c := connect(t, Options{Endpoints: []string{n.address}})
	if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
		t.Fatal(err)
	}
	_, err := c.Put(within(t), bytes.Repeat([]byte("k"), 100), make([]byte, 5<<20))
	if !errors.Is(err, nexusraft.ErrTooLarge) || errors.Is(err, nexusraft.ErrUncertain) || n.arrivals.Load() != 1 ||
		len(err.Error()) > 300 {
		t.Errorf("got %v and %d requests, want ErrTooLarge in a line, and the first alone", err, n.arrivals.Load())
	}
}
