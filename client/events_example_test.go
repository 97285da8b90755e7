package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// Follow the changes of a zone's keys from where an earlier process stopped.
func ExampleClient_Subscribe() {
	c, err := client.New(client.Options{Endpoints: []string{"127.0.0.1:2026", "127.0.0.1:2036"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	next := uint64(57) // was stored
	for batch, err := range c.Subscribe(context.Background(), client.Subscription{
		Topics: []string{client.KeyTopic},
		From:   next,
	}) {
		if gone, ok := errors.AsType[*nexusraft.GoneError](err); ok {
			log.Fatalf("read the keys again, and go on from %d", gone.Oldest)
		}
		if err != nil {
			log.Fatal(err)
		}
		for _, e := range batch.Events {
			pair, err := client.KeyValueOf(e)
			if err != nil {
				log.Fatal(err)
			}
			fmt.Printf("%d: %s %s = %s\n", e.Sequence, e.Type, pair.Key, pair.Value)
		}
		next = batch.Next // store it: the events before it are dealt with
	}
}
