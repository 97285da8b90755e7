package client

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

var ordersZone = nexusraft.ZoneInfo{ID: 0x2f, Name: "orders", Machine: "kv", Created: time.Unix(7, 8).UTC()}

func zoneMade() *pb.CreateZoneResponse {
	return &pb.CreateZoneResponse{Result: &pb.CreateZoneResponse_Zone{Zone: wire.ZoneInfoToProto(ordersZone)}}
}

func notMade(err error) *pb.CreateZoneResponse {
	return &pb.CreateZoneResponse{Result: &pb.CreateZoneResponse_Error{Error: wire.ErrorToProto(err)}}
}

// inTurn answers with one answer after the other, the last one again and again. nil hangs up without a
// word, after the request has come.
func inTurn[Q, A any](answers ...*A) func(context.Context, *Q) (*A, error) {
	next := make(chan *A, len(answers))
	for _, a := range answers {
		next <- a
	}
	return func(context.Context, *Q) (*A, error) {
		a := <-next
		if len(next) == 0 {
			next <- a
		}
		if a == nil {
			return nil, status.Error(codes.Unavailable, "connection lost")
		}
		return a, nil
	}
}

// listOf is pages of zones with the IDs 2 to last, some at a time, each named by its ID; orders is 2f.
func listOf(last, most nexusraft.ZoneID) func(context.Context, *pb.ListZonesRequest) (*pb.ListZonesResponse, error) {
	return func(_ context.Context, req *pb.ListZonesRequest) (*pb.ListZonesResponse, error) {
		list := &pb.ZoneList{}
		for id := max(2, nexusraft.ZoneID(req.GetAfter())+1); id <= last; id++ {
			z := nexusraft.ZoneInfo{ID: id, Name: "zone-" + id.String()}
			if id == ordersZone.ID {
				z = ordersZone
			}
			if req.GetName() != "" && req.GetName() != z.Name {
				continue
			}
			if list.More = len(list.Zones) == int(most); list.More {
				break
			}
			list.Zones = append(list.Zones, wire.ZoneInfoToProto(z))
		}
		return &pb.ListZonesResponse{Result: &pb.ListZonesResponse_Zones{Zones: list}}, nil
	}
}

func TestCreateZone(t *testing.T) {
	uncertain, refused := notMade(nexusraft.ErrUncertain), notMade(nexusraft.ErrRefused)
	denied := notMade(nexusraft.ErrDenied)
	for name, tc := range map[string]struct {
		answers  []*pb.CreateZoneResponse
		want     error
		arrivals int64
	}{
		"at once":                 {[]*pb.CreateZoneResponse{zoneMade()}, nil, 1},
		"after an election":       {[]*pb.CreateZoneResponse{notMade(nexusraft.ErrNotLeader), zoneMade()}, nil, 2},
		"the connection was lost": {[]*pb.CreateZoneResponse{nil, zoneMade()}, nil, 2},
		"the outcome was unknown": {[]*pb.CreateZoneResponse{uncertain, nil, zoneMade()}, nil, 3},
		"refused":                 {[]*pb.CreateZoneResponse{refused}, nexusraft.ErrRefused, 1},
		"refused after all":       {[]*pb.CreateZoneResponse{uncertain, refused}, nexusraft.ErrRefused, 2},
		"denied":                  {[]*pb.CreateZoneResponse{denied}, nexusraft.ErrDenied, 1},
		"no longer allowed":       {[]*pb.CreateZoneResponse{uncertain, denied}, nexusraft.ErrUncertain, 2},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, func(n *fakeNode) { n.create = inTurn[pb.CreateZoneRequest](tc.answers...) })
			c := connect(t, Options{Endpoints: []string{n.address}})
			zone, err := c.CreateZone(within(t), "orders", "kv", nexusraft.ZonePlan{})
			if !errors.Is(err, tc.want) || (err == nil) != reflect.DeepEqual(zone, ordersZone) {
				t.Errorf("got %+v, %v; want %v", zone, err, tc.want)
			}
			if err != nil && !strings.Contains(err.Error(), `"orders"`) {
				t.Errorf("got %q, want it to name the zone", err)
			}
			if got := n.arrivals.Load(); got != tc.arrivals {
				t.Errorf("%d requests, want %d", got, tc.arrivals)
			}
		})
	}
}

// Whatever a later try says of itself, the outcome stays unknown when time is over.
func TestCreateZoneThatStaysUncertain(t *testing.T) {
	t.Parallel()
	n := start(t, func(n *fakeNode) {
		n.create = inTurn[pb.CreateZoneRequest](notMade(nexusraft.ErrUncertain), notMade(nexusraft.ErrNotLeader))
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := c.CreateZone(ctx, "orders", "kv", nexusraft.ZonePlan{}); !errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("got %v, want ErrUncertain", err)
	}
}

func TestDeleteZone(t *testing.T) {
	answer := func(err error) *pb.DeleteZoneResponse { return &pb.DeleteZoneResponse{Error: wire.ErrorToProto(err)} }
	done, uncertain, refused := answer(nil), answer(nexusraft.ErrUncertain), answer(nexusraft.ErrRefused)
	for name, tc := range map[string]struct {
		last    nexusraft.ZoneID // that is listed; orders is 2f
		answers []*pb.DeleteZoneResponse
		want    error
	}{
		"at once":                    {0x2e, []*pb.DeleteZoneResponse{done}, nil},
		"the outcome was unknown":    {0x2e, []*pb.DeleteZoneResponse{uncertain, done}, nil},
		"and it was deleted":         {0x2e, []*pb.DeleteZoneResponse{nil, refused}, nil},
		"another name":               {0x2f, []*pb.DeleteZoneResponse{refused}, nexusraft.ErrRefused},
		"it was deleted before":      {0x2e, []*pb.DeleteZoneResponse{refused}, nexusraft.ErrRefused},
		"another name after unknown": {0x2f, []*pb.DeleteZoneResponse{uncertain, refused}, nexusraft.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, func(n *fakeNode) {
				n.remove, n.zones = inTurn[pb.DeleteZoneRequest](tc.answers...), listOf(tc.last, 1000)
			})
			c := connect(t, Options{Endpoints: []string{n.address}})
			if err := c.DeleteZone(within(t), ordersZone.ID, "orders"); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestZones(t *testing.T) {
	n := start(t, func(n *fakeNode) { n.zones = listOf(25, 10) })
	c := connect(t, Options{Endpoints: []string{deadAddress(t), n.address}})
	next := nexusraft.ZoneID(2)
	for z, err := range c.Zones(within(t)) {
		if err != nil || z.ID != next {
			t.Fatalf("got zone %v, %v; want zone %v", z.ID, err, next)
		}
		next++
	}
	if next != 26 {
		t.Errorf("got the zones up to %v, want 25 (decimal)", next-1)
	}
	for range c.Zones(within(t)) {
		break // as a loop that has seen enough
	}
}

func TestZonesThatGoBack(t *testing.T) {
	n := start(t, func(n *fakeNode) {
		pages := listOf(25, 10)
		n.zones = func(ctx context.Context, _ *pb.ListZonesRequest) (*pb.ListZonesResponse, error) {
			return pages(ctx, &pb.ListZonesRequest{}) // the first page, again and again
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	count := 0
	var last error
	for _, last = range c.Zones(within(t)) {
		count++
	}
	if last == nil || count != 11 {
		t.Errorf("got %d rows and %v, want the page and an error", count, last)
	}
}

func TestOneZone(t *testing.T) {
	n := start(t, func(n *fakeNode) { n.zones = listOf(0x40, 10) })
	c := connect(t, Options{Endpoints: []string{n.address}})
	root := nexusraft.ZoneInfo{ID: 1, Name: "root"}
	for _, tc := range []struct {
		id   nexusraft.ZoneID
		name string
		want nexusraft.ZoneInfo
	}{
		{0x2f, "orders", ordersZone},
		{1, "root", root},
		{0x41, "nobody", nexusraft.ZoneInfo{}},
		{0, "", nexusraft.ZoneInfo{}},
	} {
		for by, f := range map[string]func() (nexusraft.ZoneInfo, error){
			tc.id.String(): func() (nexusraft.ZoneInfo, error) { return c.Zone(within(t), tc.id) },
			tc.name:        func() (nexusraft.ZoneInfo, error) { return c.ZoneNamed(within(t), tc.name) },
		} {
			got, err := f()
			found := tc.want.ID != 0
			switch {
			case found && (err != nil || !reflect.DeepEqual(got, tc.want)):
				t.Errorf("%q: got %+v, %v; want %+v", by, got, err, tc.want)
			case !found && (!errors.Is(err, nexusraft.ErrZoneNotFound) || !strings.Contains(err.Error(), by)):
				t.Errorf("%q: got %v, want ErrZoneNotFound that names it", by, err)
			}
		}
	}
}

// A node that knows of no zones, as a witness or one of an earlier release, says so; its words lead on.
func TestZonesOfANodeWithout(t *testing.T) {
	n := start(t, func(n *fakeNode) {
		n.zones = func(context.Context, *pb.ListZonesRequest) (*pb.ListZonesResponse, error) {
			return nil, status.Error(codes.Unimplemented, "unknown method ListZones")
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	if _, err := c.ZoneNamed(within(t), "orders"); err == nil || !strings.Contains(err.Error(), "name a member") {
		t.Errorf("got %v, want the way out", err)
	}
}
