package events

import (
	"errors"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/storage"
)

// One caller can't take all subscriptions.
func TestSubscriptionsOfOneCaller(t *testing.T) {
	s := New(Options{})
	for range budget.SubscriptionsOfPrincipal {
		if !s.enter("client greedy") {
			t.Fatal("refused below the limit")
		}
	}
	if s.enter("client greedy") {
		t.Error("one caller got more than its share")
	}
	if !s.enter("client other") {
		t.Error("another caller got none")
	}
	s.leave("client greedy")
	if !s.enter("client greedy") {
		t.Error("a place that was given back is lost")
	}
}

// zoneOf is a Source with one zone, which has a state and never changes.
type zoneOf struct {
	Source

	state nexusraft.Reader
}

func (zoneOf) Expand(_ nexusraft.ZoneID, _ nexusraft.Reader, e system.Event) (system.Event, error) {
	return e, nil
}

func (z zoneOf) ReadSystemLocal(_ nexusraft.ZoneID, fn func(nexusraft.Reader) error) error {
	return fn(z.state)
}

// publishN publishes n events with payloads of so many bytes.
func publishN(t *testing.T, o *storage.Overlay, n, size int) {
	t.Helper()
	var events system.Events
	for range n {
		if err := events.Add(1, "app/x", "y", make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := events.Publish(o, 1); err != nil {
		t.Fatal(err)
	}
}

// A batch has AnswerBytesFree at most, or it is one event, for which memory is reserved before it
// is read.
func TestLargeEventsReserve(t *testing.T) {
	store, err := storage.OpenTemporary(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	tree, err := store.Tree("state")
	if err != nil {
		t.Fatal(err)
	}
	state := storage.NewOverlay(tree)
	publishN(t, state, 40, 1<<10)
	publishN(t, state, 2, 1<<20)
	taken := budget.NewBytes(1<<20, 1<<20, time.Millisecond, new(budget.Counters))
	if err := budget.Reserve(budget.WithAnswer(t.Context(), taken.NewAnswer("q")), 1<<20); err != nil {
		t.Fatal(err)
	}
	small := taken.NewAnswer("p")
	roomy := budget.NewBytes(8<<20, 8<<20, time.Millisecond, new(budget.Counters)).NewAnswer("p")
	x := &subscription{
		Options: Options{Source: zoneOf{state: state}}, want: nexusraft.Subscription{Zone: nexusraft.RootZone}, next: 1,
	}
	seen := 0
	for seen < 40 {
		events, more, err := x.read(budget.WithAnswer(t.Context(), small))
		if err != nil || !more || len(events) == 0 || len(events) > budget.AnswerBytesFree>>10 || small.Held() != 0 {
			t.Fatalf("got %d events, more: %t, %v, and %d bytes are held; want few, and nothing held", len(events), more, err,
				small.Held())
		}
		seen += len(events)
	}
	if seen != 40 {
		t.Fatalf("%d events were read as small ones, want 40", seen)
	}
	if _, _, err := x.read(budget.WithAnswer(t.Context(), small)); !errors.Is(err, nexusraft.ErrOverloaded) {
		t.Errorf("a large event without a place: %v, want ErrOverloaded", err)
	}
	for range 2 {
		events, _, err := x.read(budget.WithAnswer(t.Context(), roomy))
		if err != nil || len(events) != 1 || roomy.Held() < 2<<20 {
			t.Errorf("got %d events, %v, and %d bytes are held; want one large event, twice", len(events), err, roomy.Held())
		}
	}
}
