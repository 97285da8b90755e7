// Command counter counts in a zone of its own: a state machine, a node, a zone. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

// counter adds the whole number in each command to the zone's sum, and answers with the new sum.
type counter struct{}

func (counter) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	add, err := strconv.ParseInt(string(cmd.Data), 10, 64) // int has other limits on other machines
	if err != nil {
		return nil, fmt.Errorf("counter: %w: a command is a whole number of 64 bits", nexusraft.ErrRefused)
	}
	old, err := sum(tx)
	if err != nil {
		return nil, err
	}
	if (old+add < old) != (add < 0) {
		return nil, fmt.Errorf("counter: %w: the sum would not fit 64 bits; it is %d", nexusraft.ErrRefused, old)
	}
	text := strconv.AppendInt(nil, old+add, 10)
	return text, tx.Set([]byte("sum"), text)
}

func sum(r nexusraft.Reader) (int64, error) {
	text, ok, err := r.Get([]byte("sum"))
	if err != nil || !ok {
		return 0, err
	}
	return strconv.ParseInt(string(text), 10, 64)
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: counter DIRECTORY; an empty or new one is the first time")
	}
	config := node.Config{
		Dir: os.Args[1], Name: "n1",
		StateMachine: counter{}, // the root zone's, which every cluster has
		Machines:     map[string]nexusraft.StateMachine{"counter": counter{}},
	}
	n, err := node.Open(config)
	if errors.Is(err, nexusraft.ErrNotFounded) { // once in the life of the cluster
		_, err = node.Init(config)
		check(err)
		n, err = node.Open(config)
	}
	check(err)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	running, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(running, lis, nil) }()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // for what waits for a leader
	defer cancel()
	check(n.AwaitReady(ctx))
	zone, err := n.CreateZone(ctx, "visits", node.ZoneSpec{Machine: "counter"}) // or the one that there is
	check(err)
	for _, add := range []string{"1", "2", "many"} {
		result, err := zone.Propose(ctx, nexusraft.RequestID{}, []byte(add))
		fmt.Printf("add %s: sum %q, error %v\n", add, result.Data, err)
	}
	check(zone.Read(ctx, func(r nexusraft.Reader) error { // has every sum that was answered before
		n, err := sum(r)
		fmt.Println("read:", n)
		return err
	}))
	stop()
	check(<-ended)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
