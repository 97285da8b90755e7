package wire

import (
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// tokenID reads an identifier; one of another form becomes zero.
func tokenID(text string) nexusraft.TokenID {
	id, err := nexusraft.ParseTokenID(text)
	if err != nil {
		return nexusraft.TokenID{}
	}
	return id
}

// PrincipalToProto converts what a client may do.
func PrincipalToProto(p nexusraft.Principal) *pb.PrincipalInfo {
	info := &pb.PrincipalInfo{Name: p.Name}
	for _, r := range p.Roles {
		info.Roles = append(info.Roles, ZoneRoleToProto(r))
	}
	for _, t := range p.Tokens {
		info.Tokens = append(info.Tokens, AccessTokenToProto(t))
	}
	return info
}

// PrincipalFromProto converts what a client may do.
func PrincipalFromProto(info *pb.PrincipalInfo) nexusraft.Principal {
	p := nexusraft.Principal{Name: info.GetName()}
	for _, r := range info.GetRoles() {
		p.Roles = append(p.Roles, ZoneRoleFromProto(r))
	}
	for _, t := range info.GetTokens() {
		p.Tokens = append(p.Tokens, AccessTokenFromProto(t))
	}
	return p
}

// ZoneRoleToProto converts a role in a zone; an unknown role becomes none.
func ZoneRoleToProto(r nexusraft.ZoneRole) *pb.ZoneRole {
	return &pb.ZoneRole{Zone: uint64(r.Zone), Role: AccessRoleToProto(r.Role)}
}

// ZoneRoleFromProto converts a role in a zone; an unknown role becomes AccessNone.
func ZoneRoleFromProto(r *pb.ZoneRole) nexusraft.ZoneRole {
	return nexusraft.ZoneRole{Zone: nexusraft.ZoneID(r.GetZone()), Role: AccessRoleFromProto(r.GetRole())}
}

// AccessTokenToProto converts what is known of an access token.
func AccessTokenToProto(t nexusraft.AccessToken) *pb.AccessTokenInfo {
	return &pb.AccessTokenInfo{Id: t.ID.String(), ExpiresNanos: t.Expires.UnixNano()}
}

// AccessTokenFromProto converts what is known of an access token.
func AccessTokenFromProto(t *pb.AccessTokenInfo) nexusraft.AccessToken {
	return nexusraft.AccessToken{ID: tokenID(t.GetId()), Expires: time.Unix(0, t.GetExpiresNanos()).UTC()}
}

// JoinTokenToProto converts what is known of a join token.
func JoinTokenToProto(t nexusraft.JoinToken) *pb.TokenInfo {
	info := &pb.TokenInfo{
		Id: t.ID.String(), Role: RoleToProto(t.Role), ExpiresNanos: t.Expires.UnixNano(), UsesLeft: uint32(t.UsesLeft),
	}
	for _, id := range t.Nodes {
		info.Nodes = append(info.Nodes, uint64(id))
	}
	return info
}

// JoinTokenFromProto converts what is known of a join token.
func JoinTokenFromProto(info *pb.TokenInfo) nexusraft.JoinToken {
	t := nexusraft.JoinToken{
		ID: tokenID(info.GetId()), Role: RoleFromProto(info.GetRole()),
		Expires: time.Unix(0, info.GetExpiresNanos()).UTC(), UsesLeft: int(info.GetUsesLeft()),
	}
	for _, id := range info.GetNodes() {
		t.Nodes = append(t.Nodes, nexusraft.NodeID(id))
	}
	return t
}
