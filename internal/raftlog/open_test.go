package raftlog

import (
	"errors"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func encodeEntry(t failer, e *raftpb.Entry) []byte {
	t.Helper()
	b, err := proto.Marshal(e)
	must(t, err)
	return b
}

// Invariant I10: records that don't fit together are an error with the place, never a panic
// and never a log that is not the one that was written.
func TestOpenRefusesCorruptRecords(t *testing.T) {
	metaKey, hsKey, appliedKey := recordKey(zone, kindMeta), recordKey(zone, kindHardState), recordKey(zone, kindApplied)
	for _, tc := range []struct {
		name  string
		key   []byte
		value []byte // nil: the record is deleted
		want  string
	}{
		{"no meta", metaKey, nil, "one is missing"},
		{"no hard state", hsKey, nil, "one is missing"},
		{"no applied index", appliedKey, nil, "one is missing"},
		{"empty meta", metaKey, []byte{}, "meta of 0 bytes"},
		{"meta of a later version", metaKey, []byte("\x02{}"), "version 2"},
		{"meta cut short", metaKey, []byte("\x01{\"replica\""), "meta"},
		{"hard state without fields", hsKey, []byte{}, "lacks a field"},
		{"hard state of noise", hsKey, []byte{0xff, 0xff}, "hard state"},
		{"applied index cut short", appliedKey, []byte{1, 2, 3}, "3 bytes"},
		{"applied before the log", appliedKey, encodeApplied(9), "applied index 9"},
		{"applied beyond commit", appliedKey, encodeApplied(13), "applied index 13"},
		{"commit beyond the log", hsKey, []byte{8, 3, 16, 1, 24, 16}, "commit index 16"},
		{"commit before the log", hsKey, []byte{8, 3, 16, 1, 24, 9}, "commit index 9"},
		{"term before the log's", hsKey, []byte{8, 2, 16, 1, 24, 12}, "entry 15 is of term 3"},
		{"first entry missing", entryKey(zone, 11), nil, "entry 12 where 11"},
		{"entry missing", entryKey(zone, 13), nil, "entry 14 where 13"},
		{"last entry missing, committed", entryKey(zone, 12), nil, "entry 13 where 12"},
		{"entry below the log", entryKey(zone, 10), encodeEntry(t, entry(10, 2, "")), "entry 10 where 11"},
		{"entry after a gap", entryKey(zone, 17), encodeEntry(t, entry(17, 3, "")), "entry 17 where 16"},
		{"entry of noise", entryKey(zone, 13), []byte("noise"), "entry 13"},
		{"empty entry", entryKey(zone, 13), []byte{}, "entry 13"},
		{"entry of another index", entryKey(zone, 13), encodeEntry(t, entry(14, 3, "")), "entry 13 reads as index 14"},
		{"entry of an unknown type", entryKey(zone, 13), []byte{8, 77, 16, 3, 24, 13}, "term 3, 77"},
		{"entry with an unknown field", entryKey(zone, 13), []byte{16, 3, 24, 13, 40, 1}, "2 bytes of unknown fields"},
		{"entry of an older term", entryKey(zone, 13), encodeEntry(t, entry(13, 1, "")), "entry 13 of term 1"},
		{"unknown kind", recordKey(zone, 9), []byte("x"), "none that this version writes"},
		{"entry key cut short", entryKey(zone, 12)[:16], []byte("x"), "none that this version writes"},
		{"record after the entries", recordKey(zone, 17), []byte("x"), "none that this version writes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, tree := newTree(t)
			l := founded(t, s, tree)
			write(t, s, func(b *storage.Batch) error {
				return errors.Join(l.Append(b, entries(11, 5, 3)), l.SetHardState(b, hardState(3, 1, 12)), l.SetApplied(b, 11))
			})
			write(t, s, func(b *storage.Batch) error {
				if tc.value == nil {
					return b.Delete(tree, tc.key)
				}
				return b.Set(tree, tc.key, tc.value)
			})
			_, err := Open(tree, zone)
			if !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), tc.want) ||
				!strings.Contains(err.Error(), "zone 7") {
				t.Errorf("got %v, want ErrCorrupt with %q and the zone", err, tc.want)
			}
			if zones, err := Zones(tree); err != nil || len(zones) != 1 {
				t.Errorf("the zone is not listed any more: got %v, %v", zones, err)
			}
		})
	}
}

// Invariant I10, for what changes on disk while the Log is open.
func TestEntriesRefusesCorruptRecords(t *testing.T) {
	for _, tc := range []struct {
		name  string
		value []byte
		want  string
	}{
		{"missing", nil, "entry 13 is missing"},
		{"noise", []byte("noise"), "entry 13"},
		{"another term", encodeEntry(t, entry(13, 2, "payload")), "entry 13 is of term 2, not 3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, tree := newTree(t)
			l := founded(t, s, tree)
			write(t, s, func(b *storage.Batch) error { return l.Append(b, entries(11, 5, 3)) })
			write(t, s, func(b *storage.Batch) error { return l.SetHardState(b, hardState(3, 1, 12)) })
			l = reopen(t, tree, zone)
			write(t, s, func(b *storage.Batch) error {
				if tc.value == nil {
					return b.Delete(tree, entryKey(zone, 13))
				}
				return b.Set(tree, entryKey(zone, 13), tc.value)
			})
			_, err := l.Entries(11, 16, ^uint64(0))
			if !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), tc.want) ||
				!strings.Contains(err.Error(), "zone 7") {
				t.Errorf("got %v, want ErrCorrupt with %q and the zone", err, tc.want)
			}
			if got, err := l.Entries(11, 13, ^uint64(0)); err != nil || len(got) != 2 {
				t.Errorf("the entries before it: got %d, %v, want 2", len(got), err)
			}
		})
	}
}

func TestZonesRefusesAKeyWithoutZone(t *testing.T) {
	s, tree := newTree(t)
	write(t, s, func(b *storage.Batch) error { return b.Set(tree, []byte("short"), nil) })
	if _, err := Zones(tree); !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
}
