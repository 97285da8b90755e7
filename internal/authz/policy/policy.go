// Package policy says what each gRPC method asks of its callers. Of the services of package
// nexusraft.v1 that is an option of the method, in the .proto; of others it is a table here.
package policy

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Policy is what a method asks of its callers. Nobody may call one of which it is zero.
type Policy struct {
	Callers pb.Callers
	nexusraft.Permission
}

// OfClients is the policy of a method for clients alone.
func OfClients(p nexusraft.Permission) Policy { return Policy{pb.Callers_CALLERS_CLIENTS, p} }

var (
	anybody = Policy{Callers: pb.Callers_CALLERS_ANYBODY}
	looks   = OfClients(nexusraft.Permission{Role: nexusraft.AccessRead, In: nexusraft.InAnyZone})
)

// grpcs are the methods of gRPC's own services.
var grpcs = map[string]Policy{
	"/grpc.health.v1.Health/Check": anybody,
	"/grpc.health.v1.Health/List":  anybody,
	"/grpc.health.v1.Health/Watch": anybody,

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      looks,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": looks,
}

// authenticate is called by who has nothing to show yet: it looks at a name and an access token.
const authenticate = "/etcdserverpb.Auth/Authenticate"

// OfEtcd returns what the methods of etcd's services that this module offers ask of their callers.
// It counts where they are served: a program with services of its own under these names says itself
// who may call them. The map is the caller's.
func OfEtcd() map[string]nexusraft.Permission {
	reads := nexusraft.Permission{Role: nexusraft.AccessRead}
	writes := nexusraft.Permission{Role: nexusraft.AccessWrite}
	admins := nexusraft.Permission{Role: nexusraft.AccessAdmin}
	root := nexusraft.Permission{Role: nexusraft.AccessAdmin, In: nexusraft.InRootZone}
	all := map[string]nexusraft.Permission{
		"/etcdserverpb.Watch/Watch":           reads,
		"/etcdserverpb.Lease/LeaseGrant":      writes,
		"/etcdserverpb.Lease/LeaseRevoke":     writes,
		"/etcdserverpb.Lease/LeaseKeepAlive":  writes,
		"/etcdserverpb.Lease/LeaseTimeToLive": reads,
		"/etcdserverpb.Lease/LeaseLeases":     reads,
		"/etcdserverpb.KV/Range":              reads,
		"/etcdserverpb.KV/RangeStream":        reads,
		"/etcdserverpb.KV/Put":                writes,
		"/etcdserverpb.KV/DeleteRange":        writes,
		"/etcdserverpb.KV/Txn":                {Role: nexusraft.AccessWrite, Reading: nexusraft.AccessRead},
		"/etcdserverpb.KV/Compact":            admins,
		"/etcdserverpb.Maintenance/Hash":      reads,
		"/etcdserverpb.Maintenance/HashKV":    reads,
		"/etcdserverpb.Maintenance/Status":    reads,
		"/etcdserverpb.Maintenance/Alarm":     reads, // only the list is offered
		"/etcdserverpb.Cluster/MemberList":    reads,
		"/etcdserverpb.Auth/AuthStatus":       looks.Permission,

		"/v3lockpb.Lock/Lock":             writes,
		"/v3lockpb.Lock/Unlock":           writes,
		"/v3electionpb.Election/Campaign": writes,
		"/v3electionpb.Election/Proclaim": writes,
		"/v3electionpb.Election/Resign":   writes,
		"/v3electionpb.Election/Leader":   reads,
		"/v3electionpb.Election/Observe":  reads,
	}
	for _, name := range [...]string{
		"AuthEnable", "AuthDisable", "UserAdd", "UserGet", "UserList", "UserDelete", "UserChangePassword", "UserGrantRole",
		"UserRevokeRole", "RoleAdd", "RoleGet", "RoleList", "RoleDelete", "RoleGrantPermission", "RoleRevokePermission",
	} {
		all["/etcdserverpb.Auth/"+name] = root
	}
	return all
}

// table has the policies of all methods, and, of each service whose methods are all for anybody, or
// all for nodes, for which.
type table struct {
	methods  map[string]Policy
	services map[string]pb.Callers
}

var read = sync.OnceValue(func() table {
	t := table{methods: maps.Clone(grpcs), services: make(map[string]pb.Callers)}
	maps.Copy(t.methods, ours())
	for method, p := range t.methods {
		service := serviceOf(method)
		if callers, ok := t.services[service]; ok && callers != p.Callers {
			p.Callers = pb.Callers_CALLERS_UNSPECIFIED
		}
		t.services[service] = p.Callers
	}
	t.methods[authenticate] = anybody // but not the other methods of its service
	return t
})

func serviceOf(method string) string { return method[:strings.LastIndexByte(method, '/')+1] }

// ours are the methods of our services, by the options in the .proto.
func ours() map[string]Policy {
	found := make(map[string]Policy)
	protoregistry.GlobalFiles.RangeFilesByPackage("nexusraft.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			methods := f.Services().Get(i).Methods()
			for j := range methods.Len() {
				m := methods.Get(j)
				option, _ := proto.GetExtension(m.Options(), pb.E_Policy).(*pb.Policy)
				found["/"+string(m.Parent().FullName())+"/"+string(m.Name())] = fromProto(option)
			}
		}
		return true
	})
	return found
}

func fromProto(p *pb.Policy) Policy {
	scope := map[pb.Scope]nexusraft.Scope{
		pb.Scope_SCOPE_ROOT_ZONE: nexusraft.InRootZone,
		pb.Scope_SCOPE_ANY_ZONE:  nexusraft.InAnyZone,
	}[p.GetScope()]
	return Policy{p.GetCallers(), nexusraft.Permission{Role: wire.AccessRoleFromProto(p.GetRole()), In: scope}}
}

// Of returns the policy of a method, by its full name; false if there is none. For an unknown method
// of a service that is for anybody, or for nodes alone, it still returns for which: it may be one of
// a later release.
func Of(method string) (Policy, bool) {
	t := read()
	p, ok := t.methods[method]
	if ok {
		return p, true
	}
	switch callers := t.services[serviceOf(method)]; callers {
	case pb.Callers_CALLERS_ANYBODY, pb.Callers_CALLERS_NODES:
		p.Callers = callers
	}
	return p, false
}

// IsPublic reports whether a method, by its full name, is for everybody: health, and Join, Renew and etcd's
// Authenticate, which ask for a token or a certificate themselves.
func IsPublic(method string) bool {
	p, _ := Of(method)
	return p.Callers == pb.Callers_CALLERS_ANYBODY
}

// IsBetweenNodes reports whether calls of a method, by its full name, begin with a handshake of
// nodes.
func IsBetweenNodes(method string) bool {
	p, _ := Of(method)
	return p.Callers == pb.Callers_CALLERS_NODES
}

// IsFixed reports whether a method has a policy that no program may replace.
func IsFixed(method string) bool {
	p, ok := Of(method)
	return ok || p.Callers != pb.Callers_CALLERS_UNSPECIFIED
}

// Methods returns the full names of all methods that have a policy of their own, in order.
func Methods() []string { return slices.Sorted(maps.Keys(read().methods)) }
