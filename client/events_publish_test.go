package client

import (
	"errors"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

func TestPublish(t *testing.T) {
	var got *pb.PublishRequest
	n := startEvents(t, func(n *eventNode) {
		n.publish = func(r *pb.PublishRequest) (*pb.PublishResponse, error) {
			got = r
			return &pb.PublishResponse{Sequence: 57}, nil
		}
	})
	c := connect(t, Options{Endpoints: []string{deadAddress(t), n.address}, Zone: 3})
	sequence, err := c.Publish(within(t), "app/a", "made", []byte("p"))
	want := &pb.PublishRequest{Zone: 3, Topic: "app/a", Type: "made", Payload: []byte("p")}
	if sequence != 57 || err != nil || !proto.Equal(got, want) {
		t.Errorf("got %d, %v, request %v; want 57, %v", sequence, err, got, want)
	}
}

func TestRetainEvents(t *testing.T) {
	var got *pb.RetainRequest
	n := startEvents(t, func(n *eventNode) {
		n.retain = func(r *pb.RetainRequest) (*pb.RetainResponse, error) {
			got = r
			return &pb.RetainResponse{}, nil
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}, Zone: 3})
	err := c.RetainEvents(within(t), 500, time.Hour)
	want := &pb.RetainRequest{Zone: 3, Count: 500, AgeNanos: time.Hour.Nanoseconds()}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, request %v; want %v", err, got, want)
	}
}

func TestPublishErrors(t *testing.T) {
	for _, tc := range []struct {
		answer, want error
		times        int64
	}{
		{answer(nexusraft.ErrUncertain, codes.Unknown, "?"), nexusraft.ErrUncertain, 1},
		{status.Error(codes.Unavailable, "cut"), nexusraft.ErrUncertain, 1},
		{answer(nexusraft.ErrRefused, codes.InvalidArgument, "topic"), nexusraft.ErrRefused, 1},
		{answer(nexusraft.ErrOverloaded, codes.ResourceExhausted, "busy"), nil, 2}, // not appended: tried again
	} {
		var times atomic.Int64
		n := startEvents(t, func(n *eventNode) {
			n.publish = func(*pb.PublishRequest) (*pb.PublishResponse, error) {
				if times.Add(1) == 1 {
					return nil, tc.answer
				}
				return &pb.PublishResponse{Sequence: 5}, nil
			}
		})
		c := connect(t, Options{Endpoints: []string{n.address}})
		_, err := c.Publish(within(t), "app/a", "made", nil)
		if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) || times.Load() != tc.times {
			t.Errorf("%v: got %v after %d calls, want %v after %d", tc.answer, err, times.Load(), tc.want, tc.times)
		}
	}
	c := connect(t, Options{Endpoints: []string{"127.0.0.1:1"}})
	if _, err := c.Publish(within(t), "app/a", "made", make([]byte, maxPutBytes)); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("a huge payload: got %v, want %v", err, nexusraft.ErrTooLarge)
	}
}

func TestPayloads(t *testing.T) {
	pair := &mvccpb.KeyValue{Key: []byte("k"), Value: []byte("v"), CreateRevision: 2, ModRevision: 4, Version: 3}
	b, err := proto.Marshal(&mvccpb.Event{Kv: pair})
	if err != nil {
		t.Fatal(err)
	}
	kv, err := KeyValueOf(nexusraft.Event{Payload: b})
	if d := cmp.Diff(keyValue(pair), kv); d != "" || err != nil {
		t.Errorf("pair: %v, (-want +got):\n%s", err, d)
	}
	m := nexusraft.Member{Replica: 1, Node: 2, Name: "n", Address: "a:1", Role: nexusraft.RoleLearner}
	set := wire.MembershipToProto(nexusraft.Membership{Members: []nexusraft.Member{m}})
	if b, err = proto.Marshal(set.Members[0]); err != nil {
		t.Fatal(err)
	}
	got, err := MemberOf(nexusraft.Event{Payload: b})
	if d := cmp.Diff(m, got); d != "" || err != nil {
		t.Errorf("member: %v, (-want +got):\n%s", err, d)
	}
	zone := nexusraft.ZoneInfo{ID: 2, Name: "orders", Machine: "kv", Created: time.Unix(5, 0).UTC()}
	if b, err = proto.Marshal(&pb.ZoneInfo{Id: 2, Name: "orders", Machine: "kv", CreatedNanos: 5e9}); err != nil {
		t.Fatal(err)
	}
	if got, err := ZoneOf(nexusraft.Event{Payload: b}); !reflect.DeepEqual(got, zone) || err != nil {
		t.Errorf("zone: got %+v, %v, want %+v", got, err, zone)
	}
}

func TestDetails(t *testing.T) {
	for topic, tc := range map[string]struct {
		payload proto.Message
		want    Detail
	}{
		LeaderTopic: {&pb.LeaderEvent{Node: 1, Replica: 2, Term: 3}, Detail{Node: 1, Replica: 2, Term: 3}},
		SyncTopic:   {&pb.SyncEvent{Term: 3, Index: 4}, Detail{Term: 3, Index: 4}},
		PeerTopic:   {&pb.PeerEvent{Node: 1, Address: "a:1"}, Detail{Node: 1, Address: "a:1"}},
		HealthTopic: {&pb.HealthEvent{Problem: "disk"}, Detail{Problem: "disk"}},
		SnapshotTopic: {
			&pb.SnapshotEvent{Node: 1, Index: 4, Term: 3, Problem: "cut"},
			Detail{Node: 1, Index: 4, Term: 3, Problem: "cut"},
		},
		"app/leader": {&pb.LeaderEvent{Node: 1}, Detail{}},
	} {
		b, err := proto.Marshal(tc.payload)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DetailOf(nexusraft.Event{Topic: topic, Payload: b}); got != tc.want || err != nil {
			t.Errorf("%s: got %+v, %v; want %+v", topic, got, err, tc.want)
		}
	}
}

// A payload is decoded, or refused as corrupt.
func FuzzPayload(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0xff})
	f.Add([]byte("\x12\x06\x0a\x01k\x2a\x01v"))
	f.Add([]byte("\x09\x01\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		e := nexusraft.Event{Sequence: 5, Topic: "t", Payload: payload}
		if kv, err := KeyValueOf(e); (err == nil) == (len(kv.Key) == 0) || err != nil &&
			!errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("got pair %v, %v", kv, err)
		}
		for _, topic := range []string{LeaderTopic, SyncTopic, PeerTopic, HealthTopic, SnapshotTopic} {
			own := nexusraft.Event{Topic: topic, Payload: payload}
			if d, err := DetailOf(own); err != nil && (d != Detail{} || !errors.Is(err, nexusraft.ErrCorrupt)) {
				t.Errorf("got detail %v, %v", d, err)
			}
		}
		if m, err := MemberOf(e); (err == nil) == (m.Replica == 0) || err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("got member %v, %v", m, err)
		}
		if z, err := ZoneOf(e); (err == nil) == (z.ID == 0) || err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("got zone %v, %v", z, err)
		}
	})
}
