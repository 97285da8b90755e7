package kv

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// benchState is a key space in a store, each of whose commands is a batch.
type benchState struct {
	store *storage.Store
	batch *storage.Batch
}

func newBenchState(b *testing.B) *benchState {
	b.Helper()
	store, err := storage.Open(b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := store.Close(); err != nil {
			b.Error(err)
		}
	})
	return &benchState{store, store.NewBatch()}
}

// apply runs a command and returns how many bytes of rows it has written.
func (s *benchState) apply(b *testing.B, version uint32, command []byte) (written int) {
	b.Helper()
	tx := largeTx{storage.NewOverlay(s.store.Default())}
	if _, err := (StateMachine{}).Apply(tx, nexusraft.Command{Data: command, Version: version}); err != nil {
		b.Fatal(err)
	}
	if err := tx.WriteTo(s.batch, s.store.Default()); err != nil {
		b.Fatal(err)
	}
	if err := s.batch.Commit(false); err != nil {
		b.Fatal(err)
	}
	s.batch.Reset()
	return tx.Bytes()
}

func benchPut(b *testing.B, i, size int) []byte {
	value := make([]byte, size)
	for j := range value {
		value[j] = byte(rand.Uint32())
	}
	return rawPut(b, &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "registry/%07d", i), Value: value})
}

// benchVersions are those of a zone: without old revisions, and with them.
var benchVersions = []uint32{0, VersionHistory}

func BenchmarkOverwrite(b *testing.B) {
	for _, size := range []int{128, 256, 1 << 10, 4 << 10, 16 << 10} {
		for _, version := range benchVersions {
			b.Run(fmt.Sprintf("bytes=%d/version=%d", size, version), func(b *testing.B) {
				const keys = 1000
				s := newBenchState(b)
				for i := range keys {
					s.apply(b, version, benchPut(b, i, size))
				}
				written := 0
				for i := 0; b.Loop(); i++ {
					written += s.apply(b, version, benchPut(b, i%keys, size))
				}
				b.ReportMetric(float64(written)/float64(b.N), "written/op")
			})
		}
	}
}

func BenchmarkList(b *testing.B) {
	const keys, versions = 2000, 6
	for _, size := range []int{256, 1 << 10, 4 << 10, 16 << 10} {
		for _, version := range benchVersions {
			s := newBenchState(b)
			for i := range keys * versions {
				s.apply(b, version, benchPut(b, i%keys, size))
			}
			for _, back := range []int64{0, keys} {
				if back > 0 && version == 0 {
					continue
				}
				b.Run(fmt.Sprintf("bytes=%d/version=%d/back=%d", size, version, back), func(b *testing.B) {
					req := &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
					if back > 0 {
						req.Revision = keys*versions + 1 - back
					}
					for b.Loop() {
						snapshot := s.store.NewSnapshot()
						resp, err := Range(snapshot.Reader(s.store.Default()), req)
						if err != nil || resp.Count != keys {
							b.Fatal(resp.GetCount(), err)
						}
						snapshot.Close()
					}
				})
			}
		}
	}
}

func BenchmarkSweep(b *testing.B) {
	const step = 512
	for _, size := range []int{128, 4 << 10} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			s := newBenchState(b)
			rev := int64(firstRevision)
			for b.Loop() {
				b.StopTimer()
				for range step {
					s.apply(b, VersionHistory, benchPut(b, rand.IntN(1000), size))
					rev++
				}
				s.apply(b, VersionHistory, rawCompact(b, rev))
				b.StartTimer()
				s.apply(b, VersionHistory, EncodeSweep(step))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*step), "ns/change")
		})
	}
}
