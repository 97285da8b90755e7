package node_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

func TestOneMember(t *testing.T) {
	t.Parallel()
	m := found(t, testConfig(t, "n1"))
	if r := m.put("a", "1"); r.Copies != 1 || len(r.Data) != 0 {
		t.Errorf("first put: %+v, want one copy and no old value", r)
	}
	if r := m.put("a", "2"); string(r.Data) != "1" {
		t.Errorf("second put returned %q, want the old value 1", r.Data)
	}
	if got := m.get("a"); got != "2" {
		t.Errorf("a = %q, want 2", got)
	}
	m.close()

	again := start(t, m.config)
	if got := again.get("a"); got != "2" {
		t.Errorf("after a restart a = %q, want 2", got)
	}
}

// Whoever connects and says nothing does not keep a node from stopping.
func TestStopWithAMuteConnection(t *testing.T) {
	t.Parallel()
	m := found(t, testConfig(t, "n1"))
	conn, err := net.Dial("tcp", m.config.Advertise)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m.put("a", "1") // by now the connection is accepted
	m.close()       // fails if it takes too long
}

func TestFailedCommandLeavesNothing(t *testing.T) {
	t.Parallel()
	m := found(t, testConfig(t, "n1"))
	_, err := m.zone().ProposeOnce(t.Context(), nexusraft.RequestID{}, []byte("!no"))
	if !errors.Is(err, errRefusedByWords) {
		t.Fatalf("got %v, want the state machine's own error", err)
	}
	if got := m.get("half"); got != "" {
		t.Errorf("a failed command left half = %q", got)
	}
	_, err = m.zone().ProposeOnce(t.Context(), nexusraft.RequestID{Session: 7, Sequence: 1}, []byte("a=1"))
	if !errors.Is(err, nexusraft.ErrUnknownSession) {
		t.Errorf("a command of an unknown session: %v, want ErrUnknownSession", err)
	}
	if got := m.get("a"); got != "" {
		t.Errorf("a command of an unknown session was run: a = %q", got)
	}
}

func TestPanicStopsTheZoneAndNothingElse(t *testing.T) {
	t.Parallel()
	m := found(t, testConfig(t, "n1"))
	m.put("a", "1")
	_, err := m.zone().ProposeOnce(t.Context(), nexusraft.RequestID{}, []byte("panic"))
	if !errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("propose of a command that panics: %v, want ErrUncertain", err)
	}
	if _, err := m.node.Zone(nexusraft.RootZone); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("the zone after the panic: %v, want ErrClosed", err)
	}
	s, err := m.node.Status(t.Context())
	if err != nil || s.Healthy || s.Problem == "" {
		t.Errorf("status %+v, %v: want a problem", s, err)
	}
}

func TestSecondMember(t *testing.T) {
	t.Parallel()
	n1 := found(t, testConfig(t, "n1"))
	for i := range 50 {
		n1.put(fmt.Sprint("before", i), "x")
	}
	n2 := join(t, testConfig(t, "n2"), n1)
	if got := n2.get("before49"); got != "x" {
		t.Errorf("the second member reads %q of what was there before it, want x", got)
	}
	// A write through the follower is forwarded, and read back there at once.
	if r := n2.put("via2", "y"); r.Copies != 2 {
		t.Errorf("%d copies with two members in step, want 2", r.Copies)
	}
	if got := n2.get("via2"); got != "y" {
		t.Errorf("the follower reads %q of its own write, want y", got)
	}
	eventually(t, "equal states", func() error { return equalStates(t, n1, n2) })
}

func equalStates(t *testing.T, a, b *member) error {
	t.Helper()
	ca, err := a.node.Handler().Checksum(t.Context(), nexusraft.RootZone)
	if err != nil {
		return err
	}
	cb, err := b.node.Handler().Checksum(t.Context(), nexusraft.RootZone)
	if err != nil {
		return err
	}
	if ca.Applied != cb.Applied {
		return fmt.Errorf("applied %d and %d", ca.Applied, cb.Applied)
	}
	if string(ca.Sum) != string(cb.Sum) {
		t.Fatalf("the same index %d, states %x and %x", ca.Applied, ca.Sum, cb.Sum)
	}
	return nil
}

func TestLongAbsentMemberCatchesUpBySnapshot(t *testing.T) {
	t.Parallel()
	c1, c2 := testConfig(t, "n1"), testConfig(t, "n2")
	c1.CompactEntries, c2.CompactEntries = 20, 20
	n1 := found(t, c1)
	// A learner that goes away before it is promoted leaves a quorum of one.
	c2.Join = []string{n1.config.Advertise}
	n2 := start(t, c2)
	waitRole(t, n2, nexusraft.RoleMember)
	n2.put("shared", "1")
	n2.close()

	// Two members without a witness stop without the second one: nothing is acknowledged.
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := n1.zone().ProposeOnce(ctx, nexusraft.RequestID{}, []byte("alone=1")); err == nil {
		t.Fatal("one of two members acknowledged a write alone")
	}
	n2 = start(t, n2.config)
	for i := range 100 {
		n1.put(fmt.Sprint("k", i), fmt.Sprint(i))
	}
	if got := n2.get("k99"); got != "99" {
		t.Errorf("k99 = %q, want 99", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	c := testConfig(t, "n1")
	if _, err := node.Open(c); !errors.Is(err, nexusraft.ErrNotFounded) {
		t.Errorf("open of an empty directory: %v, want ErrNotFounded", err)
	}
	if _, err := node.Init(c); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Init(c); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("init of a founded directory: %v, want ErrRefused", err)
	}
	n, err := node.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := node.Open(c); err == nil {
		t.Error("a second opener was let in")
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if _, err := node.Open(node.Config{}); err == nil {
		t.Error("an empty configuration was accepted")
	}
}

func TestCancelledContext(t *testing.T) {
	t.Parallel()
	m := found(t, testConfig(t, "n1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.zone().ProposeOnce(ctx, nexusraft.RequestID{}, []byte("a=1")); !errors.Is(err, context.Canceled) ||
		errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("propose with an ended context: %v, want its error and nothing written", err)
	}
	if err := m.zone().Read(ctx, func(nexusraft.Reader) error { return nil }); !errors.Is(err, nexusraft.ErrNoQuorum) {
		t.Errorf("read with an ended context: %v, want ErrNoQuorum", err)
	}
	if got := m.get("a"); got != "" {
		t.Errorf("a = %q was written", got)
	}
}
