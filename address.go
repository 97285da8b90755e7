package nexusraft

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ValidateAddress returns what is wrong with an address that other nodes are told: it is host:port,
// at most MaxAddressBytes. The host is an IP address, in brackets if it is an IPv6 one, or a name
// of letters, digits, dots, hyphens and underscores. An IPv6 zone (fe80::1%eth0) means something
// else on each machine, so it has none.
func ValidateAddress(address string) error {
	if len(address) > MaxAddressBytes {
		return fmt.Errorf("address of %d bytes, limit %d", len(address), MaxAddressBytes)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("address %q is not host:port; an IPv6 address stands in brackets", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("address %q: port %q is no number between 1 and 65535", address, port)
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil && ip.Zone() != "":
		return fmt.Errorf("address %q has the IPv6 zone %q, which means something else on each machine", address, ip.Zone())
	case err == nil:
		return nil
	case host == "" || strings.ContainsFunc(host, notInName):
		return fmt.Errorf("address %q: the host is no IP address, and no name of letters, digits, dots, hyphens and "+
			"underscores", address)
	}
	return nil
}

func notInName(r rune) bool {
	return r == utf8.RuneError || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(".-_", r)
}

// Printable returns s as it is if all of it can be printed, and as a quoted Go string otherwise:
// what others have written must neither confuse a reader nor drive a terminal. A string that begins
// with a quotation mark is quoted too, so that what begins with one always is.
func Printable(s string) string {
	if strings.HasPrefix(s, `"`) || !isPrintable(s) {
		return strconv.Quote(s)
	}
	return s
}

// PrintableText is Printable for sentences: only what can't be printed is written as in a Go
// string, a line break, too.
func PrintableText(s string) string {
	if isPrintable(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		if strconv.IsPrint(r) && r != utf8.RuneError {
			b.WriteRune(r)
			continue
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		quoted := strconv.Quote(s[i : i+n])
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

func isPrintable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) })
}
