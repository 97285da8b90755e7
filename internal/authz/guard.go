package authz

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/authz/policy"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Config is what a Guard needs of its node.
type Config struct {
	// Read runs a function over the root zone's state as this replica has it.
	Read func(func(nexusraft.Reader) error) error

	Clock  func() time.Time
	Logger *slog.Logger

	// Permissions are those of methods that have no policy; see node.Config.
	Permissions map[string]nexusraft.Permission
	Encrypted   bool // the node speaks TLS
}

// Guard decides which caller may call what. Its methods may be called from many goroutines, Register
// before all others.
type Guard struct {
	config  Config
	methods map[string]policy.Policy // of all that is registered; set before the server begins

	logged *rate.Limiter // refusals in the log

	change  atomic.Pointer[chan struct{}] // closed by the next change of the records, once that can be read
	loading sync.Mutex                    // held by the one that reads the records anew
	loaded  atomic.Pointer[records]
}

// refusalsLogged is how many refusals a second are logged, on average.
const refusalsLogged = 1

// New returns a guard for a node.
func New(c Config) *Guard {
	g := &Guard{config: c, logged: rate.NewLimiter(refusalsLogged, 10*refusalsLogged)}
	change := make(chan struct{})
	g.change.Store(&change)
	return g
}

// Register learns what is registered. A method without a policy is refused.
func (g *Guard) Register(s *grpc.Server) {
	g.methods = make(map[string]policy.Policy)
	for service, info := range s.GetServiceInfo() {
		for _, m := range info.Methods {
			name := "/" + service + "/" + m.Name
			p, ok := policy.Of(name)
			if permission, more := g.config.Permissions[name]; more {
				p, ok = policy.OfClients(permission), true
			}
			if !ok && g.config.Encrypted {
				g.config.Logger.Warn("nobody may call this method, because Config.Permissions does not say who may", "method", name)
			}
			g.methods[name] = p
		}
	}
}

// Changed is called when a change of the records can be read.
func (g *Guard) Changed() {
	next := make(chan struct{})
	close(*g.change.Swap(&next))
}

// NextChange returns a channel that the next change of the records closes, once it can be read.
func (g *Guard) NextChange() <-chan struct{} { return *g.change.Load() }

// current returns the records, read anew if they have changed.
func (g *Guard) current() (*records, error) {
	if r := g.loaded.Load(); r != nil && r.until == g.NextChange() {
		return r, nil
	}
	g.loading.Lock()
	defer g.loading.Unlock()
	r := newRecords(g.NextChange()) // before they are read: if they change meanwhile, they are read again
	if old := g.loaded.Load(); old != nil && old.until == r.until {
		return old, nil
	}
	if err := g.config.Read(r.read); err != nil {
		return nil, err
	}
	g.loaded.Store(r)
	return r, nil
}

// asks returns what a method asks of its caller, checked false if nothing more is to be checked
// here.
func (g *Guard) asks(c credentials, method string) (p nexusraft.Permission, checked bool, err error) {
	found, registered := g.methods[method]
	if !registered {
		found, _ = policy.Of(method)
	}
	switch callers := found.Callers; {
	case !c.encrypted && c.bearer != "":
		return p, false, unknown("an access token came over a connection that is not encrypted, where others can read " +
			"it: revoke it")
	case !c.encrypted || callers == pb.Callers_CALLERS_ANYBODY:
		return p, false, nil
	case callers == pb.Callers_CALLERS_NODES:
		return p, false, c.checkNode(method)
	case callers == pb.Callers_CALLERS_CLIENTS_AND_NODES && c.caller.Node != 0 && c.bearer == "":
		return p, false, nil
	case !registered: // the handler says that there is no such method, to clients that may know
		return nexusraft.Permission{Role: nexusraft.AccessRead, In: nexusraft.InAnyZone}, true, nil
	}
	return found.Permission, true, nil
}

// client is the one that shows credentials, and until when they are good; the zero time for as long
// as the connection.
type client struct {
	name  string
	until time.Time
}

// check returns a status, unless the caller may do what it asks for.
func (g *Guard) check(c credentials, asks asked) (client, error) {
	records, err := g.current()
	if err != nil {
		return client{}, detailed(codes.Unavailable, fmt.Errorf("who may do what can't be read here now: %w", err))
	}
	p, until, err := records.principal(c, g.config.Clock())
	if err != nil {
		return client{}, err
	}
	if asks.role == nexusraft.AccessNone {
		return client{}, refusal(codes.PermissionDenied, "%s is not for clients where access is restricted: nobody has "+
			"said who may call it", asks.method)
	}
	if !asks.allows(p) {
		return client{}, refusal(codes.PermissionDenied, "%s needs the role %s in %s, which %q has not; an admin can give "+
			"it: nexus-raft access grant %s --role %s%s",
			asks.method, asks.role, asks.where(), p.GetName(), p.GetName(), asks.role, asks.flag())
	}
	return client{p.GetName(), until}, nil
}

// tell logs a refusal, now and then, and returns it.
func (g *Guard) tell(ctx context.Context, method string, err error) error {
	if err != nil && g.logged.Allow() {
		addr := ""
		if p, ok := grpcpeer.FromContext(ctx); ok {
			addr = p.Addr.String()
		}
		g.config.Logger.Warn("access refused", "method", method, "addr", addr, "err", status.Convert(err).Message())
	}
	return err
}

// Identify returns the principal of a call by TLS, or why the call is refused, before its request
// is read. "" without an error is a caller that is not known, and either may make the call or is
// refused once the request says for what zone.
func (g *Guard) Identify(ctx context.Context, method string) (string, error) {
	c := credentialsOf(ctx)
	_, checked, err := g.asks(c, method)
	switch {
	case err != nil:
		return "", g.tell(ctx, method, err)
	case c.bearer == "" && c.caller.Node != 0:
		return mtls.NodePrincipal(c.caller.Node), nil
	case c.bearer == "" && c.anonymous != nil && !checked:
		return "", nil
	}
	records, err := g.current()
	if err != nil {
		return "", nil // the check that follows says so
	}
	p, _, err := records.principal(c, g.config.Clock())
	switch {
	case err != nil && checked:
		return "", g.tell(ctx, method, err)
	case err != nil || len(p.GetRoles()) == 0:
		return "", nil
	}
	return mtls.ClientPrincipal(p.GetName()), nil
}

// Known reports whether a client's name has a role. It is true, too, where the records can't be
// read.
func (g *Guard) Known(client string) bool {
	records, err := g.current()
	return err != nil || len(records.named(client).GetRoles()) > 0
}

// Options are the interceptors that refuse callers.
func (g *Guard) Options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(g.unary), grpc.ChainStreamInterceptor(g.stream)}
}

func (g *Guard) unary(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
) (any, error) {
	c := credentialsOf(ctx)
	p, checked, err := g.asks(c, info.FullMethod)
	if err == nil && checked {
		asks := askedBy(ctx, info.FullMethod, p, req)
		var by client
		by, err = g.check(c, asks)
		q := c.requester(by.name, asks)
		ctx = WithRequester(ctx, func() *nexusraft.Requester { return q })
	}
	if err != nil {
		return nil, g.tell(ctx, info.FullMethod, err)
	}
	return handle(ctx, req)
}

// Permits returns ErrDenied unless a requester may still do what it asks for; nil may do
// everything.
func (g *Guard) Permits(q *nexusraft.Requester) error {
	if q == nil {
		return nil
	}
	records, err := g.current()
	if err != nil {
		return fmt.Errorf("who may do what can't be read here now: %w", err)
	}
	if err = records.permits(q, g.config.Clock()); err != nil && g.logged.Allow() {
		g.config.Logger.Warn("access refused", "by", q.Name, "err", err)
	}
	return err
}
