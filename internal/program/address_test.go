package program

import "testing"

func TestCheckReachable(t *testing.T) {
	for _, tc := range []struct {
		listen, advertise string
		ok                bool
	}{
		{"127.0.0.1:2026", "", true},
		{"[fe80::1]:2026", "", true},
		{"[fe80::1%lo]:2026", "", false},
		{"[fe80::1%lo]:2026", "n1.example.org:2026", true},
		{"0.0.0.0:2026", "[fe80::1%eth0]:2026", false},
		{"0.0.0.0:2026", "loc%61lhost:2026", false},
		{"0.0.0.0:2026", "n1\x1b[2J:2026", false},
		{"0.0.0.0:2026", "http://n1:2026", false},
		{"0.0.0.0:2026", "n1", false},
		{"0.0.0.0:2026", "", false},
	} {
		if err := CheckReachable(tc.listen, tc.advertise); (err == nil) != tc.ok {
			t.Errorf("%s, %q: got %v, want it to be good: %t", tc.listen, tc.advertise, err, tc.ok)
		}
	}
}
