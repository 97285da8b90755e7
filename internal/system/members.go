package system

import (
	"google.golang.org/protobuf/encoding/protowire"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// Types of events of the topic "member".
const (
	topicMember    = "member"
	memberAdded    = "added"
	memberPromoted = "promoted" // to a role that votes
	memberChanged  = "changed"  // its name or address
	memberRemoved  = "removed"
)

// PublishMembers appends what a conf change has done to a zone's members to its events.
func PublishMembers(base nexusraft.ReadWriter, now int64, before, after nexusraft.Membership) error {
	var events [][]byte
	add := func(kind string, m nexusraft.Member) {
		events = append(events, encodeEvent(now, topicMember, kind, encodeMember(m)))
	}
	for _, m := range after.Members {
		switch old, ok := before.Replica(m.Replica); {
		case !ok:
			add(memberAdded, m)
		case m.Role != old.Role && m.Role.Voter():
			add(memberPromoted, m)
		case m != old:
			add(memberChanged, m)
		}
	}
	for _, m := range before.Members {
		if _, ok := after.Replica(m.Replica); !ok {
			add(memberRemoved, m)
		}
	}
	if len(events) == 0 {
		return nil
	}
	_, err := publish(base, now, events...)
	return err
}

// memberRoles are the roles' numbers in a stored pb.Member.
var memberRoles = map[nexusraft.Role]pb.Role{
	nexusraft.RoleMember:  pb.Role_ROLE_MEMBER,
	nexusraft.RoleLearner: pb.Role_ROLE_LEARNER,
	nexusraft.RoleWitness: pb.Role_ROLE_WITNESS,
}

// encodeMember is a pb.Member. It is written field by field, because every release must
// make the same bytes of it (I4), which the marshaller does not promise.
func encodeMember(m nexusraft.Member) []byte {
	b := protowire.AppendTag(nil, 1, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, uint64(m.Replica))
	b = protowire.AppendTag(b, 2, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, uint64(m.Node))
	b = protowire.AppendTag(b, 3, protowire.BytesType)
	b = protowire.AppendString(b, m.Name)
	b = protowire.AppendTag(b, 4, protowire.BytesType)
	b = protowire.AppendString(b, m.Address)
	b = protowire.AppendTag(b, 5, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(memberRoles[m.Role]))
}
