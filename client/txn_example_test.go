package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// Move a job from one queue to another if it is still as it was read, and say so if it is not.
func ExampleClient_Txn() {
	c, err := client.New(client.Options{Endpoints: []string{"127.0.0.1:2026", "127.0.0.1:2036"}, ExactlyOnce: true})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	from, to := []byte("waiting/7"), []byte("running/7")
	job, found, err := c.Get(ctx, from)
	if err != nil || !found {
		log.Fatalf("job 7: found %t, %v", found, err)
	}
	r, err := c.Txn(ctx, client.Txn{
		If: []client.Compare{
			client.Key(from).Modified(client.Equal, job.ModRevision),
			client.Key(to).Absent(),
		},
		Then: []client.Operation{
			client.Delete{Keys: client.Key(from)},
			client.Put{Key: to, Value: job.Value},
		},
		Else: []client.Operation{client.Get{Keys: client.Key(to)}},
	})
	switch {
	case err != nil:
		log.Fatal(err)
	case r.Succeeded:
		fmt.Println("it runs as of revision", r.Revision)
	default:
		fmt.Println("another one was faster:", r.Results[0].Pairs)
	}
}

// Read all keys as they were at a revision, and let go of everything before it.
func ExampleClient_ListAt() {
	c, err := client.New(client.Options{Endpoints: []string{"127.0.0.1:2026", "127.0.0.1:2036"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	backup := nexusraft.Revision(4711)
	for pair, err := range c.ListAt(context.Background(), []byte("config/"), backup) {
		if errors.Is(err, client.ErrCompacted) {
			log.Fatal("too late: somebody has compacted it")
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s = %s\n", pair.Key, pair.Value)
	}
	if err := c.Compact(context.Background(), backup, false); err != nil && !errors.Is(err, client.ErrCompacted) {
		log.Fatal(err)
	}
}
