package ttl_test

import (
	"fmt"
	"log"
	"time"

	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/storage/ttl"
)

// open returns a store in memory; without FS it would be on the disk.
func open() *storage.Store {
	s, err := storage.Open("data", &storage.Options{FS: storage.NewMemFS()})
	if err != nil {
		log.Fatal(err)
	}
	return s
}

// A cache that outlives restarts. Nothing in it is worth a wait for the disk.
func Example_cache() {
	s := open()
	defer s.Close()
	cache, err := ttl.Open(s, "pages", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()

	render := func(url string) []byte {
		fmt.Println("rendering", url)
		return []byte("<h1>" + url + "</h1>")
	}
	page := func(url string) ([]byte, error) {
		if p, ok, err := cache.Get([]byte(url)); ok || err != nil {
			return p, err
		}
		p := render(url)
		return p, cache.Set([]byte(url), p, 10*time.Minute, storage.NoSync)
	}
	for range 2 {
		p, err := page("/home")
		fmt.Printf("%s %v\n", p, err)
	}
	// Output:
	// rendering /home
	// <h1>/home</h1> <nil>
	// <h1>/home</h1> <nil>
}

// Sessions that end half an hour after they were last used.
func Example_sessions() {
	now := time.Now()
	s := open()
	defer s.Close()
	// without Clock: the real time
	sessions, err := ttl.Open(s, "sessions", &ttl.Options{Clock: func() time.Time { return now }})
	if err != nil {
		log.Fatal(err)
	}
	defer sessions.Close()
	const idle = 30 * time.Minute
	id := []byte("c0ffee")

	if err := sessions.Set(id, []byte("ada"), idle); err != nil { // she has logged in
		log.Fatal(err)
	}
	request := func() {
		alive, err := sessions.Touch(id, idle, storage.NoSync)
		fmt.Println("logged in:", alive, err)
	}
	now = now.Add(29 * time.Minute)
	request()
	now = now.Add(29 * time.Minute)
	request()
	now = now.Add(30 * time.Minute)
	request()
	// Output:
	// logged in: true <nil>
	// logged in: true <nil>
	// logged in: false <nil>
}

// A lock whose holder may crash: it is free again after a while.
func ExampleTree_CompareAndSwap() {
	s := open()
	defer s.Close()
	locks, err := ttl.Open(s, "locks", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer locks.Close()
	key := []byte("nightly report")

	_, mine, err := locks.CompareAndSwap(key, nil, []byte("me"), time.Minute)
	fmt.Println("I have it:", mine, err)
	holder, theirs, err := locks.CompareAndSwap(key, nil, []byte("them"), time.Minute)
	fmt.Printf("they have it: %v, %s has, %v\n", theirs, holder, err)
	_, released, err := locks.CompareAndSwap(key, []byte("me"), nil, time.Minute)
	fmt.Println("released:", released, err)
	// Output:
	// I have it: true <nil>
	// they have it: false, me has, <nil>
	// released: true <nil>
}
