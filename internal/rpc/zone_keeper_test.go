package rpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// fakeKeeper notes what it is asked, and answers with err if that is set.
type fakeKeeper struct {
	asked []string
	err   error
	held  func() int64
	most  int64 // what was held at most while a list was made
}

var orders = nexusraft.ZoneInfo{ID: 2, Name: "orders", Machine: "kv", Created: time.Unix(7, 8).UTC()}

var placed = nexusraft.ZoneInfo{
	ID: 3, Name: "carts", Machine: "kv", Created: time.Unix(7, 8).UTC(),
	ZonePlan: nexusraft.ZonePlan{Shape: nexusraft.DefaultShape, Spare: true, Preferred: 7},
	Placement: []nexusraft.Member{
		{Replica: 5, Node: 7, Name: "n7", Address: "a:1", Role: nexusraft.RoleMember},
		{Replica: 6, Node: 8, Address: "a:2", Role: nexusraft.RoleWitness},
	},
	Leaving: []nexusraft.NodeID{9}, Moving: true,
}

func (k *fakeKeeper) note(ctx context.Context, format string, args ...any) {
	if _, bounded := ctx.Deadline(); !bounded {
		format += ", without a deadline"
	}
	k.asked = append(k.asked, fmt.Sprintf(format, args...))
}

func (k *fakeKeeper) Create(
	ctx context.Context, name, machine string, plan nexusraft.ZonePlan,
) (nexusraft.ZoneInfo, error) {
	k.note(ctx, "create %s %s %v", name, machine, plan)
	return orders, k.err
}

func (k *fakeKeeper) Reshape(
	ctx context.Context, id nexusraft.ZoneID, name string, want nexusraft.ZoneReshape,
) (nexusraft.ZoneInfo, error) {
	k.note(ctx, "reshape %v %s %v", id, name, want)
	return placed, k.err
}

func (k *fakeKeeper) Delete(ctx context.Context, id nexusraft.ZoneID, name string) error {
	k.note(ctx, "delete %v %s", id, name)
	return k.err
}

func (k *fakeKeeper) List(
	ctx context.Context, after nexusraft.ZoneID, name string,
) ([]nexusraft.ZoneInfo, bool, error) {
	k.note(ctx, "list %v %q", after, name)
	if k.held != nil {
		k.most = max(k.most, k.held())
	}
	return []nexusraft.ZoneInfo{orders}, true, k.err
}

func TestZonesOfAKeeper(t *testing.T) {
	k := &fakeKeeper{}
	s := NewZones(nil, k)
	made, err := s.CreateZone(t.Context(), &pb.CreateZoneRequest{Name: "orders", Machine: "kv"})
	if diff := cmp.Diff(orders, wire.ZoneInfoFromProto(made.GetZone())); err != nil || diff != "" {
		t.Errorf("create: %v (-want +got):\n%s", err, diff)
	}
	moved, err := s.ReshapeZone(t.Context(), &pb.ReshapeZoneRequest{
		Zone: 3, Name: "carts", Off: 4, Instead: true,
		Plan: &pb.ZonePlan{Shape: &pb.Shape{Members: 2, Witnesses: 1}, Spare: true, Preferred: 7},
	})
	if diff := cmp.Diff(placed, wire.ZoneInfoFromProto(moved.GetZone())); err != nil || diff != "" {
		t.Errorf("reshape: %v (-want +got):\n%s", err, diff)
	}
	if gone, err := s.DeleteZone(t.Context(), &pb.DeleteZoneRequest{Zone: 2, Name: "orders"}); err != nil ||
		gone.GetError() != nil {
		t.Errorf("delete: got %v, %v", gone, err)
	}
	list, err := s.ListZones(t.Context(), &pb.ListZonesRequest{After: 1, Name: "orders"})
	if zones := list.GetZones(); err != nil || !zones.GetMore() || len(zones.GetZones()) != 1 ||
		wire.ZoneInfoFromProto(zones.GetZones()[0]).Name != orders.Name {
		t.Errorf("list: got %v, %v", list, err)
	}
	if want := []string{
		"create orders kv {0 false 0000000000000000}", "reshape 3 carts {{2+1 true 0000000000000007} 0000000000000004 true}",
		"delete 2 orders", `list 1 "orders"`,
	}; !slices.Equal(k.asked, want) {
		t.Errorf("the keeper was asked %q, want %q", k.asked, want)
	}
}

// Errors travel in the answers. One that nobody knows leaves open whether a zone was made or deleted.
func TestErrorsOfAKeeper(t *testing.T) {
	for _, tc := range []struct{ err, change, list error }{
		{fmt.Errorf("%w: no", nexusraft.ErrRefused), nexusraft.ErrRefused, nexusraft.ErrRefused},
		{nexusraft.ErrNoQuorum, nexusraft.ErrNoQuorum, nexusraft.ErrNoQuorum},
		{context.DeadlineExceeded, nexusraft.ErrUncertain, nexusraft.ErrUncertain},
		{errors.New("odd"), nexusraft.ErrUncertain, wire.ErrApplication},
	} {
		s := NewZones(nil, &fakeKeeper{err: tc.err})
		made, err := s.CreateZone(t.Context(), &pb.CreateZoneRequest{})
		if got := wire.ErrorFromProto(made.GetError()); err != nil || !errors.Is(got, tc.change) {
			t.Errorf("create with %v: got %v, %v; want %v", tc.err, got, err, tc.change)
		}
		moved, err := s.ReshapeZone(t.Context(), &pb.ReshapeZoneRequest{})
		if got := wire.ErrorFromProto(moved.GetError()); err != nil || !errors.Is(got, tc.change) {
			t.Errorf("reshape with %v: got %v, %v; want %v", tc.err, got, err, tc.change)
		}
		gone, err := s.DeleteZone(t.Context(), &pb.DeleteZoneRequest{})
		if got := wire.ErrorFromProto(gone.GetError()); err != nil || !errors.Is(got, tc.change) {
			t.Errorf("delete with %v: got %v, %v; want %v", tc.err, got, err, tc.change)
		}
		list, err := s.ListZones(t.Context(), &pb.ListZonesRequest{})
		if got := wire.ErrorFromProto(list.GetError()); err != nil || !errors.Is(got, tc.list) {
			t.Errorf("list with %v: got %v, %v; want %v", tc.err, got, err, tc.list)
		}
	}
}

func TestZonesWithoutAKeeper(t *testing.T) {
	s := NewZones(nil, nil)
	_, create := s.CreateZone(t.Context(), &pb.CreateZoneRequest{})
	_, remove := s.DeleteZone(t.Context(), &pb.DeleteZoneRequest{})
	_, move := s.ReshapeZone(t.Context(), &pb.ReshapeZoneRequest{})
	_, list := s.ListZones(t.Context(), &pb.ListZonesRequest{})
	for _, err := range []error{create, move, remove, list} {
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("got %v, want Unimplemented", err)
		}
	}
}

// A page of zones reserves before it is made, as the other lists do; one zone by its name does not.
func TestPagesOfZonesReserve(t *testing.T) {
	for share, want := range map[int64]codes.Code{
		budget.ListBytes + 1: codes.OK,
		budget.ListBytes:     codes.ResourceExhausted,
	} {
		all := budget.NewBytes(share, share, time.Millisecond, new(budget.Counters))
		if err := all.Take(t.Context(), "p", 1); err != nil { // alone it would get through
			t.Fatal(err)
		}
		a := all.NewAnswer("p")
		ctx, cancel := context.WithTimeout(budget.WithAnswer(t.Context(), a), 100*time.Millisecond)
		defer cancel()
		k := &fakeKeeper{held: a.Held}
		s := NewZones(nil, k)
		if _, err := s.ListZones(ctx, &pb.ListZonesRequest{Name: "orders"}); err != nil || k.most != 0 {
			t.Errorf("a share of %d: by its name: got %v, holding %d", share, err, k.most)
		}
		_, err := s.ListZones(ctx, &pb.ListZonesRequest{})
		if status.Code(err) != want || a.Held() > 1<<10 || err == nil && k.most != budget.ListBytes {
			t.Errorf("a share of %d: got %v, holding %d and then %d; want %v", share, err, k.most, a.Held(), want)
		}
	}
}
