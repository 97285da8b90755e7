package pki

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// MaxBearerBytes is the longest bearer token.
const MaxBearerBytes = 4 << 10

// Bundle is all that a client needs to speak to a cluster, as one file: which CA it believes,
// and its certificate and key, or a bearer token, or both.
type Bundle struct {
	Pair         // the client's; empty if it has none
	Roots []byte // PEM: the cluster's CA
	Token string // bearer token; "" if it has none
}

// ParseBundle reads concatenated PEM blocks: the client's CERTIFICATE, with its chain if it
// has one; its PRIVATE KEY; the CERTIFICATE of the cluster's CA; a NEXUS-RAFT TOKEN. Without
// a key all certificates are CAs; the token may stand anywhere. The errors hold no secrets.
func ParseBundle(text []byte) (Bundle, error) {
	b, err := sortBlocks(text)
	if err != nil {
		return Bundle{}, fmt.Errorf("read the credentials: %w", err)
	}
	if b.Key != nil {
		if _, err := b.Certificate(); err != nil {
			return Bundle{}, fmt.Errorf("read the credentials: the client's certificate: %w", err)
		}
	}
	if _, err := Pool(b.Roots); err != nil {
		return Bundle{}, fmt.Errorf("read the credentials: the cluster's CA (after the private key, if there is one): %w",
			err)
	}
	return b, nil
}

func sortBlocks(text []byte) (Bundle, error) {
	blocks, err := decode(text)
	if err != nil {
		return Bundle{}, err
	}
	var b Bundle
	for _, block := range blocks {
		switch {
		case block.Type == typeCertificate:
			b.Roots = append(b.Roots, encode(typeCertificate, block.Bytes)...)
		case block.Type == typeToken:
			if b.Token != "" {
				return Bundle{}, errors.New("there are two tokens")
			}
			b.Token = string(block.Bytes)
			if err := ValidateBearer(b.Token); err != nil {
				return Bundle{}, err
			}
		case strings.HasSuffix(block.Type, typeKey):
			if b.Key != nil {
				return Bundle{}, errors.New("there are two private keys")
			}
			b.Key = pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})
			b.Cert, b.Roots = b.Roots, nil
		default:
			return Bundle{}, fmt.Errorf("there is a PEM block of the type %.50q; want CERTIFICATE, PRIVATE KEY or NEXUS-RAFT "+
				"TOKEN", block.Type)
		}
	}
	return b, nil
}

// ValidateBearer returns what is wrong with a bearer token: it has 1 to MaxBearerBytes visible
// ASCII characters.
func ValidateBearer(token string) error {
	odd := strings.IndexFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
	if token == "" || len(token) > MaxBearerBytes || odd >= 0 {
		return fmt.Errorf("a bearer token has 1 to %d visible ASCII characters", MaxBearerBytes)
	}
	return nil
}

// PEM returns the bundle as ParseBundle reads it.
func (b Bundle) PEM() []byte {
	parts := [][]byte{b.Cert, b.Key, b.Roots}
	if b.Token != "" {
		parts = append(parts, encode(typeToken, []byte(b.Token)))
	}
	return bytes.Join(parts, nil)
}

// Config returns what a client's connections to the cluster need: TLS 1.3, with the client's
// certificate if it has one, to nothing but nodes that the bundle's CA vouches for. Clock says
// what time it is.
func (b Bundle) Config(clock func() time.Time) (*tls.Config, error) {
	roots, err := Pool(b.Roots)
	if err != nil {
		return nil, fmt.Errorf("the cluster's CA: %w", err)
	}
	var own tls.Certificate
	var cluster nexusraft.ClusterID
	if b.Key != nil {
		if own, err = b.Certificate(); err != nil {
			return nil, fmt.Errorf("the client's certificate: %w", err)
		}
		s, err := SubjectOf(own.Leaf)
		if err != nil {
			return nil, fmt.Errorf("the client's certificate: %w", err)
		}
		cluster = s.Cluster
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Not insecure: VerifyConnection does more. Only the host name is not compared: a
		// node is its ID, wherever it is reached.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			return VerifyNode(state.PeerCertificates, roots, cluster, 0, clock())
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil },
	}, nil
}
