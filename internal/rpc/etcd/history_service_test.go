package etcd

import (
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/kv"
)

// apply runs a command in the zone.
func (z *fakeZone) apply(t testing.TB, command []byte, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.ProposeOnce(t.Context(), nexusraft.RequestID{}, command); err != nil {
		t.Fatal(err)
	}
}

// put writes a key.
func (z *fakeZone) put(t testing.TB, key, value string) {
	t.Helper()
	command, err := kv.EncodePut(&etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)})
	z.apply(t, command, err)
}

// compact sets the compaction revision.
func (z *fakeZone) compact(t testing.TB, rev int64) {
	t.Helper()
	command, err := kv.EncodeCompact(&etcdserverpb.CompactionRequest{Revision: rev})
	z.apply(t, command, err)
}

func TestHistory(t *testing.T) {
	z := newZone()
	client := pb.NewKeysClient(serve(t, fakeZones{nexusraft.RootZone: z}))
	z.put(t, "b", "other")
	z.put(t, "a", "1")
	z.put(t, "a", "22")
	command, err := kv.EncodeDeleteRange(&etcdserverpb.DeleteRangeRequest{Key: []byte("a")})
	z.apply(t, command, err)
	z.put(t, "a", "333")
	z.compact(t, 4)
	stream, err := client.History(t.Context(), &pb.HistoryRequest{Zone: 1, Key: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	got, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	want := &pb.HistoryResponse{Revision: 6, Compacted: 4, Versions: []*pb.KeyVersion{
		{Revision: 4, CreateRevision: 3, Version: 2, Bytes: 2},
		{Revision: 5},
		{Revision: 6, CreateRevision: 6, Version: 1, Bytes: 3},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after it: got %v, want its end", err)
	}
	for _, tc := range []struct {
		req  *pb.HistoryRequest
		want codes.Code
	}{
		{&pb.HistoryRequest{Zone: 1}, codes.InvalidArgument},
		{&pb.HistoryRequest{Zone: 99, Key: []byte("a")}, codes.NotFound},
		{&pb.HistoryRequest{Zone: 1, Key: []byte("absent")}, codes.OK},
	} {
		stream, err := client.History(t.Context(), tc.req)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != tc.want {
			t.Errorf("%v: got %v, want %v", tc.req, err, tc.want)
		}
	}
}

// A history of many versions comes in pages of one state: what is written meanwhile is not in it, a
// compaction of what has been told does no harm, and one of what was to come ends it.
func TestHistoryInPages(t *testing.T) {
	const n = 3*historyPage + 5
	for name, tc := range map[string]struct {
		compact int64
		want    error
	}{
		"written meanwhile": {0, nil},
		"told":              {historyPage / 2, nil},
		"not told":          {historyPage + 10, kv.ErrCompacted},
	} {
		z := newZone()
		for range n {
			z.put(t, "a", "x")
		}
		s := NewKeys(fakeZones{nexusraft.RootZone: z}, NewKV(nil, nil, Config{}))
		first, more, err := s.page(t.Context(), z.Read, []byte("a"), nil, 0)
		if err != nil || !more {
			t.Fatalf("first page: %v, %t", err, more)
		}
		z.put(t, "a", "later")
		if tc.compact > 0 {
			z.compact(t, tc.compact)
		}
		got := first.Versions
		for more && err == nil {
			var page *pb.HistoryResponse
			page, more, err = s.page(t.Context(), z.ReadLocal, []byte("a"), first, got[len(got)-1].GetRevision())
			got = append(got, page.GetVersions()...)
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
		if err == nil && len(got) != n {
			t.Errorf("%s: got %d versions, want %d", name, len(got), n)
		}
		for i, v := range got {
			if v.GetVersion() != int64(i+1) || v.GetRevision() != int64(i+2) {
				t.Fatalf("%s: version %d is %v", name, i+1, v)
			}
		}
	}
}
