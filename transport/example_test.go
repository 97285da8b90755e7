package transport_test

import (
	"context"
	"fmt"
	"log"
	"net"

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

func (m mailbox) Status(context.Context) (nexusraft.NodeStatus, error) {
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
	transport.NewServer(func() transport.Identity { return receiver }, box, nil).Register(srv)
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
