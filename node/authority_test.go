package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/witness"
)

// rotate takes a step once all nodes but those in without are ready for it, and waits until they
// have followed.
func rotate(t *testing.T, m *member, to nexusraft.AuthorityPhase, without ...nexusraft.NodeID) nexusraft.Authorities {
	t.Helper()
	eventually(t, fmt.Sprintf("the step to %q", to), func() error {
		_, err := m.node.Issuer().RotateAuthority(t.Context(), to, without)
		return err
	})
	return followed(t, m, to, without...)
}

// followed waits until all nodes but those in without believe and show what they are to.
func followed(
	t *testing.T, m *member, phase nexusraft.AuthorityPhase, without ...nexusraft.NodeID,
) (all nexusraft.Authorities) {
	t.Helper()
	eventually(t, fmt.Sprintf("all follow to %q", phase), func() (err error) {
		if all, err = m.node.Issuer().Authorities(t.Context()); err != nil {
			return err
		}
		if all.Phase != phase {
			return fmt.Errorf("it is in the phase %q", all.Phase)
		}
		left := make(map[nexusraft.NodeID]bool)
		for _, id := range without {
			left[id] = true
		}
		for _, n := range all.Nodes {
			if why := n.Lacks(nexusraft.AuthorityAlone); why != "" && !left[n.Node] {
				return fmt.Errorf("%s: %s", n.Name, why)
			}
		}
		return nil
	})
	return all
}

// notReady wants a step to be refused because of a node.
func notReady(t *testing.T, m *member, to nexusraft.AuthorityPhase, name, says string) {
	t.Helper()
	_, err := m.node.Issuer().RotateAuthority(t.Context(), to, nil)
	if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), name+" (") ||
		!strings.Contains(err.Error(), says) {
		t.Errorf("the step to %q: got %v, want a refusal that names %s and says %q", to, err, name, says)
	}
}

// writing puts keys through a member until the result is called, which returns how many there are.
func writing(t *testing.T, m *member) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var count int
	var writer sync.WaitGroup
	writer.Go(func() {
		for ctx.Err() == nil {
			key := fmt.Sprintf("w%d", count)
			if _, err := m.zone().ProposeOnce(ctx, nexusraft.RequestID{}, []byte(key+"="+key)); err == nil {
				count++
			}
		}
	})
	return func() int {
		cancel()
		writer.Wait()
		return count
	}
}

// asked is what a certificate is good for at an address: nil, or why it is refused.
func asked(t *testing.T, conn *grpc.ClientConn) error {
	t.Helper()
	_, err := pb.NewClusterClient(conn).Status(t.Context(), &pb.StatusRequest{})
	return err
}

// unknown wants a call refused as a stranger's. A connection that is just being closed is made
// anew.
func unknown(t *testing.T, what string, conn *grpc.ClientConn) {
	t.Helper()
	eventually(t, what, func() error {
		err := asked(t, conn)
		switch status.Code(err) {
		case codes.Unavailable:
			return err
		case codes.Unauthenticated:
		default:
			t.Errorf("%s: got %v, want Unauthenticated", what, err)
		}
		return nil
	})
}

func at(address string) *member { return &member{config: node.Config{Advertise: address}} }

// The authority is replaced under writes, step by step. After the last one its key, which somebody
// has stolen, is good for nothing: at no port, and on no connection that was open.
func TestAuthorityIsReplaced(t *testing.T) {
	t.Parallel()
	e := newExpiring(t)
	n1, n2 := e.members[0], e.members[1]
	cluster, id := n1.node.Cluster(), n2.node.ID()
	old := authorityOf(t, n1)
	ports := map[string]*member{"n1": n1, "n2": n2, "w1": at(e.witness.Advertise)}
	admin := pki.Subject{Cluster: cluster, Client: "admin"}
	open := make(map[string]*grpc.ClientConn)
	for name, m := range ports {
		open[name] = shownTo(t, m, certificateOf(t, old, admin, time.Now()))
		if err := asked(t, open[name]); err != nil {
			t.Fatal(err)
		}
	}
	spare := newToken(t, n1, nexusraft.RoleMember)
	stop := writing(t, n1)

	if _, err := n1.node.Issuer().RotateAuthority(t.Context(), nexusraft.AuthoritySigns, nil); !errors.Is(err,
		nexusraft.ErrRefused) || !strings.Contains(err.Error(), "authority rotate") {
		t.Errorf("the second step first: got %v, want a refusal that says the first one", err)
	}
	all := rotate(t, n1, nexusraft.AuthorityBelieved)
	if sums, err := pki.Fingerprints(all.Certificates); err != nil || len(sums) != 2 || len(all.Nodes) != 3 {
		t.Fatalf("got %d authorities and %d nodes, %v", len(sums), len(all.Nodes), err)
	}
	if got := authorityOf(t, n1); !bytes.Equal(got.Cert, old.Cert) {
		t.Error("the new one signs for nodes before it may")
	}
	again, err := n2.node.Issuer().RotateAuthority(t.Context(), nexusraft.AuthorityBelieved, nil)
	if err != nil || !bytes.Equal(again.Certificates, all.Certificates) {
		t.Errorf("the same step again: got %v, want the same authorities", err)
	}
	mine := n2.client("admin") // of the new one, and good already

	rotate(t, n2, nexusraft.AuthoritySigns)
	now := authorityOf(t, n1)
	if bytes.Equal(now.Cert, old.Cert) || bytes.Equal(now.Key, old.Key) {
		t.Error("the old one still signs")
	}
	for name, conn := range open {
		if err := asked(t, conn); err != nil {
			t.Errorf("%s, before the last step: %v", name, err)
		}
	}
	if tokens, err := n1.node.Credentials().Tokens(t.Context()); err != nil || len(tokens) != 0 {
		t.Errorf("got %d join tokens, %v, want that they were taken back", len(tokens), err)
	}
	all = rotate(t, n1, nexusraft.AuthorityAlone)
	if !bytes.Equal(all.Certificates, now.Cert) {
		t.Error("the new one is not alone")
	}
	rotate(t, n2, nexusraft.AuthorityAlone) // again: who asked may not have heard

	if n := stop(); n == 0 || n2.get(fmt.Sprintf("w%d", n-1)) == "" {
		t.Errorf("of %d writes the last is lost", n)
	}
	if err := asked(t, mine); err != nil {
		t.Errorf("a client of the new authority: %v", err)
	}
	for name, m := range ports {
		stolen := pki.Subject{Cluster: cluster, Node: id}
		for what, conn := range map[string]*grpc.ClientConn{
			"on an open connection": open[name],
			"as an admin":           shownTo(t, m, certificateOf(t, old, admin, time.Now())),
			"as a node":             shownTo(t, m, certificateOf(t, old, stolen, time.Now())),
		} {
			unknown(t, name+", "+what, conn)
		}
		for what, then := range map[string]time.Time{"renewing": time.Now(), "renewing, lapsed": time.Now().Add(-91 * day)} {
			if name == "w1" {
				continue // it renews nobody's
			}
			if err := renewBy(t, shownTo(t, m, certificateOf(t, old, stolen, then))); err == nil {
				t.Errorf("%s, %s: it has got a certificate", name, what)
			}
		}
	}
	c := secureConfig(t, "n3")
	c.JoinToken = spare
	if err := refusedToJoin(t, c, n1); err == nil || !strings.Contains(err.Error(), "token create") {
		t.Errorf("with a token from before: got %v, want a refusal that says the way out", err)
	}
	e.stop()
	n2.close()
	n2 = start(t, n2.config) // from the disk
	runWitness(t, e.witness)
	n2.put("k", "after")
	followed(t, n1, nexusraft.AuthorityAlone)
}

// A leader that stops after a step, or a node that joins between two, changes nothing: what was
// begun is finished by whoever leads then.
func TestAuthorityIsReplacedByManyLeaders(t *testing.T) {
	t.Parallel()
	n1 := found(t, secureConfig(t, "n1"))
	rotate(t, n1, nexusraft.AuthorityBelieved)
	c := secureConfig(t, "n2")
	c.JoinToken = newToken(t, n1, nexusraft.RoleMember)
	n2 := join(t, c, n1)
	w := witness.Config{
		Dir: t.TempDir(), Name: "w1", ClusterTLS: true, JoinToken: newToken(t, n1, nexusraft.RoleWitness),
		Join: []string{n1.config.Advertise}, TickInterval: node.TestTick, Logger: c.Logger,
	}
	runWitness(t, w)
	n1.put("k", "1")
	members := []*member{n1, n2}
	for i, to := range []nexusraft.AuthorityPhase{
		nexusraft.AuthoritySigns, nexusraft.AuthorityAlone,
		nexusraft.AuthorityBelieved,
	} {
		followed(t, members[i%2], to.Next().Next())
		eventually(t, "take the step", func() error {
			_, err := members[i%2].node.Issuer().RotateAuthority(t.Context(), to, nil)
			return err
		})
		for j, m := range members {
			if m.status().State == nexusraft.Leader {
				m.close()
				members[j] = start(t, m.config)
			}
		}
		members[1-i%2].put("k", string(to))
		followed(t, members[1-i%2], to)
	}
}

// Who is off while the authority is replaced is left behind by name only, does not get in with what
// it has, says the way back, and comes back with a new join token; with one of the old authority
// nobody is believed again.
func TestLeftBehindByTheAuthority(t *testing.T) {
	for _, who := range []string{"n2", "w1"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			e := newExpiring(t)
			n1, n2 := e.members[0], e.members[1]
			old := authorityOf(t, n1)
			id, role := n2.node.ID(), nexusraft.RoleMember
			if who == "w1" {
				id, role = witnessOf(t, n1), nexusraft.RoleWitness
				e.stop()
			} else {
				n2.close()
			}
			n1.put("k", "off")
			for _, to := range []nexusraft.AuthorityPhase{
				nexusraft.AuthorityBelieved, nexusraft.AuthoritySigns,
				nexusraft.AuthorityAlone,
			} {
				notReady(t, n1, to, who, "it does not answer")
				rotate(t, n1, to, id)
			}
			without := []nexusraft.NodeID{7}
			_, err := n1.node.Issuer().RotateAuthority(t.Context(), nexusraft.AuthorityBelieved, without)
			if err == nil || !strings.Contains(err.Error(), "not in the cluster") {
				t.Errorf("without a node that is none: got %v", err)
			}

			var log lockedBuffer
			logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			back := func(token string) (stop func()) {
				if who == "w1" {
					w := e.witness
					w.JoinToken, w.Logger = token, logger
					return runWitness(t, w)
				}
				c := n2.config
				c.JoinToken, c.Logger = token, logger
				n2 = start(t, c)
				return n2.close
			}
			stop := back("")
			eventually(t, "it says the way back", func() error {
				if !strings.Contains(log.String(), "needs a new join token") {
					return errors.New("nothing")
				}
				return nil
			})
			stop()
			stop = back(newToken(t, n1, role))
			followed(t, n1, nexusraft.AuthorityAlone)
			stop()
			stale, err := pki.NewToken(old.Cert)
			if err != nil {
				t.Fatal(err)
			}
			back(stale.String())
			followed(t, n1, nexusraft.AuthorityAlone)
			n1.put("k", "back")
			if who == "n2" && n2.node.LeftBehind() {
				t.Error("a token of the old authority makes it believe that one again")
			}
		})
	}
}

// The last step waits for a node that still shows a certificate of the old authority, which
// believes the new one: it needs no token.
func TestAuthorityWaitsForWhoShowsTheOldOne(t *testing.T) {
	t.Parallel()
	e := newExpiring(t)
	n1, id := e.members[0], witnessOf(t, e.members[0])
	rotate(t, n1, nexusraft.AuthorityBelieved)
	e.stop()
	rotate(t, n1, nexusraft.AuthoritySigns, id)
	notReady(t, n1, nexusraft.AuthorityAlone, "w1", "it does not answer")
	runWitness(t, e.witness)
	rotate(t, n1, nexusraft.AuthorityAlone)
}

// Where the nodes have no certificates of the cluster's own authority, there is nothing to replace.
func TestAuthorityWithoutTLS(t *testing.T) {
	t.Parallel()
	n1 := found(t, testConfig(t, "n1"))
	_, err := n1.node.Issuer().RotateAuthority(t.Context(), nexusraft.AuthorityBelieved, nil)
	if !errors.Is(err, nexusraft.ErrRefused) ||
		!strings.Contains(err.Error(), "certificate of the cluster's own authority") {
		t.Errorf("got %v, want a refusal", err)
	}
}

// A join token of another cluster, left in a configuration, keeps a member from nothing.
func TestAuthorityIsReplacedDespiteAWrongToken(t *testing.T) {
	t.Parallel()
	n1 := found(t, secureConfig(t, "n1"))
	n1.zone()
	n1.close()
	other, err := pki.NewCA(7, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	token, err := pki.NewToken(other.Cert)
	if err != nil {
		t.Fatal(err)
	}
	c := n1.config
	c.JoinToken = token.String()
	n1 = start(t, c)
	if !n1.node.LeftBehind() {
		t.Fatal("the token is of an authority that is known")
	}
	for _, to := range []nexusraft.AuthorityPhase{
		nexusraft.AuthorityBelieved, nexusraft.AuthoritySigns,
		nexusraft.AuthorityAlone,
	} {
		rotate(t, n1, to)
	}
}
