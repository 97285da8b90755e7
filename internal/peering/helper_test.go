package peering

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a RecordStore that outlives its Peering. With err nothing more is stored.
type memory struct {
	mu     sync.Mutex
	err    error
	writes int
	Records
	admitted *transport.JoinResult
}

func (m *memory) Load() (Records, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.Records
	r.Peers = maps.Clone(r.Peers)
	return r, nil
}

func (m *memory) Save(c RecordChange) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	m.writes++
	m.Identity = *cmp.Or(c.Identity, &m.Identity)
	m.Credentials = *cmp.Or(c.Credentials, &m.Credentials)
	m.TLSMode = *cmp.Or(c.TLSMode, &m.TLSMode)
	m.admitted = cmp.Or(c.Admission, m.admitted)
	if c.Peer != nil {
		m.Peers[c.Node] = *c.Peer
	}
	return nil
}

var (
	quiet   = slog.New(slog.DiscardHandler)
	errDisk = errors.New("the disk is broken")
)

// node is a Peering under test.
type node struct {
	*Peering
	store   *memory
	members nexusraft.Membership
	failed  []error // what Options.Fail was told
}

const (
	testCluster nexusraft.ClusterID = 0xc1
	self        nexusraft.NodeID    = 7
)

// founded is what a directory that belongs to the cluster holds.
func founded() *memory {
	return &memory{Records: Records{
		Identity: Identity{Node: self, Cluster: testCluster, Incarnation: 3, Boots: []nexusraft.Boot{33, 32, 31}},
	}}
}

// open opens a directory.
func open(t *testing.T, m *memory, o Options) *node {
	t.Helper()
	if m.Peers == nil {
		m.Peers = make(map[nexusraft.NodeID]Peer)
	}
	n := &node{store: m}
	o.Store, o.Dir, o.Logger = m, "data", slog.New(slog.NewTextHandler(t.Output(), nil))
	o.Members = func() nexusraft.Membership { return n.members }
	o.Fail = func(err error) { n.failed = append(n.failed, err) }
	if o.Role == "" {
		o.Role = nexusraft.RoleMember
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	var err error
	if n.Peering, err = Open(o); err != nil {
		t.Fatal(err)
	}
	if err := n.Secure(); err != nil {
		t.Fatal(err)
	}
	n.Dial(transport.PeersOptions{})
	t.Cleanup(n.peers.Close)
	return n
}

// other is what a peer says of itself.
func other(node nexusraft.NodeID, incarnation nexusraft.Incarnation, boots ...nexusraft.Boot) transport.Identity {
	return transport.Identity{
		Cluster: testCluster, Node: node, Incarnation: incarnation, Boot: boots[0], Earlier: boots[1:], Address: "a:1",
	}
}

// must returns a value without which a test can't go on.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// authority is one that signs for nodes.
func authority(at time.Time) pki.Pair { return must(pki.NewCA(testCluster, at)) }

// issued are credentials of self by an authority, which is all that is believed.
func issued(ca pki.Pair, at time.Time) Credentials {
	request, key, err := pki.NewRequest()
	if err != nil {
		panic(err)
	}
	subject := pki.Subject{Cluster: testCluster, Node: self}
	cert := must(pki.SignNode(ca, request, subject, nexusraft.RoleMember, at, 90*24*time.Hour))
	return Credentials{Cert: cert, Key: key, Roots: ca.Cert}
}
