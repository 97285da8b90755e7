package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

const cluster = nexusraft.ClusterID(0xc1)

var (
	now  = time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
	node = Subject{Cluster: cluster, Node: 0xa}
	ann  = Subject{Cluster: cluster, Client: "ann"}
)

func newCA(t testing.TB) Pair {
	t.Helper()
	ca, err := NewCA(cluster, now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func sign(t testing.TB, ca Pair, s Subject, life time.Duration) Pair {
	t.Helper()
	csr, key, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := Sign(ca, csr, s, now, life)
	if err != nil {
		t.Fatal(err)
	}
	return Pair{Cert: cert, Key: key}
}

func chainOf(t testing.TB, p Pair) []*x509.Certificate {
	t.Helper()
	chain, err := Certificates(p.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func poolOf(t testing.TB, ca Pair) *x509.CertPool {
	t.Helper()
	pool, err := Pool(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func TestSignedCertificates(t *testing.T) {
	ca := newCA(t)
	for _, tc := range []struct {
		s      Subject
		uri    string
		serves bool
	}{
		{node, "nexus-raft://00000000000000c1/node/000000000000000a", true},
		{ann, "nexus-raft://00000000000000c1/client/ann", false},
	} {
		p := sign(t, ca, tc.s, time.Hour)
		if _, err := p.Certificate(); err != nil {
			t.Errorf("%v: %v", tc.s, err)
		}
		chain := chainOf(t, p)
		if len(chain) != 2 || !chain[1].IsCA || chain[0].IsCA {
			t.Errorf("%v: got a chain of %d, want the certificate and its CA", tc.s, len(chain))
		}
		if got := chain[0].URIs[0].String(); got != tc.uri {
			t.Errorf("got URI %s, want %s", got, tc.uri)
		}
		if got, want := chain[0].NotBefore, now.Add(-time.Hour); !got.Equal(want) {
			t.Errorf("%v: valid from %v, want %v", tc.s, got, want)
		}
		got, err := Verify(chain, poolOf(t, ca), x509.ExtKeyUsageClientAuth, now)
		if diff := cmp.Diff(tc.s, got); diff != "" || err != nil {
			t.Errorf("as a client: %v, (-want +got)\n%s", err, diff)
		}
		if _, err := Verify(chain, poolOf(t, ca), x509.ExtKeyUsageServerAuth, now); (err == nil) != tc.serves {
			t.Errorf("%v as a server: %v, want it to be one: %t", tc.s, err, tc.serves)
		}
	}
}

func TestSignEndsWithTheCA(t *testing.T) {
	chain := chainOf(t, sign(t, newCA(t), node, 20*365*24*time.Hour))
	if got, want := chain[0].NotAfter, chain[1].NotAfter; !got.Equal(want) || want.Year() != 2040 {
		t.Errorf("valid until %v, its CA until %v, want both in 2040", got, want)
	}
}

func TestSignRefuses(t *testing.T) {
	ca := newCA(t)
	csr, _, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(csr)
	block.Bytes[len(block.Bytes)-1] ^= 1 // of the signature
	for name, tc := range map[string]struct {
		csr []byte
		s   Subject
	}{
		"nobody":             {csr, Subject{Cluster: cluster}},
		"no cluster":         {csr, Subject{Node: 1}},
		"both":               {csr, Subject{Cluster: cluster, Node: 1, Client: "ann"}},
		"a slash":            {csr, Subject{Cluster: cluster, Client: "../node/a"}},
		"a long name":        {csr, Subject{Cluster: cluster, Client: strings.Repeat("a", 65)}},
		"a changed request":  {pem.EncodeToMemory(block), node},
		"no request":         {nil, node},
		"a certificate":      {ca.Cert, node},
		"two requests":       {bytes.Repeat(csr, 2), node},
		"a huge request":     {bytes.Repeat(csr, 1000), node},
		"another curve":      {request(t, elliptic.P384()), node},
		"half of a request ": {csr[:len(csr)/2], node},
	} {
		if cert, err := Sign(ca, tc.csr, tc.s, now, time.Hour); !errors.Is(err, nexusraft.ErrRefused) || cert != nil {
			t.Errorf("%s: got %q, %v; want ErrRefused", name, cert, err)
		}
	}
	leaf := sign(t, ca, node, time.Hour)
	if _, err := Sign(leaf, csr, node, now, time.Hour); err == nil {
		t.Error("a node's certificate has signed another one")
	}
	if _, err := Sign(ca, csr, node, now.AddDate(11, 0, 0), time.Hour); err == nil ||
		!strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired CA: got %v, want that it has expired", err)
	}
}

func request(t *testing.T, curve elliptic.Curve) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return encode(typeRequest, der)
}

func TestVerifyRefuses(t *testing.T) {
	ca, twin := newCA(t), newCA(t) // of one name, and with other keys
	good := sign(t, ca, node, time.Hour)
	for name, tc := range map[string]struct {
		chain []*x509.Certificate
		roots *x509.CertPool
		at    time.Time
		says  string
	}{
		"nothing":  {nil, poolOf(t, ca), now, "no certificate"},
		"no roots": {chainOf(t, good), nil, now, "no CA is known"},
		"expired":  {chainOf(t, good), poolOf(t, ca), now.Add(4 * time.Hour), "expired 3h0m0s ago; renew it"},
		"too early": {chainOf(t, good), poolOf(t, ca), now.Add(-2 * time.Hour), "not valid for another 1h0m0s; correct " +
			"the clock"},
		"another CA":    {chainOf(t, sign(t, twin, node, time.Hour)), poolOf(t, ca), now, "not believed here"},
		"the CA itself": {chainOf(t, ca), poolOf(t, ca), now, "needs exactly one"},
	} {
		_, err := Verify(tc.chain, tc.roots, x509.ExtKeyUsageClientAuth, tc.at)
		if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want ErrRefused with %q", name, err, tc.says)
		}
	}
}

func TestVerifyNode(t *testing.T) {
	ca := newCA(t)
	for _, tc := range []struct {
		s       Subject
		cluster nexusraft.ClusterID
		node    nexusraft.NodeID
		says    string
	}{
		{node, 0, 0, ""},
		{node, cluster, node.Node, ""},
		{node, cluster + 1, 0, "cluster mismatch"},
		{node, 0, node.Node + 1, "node mismatch"},
		{ann, 0, 0, "needs the extended key usage"},
	} {
		err := VerifyNode(chainOf(t, sign(t, ca, tc.s, time.Hour)), poolOf(t, ca), tc.cluster, tc.node, now)
		if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%v as node %v of %v: got %v, want %q", tc.s, tc.node, tc.cluster, err, tc.says)
		}
	}
}

func TestPinned(t *testing.T) {
	ca, twin := newCA(t), newCA(t)
	pin, err := Fingerprint(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	chain := chainOf(t, sign(t, ca, node, time.Hour))
	roots, err := Pinned(chain, pin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(chain, roots, x509.ExtKeyUsageServerAuth, now); err != nil {
		t.Errorf("the cluster's own: %v", err)
	}
	other := chainOf(t, sign(t, twin, node, time.Hour))
	if _, err := Pinned(other, pin); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("another cluster's: got %v, want ErrRefused", err)
	}
	// One in between shows the right CA, which has not signed its certificate.
	forged := []*x509.Certificate{other[0], chain[1]}
	if roots, err = Pinned(forged, pin); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(forged, roots, x509.ExtKeyUsageServerAuth, now); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("another's certificate with the right CA: got %v, want ErrRefused", err)
	}
}

func TestSubjectOfRefuses(t *testing.T) {
	for _, uris := range [][]string{
		{},
		{"https://a.example"},
		{"nexus-raft://00000000000000c1/node/000000000000000a", "nexus-raft://00000000000000c1/node/000000000000000b"},
		{"nexus-raft://00000000000000c1/node/0000000000000000"},
		{"nexus-raft://0000000000000000/node/000000000000000a"},
		{"nexus-raft://c1/node/a"},
		{"nexus-raft://00000000000000C1/node/000000000000000A"},
		{"nexus-raft://00000000000000c1/node/000000000000000a/"},
		{"nexus-raft://00000000000000c1/node/000000000000000a?x"},
		{"nexus-raft://00000000000000c1/node/000000000000000a#x"},
		{"nexus-raft://u@00000000000000c1/node/000000000000000a"},
		{"nexus-raft://00000000000000c1:1/node/000000000000000a"},
		{"nexus-raft://00000000000000c1/client/"},
		{"nexus-raft://00000000000000c1/client/a/b"},
		{"nexus-raft://00000000000000c1/client/%61"},
		{"nexus-raft://00000000000000c1/admin/ann"},
		{"nexus-raft:00000000000000c1"},
	} {
		var cert x509.Certificate
		for _, text := range uris {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			cert.URIs = append(cert.URIs, u)
		}
		if s, err := SubjectOf(&cert); !errors.Is(err, nexusraft.ErrRefused) ||
			!strings.Contains(err.Error(), "nexus-raft://CLUSTER/node/NODE") {
			t.Errorf("%q: got %v, %v; want ErrRefused and the URI it needs", uris, s, err)
		}
	}
}

func TestTokens(t *testing.T) {
	ca := newCA(t)
	token, err := NewToken(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseToken(" " + token.String() + "\n")
	if err != nil || got != token {
		t.Errorf("got another token, %v", err)
	}
	if want, _ := Fingerprint(ca.Cert); token.CA != want {
		t.Error("the token is of another CA")
	}
	if shown := fmt.Sprintf("%v %+v %s %d", token, token, token, token); strings.Contains(shown, token.String()) ||
		strings.Contains(shown, fmt.Sprintf("%x", token.Secret)) {
		t.Errorf("printed: %s", shown)
	}
	if other, _ := NewToken(ca.Cert); other.ID == token.ID || other.Hash() == token.Hash() {
		t.Error("two tokens are equal")
	}
	text := token.String()
	for _, bad := range []string{
		"", "nrj1-", text[:len(text)-1], text + "a", text[1:], strings.ToUpper(text),
		"nrj2" + text[4:], text[:len(text)-1] + "b",
	} {
		if _, err := ParseToken(bad); err == nil || bad != "" && strings.Contains(err.Error(), text[10:60]) {
			t.Errorf("%q: got %v, want an error without the secret", bad, err)
		}
	}
	if _, err := NewToken(sign(t, ca, node, time.Hour).Key); err == nil {
		t.Error("a token for a CA that is none")
	}
}

func TestBundles(t *testing.T) {
	ca := newCA(t)
	pair := sign(t, ca, ann, time.Hour)
	for name, want := range map[string]Bundle{
		"certificate": {Pair: pair, Roots: ca.Cert},
		"token":       {Roots: ca.Cert, Token: "nrt1-abc"},
		"both":        {Pair: pair, Roots: ca.Cert, Token: "nrt1-abc"},
		"the CA":      {Roots: bytes.Repeat(ca.Cert, 2)},
	} {
		got, err := ParseBundle(append([]byte("# for "+name+"\n"), want.PEM()...))
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v, (-want +got)\n%s", name, err, diff)
		}
	}
}

func TestBadBundles(t *testing.T) {
	ca := newCA(t)
	pair, other := sign(t, ca, ann, time.Hour), sign(t, ca, ann, time.Hour)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, tc := range map[string]struct {
		text []byte
		says string
	}{
		"nothing":          {nil, "CERTIFICATE"},
		"no PEM":           {[]byte("hello"), "CERTIFICATE"},
		"no CA":            {join(pair.Cert, pair.Key), "CA"},
		"no certificate":   {join(pair.Key, ca.Cert), "client's certificate"},
		"another key":      {join(pair.Cert, other.Key, ca.Cert), "does not match"},
		"two keys":         {join(pair.Cert, pair.Key, pair.Key, ca.Cert), "two private keys"},
		"a leaf as CA":     {join(pair.Cert, pair.Key, other.Cert), "no CA's"},
		"two tokens":       {join(ca.Cert, encode(typeToken, []byte("a")), encode(typeToken, []byte("b"))), "two tokens"},
		"an empty token":   {join(ca.Cert, encode(typeToken, nil)), "bearer token"},
		"a token of lines": {join(ca.Cert, encode(typeToken, []byte("a\r\nb: c"))), "bearer token"},
		"another block":    {join(ca.Cert, encode("X509 CRL", []byte("a"))), "X509 CRL"},
		"cut short":        {ca.Cert[:len(ca.Cert)-10], "cut short"},
		"too much":         {bytes.Repeat(ca.Cert, 1000), "limit"},
	} {
		_, err := ParseBundle(tc.text)
		if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), string(pair.Key[30:60])) {
			t.Errorf("%s: got %v, want an error with %q", name, err, tc.says)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	token, err := NewToken(newCA(f).Cert)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token.String())
	f.Add("nrj1-")
	f.Fuzz(func(t *testing.T, text string) {
		if token, err := ParseToken(text); err == nil && token.String() != strings.TrimSpace(text) {
			t.Errorf("%q was read as %s", text, token.String())
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	ca := newCA(f)
	f.Add(Bundle{Pair: sign(f, ca, ann, time.Hour), Roots: ca.Cert, Token: "abc"}.PEM())
	f.Add([]byte("-----BEGIN CERTIFICATE-----"))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := ParseBundle(text)
		if err != nil {
			return
		}
		again, err := ParseBundle(b.PEM())
		if diff := cmp.Diff(b, again); diff != "" || err != nil {
			t.Errorf("%q: %v\n%s", text, err, diff)
		}
	})
}

func FuzzSubjectOf(f *testing.F) {
	f.Add(node.String())
	f.Add(ann.String())
	f.Add("nexus-raft://c1/client/%2F")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		if s, err := SubjectOf(&x509.Certificate{URIs: []*url.URL{u}}); err == nil && s.String() != u.String() {
			t.Errorf("%q was read as %v", text, s)
		}
	})
}

func FuzzSign(f *testing.F) {
	ca := newCA(f)
	csr, _, err := NewRequest()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr)
	f.Fuzz(func(t *testing.T, text []byte) {
		cert, err := Sign(ca, text, node, now, time.Hour)
		if err != nil {
			if !errors.Is(err, nexusraft.ErrRefused) {
				t.Errorf("%q: got %v, want ErrRefused", text, err)
			}
			return
		}
		chain, err := Certificates(cert)
		if err != nil || len(chain) != 2 {
			t.Fatalf("%q: signed %q, %v", text, cert, err)
		}
		if s, err := SubjectOf(chain[0]); err != nil || s != node {
			t.Errorf("%q: signed for %v, %v", text, s, err)
		}
	})
}
