package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

// versioned is a state machine of a version, as its program has it: at each version its commands leave something
// else, and one that is told of a version that it does not know panics.
type versioned uint32

var _ nexusraft.Versioned = versioned(0)

func (v versioned) Version() uint32 { return uint32(v) }

func (v versioned) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	if cmd.Version > uint32(v) {
		panic(fmt.Sprintf("version %d, this program knows %d", cmd.Version, v))
	}
	version := fmt.Append(nil, cmd.Version)
	return version, tx.Set(append([]byte("v"+string(version)+"/"), cmd.Data...), version)
}

// logLines collects what a node logs.
type logLines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *logLines) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

// await waits until a line has all of the words, after those that were there at its last call.
func (s *logLines) await(t *testing.T, words ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the log says %q", words), func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for line := range strings.Lines(s.text.String()) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				s.text.Reset()
				return nil
			}
		}
		return errors.New("it does not")
	})
}

func versionedConfig(t *testing.T, name string, version uint32) (node.Config, *logLines) {
	c, log := testConfig(t, name), &logLines{}
	c.Logger = slog.New(slog.NewTextHandler(io.MultiWriter(log, t.Output()), nil)).With("name", name)
	c.StateMachine = versioned(version)
	c.Machines = map[string]nexusraft.StateMachine{"orders": versioned(version)}
	return c, log
}

// updated restarts a member with a program of another version.
func (m *member) updated(version uint32) *member {
	m.t.Helper()
	m.close()
	c := m.config
	c.StateMachine = versioned(version)
	c.Machines = map[string]nexusraft.StateMachine{"orders": versioned(version)}
	return start(m.t, c)
}

// leads has a member lead a zone.
func (m *member) leads(id nexusraft.ZoneID, others ...*member) {
	m.t.Helper()
	eventually(m.t, m.config.Name+" leads", func() error {
		for _, x := range append(others, m) {
			z, err := x.node.Zone(id)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(m.t.Context(), 5*time.Second)
			s, err := z.Status(ctx)
			if err == nil && s.State == nexusraft.Leader && x != m {
				_, err = z.TransferLeader(ctx, m.node.ID())
			}
			cancel()
			if x == m && s.State == nexusraft.Leader {
				return nil
			}
			if err != nil {
				return err
			}
		}
		return errors.New("it does not lead")
	})
}

// raised waits until a member has applied the raise to a version.
func (m *member) raised(id nexusraft.ZoneID, version uint32) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%s: zone %v is at version %d", m.config.Name, id, version), func() error {
		z, err := m.node.Zone(id)
		if err != nil {
			return err
		}
		s, err := z.Status(m.t.Context())
		if err == nil && s.MachineVersion != version {
			err = fmt.Errorf("it is at %d", s.MachineVersion)
		}
		return err
	})
}

// agree compares the members' copies of a zone once they are equally far.
func agree(t *testing.T, id nexusraft.ZoneID, a, b *member) {
	t.Helper()
	eventually(t, "the members are equally far", func() error {
		x, err := a.zoneOf(id).Checksum(t.Context())
		if err != nil {
			return err
		}
		y, err := b.zoneOf(id).Checksum(t.Context())
		if err != nil || x.Applied != y.Applied {
			return fmt.Errorf("%d and %d, %v", x.Applied, y.Applied, err)
		}
		if !bytes.Equal(x.Sum, y.Sum) {
			t.Fatalf("at %d the copies differ", x.Applied)
		}
		return nil
	})
}

// Two versions of a program run a zone together, whichever of leader and follower is updated first: the zone's version
// stays until both have the newer one, the leader says which member it waits for, and their copies agree.
func TestMachineVersionsInARollingUpdate(t *testing.T) {
	for _, first := range []string{"leader", "follower"} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			c1, log1 := versionedConfig(t, "n1", 1)
			c2, log2 := versionedConfig(t, "n2", 1)
			n1 := found(t, c1)
			n2 := join(t, c2, n1)
			z := n1.create("orders-eu", "orders")
			id := z.ID()
			zone := func() *node.Zone { return n1.zoneOf(id) }
			for _, id := range []nexusraft.ZoneID{nexusraft.RootZone, id} {
				n1.raised(id, 1)
				n2.raised(id, 1)
			}
			applied := func(key, want string) {
				t.Helper()
				if got := proposed(t, zone(), key); got != want {
					t.Errorf("%s was applied with version %s, want %s", key, got, want)
				}
				agree(t, id, n1, n2)
			}
			applied("a", "1")
			fresh, old, log := &n1, &n2, log1
			if first == "follower" {
				fresh, old, log = &n2, &n1, log2
			}
			n1.leads(id, n2)
			*fresh = (*fresh).updated(2)
			(*fresh).leads(id, *old)
			log.await(t, "not raised yet", "zone="+id.String(), "known=2", "knows version 1", (*old).config.Name)
			applied("b", "1")
			(*old).leads(id, *fresh)
			applied("c", "1")
			*old = (*old).updated(2)
			for _, id := range []nexusraft.ZoneID{nexusraft.RootZone, id} {
				n1.raised(id, 2)
				n2.raised(id, 2)
			}
			applied("d", "2")
		})
	}
}

// A member that is away holds a raise back until it has come back and said that it knows the version; a node that is
// let in later gets the version with the snapshot, and does not run the zone if it knows less.
func TestMachineVersionAndAMemberThatIsAway(t *testing.T) {
	t.Parallel()
	c1, log := versionedConfig(t, "n1", 1)
	c2, _ := versionedConfig(t, "n2", 1)
	c2.Logger = slog.New(slog.NewTextHandler(io.MultiWriter(log, t.Output()), nil)).With("name", "n2") // it may lead, too
	c3, _ := versionedConfig(t, "n3", 1)
	n1 := found(t, c1)
	n2 := join(t, c2, n1)
	c3.Join = []string{n1.config.Advertise}
	n3 := start(t, c3) // a learner: it has a copy of the state, too
	n3.zone()
	n1.raised(nexusraft.RootZone, 1)
	n3.raised(nexusraft.RootZone, 1)
	n3.close()
	n2 = n2.updated(2)
	n1 = n1.updated(2)
	n1.leads(nexusraft.RootZone, n2)
	log.await(t, "not raised yet", "has not said", "n3")
	if got := proposed(t, n1.zone(), "a"); got != "1" {
		t.Errorf("a was applied with version %s, want 1", got)
	}
	n3 = n3.updated(2)
	for _, m := range []*member{n1, n2, n3} {
		m.raised(nexusraft.RootZone, 2)
	}
	agree(t, nexusraft.RootZone, n1, n3)

	c4, log4 := versionedConfig(t, "n4", 1)
	c4.Join = []string{n1.config.Advertise}
	n4 := start(t, c4)
	log4.await(t, "zone stopped on this node", "is at version 2", "knows version 1")
	if got := proposed(t, n1.zone(), "b"); got != "2" {
		t.Errorf("b was applied with version %s, want 2", got)
	}
	n4 = n4.updated(2)
	n4.raised(nexusraft.RootZone, 2)
	agree(t, nexusraft.RootZone, n1, n4)
}

// A program that knows less than a zone's version does not run the zone, says so, touches nothing, and runs its other
// zones; with the newer program again the zone goes on.
func TestMachineVersionDowngradeIsRefused(t *testing.T) {
	t.Parallel()
	c, _ := versionedConfig(t, "n1", 2)
	c.Machines["words"] = words{}
	m := found(t, c)
	z, other := m.create("orders-eu", "orders"), m.create("other", "words")
	m.raised(z.ID(), 2)
	m.raised(nexusraft.RootZone, 2)
	proposed(t, z, "a")
	m.close()
	for _, older := range []string{"orders", "root"} {
		c := m.config
		c.Machines = map[string]nexusraft.StateMachine{"orders": versioned(2), "words": words{}}
		id := z.ID()
		if older == "root" {
			c.StateMachine, id = versioned(1), nexusraft.RootZone
		} else {
			c.Machines["orders"] = versioned(0)
		}
		old := start(t, c)
		select {
		case <-old.node.Ready():
		case <-time.After(20 * time.Second):
			t.Fatal("not ready")
		}
		_, err := old.node.Zone(id)
		if !errors.Is(err, nexusraft.ErrClosed) || !strings.Contains(err.Error(), "is at version 2") {
			t.Errorf("zone %v: got %v", id, err)
		}
		s, err := old.node.Status(t.Context())
		if err != nil || s.Healthy || !strings.Contains(s.Problem, "is at version 2") {
			t.Errorf("status: %q, %v", s.Problem, err)
		}
		proposed(t, old.zoneOf(other.ID()), "k=v")
		old.close()
	}
	m = start(t, m.config)
	m.zone()
	if got := proposed(t, m.zoneOf(z.ID()), "b"); got != "2" {
		t.Errorf("b was applied with version %s, want 2", got)
	}
	if got := proposed(t, m.zone(), "c"); got != "2" {
		t.Errorf("c was applied with version %s, want 2", got)
	}
}

// opening is a state machine that counts a zone's keys in memory, and keeps what it was opened with.
type opening struct {
	fails string // "error" or "panic"

	mu     sync.Mutex
	opened map[nexusraft.ZoneID][]int // how many keys there were
}

func (*opening) Apply(nexusraft.Tx, nexusraft.Command) ([]byte, error) { panic("it was not opened") }

func (o *opening) Open(id nexusraft.ZoneID, r nexusraft.Reader) (nexusraft.StateMachine, error) {
	switch o.fails {
	case "error":
		return nil, errors.New("asked to fail")
	case "panic":
		panic("asked to panic")
	}
	c := &counting{}
	for _, err := range r.Scan(nil, nil) {
		if err != nil {
			return nil, err
		}
		c.keys++
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.opened[id] = append(o.opened[id], c.keys)
	return c, nil
}

// counting answers with the number of keys, from memory. "!" fails.
type counting struct{ keys int }

func (c *counting) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	_, found, err := tx.Get(cmd.Data)
	if err != nil {
		return nil, err
	}
	if err := tx.Set(cmd.Data, nil); err != nil {
		return nil, err
	}
	if string(cmd.Data) == "!" {
		return nil, errRefusedByWords
	}
	if !found {
		c.keys++ // last: nothing can fail any more
	}
	return fmt.Append(nil, c.keys), nil
}

// A state machine with a memory for each zone is opened with the state that its first command finds: of a new zone,
// after a restart, and when a snapshot has replaced the state.
func TestOpenOfAStateMachine(t *testing.T) {
	t.Parallel()
	c1, c2 := testConfig(t, "n1"), testConfig(t, "n2")
	o1, o2 := &opening{opened: map[nexusraft.ZoneID][]int{}}, &opening{opened: map[nexusraft.ZoneID][]int{}}
	c1.StateMachine, c1.Machines = o1, map[string]nexusraft.StateMachine{"counting": o1}
	c2.StateMachine, c2.Machines = o2, map[string]nexusraft.StateMachine{"counting": o2}
	n1 := found(t, c1)
	z := n1.create("counted", "counting")
	for i, key := range []string{"a", "b", "b"} {
		if got, want := proposed(t, z, key), fmt.Sprint(min(i+1, 2)); got != want {
			t.Errorf("%s: got %s, want %s", key, got, want)
		}
	}
	if _, err := z.Propose(t.Context(), nexusraft.RequestID{}, []byte("!")); !errors.Is(err, errRefusedByWords) {
		t.Errorf("a command that fails: got %v", err)
	}
	proposed(t, n1.zone(), "root")
	n1.close()
	n1 = start(t, n1.config)
	n1.zone()
	if got := proposed(t, n1.zoneOf(z.ID()), "c"); got != "3" {
		t.Errorf("after a restart: got %s, want 3", got)
	}
	if got := o1.opened[z.ID()]; !slices.Equal(got, []int{0, 2}) {
		t.Errorf("opened with %v keys, want 0 and 2", got)
	}

	n2 := join(t, c2, n1) // by a snapshot
	n2.leads(nexusraft.RootZone, n1)
	eventually(t, "propose root2", func() error { // twice is as once
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		r, err := n2.zone().Propose(ctx, nexusraft.RequestID{}, []byte("root2"))
		if err == nil && string(r.Data) != "2" {
			t.Errorf("after a snapshot: got %s, want 2", r.Data)
		}
		return err
	})
	o2.mu.Lock()
	defer o2.mu.Unlock()
	if got := o2.opened[nexusraft.RootZone]; len(got) < 2 || got[0] != 0 || got[len(got)-1] != 1 {
		t.Errorf("opened with %v keys, want 0 and then 1", got)
	}
}

// An Open that fails or panics stops its zone alone.
func TestOpenThatFails(t *testing.T) {
	t.Parallel()
	c := testConfig(t, "n1")
	failing := &opening{fails: "error", opened: map[nexusraft.ZoneID][]int{}}
	c.Machines = map[string]nexusraft.StateMachine{
		"failing": failing, "panics": &opening{fails: "panic"}, "words": words{},
	}
	m := found(t, c)
	other := m.create("other", "words")
	for machine, says := range map[string]string{"failing": "asked to fail", "panics": "asked to panic"} {
		_, err := m.node.CreateZone(t.Context(), "zone-"+machine, node.ZoneSpec{Machine: machine})
		if !errors.Is(err, nexusraft.ErrClosed) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v", machine, err)
		}
	}
	proposed(t, other, "k=v")
	m.put("k", "root")
}

// leading is a state machine whose Lead tells the test of each call, and does with it what the test says. A command
// notes itself, "many" more than may wait; "!" fails.
type leading struct {
	calls chan *leadCall
}

type leadCall struct {
	nexusraft.Leadership
	ctx  context.Context
	does chan func() // what Lead does then; nil: it returns
}

func newLeading() *leading { return &leading{calls: make(chan *leadCall, 100)} }

func (*leading) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	text := string(cmd.Data)
	n := 1
	if text == "many" {
		n = 40_000
	}
	for range n {
		tx.Note(text)
	}
	if text == "!" {
		return nil, errRefusedByWords
	}
	return nil, tx.Set(cmd.Data, nil)
}

func (l *leading) Lead(ctx context.Context, x nexusraft.Leadership) {
	c := &leadCall{x, ctx, make(chan func())}
	l.calls <- c
	for {
		select {
		case f := <-c.does:
			if f == nil {
				return
			}
			f()
		case <-ctx.Done():
			return
		}
	}
}

// next returns the next call of Lead.
func (l *leading) next(t *testing.T) *leadCall {
	t.Helper()
	select {
	case c := <-l.calls:
		return c
	case <-time.After(30 * time.Second):
		t.Fatal("Lead is not called")
		return nil
	}
}

// ends waits for the end of a call's context, and returns its cause.
func (c *leadCall) ends(t *testing.T) error {
	t.Helper()
	select {
	case <-c.ctx.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the context of Lead does not end")
	}
	return context.Cause(c.ctx)
}

// hears checks the next notes.
func (c *leadCall) hears(t *testing.T, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
	defer cancel()
	for _, text := range want {
		if n, err := c.NextNote(ctx); err != nil || n.Value != text || n.Index == 0 {
			t.Fatalf("note: got %+v, %v, want %q", n, err, text)
		}
	}
}

func leadingConfig(t *testing.T, name string) (node.Config, *leading) {
	c, l := testConfig(t, name), newLeading()
	c.Machines = map[string]nexusraft.StateMachine{"leading": l, "words": words{}}
	return c, l
}

// Lead runs at the leader and nowhere else, in its term; its context ends with a transfer, when the quorum is
// lost, when the zone is deleted and when the node closes, each with its reason; and what it proposes after its
// term is refused.
func TestLeadFollowsTheLeader(t *testing.T) {
	t.Parallel()
	c1, l1 := leadingConfig(t, "n1")
	c2, l2 := leadingConfig(t, "n2")
	n1 := found(t, c1)
	n2 := join(t, c2, n1)
	z := n1.create("led", "leading")
	n1.leads(z.ID(), n2)
	var a *leadCall
	for a == nil { // it may have led before, or n2 have
		if a = l1.next(t); a.ctx.Err() != nil {
			a = nil
		}
	}
	if _, err := a.Propose(a.ctx, nexusraft.RequestID{}, []byte("k")); err != nil || a.Zone() != z.ID() {
		t.Errorf("propose in the term: %v", err)
	}
	for len(l2.calls) > 0 {
		<-l2.calls
	}
	n2.leads(z.ID(), n1)
	if err := a.ends(t); !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("after a transfer: got %v", err)
	}
	b := l2.next(t)
	if b.Term() <= a.Term() {
		t.Errorf("term %v after %v", b.Term(), a.Term())
	}
	if _, err := a.Propose(t.Context(), nexusraft.RequestID{}, []byte("late")); !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("propose after the term: got %v", err)
	}
	err := b.Read(b.ctx, func(r nexusraft.Reader) error {
		if _, ok, err := r.Get([]byte("late")); ok || err != nil {
			return fmt.Errorf("what was refused is there: %t, %w", ok, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	n1.close() // n2 leads without a quorum, as behind a cut link
	if err := b.ends(t); !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("without a quorum: got %v", err)
	}

	n1 = start(t, n1.config)
	n1.zone()
	n2.leads(z.ID(), n1)
	c := l2.next(t)
	for c.ctx.Err() != nil {
		c = l2.next(t)
	}
	eventually(t, "delete", func() error {
		if err := n2.node.DeleteZone(t.Context(), z.ID(), "led"); !errors.Is(err, nexusraft.ErrZoneNotFound) {
			return err
		}
		return nil // an earlier try, whose outcome was unknown, has done it
	})
	for _, l := range []*leading{l1, l2} { // on a busy machine another term may have begun before the deletion
		for len(l.calls) > 0 {
			if later := <-l.calls; later.Term() > c.Term() {
				c = later
			}
		}
	}
	if err := c.ends(t); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("after its deletion: got %v", err)
	}
}

// A Lead that returns is not called again in the term; one that panics stops its zone alone; one that goes on when the
// node closes is not waited for without end.
func TestLeadReturnsPanicsAndStays(t *testing.T) {
	t.Parallel()
	c, l := leadingConfig(t, "n1")
	log := &logLines{}
	c.Logger = slog.New(slog.NewTextHandler(io.MultiWriter(log, t.Output()), nil))
	m := found(t, c)
	z := m.create("returns", "leading")
	l.next(t).does <- nil
	proposed(t, z, "a")
	other := m.create("other", "words")
	panics := m.create("panics", "leading")
	l.next(t).does <- func() { panic("asked to") }
	eventually(t, "the zone stops", func() error {
		_, err := m.node.Zone(panics.ID())
		if !errors.Is(err, nexusraft.ErrClosed) || !strings.Contains(err.Error(), "panicked") {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
	proposed(t, other, "k=v")
	proposed(t, z, "b")
	m.create("stays", "leading")
	stays, free := l.next(t), make(chan struct{})
	stays.does <- func() { <-free }
	if len(l.calls) > 0 {
		t.Errorf("%d calls of Lead too many", len(l.calls))
	}
	m.close()
	if err := stays.ends(t); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("at the node's end: got %v", err)
	}
	log.await(t, "Lead has not returned")
	close(free)
}

// Lead hears the notes of what is applied, in order, and of no command that fails. When more wait than there is
// room for it is called again in its term, and what it has missed is in the state.
func TestNotesOfCommands(t *testing.T) {
	t.Parallel()
	c, l := leadingConfig(t, "n1")
	m := found(t, c)
	z := m.create("noted", "leading")
	a := l.next(t)
	proposed(t, z, "a")
	if _, err := z.Propose(t.Context(), nexusraft.RequestID{}, []byte("!")); !errors.Is(err, errRefusedByWords) {
		t.Errorf("a command that fails: got %v", err)
	}
	proposed(t, z, "b")
	a.hears(t, "a", "b")
	var all []string
	for i := range 500 {
		all = append(all, fmt.Sprintf("n%03d", i))
		if _, err := a.Propose(a.ctx, nexusraft.RequestID{}, []byte(all[i])); err != nil {
			t.Fatal(err)
		}
	}
	a.hears(t, all...)
	proposed(t, z, "many")
	if err := a.ends(t); !errors.Is(err, nexusraft.ErrOverloaded) {
		t.Errorf("with too many notes: got %v", err)
	}
	if _, err := a.NextNote(t.Context()); !errors.Is(err, nexusraft.ErrOverloaded) {
		t.Errorf("the next note then: got %v", err)
	}
	b := l.next(t)
	if b.Term() != a.Term() {
		t.Errorf("term %v, want %v", b.Term(), a.Term())
	}
	if got := reads(t, z, "many"); got != "" {
		t.Errorf("got %q", got)
	}
	proposed(t, z, "c")
	b.hears(t, "c")
}
