package main

import "testing"

func TestSize(t *testing.T) {
	for _, tc := range []struct {
		text string
		want byteSize // -1: refused
	}{
		{"0", 0},
		{"1000", 1000},
		{"512KiB", 512 << 10},
		{"128MiB", 128 << 20},
		{"2GiB", 2 << 30},
		{"8388607TiB", 8388607 << 40},
		{"8388608TiB", -1},
		{"9223372036854775808", -1},
		{"", -1},
		{"MiB", -1},
		{"-1", -1},
		{"1.5GiB", -1},
		{"128MB", -1},
		{"128 MiB", -1},
	} {
		got := byteSize(-1)
		if err := got.UnmarshalText([]byte(tc.text)); (err != nil) != (tc.want < 0) || got != tc.want {
			t.Errorf("%q: got %d, %v; want %d", tc.text, got, err, tc.want)
		}
	}
}
