// Command fstree keeps file systems' trees of names, each mount in a zone of its own. See
// README.md.
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
		log.Fatal("usage: fstree DIRECTORY; an empty or new one")
	}
	if err := run(os.Args[1], os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run fills two mounts in a cluster of one member.
func run(dir string, out io.Writer) (err error) {
	config := node.Config{
		Dir: dir, Name: "n1", StateMachine: tree{},
		Machines: map[string]nexusraft.StateMachine{"fstree": tree{}},
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
	for _, mount := range []string{"home", "scratch"} {
		zone, err := n.CreateZone(ctx, "mount-"+mount, node.ZoneSpec{Machine: "fstree"})
		if err != nil {
			return err
		}
		if err := fill(ctx, zone, mount, out); err != nil {
			return fmt.Errorf("mount %s: %w", mount, err)
		}
	}
	return nil
}

// fill makes a few names in a mount and moves them.
func fill(ctx context.Context, zone *node.Zone, mount string, out io.Writer) error {
	for _, command := range [][]byte{
		Mkdir("/inbox"), Mkdir("/inbox/2026"), Mkdir("/done"), Create("/inbox/2026/a.txt", "blob-1 in "+mount),
		Rename("/inbox/2026", "/done/2026"), // with all that is in it, at once
		Create("/draft", "blob-2 in "+mount),
		Rename("/draft", "/done/2026/a.txt"), // takes its place, at once
	} {
		if _, err := zone.Propose(ctx, nexusraft.RequestID{}, command); err != nil {
			return err
		}
	}
	for _, command := range [][]byte{Rename("/done", "/done/2026/done"), Remove("/done")} {
		_, err := zone.Propose(ctx, nexusraft.RequestID{}, command)
		if !errors.Is(err, nexusraft.ErrRefused) {
			return fmt.Errorf("got %w, want a refusal", err)
		}
		fmt.Fprintf(out, "%s: %v\n", mount, err)
	}
	return zone.Read(ctx, func(r nexusraft.Reader) error { // one moment's tree, whatever is written meanwhile
		entries, err := List(r, "/do", 1_000)
		for _, e := range entries {
			fmt.Fprintf(out, "%s: %s %s\n", mount, e.Path, e.Content)
		}
		return err
	})
}
