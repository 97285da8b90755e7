package witness

import (
	"context"
	"errors"
	"iter"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come; it never waits for it to pass.
const patience = 20 * time.Second

// fakeMember is a full node as far as a witness can tell: it speaks the true transport
// over loopback, and what it says is up to the test.
type fakeMember struct {
	t       *testing.T
	id      transport.Identity
	replica nexusraft.ReplicaID
	peers   *transport.Peers
	fromW   chan *raftpb.Message // what the witness has sent
	votes   chan struct{}        // something in it: the witness has asked for a vote

	mu   sync.Mutex // guards what follows
	join func(transport.JoinRequest) (transport.JoinResult, error)
	asks int
}

// newFakeMember serves until the test ends. It admits a witness as replica 3.
func newFakeMember(t *testing.T, replica nexusraft.ReplicaID) *fakeMember {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &fakeMember{
		t: t, replica: replica, fromW: make(chan *raftpb.Message, 1000), votes: make(chan struct{}, 1),
		id: transport.Identity{
			Cluster: testOrigin.Cluster, Node: nexusraft.NodeID(replica * 0x10), Incarnation: 5, Boot: 1,
			Address: lis.Addr().String(),
		},
	}
	m.join = m.admit
	m.peers = transport.NewPeers(m.identity, transport.PeersOptions{})
	server := grpc.NewServer(transport.ServerOptions()...)
	transport.NewServer(m.identity, transport.Handlers{Peer: m, Member: m}).Register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(lis) }()
	t.Cleanup(func() {
		m.peers.Close()
		server.Stop()
		<-done
	})
	return m
}

func (m *fakeMember) identity() transport.Identity { return m.id }

// members is the zone with the given node as its witness.
func (m *fakeMember) members(witness nexusraft.NodeID) nexusraft.Membership {
	return nexusraft.Membership{
		Shape: nexusraft.DefaultShape,
		Members: []nexusraft.Member{
			{Replica: 1, Node: 0x10, Address: m.id.Address, Role: nexusraft.RoleMember},
			{Replica: 2, Node: 0x20, Address: m.id.Address, Role: nexusraft.RoleMember},
			{Replica: 3, Node: witness, Address: "127.0.0.1:1", Role: nexusraft.RoleWitness},
		},
	}
}

func (m *fakeMember) admit(r transport.JoinRequest) (transport.JoinResult, error) {
	return transport.JoinResult{
		Cluster: m.id.Cluster, Zone: testOrigin.Zone, Replica: testOrigin.Replica, Membership: m.members(r.Peer.Node),
	}, nil
}

func (m *fakeMember) onJoin(f func(transport.JoinRequest) (transport.JoinResult, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.join = f
}

// Join implements transport.MemberHandler.
func (m *fakeMember) Join(_ context.Context, r transport.JoinRequest) (transport.JoinResult, error) {
	m.mu.Lock()
	m.asks++
	join := m.join
	m.mu.Unlock()
	return join(r)
}

func (m *fakeMember) asked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asks
}

// Hello implements transport.PeerHandler.
func (m *fakeMember) Hello(transport.Identity) error { return nil }

// Receive implements transport.PeerHandler.
func (m *fakeMember) Receive(_ nexusraft.NodeID, msgs []transport.Message) {
	for _, x := range msgs {
		if x.Zone == 0 {
			continue // the witness's signal
		}
		message := &raftpb.Message{}
		if err := proto.Unmarshal(x.Data, message); err != nil {
			m.t.Errorf("the witness sent what can't be read: %v", err)
			continue
		}
		m.fromW <- message
	}
}

// Leaving implements transport.PeerHandler.
func (m *fakeMember) Leaving(nexusraft.NodeID) {}

// RequestVote implements transport.PeerHandler: a witness must never ask.
func (m *fakeMember) RequestVote(context.Context, nexusraft.NodeID, []transport.Vote) ([]transport.VoteResult, error) {
	select {
	case m.votes <- struct{}{}:
	default:
	}
	return nil, errNotFaked
}

var errNotFaked = errors.New("the test does not expect this call")

// Status implements transport.PeerHandler.
func (m *fakeMember) Status(context.Context, nexusraft.ZoneID) (nexusraft.NodeStatus, error) {
	return nexusraft.NodeStatus{}, errNotFaked
}

// InstallSnapshot implements transport.MemberHandler.
func (m *fakeMember) InstallSnapshot(
	context.Context, nexusraft.NodeID, transport.SnapshotHeader, iter.Seq2[[]byte, error],
) error {
	return errNotFaked
}

// Propose implements transport.MemberHandler.
func (m *fakeMember) Propose(context.Context, transport.Proposal) (nexusraft.Result, error) {
	return nexusraft.Result{}, errNotFaked
}

// message begins a Raft message from this member to the witness.
func (m *fakeMember) message(typ raftpb.MessageType, term uint64) *raftpb.Message {
	return &raftpb.Message{
		Type: typ.Enum(), From: new(uint64(m.replica)), To: new(uint64(testOrigin.Replica)),
		Term: new(term),
	}
}

// send sends x once, over a stream that is open.
func (m *fakeMember) send(w *running, x *raftpb.Message) {
	m.t.Helper()
	data, err := proto.Marshal(x)
	if err != nil {
		m.t.Fatal(err)
	}
	m.peers.SetAddress(w.node(), w.address)
	m.await("a stream to the witness", func() bool {
		return slices.ContainsFunc(m.peers.Stats(), func(s transport.PeerStats) bool {
			return s.Peer == w.node() &&
				s.Connected
		})
	})
	m.peers.Send(w.node(), transport.Append, transport.Message{Zone: testOrigin.Zone, Data: data})
}

func (m *fakeMember) await(what string, ok func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("no %s within %v", what, patience)
		}
	}
}

// exchange sends x and returns the witness's answer of the type wanted.
func (m *fakeMember) exchange(w *running, x *raftpb.Message, want raftpb.MessageType) *raftpb.Message {
	m.t.Helper()
	m.send(w, x)
	deadline := time.After(patience)
	for {
		select {
		case got := <-m.fromW:
			if got.GetType() == want {
				return got
			}
		case <-deadline:
			m.t.Fatalf("no %v from the witness within %v", want, patience)
		}
	}
}

// vote asks the witness for its vote.
func (m *fakeMember) vote(w *running, v transport.Vote) (transport.VoteResult, error) {
	m.t.Helper()
	v.Zone, v.From, v.To = testOrigin.Zone, m.replica, testOrigin.Replica
	m.peers.SetAddress(w.node(), w.address)
	type answer struct {
		results []transport.VoteResult
		err     error
	}
	answers := make(chan answer, 1)
	for deadline := time.Now().Add(patience); ; {
		m.peers.RequestVote(w.node(), []transport.Vote{v}, func(rs []transport.VoteResult,
			err error,
		) {
			answers <- answer{rs, err}
		})
		a := <-answers
		if len(a.results) == 1 {
			return a.results[0], nil
		}
		if time.Now().After(deadline) || w.ended() {
			return transport.VoteResult{}, a.err
		}
		time.Sleep(10 * time.Millisecond) // not connected yet
	}
}

// running is a witness that runs in the test's process, its ticks made by hand.
type running struct {
	*Witness
	t       *testing.T
	address string
	ticks   chan time.Time
	cancel  context.CancelFunc
	done    chan struct{}
	err     error // of Run; read it after done is closed
}

// start opens a witness and runs it until the test ends.
func start(t *testing.T, c Config) *running {
	t.Helper()
	ticks := make(chan time.Time)
	c.ticks = ticks
	w, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Witness: w, t: t, address: lis.Addr().String(), ticks: ticks, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = w.Run(ctx, lis)
	}()
	t.Cleanup(func() {
		cancel()
		<-r.done
	})
	return r
}

func (r *running) node() nexusraft.NodeID { return r.peering.Self().Node }

func (r *running) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// awaitReady waits until the witness is admitted and serves.
func (r *running) awaitReady() *running {
	r.t.Helper()
	select {
	case <-r.Ready():
	case <-r.done:
		r.t.Fatalf("Run ended before it was ready: %v", r.err)
	case <-time.After(patience):
		r.t.Fatalf("not ready within %v", patience)
	}
	return r
}

// awaitEnd waits until Run has returned.
func (r *running) awaitEnd() error {
	r.t.Helper()
	select {
	case <-r.done:
		return r.err
	case <-time.After(patience):
		r.t.Fatalf("Run has not ended within %v", patience)
		return nil
	}
}

// stop ends Run in order.
func (r *running) stopInOrder() {
	r.t.Helper()
	r.cancel()
	if err := r.awaitEnd(); err != nil {
		r.t.Fatalf("an orderly stop ended with %v", err)
	}
}

// tick lets time go on for the worker.
func (r *running) tick(n int) {
	r.t.Helper()
	for range n {
		select {
		case r.ticks <- time.Time{}:
		case <-r.stopped:
			r.t.Fatal("the worker has ended")
		case <-time.After(patience):
			r.t.Fatalf("the worker has taken no tick within %v", patience)
		}
	}
}

// zone returns the witness's view of the root zone, once all ticks are done with.
func (r *running) zone() nexusraft.ZoneStatus {
	r.t.Helper()
	st, err := r.Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	i := slices.IndexFunc(st.Zones, func(z nexusraft.ZoneStatus) bool { return z.Zone == testOrigin.Zone })
	if i < 0 {
		r.t.Fatalf("status has no root zone: %+v", st)
	}
	return st.Zones[i]
}

// follow makes the witness a follower of m in a term, its log at index 10.
func (m *fakeMember) follow(w *running, term uint64) {
	m.t.Helper()
	snap := testSnapshot(10, 1)
	snap.Data = m.members(w.node()).Encode()
	x := m.message(raftpb.MsgSnap, term)
	x.Snapshot = snap
	if got := m.exchange(w, x, raftpb.MsgAppResp); got.GetIndex() != 10 || got.GetReject() {
		m.t.Fatalf("snapshot answered by %v", got)
	}
}

// joined returns a member and a witness on f that has joined it.
func joined(t *testing.T, f FS) (*fakeMember, *running) {
	t.Helper()
	m := newFakeMember(t, 1)
	return m, start(t, Config{Dir: "d", FS: f, Join: []string{m.id.Address}}).awaitReady()
}

// zoneFile reports whether a file has what was voted in zones.
func zoneFile(name string) bool {
	base := filepath.Base(name)
	return strings.HasPrefix(base, logPrefix) || strings.HasPrefix(base, "zones.")
}

func (m *fakeMember) ChangeMembership(
	context.Context, nexusraft.ZoneID, nexusraft.MembershipChange,
) (nexusraft.Membership, error) {
	return nexusraft.Membership{}, errors.New("no test needs it")
}

func (m *fakeMember) TransferLeader(context.Context, nexusraft.ZoneID, nexusraft.NodeID) (nexusraft.NodeID, error) {
	return 0, errors.New("no test needs it")
}
