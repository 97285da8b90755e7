package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testWires starts a receiving process, for measurements that are as short as can be.
func testWires(t *testing.T) *wireRunner {
	t.Helper()
	dir := t.TempDir()
	r := &wireRunner{time: 5 * time.Millisecond, rounds: 1, ways: ways, bytes: 1<<20 + 1, progress: io.Discard}
	var err error
	if r.file, err = writeNoise(dir, r.bytes); err != nil {
		t.Fatal(err)
	}
	end, err := r.startPeer(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	return r
}

// TestTransport runs every row each way.
func TestTransport(t *testing.T) {
	r := testWires(t)
	got, err := r.run(wireRows)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Rows) != len(wireRows) {
		t.Fatalf("got %d rows, want %d", len(got.Rows), len(wireRows))
	}
	for i, row := range wireRows {
		l := got.Rows[i]
		if l.Name != row.name || l.Unit != row.unit || l.LowerIsBetter != row.lower || len(l.Results) != len(ways) {
			t.Fatalf("got %q in %q with %d results, want %q in %q with %d", l.Name, l.Unit, len(l.Results), row.name, row.unit,
				len(ways))
		}
		for i, v := range l.Results {
			if v.Engine != ways[i].name || len(v.Rounds) != 1 || v.Median <= 0 || v.Ratio <= 0 {
				t.Errorf("%s: got %+v, want one round of %s", row.name, v, ways[i].name)
			}
			if ways[i].base == ways[i].name && v.Ratio != 1 {
				t.Errorf("%s: %s compared with itself is %v", row.name, v.Engine, v.Ratio)
			}
		}
	}
	var table bytes.Buffer
	if err := got.table(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"bare stream, TLS", wireRows[0].name, wireRows[len(wireRows)-1].name} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("there is no %q in the table:\n%s", want, &table)
		}
	}
}

// TestTLS runs the command with TLS alone.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	c := transportCommand{
		Rounds: 1, Time: time.Millisecond, Snapshot: 1000, TLS: "on", Only: []string{"snapshot"},
		Dir: dir, JSON: true,
	}
	var out bytes.Buffer
	if err := c.Run(&out); err != nil {
		t.Fatal(err)
	}
	var got wireReport
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, &out)
	}
	var names []string
	for _, r := range got.Rows[0].Results {
		names = append(names, r.Engine)
	}
	if diff := cmp.Diff([]string{"nexus-raft, TLS", "bare stream, TLS"}, names); diff != "" {
		t.Errorf("measured (-want +got):\n%s", diff)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it has left %v, %v", left, err)
	}
}

// Nobody gets through without TLS where it is to be measured, neither by grpc nor by TCP.
func TestSecureIsSecure(t *testing.T) {
	r := testWires(t)
	naked := r.secure
	naked.tls = nil
	for _, w := range ways {
		if w.secure {
			continue
		}
		l, err := w.dial(r, naked)
		if err != nil {
			continue
		}
		defer l.close()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := l.ping(ctx); err == nil {
			t.Errorf("%s: a ping without TLS was answered", w.name)
		}
	}
	l, err := r.dialBare(r.secure)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if err := l.snapshot(t.Context(), r.file); err != nil {
		t.Fatal(err)
	}
	l.(*bareLink).remote = naked
	if err := l.snapshot(t.Context(), r.file); err == nil {
		t.Error("a file was taken without TLS")
	}
}

// Appends wait for answers once there are so many, and each answer lets one more go.
func TestUnanswered(t *testing.T) {
	u := newUnanswered()
	for range maxUnanswered {
		data := make([]byte, large)
		if err := u.wait(t.Context(), data); err != nil || !isAppend(data) {
			t.Fatalf("got %v, append: %t", err, isAppend(data))
		}
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if err := u.wait(done, make([]byte, large)); err == nil {
		t.Errorf("it lets %d go", maxUnanswered+1)
	}
	u.answered()
	if err := u.wait(t.Context(), make([]byte, large)); err != nil {
		t.Error(err)
	}
	if err := u.settle(done); err == nil {
		t.Error("it is settled while appends are on their way")
	}
	go func() {
		for range maxUnanswered {
			u.answered()
		}
	}()
	if err := u.settle(t.Context()); err != nil || len(u) != maxUnanswered {
		t.Errorf("got %v with room for %d, want %d", err, len(u), maxUnanswered)
	}
	if isAppend(make([]byte, large)) {
		t.Error("a message that asks for no answer gets one")
	}
}
