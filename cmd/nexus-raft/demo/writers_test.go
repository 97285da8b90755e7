package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// memory is a cluster that never fails, unless a hook says so.
type memory struct {
	mu       sync.Mutex
	revision nexusraft.Revision
	held     map[string]client.KeyValue
	puts     int
	hook     func(put int) (happens bool, err error) // may be nil
}

func (m *memory) Put(ctx context.Context, key, value []byte) (client.PutResult, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return client.PutResult{}, ctx.Err()
	}
	m.puts++
	happens, err := true, error(nil)
	if m.hook != nil {
		happens, err = m.hook(m.puts)
	}
	if happens {
		m.revision++
		kv := m.held[string(key)]
		kv.Key, kv.Value, kv.ModRevision = key, value, m.revision
		kv.Version++
		m.held[string(key)] = kv
	}
	return client.PutResult{Revision: m.revision, Copies: 2}, err
}

func heldOf(records map[string]record) map[string]client.KeyValue {
	out := make(map[string]client.KeyValue)
	for path, rec := range records {
		out[path] = client.KeyValue{Key: []byte(path), Value: rec.encode(), Version: 1}
	}
	return out
}

// runWriters runs three writers over ten files until so many rounds are complete.
func runWriters(t *testing.T, m *memory, rounds int64) (*writers, error) {
	t.Helper()
	dir := t.TempDir()
	for i := range 10 {
		write(t, dir, fmt.Sprintf("f%d", i), strings.Repeat("x", i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := newWriters(open(t, dir), m, newLedger(), 3)
	hook := m.hook
	m.held = make(map[string]client.KeyValue)
	m.hook = func(put int) (bool, error) {
		if w.complete() >= rounds {
			cancel()
		}
		if hook == nil {
			return true, nil
		}
		return hook(put)
	}
	return w, w.run(ctx)
}

func TestWritersGoOnRoundAfterRound(t *testing.T) {
	m := new(memory)
	w, err := runWriters(t, m, 10)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.complete(); got < 10 {
		t.Errorf("complete rounds: got %d, want 10 or more", got)
	}
	if got := len(slices.Collect(maps.Keys(m.held))); got != 10 {
		t.Errorf("records: got %d, want 10", got)
	}
	if found := w.ledger.compare(m.held); len(found) > 0 {
		t.Errorf("findings: got %v, want none", found)
	}
}

func TestWritersAndLedgerAgreeAcrossFailures(t *testing.T) {
	m := &memory{hook: func(put int) (bool, error) {
		switch put % 7 {
		case 1:
			return true, fmt.Errorf("connection lost: %w", nexusraft.ErrUncertain)
		case 3:
			return false, fmt.Errorf("connection lost: %w", nexusraft.ErrUncertain)
		case 5:
			return false, fmt.Errorf("gave up: %w", context.DeadlineExceeded)
		}
		return true, nil
	}}
	w, err := runWriters(t, m, 50)
	if err != nil {
		t.Fatal(err)
	}
	if found := w.ledger.compare(m.held); len(found) > 0 {
		t.Errorf("findings: got %v, want none", found)
	}
	sum := w.ledger.counts()
	if sum.uncertain < 100 || sum.refused < 50 || sum.acknowledged < 200 {
		t.Errorf("counts: got %+v, want all kinds", sum)
	}
}

// A put that is acknowledged and did not happen must be found, even though later rounds
// write the same keys again.
func TestLostWritesAreFoundThoughCovered(t *testing.T) {
	m := &memory{hook: func(put int) (bool, error) { return put != 20, nil }}
	w, err := runWriters(t, m, 20)
	if err != nil {
		t.Fatal(err)
	}
	found := w.ledger.compare(m.held)
	if len(found) != 1 || found[0].outcome != lost {
		t.Errorf("findings: got %v, want one lost write", found)
	}
}

func TestWritersEndOnAFinalError(t *testing.T) {
	broken := errors.New("no such zone")
	m := &memory{hook: func(put int) (bool, error) {
		if put == 25 {
			return false, broken
		}
		return true, nil
	}}
	if _, err := runWriters(t, m, 1_000_000); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}
