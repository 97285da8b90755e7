package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
	"github.com/nexi-lab/nexus-raft/witness"
)

// stolen returns TLS with a certificate of a node, as somebody has it who was on its disk.
func stolen(t *testing.T, m *member, id nexusraft.NodeID) *mtls.TLS {
	t.Helper()
	request, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	renewal, err := m.node.Issuer().Renew(t.Context(), transport.RenewRequest{Node: id, CertificateRequest: request})
	if err != nil {
		t.Fatal(err)
	}
	c, err := mtls.Issued(pki.Pair{Cert: renewal.Certificate, Key: key}, nil,
		pki.Subject{Cluster: m.node.Cluster(), Node: id})
	if err != nil {
		t.Fatal(err)
	}
	return mtls.NewTLS(func() (mtls.Certificates, error) { return c, nil })
}

func secureConn(t *testing.T, m *member, security *mtls.TLS) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+m.config.Advertise,
		append(transport.DialOptions(), grpc.WithTransportCredentials(security.ClientCredentials(m.node.ID())))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// The certificate of a node that was removed is good for weeks, and of no use at once.
func TestCertificateOfARemovedNode(t *testing.T) {
	t.Parallel()
	founder := found(t, secureConfig(t, "n1"))
	var nodes []*member
	for _, name := range []string{"n2", "n3"} {
		c := secureConfig(t, name)
		c.JoinToken, c.Join = newToken(t, founder, nexusraft.RoleMember), []string{founder.config.Advertise}
		m := start(t, c)
		m.zone()
		nodes = append(nodes, m)
		if name == "n2" {
			waitRole(t, m, nexusraft.RoleMember)
		}
	}
	third := nodes[1]
	id := third.node.ID()
	security := stolen(t, founder, id)
	live := pb.NewClusterClient(secureConn(t, founder, security))
	said, err := live.Status(t.Context(), &pb.StatusRequest{})
	if err != nil {
		t.Fatalf("before it was removed: %v", err)
	}
	if left := time.Until(said.GetStatus().GetCertificateUntil().AsTime()); left < 89*day || left > 91*day {
		t.Errorf("its certificate is good for %v, want 90 days", left)
	}
	third.close()
	removeNode(t, id, founder, nodes[0])
	for name, conn := range map[string]pb.ClusterClient{
		"a connection from before": live,
		"a new one":                pb.NewClusterClient(secureConn(t, founder, security)),
	} {
		// The removal ends the connection: a call that finds it so is made again on another one.
		eventually(t, "status by "+name, func() error {
			_, err := conn.Status(t.Context(), &pb.StatusRequest{})
			switch {
			case err == nil:
				return errors.New("it has not heard of the removal")
			case status.Code(err) == codes.Unavailable:
				return err
			case status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "was removed"):
				t.Errorf("status by %s: got %v, want PermissionDenied", name, err)
			}
			return nil
		})
		if resp, err := conn.Renew(t.Context(), &pb.RenewRequest{}); err == nil && resp.GetError() == nil {
			t.Errorf("renewal by %s: got %v, want it refused", name, resp)
		}
	}
}

// A witness that was broken into must not get what a witness doesn't have: neither by letting a
// member of its own in, nor from its disk.
func TestWitnessGetsNoAuthority(t *testing.T) {
	t.Parallel()
	founder := found(t, secureConfig(t, "n1"))
	c := secureConfig(t, "n2")
	c.JoinToken = newToken(t, founder, nexusraft.RoleMember)
	join(t, c, founder)
	w := witness.Config{
		Dir: t.TempDir(), ClusterTLS: true, JoinToken: newToken(t, founder, nexusraft.RoleWitness),
		Join: []string{founder.config.Advertise}, TickInterval: node.TestTick,
	}
	stop := runWitness(t, w)
	founder.put("k", "a value that witnesses don't see")
	secret := newToken(t, founder, nexusraft.RoleMember)
	id := witnessOf(t, founder)
	authority, err := founder.node.AuthorityKey()
	if err != nil {
		t.Fatal(err)
	}
	stop()
	checkWitnessDir(t, w.Dir, secret, string(bytes.Split(authority, []byte("\n"))[1]))

	self := transport.Identity{
		Cluster: founder.node.Cluster(), Node: id, Incarnation: 1 << 20, Boot: 1,
		Address: "127.0.0.1:1", Witness: true,
	}
	pool := transport.NewClientPool(func() transport.Identity { return self },
		transport.PoolOptions{TLS: stolen(t, founder, id)})
	defer pool.Close()
	client, err := pool.Get(t.Context(), transport.NodeAddress{ID: founder.node.ID(), Endpoint: founder.config.Advertise})
	if err != nil {
		t.Fatal(err)
	}
	mine, err := proto.Marshal(&pb.NodeCommand{Kind: &pb.NodeCommand_PutJoinToken{PutJoinToken: &pb.JoinToken{
		Id: make([]byte, 8), Hash: make([]byte, 32), Uses: 1, ExpiresNanos: time.Now().Add(time.Hour).UnixNano(),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Propose(t.Context(), transport.Proposal{Zone: nexusraft.RootZone, Own: true, Command: mine})
	if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "is a witness") {
		t.Errorf("a join token of its own: got %v, want ErrRefused", err)
	}
	conn := secureConn(t, founder, stolen(t, founder, id))
	change := &pb.ChangeMembershipRequest{Zone: 1, Change: &pb.ChangeMembershipRequest_Remove{Remove: 7}}
	if _, err := pb.NewZonesClient(conn).ChangeMembership(t.Context(),
		change); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a change of the membership: got %v, want PermissionDenied", err)
	}
	if _, err := pb.NewClusterClient(conn).Status(t.Context(), &pb.StatusRequest{}); err != nil {
		t.Errorf("the status: got %v, want none", err)
	}
}

func witnessOf(t *testing.T, m *member) nexusraft.NodeID {
	t.Helper()
	for _, x := range m.status().Membership.Members {
		if x.Role == nexusraft.RoleWitness {
			return x.Node
		}
	}
	t.Fatal("there is no witness")
	return 0
}

// checkWitnessDir looks through all files for what a witness must not have: its own key is there in
// another form.
func checkWitnessDir(t *testing.T, dir, token, authority string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files++
		for what, text := range map[string]string{
			"a value": "witnesses don't see", "a token": token,
			"a private key in the clear": "PRIVATE KEY", "the authority's key": authority,
		} {
			if bytes.Contains(b, []byte(text)) {
				t.Errorf("%s holds %s", path, what)
			}
		}
		return err
	})
	if err != nil || files < 3 {
		t.Errorf("looked at %d files of the witness, %v", files, err)
	}
}

// A token that was shown in vain is as good as before.
func TestRefusedJoinUsesNoToken(t *testing.T) {
	t.Parallel()
	founder := found(t, secureConfig(t, "n1"))
	token := newToken(t, founder, nexusraft.RoleMember)
	c := secureConfig(t, "n1") // the founder's name
	c.JoinToken = token
	if err := refusedToJoin(t, c, founder); !errors.Is(err, nexusraft.ErrRefused) ||
		!strings.Contains(err.Error(), "give --name another one") {
		t.Fatalf("got %v, want a refusal of the name", err)
	}
	list, err := founder.node.Credentials().Tokens(t.Context())
	if err != nil || len(list) != 1 || list[0].UsesLeft != 1 || len(list[0].Nodes) != 0 {
		t.Errorf("got %+v, %v; want the token, not used", list, err)
	}
	c = secureConfig(t, "n2")
	c.JoinToken = token
	join(t, c, founder)
}

// Writes go on while every node takes on a new certificate, on the connections there are and
// on those that are made anew.
func TestRenewalUnderTraffic(t *testing.T) {
	ago, founder, second := agedPair(t)
	ago.Store(0)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	zone, written := founder.zone(), make(chan error, 1)
	var count atomic.Int64
	go func() {
		for ctx.Err() == nil {
			wait, end := context.WithTimeout(t.Context(), 20*time.Second)
			_, err := zone.ProposeOnce(wait, nexusraft.RequestID{}, fmt.Appendf(nil, "k=%d", count.Load()))
			end()
			if err != nil {
				written <- err
				return
			}
			count.Add(1)
		}
		written <- nil
	}()
	for _, m := range []*member{founder, second} {
		if err := m.node.RenewCertificate(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		waitRenewed(t, m.config.Advertise)
		done := count.Load()
		eventually(t, "write on", func() error {
			if count.Load() < done+5 {
				return errors.New("nothing is written")
			}
			return nil
		})
	}
	cancel()
	if err := <-written; err != nil {
		t.Errorf("a write failed: %v", err)
	}
	second.close()
	start(t, second.config).put("k", "after")
	if got := founder.get("k"); got != "after" {
		t.Errorf("got %q, want after", got)
	}
}

// A directory that was made before, as for a service, is open to all users by default.
func TestDataDirIsPrivate(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("modes are not what keeps others out")
	}
	c := secureConfig(t, "n1")
	mode := func() os.FileMode {
		info, err := os.Stat(c.Dir)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	for _, what := range []string{"founded", "opened"} {
		if err := os.Chmod(c.Dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if what == "founded" {
			if _, err := node.Init(c); err != nil {
				t.Fatal(err)
			}
		} else {
			start(t, c)
		}
		if got := mode(); got != 0o700 {
			t.Errorf("%s: got the mode %o, want 700", what, got)
		}
	}
}

// removeNode has a node removed by whichever of the members leads, and waits until the first of them
// knows.
func removeNode(t *testing.T, id nexusraft.NodeID, members ...*member) {
	t.Helper()
	eventually(t, fmt.Sprintf("remove node %v", id), func() error {
		var refused []error
		for _, m := range members {
			_, err := m.zone().ChangeMembership(t.Context(), nexusraft.MembershipChange{Remove: id})
			refused = append(refused, err)
		}
		for _, m := range members[0].status().Membership.Members {
			if m.Node == id {
				return errors.Join(refused...)
			}
		}
		return nil
	})
}
