package main

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// printable returns s as it is if all of it can be printed, and as a quoted Go string
// otherwise: keys and values may be any bytes, and must neither confuse a reader nor drive
// a terminal. A string that begins with a quotation mark is quoted too, so that what begins
// with one always is.
func printable(s string) string {
	if strings.HasPrefix(s, `"`) || !utf8.ValidString(s) {
		return strconv.Quote(s)
	}
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}
