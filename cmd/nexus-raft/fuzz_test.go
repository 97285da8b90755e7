package main

import (
	"fmt"
	"testing"
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
