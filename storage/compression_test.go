package storage

import (
	"bytes"
	"fmt"
	"testing"
)

// words is a value that each compression makes smaller than the one before.
func words(n int) []byte {
	var b []byte
	for i := range 400 {
		b = fmt.Appendf(b, "word %d of %d, ", i*i%97, n)
	}
	return b
}

// Tables are compressed as the options say, smaller ones are smaller, and those of one
// choice are read, and compacted to the other, under another.
func TestCompression(t *testing.T) {
	fs := NewMemFS()
	var sizes []int64
	for i, c := range []Compression{CompressionNone, CompressionFast, CompressionSmall, CompressionNone} {
		o := testOptions(fs)
		o.Compression = c
		s, err := Open("data", o)
		check(t, err)
		if i == 0 {
			for n := range 50 {
				check(t, s.Set(numberedKey(n), words(n), NoSync))
			}
		} else if was := total(s.Stats()); was < sizes[i-1] || was > sizes[i-1]*11/10 {
			t.Errorf("%d: opened with another compression: got %d bytes, want about %d as before", i, was, sizes[i-1])
		}
		check(t, s.Set([]byte("z"), nil)) // or there would be nothing to compact
		check(t, s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false))
		for n := range 50 {
			if got, _, err := s.Get(numberedKey(n)); err != nil || !bytes.Equal(got, words(n)) {
				t.Fatalf("%d: key %d: got %d bytes, %v", i, n, len(got), err)
			}
		}
		sizes = append(sizes, total(s.Stats()))
		check(t, s.Close())
	}
	none, fast, small, again := sizes[0], sizes[1], sizes[2], sizes[3]
	if raw := int64(50 * len(words(0))); none < raw || fast > none/2 || small > fast*9/10 || again < raw {
		t.Errorf("got sizes %v of %d bytes, want each but the last smaller than the one before", sizes, raw)
	}
}

// total returns the size of all tables.
func total(s Stats) (bytes int64) {
	for _, l := range s.Levels {
		bytes += l.Bytes
	}
	return bytes
}

func TestUnknownCompression(t *testing.T) {
	for _, c := range []Compression{-1, CompressionSmall + 1} {
		if _, err := OpenTemporary(&Options{Compression: c}); err == nil {
			t.Errorf("compression %d: got no error", c)
		}
	}
}
