package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestTimeToLive(t *testing.T) {
	good := map[string]time.Duration{"60": time.Minute, "1m30s": 90 * time.Second, "1500ms": 1500 * time.Millisecond}
	for text, want := range good {
		var got timeToLive
		if err := got.UnmarshalText([]byte(text)); err != nil || time.Duration(got) != want {
			t.Errorf("%s: got %v, %v; want %v", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "0", "-1", "-1s", "x", "1 m", "99999999999", "0s"} {
		var got timeToLive
		if err := got.UnmarshalText([]byte(bad)); err == nil || !strings.Contains(err.Error(), "expected seconds, as in 60") {
			t.Errorf("%q: got %v, %v", bad, got, err)
		}
	}
}

func TestLeaseCommands(t *testing.T) {
	t.Parallel()
	_, endpoint, _, _ := founded(t)
	run := func(want int, args string) string {
		t.Helper()
		words := append(strings.Fields(args), "--endpoints", endpoint, "--timeout", "20s")
		status, stdout, stderr := command(t, words...)
		if status != want {
			t.Fatalf("%s: status %d, want %d; %s", args, status, want, stderr)
		}
		return stdout + stderr
	}
	says := func(got, want string) {
		t.Helper()
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
	var lease struct {
		Lease string
		TTL   int `json:"ttl_seconds"`
	}
	if err := json.Unmarshal([]byte(run(exitOK, "lease grant 60 --json")), &lease); err != nil || lease.TTL != 60 {
		t.Fatalf("%v, %+v", err, lease)
	}
	id := lease.Lease
	run(exitOK, "put k v --lease "+id)
	says(run(exitOK, "get k --json"), `"lease":"`+id+`"`)
	says(run(exitOK, "history k --json"), `"lease":"`+id+`"`)
	says(run(exitOK, "lease ttl --keys "+id), "lease "+id+", time to live 1m0s, left ")
	says(run(exitOK, "lease ttl --keys --json "+id), `"keys":[{"key":"k"}]`)
	says(run(exitOK, "lease list"), id+"\n")
	keeper := launch(t, "lease", "keep", id, "--endpoints", endpoint)
	keeper.says(t, "lease "+id+", time to live 1m0s, is kept alive")
	keeper.stop(t)
	says(run(exitOK, "lease revoke "+id), "lease "+id+" is revoked")
	says(run(exitFailed, "get k"), "there is no key")
	for _, command := range []string{"lease revoke ", "lease ttl ", "lease keep ", "put k v --lease "} {
		says(run(exitFailed, command+id), "lease not found; nexus-raft lease list shows which there are")
	}
	says(run(exitUsage, "lease ttl nonsense"), `"nonsense" is no lease's ID, which is hexadecimal`)
	says(run(exitUsage, "lease grant never"), `"never" is no time to live`)
}
