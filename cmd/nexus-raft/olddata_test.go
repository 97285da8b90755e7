package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
	"github.com/nexi-lab/nexus-raft/kv"
)

// rangeAt reads a key at a revision.
func rangeAt(t *testing.T, endpoint string, rev int64) error {
	t.Helper()
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req := &etcdserverpb.RangeRequest{Key: []byte("keep"), Revision: rev}
	resp, err := etcdserverpb.NewKVClient(conn).Range(t.Context(), req)
	if err == nil && (len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "z") {
		err = fmt.Errorf("it is %v", resp.Kvs)
	}
	return err
}

// TestDataDirectoriesOfEarlierCommits: the directories of two members and a witness, as the
// programs of a commit have left them, serve on. In those of 5f97b01 keys were put, replaced and
// deleted, one by one and as a range, and an event was published; n1 and the witness were stopped,
// n2 was killed.
func TestDataDirectoriesOfEarlierCommits(t *testing.T) {
	t.Parallel()
	c := &trio{dir: t.TempDir(), a1: freeAddress(t), a2: freeAddress(t), aw: freeAddress(t)}
	if err := os.CopyFS(c.dir, os.DirFS(filepath.Join("testdata", "5f97b01"))); err != nil {
		t.Fatal(err)
	}
	if status, out, stderr := command(t, "store", "check", c.data("n1")); status != exitOK {
		t.Errorf("check n1: status %d, %s%s", status, out, stderr)
	}
	c.n1, c.n2, c.w1 = c.serve1(t), c.serve2(t), c.witness(t)
	c.awaitSync(t)
	c.awaitHistory(t, c.a1, c.a2)
	const keys = "keep\tz\nkey/1\tvalue-1\nkey/2\tvalue-2b\nkey/4\tvalue-4\nkey/5\tvalue-5\nkey/6\tvalue-6\n"
	for _, endpoint := range []string{c.a1, c.a2} {
		if status, out, stderr := command(t, "list", "", "--endpoints", endpoint); status != exitOK || out != keys {
			t.Errorf("list through %s: status %d, %q, %s", endpoint, status, out, stderr)
		}
	}
	if status, out, stderr := command(t, "put", "new", "v", "--endpoints", c.endpoints()); status != exitOK ||
		!strings.Contains(out, "revision 14") {
		t.Errorf("put: status %d, %q, %s, want the revision after the 13 that are there", status, out, stderr)
	}
	conn, err := client.New(client.Options{Endpoints: []string{c.a1, c.a2}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for rev, want := range map[int64]error{12: kv.ErrCompacted, 13: nil, 14: nil, 15: kv.ErrFutureRevision} {
		if got := rangeAt(t, c.a1, rev); want == nil && got != nil || want != nil && !strings.Contains(fmt.Sprint(got),
			strings.TrimPrefix(want.Error(), "kv: ")) {
			t.Errorf("read at revision %d: got %v, want %v: history begins with what was there", rev, got, want)
		}
	}
	eventually(t, "both members have the same state", func() bool {
		a, errA := conn.Checksum(t.Context(), c.a1, nexusraft.RootZone)
		b, errB := conn.Checksum(t.Context(), c.a2, nexusraft.RootZone)
		return errA == nil && errB == nil && a.Applied == b.Applied && bytes.Equal(a.Sum, b.Sum) && a.Pairs > 0
	})
	for _, p := range []*process{c.n1, c.n2, c.w1} {
		p.stopsInTime(t)
	}
}
