package mtls

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nexi-lab/nexus-raft/internal/authz/policy"
)

// GuardOptions returns what a server with TLS, and without finer rules of what each caller may do,
// needs besides: callers without a certificate that is believed get nothing but health, and can
// join with a token.
func GuardOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo,
			handle grpc.UnaryHandler,
		) (any, error) {
			if err := guard(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return handle(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo,
			handle grpc.StreamHandler,
		) error {
			if err := guard(stream.Context(), info.FullMethod); err != nil {
				return err
			}
			return handle(srv, stream)
		}),
	}
}

func guard(ctx context.Context, method string) error {
	why := WhyUnknown(ctx)
	if why == nil || policy.IsPublic(method) {
		return nil
	}
	return status.Errorf(codes.Unauthenticated, "%s needs a certificate of the cluster, which a bearer token doesn't "+
		"replace here: %v", method, why)
}

// WhyUnknown returns why an encrypted call has no identity (CallerOf); nil if it has one, or
// is not encrypted. The error matches nexusraft.ErrRefused.
func WhyUnknown(ctx context.Context) error {
	info, _ := infoOf(ctx)
	return info.why
}
