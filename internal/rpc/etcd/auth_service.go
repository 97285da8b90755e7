package etcd

import (
	"context"
	"errors"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
)

// Access is what a node knows of its clients. Its methods may be called from any number of goroutines.
type Access interface {
	// Encrypted reports whether the node speaks TLS; otherwise clients have no names.
	Encrypted() bool

	// Authenticate returns nil if a text is the access token of a name, ErrDenied if it is not, whatever is wrong.
	Authenticate(ctx context.Context, method, name, text string) error

	// Principals returns all clients that have a role, by name.
	Principals(ctx context.Context) ([]nexusraft.Principal, error)
}

// Auth is etcd's Auth service. Its users are our principals, and a user's password is an access token of that name.
// Our roles are for zones, and not for ranges of keys: a role of etcd's is one of ours in one zone, or in all, as in
// "write in zone 1". Clients can change nothing here.
type Auth struct {
	etcdserverpb.UnimplementedAuthServer

	operator *Operator
	access   Access
}

// NewAuth returns the service, whose answers have the header of the operator's.
func NewAuth(operator *Operator, access Access) *Auth {
	return &Auth{operator: operator, access: access}
}

// Register adds the service to a gRPC server.
func (s *Auth) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(&etcdserverpb.Auth_ServiceDesc, s)
}

func (s *Auth) header(ctx context.Context) (*etcdserverpb.ResponseHeader, error) {
	v, err := s.operator.look(ctx, false)
	if err != nil {
		return nil, toStatus(err)
	}
	return v.header(), nil
}

// AuthStatus implements etcdserverpb.AuthServer.
func (s *Auth) AuthStatus(
	ctx context.Context, _ *etcdserverpb.AuthStatusRequest,
) (*etcdserverpb.AuthStatusResponse, error) {
	header, err := s.header(ctx)
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.AuthStatusResponse{Header: header, Enabled: s.access.Encrypted(), AuthRevision: 1}, nil
}

// Authenticate implements etcdserverpb.AuthServer: a client that knows a user's name and a password shows them once,
// and then the token of the answer with each call. That is the password itself. Anybody may call it, so it reads no
// zone: its header has no revision.
func (s *Auth) Authenticate(
	ctx context.Context, req *etcdserverpb.AuthenticateRequest,
) (*etcdserverpb.AuthenticateResponse, error) {
	if !s.access.Encrypted() {
		return nil, rpctypes.ErrGRPCAuthNotEnabled
	}
	err := s.access.Authenticate(ctx, etcdserverpb.Auth_Authenticate_FullMethodName, req.Name, req.Password)
	switch {
	case errors.Is(err, nexusraft.ErrDenied):
		return nil, rpctypes.ErrGRPCAuthFailed
	case err != nil:
		return nil, toStatus(err)
	}
	return &etcdserverpb.AuthenticateResponse{Header: s.operator.keys.bareHeader(), Token: req.Password}, nil
}

// UserList implements etcdserverpb.AuthServer.
func (s *Auth) UserList(
	ctx context.Context, _ *etcdserverpb.AuthUserListRequest,
) (*etcdserverpb.AuthUserListResponse, error) {
	resp := &etcdserverpb.AuthUserListResponse{}
	header, err := s.each(ctx, func(p nexusraft.Principal) { resp.Users = append(resp.Users, p.Name) })
	resp.Header = header
	return answerOr(resp, err)
}

// UserGet implements etcdserverpb.AuthServer.
func (s *Auth) UserGet(
	ctx context.Context, req *etcdserverpb.AuthUserGetRequest,
) (*etcdserverpb.AuthUserGetResponse, error) {
	resp, found := &etcdserverpb.AuthUserGetResponse{}, false
	header, err := s.each(ctx, func(p nexusraft.Principal) {
		if p.Name != req.Name {
			return
		}
		found = true
		for _, r := range p.Roles {
			resp.Roles = append(resp.Roles, roleName(r))
		}
	})
	if err == nil && !found {
		err = rpctypes.ErrGRPCUserNotFound
	}
	resp.Header = header
	return answerOr(resp, err)
}

// RoleList implements etcdserverpb.AuthServer: the roles that somebody has.
func (s *Auth) RoleList(
	ctx context.Context, _ *etcdserverpb.AuthRoleListRequest,
) (*etcdserverpb.AuthRoleListResponse, error) {
	resp := &etcdserverpb.AuthRoleListResponse{}
	header, err := s.each(ctx, func(p nexusraft.Principal) {
		for _, r := range p.Roles {
			resp.Roles = append(resp.Roles, roleName(r))
		}
	})
	slices.Sort(resp.Roles)
	resp.Header, resp.Roles = header, slices.Compact(resp.Roles)
	return answerOr(resp, err)
}

// RoleGet implements etcdserverpb.AuthServer: a role is for all keys of its zone.
func (s *Auth) RoleGet(
	ctx context.Context, req *etcdserverpb.AuthRoleGetRequest,
) (*etcdserverpb.AuthRoleGetResponse, error) {
	resp := &etcdserverpb.AuthRoleGetResponse{}
	header, err := s.each(ctx, func(p nexusraft.Principal) {
		for _, r := range p.Roles {
			if roleName(r) == req.Role {
				resp.Perm = []*authpb.Permission{{PermType: permission(r.Role), Key: []byte{0}, RangeEnd: []byte{0}}}
			}
		}
	})
	if err == nil && len(resp.Perm) == 0 {
		err = rpctypes.ErrGRPCRoleNotFound
	}
	resp.Header = header
	return answerOr(resp, err)
}

// each calls fn for each principal, by name, and returns a header.
func (s *Auth) each(ctx context.Context, fn func(nexusraft.Principal)) (*etcdserverpb.ResponseHeader, error) {
	ctx, cancel := rpc.Bounded(ctx)
	defer cancel()
	header, err := s.header(ctx)
	if err != nil {
		return nil, err
	}
	if err := budget.Reserve(ctx, budget.ListBytes); err != nil {
		return nil, toStatus(rpc.OverBudget(err))
	}
	all, err := s.access.Principals(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	for _, p := range all {
		fn(p)
	}
	return header, nil
}

func answerOr[R any](resp *R, err error) (*R, error) {
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// roleName is a role of ours in a zone as etcd's API names it.
func roleName(r nexusraft.ZoneRole) string {
	if r.Zone == nexusraft.EveryZone {
		return string(r.Role) + " in every zone"
	}
	return string(r.Role) + " in zone " + r.Zone.String()
}

func permission(r nexusraft.AccessRole) authpb.Permission_Type {
	if r == nexusraft.AccessRead {
		return authpb.Permission_READ
	}
	return authpb.Permission_READWRITE
}

// errByCommand refuses a change that a command makes.
func errByCommand(command string) error {
	return status.Error(codes.FailedPrecondition, "nexusraft: etcd's API can't change this here; do it with: "+command)
}

var (
	errGrant     = errByCommand("nexus-raft access grant NAME --role read|write|admin --zone ZONE")
	errRevoke    = errByCommand("nexus-raft access revoke NAME")
	errTakeRole  = errByCommand("nexus-raft access revoke NAME --zone ZONE")
	errNewToken  = errByCommand("nexus-raft access token NAME, which makes an access token; that is the user's password")
	errFixed     = errByCommand("nexus-raft access grant; the roles are read, write and admin, in one zone or all")
	errEncrypted = errByCommand("nexus-raft serve --tls: clients have names, and roles, where the nodes speak TLS")
)

// AuthEnable implements etcdserverpb.AuthServer.
func (*Auth) AuthEnable(context.Context, *etcdserverpb.AuthEnableRequest) (*etcdserverpb.AuthEnableResponse, error) {
	return nil, errEncrypted
}

// AuthDisable implements etcdserverpb.AuthServer.
func (*Auth) AuthDisable(
	context.Context, *etcdserverpb.AuthDisableRequest,
) (*etcdserverpb.AuthDisableResponse, error) {
	return nil, errEncrypted
}

// UserAdd implements etcdserverpb.AuthServer.
func (*Auth) UserAdd(context.Context, *etcdserverpb.AuthUserAddRequest) (*etcdserverpb.AuthUserAddResponse, error) {
	return nil, errGrant
}

// UserDelete implements etcdserverpb.AuthServer.
func (*Auth) UserDelete(
	context.Context, *etcdserverpb.AuthUserDeleteRequest,
) (*etcdserverpb.AuthUserDeleteResponse, error) {
	return nil, errRevoke
}

// UserChangePassword implements etcdserverpb.AuthServer.
func (*Auth) UserChangePassword(
	context.Context, *etcdserverpb.AuthUserChangePasswordRequest,
) (*etcdserverpb.AuthUserChangePasswordResponse, error) {
	return nil, errNewToken
}

// UserGrantRole implements etcdserverpb.AuthServer.
func (*Auth) UserGrantRole(
	context.Context, *etcdserverpb.AuthUserGrantRoleRequest,
) (*etcdserverpb.AuthUserGrantRoleResponse, error) {
	return nil, errGrant
}

// UserRevokeRole implements etcdserverpb.AuthServer.
func (*Auth) UserRevokeRole(
	context.Context, *etcdserverpb.AuthUserRevokeRoleRequest,
) (*etcdserverpb.AuthUserRevokeRoleResponse, error) {
	return nil, errTakeRole
}

// RoleAdd implements etcdserverpb.AuthServer.
func (*Auth) RoleAdd(context.Context, *etcdserverpb.AuthRoleAddRequest) (*etcdserverpb.AuthRoleAddResponse, error) {
	return nil, errFixed
}

// RoleDelete implements etcdserverpb.AuthServer.
func (*Auth) RoleDelete(
	context.Context, *etcdserverpb.AuthRoleDeleteRequest,
) (*etcdserverpb.AuthRoleDeleteResponse, error) {
	return nil, errFixed
}

// RoleGrantPermission implements etcdserverpb.AuthServer.
func (*Auth) RoleGrantPermission(
	context.Context, *etcdserverpb.AuthRoleGrantPermissionRequest,
) (*etcdserverpb.AuthRoleGrantPermissionResponse, error) {
	return nil, errFixed
}

// RoleRevokePermission implements etcdserverpb.AuthServer.
func (*Auth) RoleRevokePermission(
	context.Context, *etcdserverpb.AuthRoleRevokePermissionRequest,
) (*etcdserverpb.AuthRoleRevokePermissionResponse, error) {
	return nil, errFixed
}
