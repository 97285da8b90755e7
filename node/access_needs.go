package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Need says what a gRPC method asks of clients, where the server speaks TLS.
type Need struct {
	Role nexusraft.AccessRole // the least one with which it may be called
	In   Scope                // where the client must have it
}

// Scope says in which zone a client must have a role.
type Scope string

// The scopes.
const (
	// InRequestZone: in the zone that the request is for. That is what its field "zone" (uint64) says, or,
	// of a message without one, the metadata nexus-zone; the root zone where nothing is said.
	InRequestZone Scope = ""

	InRootZone Scope = "root" // for what concerns the whole cluster
	InAnyZone  Scope = "any"  // for what concerns no zone
)

// needs are those of the node's own services. Health, Join, and what begins with a handshake of nodes are not
// here: everybody may call the former two, and only nodes the others. Renew is for nodes alone.
var needs = map[string]Need{
	pb.Cluster_Status_FullMethodName:         {Role: nexusraft.AccessRead, In: InAnyZone},
	pb.Zones_Checksum_FullMethodName:         {Role: nexusraft.AccessRead},
	pb.Zones_ChangeMembership_FullMethodName: {Role: nexusraft.AccessAdmin},
	pb.Zones_TransferLeader_FullMethodName:   {Role: nexusraft.AccessAdmin},
	pb.EventStream_Subscribe_FullMethodName:  {Role: nexusraft.AccessRead},
	pb.EventStream_Publish_FullMethodName:    {Role: nexusraft.AccessWrite},
	pb.EventStream_Retain_FullMethodName:     {Role: nexusraft.AccessAdmin},

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      {Role: nexusraft.AccessRead, In: InAnyZone},
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": {Role: nexusraft.AccessRead, In: InAnyZone},
}

// forNodes are the node's own methods that clients never may call.
var forNodes = map[string]bool{pb.Cluster_Renew_FullMethodName: true}

func checkNeeds(more map[string]Need) error {
	var errs []error
	for _, method := range slices.Sorted(maps.Keys(more)) {
		need := more[method]
		if _, err := nexusraft.ParseAccessRole(string(need.Role)); err != nil {
			errs = append(errs, fmt.Errorf("Config.Needs of %s: %w", method, err))
		}
		if in := need.In; in != InRequestZone && in != InRootZone && in != InAnyZone {
			errs = append(errs, fmt.Errorf("Config.Needs of %s: there is no scope %q", method, in))
		}
		if _, own := needs[method]; own || forNodes[method] {
			errs = append(errs, fmt.Errorf("Config.Needs of %s: it is one of the node's own methods", method))
		}
	}
	return errors.Join(errs...)
}

// asked is what one request asks for.
type asked struct {
	method string
	role   nexusraft.AccessRole
	any    bool             // in any zone
	zone   nexusraft.ZoneID // else in this one
}

// of returns what a request asks for: where it names no zone in a way that its handler would take, the root
// zone's role.
func (need Need) of(ctx context.Context, method string, req any) asked {
	a := asked{method: method, role: need.Role, any: need.In == InAnyZone, zone: nexusraft.RootZone}
	if need.In != InRequestZone {
		return a
	}
	if r, ok := req.(interface{ GetZone() uint64 }); ok {
		if id := nexusraft.ZoneID(r.GetZone()); id != everyZone {
			a.zone = id
		}
	} else if id, err := wire.ZoneOf(ctx); err == nil && id != everyZone {
		a.zone = id
	}
	return a
}

// before returns what a stream asks for before its first message, which may say the zone.
func (need Need) before(method string) asked {
	return asked{method: method, role: need.Role, any: need.In != InRootZone, zone: nexusraft.RootZone}
}

// allows reports whether a principal's roles suffice.
func (a asked) allows(p *pb.Principal) bool {
	if !a.any {
		return wire.AccessRoleFromProto(roleIn(p, a.zone)).Includes(a.role)
	}
	return slices.ContainsFunc(p.GetRoles(), func(r *pb.ZoneRole) bool {
		return wire.AccessRoleFromProto(r.GetRole()).Includes(a.role)
	})
}

// where is for people.
func (a asked) where() string {
	if a.any {
		return "some zone"
	}
	return fmt.Sprintf("zone %v", a.zone)
}

// flag is what names the zone on a command line.
func (a asked) flag() string {
	if a.any {
		return ""
	}
	return fmt.Sprintf(" --zone %v", a.zone)
}
