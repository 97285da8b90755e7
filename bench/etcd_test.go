package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestEtcd runs the parts of every kind with both sides, small.
func TestEtcd(t *testing.T) {
	c := etcdCommand{Quick: true, Only: []string{"lists", "versions"}, Most: 3 * time.Minute, Dir: t.TempDir()}
	var progress bytes.Buffer
	rep, err := c.measure(t.Context(), &progress)
	if err != nil {
		t.Fatalf("%v, after\n%s", err, &progress)
	}
	var out bytes.Buffer
	if err := rep.table(&out); err != nil {
		t.Fatal(err)
	}
	for _, row := range rep.Rows {
		if len(row.Ours) != 1 || len(row.Etcd) != 1 || row.Ours[0] <= 0 || row.Etcd[0] <= 0 {
			t.Errorf("%s: got %v and %v, want one figure of each", row.Name, row.Ours, row.Etcd)
		}
		if !strings.Contains(out.String(), row.Name) {
			t.Errorf("the table lacks %q", row.Name)
		}
	}
	if len(rep.Rows) != 7 {
		t.Errorf("%d rows, want 7", len(rep.Rows))
	}
}

func TestEtcdFlags(t *testing.T) {
	good := etcdCommand{
		Rounds: 1, Time: time.Second, Clients: 1, Objects: 1, Versions: 1, Range: 1, Keys: 1, Most: time.Second,
	}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for flag, change := range map[string]func(*etcdCommand){
		"--rounds": func(c *etcdCommand) { c.Rounds = 0 },
		"--range":  func(c *etcdCommand) { c.Range = 250_001 },
		"--time":   func(c *etcdCommand) { c.Time = 0 },
	} {
		c := good
		change(&c)
		if err := c.check(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: got %v", flag, err)
		}
	}
}
