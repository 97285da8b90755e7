package etcd

import (
	"context"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// fakeAccess has two clients, and one token.
type fakeAccess struct{ encrypted bool }

func (a fakeAccess) Encrypted() bool { return a.encrypted }

func (fakeAccess) Authenticate(_ context.Context, _, name, text string) error {
	if name+text != "ann"+"token" {
		return nexusraft.ErrDenied
	}
	return nil
}

func (fakeAccess) Principals(context.Context) ([]nexusraft.Principal, error) {
	write := nexusraft.ZoneRole{Zone: 1, Role: nexusraft.AccessWrite}
	return []nexusraft.Principal{
		{Name: "ann", Roles: []nexusraft.ZoneRole{{Role: nexusraft.AccessRead}, write}},
		{Name: "bob", Roles: []nexusraft.ZoneRole{write}},
	}, nil
}

func newAuthService(a fakeAccess) *Auth {
	keys := NewKV(fakeZones{nexusraft.RootZone: newZone()}, func() Identity { return Identity{1, 2} }, Config{})
	return NewAuth(NewOperator(keys, fakeNode{status: twoAndOne()}), a)
}

// Users and roles are our principals and theirs.
func TestUsersAndRoles(t *testing.T) {
	s, ctx := newAuthService(fakeAccess{encrypted: true}), t.Context()
	status1, err := s.AuthStatus(ctx, nil)
	if err != nil || !status1.Enabled || status1.AuthRevision != 1 || status1.Header.GetRevision() == 0 {
		t.Errorf("status: got %v, %v", status1, err)
	}
	users, err := s.UserList(ctx, nil)
	if err != nil || strings.Join(users.GetUsers(), " ") != "ann bob" {
		t.Errorf("users: got %v, %v", users, err)
	}
	roles, err := s.RoleList(ctx, nil)
	if err != nil || strings.Join(roles.GetRoles(), ", ") != "read in every zone, write in zone "+
		nexusraft.RootZone.String() {
		t.Errorf("roles: got %v, %v", roles, err)
	}
	ann, err := s.UserGet(ctx, &etcdserverpb.AuthUserGetRequest{Name: "ann"})
	if err != nil || len(ann.Roles) != 2 {
		t.Errorf("ann: got %v, %v", ann, err)
	}
	for _, name := range roles.GetRoles() {
		role, err := s.RoleGet(ctx, &etcdserverpb.AuthRoleGetRequest{Role: name})
		if err != nil || len(role.Perm) != 1 || strings.EqualFold(role.Perm[0].PermType.String(), "read") !=
			strings.HasPrefix(name, "read") {
			t.Errorf("%s: got %v, %v", name, role, err)
		}
	}
	_, err = s.UserGet(ctx, &etcdserverpb.AuthUserGetRequest{Name: "eve"})
	_, err2 := s.RoleGet(ctx, &etcdserverpb.AuthRoleGetRequest{Role: "eve"})
	if rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCUserNotFound) ||
		rpctypes.ErrorDesc(err2) != rpctypes.ErrorDesc(rpctypes.ErrGRPCRoleNotFound) {
		t.Errorf("nobody: got %v and %v", err, err2)
	}
	if _, err := s.UserAdd(ctx, nil); status.Code(err) != codes.FailedPrecondition ||
		!strings.Contains(err.Error(), "nexus-raft access grant") {
		t.Errorf("a change: got %v, want the command for it", err)
	}
}

func TestAuthenticateOfTheService(t *testing.T) {
	good := &etcdserverpb.AuthenticateRequest{Name: "ann", Password: "token"}
	if _, err := newAuthService(fakeAccess{}).Authenticate(t.Context(), good); rpctypes.ErrorDesc(err) !=
		rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthNotEnabled) {
		t.Errorf("without TLS: got %v", err)
	}
	s := newAuthService(fakeAccess{encrypted: true})
	if resp, err := s.Authenticate(t.Context(), good); err != nil || resp.Token != "token" {
		t.Errorf("got %v, %v", resp, err)
	}
	_, err := s.Authenticate(t.Context(), &etcdserverpb.AuthenticateRequest{Name: "bob", Password: "token"})
	if rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthFailed) {
		t.Errorf("another's token: got %v", err)
	}
}
