package driver

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// What was taken out of an inbox takes no room in it any more: or it would be full for good.
func TestInboxCountsWhatItHolds(t *testing.T) {
	b := newInbox(NewBacklog(Bounds{Messages: 2, MessageBytes: 10, Calls: 1}, 1))
	for range 3 {
		if n := b.Put([]Inbound{{Bytes: 10}, {Bytes: 1}}); n != 1 {
			t.Fatalf("%d messages were taken, want 1", n)
		}
		if err := b.Call(func(error) {}); err != nil {
			t.Fatalf("an empty inbox refuses a call: %v", err)
		}
		if err := b.Call(func(error) {}); !errors.Is(err, nexusraft.ErrOverloaded) {
			t.Fatalf("a full inbox answers a call %v, want ErrOverloaded", err)
		}
		b.take()
	}
	if n := b.Put(make([]Inbound, 3)); n != 2 {
		t.Errorf("%d messages were taken, want 2", n)
	}
}

// A worker that has ended takes nothing in.
func TestClosedInbox(t *testing.T) {
	b := newInbox(NewBacklog(Bounds{Messages: 1, Calls: 1}, 1))
	b.Close()
	b.Post(func() { t.Error("a posted function runs") })
	if n, err := b.Put(make([]Inbound, 1)), b.Call(func(error) {}); n != 0 || !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("%d messages were taken, a call gets %v", n, err)
	}
	for _, call := range b.take().calls {
		call(nil)
	}
}

// emptyHost has no zones. What it is asked to do it notes.
type emptyHost struct {
	did     []string
	turnErr error
}

var errNoGroup = errors.New("no such zone")

func (h *emptyHost) Group(nexusraft.ZoneID) (*Group, error) { return nil, errNoGroup }
func (h *emptyHost) Room() bool                             { h.did = append(h.did, "room"); return true }
func (h *emptyHost) Propose()                               { h.did = append(h.did, "propose") }
func (h *emptyHost) Tick(map[nexusraft.NodeID]zone.Signal)  { h.did = append(h.did, "tick") }
func (h *emptyHost) Turn() (bool, error)                    { h.did = append(h.did, "turn"); return false, h.turnErr }
func (h *emptyHost) Stop(error)                             { h.did = append(h.did, "stop") }

// What came in during a stall is stepped before time goes on; an error of the round ends the worker,
// and all that waits is answered.
func TestWorkerStepsBeforeItTicks(t *testing.T) {
	h := &emptyHost{turnErr: errors.New("the disk fails")}
	w := NewWorker(h, NewBacklog(Bounds{Messages: 1, Calls: 2}, 1), slog.New(slog.DiscardHandler))
	var left error
	var why string
	err := errors.Join(
		w.Inbox().Call(func(error) { h.did = append(h.did, "call") }),
		w.Inbox().Call(func(error) { _ = w.Inbox().Call(func(err error) { left = err }) }),
	)
	if err != nil {
		t.Fatal(err)
	}
	w.Inbox().Put([]Inbound{{Zone: 1, Message: &raftpb.Message{}, Vote: answerTo(func(a VoteAnswer) { why = a.Why })}})
	ticks := make(chan time.Time, 1)
	ticks <- time.Time{}
	if err := w.Run(ticks, nil); !errors.Is(err, h.turnErr) {
		t.Errorf("the worker ended with %v", err)
	}
	if got := strings.Join(h.did, " "); got != "room call propose tick turn stop" {
		t.Errorf("the worker did: %s", got)
	}
	if !errors.Is(left, nexusraft.ErrClosed) || !errors.Is(left, h.turnErr) {
		t.Errorf("a call that was left got %v", left)
	}
	if why != errNoGroup.Error() {
		t.Errorf("the vote request of a zone that is not here was ignored because of %q", why)
	}
}

// A peer whose messages are refused does not fill the log.
func TestRefusalsDoNotFloodTheLog(t *testing.T) {
	var log bytes.Buffer
	w := NewWorker(&emptyHost{}, NewBacklog(Bounds{}, 1), slog.New(slog.NewTextHandler(&log, nil)))
	for range 1000 {
		w.refused(&Inbound{From: 7, Message: &raftpb.Message{}}, nexusraft.ErrRefused)
	}
	if lines := strings.Count(log.String(), "\n"); lines < 1 || lines > 100 {
		t.Errorf("the log has %d lines for 1000 messages, want a few", lines)
	}
}

// The inboxes of a node's workers have their bounds together, and one of them takes half at most: a worker that
// is stuck leaves room for the others.
func TestInboxesShareTheirBounds(t *testing.T) {
	l := NewBacklog(Bounds{Messages: 8, MessageBytes: 1 << 10, Calls: 4}, 3)
	a, b, c := newInbox(l), newInbox(l), newInbox(l)
	some := make([]Inbound, 8)
	if n := a.Put(some); n != 4 {
		t.Errorf("one inbox takes %d of 8 messages, want half", n)
	}
	if n := b.Put(some[:3]) + c.Put(some); n != 4 {
		t.Errorf("the others take %d, want the other half", n)
	}
	a.take()
	if n := c.Put(some); n != 3 {
		t.Errorf("after one was emptied, one that had 1 takes %d, want 3", n)
	}
	none := func(error) {}
	for i, b := range []*Inbox{a, a, b} {
		if err := b.Call(none); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if err := a.Call(none); !errors.Is(err, nexusraft.ErrOverloaded) {
		t.Errorf("one inbox has more than half of the calls: %v", err)
	}
	c.Post(func() {}) // which has no bound, and counts
	if err := b.Call(none); !errors.Is(err, nexusraft.ErrOverloaded) {
		t.Errorf("beyond the bound of all: %v", err)
	}
	for _, x := range []*Inbox{a, b, c} {
		x.take()
	}
	if m, bytes, calls := l.messages.Load(), l.bytes.Load(), l.calls.Load(); m != 0 || bytes != 0 || calls != 0 {
		t.Errorf("%d messages of %d bytes and %d calls are left", m, bytes, calls)
	}
	if n := a.Put([]Inbound{{Bytes: 500}, {Bytes: 100}}) + b.Put([]Inbound{{Bytes: 512}, {Bytes: 100}}); n != 2 {
		t.Errorf("%d messages found room, of 1 KiB, want 2", n)
	}
}
