package etcd

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// twoAndOne is the status of the learner of a zone with a member and a witness besides.
func twoAndOne() nexusraft.NodeStatus {
	return nexusraft.NodeStatus{
		Cluster: 0xC1, Node: 0xD2, DiskBytes: 4096,
		Zones: []nexusraft.ZoneStatus{
			{Zone: 0xab, Term: 99},
			{
				Zone: nexusraft.RootZone, Replica: 2, Role: nexusraft.RoleLearner, Leader: 1, Term: 8, Commit: 70, Applied: 69,
				Membership: nexusraft.Membership{Members: []nexusraft.Member{
					{Replica: 1, Node: 0xD1, Name: "n1", Address: "127.0.0.1:1", Role: nexusraft.RoleMember},
					{Replica: 2, Node: 0xD2, Address: "127.0.0.1:2", Role: nexusraft.RoleLearner},
					{Replica: 3, Node: 0xD3, Name: "w1", Address: "127.0.0.1:3", Role: nexusraft.RoleWitness},
				}},
			},
		},
	}
}

func operatorHeader() *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{ClusterId: 0xC1, MemberId: 0xD2, RaftTerm: 8, Revision: 1}
}

func TestMemberList(t *testing.T) {
	z := newZone()
	client := etcdserverpb.NewClusterClient(serveNode(t, fakeZones{nexusraft.RootZone: z}, fakeNode{status: twoAndOne()}))
	for _, linearizable := range []bool{true, false} {
		got, err := client.MemberList(t.Context(), &etcdserverpb.MemberListRequest{Linearizable: linearizable})
		if err != nil {
			t.Fatal(err)
		}
		want := &etcdserverpb.MemberListResponse{Header: operatorHeader(), Members: []*etcdserverpb.Member{
			{ID: 0xD1, Name: "n1", PeerURLs: []string{"http://127.0.0.1:1"}, ClientURLs: []string{"http://127.0.0.1:1"}},
			{
				ID: 0xD2, Name: "00000000000000d2", PeerURLs: []string{"http://127.0.0.1:2"},
				ClientURLs: []string{"http://127.0.0.1:2"}, IsLearner: true,
			},
			{ID: 0xD3, Name: "w1", PeerURLs: []string{"http://127.0.0.1:3"}},
		}}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("linearizable %v (-want +got):\n%s", linearizable, diff)
		}
	}
	if z.reads != 1 || z.local != 1 {
		t.Errorf("got %d linearizable and %d local reads, want one each", z.reads, z.local)
	}
}

func TestMemberListOfAStalledNode(t *testing.T) {
	node := fakeNode{status: nexusraft.NodeStatus{Problem: "the disk may be stalled"}}
	client := etcdserverpb.NewClusterClient(serveNode(t, fakeZones{nexusraft.RootZone: newZone()}, node))
	if _, err := client.MemberList(t.Context(), &etcdserverpb.MemberListRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want Unavailable rather than an empty list", err)
	}
}

func TestMaintenanceStatus(t *testing.T) {
	sick := twoAndOne()
	sick.Problem, sick.Zones = "the disk may be stalled", nil
	ill := &etcdserverpb.StatusResponse{
		Header:  &etcdserverpb.ResponseHeader{ClusterId: 0xC1, MemberId: 0xD2, RaftTerm: 7, Revision: 1},
		Version: etcdVersion, DbSize: 4096, DbSizeInUse: 4096, RaftTerm: 7, Errors: []string{"the disk may be stalled"},
	}
	well := &etcdserverpb.StatusResponse{
		Header: operatorHeader(), Version: etcdVersion, DbSize: 4096, DbSizeInUse: 4096,
		Leader: 0xD1, RaftIndex: 70, RaftAppliedIndex: 69, RaftTerm: 8, IsLearner: true,
	}
	full := proto.CloneOf(well)
	full.Errors = []string{nexusraft.ErrDiskFull.Error()}
	for name, tc := range map[string]struct {
		node fakeNode
		want *etcdserverpb.StatusResponse
	}{
		"well": {fakeNode{status: twoAndOne()}, well},
		"full": {fakeNode{status: twoAndOne(), room: nexusraft.ErrDiskFull}, full},
		"sick": {fakeNode{status: sick}, ill},
	} {
		client := etcdserverpb.NewMaintenanceClient(serveNode(t, fakeZones{nexusraft.RootZone: newZone()}, tc.node))
		got, err := client.Status(t.Context(), &etcdserverpb.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestMaintenanceStatusOfAnUnknownZone(t *testing.T) {
	client := etcdserverpb.NewMaintenanceClient(serveNode(t, fakeZones{nexusraft.RootZone: newZone()}, fakeNode{}))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "nexus-zone", "99")
	if _, err := client.Status(ctx, &etcdserverpb.StatusRequest{}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v, want NotFound", err)
	}
}

func TestAlarms(t *testing.T) {
	full := fmt.Errorf("%w: 3 bytes free", nexusraft.ErrDiskFull)
	noSpace := []*etcdserverpb.AlarmMember{{MemberID: 0xD2, Alarm: etcdserverpb.AlarmType_NOSPACE}}
	for name, tc := range map[string]struct {
		room error
		req  *etcdserverpb.AlarmRequest
		want []*etcdserverpb.AlarmMember
	}{
		"room":           {nil, &etcdserverpb.AlarmRequest{}, nil},
		"full":           {full, &etcdserverpb.AlarmRequest{}, noSpace},
		"full, asked":    {full, &etcdserverpb.AlarmRequest{MemberID: 0xD2, Alarm: etcdserverpb.AlarmType_NOSPACE}, noSpace},
		"another member": {full, &etcdserverpb.AlarmRequest{MemberID: 0xD1}, nil},
		"another alarm":  {full, &etcdserverpb.AlarmRequest{Alarm: etcdserverpb.AlarmType_CORRUPT}, nil},
	} {
		node := fakeNode{status: twoAndOne(), room: tc.room}
		client := etcdserverpb.NewMaintenanceClient(serveNode(t, fakeZones{nexusraft.RootZone: newZone()}, node))
		got, err := client.Alarm(t.Context(), tc.req)
		if err != nil {
			t.Fatal(err)
		}
		want := &etcdserverpb.AlarmResponse{Header: operatorHeader(), Alarms: tc.want}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Clients that follow the list find TLS where the node speaks it (Vault by default, Patroni always).
func TestSchemeOfMembers(t *testing.T) {
	for want, encrypted := range map[string]bool{"http://127.0.0.1:1": false, "https://127.0.0.1:1": true} {
		node := fakeNode{status: twoAndOne(), encrypted: encrypted}
		client := etcdserverpb.NewClusterClient(serveNode(t, fakeZones{nexusraft.RootZone: newZone()}, node))
		got, err := client.MemberList(t.Context(), &etcdserverpb.MemberListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if m := got.Members[0]; m.PeerURLs[0] != want || m.ClientURLs[0] != want {
			t.Errorf("got %v and %v, want %s", m.PeerURLs, m.ClientURLs, want)
		}
	}
}
