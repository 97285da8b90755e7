package worker

import (
	"encoding/binary"
	"errors"
	"iter"
	"testing"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/snapshot"
	"github.com/nexi-lab/nexus-raft/transport"
)

// A snapshot that raft would ignore is refused before anything of it is read, and one that
// becomes useless on the way soon after.
func TestUselessSnapshotIsRefused(t *testing.T) {
	w, _ := admittedWorker(t)
	stops, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- w.run(stops) }()
	defer func() {
		close(stops)
		if err := <-ended; err != nil {
			t.Errorf("worker: %v", err)
		}
	}()
	reached := func(index nexusraft.Index) {
		m := snapshotAt(t, w, leaderNode, index)
		if m.offer(t, w); <-m.received.Ended() != nil {
			t.Fatalf("the snapshot at %d was not taken", index)
		}
	}
	install := func(index nexusraft.Index, chunks iter.Seq2[[]byte, error]) error {
		data, err := proto.Marshal(snapshotAt(t, w, leaderNode, index).message)
		if err != nil {
			t.Fatal(err)
		}
		return w.ask.InstallSnapshot(t.Context(), leaderNode, transport.SnapshotHeader{
			Zone: nexusraft.RootZone, From: leaderReplica, To: selfReplica, Index: index, Term: 2, Message: data,
		}, chunks)
	}
	const asked = 16 << 20 // bytes after which raft is asked again
	reached(20)
	err := install(20, func(func([]byte, error) bool) { t.Error("a useless snapshot was read") })
	if !errors.Is(err, snapshot.ErrIgnored) {
		t.Errorf("at the same index: got %v, want %v", err, snapshot.ErrIgnored)
	}
	read := 0
	err = install(30, func(yield func([]byte, error) bool) {
		for i := range uint64(4 * asked / 4000) {
			if read == 0 {
				reached(31)
			}
			chunk := append(binary.BigEndian.AppendUint64([]byte{8}, i), binary.AppendUvarint(nil, 4000)...)
			chunk = append(chunk, make([]byte, 4000)...)
			if read += len(chunk); !yield(chunk, nil) {
				return
			}
		}
	})
	if !errors.Is(err, snapshot.ErrIgnored) || read > asked+8<<10 {
		t.Errorf("overtaken: got %v after %d bytes, want %v after %d", err, read, snapshot.ErrIgnored, asked)
	}
	for _, s := range w.o.Snapshots.Status(nexusraft.RootZone) {
		t.Errorf("still under way: %+v", s)
	}
}
