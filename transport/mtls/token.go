package mtls

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// What answers at an address may be any node of the cluster, a witness that was broken into, for
// example, and a join token lets members in. So a node never tells its token's secret: it proves
// that it knows it, by a MAC of what both sides know of their TLS session alone. A proof is worth
// nothing on another connection.
const (
	proofLabel    = "EXPORTER-nexus-raft-token"
	proofMetadata = "nexus-token-proof-bin"
	proofBytes    = 32
)

// TokenProof is what a caller shows of a join token.
type TokenProof struct {
	ID [8]byte // which token; zero if it shows none

	binding, mac []byte // of the session, and what the caller says
	told         []byte // the hash of the secret, which a caller of an earlier release has told
}

// Of reports whether the caller knows the secret of which this is the hash.
func (p TokenProof) Of(hash []byte) bool {
	if p.told != nil {
		return subtle.ConstantTimeCompare(hash, p.told) == 1
	}
	return p.mac != nil && pki.Proves(hash, p.binding, p.mac)
}

// ProofOf returns what a call shows of the token with an identifier, and a secret if the caller
// tells it.
func ProofOf(ctx context.Context, id, secret []byte) (p TokenProof, err error) {
	if len(id) == 0 && len(secret) == 0 {
		return p, nil
	}
	if len(id) != len(p.ID) || len(secret) != 0 && len(secret) != len(pki.Token{}.Secret) {
		return p, fmt.Errorf("%w: a join token with an identifier of %d and a secret of %d bytes", nexusraft.ErrRefused,
			len(id), len(secret))
	}
	copy(p.ID[:], id)
	if len(secret) > 0 {
		sum := sha256.Sum256(secret)
		p.told = sum[:]
		return p, nil
	}
	if v := metadata.ValueFromIncomingContext(ctx, proofMetadata); len(v) == 1 {
		p.mac = []byte(v[0])
	}
	info, _ := infoOf(ctx)
	p.binding, err = binding(info, p.ID)
	return p, err
}

// binding is what only the two sides of a TLS session know.
func binding(info authInfo, id [8]byte) ([]byte, error) {
	if !info.State.HandshakeComplete {
		return nil, fmt.Errorf("%w: a join token is for connections that are encrypted", nexusraft.ErrRefused)
	}
	b, err := info.State.ExportKeyingMaterial(proofLabel, id[:], proofBytes)
	if err != nil {
		return nil, fmt.Errorf("bind a join token to its connection: %w", err)
	}
	return b, nil
}

// proving has a call prove that this side knows a token's secret, on whatever connection it takes.
type proving struct{ token pki.Token }

// ProveToken has one call prove that this side knows a token's secret; it has no effect for the
// zero token.
func ProveToken(t pki.Token) []grpc.CallOption {
	if t == (pki.Token{}) {
		return nil
	}
	return []grpc.CallOption{grpc.PerRPCCredentials(proving{t})}
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (p proving) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	ri, _ := credentials.RequestInfoFromContext(ctx)
	info, ok := ri.AuthInfo.(authInfo)
	if !ok {
		return nil, errors.New("a join token is for connections that are encrypted")
	}
	b, err := binding(info, p.token.ID)
	if err != nil {
		return nil, err
	}
	return map[string]string{proofMetadata: string(p.token.Prove(b))}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (p proving) RequireTransportSecurity() bool { return true }
