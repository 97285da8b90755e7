package node_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/witness"
)

// app is an application's service whose one method runs what a test has put there, with the context
// of the client's call, which the node has let in.
type app struct {
	mu sync.Mutex
	do func(context.Context) error
}

func (a *app) set(do func(context.Context) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.do = do
}

func (a *app) register(r grpc.ServiceRegistrar) {
	run := func(_ any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		req := &pb.StatusRequest{}
		if err := decode(req); err != nil {
			return nil, err
		}
		info := &grpc.UnaryServerInfo{FullMethod: appMethod}
		return interceptor(ctx, req, info, func(ctx context.Context, _ any) (any, error) {
			a.mu.Lock()
			do := a.do
			a.mu.Unlock()
			return &pb.StatusResponse{}, do(ctx)
		})
	}
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: "app.Test", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Do", Handler: run}},
	}, nil)
}

const appMethod = "/app.Test/Do"

// foundWithApp founds a cluster of a member that serves a.
func foundWithApp(t *testing.T, c node.Config, a *app) *member {
	t.Helper()
	c.Permissions = map[string]nexusraft.Permission{appMethod: {Role: nexusraft.AccessAdmin}}
	if _, err := node.Init(c); err != nil {
		t.Fatal(err)
	}
	m := startWith(t, c, a.register)
	eventually(t, "lead", func() error {
		if s := m.status(); s.State != nexusraft.Leader {
			return fmt.Errorf("%s is %s", c.Name, s.State)
		}
		return nil
	})
	return m
}

// What a client has asked for, and the member has let in, is refused if its right is taken
// meanwhile: by the one who orders it, or after the read is confirmed. (I14)
func TestRightIsCheckedWhereItCounts(t *testing.T) {
	t.Parallel()
	a := &app{}
	m := foundWithApp(t, secureConfig(t, "n1"), a)
	zone := m.zone()
	request, _, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	read := func(nexusraft.Reader) error { return errors.New("it was read") }
	calls := map[string]func(context.Context) error{
		"propose": func(ctx context.Context) error {
			_, err := zone.ProposeOnce(ctx, nexusraft.RequestID{}, []byte("k=v"))
			return err
		},
		"publish": func(ctx context.Context) error {
			_, err := zone.Publish(ctx, "app/x", "t", nil)
			return err
		},
		"retain":       func(ctx context.Context) error { return zone.SetEventRetention(ctx, nexusraft.Retention{Count: 7}) },
		"read":         func(ctx context.Context) error { return zone.Read(ctx, read) },
		"read locally": func(ctx context.Context) error { return zone.ReadLocal(ctx, read) },
		"change the membership": func(ctx context.Context) error {
			_, err := zone.ChangeMembership(ctx, nexusraft.MembershipChange{Remove: 7})
			return err
		},
		"transfer": func(ctx context.Context) error {
			_, err := zone.TransferLeader(ctx, 0)
			return err
		},
		"grant": func(ctx context.Context) error {
			return m.node.Credentials().SetRole(ctx, "friend", 0, nexusraft.AccessAdmin)
		},
		"revoke": func(ctx context.Context) error { return m.node.Credentials().RevokeAccess(ctx, "admin") },
		"list": func(ctx context.Context) error {
			_, err := m.node.Credentials().Access(ctx)
			return err
		},
		"make a token": func(ctx context.Context) error {
			_, _, err := m.node.Credentials().CreateAccessToken(ctx, "admin", time.Hour)
			return err
		},
		"make a certificate": func(ctx context.Context) error {
			_, _, err := m.node.Credentials().IssueCertificate(ctx, "admin", request, time.Hour)
			return err
		},
		"make a join token": func(ctx context.Context) error {
			_, _, err := m.node.Credentials().CreateToken(ctx, nexusraft.RoleMember, time.Hour, 1)
			return err
		},
		"list join tokens": func(ctx context.Context) error {
			_, err := m.node.Credentials().Tokens(ctx)
			return err
		},
	}
	i := 0
	for what, call := range calls {
		for _, way := range []string{"with a certificate", "with a token", "with less than before"} {
			i++
			name := fmt.Sprint("c", i)
			m.grant(name, nexusraft.AccessAdmin)
			conn, ctx := m.client(name), t.Context()
			take := func() error { return m.node.Credentials().RevokeAccess(t.Context(), name) }
			if way == "with a token" {
				text, info := m.accessToken(name, time.Hour)
				ctx = withToken(ctx, text)
				take = func() error { return m.node.Credentials().RevokeAccessToken(t.Context(), info.ID) }
			}
			if way == "with less than before" {
				take = func() error {
					return m.node.Credentials().SetRole(t.Context(), name, nexusraft.RootZone, nexusraft.AccessWrite)
				}
			}
			var got error
			a.set(func(ctx context.Context) error {
				if err := take(); err != nil {
					return err
				}
				got = call(ctx)
				return nil
			})
			if err := conn.Invoke(ctx, appMethod, &pb.StatusRequest{}, &pb.StatusResponse{}); err != nil {
				t.Fatal(err)
			}
			if !errors.Is(got, nexusraft.ErrDenied) || !strings.Contains(got.Error(), name) ||
				errors.Is(got, nexusraft.ErrUncertain) {
				t.Errorf("%s %s: got %v, want ErrDenied with the name %q", what, way, got, name)
			}
			conn.Close()
		}
	}
	if got := m.get("k"); got != "" {
		t.Errorf("what was refused is there: %q", got)
	}
}

// A member that is behind lets in whom it still knows. The leader refuses what it passes on.
func TestRevokedThroughAMemberThatIsBehind(t *testing.T) {
	t.Parallel()
	a := &app{}
	leader := found(t, secureConfig(t, "n1"))
	c := secureConfig(t, "n2")
	c.Dir, c.Storage = "data", storage.Options{FS: storage.NewMemFS()}
	c.Permissions = map[string]nexusraft.Permission{appMethod: {Role: nexusraft.AccessAdmin}}
	c.Join, c.JoinToken = []string{leader.config.Advertise}, newToken(t, leader, nexusraft.RoleMember)
	follower := startWith(t, c, a.register)
	waitRole(t, follower, nexusraft.RoleMember)
	runWitness(t, witness.Config{
		Dir: t.TempDir(), ClusterTLS: true, JoinToken: newToken(t, leader, nexusraft.RoleWitness),
		Join: []string{leader.config.Advertise}, TickInterval: node.TestTick,
	})
	leader.grant("writer", nexusraft.AccessWrite)
	leader.grant("boss", nexusraft.AccessAdmin)
	leader.grant("reader", nexusraft.AccessRead)
	text, _ := leader.accessToken("writer", time.Hour)
	writer, boss, reader := follower.client("writer"), follower.client("boss"), follower.client("reader")
	publish := func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewEventStreamClient(conn).Publish(ctx, &pb.PublishRequest{Zone: 1, Topic: "app/x", Type: "t"})
		return err
	}
	eventually(t, "publish", func() error {
		return errors.Join(publish(t.Context(), writer), publish(withToken(t.Context(), text), reader))
	})
	events := follow(t.Context(), t, reader)

	// On a slow machine the follower may come to lead, which it must not here: it is behind only as long
	// as it follows. So what fails for another reason is tried again, led by the other one.
	led := func(what string, call func() error) {
		t.Helper()
		eventually(t, what, func() error {
			err := call()
			if st := leader.status(); err != nil && st.Leader != st.Replica {
				_, transferred := follower.zone().TransferLeader(t.Context(), leader.node.ID())
				err = errors.Join(err, transferred)
			}
			return err
		})
	}
	follower.setFree(1000)
	for _, name := range []string{"writer", "boss", "reader"} {
		led("revoke "+name, func() error {
			err := leader.node.Credentials().RevokeAccess(t.Context(), name)
			if errors.Is(err, nexusraft.ErrRefused) { // an earlier try, whose outcome was unknown, has done it
				return nil
			}
			return err
		})
	}
	secret := []byte("made after the revocation")
	led("publish a secret", func() error {
		_, err := leader.zone().Publish(t.Context(), "app/secret", "t", secret)
		return err
	})
	refused := func(what string, call func() error) {
		t.Helper()
		var err error
		led(what, func() error {
			if err = call(); status.Code(err) == codes.Unavailable || status.Code(err) == codes.ResourceExhausted {
				return err
			}
			return nil
		})
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "taken from") &&
			!strings.Contains(err.Error(), "revoked") {
			t.Errorf("%s: got %v, want PermissionDenied, and why", what, err)
		}
	}
	refused("publish with a certificate", func() error { return publish(t.Context(), writer) })
	refused("publish with a token", func() error { return publish(withToken(t.Context(), text), reader) })
	refused("retain", func() error {
		_, err := pb.NewEventStreamClient(boss).Retain(t.Context(), &pb.RetainRequest{Zone: 1, Count: 7})
		return err
	})
	for what, do := range map[string]func(context.Context) error{
		"grant": func(ctx context.Context) error {
			return follower.node.Credentials().SetRole(ctx, "friend", 0, nexusraft.AccessAdmin)
		},
		"make a token": func(ctx context.Context) error {
			_, _, err := follower.node.Credentials().CreateAccessToken(ctx, "admin", time.Hour)
			return err
		},
		"make a join token": func(ctx context.Context) error {
			_, _, err := follower.node.Credentials().CreateToken(ctx, nexusraft.RoleMember, time.Hour, 1)
			return err
		},
	} {
		var got error
		a.set(func(ctx context.Context) error { got = do(ctx); return nil })
		led(what, func() error {
			if err := boss.Invoke(t.Context(), appMethod, &pb.StatusRequest{}, &pb.StatusResponse{}); err != nil {
				t.Fatal(err)
			}
			if errors.Is(got, nexusraft.ErrDenied) {
				return nil
			}
			return got
		})
		if !errors.Is(got, nexusraft.ErrDenied) || errors.Is(got, nexusraft.ErrUncertain) {
			t.Errorf("%s: got %v, want ErrDenied", what, got)
		}
	}
	a.set(func(ctx context.Context) error { // what it can't confirm it does not answer
		return follower.zone().Read(ctx, func(nexusraft.Reader) error { return nil })
	})
	led("a linearizable read by a member that is behind", func() error {
		if err := boss.Invoke(t.Context(), appMethod, &pb.StatusRequest{}, &pb.StatusResponse{}); err == nil {
			return errors.New("got an answer")
		}
		return nil
	})

	follower.setFree(roomy)
	var last error
	for last == nil {
		resp, err := events.Recv()
		last = err
		for _, e := range resp.GetEvents() {
			if string(e.GetPayload()) == string(secret) {
				t.Error("a subscription of a revoked reader was sent what is newer than the revocation")
			}
		}
	}
	// a full member ends them, too
	if code := status.Code(last); code != codes.PermissionDenied && code != codes.Unavailable {
		t.Errorf("the subscription: got %v, want PermissionDenied or Unavailable", last)
	}
}

// Right after a revocation is acknowledged, a follower that nothing is wrong with refuses as well.
func TestRevokedIsRefusedAtOnceByTheFollower(t *testing.T) {
	t.Parallel()
	leader := found(t, secureConfig(t, "n1"))
	c := secureConfig(t, "n2")
	c.JoinToken = newToken(t, leader, nexusraft.RoleMember)
	follower := join(t, c, leader)
	conn := follower.client("admin")
	for i := range 10 {
		name := fmt.Sprint("c", i)
		leader.grant(name, nexusraft.AccessWrite)
		text, _ := leader.accessToken(name, time.Hour)
		ctx := withToken(t.Context(), text)
		publish := func() error {
			_, err := pb.NewEventStreamClient(conn).Publish(ctx, &pb.PublishRequest{Zone: 1, Topic: "app/x", Type: "t"})
			return err
		}
		eventually(t, "publish", publish)
		eventually(t, "revoke", func() error {
			err := leader.node.Credentials().RevokeAccess(t.Context(), name)
			if errors.Is(err, nexusraft.ErrRefused) { // an earlier try, whose outcome was unknown, has done it
				return nil
			}
			return err
		})
		if err := publish(); status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unauthenticated {
			t.Errorf("a write that began after the revocation was acknowledged: got %v", err)
		}
	}
}

// A leader believes what a member says of a client's name and token, and nothing of what it may do.
func TestLeaderChecksTheRequester(t *testing.T) {
	t.Parallel()
	m := found(t, secureConfig(t, "n1"))
	m.grant("writer", nexusraft.AccessWrite)
	m.grant("reader", nexusraft.AccessRead)
	_, info := m.accessToken("writer", time.Hour)
	_, brief := m.accessToken("writer", time.Millisecond)
	root := nexusraft.ZoneRole{Zone: nexusraft.RootZone, Role: nexusraft.AccessWrite}
	for what, x := range map[string]struct {
		name  string
		token []byte
		needs []nexusraft.ZoneRole
		want  error
	}{
		"a writer":        {"writer", nil, []nexusraft.ZoneRole{root}, nil},
		"in any zone":     {"writer", nil, []nexusraft.ZoneRole{{Role: nexusraft.AccessWrite}}, nil},
		"with a token":    {"writer", info.ID[:], []nexusraft.ZoneRole{root}, nil},
		"nobody":          {"nobody", nil, []nexusraft.ZoneRole{root}, nexusraft.ErrDenied},
		"no name":         {"", nil, []nexusraft.ZoneRole{root}, nexusraft.ErrDenied},
		"a reader":        {"reader", nil, []nexusraft.ZoneRole{root}, nexusraft.ErrDenied},
		"another's token": {"reader", info.ID[:], []nexusraft.ZoneRole{{Role: nexusraft.AccessRead}}, nexusraft.ErrDenied},
		"an old token":    {"writer", brief.ID[:], []nexusraft.ZoneRole{root}, nexusraft.ErrDenied},
		"a token unknown": {"writer", make([]byte, 8), []nexusraft.ZoneRole{root}, nexusraft.ErrDenied},
		"in another zone": {
			"writer", nil,
			[]nexusraft.ZoneRole{{Zone: 2, Role: nexusraft.AccessWrite}},
			nexusraft.ErrDenied,
		},
		"one need of two": {
			"writer", nil,
			[]nexusraft.ZoneRole{root, {Zone: 2, Role: nexusraft.AccessWrite}},
			nexusraft.ErrDenied,
		},
		"for an unknown one": {"writer", nil, []nexusraft.ZoneRole{{Zone: 1, Role: ""}}, nexusraft.ErrDenied},
	} {
		eventually(t, what, func() error {
			_, err := m.node.Handler().Propose(t.Context(), transport.Proposal{
				Zone: nexusraft.RootZone, Command: []byte("k=v"),
				Requester: &nexusraft.Requester{Name: x.name, Token: x.token, Needs: x.needs},
			})
			if !errors.Is(err, x.want) {
				return fmt.Errorf("got %w, want %v", err, x.want)
			}
			return nil
		})
	}
}

// lines keeps what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Each member's log says who changed what of whose access, and no secret.
func TestAccessChangesAreLogged(t *testing.T) {
	t.Parallel()
	a := &app{}
	var first, second lines
	c := secureConfig(t, "n1")
	c.Logger = slog.New(slog.NewTextHandler(&first, nil))
	m := foundWithApp(t, c, a)
	c = secureConfig(t, "n2")
	c.Logger, c.JoinToken = slog.New(slog.NewTextHandler(&second, nil)), newToken(t, m, nexusraft.RoleMember)
	join(t, c, m)
	var token, joinToken string
	a.set(func(ctx context.Context) error {
		var err1, err2 error
		var info nexusraft.AccessToken
		err := m.node.Credentials().SetRole(ctx, "ann", nexusraft.RootZone, nexusraft.AccessRead)
		token, info, err1 = m.node.Credentials().CreateAccessToken(ctx, "ann", time.Hour)
		joinToken, _, err2 = m.node.Credentials().CreateToken(ctx, nexusraft.RoleMember, time.Hour, 1)
		return errors.Join(err, err1, err2, m.node.Credentials().RevokeAccessToken(ctx, info.ID),
			m.node.Credentials().SetRole(ctx, "bob", 0, nexusraft.AccessWrite),
			m.node.Credentials().SetRole(ctx, "bob", 0, nexusraft.AccessNone), m.node.Credentials().RevokeAccess(ctx, "ann"))
	})
	if err := m.client("admin").Invoke(t.Context(), appMethod, &pb.StatusRequest{}, &pb.StatusResponse{}); err != nil {
		t.Fatal(err)
	}
	for who, log := range map[string]*lines{"n1": &first, "n2": &second} {
		for _, want := range []string{
			`role read in zone 1 given to \"ann\"`, `made for \"ann\"`, `join token`, `revoked`,
			`role write in every zone given to \"bob\"`, `role of \"bob\" in every zone taken back`,
			`all roles and tokens of \"ann\" taken back`,
		} {
			eventually(t, who, func() error {
				for line := range strings.Lines(log.String()) {
					if strings.Contains(line, "access changed") && strings.Contains(line, want) && strings.Contains(line, "by=admin") {
						return nil
					}
				}
				return fmt.Errorf("no line %q with by=admin in %s", want, log)
			})
		}
		for _, secret := range []string{token, joinToken} {
			if strings.Contains(log.String(), secret) {
				t.Errorf("%s: a secret is in the log", who)
			}
		}
	}
}
