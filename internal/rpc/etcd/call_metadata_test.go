package etcd

import (
	"context"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Every call of every service that is registered, of whatever kind, is refused where no leader is known, if it asks
// for that.
func TestCallsThatRequireALeader(t *testing.T) {
	root, other := newZone(), newZone()
	conn := serve(t, fakeZones{nexusraft.RootZone: root, 7: other})
	calls := map[string]func(context.Context) error{
		"unary": func(ctx context.Context) error {
			_, err := etcdserverpb.NewKVClient(conn).Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("k")})
			return err
		},
		"stream": func(ctx context.Context) error {
			stream, err := etcdserverpb.NewKVClient(conn).RangeStream(ctx, &etcdserverpb.RangeRequest{Key: []byte("k")})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"another service": func(ctx context.Context) error {
			_, err := etcdserverpb.NewMaintenanceClient(conn).Status(ctx, &etcdserverpb.StatusRequest{})
			return err
		},
	}
	requires := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, "true")
	for name, call := range calls {
		root.leaderless.Store(true)
		if err := call(requires); rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader) {
			t.Errorf("%s without a leader: got %v, want no leader", name, err)
		}
		for what, ctx := range map[string]context.Context{
			"without the metadata":      t.Context(),
			"of another zone":           metadata.AppendToOutgoingContext(requires, "nexus-zone", "7"),
			"with another word as that": metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, "no"),
		} {
			if err := call(ctx); err != nil {
				t.Errorf("%s %s: got %v, want none", name, what, err)
			}
		}
		root.leaderless.Store(false)
		if err := call(requires); err != nil {
			t.Errorf("%s with a leader: got %v, want none", name, err)
		}
	}
}

func TestMetadataOfCalls(t *testing.T) {
	zones := fakeZones{nexusraft.RootZone: newZone()}
	for name, tc := range map[string]struct {
		pairs []string
		want  error
	}{
		"none":          {nil, nil},
		"a version":     {[]string{rpctypes.MetadataClientAPIVersionKey, "3.5.0"}, nil},
		"no text":       {[]string{rpctypes.MetadataClientAPIVersionKey, "\xff"}, rpctypes.ErrGRPCInvalidClientAPIVersion},
		"unknown zone":  {[]string{rpctypes.MetadataRequireLeaderKey, "true", "nexus-zone", "9"}, nil}, // the handler says so
		"a bad zone":    {[]string{rpctypes.MetadataRequireLeaderKey, "true", "nexus-zone", "x"}, toStatus(errBadMetadata)},
		"unasked of it": {[]string{"nexus-zone", "x"}, nil},
	} {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(tc.pairs...))
		if got := checkMetadata(ctx, zones); rpctypes.ErrorDesc(got) != rpctypes.ErrorDesc(tc.want) {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}

// A handler that is called without interceptors is heeded, too.
func TestMetadataWithoutInterceptors(t *testing.T) {
	z := newZone()
	z.leaderless.Store(true)
	var got *grpc.ServiceDesc
	heedful{registrar(func(d *grpc.ServiceDesc) { got = d }), fakeZones{nexusraft.RootZone: z}}.
		RegisterService(&etcdserverpb.KV_ServiceDesc, nil)
	ctx := metadata.NewIncomingContext(t.Context(),
		metadata.Pairs(rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader))
	_, err := got.Methods[0].Handler(etcdserverpb.UnimplementedKVServer{}, ctx, func(any) error { return nil }, nil)
	if rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader) {
		t.Errorf("got %v, want no leader", err)
	}
}

type registrar func(*grpc.ServiceDesc)

func (r registrar) RegisterService(d *grpc.ServiceDesc, _ any) { r(d) }
