package rpc

import (
	"context"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// slowSums computes digests that take until their contexts end.
type slowSums struct {
	ZoneHandler
	now, most int // how many at once
}

func (z *slowSums) Checksum(ctx context.Context, _ nexusraft.ZoneID) (nexusraft.Checksum, error) {
	z.now++
	z.most = max(z.most, z.now)
	<-ctx.Done()
	z.now--
	return nexusraft.Checksum{}, ctx.Err()
}

// Digests are computed one after the other, however many are asked for, and a call that ends while it
// waits is gone.
func TestChecksumsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := new(slowSums)
		s := NewZones(z, nil)
		first, end := context.WithCancel(t.Context())
		go func() { _, _ = s.Checksum(first, &pb.ChecksumRequest{Zone: 1}) }()
		synctest.Wait()
		waiting, giveUp := context.WithCancel(t.Context())
		ended := make(chan codes.Code, 20)
		for range 20 {
			go func() {
				_, err := s.Checksum(waiting, &pb.ChecksumRequest{Zone: 1})
				ended <- status.Code(err)
			}()
			synctest.Wait()
		}
		if z.now != 1 {
			t.Fatalf("%d digests are computed at once, want 1", z.now)
		}
		giveUp()
		synctest.Wait()
		if len(ended) != 20 || <-ended != codes.Canceled || z.most != 1 {
			t.Errorf("of 20 calls that gave up %d ended; %d digests at once", len(ended), z.most)
		}
		end()
		synctest.Wait()
		if z.now != 0 {
			t.Errorf("%d digests go on without a caller", z.now)
		}
	})
}
