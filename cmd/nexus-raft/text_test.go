package main

import (
	"math"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestPrintable(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"", ""},
		{"plain/path with space", "plain/path with space"},
		{"größe", "größe"},
		{`{"json":1}`, `{"json":1}`},
		{`"quoted"`, `"\"quoted\""`},
		{"line\nbreak", `"line\nbreak"`},
		{"\x1b[31mred", `"\x1b[31mred"`},
		{"\xff\x00", `"\xff\x00"`},
		{"\u202eback", `"\u202eback"`},
	} {
		if got := printable(tc.in); got != tc.want {
			t.Errorf("printable(%q): got %s, want %s", tc.in, got, tc.want)
		}
	}
}

func TestSnapshotsText(t *testing.T) {
	list := []nexusraft.SnapshotStatus{
		{Peer: 0xabcdef0123456789, Sending: true, Bytes: 31 << 20},
		{Peer: 0x1234567812345678, Bytes: math.MaxUint64},
	}
	if got, want := snapshotsText(list[:1]), "; snapshot to abcdef01: 31 MiB"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := snapshotsText(list[1:]), "; snapshot from 12345678: 8589934592.0 GiB"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
