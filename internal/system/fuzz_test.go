package system

import (
	"errors"
	"fmt"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/storage"
)

func isUnknown(err error) bool {
	_, ok := errors.AsType[*UnknownCommandError](err)
	return ok
}

// FuzzApply runs any command of the nodes over a state that has a bit of everything: it is
// applied, refused, or stops the zone, and the same on two replicas.
func FuzzApply(f *testing.F) {
	for _, c := range []*pb.NodeCommand{
		setRole("admin", 1, pb.AccessRole_ACCESS_ROLE_READ), deletePrincipalOf("admin"), putToken("admin", 2, 1000),
		deleteToken(1),
		{Kind: &pb.NodeCommand_Publish{Publish: &pb.PublishEvent{Topic: "app/a", Type: "t", Payload: []byte("p")}}},
		{Kind: &pb.NodeCommand_Retention{Retention: &pb.EventRetention{Count: 1}}},
		createZone("z", "kv", 1, 2), deleteZone(2, "a-zone"), raiseVersion(9), raiseMachine(2, true),
		registerSession("alice"), verifyState(256, 1),
		createShaped("y", 2, 1, clusterNodes(3, 1)), reshapeCommand(reshaped(3, "shaped", 1, 0, clusterNodes(4, 1))),
		reshapeCommand(&pb.ReshapeZone{Id: 3, Name: "shaped", Off: 2, Instead: true, Nodes: clusterNodes(4, 1)}),
		reportCommand(4, 4), reportCommand(4, 4, 1),
		{Kind: &pb.NodeCommand_UseJoinToken{UseJoinToken: &pb.UseJoinToken{Id: make([]byte, 8), Node: 1}}},
	} {
		f.Add(own(f, c))
	}
	base := accessState(f, memStore(f))
	for _, c := range []*pb.NodeCommand{
		setRole("a", 1, pb.AccessRole_ACCESS_ROLE_WRITE), putToken("admin", 1, 1000), raiseVersion(ZonesVersion),
		createZone("a-zone", "kv", 1, 2), createShaped("shaped", 3, 0, clusterNodes(4, 1)),
		createShaped("moving", 3, 0, clusterNodes(4, 1)), reshapeCommand(reshaped(4, "moving", 1, 0, clusterNodes(4, 1))),
	} {
		if a, err := Apply(base, nil, 1, 1, own(f, c)); err != nil || a.Refused != nil {
			f.Fatal(err, a.Refused)
		}
	}
	f.Fuzz(func(t *testing.T, command []byte) {
		first, second := storage.NewOverlay(base), storage.NewOverlay(base)
		a, err := Apply(first, nil, 1, 2, command)
		b, again := Apply(second, new(Loads), 1, 2, command)
		if err != nil && !isUnknown(err) || a.Refused != nil && !isRefusal(a.Refused) {
			t.Errorf("%x: got %v, %v", command, a.Refused, err)
		}
		a.Zone, b.Zone = nil, nil
		if fmt.Sprint(a, err) != fmt.Sprint(b, again) || dump(t, first) != dump(t, second) {
			t.Errorf("%x: two replicas differ: %v %v and %v %v", command, a, err, b, again)
		}
	})
}

func FuzzAccessRecords(f *testing.F) {
	f.Add([]byte("\x0a\x05alice"))
	f.Add([]byte("\x0a\x08abcdefgh"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decode[pb.Principal](b, principalRecord); (p == nil) != errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("principal %x: got %v, %v", b, p, err)
		}
		if x, err := decode[pb.AccessToken](b, accessTokenRecord); (x == nil) != errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("access token %x: got %v, %v", b, x, err)
		}
	})
}
