package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
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

func ExampleTree_Create() {
	s := open()
	defer s.Close()
	key := []byte("config")
	fmt.Println(s.Create(key, []byte("first")))

	err := s.Create(key, []byte("second"))
	if other, ok := errors.AsType[*storage.MismatchError](err); ok {
		fmt.Printf("%v: it is %s\n", err, other.Found)
	}
	// Output:
	// <nil>
	// storage: there is another value at key "config", nothing was written: it is first
}

// A worker takes the next task of one kind.
func ExampleTree_PopFirstIn() {
	s := open()
	defer s.Close()
	for _, task := range []string{"mail/1", "mail/2", "print/1"} {
		_ = s.Set([]byte(task), nil)
	}
	for range 2 {
		p, ok, err := s.PopFirstIn([]byte("print/"), []byte("print0")) // 0 is behind /
		fmt.Printf("%s %v %v\n", p.Key, ok, err)
	}
	// Output:
	// print/1 true <nil>
	//  false <nil>
}

// Sorting more than memory holds.
func ExampleOpenTemporaryIn() {
	s, err := storage.OpenTemporaryIn("", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close() // removes it
	for _, word := range []string{"pear", "apple", "fig"} {
		_ = s.Set([]byte(word), nil)
	}
	for p, err := range s.Scan(nil, nil) {
		fmt.Printf("%s %v\n", p.Key, err)
	}
	// Output:
	// apple <nil>
	// fig <nil>
	// pear <nil>
}

func ExampleTree_WatchExisted() {
	s := open()
	defer s.Close()
	w, err := s.WatchExisted(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	_ = s.Set([]byte("k"), []byte("1"))
	_ = s.Set([]byte("k"), []byte("2"))
	for range 2 {
		c, err := w.Next(context.Background())
		fmt.Printf("%s=%s, updated %v, %v\n", c.Key, c.Value, c.Existed, err)
	}
	// Output:
	// k=1, updated false, <nil>
	// k=2, updated true, <nil>
}

// What is there before a write is what the transaction reads first.
func ExampleTx_Tree() {
	s := open()
	defer s.Close()
	_ = s.Set([]byte("owner"), []byte("ada"))
	var old []byte
	err := s.Transact(context.Background(), func(tx *storage.Tx) (err error) {
		tree := tx.Tree(s.Default())
		if old, _, err = tree.Get([]byte("owner")); err != nil {
			return err
		}
		return tree.Set([]byte("owner"), []byte("bob"))
	})
	fmt.Printf("%s, %v\n", old, err)
	// Output: ada, <nil>
}

// Iteration from both ends: two scans of one snapshot, until they meet.
func ExampleTreeView_ScanReverse() {
	s := open()
	defer s.Close()
	for _, key := range []string{"a", "b", "c", "d", "e"} {
		_ = s.Set([]byte(key), nil)
	}
	x := s.NewSnapshot()
	defer x.Close()
	view := x.Reader(s.Default())
	back, stop := iter.Pull2(view.ScanReverse(nil, nil))
	defer stop()
	for low, err := range view.Scan(nil, nil) {
		high, backErr, ok := back()
		if err != nil || backErr != nil || !ok || bytes.Compare(low.Key, high.Key) > 0 {
			break
		}
		fmt.Printf("%s %s\n", low.Key, high.Key)
	}
	// Output:
	// a e
	// b d
	// c c
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
