package etcdtest

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// etcdctl runs the program on the shared cluster.
func etcdctl(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	args = append([]string{"--endpoints", strings.Join(shared.endpoints(), ",")}, args...)
	cmd := exec.CommandContext(within(t, patience), programs.etcdctl, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("etcdctl %v: %w: %s", args, err, errs.String())
	}
	return string(out), err
}

func TestEtcdctlKeys(t *testing.T) {
	if _, err := etcdctl(t, "del", "--prefix", "ctl/"); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"put", "ctl/a", "1"}, "OK\n"},
		{[]string{"put", "ctl/b", "2"}, "OK\n"},
		{[]string{"put", "--prev-kv", "ctl/b", "3"}, "OK\nctl/b\n2\n"},
		{[]string{"get", "ctl/a"}, "ctl/a\n1\n"},
		{[]string{"get", "--prefix", "ctl/"}, "ctl/a\n1\nctl/b\n3\n"},
		{[]string{"get", "--prefix", "--keys-only", "ctl/"}, "ctl/a\n\nctl/b\n\n"},
		{[]string{"get", "--prefix", "--print-value-only", "--order=DESCEND", "--sort-by=KEY", "ctl/"}, "3\n1\n"},
		{[]string{"get", "--prefix", "--limit=1", "--consistency=s", "ctl/"}, "ctl/a\n1\n"},
		{[]string{"get", "ctl/absent"}, ""},
		{[]string{"del", "ctl/a"}, "1\n"},
		{[]string{"del", "ctl/a"}, "0\n"},
		{[]string{"del", "--prefix", "--prev-kv", "ctl/"}, "1\nctl/b\n3\n"},
		{[]string{"get", "--prefix", "ctl/"}, ""},
	} {
		if got, err := etcdctl(t, tc.args...); err != nil || got != tc.want {
			t.Errorf("%v: got %q, %v; want %q", tc.args, got, err, tc.want)
		}
	}
}

func TestEtcdctlMemberList(t *testing.T) {
	out, err := etcdctl(t, "member", "list", "-w", "simple")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 3 {
		t.Fatalf("got %q, want three members", out)
	}
	for _, p := range []*process{shared.members[0], shared.members[1], shared.witness} {
		url := "http://" + p.address
		clients := url
		if p == shared.witness {
			clients = "" // it has no data that a client could ask for
		}
		want := strings.Join([]string{", started", p.name, url, clients, "false"}, ", ")
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasSuffix(l, want) }) {
			t.Errorf("got %q, want a line that ends with %q", lines, want)
		}
	}
}

func TestEtcdctlEndpoints(t *testing.T) {
	table, err := etcdctl(t, "endpoint", "status", "-w", "table")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range shared.members {
		if !strings.Contains(table, p.address) {
			t.Errorf("got\n%s\nwant %s in it", table, p.address)
		}
	}
	for _, args := range [][]string{
		{"endpoint", "status", "-w", "json"},
		{"endpoint", "status", "--cluster", "-w", "json"},
	} {
		checkStatus(t, args)
	}
	health, err := etcdctl(t, "endpoint", "health", "-w", "json")
	if err != nil || strings.Count(health, `"health":true`) != 2 {
		t.Errorf("got %s, %v; want two healthy endpoints", health, err)
	}
	if alarms, err := etcdctl(t, "alarm", "list"); err != nil || alarms != "" {
		t.Errorf("got alarms %q, %v; want none", alarms, err)
	}
}

// checkStatus checks what both members say of themselves: one leads, and both know it.
func checkStatus(t *testing.T, args []string) {
	t.Helper()
	out, err := etcdctl(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	var all []struct {
		Status struct {
			Header           struct{ Member_id, Cluster_id, Revision uint64 }
			Version          string
			DBSize, Leader   uint64
			RaftTerm         uint64
			RaftIndex        uint64
			RaftAppliedIndex uint64
		}
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 2 {
		t.Fatalf("%v: got %s, %v; want two answers", args, out, err)
	}
	leaders := 0
	for _, a := range all {
		s := a.Status
		if s.Header.Member_id == 0 || s.Header.Cluster_id == 0 || s.Header.Revision == 0 || s.DBSize == 0 ||
			s.RaftTerm == 0 || s.RaftIndex == 0 || s.RaftAppliedIndex == 0 || !strings.HasPrefix(s.Version, "3.") {
			t.Errorf("%v: got %+v, want all of it", args, s)
		}
		if s.Leader != all[0].Status.Leader {
			t.Errorf("%v: two leaders: %s", args, out)
		}
		if s.Leader == s.Header.Member_id {
			leaders++
		}
	}
	if leaders != 1 {
		t.Errorf("%v: got %d leaders, want 1: %s", args, leaders, out)
	}
}

func TestEtcdctlSaysWhatIsNotOffered(t *testing.T) {
	for method, args := range map[string][]string{
		"MemberRemove": {"member", "remove", "1"},
		"Defragment":   {"defrag"},
	} {
		if _, err := etcdctl(t, args...); err == nil || !strings.Contains(err.Error(), method+" is not offered yet") {
			t.Errorf("%v: got %v, want a failure that says so", args, err)
		}
	}
}
