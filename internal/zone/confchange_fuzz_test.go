package zone

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// The conf change of an entry is read or refused as corrupt.
func FuzzDecodeConfChange(f *testing.F) {
	e, err := encodeConfChange(ProposalID{Replica: 1, Incarnation: 2, Sequence: 3}, ConfChange{
		Set:    []nexusraft.Member{{Replica: 4, Node: 5, Role: nexusraft.RoleLearner}},
		Remove: []nexusraft.ReplicaID{6},
	}, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.GetData())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeConfChange(&raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum(), Index: new(uint64(7)), Data: data})
		if err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("%x: got %v, want ErrCorrupt", data, err)
		}
		if err == nil && c.raft == nil {
			t.Errorf("%x: got no conf change and no error", data)
		}
	})
}
