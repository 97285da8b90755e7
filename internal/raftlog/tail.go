package raftlog

import (
	"slices"
	"sync/atomic"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"go.etcd.io/raft/v3/raftpb"
)

// Bounds of a tail, reached by whichever comes first.
const (
	maxTailEntries = 1024
	maxTailBytes   = 4 << 20
)

// minTailBytes is what a tail may have though the logs that share its memory have more than they may together: a
// leader that had to read from the disk all that it sends would fall behind by that.
const minTailBytes = 64 << 10

// Memory bounds what the newest entries of many logs take together. It may be used from many goroutines.
type Memory struct {
	most int64
	used atomic.Int64
}

// NewMemory returns the bound of the logs that share it, in bytes. A log that appends keeps to it; what each has
// appended last, and some of what was before that, is not counted against it.
func NewMemory(most int64) *Memory { return &Memory{most: most} }

// Used returns what the newest entries of all logs that share the memory take, in bytes.
func (m *Memory) Used() int64 { return m.used.Load() }

// over reports whether the logs have more than they may.
func (m *Memory) over() bool { return m != nil && m.used.Load() > m.most }

// take counts bytes, of which there may be less than none.
func (m *Memory) take(bytes int) {
	if m != nil {
		m.used.Add(int64(bytes))
	}
}

// tail is a cache of a log's newest entries: a leader sends, and every replica applies,
// what it has just written.
//
// It is trimmed before entries are added, not after. So the entries that were added last are always
// in it, however many they are: among them all that are staged in a batch and not on disk yet.
type tail struct {
	entries    []*raftpb.Entry // contiguous; if there are any, the last is the log's last
	bytes      int             // sum of their weight
	maxEntries int
	maxBytes   int
	memory     *Memory // nil: shared with no other log
}

// first returns the index from which on the tail has every entry, given the log's last.
func (t *tail) first(last nexusraft.Index) nexusraft.Index {
	return last + 1 - nexusraft.Index(len(t.entries))
}

// trim drops the oldest entries until the bounds are kept.
func (t *tail) trim() {
	n, bytes := 0, t.bytes
	most := t.maxBytes
	if t.memory.over() {
		most = min(most, minTailBytes)
	}
	for ; len(t.entries)-n > t.maxEntries || bytes > most; n++ {
		bytes -= weight(t.entries[n])
	}
	t.drop(0, n)
}

func (t *tail) append(e *raftpb.Entry) {
	t.entries = append(t.entries, e)
	t.bytes += weight(e)
	t.memory.take(weight(e))
}

// truncate drops the entries from index on.
func (t *tail) truncate(index nexusraft.Index) {
	t.drop(t.position(index), len(t.entries))
}

// compact drops the entries up to and including index.
func (t *tail) compact(index nexusraft.Index) {
	t.drop(0, t.position(index+1))
}

// position returns how many of the entries are below index.
func (t *tail) position(index nexusraft.Index) int {
	if len(t.entries) == 0 {
		return 0
	}
	first := nexusraft.Index(t.entries[0].GetIndex())
	if index <= first {
		return 0
	}
	return int(min(index-first, nexusraft.Index(len(t.entries))))
}

func (t *tail) drop(from, to int) {
	before := t.bytes
	for _, e := range t.entries[from:to] {
		t.bytes -= weight(e)
	}
	t.memory.take(t.bytes - before)
	t.entries = slices.Delete(t.entries, from, to)
}

// clear drops all entries, and the memory of their list.
func (t *tail) clear() {
	t.drop(0, len(t.entries))
	t.entries = nil
}

// weight is about what an entry takes in memory.
func weight(e *raftpb.Entry) int { return len(e.GetData()) + 128 }
