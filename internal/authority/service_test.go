package authority_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/authority"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

const (
	cluster nexusraft.ClusterID = 0xc1
	self    nexusraft.NodeID    = 1
	second  nexusraft.NodeID    = 2
	witness nexusraft.NodeID    = 3
	unknown nexusraft.NodeID    = 8
	removed nexusraft.NodeID    = 9
)

// zone is a root zone of one replica, which has a quorum unless confirm is an error.
type zone struct {
	state    *storage.Overlay
	members  nexusraft.Membership
	confirm  error
	proposed int
}

func (z *zone) Propose(_ context.Context, c *pb.NodeCommand) error {
	z.proposed++
	b, err := proto.Marshal(c)
	if err != nil {
		return err
	}
	effects := storage.NewOverlay(z.state)
	r, err := system.Apply(effects, nil, 1, time.Now().UnixNano(), b)
	if err != nil || r.Refused != nil {
		return errors.Join(err, r.Refused)
	}
	effects.MergeInto(z.state)
	return nil
}

func (z *zone) Read(_ context.Context, fn func(nexusraft.Reader) error) error {
	if z.confirm != nil {
		return z.confirm
	}
	return fn(z.state)
}

func (z *zone) ReadLocal(fn func(nexusraft.Reader) error) error { return fn(z.state) }

func (z *zone) Confirm(context.Context) error { return z.confirm }

func (z *zone) Members() (nexusraft.Membership, error) { return z.members, nil }

func (z *zone) MayJoin(context.Context, transport.JoinRequest) (refusal, err error) { return nil, nil }

// records are a peering.RecordStore that keeps nothing.
type records peering.Records

func (r records) Load() (peering.Records, error) { return peering.Records(r), nil }

func (r records) Save(peering.RecordChange) error { return nil }

// founder is the service of a cluster's founder, which has admitted a second member and a witness; ask
// is how these say which authorities they believe.
func founder(t *testing.T, ask func(nexusraft.NodeID, transport.CABundle) (transport.Trust, error)) (
	*authority.Service, *zone,
) {
	t.Helper()
	store, err := storage.Open("data", &storage.Options{FS: storage.NewMemFS()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	tree, err := store.Tree("state")
	if err != nil {
		t.Fatal(err)
	}
	begins, err := authority.Found(cluster, self, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{state: storage.NewOverlay(tree)}
	for _, p := range begins.State {
		if err := z.state.Set(p.Key, p.Value); err != nil {
			t.Fatal(err)
		}
	}
	for node, role := range map[nexusraft.NodeID]nexusraft.Role{
		self: nexusraft.RoleMember, second: nexusraft.RoleMember, witness: nexusraft.RoleWitness,
		removed: nexusraft.RoleMember,
	} {
		z.members = z.members.With(nexusraft.Member{
			Replica: nexusraft.ReplicaID(node), Node: node, Name: "n" + node.String(), Role: role,
		})
	}
	z.members = z.members.Without(nexusraft.ReplicaID(removed))
	p, err := peering.Open(peering.Options{
		Role: nexusraft.RoleMember, ClusterTLS: true, Clock: time.Now, Logger: slog.New(slog.DiscardHandler),
		Store: records{
			Identity: peering.Identity{Node: self, Cluster: cluster}, Credentials: begins.Credentials,
		},
		Members: func() nexusraft.Membership { return z.members }, Fail: func(err error) { t.Error(err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Secure(); err != nil {
		t.Fatal(err)
	}
	return authority.New(authority.Options{
		Zone: z, Peering: p, TickInterval: time.Millisecond, Clock: time.Now, Logger: slog.New(slog.DiscardHandler),
		AskTrust: func(_ context.Context, node nexusraft.NodeID, a transport.CABundle) (transport.Trust, error) {
			return ask(node, a)
		},
	}), z
}

// obedient is a node that believes what it is told, and shows a certificate of what signs.
func obedient(_ nexusraft.NodeID, a transport.CABundle) (transport.Trust, error) {
	signer, err := pki.Fingerprint(a.Certificates)
	return transport.Trust{Step: a.Step, Signer: signer[:]}, err
}

// TestRenewWithoutAQuorum: a certificate that was shown is renewed without one, but for a node that
// was removed, or is not known, and while the authority is replaced.
func TestRenewWithoutAQuorum(t *testing.T) {
	lost := nexusraft.ErrNoQuorum
	for name, tc := range map[string]struct {
		node    nexusraft.NodeID
		confirm error
		signs   bool // the new authority does by now
		want    error
		says    string
	}{
		"a member":                         {node: second},
		"a witness":                        {node: witness},
		"no quorum, a member":              {node: second, confirm: lost},
		"no quorum, a witness":             {node: witness, confirm: lost},
		"no quorum, an unknown node":       {node: unknown, confirm: lost, want: lost, says: "may be behind"},
		"no quorum, a removed node":        {node: removed, confirm: lost, want: nexusraft.ErrFenced, says: "not in the"},
		"an unknown node":                  {node: unknown, want: nexusraft.ErrFenced, says: "not in the cluster"},
		"no quorum, amid a rotation":       {node: second, confirm: lost, signs: true, want: lost, says: "takes a quorum"},
		"a quorum, amid a rotation":        {node: second, signs: true},
		"the member has stopped meanwhile": {node: second, confirm: nexusraft.ErrClosed, want: nexusraft.ErrClosed},
		"the member was removed meanwhile": {node: second, confirm: nexusraft.ErrFenced, want: nexusraft.ErrFenced},
	} {
		t.Run(name, func(t *testing.T) {
			s, z := founder(t, obedient)
			if tc.signs {
				rotated(t, s, nexusraft.AuthorityBelieved)
				rotated(t, s, nexusraft.AuthoritySigns)
			}
			z.confirm = tc.confirm
			request, key, err := pki.NewRequest()
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.Renew(t.Context(), transport.RenewRequest{Node: tc.node, CertificateRequest: request})
			if !errors.Is(err, tc.want) || tc.want != nil && !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("got %v, want %v that says %q", err, tc.want, tc.says)
			}
			if tc.want != nil {
				return
			}
			subject := pki.Subject{Cluster: cluster, Node: tc.node}
			issued, err := mtls.Issued(pki.Pair{Cert: r.Certificate, Key: key}, r.Authorities.Certificates, subject)
			if err != nil {
				t.Fatal(err)
			}
			role := pki.RoleOf(issued.Own.Leaf)
			if m, _ := z.members.Node(tc.node); role != m.Role {
				t.Errorf("the certificate says %q, want %q", role, m.Role)
			}
		})
	}
}

// rotated takes a step and has the founder itself follow it.
func rotated(t *testing.T, s *authority.Service, to nexusraft.AuthorityPhase, without ...nexusraft.NodeID) {
	t.Helper()
	if _, err := s.RotateAuthority(t.Context(), to, without); err != nil {
		t.Fatal(err)
	}
	if err := s.Renewal().Look(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
}

// TestRotationWaitsForAllNodes: a step is refused while a node would be cut off by it, unless it is
// named as left behind; a step that was taken is not taken again, and none is left out.
func TestRotationWaitsForAllNodes(t *testing.T) {
	away := false
	s, z := founder(t, func(node nexusraft.NodeID, a transport.CABundle) (transport.Trust, error) {
		if away && node == witness {
			return transport.Trust{}, transport.ErrUnreachable
		}
		return obedient(node, a)
	})
	refused := func(to nexusraft.AuthorityPhase, says string, without ...nexusraft.NodeID) {
		t.Helper()
		before := z.proposed
		_, err := s.RotateAuthority(t.Context(), to, without)
		if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), says) || z.proposed != before {
			t.Errorf("to %v: got %v after %d commands, want a refusal that says %q", to, err, z.proposed-before, says)
		}
	}
	refused(nexusraft.AuthoritySigns, "nexus-raft authority rotate")
	rotated(t, s, nexusraft.AuthorityBelieved)
	refused(nexusraft.AuthorityAlone, "nexus-raft authority switch")
	away = true
	refused(nexusraft.AuthoritySigns, "it does not answer")
	refused(nexusraft.AuthoritySigns, "not in the cluster", witness, unknown)
	rotated(t, s, nexusraft.AuthoritySigns, witness)
	before := z.proposed
	all, err := s.RotateAuthority(t.Context(), nexusraft.AuthoritySigns, nil)
	if err != nil || z.proposed != before || all.Phase != nexusraft.AuthoritySigns {
		t.Errorf("the same step again: got %v, %v, %d commands", all.Phase, err, z.proposed-before)
	}
	i := slices.IndexFunc(all.Nodes, func(n nexusraft.AuthorityNode) bool { return n.Node == witness })
	if i < 0 || !strings.Contains(all.Nodes[i].Problem, "does not answer") {
		t.Errorf("the nodes are %+v", all.Nodes)
	}
}

// TestOlderNodeIsNotAdmitted: once the cluster's version was raised, a node that speaks a lower one is told
// which, and what to do; before, nodes of any version are let in. A node that can't tell, without a quorum,
// lets none of a lower one in.
func TestOlderNodeIsNotAdmitted(t *testing.T) {
	s, z := founder(t, obedient)
	if err := z.state.Delete([]byte("\x00sv")); err != nil { // as an earlier release has founded it
		t.Fatal(err)
	}
	admit := func(minor uint32) error {
		return s.Admit(t.Context(), transport.JoinRequest{
			Peer: transport.Identity{Node: unknown, Minor: minor}, Role: nexusraft.RoleMember,
		})
	}
	if err := admit(0); err != nil || s.ClusterVersion() != system.ZonesVersion-1 {
		t.Errorf("version %d: %v", s.ClusterVersion(), err)
	}
	if err := z.Propose(t.Context(), &pb.NodeCommand{Kind: &pb.NodeCommand_RaiseClusterVersion{
		RaiseClusterVersion: &pb.RaiseClusterVersion{Minor: system.ZonesVersion},
	}}); err != nil {
		t.Fatal(err)
	}
	const says = "node 0000000000000008 speaks version 3 of the protocol, and this cluster has version 4: " +
		"install the newest release"
	if err := admit(3); !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want ErrRefused: %s", err, says)
	}
	for _, minor := range []uint32{transport.MinorVersion, transport.MinorVersion + 1} {
		if err := admit(minor); err != nil {
			t.Errorf("a node that speaks %d: %v", minor, err)
		}
	}
	z.confirm = nexusraft.ErrNoQuorum
	if err := admit(3); !errors.Is(err, nexusraft.ErrNoQuorum) {
		t.Errorf("without a quorum: got %v, want ErrNoQuorum", err)
	}
	if err := admit(transport.MinorVersion); err != nil {
		t.Errorf("a node of this version, without a quorum: %v", err)
	}
	if s.ClusterVersion() != system.ZonesVersion {
		t.Errorf("the cluster has version %d, want %d", s.ClusterVersion(), system.ZonesVersion)
	}
}

// TestRecoverNamesAdmins: credentials are made for a name that has a role, and for no other.
func TestRecoverNamesAdmins(t *testing.T) {
	s, z := founder(t, obedient)
	if err := s.SetRole(t.Context(), "reader", nexusraft.RootZone, nexusraft.AccessRead); err != nil {
		t.Fatal(err)
	}
	_, err := authority.Recover(z.state, cluster, "nobody", time.Now(), time.Hour)
	if !errors.Is(err, nexusraft.ErrRefused) || !strings.HasSuffix(err.Error(), "are: admin") {
		t.Errorf("got %v, want a refusal that names the admin alone", err)
	}
	if b, err := authority.Recover(z.state, cluster, "reader", time.Now(), time.Hour); err != nil || len(b) == 0 {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
}
