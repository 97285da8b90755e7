// Command locks is a lock service, and a storage that refuses what an owner writes too late. See
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
	"sync"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: locks DIRECTORY; an empty or new one")
	}
	if err := run(os.Args[1], os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run plays the lock service in a cluster of one member.
func run(dir string, out io.Writer) (err error) {
	var ahead atomic.Int64 // of this machine's clock: the play waits for no lease
	config := node.Config{
		Dir: dir, Name: "n1", StateMachine: service{},
		Machines: map[string]nexusraft.StateMachine{"locks": service{}},
		Clock:    func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
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
	zone, err := n.CreateZone(ctx, "locks", node.ZoneSpec{Machine: "locks"})
	if err != nil {
		return err
	}
	return play(ctx, zone, func(d time.Duration) { ahead.Add(int64(d)) }, out)
}

// ledger stands for the storage that a lock is for. It is elsewhere, knows nothing of leases, and
// takes what the newest owner writes. It may be used from many goroutines.
type ledger struct {
	mu     sync.Mutex
	newest uint64 // the highest token that has written
	text   string
}

var errOldToken = errors.New("an older token than one that has written")

// Write replaces the text, unless a later owner has written.
func (l *ledger) Write(token uint64, text string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if token < l.newest {
		return errOldToken
	}
	l.newest, l.text = token, text
	return nil
}

// play has two owners write under a lock, of which the first falls silent for longer than its
// lease.
func play(ctx context.Context, zone *node.Zone, pass func(time.Duration), out io.Writer) error {
	propose := func(command []byte) (Grant, error) {
		result, err := zone.Propose(ctx, nexusraft.RequestID{}, command)
		if err != nil {
			return Grant{}, err
		}
		return ParseGrant(result.Data)
	}
	const name, lease = "ledger", 10 * time.Minute
	var l ledger
	first, err := propose(Acquire(name, "ann", lease))
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "ann has the lock; she writes:", l.Write(first.Token, "by ann"))
	if _, err = propose(Acquire(name, "bob", lease)); !errors.Is(err, nexusraft.ErrRefused) {
		return fmt.Errorf("bob was not refused: %w", err)
	}
	fmt.Fprintln(out, "bob has to wait; ann falls silent for an hour")
	pass(time.Hour)
	second, err := propose(Acquire(name, "bob", lease))
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "bob has the lock, with a higher token:", second.Token > first.Token)
	fmt.Fprintln(out, "bob writes:", l.Write(second.Token, "by bob"))
	fmt.Fprintln(out, "ann believes that she has the lock, and writes:", l.Write(first.Token, "by ann"))
	if _, err := propose(Renew(name, first.Token, lease)); !errors.Is(err, nexusraft.ErrRefused) {
		return fmt.Errorf("ann was not refused: %w", err)
	}
	if second, err = propose(Renew(name, second.Token, lease)); err != nil {
		return err
	}
	if _, err := zone.Propose(ctx, nexusraft.RequestID{}, Release(name, second.Token)); err != nil {
		return err
	}
	fmt.Fprintln(out, "bob has released the lock; the ledger has:", l.text)
	return nil
}
