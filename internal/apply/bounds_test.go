package apply

import (
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/storage"
)

// diskState returns a state tree on a disk, and its store.
func diskState(t *testing.T) (*storage.Store, *storage.Tree) {
	t.Helper()
	s, err := storage.Open(filepath.Join(t.TempDir(), "data"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	tree, err := s.Tree("state")
	if err != nil {
		t.Fatal(err)
	}
	return s, tree
}

// fillKeys puts n keys "key/000000000" and so on, with small values, as the state machine would.
func fillKeys(t *testing.T, s *storage.Store, tree *storage.Tree, n int) {
	t.Helper()
	b := s.NewBatch()
	defer b.Close()
	record := []byte{2, 2, 1, 0, 'v'} // created and modified at revision 2, version 1, no lease
	for i := range n {
		if err := b.Set(tree, machineKey(fmt.Appendf(nil, "kkey/%09d", i)), record); err != nil {
			t.Fatal(err)
		}
		if b.Len() < 50_000 && i < n-1 {
			continue
		}
		if err := b.Commit(false); err != nil {
			t.Fatal(err)
		}
		b.Reset()
	}
	if err := tree.Set(machineKey([]byte("mrevision")), []byte{0, 0, 0, 0, 0, 0, 0, 2}, storage.NoSync); err != nil {
		t.Fatal(err)
	}
}

func applyDelete(
	t *testing.T, o *storage.Overlay, index nexusraft.Index, req *etcdserverpb.DeleteRangeRequest,
) *etcdserverpb.DeleteRangeResponse {
	t.Helper()
	command, err := kv.EncodeDeleteRange(req)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Command(Machine{StateMachine: kv.StateMachine{}}, o, index, &zone.Envelope{Time: 1, Command: command})
	if err != nil || a.Err != nil {
		t.Fatal(err, a.Err)
	}
	resp, err := kv.DecodeDeleteRangeResult(a.Data)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// What a DeleteRange takes while it is applied doesn't grow with the range (I15): one of more keys
// than memory holds would end all members, and again at each start.
func TestDeleteRangeInBoundedMemory(t *testing.T) {
	const keys, most = 500_000, 8 << 20
	s, tree := diskState(t)
	fillKeys(t, s, tree, keys)
	var o *storage.Overlay
	all := &etcdserverpb.DeleteRangeRequest{Key: []byte("key/"), RangeEnd: []byte("key0")}

	var resp *etcdserverpb.DeleteRangeResponse
	grown := uint64(math.MaxUint64)
	for range 5 { // the store compacts what was filled in meanwhile, which counts, too
		o = storage.NewOverlay(tree)
		before, begun := allocated(), time.Now()
		resp = applyDelete(t, o, 3, all)
		grown = min(grown, allocated()-before)
		t.Logf("%d keys: %d bytes, %v", keys, grown, time.Since(begun))
		if grown <= most {
			break
		}
	}
	if resp.Deleted != keys || resp.Header.Revision != 3 {
		t.Errorf("deleted %d at revision %d, want %d at 3", resp.Deleted, resp.Header.Revision, keys)
	}
	if grown > most {
		t.Errorf("applying took %d bytes, want %d at most", grown, most)
	}
	if o.Bytes() > 1<<20 {
		t.Errorf("its effects have %d bytes", o.Bytes())
	}
	b := s.NewBatch()
	defer b.Close()
	if err := o.WriteTo(b, tree); err != nil {
		t.Fatal(err)
	}
	if b.Size() > 1<<20 {
		t.Errorf("its batch has %d bytes", b.Size())
	}
	if err := b.Commit(false); err != nil {
		t.Fatal(err)
	}
	o.Reset()
	if again := applyDelete(t, o, 4, all); again.Deleted != 0 || again.Header.Revision != 3 {
		t.Errorf("once more: deleted %d at revision %d, want 0 at 3", again.Deleted, again.Header.Revision)
	}
}

// allocated returns how many bytes were allocated so far, those that are garbage by now included.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
