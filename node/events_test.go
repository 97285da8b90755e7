package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

// talker is a state machine that stores "key=value" and publishes it, n times for "key=value*n".
type talker struct{}

func (talker) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	text, times, many := strings.Cut(string(cmd.Data), "*")
	if text == "panic" {
		panic("asked to")
	}
	key, value, _ := strings.Cut(text, "=")
	if err := tx.Set([]byte(key), []byte(value)); err != nil {
		return nil, err
	}
	n := 1
	if many {
		if _, err := fmt.Sscan(times, &n); err != nil {
			return nil, fmt.Errorf("talker: %w", err)
		}
	}
	for range n {
		if err := tx.Publish("said/"+key, "set", []byte(value)); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func talking(t *testing.T, name string) node.Config {
	c := testConfig(t, name)
	c.StateMachine = talker{}
	return c
}

// collect reads events until there is one of a type "end", which it leaves out, and returns
// them and where to go on.
func collect(t *testing.T, m *member, s nexusraft.Subscription) (events []nexusraft.Event, next uint64) {
	t.Helper()
	for batch, err := range m.node.Subscribe(within(t), s) {
		if err != nil {
			t.Fatalf("subscribe at %s: %v", m.config.Name, err)
		}
		for _, e := range batch.Events {
			if e.Type == "end" {
				return events, e.Sequence + 1
			}
			events = append(events, e)
		}
	}
	return events, 0
}

// within is a context that ends before a test that hangs does.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// publish appends an event; what certainly was not appended is tried again.
func publish(m *member, topic, kind, payload string) (sequence uint64) {
	m.t.Helper()
	eventually(m.t, "publish "+topic, func() (err error) {
		sequence, err = m.zone().Publish(m.t.Context(), topic, kind, []byte(payload))
		return err
	})
	return sequence
}

func root(from uint64) nexusraft.Subscription {
	return nexusraft.Subscription{Zone: nexusraft.RootZone, From: from}
}

// said is root without what nodes publish of themselves.
func said(from uint64) nexusraft.Subscription {
	return nexusraft.Subscription{Zone: nexusraft.RootZone, From: from, Topics: []string{"said"}}
}

// Every member has the same events, in the same order, with the same numbers, whatever
// came by the log, by a snapshot, or under which leader.
func TestEventsAreTheSameThroughEveryMember(t *testing.T) {
	t.Parallel()
	m1 := found(t, talking(t, "n1"))
	for i := range 5 {
		m1.put("early", fmt.Sprint(i))
	}
	m2 := join(t, talking(t, "n2"), m1) // by a snapshot, which has the early ones
	members := []*member{m1, m2}
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 60 {
		m := members[r.IntN(2)]
		switch r.IntN(4) {
		case 0:
			publish(m, "app/x", "t", fmt.Sprint(i))
		case 1:
			m.put(fmt.Sprint("k", i), fmt.Sprintf("v*%d", r.IntN(20)))
		default:
			m.put(fmt.Sprint("k", i), "v")
		}
		if i%20 == 19 {
			transfer(t, members)
		}
	}
	last := publish(m1, "app/x", "end", "")
	all, next := collect(t, m1, root(1))
	if next != last+1 || uint64(len(all)) != last-1 {
		t.Fatalf("%d events before the last one, which is %d", len(all), last)
	}
	for i, e := range all {
		if e.Sequence != uint64(i+1) || e.Zone != nexusraft.RootZone || e.Incarnation != 0 || i > 0 &&
			e.Time.Before(all[i-1].Time) {
			t.Fatalf("event %d is %+v", i+1, e)
		}
	}
	other, _ := collect(t, m2, root(1))
	if d := cmp.Diff(all, other); d != "" {
		t.Errorf("through the other member (-want +got):\n%s", d)
	}
	rest, _ := collect(t, m2, root(30)) // where a subscriber of the first one may have stopped
	if d := cmp.Diff(all[29:], rest); d != "" {
		t.Errorf("resumed through the other member (-want +got):\n%s", d)
	}
	var told []string
	for _, e := range all {
		if e.Topic == "member" && e.Type != "changed" { // as the founder's address
			told = append(told, e.Type)
		}
	}
	if d := cmp.Diff([]string{"added", "promoted"}, told); d != "" {
		t.Errorf("member events (-want +got):\n%s", d)
	}
	eventually(t, "both have the same state", func() error { return sameState(t, m1, m2) })
}

func sameState(t *testing.T, m1, m2 *member) error {
	a, err1 := m1.node.Handler().Checksum(t.Context(), nexusraft.RootZone)
	b, err2 := m2.node.Handler().Checksum(t.Context(), nexusraft.RootZone)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if d := cmp.Diff(a, b); d != "" {
		return errors.New(d)
	}
	return nil
}

// transfer has the other member lead.
func transfer(t *testing.T, members []*member) {
	t.Helper()
	eventually(t, "another leader", func() error {
		for _, m := range members {
			if s := m.status(); s.State == nexusraft.Leader {
				_, err := m.node.Handler().TransferLeader(t.Context(), nexusraft.RootZone, 0)
				return err
			}
		}
		return errors.New("no leader")
	})
}

func TestEventsGone(t *testing.T) {
	t.Parallel()
	m := found(t, talking(t, "n1"))
	awaitAddress(t, m)
	if err := m.zone().SetEventRetention(t.Context(), nexusraft.Retention{Count: 100}); err != nil {
		t.Fatal(err)
	}
	m.put("k", "v*1000")
	m.put("k", "v*1000")
	_, err := firstOf(t, m, root(1))
	gone, ok := errors.AsType[*nexusraft.GoneError](err)
	if !ok || gone.Asked != 1 || gone.Oldest < 1000 {
		t.Fatalf("from 1: got %v, want a GoneError", err)
	}
	publish(m, "app/x", "end", "")
	events, next := collect(t, m, root(gone.Oldest))
	if len(events) == 0 || events[0].Sequence != gone.Oldest || next-gone.Oldest != uint64(len(events)+1) {
		t.Errorf("from the oldest one, %d: %d events up to %d", gone.Oldest, len(events), next)
	}
	if _, err := firstOf(t, m, root(next+1)); !errors.Is(err, nexusraft.ErrRefused) ||
		!strings.Contains(err.Error(), fmt.Sprint(next-1)) {
		t.Errorf("beyond the newest: got %v, want ErrRefused and %d", err, next-1)
	}
	if b, err := firstOf(t, m, root(next)); err != nil || b.Next != next {
		t.Errorf("the next one: got %+v, %v", b, err)
	}
	if b, err := firstOf(t, m, root(0)); err != nil || b.Next != next {
		t.Errorf("from now on: got %+v, %v", b, err)
	}
}

// awaitAddress waits until a founder's record has the address where it listens, which is an event
// that comes a moment after it leads.
func awaitAddress(t *testing.T, m *member) {
	t.Helper()
	for batch, err := range m.node.Subscribe(within(t), root(1)) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch.Events {
			if bytes.Contains(e.Payload, []byte(m.config.Advertise)) {
				return
			}
		}
	}
}

// firstOf returns the first batch of a subscription.
func firstOf(t *testing.T, m *member, s nexusraft.Subscription) (nexusraft.EventBatch, error) {
	t.Helper()
	for b, err := range m.node.Subscribe(within(t), s) {
		return b, err
	}
	return nexusraft.EventBatch{}, errors.New("no batch")
}

// A subscriber that is overtaken by the retention learns that it has missed something.
func TestSlowSubscriberSeesItsGap(t *testing.T) {
	t.Parallel()
	m := found(t, talking(t, "n1"))
	for batch, err := range m.node.Subscribe(within(t), root(1)) {
		if err != nil {
			gone, ok := errors.AsType[*nexusraft.GoneError](err)
			if !ok || gone.Asked != 1 || gone.Oldest < 800 {
				t.Errorf("got %v, want a GoneError for 1", err)
			}
			return
		}
		if len(batch.Events) > 0 {
			t.Fatalf("got %d events, want to be overtaken", len(batch.Events))
		}
		if err := m.zone().SetEventRetention(t.Context(), nexusraft.Retention{Count: 10}); err != nil {
			t.Fatal(err)
		}
		m.put("k", "v*500")
		m.put("k", "v*500")
	}
}

func TestEventsTurnedOff(t *testing.T) {
	m := found(t, talking(t, "n1"))
	for _, err := range m.node.Subscribe(within(t), root(0)) {
		if err == nil { // the first batch
			if err := m.zone().SetEventRetention(t.Context(), nexusraft.Retention{}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "turned off") {
			t.Errorf("a subscription: got %v, want ErrRefused", err)
		}
	}
	m.put("k", "v")
	if _, err := m.zone().Publish(t.Context(), "app/x", "t", nil); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("publish: got %v, want ErrRefused", err)
	}
}

// Subscribers that take nothing cost no memory and delay nobody, and get everything
// once they go on.
func TestSubscribersThatStandStill(t *testing.T) {
	const stuck, events, size = 50, 1000, 4 << 10
	m := found(t, talking(t, "n1"))
	began, release := make(chan struct{}, stuck), make(chan struct{})
	counts := make(chan int, stuck)
	var wg sync.WaitGroup
	for range stuck {
		wg.Go(func() {
			n, waited := 0, false
			for batch, err := range m.node.Subscribe(within(t), said(0)) {
				if err != nil {
					t.Error(err)
					break
				}
				if !waited {
					began <- struct{}{}
					<-release
				}
				waited = true
				if n += len(batch.Events); n >= events {
					break
				}
			}
			counts <- n
		})
	}
	for range stuck {
		<-began
	}
	heap := func() uint64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	value := strings.Repeat("x", size)
	before := heap()
	for range events / 100 {
		m.put("k", value+"*100")
	}
	if grown := int64(heap()) - int64(before); grown > stuck*events*size/4 { // a queue for each would take 200 MB
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	close(release)
	wg.Wait()
	for range stuck {
		if n := <-counts; n != events {
			t.Fatalf("a subscriber got %d events, want %d", n, events)
		}
	}
}

func TestThousandSubscribers(t *testing.T) {
	t.Parallel()
	const subscribers, events = 1000, 30
	c := talking(t, "n1")
	c.ElectionTicks = 50 // within eight such timeouts a quorum confirms that a subscription stands
	m := found(t, c)
	got := make([]int, subscribers)
	var began, done sync.WaitGroup
	began.Add(subscribers)
	for i := range subscribers {
		done.Go(func() {
			next, stands := uint64(0), false
			for batch, err := range m.node.Subscribe(within(t), said(0)) {
				if err != nil {
					t.Error(err)
					return
				}
				if !stands {
					began.Done()
				}
				stands = true
				for _, e := range batch.Events {
					if e.Sequence < next || e.Sequence >= batch.Next {
						t.Errorf("got %d between %d and %d", e.Sequence, next, batch.Next)
					}
					next = e.Sequence + 1
				}
				if got[i] += len(batch.Events); got[i] >= events {
					return
				}
			}
		})
	}
	began.Wait()
	for range events {
		m.put("k", "v")
	}
	done.Wait()
	if i := slices.IndexFunc(got, func(n int) bool { return n != events }); i >= 0 {
		t.Errorf("a subscriber got %d events, want %d", got[i], events)
	}
}

// What nobody wants is passed over, and the subscriber learns so where to go on.
func TestFilteredSubscription(t *testing.T) {
	t.Parallel()
	m := found(t, talking(t, "n1"))
	for range 5 {
		m.put("noise", "v*900")
	}
	paid := publish(m, "app/orders/7", "paid", "x")
	publish(m, "app/ordersmith", "paid", "x")
	publish(m, "app/orders", "sent", "x")
	s := nexusraft.Subscription{
		Zone: nexusraft.RootZone, From: 1, Topics: []string{"app/orders"},
		Types: []string{"paid", "end"},
	}
	publish(m, "app/orders", "end", "")
	events, _ := collect(t, m, s)
	if len(events) != 1 || events[0].Topic != "app/orders/7" || events[0].Sequence != paid {
		t.Errorf("got %+v, want app/orders/7 alone", events)
	}
	s.Topics = []string{"app/nothing"}
	for batch, err := range m.node.Subscribe(within(t), s) {
		if err != nil {
			t.Fatal(err)
		}
		if batch.Next > paid+2 {
			break // it was told where to go on, with no event at all
		}
	}
}

// A subscription to which nothing comes hears that its node is there: where nothing happens, and
// where all that happens is filtered out.
func TestIdleSubscriptionIsHeardOf(t *testing.T) {
	t.Parallel()
	m := found(t, talking(t, "n1"))
	stop := make(chan struct{})
	noise := make(chan struct{})
	go func() {
		defer close(noise)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				_, _ = m.zone().Publish(t.Context(), "app/noise", "t", nil)
			}
		}
	}()
	var all sync.WaitGroup
	defer all.Wait()
	for name, s := range map[string]nexusraft.Subscription{
		"zone":  {Zone: nexusraft.RootZone, Topics: []string{"app/quiet"}},
		"local": {Topics: []string{"app/quiet"}},
	} {
		all.Go(func() { heardOf(t, m, name, s) })
	}
	all.Wait()
	close(stop)
	<-noise
	for name, s := range map[string]nexusraft.Subscription{
		"idle zone": {Zone: nexusraft.RootZone}, "idle node": {},
	} {
		all.Go(func() { heardOf(t, m, name, s) })
	}
}

// heardOf wants a subscription to hear signs of life and nothing else; the first one says that it stands.
func heardOf(t *testing.T, m *member, name string, s nexusraft.Subscription) {
	heard := 0
	for batch, err := range m.node.Subscribe(within(t), s) {
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if len(s.Topics) > 0 && len(batch.Events) > 0 {
			t.Errorf("%s: got %+v, want nothing but signs of life", name, batch.Events)
		}
		if heard++; heard == 3 {
			return
		}
	}
}

func TestEventsSurviveARestart(t *testing.T) {
	t.Parallel()
	c := talking(t, "n1")
	m := found(t, c)
	first := publish(m, "app/x", "t", "before")
	local, err := firstOf(t, m, nexusraft.Subscription{})
	if err != nil || local.Incarnation == 0 {
		t.Fatalf("local: %+v, %v", local, err)
	}
	m.close()
	c.Advertise = m.config.Advertise
	m = start(t, c)
	if got := publish(m, "app/x", "end", ""); got <= first {
		t.Errorf("the first one after a restart is %d, and before it came %d", got, first)
	}
	events, _ := collect(t, m, root(first))
	if len(events) == 0 || events[0].Sequence != first || string(events[0].Payload) != "before" {
		t.Errorf("got %+v", events)
	}
	b, err := firstOf(t, m, nexusraft.Subscription{From: local.Next, Incarnation: local.Incarnation})
	if err != nil || len(b.Events) != 1 || b.Events[0].Type != "gap" || b.Incarnation <= local.Incarnation || b.Next != 1 {
		t.Errorf("local events of the former incarnation: got %+v, %v, want a gap", b, err)
	}
}

// A member that is out of touch with its zone says so, so that its subscribers go elsewhere.
func TestSubscriptionOfMemberThatIsCutOff(t *testing.T) {
	t.Parallel()
	m1 := found(t, talking(t, "n1"))
	m2 := join(t, talking(t, "n2"), m1)
	for _, err := range m2.node.Subscribe(within(t), root(0)) {
		if err == nil {
			m1.close()
			continue
		}
		if !errors.Is(err, nexusraft.ErrNoQuorum) {
			t.Errorf("got %v, want ErrNoQuorum", err)
		}
	}
}

// Subscriptions end with their zone, with their node, and with their context.
func TestSubscriptionsEnd(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		zone nexusraft.ZoneID
		end  func(*member, context.CancelFunc)
		want error
	}{
		"zone stops": {nexusraft.RootZone, func(m *member, _ context.CancelFunc) {
			_, _ = m.zone().ProposeOnce(t.Context(), nexusraft.RequestID{}, []byte("panic"))
		}, nexusraft.ErrClosed},
		"node stops":          {nexusraft.RootZone, func(m *member, _ context.CancelFunc) { m.stop() }, nexusraft.ErrClosed},
		"node stops, local":   {0, func(m *member, _ context.CancelFunc) { m.stop() }, nexusraft.ErrClosed},
		"context ends":        {nexusraft.RootZone, func(_ *member, c context.CancelFunc) { c() }, context.Canceled},
		"context ends, local": {0, func(_ *member, c context.CancelFunc) { c() }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			m := found(t, talking(t, "n1"))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := false
			for _, err := range m.node.Subscribe(ctx, nexusraft.Subscription{Zone: tc.zone}) {
				switch {
				case err != nil && !errors.Is(err, tc.want):
					t.Errorf("got %v, want %v", err, tc.want)
				case err != nil:
					ended = true
				default:
					go tc.end(m, cancel)
				}
			}
			if !ended {
				t.Error("it ended without an error")
			}
		})
	}
	m := found(t, talking(t, "n1"))
	if _, err := firstOf(t, m, nexusraft.Subscription{Zone: 99}); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("a zone that is not here: got %v, want ErrZoneNotFound", err)
	}
	if _, err := firstOf(t, m, nexusraft.Subscription{Zone: 1, Topics: make([]string, 65)}); !errors.Is(err,
		nexusraft.ErrTooLarge) {
		t.Errorf("65 topics: got %v, want ErrTooLarge", err)
	}
}

// A node tells of leaders, of sync states and of its peers.
func TestLocalEvents(t *testing.T) {
	t.Parallel()
	m1 := found(t, talking(t, "n1"))
	m2 := join(t, talking(t, "n2"), m1)
	want := []string{"leader elected", "peer connected", "peer lost", "snapshot sent", "sync degraded", "sync in sync"}
	seen := make(map[string]bool)
	for batch, err := range m1.node.Subscribe(within(t), nexusraft.Subscription{From: 1}) {
		if err != nil {
			t.Fatalf("seen %v, want %v: %v", seen, want, err)
		}
		for _, e := range batch.Events {
			seen[e.Topic+" "+e.Type] = true
		}
		if seen["sync in sync"] && !seen["peer lost"] {
			m2.stop()
		}
		if !slices.ContainsFunc(want, func(w string) bool { return !seen[w] }) {
			break
		}
	}
}
