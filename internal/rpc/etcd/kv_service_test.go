package etcd

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func header(revision int64) *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{ClusterId: 0xC1, MemberId: 0xD1, RaftTerm: 7, Revision: revision}
}

func TestPutRangeDelete(t *testing.T) {
	client := dialKV(t, newZone())
	var md metadata.MD
	put, err := client.Put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("1")}, grpc.Header(&md))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&etcdserverpb.PutResponse{Header: header(2)}, put, protocmp.Transform()); diff != "" {
		t.Errorf("put (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"2"}, md.Get("nexus-copies")); diff != "" {
		t.Errorf("copies of the put (-want +got):\n%s", diff)
	}
	a := &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("1"), CreateRevision: 2, ModRevision: 2, Version: 1}
	got, err := client.Range(t.Context(), &etcdserverpb.RangeRequest{Key: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	want := &etcdserverpb.RangeResponse{Header: header(2), Kvs: []*mvccpb.KeyValue{a}, Count: 1}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("range (-want +got):\n%s", diff)
	}
	del, err := client.DeleteRange(t.Context(), &etcdserverpb.DeleteRangeRequest{Key: []byte("a"), PrevKv: true},
		grpc.Header(&md))
	if err != nil {
		t.Fatal(err)
	}
	wantDel := &etcdserverpb.DeleteRangeResponse{Header: header(3), Deleted: 1, PrevKvs: []*mvccpb.KeyValue{a}}
	if diff := cmp.Diff(wantDel, del, protocmp.Transform()); diff != "" {
		t.Errorf("delete (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"2"}, md.Get("nexus-copies")); diff != "" {
		t.Errorf("copies of the delete (-want +got):\n%s", diff)
	}
}

func TestSerializableReadsAreLocal(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	for _, serializable := range []bool{true, false} {
		req := &etcdserverpb.RangeRequest{Key: []byte("a"), Serializable: serializable}
		if _, err := client.Range(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if z.local != 1 || z.reads != 1 {
		t.Errorf("got %d local and %d linearizable reads, want 1 and 1", z.local, z.reads)
	}
}

func TestZoneOfTheRequest(t *testing.T) {
	root, other := newZone(), newZone()
	client := etcdserverpb.NewKVClient(serve(t, fakeZones{nexusraft.RootZone: root, 0xab: other}))
	tests := []struct {
		zones []string
		want  codes.Code
	}{
		{nil, codes.OK},
		{[]string{"ab"}, codes.OK},
		{[]string{"00000000000000ab"}, codes.OK},
		{[]string{"99"}, codes.NotFound},
		{[]string{"0"}, codes.NotFound},
		{[]string{"root"}, codes.InvalidArgument},
		{[]string{""}, codes.InvalidArgument},
		{[]string{"1", "ab"}, codes.InvalidArgument},
	}
	for _, test := range tests {
		ctx := t.Context()
		for _, z := range test.zones {
			ctx = metadata.AppendToOutgoingContext(ctx, "nexus-zone", z)
		}
		_, putErr := client.Put(ctx, &etcdserverpb.PutRequest{Key: []byte("a")})
		_, rangeErr := client.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("a")})
		if got := [...]codes.Code{status.Code(putErr), status.Code(rangeErr)}; got != [...]codes.Code{test.want, test.want} {
			t.Errorf("zones %q: got %v, want %v twice", test.zones, got, test.want)
		}
	}
	if root.proposals != 1 || other.proposals != 2 {
		t.Errorf("got %d proposals to the root zone and %d to the other, want 1 and 2", root.proposals, other.proposals)
	}
}

func TestDeadlines(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	call := map[string]func(context.Context) error{
		"put": func(ctx context.Context) error {
			_, err := client.Put(ctx, &etcdserverpb.PutRequest{Key: []byte("a")})
			return err
		},
		"range": func(ctx context.Context) error {
			_, err := client.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("a")})
			return err
		},
	}
	const most = 10 * time.Second
	for name, do := range call {
		if err := do(t.Context()); err != nil {
			t.Fatal(err)
		}
		if z.lastTimeout <= 0 || z.lastTimeout > most {
			t.Errorf("%s without deadline: the zone got %v, want at most %v", name, z.lastTimeout, most)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := do(ctx); err != nil {
			t.Fatal(err)
		}
		if z.lastTimeout <= most || z.lastTimeout > time.Hour {
			t.Errorf("%s with an hour: the zone got %v", name, z.lastTimeout)
		}
	}
}

// copied is a state that has the one pair of another one many times, under keys of its own, and keeps it once.
type copied struct {
	nexusraft.Reader

	copies int
}

func (c copied) Get(key []byte) ([]byte, bool, error) {
	if len(key) > 0 && key[0] == 'd' { // all long values are the one that there is
		for p, err := range c.Reader.Scan([]byte("d"), []byte("e")) {
			return p.Value, true, err
		}
	}
	return c.Reader.Get(key)
}

func (c copied) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		for p, err := range c.Reader.Scan([]byte("k"), []byte("l")) {
			for i := range c.copies {
				p.Key = fmt.Appendf(nil, "k%06d", i)
				in := string(p.Key) >= string(start) && (end == nil || string(p.Key) < string(end))
				if in && !yield(p, err) {
					return
				}
			}
		}
	}
}

// Large lists pass, as Kubernetes asks for them, and those of over 1 GiB are refused before they are made.
func TestLargeLists(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	z.put(t, "k", strings.Repeat("v", 1<<20))
	all := &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	z.seen = func(r nexusraft.Reader) nexusraft.Reader { return copied{r, 40} }
	resp, err := client.Range(t.Context(), all)
	if err != nil || len(resp.GetKvs()) != 40 || resp.GetCount() != 40 || proto.Size(resp) < 40<<20 {
		t.Errorf("40 MiB: got %d pairs, count %d, %v", len(resp.GetKvs()), resp.GetCount(), err)
	}
	z.seen = func(r nexusraft.Reader) nexusraft.Reader { return copied{r, 1024} }
	_, err = client.Range(t.Context(), all)
	if st := status.Convert(err); st.Code() != codes.InvalidArgument || !strings.Contains(st.Message(), "limit") {
		t.Errorf("over the limit: got %v %q, want %v and a way out", st.Code(), st.Message(), codes.InvalidArgument)
	}
	all.CountOnly = true
	if resp, err := client.Range(t.Context(), all); err != nil || resp.GetCount() != 1024 {
		t.Errorf("count: got %d, %v", resp.GetCount(), err)
	}
}

func TestWhatIsNotOffered(t *testing.T) {
	conn := serve(t, fakeZones{nexusraft.RootZone: newZone()})
	_, defragErr := etcdserverpb.NewMaintenanceClient(conn).Defragment(t.Context(), &etcdserverpb.DefragmentRequest{})
	_, disarmErr := etcdserverpb.NewMaintenanceClient(conn).Alarm(t.Context(),
		&etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_DEACTIVATE})
	_, removeErr := etcdserverpb.NewClusterClient(conn).MemberRemove(t.Context(), &etcdserverpb.MemberRemoveRequest{ID: 1})
	_, leaseErr := etcdserverpb.NewLeaseClient(conn).LeaseGrant(t.Context(), &etcdserverpb.LeaseGrantRequest{})
	snapshot, err := etcdserverpb.NewMaintenanceClient(conn).Snapshot(t.Context(), &etcdserverpb.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, snapshotErr := snapshot.Recv()
	for method, err := range map[string]error{
		"Maintenance/Snapshot": snapshotErr, "Lease/LeaseGrant": leaseErr,
		"Maintenance/Defragment": defragErr, "Maintenance/Alarm with action DEACTIVATE": disarmErr,
		"Cluster/MemberRemove": removeErr,
	} {
		st := status.Convert(err)
		if st.Code() != codes.Unimplemented || !strings.Contains(st.Message(), method+" is not offered yet") {
			t.Errorf("%s: got %v %q", method, st.Code(), st.Message())
		}
	}
}

// A write carries the number that its metadata give it; what is no number is refused, and runs no write.
func TestNumberOfTheRequest(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	put := func(ctx context.Context) error {
		_, err := client.Put(ctx, &etcdserverpb.PutRequest{Key: []byte("a")})
		return err
	}
	remove := func(ctx context.Context) error {
		_, err := client.DeleteRange(ctx, &etcdserverpb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("b")})
		return err
	}
	for name, write := range map[string]func(context.Context) error{"put": put, "delete": remove} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "nexus-session", "71/3")
		if err := write(ctx); err != nil || z.request != (nexusraft.RequestID{Session: 71, Sequence: 3}) {
			t.Errorf("%s: got %v, %v", name, z.request, err)
		}
		if err := write(t.Context()); err != nil || !z.request.IsZero() {
			t.Errorf("%s without a number: got %v, %v", name, z.request, err)
		}
		before := z.proposals
		for _, bad := range []string{"71", "0/0", "71/0", ""} {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "nexus-session", bad)
			if err := write(ctx); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s as %q: got %v, want InvalidArgument", name, bad, err)
			}
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "nexus-session", "71/4")
		if err := write(ctx); status.Code(err) != codes.InvalidArgument || z.proposals != before {
			t.Errorf("%s as two numbers: got %v, and %d writes", name, err, z.proposals-before)
		}
	}
}
