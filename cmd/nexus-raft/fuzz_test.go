package main

import (
	"fmt"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// A size is a number of bytes that can be written as such.
func FuzzByteSize(f *testing.F) {
	f.Add("128MiB")
	f.Add("9223372036854775807")
	f.Add("8388608TiB")
	f.Fuzz(func(t *testing.T, text string) {
		var size, again byteSize
		if size.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(fmt.Sprint(int64(size)))); err != nil || size < 0 || again != size {
			t.Errorf("%q is %d bytes, which read as %d, %v", text, size, again, err)
		}
	})
}

// Any text is a transaction, or an error in a line that can be printed; one that is cut off at its end is no
// transaction with less in it, unless whole lines are missing from its last block.
func FuzzTxnScript(f *testing.F) {
	f.Add("value(\"k\") = \"v\"\n\nput k \"a b\" --prev-kv\n\nget --prefix k --limit=3\ndel 'a' b\n", uint(30))
	f.Add("mod(\"\\xff\") != 3\r\n\r\n\r\n", uint(3))
	f.Fuzz(func(t *testing.T, text string, cut uint) {
		whole, err := readScript(strings.NewReader(text), nil)
		if err != nil {
			if s := nexusraft.PrintableText(err.Error()); s != err.Error() || len(s) > 500 {
				t.Errorf("%q: got %q", text, err)
			}
			return
		}
		short, err := readScript(strings.NewReader(text[:cut%uint(len(text))]), nil)
		if err == nil && (len(short.compares) != len(whole.compares) ||
			len(short.branches[0]) != len(whole.branches[0])) {
			t.Errorf("%q, cut to %d bytes, is another transaction", text, cut%uint(len(text)))
		}
	})
}
