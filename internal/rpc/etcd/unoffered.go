package etcd

import (
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nexi-lab/nexus-raft/kv"
)

// headerBytes is more than the header of a Range's answer takes.
const headerBytes = 1 << 10

// Options returns what a grpc.Server needs that this package's services are on. They go
// last, after the options of other services: they allow the largest answer of a Range, and
// answer what is registered nowhere, the rest of etcd's API for example.
func Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxSendMsgSize(kv.MaxRangeBytes + headerBytes),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(stream)
			return notOffered(method)
		}),
	}
}

// only is a service with the named unary methods and nothing else, so that all the rest of it
// comes to the handler of what is registered nowhere.
func only(d grpc.ServiceDesc, methods ...string) *grpc.ServiceDesc {
	d.Methods = slices.DeleteFunc(slices.Clone(d.Methods), func(m grpc.MethodDesc) bool {
		return !slices.Contains(methods, m.MethodName)
	})
	d.Streams = nil
	return &d
}

// notOffered answers a method that this version does not have.
func notOffered(method string) error {
	return status.Errorf(codes.Unimplemented, "nexusraft: %s is not offered yet; of etcd's API these are: "+
		"KV, Watch, Lease, Lock, Election, Auth, Maintenance Status, Hash, HashKV and the list of alarms, Cluster MemberList",
		strings.TrimPrefix(method, "/"))
}
