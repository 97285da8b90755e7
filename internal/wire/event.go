package wire

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// EventToProto converts an event; the message shares its payload.
func EventToProto(e nexusraft.Event) *pb.Event {
	return &pb.Event{
		Sequence: e.Sequence, Topic: e.Topic, Type: e.Type, Payload: e.Payload,
		Time: timestamppb.New(e.Time), Zone: uint64(e.Zone), Incarnation: uint64(e.Incarnation),
	}
}

// EventFromProto converts an event, which shares the message's payload.
func EventFromProto(m *pb.Event) nexusraft.Event {
	return nexusraft.Event{
		Sequence: m.GetSequence(), Topic: m.GetTopic(), Type: m.GetType(), Payload: m.GetPayload(),
		Time: m.GetTime().AsTime(), Zone: nexusraft.ZoneID(m.GetZone()),
		Incarnation: nexusraft.Incarnation(m.GetIncarnation()),
	}
}

// SubscriptionFromProto converts a subscription.
func SubscriptionFromProto(req *pb.SubscribeRequest) nexusraft.Subscription {
	return nexusraft.Subscription{
		Zone: nexusraft.ZoneID(req.GetZone()), Topics: req.GetTopics(), Types: req.GetTypes(),
		From: req.GetFromSequence(), Incarnation: nexusraft.Incarnation(req.GetIncarnation()),
	}
}
