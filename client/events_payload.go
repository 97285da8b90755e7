package client

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Topics of events whose payload is known. What applications publish is below "app".
const (
	KeyTopic    = "key"    // a key of the zone was put or deleted: KeyValueOf
	MemberTopic = "member" // a replica was added, promoted, changed, removed: MemberOf
	ZoneTopic   = "zone"   // the root zone's: a zone was created, deleted: ZoneOf

	LeaderTopic   = "leader"   // a node's own, as those below: the leader of a zone: DetailOf
	SyncTopic     = "sync"     // how far a zone's data copies are
	PeerTopic     = "peer"     // the connection to another node
	HealthTopic   = "health"   // whether the node is healthy
	SnapshotTopic = "snapshot" // a zone's snapshot was sent or installed
)

// Types of events of KeyTopic.
const (
	PutType         = "put"
	PutLargeType    = "put-large" // of a value that is too large to be in the event: Get has it
	DeleteType      = "delete"
	DeleteRangeType = "delete-range" // many keys at once
	DeleteLeaseType = "delete-lease" // many keys that were on a lease which has ended
)

// KeyValueOf decodes the payload of an event of KeyTopic: the pair as the put has left it,
// or, of a delete, the key and the revision that deleted it. Of a DeleteRangeType, Key is
// where the range begins, and Value its end as in etcd's range_end; of a DeleteLeaseType too, but other
// keys of the range are still there. It returns nexusraft.ErrCorrupt if the payload is something else.
func KeyValueOf(e nexusraft.Event) (KeyValue, error) {
	m := new(mvccpb.Event)
	if err := proto.Unmarshal(e.Payload, m); err != nil {
		return KeyValue{}, undecodable(e, err)
	}
	if len(m.GetKv().GetKey()) == 0 {
		return KeyValue{}, undecodable(e, errors.New("there is no key in it"))
	}
	return keyValue(m.Kv), nil
}

// MemberOf decodes the payload of an event of MemberTopic: the replica's record. It returns
// nexusraft.ErrCorrupt if the payload is something else.
func MemberOf(e nexusraft.Event) (nexusraft.Member, error) {
	m := new(pb.Member)
	if err := proto.Unmarshal(e.Payload, m); err != nil {
		return nexusraft.Member{}, undecodable(e, err)
	}
	if m.GetReplica() == 0 {
		return nexusraft.Member{}, undecodable(e, errors.New("there is no replica in it"))
	}
	return wire.MemberFromProto(m), nil
}

// ZoneOf decodes the payload of an event of ZoneTopic: what the cluster keeps of the zone, or has kept. It
// returns nexusraft.ErrCorrupt if the payload is something else.
func ZoneOf(e nexusraft.Event) (nexusraft.ZoneInfo, error) {
	m := new(pb.ZoneInfo)
	if err := proto.Unmarshal(e.Payload, m); err != nil {
		return nexusraft.ZoneInfo{}, undecodable(e, err)
	}
	if m.GetId() == 0 {
		return nexusraft.ZoneInfo{}, undecodable(e, errors.New("there is no zone in it"))
	}
	return wire.ZoneInfoFromProto(m), nil
}

// Detail is more about a node's own event; what its topic has nothing to say of is 0.
type Detail struct {
	// the leader, 0 if none is known; the peer; where a snapshot was sent, 0 for here
	Node    nexusraft.NodeID    `json:"node,omitzero"`
	Replica nexusraft.ReplicaID `json:"replica,omitzero"` // the leader's
	Address string              `json:"address,omitempty"`
	Term    nexusraft.Term      `json:"term,omitzero"`
	Index   nexusraft.Index     `json:"index,omitzero"`    // the log's last, of a sync; the snapshot's
	Problem string              `json:"problem,omitempty"` // why the node is not healthy; why a snapshot was not sent
}

// DetailOf decodes the payload of a node's own event, of one of the topics LeaderTopic to
// SnapshotTopic; of any other it is empty. It returns nexusraft.ErrCorrupt if the payload
// is something else.
func DetailOf(e nexusraft.Event) (Detail, error) {
	var d Detail
	var err error
	switch e.Topic {
	case LeaderTopic:
		var m pb.LeaderEvent
		err = proto.Unmarshal(e.Payload, &m)
		d = Detail{Node: nexusraft.NodeID(m.Node), Replica: nexusraft.ReplicaID(m.Replica), Term: nexusraft.Term(m.Term)}
	case SyncTopic:
		var m pb.SyncEvent
		err = proto.Unmarshal(e.Payload, &m)
		d = Detail{Term: nexusraft.Term(m.Term), Index: nexusraft.Index(m.Index)}
	case PeerTopic:
		var m pb.PeerEvent
		err = proto.Unmarshal(e.Payload, &m)
		d = Detail{Node: nexusraft.NodeID(m.Node), Address: m.Address}
	case HealthTopic:
		var m pb.HealthEvent
		err = proto.Unmarshal(e.Payload, &m)
		d = Detail{Problem: m.Problem}
	case SnapshotTopic:
		var m pb.SnapshotEvent
		err = proto.Unmarshal(e.Payload, &m)
		d = Detail{
			Node: nexusraft.NodeID(m.Node), Index: nexusraft.Index(m.Index), Term: nexusraft.Term(m.Term),
			Problem: m.Problem,
		}
	}
	if err != nil {
		return Detail{}, undecodable(e, err)
	}
	return d, nil
}

func undecodable(e nexusraft.Event, err error) error {
	return fmt.Errorf("%w: payload of event %d, topic %.64q: %w", nexusraft.ErrCorrupt, e.Sequence, e.Topic, err)
}
