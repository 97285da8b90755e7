package node_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

// counters is a state machine of one's own: a command is a name, and applying it counts
// that name up and returns the new count. It looks at nothing but its arguments.
type counters struct{}

func (counters) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	n, err := count(tx, cmd.Data)
	if err != nil {
		return nil, err
	}
	value := binary.BigEndian.AppendUint64(nil, n+1)
	return value, tx.Set(cmd.Data, value)
}

func count(r nexusraft.Reader, name []byte) (uint64, error) {
	value, ok, err := r.Get(name)
	if err != nil || !ok {
		return 0, err
	}
	return binary.BigEndian.Uint64(value), nil
}

// countUp proposes until a leader takes the command: right after a start there is none yet,
// and ErrNotLeader says that nothing was appended.
func countUp(ctx context.Context, zone *node.Zone, name string) error {
	for {
		_, err := zone.Propose(ctx, nexusraft.RequestID{}, []byte(name))
		if !errors.Is(err, nexusraft.ErrNotLeader) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// A program embeds a node with a state machine of its own. This cluster has one member;
// a second one would be opened with Config.Join naming the first one's address.
func Example() {
	dir, err := os.MkdirTemp("", "counters")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	config := node.Config{Dir: dir, Name: "n1", StateMachine: counters{}}
	if _, err := node.Init(config); err != nil { // once in the life of the cluster
		log.Fatal(err)
	}
	n, err := node.Open(config)
	if err != nil {
		log.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx, lis, nil) }()
	<-n.Ready()

	zone, err := n.Zone(nexusraft.RootZone)
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		if err := countUp(ctx, zone, "visits"); err != nil {
			log.Fatal(err)
		}
	}
	err = zone.Read(ctx, func(r nexusraft.Reader) error { // linearizable
		visits, err := count(r, []byte("visits"))
		fmt.Println("visits:", visits)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	stop()
	fmt.Println("stopped:", <-ended)

	// Output:
	// visits: 3
	// stopped: <nil>
}
