package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/datadir"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/storage"
)

// TestRollingUpdate replaces the programs of a cluster by newer ones, one node after the other and
// the leader last, while writers write; in the middle it goes back once. NEXUS_RAFT_OLD is the older program, which
// `make upgrade` builds.
//
// No acknowledged write is lost and none fails, the zone is in sync after each step, and the
// leadership moves when the leader stops, and hardly else. With the last node the zone begins to keep its history,
// and the way back is closed: the older program refuses the directories, and leaves them as they are.
func TestRollingUpdate(t *testing.T) {
	old := os.Getenv("NEXUS_RAFT_OLD")
	if old == "" {
		t.Skip("skipped: there is no older program to begin with: make upgrade builds one")
	}
	u := &update{trio: &trio{dir: t.TempDir(), a1: freeAddress(t), a2: freeAddress(t), aw: freeAddress(t)}, t: t}
	init := exec.Command(old, "init", "--data-dir", u.data("n1"), "--name", "n1", "--listen", u.a1)
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("init: %v, %s", err, out)
	}
	for _, name := range []string{"n1", "n2", "w1"} {
		u.start(name, old)
	}
	u.awaitSync(t)
	acknowledged, stop := u.writers(t, 2)
	more := func(what string) {
		t.Helper()
		least := acknowledged.Load() + 50
		eventually(t, what+": writers go on", func() bool { return acknowledged.Load() > least })
	}
	more("old programs")
	before, order := u.awaitSync(t), u.order()
	for _, to := range []struct {
		what, program string
		nodes         []string
	}{
		{"update", os.Args[0], order[:2]},
		{"back", old, order[:2]}, // while one node is of the older release
		{"update again", os.Args[0], order},
	} {
		for _, name := range to.nodes {
			u.process(name).stopsInTime(t)
			more(to.what + ": without " + name)
			u.start(name, to.program)
			u.awaitSync(t)
			more(to.what + ": with the other " + name)
		}
	}
	after := u.awaitSync(t)
	t.Logf("from term %d to %d, %d writes so far", before.Term, after.Term, acknowledged.Load())
	if moves := after.Term - before.Term; moves < 1 || moves > 4 {
		t.Errorf("%d terms, want one for the leader that stopped, and few more", moves)
	}
	u.awaitHistory(t, u.a1, u.a2)
	if failed := stop(); len(failed) > 0 {
		t.Errorf("%d writes failed, the first with: %v", len(failed), failed[0])
	}
	u.hasAll(acknowledged.Load())
	for _, endpoint := range []string{u.a1, u.a2} {
		u.keepsHistory(endpoint)
	}
	u.refusesDowngrade(old)
	u.awaitSync(t)
	u.hasAll(acknowledged.Load())
}

// hasAll checks that both members have what the writers were told that it is written.
func (u *update) hasAll(acknowledged int64) {
	u.t.Helper()
	for _, endpoint := range []string{u.a1, u.a2} {
		status, out, stderr := command(u.t, "list", "w", "--endpoints", endpoint)
		if got := int64(strings.Count(out, "\n")); status != exitOK || got != acknowledged {
			u.t.Errorf("list through %s: status %d, %d keys, %s, want the %d that were acknowledged",
				endpoint, status, got, stderr, acknowledged)
		}
	}
}

// awaitHistory waits until the root zone keeps its history on the nodes at some addresses.
func (c *trio) awaitHistory(t *testing.T, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		eventually(t, address+" keeps history", func() bool {
			zones := statusOf(t, address).Zones
			return len(zones) > 0 && zones[0].MachineVersion == kv.VersionLeases
		})
	}
}

// keepsHistory changes a key through one endpoint, and reads what it was.
func (u *update) keepsHistory(endpoint string) {
	u.t.Helper()
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		u.t.Fatal(err)
	}
	defer conn.Close()
	c, key := etcdserverpb.NewKVClient(conn), []byte("h/"+endpoint)
	var first int64
	for _, value := range []string{"one", "two"} {
		resp, err := c.Put(u.t.Context(), &etcdserverpb.PutRequest{Key: key, Value: []byte(value)})
		if err != nil {
			u.t.Fatal(err)
		}
		first = cmp.Or(first, resp.Header.Revision)
	}
	resp, err := c.Range(u.t.Context(), &etcdserverpb.RangeRequest{Key: key, Revision: first})
	if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "one" {
		u.t.Errorf("%s at revision %d: got %v, %v, want what it was", key, first, resp, err)
	}
	txn := &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{{
			Key: key, Target: etcdserverpb.Compare_MOD,
			TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: first + 1},
		}},
		Success: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{
			RequestPut: &etcdserverpb.PutRequest{Key: key, Value: []byte("three")},
		}}},
	}
	done, err := c.Txn(u.t.Context(), txn)
	if err != nil || !done.Succeeded {
		u.t.Errorf("compare and swap: %v, %v", done, err)
	}
}

// refusesDowngrade tries to put the older program back on each member.
func (u *update) refusesDowngrade(old string) {
	t := u.t
	t.Helper()
	const refusal = "it was written by another release (format 2, this one knows 1); use that release"
	for name, address := range map[string]string{"n1": u.a1, "n2": u.a2} {
		u.process(name).stopsInTime(t)
		before := storeContents(t, u.data(name))
		out, err := exec.Command(old, "serve", "--data-dir", u.data(name), "--listen", address).CombinedOutput()
		if err == nil || !strings.Contains(string(out), refusal) {
			t.Errorf("the older program on %s: %v, %s, want: %s", name, err, out, refusal)
		}
		if after := storeContents(t, u.data(name)); !bytes.Equal(before, after) {
			t.Errorf("the older program has changed what is in the directory of %s", name)
		}
		u.start(name, os.Args[0])
		u.awaitSync(t)
	}
}

// update is a trio whose nodes run different programs.
type update struct {
	*trio
	t *testing.T
}

// start runs a node's program, this test's or another one.
func (u *update) start(name, program string) {
	u.t.Helper()
	args := map[string][]string{
		"n1": {"serve", "--data-dir", u.data("n1"), "--listen", u.a1},
		"n2": {"serve", "--data-dir", u.data("n2"), "--name", "n2", "--listen", u.a2, "--join", u.a1},
		"w1": {"witness", "--data-dir", u.data("w1"), "--name", "w1", "--listen", u.aw, "--join", u.a1},
	}[name]
	p := begin(u.t, exec.Command(program, args...), args)
	switch name {
	case "n1":
		u.n1 = p
	case "n2":
		u.n2 = p
	default:
		u.w1 = p
	}
}

func (u *update) process(name string) *process {
	return map[string]*process{"n1": u.n1, "n2": u.n2, "w1": u.w1}[name]
}

// order is that in which the nodes are replaced: the witness, the follower, the leader.
func (u *update) order() []string {
	leads := func(address string) bool {
		for _, z := range statusOf(u.t, address).Zones {
			if z.State == nexusraft.Leader {
				return true
			}
		}
		return false
	}
	if leads(u.a1) {
		return []string{"w1", "n2", "n1"}
	}
	return []string{"w1", "n1", "n2"}
}

// TestEarlierProgramRefusesZones: a directory that has been made ready for zones besides the root zone is
// refused by the older program, which says why, in each way to open it. What is in it stays, and the newer
// one serves on. So is the directory of a witness that knows of such zones.
func TestEarlierProgramRefusesZones(t *testing.T) {
	old := os.Getenv("NEXUS_RAFT_OLD")
	if old == "" {
		t.Skip("skipped: there is no older program to begin with: make upgrade builds one")
	}
	u := &update{trio: &trio{dir: t.TempDir(), a1: freeAddress(t), a2: freeAddress(t), aw: freeAddress(t)}, t: t}
	init := exec.Command(old, "init", "--data-dir", u.data("n1"), "--name", "n1", "--listen", u.a1)
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("init: %v, %s", err, out)
	}
	u.start("n1", old)
	if status, _, stderr := command(t, "put", "k", "v", "--endpoints", u.a1); status != exitOK {
		t.Fatalf("put: status %d, %s", status, stderr)
	}
	u.n1.kill(t)
	dir, err := datadir.Open(u.data("n1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(dir.RequireZones(), dir.Close()); err != nil {
		t.Fatal(err)
	}
	before := storeContents(t, u.data("n1"))
	const refusal = "it was written by another release (format 2, this one knows 1); use that release"
	for _, args := range [][]string{
		{"serve", "--data-dir", u.data("n1"), "--listen", u.a1},
		{"serve", "--data-dir", u.data("n1"), "--listen", u.a1, "--join", u.a2},
		{"init", "--data-dir", u.data("n1"), "--name", "n1", "--listen", u.a1},
		{"store", "stat", u.data("n1")},
		{"store", "put", u.data("n1"), "k", "w"},
	} {
		out, err := exec.Command(old, args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), refusal) {
			t.Errorf("%s: %v, %s, want: %s", strings.Join(args, " "), err, out, refusal)
		}
	}
	if status, out, stderr := command(t, "store", "check", u.data("n1")); status != exitOK {
		t.Errorf("check: status %d, %s%s", status, out, stderr)
	}
	if after := storeContents(t, u.data("n1")); !bytes.Equal(before, after) {
		t.Error("the older program has changed what is in the directory")
	}
	u.start("n1", os.Args[0])
	if status, out, stderr := command(t, "get", "k", "--endpoints", u.a1); status != exitOK || out != "v\n" {
		t.Errorf("get: status %d, %q, %s, want v", status, out, stderr)
	}
	u.n1.stopsInTime(t)
	u.refusesWitness(old)
}

// refusesWitness is TestEarlierProgramRefusesZones for the directory of a witness.
func (u *update) refusesWitness(old string) {
	t, dir := u.t, u.data("w1")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "5f97b01", "w1"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"identity.a", "identity.b"} {
		raiseWitnessFormat(t, filepath.Join(dir, name))
	}
	before := listing(t, dir)
	out, err := exec.Command(old, "witness", "--data-dir", dir, "--listen", u.aw).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "its format version is 2, this program knows 1") {
		t.Errorf("witness: %v, %s, want a refusal", err, out)
	}
	if d := gocmp.Diff(before, listing(t, dir)); d != "" {
		t.Errorf("the older program has changed the witness's directory (-was +is):\n%s", d)
	}
}

// storeContents digests all trees of a store, which is left as it is.
func storeContents(t *testing.T, dir string) []byte {
	t.Helper()
	s, err := storage.Open(dir, &storage.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	names, err := s.Trees()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	for _, name := range names {
		tree, _, err := s.OpenTree(name)
		if err != nil {
			t.Fatal(err)
		}
		for p, err := range tree.Scan(nil, nil) {
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(sum, "%q %q %q\n", name, p.Key, p.Value)
		}
	}
	return sum.Sum(nil)
}

// raiseWitnessFormat gives a file of a witness the format version of one that knows of zones besides the
// root zone.
func raiseWitnessFormat(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const blockBytes = 512
	for block := range slices.Chunk(b, blockBytes) {
		binary.BigEndian.PutUint32(block[8:], 2)
		sum := crc32.Checksum(block[:blockBytes-4], crc32.MakeTable(crc32.Castagnoli))
		binary.BigEndian.PutUint32(block[blockBytes-4:], sum)
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
