package storage

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// BenchmarkDeletedRanges appends to a log and trims it, as a busy raft log does, with the engine's
// flush for deleted ranges and without. It reports how many bytes are written for each appended
// byte, the log of the engine included. Give it longer than some delays (-benchtime 20s): a table
// that is written each time is what the delay costs.
func BenchmarkDeletedRanges(b *testing.B) {
	for name, delay := range map[string]time.Duration{"delay": deletedRangeFlush, "none": 0} {
		for _, rate := range []int{1 << 20, 8 << 20} {
			b.Run(fmt.Sprintf("%s/MBps=%d", name, rate>>20), func(b *testing.B) { trimmedLog(b, delay, rate) })
		}
	}
}

// trimmedLog appends entries of 1 KiB in batches of 64, so many bytes a second. As a node does, it
// drops the older half when there are more than 10,000.
func trimmedLog(b *testing.B, delay time.Duration, rate int) {
	const entryBytes, entries, most = 1 << 10, 64, 10_000
	o, err := (&Options{}).withDefaults()
	check(b, err)
	e := o.engine(newFailstop(o.FS, "", o.Logger), nil)
	e.FS, e.FlushDelayDeleteRange = o.FS, delay
	db, err := pebble.Open(b.TempDir(), e)
	check(b, err)
	value, random := make([]byte, entryBytes), rand.NewChaCha8([32]byte{1})
	random.Read(value) // it never fails
	key := func(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	ticker := time.NewTicker(time.Second * entryBytes * entries / time.Duration(rate))
	defer ticker.Stop()
	first, n := 0, 0
	for b.Loop() {
		<-ticker.C
		batch := db.NewBatch()
		for range entries {
			check(b, batch.Set(key(n), value, nil))
			n++
		}
		if n-first > most {
			check(b, batch.DeleteRange(key(first), key(n-most/2), nil))
			first = n - most/2
		}
		check(b, batch.Commit(pebble.Sync))
	}
	m := db.Metrics()
	written := m.Total().TableBytesFlushed + m.Total().TableBytesCompacted // the first has the log's, too
	b.ReportMetric(float64(written)/float64(n*entryBytes), "written/byte")
	b.ReportMetric(float64(m.Flush.Count), "flushes")
	check(b, db.Close())
}
