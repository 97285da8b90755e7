package transport

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// answers registers a node that answers questions, or is a witness if h is nil.
func answers(h func(context.Context, Identity, Question) ([]byte, error)) func(*grpc.Server) {
	return func(s *grpc.Server) {
		handlers := (&fakeNode{}).handlers()
		handlers.AskLeader = h
		NewServer(as(identityA), handlers).Register(s)
	}
}

// asking returns nodeB's connections, of which one is to nodeA.
func asking(t *testing.T, register func(*grpc.Server)) *Peers {
	t.Helper()
	peers := peersOf(t, identityB, PeersOptions{VoteTimeout: 10 * time.Second})
	peers.SetAddress(nodeA, serveOnly(t, nil, register))
	return peers
}

func TestAskLeader(t *testing.T) {
	long := bytes.Repeat([]byte("q"), MaxQuestionBytes)
	peers := asking(t, answers(func(_ context.Context, from Identity, q Question) ([]byte, error) {
		if from.Node != nodeB || q.Zone != 7 {
			t.Errorf("node %v asks about zone %v", from.Node, q.Zone)
		}
		if len(q.Text) == 0 {
			return nil, &nexusraft.NotLeaderError{Zone: q.Zone, Leader: nodeB, Address: "b:1"}
		}
		return q.Text, nil
	}))
	for _, text := range [][]byte{[]byte("question"), long} {
		if got, err := peers.AskLeader(t.Context(), nodeA, Question{7, text}); err != nil || !bytes.Equal(got, text) {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(text))
		}
	}
	_, err := peers.AskLeader(t.Context(), nodeA, Question{Zone: 7})
	if leader, ok := errors.AsType[*nexusraft.NotLeaderError](err); !ok || leader.Leader != nodeB {
		t.Errorf("got %v, want the leader", err)
	}
	if _, err := peers.AskLeader(t.Context(), 0xf, Question{Zone: 7}); err == nil {
		t.Error("a node without an address was asked")
	}
}

// Questions and answers over their limit are refused at both ends.
func TestAskLeaderTooLarge(t *testing.T) {
	register := answers(func(_ context.Context, _ Identity, q Question) ([]byte, error) {
		if len(q.Text) > MaxQuestionBytes {
			t.Error("a question over the limit was handed over")
		}
		return make([]byte, MaxQuestionBytes+1), nil
	})
	peers := asking(t, register)
	for _, size := range []int{0, MaxQuestionBytes + 1} {
		_, err := peers.AskLeader(t.Context(), nodeA, Question{7, make([]byte, size)})
		if !errors.Is(err, nexusraft.ErrTooLarge) {
			t.Errorf("a question of %d bytes: got %v", size, err)
		}
	}
	conn := dialTest(t, serveOnly(t, nil, register))
	resp, err := pb.NewZonesClient(conn).AskLeader(t.Context(), &pb.AskLeaderRequest{
		Hello: hello(identityB, nodeA), Zone: 7, Question: make([]byte, MaxQuestionBytes+1),
	})
	if err != nil || !errors.Is(wire.ErrorFromProto(resp.GetError()), nexusraft.ErrTooLarge) {
		t.Errorf("got %v, %v", resp, err)
	}
	if resp, err = pb.NewZonesClient(conn).AskLeader(t.Context(), &pb.AskLeaderRequest{Zone: 7}); err != nil ||
		!errors.Is(wire.ErrorFromProto(resp.GetError()), nexusraft.ErrRefused) {
		t.Errorf("without a handshake: got %v, %v", resp, err)
	}
}

// A witness, and a node of an earlier release, lead nothing that could be asked.
func TestAskLeaderOfAnEarlierRelease(t *testing.T) {
	_, err := asking(t, answers(nil)).AskLeader(t.Context(), nodeA, Question{Zone: 7})
	if !errors.Is(err, nexusraft.ErrNotLeader) {
		t.Errorf("got %v, want ErrNotLeader", err)
	}
}

// A node that asks without end gets so many answers at once, and others go on.
func TestAskLeaderFlood(t *testing.T) {
	release := make(chan struct{})
	register := answers(func(ctx context.Context, from Identity, _ Question) ([]byte, error) {
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > questionTimeout {
			t.Errorf("the deadline is %v", deadline)
		}
		if from.Node == nodeB {
			<-release
		}
		return nil, nil
	})
	addr := serveOnly(t, nil, register)
	peers := peersOf(t, identityB, PeersOptions{VoteTimeout: 10 * time.Second})
	peers.SetAddress(nodeA, addr)
	refused := make(chan error, 3*maxQuestionsOfNode)
	var all sync.WaitGroup
	for range cap(refused) {
		all.Go(func() {
			if _, err := peers.AskLeader(t.Context(), nodeA, Question{Zone: 7}); err != nil {
				refused <- err
			}
		})
	}
	for range 2 * maxQuestionsOfNode {
		if err := <-refused; !errors.Is(err, nexusraft.ErrOverloaded) {
			t.Errorf("got %v, want ErrOverloaded", err)
		}
	}
	third := identityB
	third.Node, third.Address = 0xd, "d:1"
	others := peersOf(t, third, PeersOptions{VoteTimeout: 10 * time.Second})
	others.SetAddress(nodeA, addr)
	if _, err := others.AskLeader(t.Context(), nodeA, Question{Zone: 7}); err != nil {
		t.Errorf("another node: %v", err)
	}
	close(release)
	all.Wait()
	if len(refused) > 0 {
		t.Errorf("%d more were refused", len(refused))
	}
	if _, err := peers.AskLeader(t.Context(), nodeA, Question{Zone: 7}); err != nil {
		t.Errorf("after the flood: %v", err)
	}
}
