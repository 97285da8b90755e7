package node_test

import (
	"context"
	"net"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

// BenchmarkReads is what a leader's read costs: confirmed by the other member, by lease, and of its own state.
func BenchmarkReads(b *testing.B) {
	config := func(lis net.Listener) node.Config {
		return node.Config{
			Dir: b.TempDir(), StateMachine: words{}, Advertise: lis.Addr().String(), MaxClockDrift: 0.01,
			ElectionTicks: 20, // a busy machine is no reason for another leader
		}
	}
	listen := func() net.Listener {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		return lis
	}
	run := func(c node.Config, lis net.Listener) *node.Node {
		n, err := node.Open(c)
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx, lis, nil) }()
		b.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				b.Error(err)
			}
		})
		if err := n.AwaitReady(b.Context()); err != nil {
			b.Fatal(err)
		}
		return n
	}
	first, second := listen(), listen()
	c := config(first)
	if _, err := node.Init(c); err != nil {
		b.Fatal(err)
	}
	leader := run(c, first)
	c = config(second)
	c.Join = []string{first.Addr().String()}
	run(c, second)
	z, err := leader.Zone(nexusraft.RootZone)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := z.Propose(b.Context(), nexusraft.RequestID{}, []byte("k=v")); err != nil {
		b.Fatal(err)
	}
	fn := func(r nexusraft.Reader) error {
		_, _, err := r.Get([]byte("k"))
		return err
	}
	for _, row := range []struct {
		name string
		read func(context.Context, func(nexusraft.Reader) error) error
	}{{"Read", z.Read}, {"ReadLease", z.ReadLease}, {"ReadLocal", z.ReadLocal}} {
		b.Run(row.name, func(b *testing.B) {
			for b.Loop() {
				if err := row.read(b.Context(), fn); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
