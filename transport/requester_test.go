package transport

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

func TestRequesterOnTheWire(t *testing.T) {
	needs := make([]nexusraft.ZoneRole, nexusraft.MaxRequesterNeeds)
	for i := range needs {
		needs[i] = nexusraft.ZoneRole{Zone: ^nexusraft.ZoneID(0) - nexusraft.ZoneID(i), Role: nexusraft.AccessAdmin}
	}
	for _, want := range []*nexusraft.Requester{
		nil,
		{Name: "ann", Needs: needs[:1]},
		{Name: "ann", Token: []byte("12345678"), Needs: needs},
	} {
		b, err := encodeRequester(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeRequester(b)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v, (-want +got)\n%s", err, diff)
		}
	}
	need := []*pb.ZoneRole{{Zone: 1, Role: pb.AccessRole_ACCESS_ROLE_READ}}
	for what, m := range map[string]*pb.Requester{
		"no name":       {Needs: need},
		"a bad name":    {Name: "../ann", Needs: need},
		"no needs":      {Name: "ann"},
		"a short token": {Name: "ann", Token: []byte("1"), Needs: need},
		"many needs":    {Name: "ann", Needs: make([]*pb.ZoneRole, nexusraft.MaxRequesterNeeds+1)},
	} {
		for i := range m.Needs {
			m.Needs[i] = need[0]
		}
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := decodeRequester(b); !errors.Is(err, nexusraft.ErrRefused) || q != nil {
			t.Errorf("%s: got %v, %v; want ErrRefused", what, q, err)
		}
	}
	for _, b := range [][]byte{[]byte("x"), make([]byte, maxRequesterBytes+1)} {
		if _, err := decodeRequester(b); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("%d bytes of something else: got %v, want ErrRefused", len(b), err)
		}
	}
}
