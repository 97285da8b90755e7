package authz

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// credentials are what a caller shows. A bearer token counts before a certificate.
type credentials struct {
	encrypted bool
	bearer    string      // "" for none
	caller    mtls.Caller // that its certificate names
	anonymous error       // why it names none; nil if it does
}

func credentialsOf(ctx context.Context) credentials {
	caller, _ := mtls.CallerOf(ctx)
	return credentials{mtls.Encrypted(ctx), bearer(ctx), caller, mtls.WhyUnknown(ctx)}
}

// bearer returns the access token of a call's metadata: authorization, with or without a scheme, or what etcd's clients
// send. Tokens of other kinds are an application's own.
func bearer(ctx context.Context) string {
	for _, v := range metadata.ValueFromIncomingContext(ctx, "authorization") {
		scheme, text, schemed := strings.Cut(v, " ")
		if !schemed { // as programs for etcd's HTTP API send it
			scheme, text = "bearer", v
		}
		if strings.EqualFold(scheme, "bearer") && strings.HasPrefix(text, pki.AccessTokenPrefix) {
			return text
		}
	}
	for _, v := range metadata.ValueFromIncomingContext(ctx, "token") {
		if strings.HasPrefix(v, pki.AccessTokenPrefix) {
			return v
		}
	}
	return ""
}

// checkNode refuses a caller that is no node. What a node may do is up to the handshake, and to what
// the node admits.
func (c credentials) checkNode(method string) error {
	switch {
	case c.anonymous != nil:
		return unknown("%s needs the certificate of a node: %v", method, c.anonymous)
	case c.caller.Node == 0:
		return refusal(codes.PermissionDenied, "%s needs the certificate of a node, not that of client %q", method,
			c.caller.Client)
	}
	return nil
}

// requester returns a caller that was checked, as it is passed on.
func (c credentials) requester(name string, asks ...asked) *nexusraft.Requester {
	q := &nexusraft.Requester{Name: name}
	if c.bearer != "" {
		q.Token, _, _ = pki.ParseAccessToken(c.bearer) // it was parsed before
	}
	for _, a := range asks {
		q.Needs = append(q.Needs, a.need())
	}
	return q
}

// unknown is the refusal of a caller whose credentials prove nothing.
func unknown(format string, args ...any) error {
	return refusal(codes.Unauthenticated, format, args...)
}

// refusal is a gRPC status, with the error as its detail: clients know by that that nothing was
// done.
func refusal(code codes.Code, format string, args ...any) error {
	return detailed(code, fmt.Errorf("%w: "+format, append([]any{nexusraft.ErrDenied}, args...)...))
}

func detailed(code codes.Code, err error) error {
	return wire.WithDetails(status.New(code, err.Error()), err)
}
