package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/nexi-lab/nexus-raft/internal/program"
)

func TestRunStatus(t *testing.T) {
	empty := t.TempDir()
	for _, tc := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--version"}, 0, "nexus-witness "},
		{[]string{"--help"}, 0, "nexus-witness --data-dir /var/lib/nexus-witness --join"},
		{nil, 2, "--data-dir"},
		{[]string{"--data-dir", empty, "--log-level", "loud"}, 2, "loud"},
		{[]string{"--data-dir", empty, "--listen", "127.0.0.1:0"}, 1, "no cluster in " + empty + ": give --join ADDRESS"},
		{[]string{"--data-dir", empty, "--listen", ":2027"}, 2, "--advertise"},
		{[]string{"--data-dir", empty, "--disk-reserve", "1GiB"}, 2, "--disk-reserve"},
		{[]string{"--config", empty + "/none.yaml"}, 2, empty + "/none.yaml"},
	} {
		var out bytes.Buffer
		if got := run(t.Context(), tc.args, program.Standard{Out: &out, Err: &out}); got != tc.status ||
			!strings.Contains(out.String(), tc.want) {
			t.Errorf("%q: got status %d, want %d with %q; it wrote:\n%s", tc.args, got, tc.status, tc.want, &out)
		}
	}
}
