package transport

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// GuardOptions returns what a server with TLS, and without finer rules of who may do what,
// needs besides: callers without a certificate that is believed get nothing but health, and can join with a token.
func GuardOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			if err := guard(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return handle(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			if err := guard(stream.Context(), info.FullMethod); err != nil {
				return err
			}
			return handle(srv, stream)
		}),
	}
}

func guard(ctx context.Context, method string) error {
	why := WhyUnknown(ctx)
	if why == nil || IsPublic(method) {
		return nil
	}
	return status.Errorf(codes.Unauthenticated, "%s needs a certificate of the cluster, which a bearer token doesn't replace here: %v", method, why)
}

// IsPublic reports whether a method, by its full name, is for everybody: health, and Join, which asks for
// a token itself.
func IsPublic(method string) bool {
	return method == pb.Cluster_Join_FullMethodName || strings.HasPrefix(method, "/grpc.health.v1.Health/")
}

// IsBetweenNodes reports whether calls of a method, by its full name, begin with a handshake of nodes.
func IsBetweenNodes(method string) bool {
	return strings.HasPrefix(method, "/"+pb.RaftTransport_ServiceDesc.ServiceName+"/") || method == pb.Zones_Propose_FullMethodName
}

// WhyUnknown returns why an encrypted call has no identity (CallerOf); nil if it has one, or
// is not encrypted. The error matches nexusraft.ErrRefused.
func WhyUnknown(ctx context.Context) error {
	info, _ := infoOf(ctx)
	return info.why
}
