package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// skew is how far the clocks of two machines may be apart: certificates are valid since
// then before they are made.
const skew = time.Hour

const lifeOfCA = 10 // years

// NewCA makes the CA of a cluster, valid for ten years.
func NewCA(cluster nexusraft.ClusterID, now time.Time) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make the CA's key: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "nexus-raft cluster " + cluster.String()},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.AddDate(lifeOfCA, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Pair{}, fmt.Errorf("make the CA's certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("make the CA's key: %w", err)
	}
	return Pair{Cert: encode(typeCertificate, der), Key: encode(typeKey, keyDER)}, nil
}

// NewRequest makes a key, and a request for a certificate of it. The key never needs to
// leave the machine. Both are PEM.
func NewRequest() (csr, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	csr, err = requestFor(private)
	return csr, encode(typeKey, keyDER), err
}

// RequestFor makes a request for a certificate of a key, PEM, that NewRequest has made.
func RequestFor(key []byte) (csr []byte, err error) {
	blocks, err := decode(key)
	if err != nil || len(blocks) != 1 || blocks[0].Type != typeKey {
		return nil, errors.New("read a key: it is not one PEM block PRIVATE KEY")
	}
	private, err := x509.ParsePKCS8PrivateKey(blocks[0].Bytes)
	if err != nil {
		return nil, fmt.Errorf("read a key: %w", err)
	}
	return requestFor(private)
}

func requestFor(private any) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	if err != nil {
		return nil, fmt.Errorf("make a request for a certificate: %w", err)
	}
	return encode(typeRequest, der), nil
}

// KeyHash returns the SHA-256 of the public key that a request is for. A bad request is ErrRefused.
func KeyHash(csr []byte) ([]byte, error) {
	request, err := parseRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nexusraft.ErrRefused, err)
	}
	sum := sha256.Sum256(request.RawSubjectPublicKeyInfo)
	return sum[:], nil
}

// Sign gives the key of a request a certificate of the CA for s, valid from an hour before now
// until life after it, and no longer than the CA itself. What else the request asks for is ignored.
// The result is PEM: the certificate, then the CA's. A bad request is ErrRefused.
//
// It and SignNode are no methods: a method is linked into each program that has the type, and a
// witness signs nothing.
func Sign(ca Pair, csr []byte, s Subject, now time.Time, life time.Duration) ([]byte, error) {
	return issue(ca, csr, s, []*url.URL{s.URI()}, now, life)
}

// SignNode is Sign for a node whose certificate says, too, what the node is (RoleOf): a witness, or
// a full one by any other role.
func SignNode(ca Pair, csr []byte, s Subject, role nexusraft.Role, now time.Time, life time.Duration) ([]byte, error) {
	return issue(ca, csr, s, []*url.URL{s.URI(), roleURI(role)}, now, life)
}

func issue(ca Pair, csr []byte, s Subject, uris []*url.URL, now time.Time, life time.Duration) ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	request, err := parseRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nexusraft.ErrRefused, err)
	}
	pair, err := ca.Certificate()
	if err != nil {
		return nil, fmt.Errorf("sign with the CA: %w", err)
	}
	end := now.Add(life)
	if pair.Leaf.NotAfter.Before(end) {
		end = pair.Leaf.NotAfter
	}
	if !pair.Leaf.IsCA || !end.After(now) {
		return nil, fmt.Errorf("sign with the CA: its certificate is no CA's, or has expired at %s",
			pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if s.Node != 0 {
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: s.name()},
		URIs:                  uris,
		NotBefore:             now.Add(-skew),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, pair.Leaf, request.PublicKey,
		pair.PrivateKey.(crypto.Signer))
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %v: %w", s, err)
	}
	return append(encode(typeCertificate, der), ca.Cert...), nil
}

// name is what people see of a certificate; only its URI counts.
func (s Subject) name() string {
	if s.Node != 0 {
		return "node " + s.Node.String()
	}
	return "client " + s.Client
}

// parseRequest returns a request that is signed by the key it is for, an ECDSA P-256 one.
func parseRequest(csr []byte) (*x509.CertificateRequest, error) {
	blocks, err := decode(csr)
	if err != nil {
		return nil, fmt.Errorf("the request for a certificate: %w", err)
	}
	if len(blocks) != 1 || blocks[0].Type != typeRequest {
		return nil, errors.New("the request for a certificate is not one PEM block CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(blocks[0].Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse the request for a certificate: %w", err)
	}
	if key, ok := request.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the request for a certificate is of another key than ECDSA P-256")
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the request for a certificate is not signed by its key: %w", err)
	}
	return request, nil
}
