// Command jobs is a replicated queue of jobs, and two workers of which one falls silent. See
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
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: jobs DIRECTORY; an empty or new one is the first time")
	}
	if err := run(os.Args[1], os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run plays the queue in a cluster of one member.
func run(dir string, out io.Writer) (err error) {
	var ahead atomic.Int64 // of this machine's clock: the play waits for no lease
	config := node.Config{
		Dir: dir, Name: "n1", StateMachine: queue{},
		Machines: map[string]nexusraft.StateMachine{"jobs": queue{}},
		Clock:    func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	}
	n, err := open(config)
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
	zone, err := n.CreateZone(ctx, "thumbnails", node.ZoneSpec{Machine: "jobs"})
	if err != nil {
		return err
	}
	return play(ctx, zone, func(d time.Duration) { ahead.Add(int64(d)) }, out)
}

// open opens a node; one with an empty directory founds a cluster.
func open(config node.Config) (*node.Node, error) {
	n, err := node.Open(config)
	if !errors.Is(err, nexusraft.ErrNotFounded) {
		return n, err
	}
	if _, err := node.Init(config); err != nil {
		return nil, err
	}
	return node.Open(config)
}

// play puts two jobs, and loses a worker that has taken one.
func play(ctx context.Context, zone *node.Zone, pass func(time.Duration), out io.Writer) error {
	propose := func(command []byte) ([]byte, error) {
		result, err := zone.Propose(ctx, nexusraft.RequestID{}, command)
		return result.Data, err
	}
	take := func(worker string) (Taken, error) {
		answer, err := propose(Take(10 * time.Minute))
		t, ok := ParseTaken(answer)
		if err != nil || !ok {
			return t, errors.Join(fmt.Errorf("%s got no job", worker), err)
		}
		fmt.Fprintf(out, "%s takes %s, attempt %d\n", worker, t.Job, t.Attempt)
		return t, nil
	}
	for _, job := range []string{"cat.png", "dog.png"} {
		if _, err := propose(Put([]byte(job))); err != nil {
			return err
		}
		fmt.Fprintf(out, "put %s\n", job)
	}
	lost, err := take("worker 1")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "worker 1 falls silent for an hour")
	pass(time.Hour)
	again, err := take("worker 2")
	if err != nil {
		return err
	}
	if _, err := propose(Done(lost)); !errors.Is(err, nexusraft.ErrRefused) {
		return fmt.Errorf("worker 1 was not refused: %w", err)
	}
	fmt.Fprintln(out, "worker 1 is back, and too late")
	if _, err := propose(Done(again)); err != nil {
		return err
	}
	fmt.Fprintf(out, "worker 2 has done %s\n", again.Job)
	return zone.Read(ctx, func(r nexusraft.Reader) error {
		waiting, leased, err := Waiting(r, 1_000)
		fmt.Fprintf(out, "jobs waiting: %d, leased: %d\n", waiting, leased)
		return err
	})
}
