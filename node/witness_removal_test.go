package node_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
	"github.com/nexi-lab/nexus-raft/witness"
)

// A witness hears of a removal as the members do: the removed node's stream and connection to it
// end, and it takes no new ones. Once it is removed itself it ends, and says why.
func TestRemovalsAtTheWitness(t *testing.T) {
	t.Parallel()
	leader := found(t, secureConfig(t, "n1"))
	second := secureConfig(t, "n2")
	second.JoinToken = newToken(t, leader, nexusraft.RoleMember)
	join(t, second, leader)
	w := runningWitness(t, leader)
	third := secureConfig(t, "n3")
	third.JoinToken, third.Join = newToken(t, leader, nexusraft.RoleMember), []string{leader.config.Advertise}
	learner := start(t, third)
	waitRole(t, learner, nexusraft.RoleLearner)
	id, cluster := learner.node.ID(), leader.node.Cluster()
	conn := w.connect(t, stolen(t, leader, id))
	learner.close()

	open := func() (pb.RaftTransport_ExchangeClient, error) {
		stream, err := pb.NewRaftTransportClient(conn).Exchange(t.Context())
		if err != nil {
			return nil, err
		}
		err = stream.Send(&pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Hello{Hello: &pb.Hello{
			Protocol: transport.ProtocolVersion, ClusterId: uint64(cluster), NodeId: uint64(id), ToNodeId: uint64(w.id),
			Incarnation: 1 << 20, Boot: 1, Address: "127.0.0.1:1", // minor 0: no pings are expected
		}}})
		if err != nil {
			return nil, err
		}
		_, err = stream.Recv()
		return stream, err
	}
	stream, err := open()
	if err != nil {
		t.Fatalf("before the removal: %v", err)
	}
	remove := func(id nexusraft.NodeID) {
		t.Helper()
		eventually(t, "remove a node", func() error {
			_, err := leader.zone().ChangeMembership(t.Context(), nexusraft.MembershipChange{Remove: id})
			return err
		})
	}
	remove(id)
	if err := endOf(t, stream); err == nil {
		t.Error("the witness goes on with the stream")
	}
	eventually(t, "the connection has ended", func() error {
		if s := conn.GetState(); s == connectivity.Ready {
			return fmt.Errorf("it is %v", s)
		}
		return nil
	})
	eventually(t, "a new stream is refused", func() error {
		_, err := open()
		if status.Code(err) == codes.Unavailable {
			return err // of the connection that has ended
		}
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "was removed") {
			t.Errorf("got %v, want FailedPrecondition, as the node was removed", err)
		}
		return nil
	})

	remove(w.id)
	select {
	case err := <-w.ended:
		if !errors.Is(err, nexusraft.ErrFenced) || !strings.Contains(err.Error(), "was removed") {
			t.Errorf("the witness ended with %v, want ErrFenced, as it was removed", err)
		}
		w.ended <- nil
	case <-time.After(20 * time.Second):
		t.Error("the removed witness goes on")
	}
	leader.put("after", "x")
}

// endOf waits until a stream has ended, and returns why.
func endOf(t *testing.T, stream pb.RaftTransport_ExchangeClient) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := stream.Recv()
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-time.After(20 * time.Second):
		t.Error("the stream has not ended within 20 s")
		return nil
	}
}

// tlsWitness is a running witness of a cluster with TLS.
type tlsWitness struct {
	id      nexusraft.NodeID
	address string
	ended   chan error
}

func runningWitness(t *testing.T, leader *member) *tlsWitness {
	t.Helper()
	lis := listen(t, "")
	w := &tlsWitness{address: lis.Addr().String(), ended: make(chan error, 1)}
	opened, err := witness.Open(witness.Config{
		Dir: t.TempDir(), ClusterTLS: true, JoinToken: newToken(t, leader, nexusraft.RoleWitness), Advertise: w.address,
		Join: []string{leader.config.Advertise}, TickInterval: node.TestTick,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { w.ended <- opened.Run(ctx, lis) }()
	t.Cleanup(func() {
		cancel()
		if err := <-w.ended; err != nil {
			t.Errorf("the witness ended with %v", err)
		}
	})
	eventually(t, "a witness in the records", func() error {
		if w.id = witnessIn(leader.status().Membership); w.id == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	return w
}

// connect returns a connection to the witness that shows a node's certificate.
func (w *tlsWitness) connect(t *testing.T, security *mtls.TLS) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+w.address,
		append(transport.DialOptions(), grpc.WithTransportCredentials(security.ClientCredentials(w.id)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
