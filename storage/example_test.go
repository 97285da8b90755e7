package storage_test

import (
	"fmt"
	"log"

	"github.com/nexi-lab/nexus-raft/storage"
)

func Example() {
	s, err := storage.Open("data", &storage.Options{FS: storage.NewMemFS()}) // without FS: on the disk
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	users, err := s.Tree("users")
	if err != nil {
		log.Fatal(err)
	}
	byAge, err := s.Tree("users by age")
	if err != nil {
		log.Fatal(err)
	}

	// Both trees change, or none.
	b := s.NewBatch()
	defer b.Close()
	for name, age := range map[string]string{"ada": "36", "bob": "24", "eve": "57"} {
		if err := b.Set(users, []byte(name), []byte(age)); err != nil {
			log.Fatal(err)
		}
		if err := b.Set(byAge, []byte(age), []byte(name)); err != nil {
			log.Fatal(err)
		}
	}
	if err := b.Commit(true); err != nil { // on the disk when it returns
		log.Fatal(err)
	}

	for p, err := range byAge.ScanReverse([]byte("30"), nil) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s is %s\n", p.Value, p.Key)
	}
	// Output:
	// eve is 57
	// ada is 36
}

func ExampleOverlay() {
	s, err := storage.Open("data", &storage.Options{FS: storage.NewMemFS()})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	t, err := s.Tree("state")
	if err != nil {
		log.Fatal(err)
	}

	flush := storage.NewOverlay(t)
	command := storage.NewOverlay(flush)
	if err := command.Set([]byte("k"), []byte("v")); err != nil {
		log.Fatal(err)
	}
	_, before, _ := flush.Get([]byte("k"))
	command.MergeInto(flush) // the command has succeeded
	value, _, _ := flush.Get([]byte("k"))
	_, stored, _ := t.Get([]byte("k"))
	fmt.Printf("%v, then %s; stored: %v\n", before, value, stored)
	// Output: false, then v; stored: false
}
