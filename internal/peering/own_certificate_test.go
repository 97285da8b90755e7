package peering

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport"
)

// A directory that has been served with TLS goes on with it when the flag is forgotten. (S7)
func TestServedWithTLSBefore(t *testing.T) {
	ca := authority(time.Now())
	for _, tc := range []struct {
		what    string
		stored  TLSMode
		cluster nexusraft.ClusterID
		o       Options
		want    TLSMode
		says    string
	}{
		{"of no cluster", ClustersOwn, 0, Options{Join: []string{"a:1"}}, Plain, ""},
		{"never with it", Plain, testCluster, Options{}, Plain, ""},
		{"with the cluster's certificates", ClustersOwn, testCluster, Options{}, ClustersOwn, ""},
		{"the same with Insecure", ClustersOwn, testCluster, Options{Insecure: true}, Plain, ""},
		{"with files", FromFiles, testCluster, Options{}, Plain, "--tls-cert"},
		{"with files, now with the cluster's", FromFiles, testCluster, Options{ClusterTLS: true}, ClustersOwn, ""},
	} {
		m := founded()
		m.Identity.Cluster, m.TLSMode, m.Credentials = tc.cluster, tc.stored, issued(ca, time.Now())
		tc.o.Store, tc.o.Dir, tc.o.Clock, tc.o.Logger = m, "data", time.Now, quiet
		p := must(Open(tc.o))
		err := p.Secure()
		if p.TLSMode() != tc.want || (err != nil) != (tc.says != "") || (p.TLS() != nil) != (tc.want != Plain) {
			t.Errorf("%s: got %q, %v; want %q", tc.what, p.TLSMode(), err, tc.want)
		}
		if err != nil && (!errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s: got %v, want ErrRefused with %q", tc.what, err, tc.says)
		}
		if want := cmp.Or(tc.want, tc.stored); m.TLSMode != want { // plain is not noted
			t.Errorf("%s: stored is %q, want %q", tc.what, m.TLSMode, want)
		}
	}
}

// Without what the flags promise, the directory is not served.
func TestSecureRefuses(t *testing.T) {
	for _, tc := range []struct {
		cluster nexusraft.ClusterID
		token   string
		says    string
	}{
		{0, "", "token create"},
		{0, "nonsense", "token"},
		{testCluster, "", "joined without TLS"},
	} {
		m := founded()
		m.Identity.Cluster = tc.cluster
		p := must(Open(Options{
			Store: m, Join: []string{"a:1"}, ClusterTLS: true, JoinToken: tc.token, Clock: time.Now, Logger: quiet,
		}))
		if err := p.Secure(); !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("got %v, want ErrRefused with %q", err, tc.says)
		}
	}
}

// The key that a node asks to join with is on the disk before anybody is asked, and stays the same.
// What it gets for it is kept and shown, unless it is not of the authority that the token names.
func TestJoinWithAToken(t *testing.T) {
	ca := authority(time.Now())
	token := must(pki.NewToken(ca.Cert))
	m := &memory{}
	o := Options{
		Join: []string{"a:1"}, Advertise: "me:1", JoinTimeout: time.Hour,
		ClusterTLS: true, JoinToken: token.String(),
	}
	ask := func(by pki.Pair) (*node, error) {
		n := open(t, m, o)
		n.ask = func(_ context.Context, _ string, r transport.JoinRequest) (transport.JoinResult, error) {
			if m.Credentials.Key == nil || m.Credentials.Cert != nil {
				t.Errorf("stored when it asks: %+v", m.Credentials)
			}
			cert, err := pki.SignNode(by, r.CertificateRequest, pki.Subject{Cluster: testCluster, Node: n.Self().Node},
				nexusraft.RoleMember, time.Now(), time.Hour)
			return transport.JoinResult{
				Cluster: testCluster, Zone: 1, Replica: 3, Certificate: cert,
				Authorities: transport.CABundle{Step: 2, Certificates: by.Cert},
			}, err
		}
		return n, n.Join(t.Context())
	}
	if _, err := ask(authority(time.Now())); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("let in by another authority: %v", err)
	}
	key := m.Credentials.Key
	n, err := ask(ca)
	if err != nil {
		t.Fatal(err)
	}
	c := n.Credentials()
	if c == nil || !bytes.Equal(c.Key, key) || c.Step != 2 || !n.TLS().ValidAt(time.Now()) || m.TLSMode != ClustersOwn {
		t.Errorf("it shows %+v, served with %q", c, m.TLSMode)
	}
	if again := open(t, m, Options{}); again.Credentials() == nil || !again.TLS().ProvesFull() {
		t.Error("after a restart it has no certificate")
	}
}

func TestDue(t *testing.T) {
	const day = 24 * time.Hour
	at := time.Now()
	old, other := authority(at), authority(at)
	for _, tc := range []struct {
		what  string
		later time.Duration
		roots []byte
		want  bool
	}{
		{"new", 0, old.Cert, false},
		{"with more than a third of its life", 59 * day, old.Cert, false},
		{"with a third of its life", 60 * day, old.Cert, true},
		{"expired", 91 * day, old.Cert, true},
		{"yet to come", -2 * day, old.Cert, true},
		{"when another authority signs", 0, slices.Concat(other.Cert, old.Cert), true},
		{"when another one is believed, too", 0, slices.Concat(old.Cert, other.Cert), false},
	} {
		m := founded()
		m.Credentials = issued(old, at)
		m.Credentials.Roots = tc.roots
		clock := func() time.Time { return at.Add(tc.later) }
		n := open(t, m, Options{ClusterTLS: true, Clock: clock})
		if got := n.Due(clock()); got != tc.want {
			t.Errorf("a certificate %s: due %t, want %t", tc.what, got, tc.want)
		}
	}
	if open(t, founded(), Options{}).Due(at) {
		t.Error("no certificate: it is due")
	}
}

// The renewer looks at a certificate that is good twice an hour at most, at one that is not in
// seconds, and at once if something has changed.
func TestKeepCertificate(t *testing.T) {
	for _, tc := range []struct {
		what        string
		later, soon time.Duration
		least, most int // looks in a day
	}{
		{"good", 0, 0, 24, 48},
		{"expired", 91 * 24 * time.Hour, 0, 17000, 18000},
		{"good, and something presses", 0, time.Minute, 1400, 1441},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := founded()
			m.Credentials = issued(authority(time.Now()), time.Now())
			clock := func() time.Time { return time.Now().Add(tc.later) }
			n := open(t, m, Options{ClusterTLS: true, Clock: clock})
			defer n.peers.Close()
			n.o.Logger = quiet
			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
			defer cancel()
			looks, changed := 0, make(chan struct{}, 1)
			n.keepCertificate(ctx, RenewalPlan{
				Look:    func(context.Context, time.Time) error { looks++; return errDisk },
				After:   func(context.Context) time.Duration { return tc.soon },
				Changed: func() <-chan struct{} { return changed },
			})
			if looks < tc.least || looks > tc.most {
				t.Errorf("%s: %d looks in a day, want %d to %d", tc.what, looks, tc.least, tc.most)
			}
			ctx, cancel = context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			looks = 0
			changed <- struct{}{}
			n.keepCertificate(ctx, RenewalPlan{
				Look:    func(context.Context, time.Time) error { looks++; return nil },
				After:   func(context.Context) time.Duration { return 0 },
				Changed: func() <-chan struct{} { return changed },
			})
			if looks != 2 {
				t.Errorf("%s: %d looks after a change, want 2", tc.what, looks)
			}
		})
	}
}

// Which lists of authorities a node takes over from a full one.
func TestBelieve(t *testing.T) {
	a, b, c := authority(time.Now()), authority(time.Now()), authority(time.Now())
	list := func(of ...pki.Pair) (pem []byte) {
		for _, x := range of {
			pem = append(pem, x.Cert...)
		}
		return pem
	}
	told := func(step uint64, of ...pki.Pair) transport.CABundle {
		return transport.CABundle{Step: step, Certificates: list(of...)}
	}
	for _, tc := range []struct {
		what  string
		step  uint64
		has   []byte
		told  transport.CABundle
		news  bool // it goes by it
		says  string
		signs bool // another authority signs by then
	}{
		{"the same", 1, list(a), told(1, a), false, "", false},
		{"an older one", 2, list(a), told(1, a, b), false, "", false},
		{"one more", 1, list(a), told(2, a, b), true, "", false},
		{"the other one signs", 1, list(a, b), told(2, b, a), true, "", true},
		{"none in common", 1, list(a), told(2, b), false, "none of the", false},
		{"nonsense", 1, list(a), transport.CABundle{Step: 2, Certificates: []byte("x")}, false, "authorities", false},
		{"another of as many steps", 1, list(a), told(1, a, c), false, "too", false},
		{"others of as many steps", 1, list(a, b), told(1, a, c), false, "too", false},
		{"fewer of as many steps", 1, list(a, b), told(1, a), true, "", false},
	} {
		m := founded()
		m.Credentials = issued(a, time.Now())
		m.Credentials.Roots, m.Credentials.Step = tc.has, tc.step
		n := open(t, m, Options{ClusterTLS: true, TickInterval: time.Second})
		err := n.Believe(tc.told)
		if (err != nil) != (tc.says != "") || err != nil && (!errors.Is(err, nexusraft.ErrRefused) ||
			!strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s: got %v, want ErrRefused with %q", tc.what, err, tc.says)
		}
		want := transport.CABundle{Step: tc.step, Certificates: tc.has}
		if tc.news {
			want = tc.told
		}
		if got := m.Credentials; got.Step != want.Step || !bytes.Equal(got.Roots, want.Certificates) ||
			!bytes.Equal(n.Credentials().Roots, want.Certificates) {
			t.Errorf("%s: stored is step %d, want %d", tc.what, got.Step, want.Step)
		}
		if trust, err := n.Trust(); err != nil || trust.Step != want.Step {
			t.Errorf("%s: it says %+v, %v", tc.what, trust, err)
		}
		renewal := n.ByMembers()
		if pressing := renewal.After(t.Context()) > 0; pressing != tc.signs || len(renewal.Changed()) == 1 != tc.news {
			t.Errorf("%s: the next look presses %t, comes at once %t", tc.what, pressing, len(renewal.Changed()) == 1)
		}
	}
}

// An authority that is believed no more is remembered, and no token brings it back.
func TestLeftBehind(t *testing.T) {
	a, b, c := authority(time.Now()), authority(time.Now()), authority(time.Now())
	token := func(ca pki.Pair) string { return must(pki.NewToken(ca.Cert)).String() }
	for _, tc := range []struct {
		what, token string
		want        bool
	}{
		{"none", "", false},
		{"of an authority that has ended", token(a), false},
		{"of the one that is believed", token(b), false},
		{"of one that is not known", token(c), true},
	} {
		m := founded()
		m.Credentials = issued(b, time.Now())
		m.Credentials.Roots = slices.Concat(a.Cert, b.Cert)
		n := open(t, m, Options{ClusterTLS: true, JoinToken: tc.token})
		if err := n.Follow(transport.CABundle{Step: 1, Certificates: b.Cert}); err != nil {
			t.Fatal(err)
		}
		if got := n.LeftBehind(); got != tc.want || len(m.Credentials.Former) != 1 {
			t.Errorf("a token %s: left behind %t, want %t; former: %x", tc.what, got, tc.want, m.Credentials.Former)
		}
	}
}

// What can't be stored is not gone by.
func TestCertificateThatCanNotBeStored(t *testing.T) {
	m := founded()
	ca := authority(time.Now())
	m.Credentials = issued(ca, time.Now())
	n := open(t, m, Options{ClusterTLS: true})
	before := n.Credentials()
	m.err = errDisk
	err := n.Follow(transport.CABundle{Step: 1, Certificates: ca.Cert})
	if !errors.Is(err, errDisk) || n.Credentials() != before {
		t.Errorf("got %v, and it goes by %+v", err, n.Credentials())
	}
}
