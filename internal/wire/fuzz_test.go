package wire

import (
	"testing"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// Whatever a peer sends as its status or its error is taken without a panic; an error stays
// an error, and what has come through once comes through again unchanged.
func FuzzFromProto(f *testing.F) {
	for _, m := range []proto.Message{
		NodeStatusToProto(nexusraft.NodeStatus{Node: 1, Zones: []nexusraft.ZoneStatus{{Zone: 1, Sync: nexusraft.InSync}}}),
		ErrorToProto(&nexusraft.NotLeaderError{Zone: 1, Leader: 2, Address: "a:1"}),
		ErrorToProto(nexusraft.ErrFenced),
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var status pb.NodeStatus
		if proto.Unmarshal(b, &status) == nil {
			once := NodeStatusToProto(NodeStatusFromProto(&status))
			if twice := NodeStatusToProto(NodeStatusFromProto(once)); !proto.Equal(once, twice) {
				t.Errorf("%x: got %v, then %v", b, once, twice)
			}
		}
		var failure pb.Error
		if proto.Unmarshal(b, &failure) == nil {
			err := ErrorFromProto(&failure)
			if err == nil {
				t.Fatalf("%x: an error became none", b)
			}
			once := ErrorToProto(err)
			if twice := ErrorToProto(ErrorFromProto(once)); !proto.Equal(once, twice) {
				t.Errorf("%x: got %v, then %v", b, once, twice)
			}
		}
	})
}
