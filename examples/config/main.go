// Command config is a configuration store that can be watched. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: config DIRECTORY; an empty or new one")
	}
	if err := run(os.Args[1], os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run plays the store in a cluster of one member.
func run(dir string, out io.Writer) (err error) {
	config := node.Config{
		Dir: dir, Name: "n1", StateMachine: store{},
		Machines: map[string]nexusraft.StateMachine{"config": store{}},
	}
	if _, err := node.Init(config); err != nil {
		return err
	}
	n, err := node.Open(config)
	if err != nil {
		return err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(err, n.Close())
	}
	running, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(running, lis, nil) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()

	ctx, cancel := context.WithTimeout(running, time.Minute) // for what waits for a leader
	defer cancel()
	if err := n.AwaitReady(ctx); err != nil {
		return err
	}
	zone, err := n.CreateZone(ctx, "config", node.ZoneSpec{Machine: "config"})
	if err != nil {
		return err
	}
	return play(ctx, n, zone, out)
}

// play changes settings while a watcher looks on, which is begun when there is one already.
func play(ctx context.Context, n *node.Node, zone *node.Zone, out io.Writer) error {
	first, err := change(ctx, zone, Set("timeout", Absent, []byte("5s")))
	if err != nil {
		return err
	}
	seen, watched := make(chan Setting), make(chan error, 1)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		watched <- Watch(watching, n, zone, func(s Setting) error {
			select {
			case seen <- s:
				return nil
			case <-watching.Done():
				return context.Cause(watching)
			}
		})
	}()
	next := func() error {
		select {
		case s := <-seen:
			fmt.Fprintf(out, "the watcher sees: %s = %q, deleted: %t\n", s.Name, s.Value, s.Deleted)
			return nil
		case err := <-watched:
			return err
		}
	}
	if err := next(); err != nil { // from here on it sees each change
		return err
	}
	for _, command := range [][]byte{
		Set("timeout", first, []byte("9s")), Set("colour", Any, []byte("blue")), Delete("colour", Any),
	} {
		if _, err := change(ctx, zone, command); err != nil {
			return err
		}
		if err := next(); err != nil {
			return err
		}
	}
	_, err = change(ctx, zone, Set("timeout", first, []byte("1s")))
	fmt.Fprintln(out, "a change of what was read too long ago is refused:", errors.Is(err, nexusraft.ErrRefused))
	return zone.ReadWithin(ctx, time.Minute, func(r nexusraft.Reader) error { // as it was within the last minute
		s, err := Get(r, "timeout")
		fmt.Fprintf(out, "read: %s = %q\n", s.Name, s.Value)
		return err
	})
}

// change proposes a command, and returns the store's new version.
func change(ctx context.Context, zone *node.Zone, command []byte) (uint64, error) {
	result, err := zone.Propose(ctx, nexusraft.RequestID{}, command)
	if err != nil {
		return 0, err
	}
	return ParseVersion(result.Data)
}
