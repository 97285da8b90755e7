package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// exportOf is an export of a store as it is.
func exportOf(t *testing.T, s *Store, trees ...string) ([]byte, ExportStats) {
	t.Helper()
	x := s.NewSnapshot()
	defer x.Close()
	var w bytes.Buffer
	stats, err := x.Export(t.Context(), &w, trees...)
	check(t, err)
	return w.Bytes(), stats
}

// smallStore has little in the default tree and two others, and an empty tree.
func smallStore(t *testing.T) *Store {
	t.Helper()
	s := newStore(t)
	put(t, s.Default(), "", "at the empty key")
	put(t, s.Default(), "k", "")
	put(t, mustTree(t, s, "a"), "k", "v")
	put(t, mustTree(t, s, "b"), "l", "w")
	mustTree(t, s, "c")
	return s
}

func TestExportAndImport(t *testing.T) {
	from := newStore(t)
	fillTrees(t, from)
	mustTree(t, from, "empty")
	want := contents(t, from)
	stream, exported := exportOf(t, from)

	fs := NewMemFS()
	to := mustOpen(t, fs)
	handle := mustTree(t, to, "tree 1") // it is there, and was not always empty
	put(t, handle, "000", "old")
	put(t, handle, "zzz", "old")
	check(t, handle.Clear())
	later := mustTree(t, to, "zzz") // its ID is below that of the new trees
	imported, err := to.Import(t.Context(), bytes.NewReader(stream))
	check(t, err)
	if diff := cmp.Diff(exported, imported); diff != "" {
		t.Errorf("the stats differ (-export +import):\n%s", diff)
	}
	var bytes, pairs int64
	for _, tree := range want {
		for _, p := range tree {
			pairs++
			bytes += int64(len(p.Key) + len(p.Value))
		}
	}
	if diff := cmp.Diff(ExportStats{Trees: 4, Pairs: pairs, Bytes: bytes}, exported); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	want["zzz"] = nil
	if diff := cmp.Diff(want, contents(t, to)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want["tree 1"], collect(t, handle.Scan(nil, nil))); diff != "" {
		t.Errorf("the tree that was there (-want +got):\n%s", diff)
	}

	// What comes later has its own ID, and what was imported is on the disk.
	put(t, mustTree(t, to, "new"), "k", "v")
	put(t, later, "k", "v")
	want["new"], want["zzz"] = []kv{{"k", "v"}}, []kv{{"k", "v"}}
	check(t, to.Close())
	to = mustOpen(t, fs)
	defer func() { check(t, to.Close()) }()
	if diff := cmp.Diff(want, contents(t, to)); diff != "" {
		t.Errorf("opened again (-want +got):\n%s", diff)
	}
	_, err = to.Check(t.Context(), nil)
	check(t, err)
}

// TestExportOfSome: the named trees alone, in any order, however often named; an unknown name is an
// error before anything is written.
func TestExportOfSome(t *testing.T) {
	from := smallStore(t)
	for _, tc := range []struct{ names, want []string }{
		{[]string{"b"}, []string{"b"}},
		{[]string{"b", "", "b"}, []string{"", "b"}},
		{[]string{"c", "a"}, []string{"a", "c"}},
	} {
		stream, stats := exportOf(t, from, tc.names...)
		to := newStore(t)
		_, err := to.Import(t.Context(), bytes.NewReader(stream))
		check(t, err)
		want := map[string][]kv{"": nil}
		for _, name := range tc.want {
			want[name] = contents(t, from)[name]
		}
		if diff := cmp.Diff(want, contents(t, to)); diff != "" || stats.Trees != int64(len(tc.want)) {
			t.Errorf("%q: %d trees (-want +got):\n%s", tc.names, stats.Trees, diff)
		}
	}
	x := from.NewSnapshot()
	put(t, mustTree(t, from, "later"), "k", "v")
	var w bytes.Buffer
	_, err := x.Export(t.Context(), &w, "a", "later")
	if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), `"later"`) || w.Len() > 0 {
		t.Errorf("a tree that was not there: got %v after %d bytes", err, w.Len())
	}
	x.Close()
	if _, err := x.Export(t.Context(), &w); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("of a closed snapshot: got %v", err)
	}
}

// brokenWriter fails after n bytes.
type brokenWriter struct{ n int }

func (w *brokenWriter) Write(b []byte) (int, error) {
	if w.n -= len(b); w.n < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(b), nil
}

func TestExportEndsEarly(t *testing.T) {
	s := smallStore(t)
	stream, _ := exportOf(t, s)
	x := s.NewSnapshot()
	defer x.Close()
	for n := range stream {
		if _, err := x.Export(t.Context(), &brokenWriter{n}); !errors.Is(err, io.ErrClosedPipe) {
			t.Fatalf("a writer that fails after %d bytes: got %v", n, err)
		}
	}
	_, err := x.Export(t.Context(), &brokenWriter{len(stream)})
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := x.Export(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: got %v", err)
	}
}

// TestExportUnderWriters: what is exported is what the snapshot has.
func TestExportUnderWriters(t *testing.T) {
	s := newStore(t)
	tree := mustTree(t, s, "t")
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := tree.Set(fmt.Appendf(nil, "%d", i%300), fmt.Appendf(nil, "%0500d", i), NoSync); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 5 {
		x := s.NewSnapshot()
		want, err := x.Reader(tree).Checksum(nil, nil)
		check(t, err)
		var w bytes.Buffer
		_, err = x.Export(t.Context(), &w, "t")
		check(t, err)
		x.Close()
		to := newStore(t)
		_, err = to.Import(t.Context(), &w)
		check(t, err)
		if got, err := mustTree(t, to, "t").Checksum(nil, nil); got != want || err != nil {
			t.Errorf("got checksum %v, %v, the snapshot's is %v", got, err, want)
		}
	}
	close(stop)
	writer.Wait()
}

// TestExportFormat spells a small export out: programs of later releases have to read it.
func TestExportFormat(t *testing.T) {
	s := newStore(t)
	put(t, mustTree(t, s, "a"), "key", "value")
	stream, _ := exportOf(t, s, "a")
	want := hex.EncodeToString([]byte("nexusraft-export")) + "00000001" + "12042143" +
		"01" + "00000001" + "38159f85" + hex.EncodeToString([]byte("a")) +
		"02" + "0000000a" + "0ded0706" + "0305" + hex.EncodeToString([]byte("keyvalue")) +
		"03" + "00000022" + "657ec926" + "0101" + "d81df2065b6e6cdd7825f086d1eda8a400fc9d2cb7cb74279f9ef1f9a4e484e4"
	if diff := cmp.Diff(want, hex.EncodeToString(stream)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// seal returns an export of the frames, each a kind and a payload, with the right checks.
func seal(version uint32, frames ...string) []byte {
	b := binary.BigEndian.AppendUint32([]byte(exportMagic), version)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	for _, f := range frames {
		header := binary.BigEndian.AppendUint32([]byte{f[0]}, uint32(len(f)-1))
		b = append(b, header...)
		b = binary.BigEndian.AppendUint32(b, frameCheck(header, []byte(f[1:])))
		b = append(b, f[1:]...)
	}
	return b
}
