package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// MaxPEMBytes is the longest PEM text that is read.
const MaxPEMBytes = 256 << 10

const (
	typeCertificate = "CERTIFICATE"
	typeRequest     = "CERTIFICATE REQUEST"
	typeKey         = "PRIVATE KEY"
	typeToken       = "NEXUS-RAFT TOKEN"
)

// Pair is a certificate and its private key.
type Pair struct {
	Cert []byte // PEM; may be a chain, leaf first, the CA last
	Key  []byte // PEM
}

// Certificate returns the pair in the form that crypto/tls uses, or what is wrong with it.
func (p Pair) Certificate() (tls.Certificate, error) {
	if _, err := Certificates(p.Cert); err != nil {
		return tls.Certificate{}, err
	}
	if len(p.Key) > MaxPEMBytes {
		return tls.Certificate{}, fmt.Errorf("a private key of %d bytes, limit %d", len(p.Key), MaxPEMBytes)
	}
	cert, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("pair the certificate and its key: %w", err)
	}
	return cert, nil
}

// Certificates returns the certificates of a PEM text, which holds at least one. Blocks of
// other types are passed over.
func Certificates(text []byte) ([]*x509.Certificate, error) {
	blocks, err := decode(text)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for _, b := range blocks {
		if b.Type != typeCertificate {
			continue
		}
		cert, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate %d of the PEM text: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM block CERTIFICATE is there")
	}
	return certs, nil
}

// Pool returns the certificates of a PEM text as what is believed.
func Pool(roots []byte) (*x509.CertPool, error) {
	certs, err := Certificates(roots)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, cert := range certs {
		if !cert.IsCA {
			return nil, fmt.Errorf("the certificate of %q is no CA's", cert.Subject.CommonName)
		}
		pool.AddCert(cert)
	}
	return pool, nil
}

// Fingerprint returns the SHA-256 of the DER form of a CA, which is the last certificate of
// a PEM text.
func Fingerprint(ca []byte) ([sha256.Size]byte, error) {
	certs, err := Certificates(ca)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("take the fingerprint of a CA: %w", err)
	}
	last := certs[len(certs)-1]
	if !last.IsCA {
		return [sha256.Size]byte{}, fmt.Errorf("take the fingerprint of a CA: the certificate of %q is no CA's",
			last.Subject.CommonName)
	}
	return sha256.Sum256(last.Raw), nil
}

// First returns the first certificate of a PEM text, PEM; nil if there is none.
func First(text []byte) []byte {
	certs, err := Certificates(text)
	if err != nil {
		return nil
	}
	return encode(typeCertificate, certs[0].Raw)
}

// Last returns the last certificate of a PEM text, PEM; nil if there is none.
func Last(text []byte) []byte {
	certs, err := Certificates(text)
	if err != nil {
		return nil
	}
	return encode(typeCertificate, certs[len(certs)-1].Raw)
}

// Fingerprints returns the SHA-256 of the DER form of each certificate of a PEM text.
func Fingerprints(text []byte) (sums [][sha256.Size]byte, err error) {
	certs, err := Certificates(text)
	for _, cert := range certs {
		sums = append(sums, sha256.Sum256(cert.Raw))
	}
	return sums, err
}

// decode returns all blocks of a PEM text. What stands around blocks is passed over, but a
// block that is damaged or cut short is an error.
func decode(text []byte) ([]*pem.Block, error) {
	if len(text) > MaxPEMBytes {
		return nil, fmt.Errorf("a PEM text of %d bytes, limit %d", len(text), MaxPEMBytes)
	}
	var blocks []*pem.Block
	rest := text
	for {
		b, after := pem.Decode(rest)
		if b == nil {
			break
		}
		blocks = append(blocks, b)
		rest = after
	}
	if begun := bytes.Count(text, []byte("-----BEGIN ")); begun != len(blocks) {
		return nil, fmt.Errorf("%d of %d PEM blocks are damaged or cut short", begun-len(blocks), begun)
	}
	return blocks, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
