package transport

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestParseEndpoint(t *testing.T) {
	for endpoint, want := range map[string]struct {
		hostPort string
		security security
	}{
		"a:2026":             {"a:2026", asConfigured},
		"10.0.0.1:1":         {"10.0.0.1:1", asConfigured},
		"[fd00::1]:65535":    {"[fd00::1]:65535", asConfigured},
		"http://a:2026":      {"a:2026", plain},
		"https://[::1]:2026": {"[::1]:2026", encrypted},
	} {
		hostPort, s, err := parseEndpoint(endpoint)
		if err != nil || hostPort != want.hostPort || s != want.security {
			t.Errorf("%s: got %q, %v, %v, want %+v", endpoint, hostPort, s, err, want)
		}
	}
}

func TestParseEndpointRefuses(t *testing.T) {
	for endpoint, want := range map[string]string{
		"":                       "missing port",
		"a":                      "missing port",
		"a:":                     "no number between 1 and 65535",
		"a:0":                    "no number between 1 and 65535",
		"a:65536":                "no number between 1 and 65535",
		"a:http":                 "no number between 1 and 65535",
		":2026":                  "the host is missing",
		"fd00::1:2026":           "brackets",
		"a b:2026":               "a space",
		"http://a:2026/":         "a path",
		"https://a:2026/x?y":     "a path",
		"ftp://a:2026":           "unknown scheme",
		"http://me:secret@a:1":   "user information",
		strings.Repeat("a", 300): "an endpoint has 300 bytes, limit 256",
	} {
		_, _, err := parseEndpoint(endpoint)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want an error with %q", endpoint, err, want)
		}
	}
}

// FuzzParseEndpoint checks that what passes can be dialled, and that nothing panics.
func FuzzParseEndpoint(f *testing.F) {
	for _, s := range []string{"a:1", "http://a:1", "https://[::1]:65535", "x@a:1", "[a:1", "://:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		hostPort, _, err := parseEndpoint(s)
		if err == nil && (len(s) > nexusraft.MaxAddressBytes || strings.ContainsAny(hostPort, "/@ ?#") ||
			!strings.HasSuffix(s, hostPort)) {
			t.Errorf("%q passes as %q", s, hostPort)
		}
	})
}

func TestSameAddress(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:2027", "127.0.0.1:2027", true},
		{"localhost:2027", "127.0.0.1:2027", true},
		{"[::1]:2027", "0.0.0.0:2027", true},
		{"127.0.0.1:2026", "127.0.0.1:2027", false},
		{"10.0.0.1:2027", "127.0.0.1:2027", false},
		{"host:2027", "host:2027", true},
		{"host:2027", "nonsense", false},
	} {
		if diff := cmp.Diff(tc.want, sameAddress(tc.a, tc.b)); diff != "" {
			t.Errorf("sameAddress(%q, %q): %s", tc.a, tc.b, diff)
		}
	}
}
