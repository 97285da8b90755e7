package etcd

import (
	"context"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// heedful registers services whose calls heed the metadata that all of etcd's API knows: see checkMetadata. It is
// looked at once the caller may make the call, before the handler; of a stream, before its first request.
type heedful struct {
	grpc.ServiceRegistrar

	zones Zones
}

// RegisterService implements grpc.ServiceRegistrar.
func (r heedful) RegisterService(d *grpc.ServiceDesc, handler any) {
	out := *d
	out.Methods, out.Streams = nil, nil
	for _, m := range d.Methods {
		m.Handler = heedfulMethod(r.zones, m.Handler)
		out.Methods = append(out.Methods, m)
	}
	for _, s := range d.Streams {
		s.Handler = heedfulStream(r.zones, s.Handler)
		out.Streams = append(out.Streams, s)
	}
	r.ServiceRegistrar.RegisterService(&out, handler)
}

func heedfulMethod(zones Zones, handle grpc.MethodHandler) grpc.MethodHandler {
	return func(
		srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor,
	) (any, error) {
		return handle(srv, ctx, decode, func(
			ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler,
		) (any, error) {
			checked := func(ctx context.Context, req any) (any, error) {
				if err := checkMetadata(ctx, zones); err != nil {
					return nil, err
				}
				return next(ctx, req)
			}
			if intercept == nil {
				return checked(ctx, req)
			}
			return intercept(ctx, req, info, checked)
		})
	}
}

func heedfulStream(zones Zones, handle grpc.StreamHandler) grpc.StreamHandler {
	return func(srv any, stream grpc.ServerStream) error {
		if err := checkMetadata(stream.Context(), zones); err != nil {
			return err
		}
		return handle(srv, stream)
	}
}

// checkMetadata refuses a call whose client's version is no text, and one that is to be made only where a leader
// is known (etcd's hasleader) while this node knows none of the zone that the call names. What else is wrong with the
// zone its handler says.
func checkMetadata(ctx context.Context, zones Zones) error {
	versions := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataClientAPIVersionKey)
	if len(versions) > 0 && !utf8.ValidString(versions[0]) {
		return rpctypes.ErrGRPCInvalidClientAPIVersion
	}
	if !requiresLeader(ctx) {
		return nil
	}
	id, err := zoneOf(ctx)
	if err != nil {
		return toStatus(err)
	}
	if z, err := zones.Zone(id); err == nil && !z.HasLeader() {
		return rpctypes.ErrGRPCNoLeader
	}
	return nil
}

// requiresLeader reports whether a call is to be made, and a stream to go on, only where a leader is known.
func requiresLeader(ctx context.Context) bool {
	values := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey)
	return len(values) > 0 && values[0] == rpctypes.MetadataHasLeader
}
