package system

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/storage"
)

// emptyState is a state tree in memory.
func emptyState(t testing.TB) *storage.Overlay {
	t.Helper()
	s, err := storage.Open("data", &storage.Options{FS: storage.NewMemFS()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	tree, err := s.Tree("state")
	if err != nil {
		t.Fatal(err)
	}
	return storage.NewOverlay(tree)
}

// stored returns the events of a state, after it has checked that they are what its
// EventLog says.
func stored(t testing.TB, r nexusraft.Reader) (l EventLog, events []Event) {
	t.Helper()
	l, err := LoadEventLog(r)
	if err != nil {
		t.Fatal(err)
	}
	next, size := l.Oldest, 0
	for p, err := range r.Scan(EventKey(0), []byte{Prefix, 'e' + 1}) {
		if err != nil {
			t.Fatal(err)
		}
		e, err := DecodeEvent(p.Value)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p.Key, EventKey(next)) {
			t.Fatalf("event %d is at %x", next, p.Key)
		}
		if next == l.Oldest && e.Time != l.oldestTime {
			t.Fatalf("the oldest event is of %d, recorded as %d", e.Time, l.oldestTime)
		}
		e.Payload = bytes.Clone(e.Payload)
		events = append(events, e)
		next, size = next+1, size+len(p.Value)
	}
	if next != l.Next || uint64(size) != l.bytes {
		t.Fatalf("events %d to %d of %d bytes are there, recorded are %d to %d of %d bytes", l.Oldest, next, size, l.Oldest,
			l.Next, l.bytes)
	}
	return l, events
}

func publishN(t testing.TB, o *storage.Overlay, now int64, n, size int) {
	t.Helper()
	var events [][]byte
	for range n {
		events = append(events, encodeEvent(now, "app/x", "y", make([]byte, size)))
	}
	if _, err := publish(o, now, events...); err != nil {
		t.Fatal(err)
	}
}

func retain(t testing.TB, o *storage.Overlay, now int64, keep nexusraft.Retention) {
	t.Helper()
	if err := applyRetention(o, now, &pb.EventRetention{Count: keep.Count, AgeNanos: int64(keep.Age)}); err != nil {
		t.Fatal(err)
	}
}

func TestRetentionByCount(t *testing.T) {
	o := emptyState(t)
	retain(t, o, 1, nexusraft.Retention{Count: 1000})
	for i := range 5000 {
		publishN(t, o, int64(i), 1, 8)
		l, err := LoadEventLog(o)
		if err != nil {
			t.Fatal(err)
		}
		if n := l.Next - l.Oldest; n > 1000+1000/retentionSlack || l.Next > 1200 && n < 1000 {
			t.Fatalf("after %d events %d are kept", i+1, n)
		}
	}
	if l, events := stored(t, o); l.Next != 5001 || len(events) < 1000 {
		t.Errorf("next is %d, %d events are kept", l.Next, len(events))
	}
}

func TestRetentionByAge(t *testing.T) {
	o := emptyState(t)
	retain(t, o, 0, nexusraft.Retention{Count: 1 << 40, Age: time.Hour})
	minute := int64(time.Minute)
	for i := range int64(300) {
		publishN(t, o, i*minute, 3, 8)
		l, _ := stored(t, o)
		if age := i*minute - l.oldestTime; age > 68*minute || i > 70 && age < 59*minute {
			t.Fatalf("after %d minutes the oldest is %v old", i, time.Duration(age))
		}
	}
	publishN(t, o, 300*minute+int64(48*time.Hour), 1, 8) // after two days of silence one event is left
	if _, events := stored(t, o); len(events) != 1 {
		t.Errorf("%d events are kept after two days", len(events))
	}
}

func TestRetentionByBytes(t *testing.T) {
	o := emptyState(t)
	for i := range 60 {
		publishN(t, o, int64(i), 1, nexusraft.MaxEventPayloadBytes)
		if l, err := LoadEventLog(o); err != nil || l.bytes > maxEventLogBytes/retentionSlack*(retentionSlack+1) {
			t.Fatalf("%d bytes of events are kept, limit %d: %v", l.bytes, maxEventLogBytes, err)
		}
	}
	if l, events := stored(t, o); l.Next != 61 || len(events) < 31 {
		t.Errorf("next is %d, %d events of 2 MiB are kept", l.Next, len(events))
	}
}

// One command deletes a bounded number of events, however many there are too many, and
// commands that publish many keep up with themselves.
func TestTrimmingIsBounded(t *testing.T) {
	o := emptyState(t)
	publishN(t, o, 1, 5000, 8)
	retain(t, o, 1, nexusraft.Retention{Count: 10})
	before, _ := stored(t, o)
	if got := before.Oldest - 1; got != trimStep {
		t.Fatalf("changing the retention has deleted %d, want %d", got, trimStep)
	}
	publishN(t, o, 2, 1, 8)
	if after, _ := stored(t, o); after.Oldest-before.Oldest != trimStep+2 {
		t.Fatalf("one event has deleted %d", after.Oldest-before.Oldest)
	}
	for range 40 {
		publishN(t, o, 3, 300, 8)
	}
	if l, _ := stored(t, o); l.Next-l.Oldest > 310 {
		t.Errorf("%d events are kept, want 10 and those of the last command at most", l.Next-l.Oldest)
	}
}

func TestEventsOff(t *testing.T) {
	o := emptyState(t)
	publishN(t, o, 1, 300, 8)
	retain(t, o, 1, nexusraft.Retention{})
	publishN(t, o, 2, 5, 8)
	l, events := stored(t, o)
	if l.Next != 301 || len(events) != 0 {
		t.Errorf("next is %d, %d events are kept; want 301 and 0", l.Next, len(events))
	}
	if _, err := applyPublish(o, 3, &pb.PublishEvent{Topic: "app/x", Type: "y"}); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("publish: got %v, want ErrRefused", err)
	}
	retain(t, o, 4, nexusraft.DefaultRetention())
	publishN(t, o, 5, 1, 8)
	if l, events := stored(t, o); l.Oldest != 301 || len(events) != 2 || events[0].Topic != TopicGap { // numbers go on
		t.Errorf("turned on again: %+v from %d on; want a gap for what is missing, and an event", events, l.Oldest)
	}
	retain(t, o, 6, nexusraft.Retention{Count: 7})
	if _, events := stored(t, o); len(events) != 2 {
		t.Errorf("%d events after a change of what was on; want no gap more", len(events))
	}
}

func TestPublishLimits(t *testing.T) {
	long := strings.Repeat("x", nexusraft.MaxEventNameBytes)
	for name, tc := range map[string]struct {
		topic, kind string
		size        int
		want        error
	}{
		"all at their limits": {long, long, nexusraft.MaxEventPayloadBytes, nil},
		"topic too long":      {long + "x", "k", 0, nexusraft.ErrTooLarge},
		"type too long":       {"t", long + "x", 0, nexusraft.ErrTooLarge},
		"payload too long":    {"t", "k", nexusraft.MaxEventPayloadBytes + 1, nexusraft.ErrTooLarge},
		"no topic":            {"", "k", 0, nexusraft.ErrRefused},
		"no type":             {"t", "", 0, nexusraft.ErrRefused},
		"topic not text":      {"t\xff", "k", 0, nexusraft.ErrRefused},
	} {
		var events Events
		if got := events.Add(1, tc.topic, tc.kind, make([]byte, tc.size)); !errors.Is(got, tc.want) {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
		if (events.Len() == 1) != (tc.want == nil) {
			t.Errorf("%s: %d events", name, events.Len())
		}
	}
	var events Events
	for range nexusraft.MaxCommandEventBytes / nexusraft.MaxEventPayloadBytes {
		if err := events.Add(1, "t", "k", make([]byte, nexusraft.MaxEventPayloadBytes-64)); err != nil {
			t.Fatal(err)
		}
	}
	err := events.Add(1, "t", "k", make([]byte, nexusraft.MaxEventPayloadBytes))
	if !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("more than a command may publish: got %v, want ErrTooLarge", err)
	}
}

func TestApplicationTopics(t *testing.T) {
	o := emptyState(t)
	for topic, ok := range map[string]bool{
		"app/x": true, "app/x/y": true, "app/": false, "app": false, "apple": false,
		"key": false, "member": false, "": false,
	} {
		answer, err := applyPublish(o, 1, &pb.PublishEvent{Topic: topic, Type: "t"})
		if ok != (err == nil) || !ok && !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("%q: got %x, %v", topic, answer, err)
		}
	}
	if _, err := applyPublish(o, 1, &pb.PublishEvent{
		Topic: "app/x", Type: "t",
		Payload: make([]byte, maxAppEventBytes+1),
	}); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("over 1 MiB: got %v", err)
	}
	if l, _ := stored(t, o); l.Next != 3 {
		t.Errorf("%d events were published, want 2", l.Next-1)
	}
}

// The same commands make the same bytes, whether they are applied one at a time to the
// store or many to one overlay.
func TestEventsAreDeterministic(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	one, many := emptyState(t), storage.NewOverlay(emptyState(t))
	for i := range 2000 {
		now, n, size := int64(i)*int64(time.Minute), r.IntN(4), r.IntN(100)
		keep := nexusraft.Retention{Count: uint64(r.IntN(300)), Age: time.Duration(r.IntN(3)) * time.Hour}
		for _, o := range []*storage.Overlay{one, many} {
			if i%97 == 0 {
				retain(t, o, now, keep)
			}
			publishN(t, o, now, n, size)
		}
	}
	if a, b := dumped(t, one), dumped(t, many); a != b {
		t.Error("the states differ")
	}
}

func dumped(t testing.TB, r nexusraft.Reader) string {
	t.Helper()
	var out strings.Builder
	for p, err := range r.Scan(nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%x=%x\n", p.Key, p.Value)
	}
	return out.String()
}

func TestMemberEvents(t *testing.T) {
	m := func(replica, node uint64, address string, role nexusraft.Role) nexusraft.Member {
		return nexusraft.Member{
			Replica: nexusraft.ReplicaID(replica), Node: nexusraft.NodeID(node), Name: "n",
			Address: address, Role: role,
		}
	}
	o := emptyState(t)
	none := nexusraft.Membership{}
	one := none.With(m(1, 11, "a:1", nexusraft.RoleMember))
	two := one.With(m(2, 12, "b:1", nexusraft.RoleLearner))
	promoted := two.With(m(2, 12, "b:1", nexusraft.RoleMember))
	moved := promoted.With(m(1, 11, "a:2", nexusraft.RoleMember)).With(m(3, 13, "w:1", nexusraft.RoleWitness))
	left := moved.Without(1)
	before := none
	for _, after := range []nexusraft.Membership{one, two, two, promoted, moved, left} {
		if err := PublishMembers(o, 77, before, after); err != nil {
			t.Fatal(err)
		}
		before = after
	}
	type told struct {
		kind   string
		member *pb.Member
	}
	member := func(replica, node uint64, address string, role pb.Role) *pb.Member {
		return &pb.Member{Replica: replica, Node: node, Name: "n", Address: address, Role: role}
	}
	want := []told{
		{memberAdded, member(1, 11, "a:1", pb.Role_ROLE_MEMBER)},
		{memberAdded, member(2, 12, "b:1", pb.Role_ROLE_LEARNER)},
		{memberPromoted, member(2, 12, "b:1", pb.Role_ROLE_MEMBER)},
		{memberChanged, member(1, 11, "a:2", pb.Role_ROLE_MEMBER)},
		{memberAdded, member(3, 13, "w:1", pb.Role_ROLE_WITNESS)},
		{memberRemoved, member(1, 11, "a:2", pb.Role_ROLE_MEMBER)},
	}
	var got []told
	_, events := stored(t, o)
	for _, e := range events {
		x := &pb.Member{}
		if err := proto.Unmarshal(e.Payload, x); err != nil {
			t.Fatal(err)
		}
		if e.Topic != topicMember || e.Time != 77 {
			t.Errorf("topic %q at %d, want %q at 77", e.Topic, e.Time, topicMember)
		}
		got = append(got, told{e.Type, x})
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(told{}), protocmp.Transform()); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
}

// A damaged record stops the zone, and is nobody's answer.
func TestDamagedEventLog(t *testing.T) {
	for _, damage := range [][]byte{{}, make([]byte, eventLogBytes), bytes.Repeat([]byte{0xff}, eventLogBytes)} {
		o := emptyState(t)
		if err := o.Set(eventLogKey, damage); err != nil {
			t.Fatal(err)
		}
		command, err := proto.Marshal(&pb.NodeCommand{Kind: &pb.NodeCommand_Publish{Publish: &pb.PublishEvent{
			Topic: "app/x",
			Type:  "y",
		}}})
		if err != nil {
			t.Fatal(err)
		}
		if a, err := Apply(o, nil, 1, 1, command); !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("%x: got %+v, %v, want ErrCorrupt", damage, a, err)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add(encodeEvent(1, "topic", "type", []byte("payload")))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff\x00\x01abc"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := DecodeEvent(b)
		if err != nil {
			if !errors.Is(err, nexusraft.ErrCorrupt) || isRefusal(err) {
				t.Fatalf("got %v, want ErrCorrupt alone", err)
			}
			return
		}
		if got := encodeEvent(e.Time, e.Topic, e.Type, e.Payload); !bytes.Equal(got, b) {
			t.Fatalf("decoded from %x, encoded as %x", b, got)
		}
	})
}

func FuzzDecodeEventLog(f *testing.F) {
	f.Add(newEventLog().encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := decodeEventLog(b)
		if err != nil {
			if !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Fatalf("got %v, want ErrCorrupt", err)
			}
			return
		}
		if got := l.encode(); !bytes.Equal(got, b) {
			t.Fatalf("decoded from %x, encoded as %x", b, got)
		}
	})
}
