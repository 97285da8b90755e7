package node_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
	"testing"

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

// A program embeds a node with a state machine of its own. This cluster has one member;
// a second one would be opened with Config.Join naming the first one's address.
func Example() {
	dir := temporary()
	defer os.RemoveAll(dir)

	config := node.Config{Dir: dir, Name: "n1", StateMachine: counters{}}
	_, err := node.Init(config) // once in the life of the cluster
	check(err)
	n, err := node.Open(config)
	check(err)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx, lis, nil) }()
	check(n.AwaitReady(ctx))

	zone, err := n.Zone(nexusraft.RootZone)
	check(err)
	_, err = zone.Propose(ctx, nexusraft.RequestID{}, []byte("visits")) // waits for a leader
	check(err)
	check(zone.Read(ctx, func(r nexusraft.Reader) error { // linearizable
		visits, err := count(r, []byte("visits"))
		fmt.Println("visits:", visits)
		return err
	}))
	stop()
	check(<-ended)

	// Output:
	// visits: 1
}

func temporary() string {
	dir, err := os.MkdirTemp("", "counters")
	check(err)
	return dir
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// TestEmbeddingPage compares the program in docs/embedding.md with the one above.
func TestEmbeddingPage(t *testing.T) {
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/embedding.md")
	if err != nil {
		t.Fatal(err)
	}
	part := func(from, to string) string {
		_, rest, found := strings.Cut(string(source), from)
		text, _, ended := strings.Cut(rest, to)
		if !found || !ended {
			t.Fatalf("nothing from %q to %q", from, to)
		}
		return from + text
	}
	for _, code := range []string{
		part("type counters struct{}", "\n// A program"),
		part("\tconfig := node.Config{", "\n\t// Output:"),
	} {
		if !strings.Contains(flat(string(page)), flat(strings.TrimSpace(code))) {
			t.Errorf("docs/embedding.md lacks:\n%s", code)
		}
	}
}

// flat is code without its indentation.
func flat(code string) string { return strings.ReplaceAll(code, "\t", "") }
