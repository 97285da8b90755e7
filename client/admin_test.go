package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

type (
	changeRequestPB  = pb.ChangeMembershipRequest
	changeResponsePB = pb.ChangeMembershipResponse
)

// statusOf is what node 10+i of a zone says whose members serve at the addresses; replica i
// leads in the term, as far as it knows.
func statusOf(i int, leader int, term nexusraft.Term, addresses ...string) *pb.StatusResponse {
	var members nexusraft.Membership
	for j, address := range addresses {
		members = members.With(nexusraft.Member{
			Replica: nexusraft.ReplicaID(j + 1), Node: nexusraft.NodeID(j + 11), Name: fmt.Sprint("n", j+1),
			Address: address, Role: nexusraft.RoleMember,
		})
	}
	z := nexusraft.ZoneStatus{
		Zone: 1, Replica: nexusraft.ReplicaID(i), Role: nexusraft.RoleMember, State: nexusraft.Follower,
		Leader: nexusraft.ReplicaID(leader), Term: term, Membership: members,
	}
	if i == leader {
		z.State = nexusraft.Leader
	}
	return &pb.StatusResponse{Status: wire.NodeStatusToProto(nexusraft.NodeStatus{
		Cluster: 7, Node: nexusraft.NodeID(i + 10), Healthy: true, Zones: []nexusraft.ZoneStatus{z},
	})}
}

// pairOf starts a follower, which alone is an endpoint, and a leader.
func pairOf(t *testing.T, setup func(leader *fakeNode)) (follower, leader *fakeNode) {
	t.Helper()
	leader = start(t, setup)
	follower = start(t, nil)
	leader.status = statusOf(2, 2, 3, follower.address, leader.address)
	follower.status = statusOf(1, 2, 3, follower.address, leader.address)
	return follower, leader
}

func refusal(err error) *changeResponsePB {
	return &changeResponsePB{Result: &pb.ChangeMembershipResponse_Error{Error: wire.ErrorToProto(err)}}
}

func membershipIs(m *pb.Membership) *changeResponsePB {
	return &changeResponsePB{Result: &pb.ChangeMembershipResponse_Membership{Membership: m}}
}

func TestSurveyFindsWhatMembershipsName(t *testing.T) {
	dead := deadAddress(t)
	follower, leader := pairOf(t, nil)
	leader.status = statusOf(2, 2, 3, follower.address, leader.address, dead)
	c := connect(t, Options{Endpoints: []string{follower.address, follower.address}})
	var got []string
	for _, a := range c.Survey(within(t)) {
		got = append(got, fmt.Sprintf("%s %v %t", a.Address, a.Status.Node, a.Err == nil))
	}
	want := []string{
		fmt.Sprintf("%s %v true", follower.address, nexusraft.NodeID(11)),
		fmt.Sprintf("%s %v true", leader.address, nexusraft.NodeID(12)),
		fmt.Sprintf("%s %v false", dead, nexusraft.NodeID(0)),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("survey (-want +got):\n%s", d)
	}
}

// A survey of one zone finds all nodes by the root zone, and has nothing else, whatever a node of an earlier
// release says.
func TestSurveyOfOneZone(t *testing.T) {
	n, other := start(t, nil), start(t, nil)
	n.status = statusOf(1, 1, 5, n.address, other.address)
	n.status.Status.Zones = append(n.status.Status.Zones, &pb.ZoneStatus{Zone: 7}, &pb.ZoneStatus{Zone: 8})
	other.status = statusOf(2, 1, 5, n.address, other.address)
	c := connect(t, Options{Endpoints: []string{n.address}})
	answers := c.SurveyZone(within(t), 7)
	if len(answers) != 2 || len(answers[0].Status.Zones) != 1 || answers[0].Status.Zones[0].Zone != 7 ||
		answers[1].Err != nil || len(answers[1].Status.Zones) != 0 || n.statusOf.Load() != 7 || other.statusOf.Load() != 7 {
		t.Errorf("zone 7: got %+v, asked for %x and %x", answers, n.statusOf.Load(), other.statusOf.Load())
	}
	if answers := c.Survey(within(t)); len(answers) != 2 || len(answers[0].Status.Zones) != 3 || n.statusOf.Load() != 0 {
		t.Errorf("all zones: got %+v, asked for %x", answers, n.statusOf.Load())
	}
}

func TestMembersAreTheLeaders(t *testing.T) {
	follower, _ := pairOf(t, nil)
	c := connect(t, Options{Endpoints: []string{follower.address}})
	got, err := c.Members(within(t))
	if err != nil || got.State != nexusraft.Leader || got.Replica != 2 || len(got.Membership.Members) != 2 {
		t.Errorf("got %+v, %v; want the view of replica 2, which is no endpoint", got, err)
	}
}

// Without a leader the error says what each node said, and the wait is not silent.
func TestMembersWithoutALeader(t *testing.T) {
	t.Parallel()
	dead := deadAddress(t)
	n := start(t, nil)
	n.status = statusOf(1, 0, 5, n.address, dead)
	var waits atomic.Int64
	c := connect(t, Options{Endpoints: []string{n.address}, OnWait: func(error) { waits.Add(1) }})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := c.Members(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nexusraft.ErrUncertain) || waits.Load() == 0 {
		t.Fatalf("got %v after %d waits, want the context's error", err, waits.Load())
	}
	for _, want := range []string{n.address, "follower in term 5, knows no leader", dead, "refused"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	}
}

func TestEndpointsOfTwoClusters(t *testing.T) {
	a, b := start(t, nil), start(t, nil)
	a.status, b.status = statusOf(1, 1, 3, a.address), statusOf(1, 1, 3, b.address)
	b.status.Status.ClusterId = 8
	c := connect(t, Options{Endpoints: []string{a.address, b.address}})
	_, err := c.ChangeMembership(within(t), nexusraft.MembershipChange{Remove: 11})
	if err == nil || !strings.Contains(err.Error(), b.address) || a.arrivals.Load()+b.arrivals.Load() != 0 {
		t.Errorf("got %v and a request to one of them, want a refusal that names both", err)
	}
}

func TestMembersOfAnUnknownZone(t *testing.T) {
	n := start(t, nil)
	n.status = statusOf(1, 1, 3, n.address)
	c := connect(t, Options{Endpoints: []string{n.address}, Zone: 9})
	if _, err := c.Members(within(t)); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("got %v, want ErrZoneNotFound at once", err)
	}
}

// Each kind of change reaches the leader, and only the leader.
func TestChangeMembership(t *testing.T) {
	left := nexusraft.Membership{Shape: nexusraft.DefaultShape}.With(nexusraft.Member{
		Replica: 2, Node: 12,
		Role: nexusraft.RoleMember,
	})
	for _, tc := range []struct {
		change nexusraft.MembershipChange
		want   *changeRequestPB
	}{
		{nexusraft.MembershipChange{Remove: 11}, &changeRequestPB{
			Zone:   1,
			Change: &pb.ChangeMembershipRequest_Remove{Remove: 11},
		}},
		{nexusraft.MembershipChange{Promote: 13}, &changeRequestPB{
			Zone:   1,
			Change: &pb.ChangeMembershipRequest_Promote{Promote: 13},
		}},
		{nexusraft.MembershipChange{Replace: 11, With: 13}, &changeRequestPB{
			Zone: 1,
			Change: &pb.ChangeMembershipRequest_Replace{
				Replace: &pb.Replacement{Old: 11, New: 13},
			},
		}},
	} {
		var got *changeRequestPB
		follower, leader := pairOf(t, func(n *fakeNode) {
			n.change = func(_ context.Context, req *changeRequestPB) (*changeResponsePB, error) {
				got = req
				return membershipIs(wire.MembershipToProto(left)), nil
			}
		})
		c := connect(t, Options{Endpoints: []string{follower.address}})
		members, err := c.ChangeMembership(within(t), tc.change)
		if d := cmp.Diff(left, members); err != nil || d != "" {
			t.Errorf("%v: %v (-want +got):\n%s", tc.change, err, d)
		}
		if d := cmp.Diff(tc.want, got, protocmp.Transform()); d != "" {
			t.Errorf("%v: request (-want +got):\n%s", tc.change, d)
		}
		if follower.arrivals.Load() != 0 || leader.arrivals.Load() != 1 {
			t.Errorf("%v: %d requests at the follower and %d at the leader, want one there", tc.change, follower.arrivals.Load(),
				leader.arrivals.Load())
		}
	}
	if _, err := connect(t, Options{Endpoints: []string{"127.0.0.1:1"}}).ChangeMembership(within(t),
		nexusraft.MembershipChange{}); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("no change: got %v, want ErrRefused", err)
	}
}

// What is too early is asked for again, and the caller hears why.
func TestChangeThatIsTooEarly(t *testing.T) {
	tries := 0
	follower, leader := pairOf(t, func(n *fakeNode) {
		n.change = func(context.Context, *changeRequestPB) (*changeResponsePB, error) {
			if tries++; tries < 3 {
				return refusal(fmt.Errorf("n3 is %d entries behind: %w", 10-tries, nexusraft.ErrOverloaded)), nil
			}
			return membershipIs(&pb.Membership{}), nil
		}
	})
	var heard []string
	c := connect(t, Options{
		Endpoints: []string{follower.address},
		OnWait:    func(err error) { heard = append(heard, err.Error()) },
	})
	if _, err := c.ChangeMembership(within(t), nexusraft.MembershipChange{Promote: 13}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"client: " + leader.address + ": n3 is 9 entries behind: nexusraft: overloaded, nothing was written",
		"client: " + leader.address + ": n3 is 8 entries behind: nexusraft: overloaded, nothing was written",
	}
	if d := cmp.Diff(want, heard); d != "" {
		t.Errorf("heard (-want +got):\n%s", d)
	}
}

// A leader that has just lost the leadership names the new one; that node need not be known.
func TestChangeFollowsTheNamedLeader(t *testing.T) {
	next := start(t, func(n *fakeNode) {
		n.change = func(context.Context, *changeRequestPB) (*changeResponsePB, error) {
			return membershipIs(&pb.Membership{}), nil
		}
	})
	follower, _ := pairOf(t, func(n *fakeNode) {
		n.change = func(context.Context, *changeRequestPB) (*changeResponsePB, error) {
			return refusal(&nexusraft.NotLeaderError{Zone: 1, Leader: 13, Address: next.address}), nil
		}
	})
	c := connect(t, Options{Endpoints: []string{follower.address}})
	if _, err := c.ChangeMembership(within(t), nexusraft.MembershipChange{Remove: 11}); err != nil ||
		next.arrivals.Load() != 1 {
		t.Errorf("got %v and %d requests at the named leader, want one", err, next.arrivals.Load())
	}
}

// A change whose outcome is not known, or that was refused, is never asked for again.
func TestChangesThatAreFinal(t *testing.T) {
	for name, tc := range map[string]struct {
		answer *changeResponsePB
		broken error
		want   error
	}{
		"refused": {answer: refusal(fmt.Errorf("%w: n1 leads", nexusraft.ErrRefused)), want: nexusraft.ErrRefused},
		"uncertain": {
			answer: refusal(fmt.Errorf("%w: leadership lost", nexusraft.ErrUncertain)),
			want:   nexusraft.ErrUncertain,
		},
		"broken":            {broken: status.Error(codes.Unavailable, "connection reset"), want: nexusraft.ErrUncertain},
		"deadline":          {broken: status.Error(codes.DeadlineExceeded, "too slow"), want: nexusraft.ErrUncertain},
		"not a full node's": {broken: status.Error(codes.Unimplemented, "a witness"), want: nil},
	} {
		t.Run(name, func(t *testing.T) {
			follower, leader := pairOf(t, func(n *fakeNode) {
				n.change = func(context.Context, *changeRequestPB) (*changeResponsePB, error) { return tc.answer, tc.broken }
			})
			c := connect(t, Options{Endpoints: []string{follower.address}})
			_, err := c.ChangeMembership(within(t), nexusraft.MembershipChange{Remove: 11})
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), leader.address) {
				t.Errorf("got %v, want %v with the leader's address", err, tc.want)
			}
			if says := strings.Contains(err.Error(), "ask for the members"); says != errors.Is(tc.want, nexusraft.ErrUncertain) {
				t.Errorf("got %q, want the way out with an uncertain change alone", err)
			}
			if got := leader.arrivals.Load(); got != 1 {
				t.Errorf("got %d requests, want 1", got)
			}
		})
	}
}

func TestTransferLeader(t *testing.T) {
	follower, _ := pairOf(t, func(n *fakeNode) {
		n.transfer = func(_ context.Context, req *pb.TransferLeaderRequest) (*pb.TransferLeaderResponse, error) {
			if req.GetZone() != 1 || req.GetTo() != 11 {
				err := fmt.Errorf("%w: zone %d, node %d", nexusraft.ErrRefused, req.GetZone(), req.GetTo())
				return &pb.TransferLeaderResponse{
					Result: &pb.TransferLeaderResponse_Error{Error: wire.ErrorToProto(err)},
				}, nil
			}
			return &pb.TransferLeaderResponse{Result: &pb.TransferLeaderResponse_Leader{Leader: 11}}, nil
		}
	})
	c := connect(t, Options{Endpoints: []string{follower.address}})
	if got, err := c.TransferLeader(within(t), 11); err != nil || got != 11 {
		t.Errorf("got %v, %v; want node 11", got, err)
	}
	if _, err := c.TransferLeader(within(t), 0); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("got %v, want the refusal", err)
	}
}
