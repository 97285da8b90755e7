package storage_test

import (
	"encoding/binary"
	"fmt"
	"log"

	"github.com/nexi-lab/nexus-raft/storage"
)

// raftLog is a log of entries at their index.
type raftLog struct {
	s       *storage.Store
	entries *storage.Tree
}

func indexKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

// append stores entries from index first on, in the place of all that is there from first on:
// after a change of leader, what is there may be another one's. It is on the disk when it returns.
func (l *raftLog) append(first uint64, entries ...string) error {
	b := l.s.NewBatch()
	defer b.Close()
	if err := b.DeleteRange(l.entries, indexKey(first), nil); err != nil {
		return err
	}
	for i, e := range entries {
		if err := b.Set(l.entries, indexKey(first+uint64(i)), []byte(e)); err != nil {
			return err
		}
	}
	return b.Commit(true)
}

// last returns the highest index, 0 if the log is empty.
func (l *raftLog) last() (uint64, error) {
	p, ok, err := l.entries.Last()
	if err != nil || !ok {
		return 0, err
	}
	return binary.BigEndian.Uint64(p.Key), nil
}

// compact forgets what is below an index. Should a crash undo it, no harm is done: no sync.
func (l *raftLog) compact(index uint64) error {
	b := l.s.NewBatch()
	defer b.Close()
	if err := b.DeleteRange(l.entries, nil, indexKey(index)); err != nil {
		return err
	}
	return b.Commit(false)
}

// A Raft log: appended to with one sync for many entries, its conflicting end replaced
// in the same atomic write, its beginning forgotten.
func Example_raftLog() {
	s := open()
	defer s.Close()
	entries, err := s.Tree("log")
	if err != nil {
		log.Fatal(err)
	}
	l := &raftLog{s, entries}

	if err := l.append(1, "a", "b", "c", "d"); err != nil {
		log.Fatal(err)
	}
	if err := l.append(3, "C"); err != nil { // replaces c, and removes d
		log.Fatal(err)
	}
	if err := l.compact(2); err != nil {
		log.Fatal(err)
	}
	last, err := l.last()
	fmt.Println("last index:", last, err)
	for p, err := range l.entries.Scan(nil, nil) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d %s\n", binary.BigEndian.Uint64(p.Key), p.Value)
	}
	// Output:
	// last index: 3 <nil>
	// 2 b
	// 3 C
}
