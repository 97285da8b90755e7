package authz

import (
	"context"
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// asked is what one request asks for.
type asked struct {
	method string
	role   nexusraft.AccessRole
	any    bool             // in any zone
	zone   nexusraft.ZoneID // else in this one
}

// askedBy returns what a request asks for by a method's permission: where it names no zone in a way
// that its handler would take, the root zone's role.
func askedBy(ctx context.Context, method string, p nexusraft.Permission, req any) asked {
	a := asked{method: method, role: roleFor(p, req), any: p.In == nexusraft.InAnyZone, zone: nexusraft.RootZone}
	if p.In != nexusraft.InRequestZone {
		return a
	}
	if r, ok := req.(interface{ GetZone() uint64 }); ok {
		if id := nexusraft.ZoneID(r.GetZone()); id != system.EveryZone {
			a.zone = id
		}
	} else if id, err := wire.ZoneOf(ctx); err == nil && id != system.EveryZone {
		a.zone = id
	}
	return a
}

// askedBefore returns what a stream asks for before its first message, which may say the zone.
func askedBefore(method string, p nexusraft.Permission) asked {
	return asked{method: method, role: p.Role, any: p.In != nexusraft.InRootZone, zone: nexusraft.RootZone}
}

// allows reports whether a principal's roles suffice.
func (a asked) allows(p *pb.Principal) bool {
	if !a.any {
		return wire.AccessRoleFromProto(system.RoleIn(p, a.zone)).Includes(a.role)
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

// need is what is asked for without the method.
func (a asked) need() nexusraft.ZoneRole {
	if a.any {
		return nexusraft.ZoneRole{Zone: system.EveryZone, Role: a.role}
	}
	return nexusraft.ZoneRole{Zone: a.zone, Role: a.role}
}

func askedFor(need nexusraft.ZoneRole) asked {
	return asked{role: need.Role, any: need.Zone == system.EveryZone, zone: need.Zone}
}
