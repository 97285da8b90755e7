package queue_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/storage/queue"
)

// open returns a store in memory; without FS it would be on the disk.
func open() *storage.Store {
	s, err := storage.Open("data", &storage.Options{FS: storage.NewMemFS()})
	if err != nil {
		log.Fatal(err)
	}
	return s
}

// A queue of tasks: whoever works on one acknowledges it when it is done.
func Example() {
	s := open()
	defer s.Close()
	tasks, err := queue.Open(s, "tasks", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer tasks.Close()
	for _, task := range []string{"resize 1.jpg", "resize 2.jpg"} {
		if _, err := tasks.Push([]byte(task)); err != nil { // on the disk when it returns
			log.Fatal(err)
		}
	}

	work := func(task string) error {
		fmt.Println(task)
		return nil
	}
	for range 2 { // for ever, in a program
		m, err := tasks.Pop(context.Background()) // waits for one
		if err != nil {
			log.Fatal(err)
		}
		if err := work(string(m.Value)); err != nil {
			_ = tasks.Nack(m) // the next one to pop tries again
			continue
		}
		// Should it get lost in a crash, the task is done again; and so it is if this took too long.
		if err := tasks.Ack(m, storage.NoSync); err != nil && !errors.Is(err, queue.ErrNotLeased) {
			log.Fatal(err)
		}
	}
	n, err := tasks.Len()
	fmt.Println("left:", n, err)
	// Output:
	// resize 1.jpg
	// resize 2.jpg
	// left: 0 <nil>
}

// An outbox: an order is stored together with the event that tells of it, and an event is
// handled together with its acknowledgement, so each happens exactly once.
func ExampleQueue_PushWith() {
	s := open()
	defer s.Close()
	orders, err := s.Tree("orders")
	if err != nil {
		log.Fatal(err)
	}
	outbox, err := queue.Open(s, "outbox", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer outbox.Close()

	b := s.NewBatch()
	defer b.Close()
	if err := b.Set(orders, []byte("order 7"), []byte("open")); err != nil {
		log.Fatal(err)
	}
	if _, err := outbox.PushWith(b, []byte("order 7")); err != nil { // commits both
		log.Fatal(err)
	}

	m, err := outbox.Pop(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	b.Reset()
	if err := b.Set(orders, m.Value, []byte("told")); err != nil {
		log.Fatal(err)
	}
	if err := outbox.AckWith(b, m); err != nil { // commits both, unless the lease is over
		log.Fatal(err)
	}
	state, _, err := orders.Get([]byte("order 7"))
	fmt.Printf("%s %v\n", state, err)
	// Output: told <nil>
}
