package transport

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// someZones are zones that a witness, nodeA's replica, may be told of.
func someZones() HostedZones {
	members := func(first nexusraft.ReplicaID) []nexusraft.Member {
		return []nexusraft.Member{
			{Replica: first, Node: nodeB, Name: "b", Address: "b:1", Role: nexusraft.RoleMember},
			{Replica: first + 1, Node: nodeA, Address: "a:1", Role: nexusraft.RoleWitness},
		}
	}
	return HostedZones{
		Version: 9, Live: []nexusraft.ZoneID{2, 5, 300},
		Created: []HostedZone{
			{Zone: 5, Version: 4, Members: members(50), Replica: 51},
			{Zone: 300, Version: 9, Members: members(70), Replica: 99},
		},
	}
}

// askZones tells nodeA of zones, as nodeB, over a connection.
func askZones(t *testing.T, register func(*grpc.Server), x HostedZones) (uint64, error) {
	t.Helper()
	peers := peersOf(t, identityB, PeersOptions{})
	peers.SetAddress(nodeA, serveOnly(t, nil, register))
	return peers.HostZones(t.Context(), nodeA, x)
}

// hosts registers a node that takes zones over, or does not if h is nil.
func hosts(h func(context.Context, Identity, HostedZones) (uint64, error)) func(*grpc.Server) {
	return func(s *grpc.Server) {
		handlers := (&fakeNode{}).handlers()
		handlers.HostZones = h
		NewServer(as(identityA), handlers).Register(s)
	}
}

func TestHostZones(t *testing.T) {
	for _, want := range []HostedZones{{}, {Version: 3}, someZones()} {
		told := make(chan HostedZones, 1)
		got, err := askZones(t, hosts(func(_ context.Context, from Identity, x HostedZones) (uint64, error) {
			if from.Node != nodeB || !from.Full {
				t.Errorf("it was told by %+v", from)
			}
			told <- x
			return x.Version + 1, nil
		}), want)
		if err != nil || got != want.Version+1 {
			t.Fatalf("got %d, %v", got, err)
		}
		if diff := cmp.Diff(want, <-told, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("it was told (-want +got):\n%s", diff)
		}
	}
}

// A node that does not take zones over says why.
func TestHostZonesIsRefused(t *testing.T) {
	for says, register := range map[string]func(*grpc.Server){
		"runs an earlier release": func(s *grpc.Server) {
			NewServer(as(identityA), (&fakeNode{}).handlers()).Register(withoutTrust{s})
		},
		"is no witness": hosts(nil),
		"version 9 is lower": hosts(func(context.Context, Identity, HostedZones) (uint64, error) {
			return 0, errors.Join(nexusraft.ErrRefused, errors.New("version 9 is lower"))
		}),
	} {
		if v, err := askZones(t, register, someZones()); !errors.Is(err, nexusraft.ErrRefused) ||
			!strings.Contains(err.Error(), says) {
			t.Errorf("got %d, %v, want a refusal with %q", v, err, says)
		}
	}
	peers := peersOf(t, identityB, PeersOptions{})
	if _, err := peers.HostZones(t.Context(), nodeA, HostedZones{}); err == nil {
		t.Error("a node without an address was told")
	}
}

// badZones are lists that no node makes, each with what its refusal says.
func badZones() map[string]HostedZones {
	with := func(change func(*HostedZones)) HostedZones {
		x := someZones()
		change(&x)
		return x
	}
	many := make([]nexusraft.ZoneID, nexusraft.MaxZones+1)
	made := make([]HostedZone, MaxCreatedZones+1)
	for i := range many {
		many[i] = nexusraft.ZoneID(i + 2)
	}
	for i := range made {
		made[i] = HostedZone{Zone: many[i], Version: uint64(i + 1), Replica: 7}
	}
	members := make([]nexusraft.Member, nexusraft.MaxMembers+1)
	for i := range members {
		members[i] = nexusraft.Member{
			Replica: nexusraft.ReplicaID(i + 1), Node: nexusraft.NodeID(i + 1), Role: nexusraft.RoleMember,
		}
	}
	return map[string]HostedZones{
		"100001 zones":                                      {Version: 9, Live: many},
		"1001 that were made":                               {Version: math.MaxUint64, Live: many[:len(made)], Created: made},
		"has 65 members":                                    with(func(x *HostedZones) { x.Created[0].Members = members }),
		"a table of version 0":                              with(func(x *HostedZones) { x.Version = 0 }),
		"zone 2 follows zone 2":                             with(func(x *HostedZones) { x.Live[1] = 2 }),
		"zone 1 follows zone 1":                             with(func(x *HostedZones) { x.Live[0] = nexusraft.RootZone }),
		"zone 3 follows zone 5":                             with(func(x *HostedZones) { x.Live[2] = 3 }),
		"zone 5 of version 10":                              with(func(x *HostedZones) { x.Created[0].Version = 10 }),
		"zone 5 of version 0":                               with(func(x *HostedZones) { x.Created[0].Version = 0 }),
		"of version 4 follows":                              with(func(x *HostedZones) { x.Created[1].Version = 4 }),
		"zone 5 of version 9":                               with(func(x *HostedZones) { x.Created[1].Zone = 5 }),
		"zone 4 was made and is not":                        with(func(x *HostedZones) { x.Created[0].Zone = 4 }),
		"replica ID 0000000000000000 of zone 5 is reserved": with(func(x *HostedZones) { x.Created[0].Replica = 0 }),
		"replica ID ffffffffffffffff of zone 5 is reserved": with(func(x *HostedZones) {
			x.Created[0].Replica = math.MaxUint64
		}),
		"is out of order":  with(func(x *HostedZones) { slices.Reverse(x.Created[0].Members) }),
		"has two replicas": with(func(x *HostedZones) { x.Created[0].Members[0].Node = nodeA }),
		"a learner":        with(func(x *HostedZones) { x.Created[0].Members[0].Role = nexusraft.RoleLearner }),
		"has no node":      with(func(x *HostedZones) { x.Created[0].Members[0].Node = 0 }),
	}
}

// TestBadHostedZones: what can't be is refused by the node that would send it, and by the one that
// gets it, before its handler hears of it.
func TestBadHostedZones(t *testing.T) {
	register := hosts(func(context.Context, Identity, HostedZones) (uint64, error) {
		t.Error("the handler was called")
		return 0, nil
	})
	conn := dialTest(t, serveOnly(t, nil, register))
	for says, x := range badZones() {
		tooLarge := len(x.Live) > nexusraft.MaxZones || len(x.Created) > MaxCreatedZones ||
			len(x.Created) > 0 && len(x.Created[0].Members) > nexusraft.MaxMembers
		want := nexusraft.ErrRefused
		if tooLarge {
			want = nexusraft.ErrTooLarge
		}
		if err := x.Validate(); !errors.Is(err, want) {
			t.Errorf("sent: got %v, want %v with %q", err, want, says)
		}
		resp, err := pb.NewClusterClient(conn).HostZones(t.Context(), hostedZonesToProto(hello(identityB, nodeA), x))
		if err != nil || !strings.Contains(wire.ErrorFromProto(resp.GetError()).Error(), says) {
			t.Errorf("received: got %v, %v, want %q", resp, err, says)
		}
	}
	live := make([]uint64, 3*nexusraft.MaxZones)
	_, err := pb.NewClusterClient(conn).HostZones(t.Context(), &pb.HostZonesRequest{Version: 1, Live: live})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "at most") {
		t.Errorf("with far too many zones: got %v", err)
	}
	wraps := &pb.HostZonesRequest{Hello: hello(identityB, nodeA), Version: 1, Live: []uint64{math.MaxUint64, 3}}
	if resp, err := pb.NewClusterClient(conn).HostZones(t.Context(), wraps); err != nil || resp.GetError() == nil {
		t.Errorf("with an ID that wraps around: got %v, %v", resp, err)
	}
}

// FuzzHostedZones: whatever is read is within its bounds, and read again it is the same.
func FuzzHostedZones(f *testing.F) {
	for _, x := range []HostedZones{{}, {Version: 3}, someZones()} {
		b, err := proto.Marshal(hostedZonesToProto(hello(identityB, nodeA), x))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := &pb.HostZonesRequest{}
		if proto.Unmarshal(b, req) != nil {
			return
		}
		x, err := hostedZonesFromProto(req)
		if err != nil {
			if !errors.Is(err, nexusraft.ErrRefused) && !errors.Is(err, nexusraft.ErrTooLarge) {
				t.Errorf("got %v", err)
			}
			return
		}
		if err := x.Validate(); err != nil {
			t.Errorf("read what can't be: %v", err)
		}
		again, err := hostedZonesFromProto(hostedZonesToProto(nil, x))
		if diff := cmp.Diff(x, again); diff != "" || err != nil {
			t.Errorf("read again (-was +is), %v:\n%s", err, diff)
		}
	})
}
