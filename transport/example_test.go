package transport_test

import (
	"context"
	"fmt"
	"iter"
	"log"
	"net"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// mailbox is a node that only prints what it receives.
type mailbox struct{ got chan string }

func (m mailbox) Hello(transport.Identity) error { return nil }

func (m mailbox) Receive(from nexusraft.NodeID, msgs []transport.Message) {
	for _, msg := range msgs {
		m.got <- fmt.Sprintf("node %v, zone %v: %s", from, msg.Zone, msg.Data)
	}
}

func (m mailbox) Leaving(nexusraft.NodeID) {}

func (m mailbox) RequestVote(context.Context, nexusraft.NodeID, []transport.Vote) ([]transport.VoteResult, error) {
	return nil, nil
}

func (m mailbox) Status(context.Context, nexusraft.ZoneID) (nexusraft.NodeStatus, error) {
	return nexusraft.NodeStatus{Healthy: true}, nil
}

// Two nodes and no consensus: one sends, the other prints.
func Example() {
	const cluster = 0xc1
	receiver := transport.Identity{Cluster: cluster, Node: 2, Incarnation: 1, Boot: 1, Address: "127.0.0.1:2026"}
	box := mailbox{got: make(chan string, 1)}

	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	srv := grpc.NewServer(transport.ServerOptions()...)
	transport.NewServer(func() transport.Identity { return receiver }, transport.Handlers{Peer: box}).Register(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()

	sender := transport.Identity{Cluster: cluster, Node: 1, Incarnation: 1, Boot: 1, Address: "127.0.0.1:2026"}
	peers := transport.NewPeers(func() transport.Identity { return sender }, transport.PeersOptions{})
	peers.SetAddress(receiver.Node, lis.Addr().String())
	peers.Send(receiver.Node, transport.Append, transport.Message{Zone: nexusraft.RootZone, Data: []byte("hello")})
	fmt.Println(<-box.got)

	peers.Close()
	srv.Stop()
	<-served
	// Output: node 0000000000000001, zone 1: hello
}

// archive is a full node, as far as snapshots are concerned.
type archive struct {
	transport.MemberHandler // the calls that this example does not need
}

func (archive) InstallSnapshot(
	_ context.Context, from nexusraft.NodeID, h transport.SnapshotHeader, chunks iter.Seq2[[]byte, error],
) error {
	total := 0
	for data, err := range chunks {
		if err != nil {
			return err // nothing of it may be kept
		}
		total += len(data)
	}
	fmt.Printf("node %v, zone %v: a snapshot of %d bytes at index %d\n", from, h.Zone, total, h.Index)
	return nil
}

// A pool's client has a method for each way in which nodes talk to each other.
func ExampleClientPool() {
	const cluster = 0xc1
	receiver := transport.Identity{Cluster: cluster, Node: 2, Incarnation: 1, Boot: 1, Address: "127.0.0.1:2026"}
	box := mailbox{got: make(chan string, 1)}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	srv := grpc.NewServer(transport.ServerOptions()...)
	handlers := transport.Handlers{Peer: box, Member: archive{}}
	server := transport.NewServer(func() transport.Identity { return receiver }, handlers)
	server.Register(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()

	sender := transport.Identity{Cluster: cluster, Node: 1, Incarnation: 1, Boot: 1, Address: "127.0.0.1:2026"}
	pool := transport.NewClientPool(func() transport.Identity { return sender }, transport.PoolOptions{})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := pool.Get(ctx, transport.NodeAddress{ID: receiver.Node, Endpoint: "http://" + lis.Addr().String()})
	if err != nil {
		log.Fatal(err)
	}

	// Unary: votes, and anything else that is one question and one answer.
	votes, err := client.RequestVote(ctx, []transport.Vote{{Zone: nexusraft.RootZone, Term: 2}})
	fmt.Println(len(votes), err)

	// Bidirectional: messages in order, for as long as both sides live.
	stream, err := client.Exchange(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if err := stream.Send([]transport.Message{{Zone: nexusraft.RootZone, Data: []byte("hello")}}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-box.got)
	fmt.Println(stream.Close())

	// Client streaming: a state in chunks, which goes on where a stream broke.
	err = transport.InstallSnapshot(ctx, client, transport.Snapshot{
		SnapshotHeader: transport.SnapshotHeader{Zone: nexusraft.RootZone, Index: 7},
		State: func(offset uint64) iter.Seq2[[]byte, error] {
			return func(yield func([]byte, error) bool) { yield([]byte("the state")[offset:], nil) }
		},
	})
	fmt.Println(err)

	pool.Close()
	srv.Stop()
	server.Close()
	<-served
	// Output:
	// 0 <nil>
	// node 0000000000000001, zone 1: hello
	// <nil>
	// node 0000000000000001, zone 1: a snapshot of 9 bytes at index 7
	// <nil>
}
