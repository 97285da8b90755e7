package events

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

func localAt(incarnation nexusraft.Incarnation) *Local {
	return NewLocal(func() time.Time { return time.Unix(5, 0) }, incarnation)
}

// sequences reads everything from where a subscription begins; a gap is negative.
func sequences(t *testing.T, l *Local, s nexusraft.Subscription) (out []int) {
	t.Helper()
	b := l.begin(s)
	for more := true; ; {
		for _, e := range b.Events {
			if e.Incarnation != l.incarnation {
				t.Fatalf("event %d is of incarnation %v, want %v", e.Sequence, e.Incarnation, l.incarnation)
			}
			if e.Type == system.TopicGap {
				out = append(out, -int(e.Sequence))
				continue
			}
			out = append(out, int(e.Sequence))
		}
		if !more {
			return out
		}
		var err error
		if b, more, err = l.read(s, b.Next); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLocalEventsFromAnywhere(t *testing.T) {
	l := localAt(7)
	if got := sequences(t, l, nexusraft.Subscription{From: 1}); got != nil {
		t.Errorf("before there are any: got %v", got)
	}
	for i := range 4 {
		l.Leader(1, 2, nexusraft.ReplicaID(i), 3)
	}
	for name, tc := range map[string]struct {
		s    nexusraft.Subscription
		want []int
	}{
		"from now on":              {nexusraft.Subscription{}, nil},
		"from the beginning":       {nexusraft.Subscription{From: 1}, []int{1, 2, 3, 4}},
		"this incarnation":         {nexusraft.Subscription{From: 3, Incarnation: 7}, []int{3, 4}},
		"the next one":             {nexusraft.Subscription{From: 5, Incarnation: 7}, nil},
		"a former incarnation":     {nexusraft.Subscription{From: 99, Incarnation: 6}, []int{0, 1, 2, 3, 4}},
		"its type":                 {nexusraft.Subscription{From: 1, Types: []string{"lost"}}, []int{1}},
		"a gap passes all filters": {nexusraft.Subscription{From: 1, Incarnation: 6, Topics: []string{"sync"}}, []int{0}},
	} {
		if d := cmp.Diff(tc.want, sequences(t, l, tc.s)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	if _, _, err := l.read(nexusraft.Subscription{}, 6); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("beyond the newest: got %v, want ErrRefused", err)
	}
}

func TestLocalEventsAreBounded(t *testing.T) {
	l := localAt(1)
	for range 3 * maxLocalEvents {
		l.Leader(1, 2, 3, 4)
	}
	if len(l.events) != maxLocalEvents {
		t.Fatalf("%d events are kept, want %d", len(l.events), maxLocalEvents)
	}
	got := sequences(t, l, nexusraft.Subscription{From: 1})
	if len(got) != maxLocalEvents+1 || got[0] != -2*maxLocalEvents || got[1] != 2*maxLocalEvents+1 ||
		got[maxLocalEvents] != 3*maxLocalEvents {
		t.Errorf("%d read: %v ... %v", len(got), got[:2], got[len(got)-1])
	}
	for range maxLocalEvents {
		l.Health(strings.Repeat("\xffx", 10*maxProblemBytes))
	}
	if l.bytes > maxLocalEventBytes || l.bytes < maxLocalEventBytes/2 {
		t.Errorf("%d bytes are kept, limit %d", l.bytes, maxLocalEventBytes)
	}
	size := 0
	for _, e := range l.events {
		size += localSize(e)
	}
	if size != l.bytes {
		t.Errorf("%d bytes are kept, counted as %d", size, l.bytes)
	}
}

func TestLocalPayloads(t *testing.T) {
	l := localAt(1)
	l.Leader(1, 0x22, 3, 4)
	l.Leader(1, 0, 0, 5)
	l.Sync(1, nexusraft.Degraded, 6, 7)
	l.Peer(8, "nobody:1", false) // it was never there
	l.Peer(8, "a:1", true)
	l.Peer(8, "a:1", true)
	l.Peer(8, "a:1", false)
	l.Peer(8, "a:1", false)
	l.Health("disk full")
	l.Health("")
	l.ZoneStopped(2, "it differs")
	l.Snapshot(1, 8, 9, 10, nil)
	l.Snapshot(1, 8, 9, 10, errors.New("cut\xff off"))
	l.Snapshot(1, 0, 9, 10, nil)
	want := []struct {
		topic, kind string
		zone        nexusraft.ZoneID
		payload     proto.Message
	}{
		{topicLeader, "elected", 1, &pb.LeaderEvent{Node: 0x22, Replica: 3, Term: 4}},
		{topicLeader, "lost", 1, &pb.LeaderEvent{Term: 5}},
		{topicSync, "degraded", 1, &pb.SyncEvent{Term: 6, Index: 7}},
		{topicPeer, "connected", 0, &pb.PeerEvent{Node: 8, Address: "a:1"}},
		{topicPeer, "lost", 0, &pb.PeerEvent{Node: 8, Address: "a:1"}},
		{topicHealth, "unhealthy", 0, &pb.HealthEvent{Problem: "disk full"}},
		{topicHealth, "healthy", 0, &pb.HealthEvent{}},
		{topicHealth, "zone-stopped", 2, &pb.HealthEvent{Problem: "it differs"}},
		{topicSnapshot, "sent", 1, &pb.SnapshotEvent{Node: 8, Index: 9, Term: 10}},
		{topicSnapshot, "failed", 1, &pb.SnapshotEvent{Node: 8, Index: 9, Term: 10, Problem: "cut? off"}},
		{topicSnapshot, "installed", 1, &pb.SnapshotEvent{Index: 9, Term: 10}},
	}
	if len(l.events) != len(want) {
		t.Fatalf("got %d events, want %d: %v", len(l.events), len(want), l.events)
	}
	for i, w := range want {
		e := l.events[i]
		got := w.payload.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(e.Payload, got); err != nil {
			t.Fatal(err)
		}
		if e.Topic != w.topic || e.Type != w.kind || e.Zone != w.zone || !proto.Equal(got, w.payload) {
			t.Errorf("event %d: got %s %s of zone %v: %v, want %s %s of zone %v: %v", i, e.Topic, e.Type, e.Zone, got, w.topic,
				w.kind, w.zone, w.payload)
		}
	}
}

// Of many that report a peer at once, each adds an event only where the last one says otherwise.
func TestPeerEventsInOrder(t *testing.T) {
	for range 200 {
		l := NewLocal(time.Now, 1)
		l.Peer(2, "a:1", true)
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for range 20 {
					l.Peer(2, "a:1", g%2 == 0)
				}
			})
		}
		wg.Wait()
		for i := 1; i < len(l.events); i++ {
			if l.events[i].Type == l.events[i-1].Type {
				t.Fatalf("%q twice in a row", l.events[i].Type)
			}
		}
	}
}

// Nothing falls in between a read and the wait after it.
func TestNotifier(t *testing.T) {
	var b Notifier
	b.Notify() // for nobody
	first, second := b.Wait(), b.Wait()
	select {
	case <-first:
		t.Fatal("it was woken before")
	default:
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(b.Notify)
	}
	<-first
	<-second
	wg.Wait()
	select {
	case <-b.Wait():
		t.Fatal("an old call is heard")
	default:
	}
}
