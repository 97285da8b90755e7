package authz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/authz/policy"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// What a stream is about is kept, but not without a bound: a client names the zones.
func TestZonesOfAStreamAreBounded(t *testing.T) {
	s := &guardedStream{}
	for range 2 { // what is there already takes no room
		for zone := range nexusraft.ZoneID(maxStreamZones + 1) { // the first is no zone's: see askedBefore
			if err := s.add(asked{zone: zone}); err != nil {
				t.Fatalf("zone %v: %v", zone, err)
			}
		}
	}
	if err := s.add(asked{zone: maxStreamZones + 1}); status.Code(err) != codes.ResourceExhausted ||
		!strings.Contains(err.Error(), "256 zones") {
		t.Errorf("one more: got %v, want ResourceExhausted", err)
	}
}

// BenchmarkAccess is what a call costs more where access is restricted: 1,000 principals, a token
// each.
func BenchmarkAccess(b *testing.B) {
	g := New(Config{Clock: time.Now})
	r := newRecords(g.NextChange())
	var text string
	for i := range 1000 {
		name := fmt.Sprint("p", i)
		r.principals[name] = &pb.Principal{Name: name, Roles: []*pb.ZoneRole{{Zone: 1, Role: pb.AccessRole_ACCESS_ROLE_READ}}}
		t, id, hash := pki.NewAccessToken()
		r.tokens[string(id)] = &pb.AccessToken{
			Id: id, Hash: hash, Name: name,
			ExpiresNanos: time.Now().Add(time.Hour).UnixNano(),
		}
		text = t
	}
	g.loaded.Store(r)
	g.methods = map[string]policy.Policy{"/kv/Range": policy.OfClients(nexusraft.Permission{Role: nexusraft.AccessRead})}
	for name, c := range map[string]credentials{
		"certificate": {encrypted: true, caller: mtls.Caller{Client: "p7"}},
		"token":       {encrypted: true, bearer: text, anonymous: nexusraft.ErrRefused},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p, checked, err := g.asks(c, "/kv/Range")
				if err != nil || !checked {
					b.Fatal(err)
				}
				if _, err := g.check(c, askedBy(b.Context(), "/kv/Range", p, nil)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What was read stays until it changes: no change is missed, even one while it is read.
func TestRecordsAreReadAnew(t *testing.T) {
	reads := 0
	var meanwhile func()
	g := New(Config{Clock: time.Now, Read: func(func(nexusraft.Reader) error) error {
		if reads++; meanwhile != nil {
			meanwhile()
		}
		return nil
	}})
	current := func(want int) {
		t.Helper()
		if _, err := g.current(); err != nil || reads != want {
			t.Errorf("read %d times, %v; want %d", reads, err, want)
		}
	}
	current(1)
	current(1)
	next := g.NextChange()
	g.Changed()
	select {
	case <-next:
	default:
		t.Error("a change is not told")
	}
	meanwhile = func() { meanwhile = nil; g.Changed() }
	current(2)
	current(3)
	current(3)
}

// What a caller shows decides before any record is read.
func TestCallersWithoutRecords(t *testing.T) {
	g := New(Config{Clock: time.Now})
	anonymous := credentials{encrypted: true, anonymous: errors.New("no certificate")}
	client := credentials{encrypted: true, caller: mtls.Caller{Client: "a"}}
	node := credentials{encrypted: true, caller: mtls.Caller{Node: 1}}
	both := credentials{encrypted: true, caller: mtls.Caller{Node: 1}, bearer: "x"}
	for what, x := range map[string]struct {
		c       credentials
		method  string
		want    codes.Code
		checked bool
	}{
		"a token in the open":       {credentials{bearer: "x"}, pb.Cluster_Join_FullMethodName, codes.Unauthenticated, false},
		"anybody, not encrypted":    {credentials{}, pb.Access_Grant_FullMethodName, codes.OK, false},
		"anybody joins":             {anonymous, pb.Cluster_Join_FullMethodName, codes.OK, false},
		"anybody between nodes":     {anonymous, pb.Zones_Propose_FullMethodName, codes.Unauthenticated, false},
		"a client between nodes":    {client, pb.Zones_Propose_FullMethodName, codes.PermissionDenied, false},
		"a node between nodes":      {node, pb.Zones_Propose_FullMethodName, codes.OK, false},
		"a node asks for a status":  {node, pb.Cluster_Status_FullMethodName, codes.OK, false},
		"a node with a token":       {both, pb.Cluster_Status_FullMethodName, codes.OK, true},
		"a method that is not here": {client, "/app/None", codes.OK, true},
	} {
		g.methods = map[string]policy.Policy{}
		if p, ok := policy.Of(x.method); ok {
			g.methods[x.method] = p
		}
		if _, checked, err := g.asks(x.c, x.method); status.Code(err) != x.want || checked != x.checked {
			t.Errorf("%s: got %v, checked: %t; want %v, %t", what, err, checked, x.want, x.checked)
		}
	}
}

// zonesOf is a stream of requests about some zones.
type zonesOf struct {
	grpc.ServerStream
	zones []uint64
}

func (s *zonesOf) RecvMsg(m any) error {
	m.(*pb.SubscribeRequest).Zone, s.zones = s.zones[0], s.zones[1:]
	return nil
}

// A stream that was refused gets no more messages, not even those that it might have asked for.
func TestRefusedStreamGetsNoMessages(t *testing.T) {
	g := New(Config{Clock: time.Now, Logger: slog.New(slog.DiscardHandler)})
	r := newRecords(g.NextChange())
	r.principals["a"] = &pb.Principal{Name: "a", Roles: []*pb.ZoneRole{
		{Zone: 1, Role: pb.AccessRole_ACCESS_ROLE_READ}, {Zone: 2, Role: pb.AccessRole_ACCESS_ROLE_READ},
	}}
	g.loaded.Store(r)
	s := &guardedStream{
		ServerStream: &zonesOf{zones: []uint64{1, 2, 7, 1}}, guard: g, method: "/app/Follow",
		caller:     credentials{encrypted: true, caller: mtls.Caller{Client: "a"}},
		permission: nexusraft.Permission{Role: nexusraft.AccessRead},
	}
	s.ctx, s.cancel = context.WithCancel(t.Context())
	defer s.cancel()
	for i, want := range []codes.Code{codes.OK, codes.OK, codes.PermissionDenied, codes.PermissionDenied} {
		if err := s.RecvMsg(&pb.SubscribeRequest{}); status.Code(err) != want {
			t.Errorf("message %d: got %v, want %v", i, err, want)
		}
	}
}
