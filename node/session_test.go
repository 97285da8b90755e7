package node_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/node"
)

// increments is a state machine that counts how often each command has run, and answers with that.
type increments struct{}

// Alone implements nexusraft.Batched.
func (increments) Alone([]byte) bool { return false }

func (increments) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	old, _, err := tx.Get(cmd.Data)
	if err != nil {
		return nil, err
	}
	next := binary.BigEndian.AppendUint64(nil, 1)
	if len(old) == 8 {
		next = binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(old)+1)
	}
	return next, tx.Set(cmd.Data, next)
}

// counted returns how often a command has run.
func (m *member) counted(command string) uint64 {
	m.t.Helper()
	if b := m.get(command); len(b) == 8 {
		return binary.BigEndian.Uint64([]byte(b))
	}
	return 0
}

// A number that has run is answered again, after a restart, too; another command of the number, and a number
// that is no longer remembered, are refused.
func TestSessionByHand(t *testing.T) {
	t.Parallel()
	m := found(t, testConfig(t, "n1"))
	s, err := m.zone().NewSession(within(t))
	if err != nil {
		t.Fatal(err)
	}
	id := s.ID()
	propose := func(sequence uint64, command string) (nexusraft.Result, error) {
		return m.zone().Propose(within(t), nexusraft.RequestID{Session: id, Sequence: sequence}, []byte(command))
	}
	m.put("a", "0")
	first, err := propose(1, "a=1")
	if err != nil || string(first.Data) != "0" {
		t.Fatalf("got %+v, %v", first, err)
	}
	_, failed := propose(2, "!no")
	if failed == nil || failed.Error() != errRefusedByWords.Error()+": no" {
		t.Fatalf("got %v", failed)
	}
	m.put("a", "2")
	m.close()
	m = start(t, m.config)
	again, err := propose(1, "a=1")
	if err != nil || string(again.Data) != "0" || again.Index != first.Index {
		t.Errorf("again: got %+v, %v, first %+v", again, err, first)
	}
	if _, err := propose(2, "!no"); err == nil || err.Error() != failed.Error() {
		t.Errorf("again: got %v, first %v", err, failed)
	}
	if _, err := propose(1, "a=7"); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("the number of another command: %v, want ErrRefused", err)
	}
	if _, err := propose(100, "b=1"); err != nil {
		t.Error(err)
	}
	for what, id := range map[string]nexusraft.RequestID{
		"a number that is forgotten": {Session: id, Sequence: 1}, "a session to come": {Session: 1 << 40, Sequence: 1},
		"no session": {Sequence: 1},
	} {
		_, err := m.zone().ProposeOnce(t.Context(), id, []byte("a=1"))
		if !errors.Is(err, nexusraft.ErrUnknownSession) {
			t.Errorf("%s: %v, want ErrUnknownSession", what, err)
		}
	}
	if got := m.get("a"); got != "2" {
		t.Errorf("a = %q, want 2: a command has run again", got)
	}
}

// A session that the zone has forgotten is replaced, for commands that were not handed over before, and all
// 64 numbers are used by callers beside one another.
func TestSessionIsReplaced(t *testing.T) {
	t.Parallel()
	c := testConfig(t, "n1")
	clock := struct {
		sync.Mutex
		ahead time.Duration
	}{}
	c.Clock = func() time.Time {
		clock.Lock()
		defer clock.Unlock()
		return time.Now().Add(clock.ahead)
	}
	c.StateMachine = increments{}
	m := found(t, c)
	s, err := m.zone().NewSession(within(t))
	if err != nil {
		t.Fatal(err)
	}
	id := s.ID()
	increment := func() {
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() {
				if _, err := s.Propose(within(t), []byte("n")); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
	}
	increment()
	if s.ID() != id {
		t.Errorf("the session has been replaced")
	}
	other, err := m.zone().NewSession(within(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 70 { // minutes, in which another session is in use
		clock.Lock()
		clock.ahead += time.Minute
		clock.Unlock()
		if _, err := other.Propose(within(t), []byte("other")); err != nil {
			t.Fatal(err)
		}
	}
	increment()
	if s.ID() == id {
		t.Errorf("the session is still %d", id)
	}
	if got := m.counted("n"); got != 200 {
		t.Errorf("counted %d, want 200", got)
	}
}

// A session is its client's: another one may not use it, nor one that nobody has registered yet.
func TestSessionOfAnotherClient(t *testing.T) {
	t.Parallel()
	a := &app{}
	m := foundWithApp(t, secureConfig(t, "n1"), a)
	m.grant("alice", nexusraft.AccessAdmin)
	m.grant("mallory", nexusraft.AccessAdmin)
	as := func(conn *grpc.ClientConn, do func(context.Context) error) {
		t.Helper()
		a.set(do)
		if err := conn.Invoke(within(t), appMethod, &pb.StatusRequest{}, &pb.StatusResponse{}); err != nil {
			t.Fatal(err)
		}
	}
	alice, mallory := m.client("alice"), m.client("mallory")
	var s *node.Session
	as(alice, func(ctx context.Context) (err error) {
		s, err = m.zone().NewSession(ctx)
		return err
	})
	use := func(ctx context.Context, id uint64) error {
		_, err := m.zone().Propose(ctx, nexusraft.RequestID{Session: id, Sequence: 1}, []byte("k=v"))
		return err
	}
	as(mallory, func(ctx context.Context) error {
		if err := use(ctx, s.ID()); !errors.Is(err, nexusraft.ErrDenied) {
			return fmt.Errorf("another client's session: %w", err)
		}
		if err := use(ctx, s.ID()+1); !errors.Is(err, nexusraft.ErrUnknownSession) {
			return fmt.Errorf("a session to come: %w", err)
		}
		return nil
	})
	if err := use(within(t), s.ID()); !errors.Is(err, nexusraft.ErrDenied) {
		t.Errorf("the program of the node: %v", err)
	}
	as(alice, func(ctx context.Context) error { return use(ctx, s.ID()) })
}

// hands is a client that numbers its commands itself, and hands them to any member until it is answered.
type hands struct {
	c       *cluster
	command string
	id      nexusraft.RequestID
	acked   uint64
	last    nexusraft.Result
}

func newHands(c *cluster, command string) *hands {
	c.t.Helper()
	s, err := c.leader().zone().NewSession(within(c.t))
	if err != nil {
		c.t.Fatal(err)
	}
	return &hands{c: c, command: command, id: nexusraft.RequestID{Session: s.ID()}}
}

// ask hands the command of the current number to the members, in turn, until one has the answer.
func (h *hands) ask() (r nexusraft.Result) {
	h.c.t.Helper()
	turn := 0
	eventually(h.c.t, h.command, func() error {
		members := h.c.running()
		turn++
		z, err := members[turn%len(members)].node.Zone(nexusraft.RootZone)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(h.c.t.Context(), time.Second)
		defer cancel()
		r, err = z.ProposeOnce(ctx, h.id, []byte(h.command))
		if errors.Is(err, nexusraft.ErrUnknownSession) || errors.Is(err, nexusraft.ErrRefused) {
			h.c.t.Errorf("%s, number %d: %v", h.command, h.id.Sequence, err)
		}
		return err
	})
	return r
}

// increment runs the next number, which is the first of its count, and asks for some of them again.
func (h *hands) increment() {
	h.c.t.Helper()
	h.id.Sequence++
	h.last = h.ask()
	h.acked++
	if got := binary.BigEndian.Uint64(h.last.Data); got != h.acked {
		h.c.t.Errorf("%s, number %d: answered %d, want %d", h.command, h.id.Sequence, got, h.acked)
	}
	if h.acked%4 == 0 {
		h.again()
	}
}

// again asks for the last number again.
func (h *hands) again() {
	h.c.t.Helper()
	r := h.ask()
	if string(r.Data) != string(h.last.Data) || r.Index != h.last.Index {
		h.c.t.Errorf("%s, number %d: %+v at first, and again %+v", h.command, h.id.Sequence, h.last, r)
	}
}

// TestSessionsOverLeaderChanges: clients increment counters while leadership moves, connections break, and
// members crash. What was acknowledged is counted once, and is answered alike afterwards, by a member too that
// has caught up by snapshot.
func TestSessionsOverLeaderChanges(t *testing.T) {
	c := newCluster(t, func(n *node.Config) {
		n.StateMachine, n.CompactEntries = increments{}, 50
	})
	var clients []*hands
	for i := range 3 {
		clients = append(clients, newHands(c, fmt.Sprint("hand", i)))
	}
	stop, stopSessions := make(chan struct{}), make(chan struct{})
	var callers, sessions sync.WaitGroup
	for _, h := range clients {
		callers.Go(func() { running(stop, h.increment) })
	}
	acked := make([]uint64, 2)
	for i, name := range []string{"n1", "n2"} {
		s, err := c.named(name).zone().NewSession(within(t))
		if err != nil {
			t.Fatal(err)
		}
		sessions.Go(func() {
			running(stopSessions, func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				r, err := s.Propose(ctx, []byte(name))
				if acked[i]++; err != nil || binary.BigEndian.Uint64(r.Data) != acked[i] {
					t.Errorf("session at %s: got %+v, %v, want %d", name, r, err, acked[i])
				}
			})
		})
	}
	for range 3 {
		c.transfer(c.other(c.awaitSync()).config.Name)
		leader := c.awaitSync() // otherwise nobody else may lead
		c.isolate(leader.config.Name, broken)
		c.leader(leader)
		c.heal()
	}
	close(stopSessions)
	sessions.Wait()
	crashed := c.start(c.crash(c.awaitSync()))
	c.awaitSync()
	close(stop)
	callers.Wait()

	behind := c.crash(c.other(c.awaitSync()))
	flood := c.leader()
	for range 200 {
		flood.put("flood", "x")
	}
	c.start(behind)
	leader := c.transfer(c.other(c.awaitSync()).config.Name)
	t.Logf("%s has crashed, %s was behind; acknowledged: %d by sessions", crashed.config.Name, behind.Name, acked)
	for _, h := range clients {
		h.again()
		if got := leader.counted(h.command); got != h.acked || got == 0 {
			t.Errorf("%s: counted %d, acknowledged %d", h.command, got, h.acked)
		}
	}
	for i, name := range []string{"n1", "n2"} {
		if got := leader.counted(name); got != acked[i] || got == 0 {
			t.Errorf("session at %s: counted %d, acknowledged %d", name, got, acked[i])
		}
	}
}

// running runs f until stop is closed.
func running(stop <-chan struct{}, f func()) {
	for {
		select {
		case <-stop:
			return
		default:
			f()
		}
	}
}
