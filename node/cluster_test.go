package node_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

// words is the state machine of these tests: "key=value" sets a key and returns the value
// that was there before; "!text" fails with text after having written; "panic" panics.
type words struct{}

var errRefusedByWords = errors.New("words: refused")

// Alone implements nexusraft.Batched.
func (words) Alone([]byte) bool { return false }

func (words) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	text := string(cmd.Data)
	if text == "panic" {
		panic("asked to")
	}
	if text[0] == '!' {
		if err := tx.Set([]byte("half"), []byte("done")); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s", errRefusedByWords, text[1:])
	}
	var key, value string
	for i := range text {
		if text[i] == '=' {
			key, value = text[:i], text[i+1:]
			break
		}
	}
	old, _, err := tx.Get([]byte(key))
	if err != nil {
		return nil, err
	}
	old = append([]byte(nil), old...)
	if err := tx.Set([]byte("time"), binary.BigEndian.AppendUint64(nil, uint64(cmd.Time))); err != nil {
		return nil, err
	}
	return old, tx.Set([]byte(key), []byte(value))
}

// member is one running node of a test cluster.
type member struct {
	t      *testing.T
	config node.Config
	node   *node.Node
	stop   context.CancelFunc
	ended  chan error
}

// testWorkers is how many workers the nodes have: several on any machine, or as many as the variable says.
func testWorkers(t *testing.T) int {
	t.Helper()
	text := os.Getenv("NEXUS_RAFT_TEST_WORKERS")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func testConfig(t *testing.T, name string) node.Config {
	level := slog.LevelWarn
	if os.Getenv("NEXUS_RAFT_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	return node.Config{
		Dir: t.TempDir(), Name: name, StateMachine: words{},
		TickInterval: node.TestTick, Workers: testWorkers(t),
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level})).With("name", name),
	}
}

// listen returns a loopback listener; an address that was used before is taken again.
func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	var lis net.Listener
	eventually(t, "listen on "+address, func() (err error) {
		lis, err = net.Listen("tcp", address)
		return err
	})
	return lis
}

// start runs a node; it is stopped in order when the test ends.
func start(t *testing.T, c node.Config) *member {
	t.Helper()
	return startWith(t, c, nil)
}

// startWith starts a node with an application's services.
func startWith(t *testing.T, c node.Config, register func(grpc.ServiceRegistrar)) *member {
	t.Helper()
	return startServing(t, c, func(*node.Node) func(grpc.ServiceRegistrar) { return register })
}

// startServing starts a node with services that need the node.
func startServing(t *testing.T, c node.Config, services func(*node.Node) func(grpc.ServiceRegistrar)) *member {
	t.Helper()
	lis := listen(t, c.Advertise)
	c.Advertise = lis.Addr().String()
	n, err := node.Open(c)
	if err != nil {
		t.Fatalf("open %s: %v", c.Name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{t: t, config: c, node: n, stop: cancel, ended: make(chan error, 1)}
	go func() { m.ended <- n.Run(ctx, lis, services(n)) }()
	t.Cleanup(m.close)
	return m
}

func (m *member) close() {
	m.t.Helper()
	m.stop()
	select {
	case err := <-m.ended:
		if err != nil {
			m.t.Errorf("%s ended with %v", m.config.Name, err)
		}
		m.ended <- nil // for the cleanup that follows an explicit close
	case <-time.After(20 * time.Second):
		m.t.Fatalf("%s does not stop", m.config.Name)
	}
}

func (m *member) zone() *node.Zone {
	m.t.Helper()
	select {
	case <-m.node.Ready():
	case err := <-m.ended:
		m.ended <- nil
		m.t.Fatalf("%s ended before it was ready: %v", m.config.Name, err)
	case <-time.After(20 * time.Second):
		m.t.Fatalf("%s is not ready", m.config.Name)
	}
	z, err := m.node.Zone(nexusraft.RootZone)
	if err != nil {
		m.t.Fatal(err)
	}
	return z
}

func (m *member) status() nexusraft.ZoneStatus {
	m.t.Helper()
	s, err := m.zone().Status(m.t.Context())
	if err != nil {
		m.t.Fatalf("status of %s: %v", m.config.Name, err)
	}
	return s
}

// put proposes until the command is accepted; only what certainly was not appended is
// tried again.
func (m *member) put(key, value string) nexusraft.Result {
	m.t.Helper()
	var result nexusraft.Result
	eventually(m.t, "put "+key, func() (err error) {
		result, err = m.zone().ProposeOnce(m.t.Context(), nexusraft.RequestID{}, []byte(key+"="+value))
		return err
	})
	return result
}

// get reads linearizably.
func (m *member) get(key string) (value string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
	defer cancel()
	err := m.zone().Read(ctx, func(r nexusraft.Reader) error {
		b, _, err := r.Get([]byte(key))
		value = string(b)
		return err
	})
	if err != nil {
		m.t.Fatalf("get %s from %s: %v", key, m.config.Name, err)
	}
	return value
}

// eventually tries until f returns nil.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// found starts the first member of a new cluster.
func found(t *testing.T, c node.Config) *member {
	t.Helper()
	if _, err := node.Init(c); err != nil {
		t.Fatal(err)
	}
	m := start(t, c)
	eventually(t, "lead", func() error {
		if s := m.status(); s.State != nexusraft.Leader {
			return fmt.Errorf("%s is %s", c.Name, s.State)
		}
		return nil
	})
	return m
}

// join starts a second member and waits until it votes.
func join(t *testing.T, c node.Config, leader *member) *member {
	t.Helper()
	c.Join = []string{leader.config.Advertise}
	m := start(t, c)
	waitRole(t, m, nexusraft.RoleMember)
	return m
}

func waitRole(t *testing.T, m *member, want nexusraft.Role) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s becomes a %s", m.config.Name, want), func() error {
		if s := m.status(); s.Role != want {
			return fmt.Errorf("it is a %s", s.Role)
		}
		return nil
	})
}
