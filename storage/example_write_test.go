package storage_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strconv"

	"github.com/nexi-lab/nexus-raft/storage"
)

// open returns a store in memory; without FS it would be on the disk.
func open() *storage.Store {
	s, err := storage.Open("data", &storage.Options{
		FS: storage.NewMemFS(),
		Merge: func(_ string, _, old, operand []byte) ([]byte, error) {
			return append(old, operand...), nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	return s
}

func ExampleStore() {
	s := open()
	defer s.Close()

	// The default tree's methods are the store's. What a write waits for is said with it.
	_ = s.Set([]byte("a"), []byte("on the disk when Set returns"))
	_ = s.Set([]byte("b"), []byte("on the disk a little later"), storage.NoSync)

	buf := make([]byte, 0, 64) // one for many reads
	value, ok, err := s.GetTo(buf, []byte("b"))
	fmt.Printf("%s, %v, %v\n", value, ok, err)
	p, _, _ := s.Less([]byte("b"))
	fmt.Printf("%s\n", p.Key)
	// Output:
	// on the disk a little later, true, <nil>
	// a
}

func ExampleTree_CompareAndSwap() {
	s := open()
	defer s.Close()
	lock := []byte("lock")

	_, mine, _ := s.CompareAndSwap(lock, nil, []byte("me")) // if there is none
	holder, theirs, _ := s.CompareAndSwap(lock, nil, []byte("them"))
	fmt.Printf("mine %v, theirs %v: %s has it\n", mine, theirs, holder)
	// Output: mine true, theirs false: me has it
}

func ExampleTree_Update() {
	s := open()
	defer s.Close()

	increment := func(old []byte) ([]byte, error) {
		n, _ := strconv.Atoi(string(old)) // nil, which is no value, counts as 0
		return strconv.AppendInt(nil, int64(n)+1, 10), nil
	}
	for range 2 {
		before, after, err := s.Update([]byte("visits"), increment)
		fmt.Printf("%q, %q, %v\n", before, after, err)
	}
	// Output:
	// "", "1", <nil>
	// "1", "2", <nil>
}

func ExampleTree_Merge() {
	s := open()
	defer s.Close()
	_, _ = s.Merge([]byte("log"), []byte("one "))
	merged, _ := s.Merge([]byte("log"), []byte("two"))
	fmt.Printf("%s\n", merged)
	// Output: one two
}

// A queue in a tree: pushed in order, and each element popped by one.
func ExampleTree_PopFirst() {
	s := open()
	defer s.Close()
	queue, err := s.Tree("queue")
	if err != nil {
		log.Fatal(err)
	}
	for _, task := range []string{"first", "second"} {
		id, err := s.GenerateID()
		if err != nil {
			log.Fatal(err)
		}
		if err := queue.Set(fmt.Appendf(nil, "%020d", id), []byte(task)); err != nil {
			log.Fatal(err)
		}
	}
	for {
		p, ok, err := queue.PopFirst()
		if err != nil {
			log.Fatal(err)
		}
		if !ok {
			break
		}
		fmt.Printf("%s\n", p.Value)
	}
	// Output:
	// first
	// second
}

func ExampleStore_Transact() {
	s := open()
	defer s.Close()
	accounts, err := s.Tree("accounts")
	if err != nil {
		log.Fatal(err)
	}
	balances := storage.Typed(accounts, storage.CBOR[int]{})
	_ = balances.Set([]byte("ada"), 100)
	_ = balances.Set([]byte("bob"), 0)

	errPoor := errors.New("not enough")
	pay := func(amount int) error {
		return s.Transact(context.Background(), func(tx *storage.Tx) error {
			in := balances.In(tx)
			ada, _, err := in.Get([]byte("ada"))
			if err != nil {
				return err
			}
			if ada < amount {
				return errPoor // comes back as it is, and nothing is written
			}
			bob, _, err := in.Get([]byte("bob"))
			if err != nil {
				return err
			}
			return errors.Join(in.Set([]byte("ada"), ada-amount), in.Set([]byte("bob"), bob+amount))
		})
	}
	fmt.Println(pay(70), pay(70))
	for p, err := range balances.Scan(nil, nil) {
		fmt.Printf("%s %d %v\n", p.Key, p.Value, err)
	}
	// Output:
	// <nil> not enough
	// ada 30 <nil>
	// bob 70 <nil>
}

func ExampleBatch_CommitAsync() {
	s := open()
	defer s.Close()
	var waits []func() error
	for i := range 3 {
		b := s.NewBatch()
		defer b.Close()
		if err := b.Set(s.Default(), fmt.Append(nil, i), nil); err != nil {
			log.Fatal(err)
		}
		waits = append(waits, b.CommitAsync()) // visible, in this order
	}
	for _, wait := range waits { // they share syncs
		fmt.Println(wait())
	}
	// Output:
	// <nil>
	// <nil>
	// <nil>
}
