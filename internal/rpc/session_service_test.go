package rpc

import (
	"context"
	"errors"
	"fmt"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// registrar registers session 71 of zone 7, within a time, or comes to err.
type registrar struct {
	ZoneHandler
	err error
}

func (r registrar) RegisterSession(ctx context.Context, zone nexusraft.ZoneID) (uint64, error) {
	if _, bounded := ctx.Deadline(); !bounded || zone != 7 {
		return 0, fmt.Errorf("zone %v, bounded: %t", zone, bounded)
	}
	return 71, r.err
}

func TestRegisterSession(t *testing.T) {
	for _, tc := range []struct{ err, want error }{
		{nil, nil},
		{nexusraft.ErrRefused, nexusraft.ErrRefused},
		{&nexusraft.NotLeaderError{Zone: 7}, nexusraft.ErrNotLeader},
		{context.DeadlineExceeded, nexusraft.ErrUncertain},
	} {
		resp, err := NewZones(registrar{err: tc.err}, nil).RegisterSession(t.Context(), &pb.RegisterSessionRequest{Zone: 7})
		if err != nil {
			t.Fatal(err)
		}
		if tc.want == nil {
			if resp.GetSession() != 71 || resp.GetError() != nil {
				t.Errorf("got %v, want session 71", resp)
			}
			continue
		}
		if got := wire.ErrorFromProto(resp.GetError()); !errors.Is(got, tc.want) || resp.GetSession() != 0 {
			t.Errorf("%v: got %v, want %v", tc.err, resp, tc.want)
		}
	}
}
