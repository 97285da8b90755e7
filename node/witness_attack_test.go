package node_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
	"github.com/nexi-lab/nexus-raft/witness"
)

// captive is a cluster of two members and a witness whose disk somebody has: the witness itself is
// down, and evil speaks with its certificate.
type captive struct {
	t                *testing.T
	leader, follower *member
	witness          nexusraft.Member
	security         *mtls.TLS
	evil             *transport.Peers
}

func captureWitness(t *testing.T) *captive {
	t.Helper()
	c := &captive{t: t, leader: found(t, secureConfig(t, "n1"))}
	second := secureConfig(t, "n2")
	second.JoinToken = newToken(t, c.leader, nexusraft.RoleMember)
	c.follower = join(t, second, c.leader)
	stop := runWitness(t, witness.Config{
		Dir: t.TempDir(), ClusterTLS: true, JoinToken: newToken(t, c.leader, nexusraft.RoleWitness),
		Join: []string{c.leader.config.Advertise}, TickInterval: node.TestTick,
	})
	eventually(t, "a witness in the records of both", func() error {
		for _, m := range []*member{c.leader, c.follower} {
			w, ok := m.status().Membership.Node(witnessIn(m.status().Membership))
			if !ok {
				return errors.New("none yet")
			}
			c.witness = w
		}
		return nil
	})
	c.security = stolen(t, c.leader, c.witness.Node)
	stop()
	c.evil = c.speak(c.security, c.witness.Node)
	return c
}

func witnessIn(m nexusraft.Membership) nexusraft.NodeID {
	for _, x := range m.Members {
		if x.Role == nexusraft.RoleWitness {
			return x.Node
		}
	}
	return 0
}

// speak returns what sends as a node, in a life that is later than any before, and says that it is
// no witness.
func (c *captive) speak(security *mtls.TLS, id nexusraft.NodeID) *transport.Peers {
	self := transport.Identity{
		Cluster: c.leader.node.Cluster(), Node: id, Incarnation: 1 << 20, Boot: 1,
		Address: "127.0.0.1:1",
	}
	p := transport.NewPeers(func() transport.Identity { return self }, transport.PeersOptions{TLS: security})
	c.t.Cleanup(p.Close)
	for _, m := range []*member{c.leader, c.follower} {
		p.SetAddress(m.node.ID(), m.config.Advertise)
	}
	return p
}

// makeAdmin is a forged entry: mallory is to be an admin of everything.
func makeAdmin(t *testing.T) []byte {
	t.Helper()
	command, err := proto.Marshal(&pb.NodeCommand{Kind: &pb.NodeCommand_SetRole{SetRole: &pb.SetRole{
		Name: "mallory",
		Role: &pb.ZoneRole{Role: pb.AccessRole_ACCESS_ROLE_ADMIN},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return zone.Envelope{
		Proposal: zone.ProposalID{Replica: 7, Incarnation: 1, Sequence: 1}, Time: time.Now().UnixNano(),
		Own: true, Command: command,
	}.Encode()
}

// forgedAppend is an append of a leader of the next term, behind all that a member has.
func forgedAppend(t *testing.T, from nexusraft.ReplicaID, to nexusraft.ZoneStatus, data []byte) *raftpb.Message {
	term, last := uint64(to.Term)+1, uint64(to.LastIndex)
	return &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: new(uint64(from)), To: new(uint64(to.Replica)), Term: new(term),
		Index: new(last), LogTerm: new(uint64(to.Term)), Commit: new(last + 1),
		Entries: []*raftpb.Entry{{Type: raftpb.EntryNormal.Enum(), Term: new(term), Index: new(last + 1), Data: data}},
	}
}

func (c *captive) send(by *transport.Peers, to *member, m *raftpb.Message) {
	c.t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	by.Send(to.node.ID(), transport.Append, transport.Message{Zone: nexusraft.RootZone, Data: data})
}

// works checks that nothing has changed: writes go on, the terms are as they were, and mallory is
// nobody.
func (c *captive) works(term nexusraft.Term) {
	c.t.Helper()
	eventually(c.t, "a write through each member", func() error {
		for _, m := range []*member{c.leader, c.follower} {
			ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
			_, err := m.zone().ProposeOnce(ctx, nexusraft.RequestID{}, []byte("after=x"))
			cancel()
			if err != nil {
				return err
			}
		}
		return nil
	})
	for _, m := range []*member{c.leader, c.follower} {
		var list []nexusraft.Principal
		eventually(c.t, "read who may do what", func() (err error) {
			ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
			defer cancel()
			list, err = m.node.Credentials().Access(ctx)
			return err
		})
		for _, p := range list {
			if p.Name == "mallory" {
				c.t.Errorf("%s believes that mallory has the roles %v, which no member has proposed", m.config.Name, p.Roles)
			}
		}
		if got := m.status().Term; term != 0 && got != term {
			c.t.Errorf("%s is at term %d, want %d as before", m.config.Name, got, term)
		}
	}
}

// TestWitnessIsTrustedWithVotesOnly is I13 with the certificate of a witness: whatever its holder
// sends, in its own name or another one, changes nothing but what votes can.
func TestWitnessIsTrustedWithVotesOnly(t *testing.T) {
	c := captureWitness(t)
	t.Run("append", c.appends)
	t.Run("elected", c.stands)
	t.Run("snapshot", c.sendsSnapshots)
	t.Run("reads", c.confirmsReads)
	t.Run("terms", c.endsTerms)
}

func (c *captive) appends(t *testing.T) {
	term := c.follower.status().Term
	for _, m := range []*member{c.leader, c.follower} {
		for _, from := range []nexusraft.ReplicaID{c.witness.Replica, 0x6666} {
			for range 5 {
				c.send(c.evil, m, forgedAppend(t, from, m.status(), makeAdmin(t)))
			}
			beat := forgedAppend(t, from, m.status(), nil)
			beat.Type, beat.Entries = raftpb.MsgHeartbeat.Enum(), nil
			c.send(c.evil, m, beat) // knows of more than the log has: a member that believed it would stop for good
			beat.Type, beat.Commit = raftpb.MsgTimeoutNow.Enum(), nil
			c.send(c.evil, m, beat)
		}
	}
	c.arrived()
	c.works(term)
}

// arrived returns once what was sent before has been looked at: a vote call goes the same way,
// after it.
func (c *captive) arrived() {
	c.t.Helper()
	for _, m := range []*member{c.leader, c.follower} {
		eventually(c.t, "all that was sent is gone", func() error {
			for _, s := range c.evil.Stats() {
				if s.Peer == m.node.ID() && (!s.Connected || s.Queued > 0) {
					return fmt.Errorf("%+v", s)
				}
			}
			return nil
		})
		c.ask(m, 1)
	}
}

// ask asks a member for its vote, as the witness's replica, in the way of a transfer of leadership.
func (c *captive) ask(m *member, ahead nexusraft.Term) transport.VoteResult {
	c.t.Helper()
	s := m.status()
	var result transport.VoteResult
	eventually(c.t, "an answer to a request for a vote", func() error {
		got := make(chan error, 1)
		c.evil.RequestVote(m.node.ID(), []transport.Vote{{
			Zone: nexusraft.RootZone, From: c.witness.Replica, To: s.Replica, Term: s.Term + ahead,
			LastIndex: s.LastIndex + 5, LastTerm: s.Term, Context: []byte("CampaignTransfer"),
		}}, func(rs []transport.VoteResult, err error) {
			if err == nil && len(rs) != 1 {
				err = fmt.Errorf("%d answers", len(rs))
			}
			if err == nil {
				result = rs[0]
			}
			got <- err
		})
		return <-got
	})
	return result
}

func (c *captive) stands(t *testing.T) {
	term := c.follower.status().Term
	for _, m := range []*member{c.leader, c.follower} {
		if r := c.ask(m, 1); r.Outcome != transport.VoteIgnored {
			t.Errorf("%s has answered the witness's candidacy: %+v", m.config.Name, r)
		}
	}
	c.works(term)
}

func (c *captive) sendsSnapshots(t *testing.T) {
	s := c.follower.status()
	for _, from := range []nexusraft.ReplicaID{c.witness.Replica, 0x6666} {
		message, err := proto.Marshal(&raftpb.Message{
			Type: raftpb.MsgSnap.Enum(), From: new(uint64(from)), To: new(uint64(s.Replica)), Term: new(uint64(s.Term) + 1),
			Snapshot: &raftpb.Snapshot{Data: s.Membership.Encode(), Metadata: &raftpb.SnapshotMetadata{
				Index: new(uint64(s.Commit) + 1000), Term: new(uint64(s.Term) + 1),
				ConfState: &raftpb.ConfState{Voters: []uint64{
					uint64(c.leader.status().Replica), uint64(s.Replica),
					uint64(c.witness.Replica),
				}},
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		sent := 0
		err = transport.SendSnapshot(ctx, c.evil, c.follower.node.ID(), transport.Snapshot{
			SnapshotHeader: transport.SnapshotHeader{
				Zone: nexusraft.RootZone, From: from, To: s.Replica, Index: s.Commit + 1000,
				Term: s.Term + 1, Message: message,
			},
			State: func(uint64) iter.Seq2[[]byte, error] {
				return func(yield func([]byte, error) bool) {
					for sent < 100<<20 && yield(make([]byte, 256<<10), nil) {
						sent += 256 << 10
					}
				}
			},
		})
		cancel()
		// What gRPC and the sender have on their way may have left.
		if !errors.Is(err, nexusraft.ErrRefused) || sent > 4<<20 {
			t.Errorf("%d bytes of a snapshot of %v went, then: %v; want ErrRefused at once", sent, from, err)
		}
	}
	c.works(s.Term)
}

// An answer to a read that only the leader may give would let a follower serve what is old.
func (c *captive) confirmsReads(t *testing.T) {
	s := c.follower.status()
	for _, typ := range []raftpb.MessageType{raftpb.MsgReadIndex, raftpb.MsgReadIndexResp} {
		c.send(c.evil, c.follower, &raftpb.Message{
			Type: typ.Enum(), From: new(uint64(c.witness.Replica)), To: new(uint64(s.Replica)), Term: new(uint64(s.Term)),
			Index: new(uint64(1)), Entries: []*raftpb.Entry{{Data: []byte("read")}},
		})
	}
	c.arrived()
	c.works(s.Term)
}

// One answer with the highest term of all, and a vote that is asked for in it: elections go on.
func (c *captive) endsTerms(t *testing.T) {
	for _, typ := range []raftpb.MessageType{
		raftpb.MsgHeartbeatResp, raftpb.MsgAppResp, raftpb.MsgVoteResp,
		raftpb.MsgPreVoteResp,
	} {
		for _, m := range []*member{c.leader, c.follower} {
			c.send(c.evil, m, &raftpb.Message{
				Type: typ.Enum(), From: new(uint64(c.witness.Replica)), To: new(uint64(m.status().Replica)),
				Term: new(uint64(1 << 62)), Reject: new(true),
			})
		}
	}
	c.arrived()
	c.works(0)
	for _, m := range []*member{c.leader, c.follower} {
		if term := m.status().Term; term > 1<<20 {
			t.Errorf("%s is at term %d", m.config.Name, term)
		}
	}
}

// TestCertificatesNameTheRole: what the authority signs says whether a node holds data, whatever
// the node itself asks for.
func TestCertificatesNameTheRole(t *testing.T) {
	c := captureWitness(t)
	for id, want := range map[nexusraft.NodeID]nexusraft.Role{
		c.witness.Node:       nexusraft.RoleWitness,
		c.follower.node.ID(): nexusraft.RoleMember,
	} {
		request, _, err := pki.NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		asks := transport.RenewRequest{Node: id, CertificateRequest: request}
		renewal, err := c.leader.node.Issuer().Renew(t.Context(), asks)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := pki.Certificates(renewal.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if got := pki.RoleOf(certs[0]); got != want {
			t.Errorf("the certificate of node %v says %q, want %q", id, got, want)
		}
	}
}

// A witness is removed while somebody has a stream open with its certificate: the stream ends, and
// so does its connection, and nothing counts that comes by it meanwhile, on the leader and on the
// follower.
func TestRemovalEndsStreams(t *testing.T) {
	c := captureWitness(t)
	streams := make(map[*member]pb.RaftTransport_ExchangeClient)
	conns := make(map[*member]*grpc.ClientConn)
	for _, m := range []*member{c.leader, c.follower} {
		conns[m] = secureConn(t, m, c.security)
		stream, err := pb.NewRaftTransportClient(conns[m]).Exchange(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = stream.Send(&pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Hello{Hello: &pb.Hello{
			Protocol: transport.ProtocolVersion, ClusterId: uint64(c.leader.node.Cluster()), NodeId: uint64(c.witness.Node),
			ToNodeId:    uint64(m.node.ID()),
			Incarnation: 1 << 20, Boot: 1, Address: "127.0.0.1:1", Witness: true, // minor 0: no pings are expected
		}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		streams[m] = stream
	}
	removeNode(t, c.witness.Node, c.leader, c.follower)
	for m, stream := range streams {
		data, err := proto.Marshal(forgedAppend(t, 0x6666, m.status(), makeAdmin(t)))
		if err != nil {
			t.Fatal(err)
		}
		frame := &pb.Frame{Messages: []*pb.Envelope{{Zone: 1, Message: data}}}
		// It may have ended by now.
		_ = stream.Send(&pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Frame{Frame: frame}})
		ended := make(chan error, 1)
		go func() {
			_, err := stream.Recv()
			ended <- err
		}()
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s goes on with the stream", m.config.Name)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s has not ended the stream within 20 s", m.config.Name)
		}
		eventually(t, "the connection has ended", func() error {
			if s := conns[m].GetState(); s == connectivity.Ready {
				return fmt.Errorf("it is %v", s)
			}
			return nil
		})
	}
	c.works(0)
}
