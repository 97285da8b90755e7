package main

import (
	"testing"
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
