package node

import (
	"context"
	"crypto/subtle"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/transport"
)

// access decides who may call what, where the node speaks TLS. It asks the records of the root zone as this
// replica has them: nobody else is asked, and a member that is behind, or cut off, still goes by what it knows.
type access struct {
	node    *Node
	methods map[string]Need // of all that is registered; set before the server begins

	said *rate.Limiter // refusals in the log

	changes atomic.Uint64 // counts changes of the records, after they can be read
	bell    bell          // rings after changes was counted
	loading sync.Mutex    // held by the one who reads the records anew
	loaded  atomic.Pointer[records]
}

// records are those of some count of changes.
type records struct {
	changes    uint64
	principals map[string]*pb.Principal
	tokens     map[string]*pb.AccessToken // by identifier
}

// refusalsLogged is how many refusals a second are logged, on average.
const refusalsLogged = 1

func newAccess(n *Node) *access {
	return &access{node: n, said: rate.NewLimiter(refusalsLogged, 10*refusalsLogged)}
}

// guard learns what is registered. A method that nobody says the needs of is refused.
func (a *access) guard(s *grpc.Server) {
	a.methods = make(map[string]Need)
	for service, info := range s.GetServiceInfo() {
		for _, m := range info.Methods {
			name := "/" + service + "/" + m.Name
			need, ok := needs[name]
			if !ok {
				need, ok = a.node.config.Needs[name]
			}
			own := transport.IsPublic(name) || transport.IsBetweenNodes(name) || forNodes[name]
			if !ok && !own && a.node.tls != nil {
				a.node.logger.Warn("nobody may call this method, because Config.Needs does not say who may", "method", name)
			}
			a.methods[name] = need
		}
	}
}

// changed is called when a change of the records can be read.
func (a *access) changed() {
	a.changes.Add(1)
	a.bell.ring()
}

// current returns the records, read anew if they have changed.
func (a *access) current() (*records, error) {
	if r := a.loaded.Load(); r != nil && r.changes == a.changes.Load() {
		return r, nil
	}
	a.loading.Lock()
	defer a.loading.Unlock()
	changes := a.changes.Load() // before they are read: if they change meanwhile, they are read again
	if r := a.loaded.Load(); r != nil && r.changes == changes {
		return r, nil
	}
	r := &records{changes: changes, principals: make(map[string]*pb.Principal), tokens: make(map[string]*pb.AccessToken)}
	if err := a.node.readOwnLocal(nexusraft.RootZone, r.read); err != nil {
		return nil, err
	}
	a.loaded.Store(r)
	return r, nil
}

func (r *records) read(reader nexusraft.Reader) error {
	principals, err := readPrincipals(reader)
	if err != nil {
		return err
	}
	tokens, err := readAccessTokens(reader)
	if err != nil {
		return err
	}
	for _, p := range principals {
		r.principals[p.GetName()] = p
	}
	for _, t := range tokens {
		r.tokens[string(t.GetId())] = t
	}
	return nil
}

// credentials are what a caller shows. A bearer token counts before a certificate.
type credentials struct {
	encrypted bool
	bearer    string           // "" for none
	caller    transport.Caller // whom its certificate names
	stranger  error            // why it names nobody; nil if it does
}

func credentialsOf(ctx context.Context) credentials {
	caller, _ := transport.CallerOf(ctx)
	return credentials{transport.Encrypted(ctx), bearer(ctx), caller, transport.WhyUnknown(ctx)}
}

// bearer returns the access token of a call's metadata: authorization, or what etcd's clients send. Tokens of
// other kinds are an application's own.
func bearer(ctx context.Context) string {
	for _, v := range metadata.ValueFromIncomingContext(ctx, "authorization") {
		scheme, text, _ := strings.Cut(v, " ")
		if strings.EqualFold(scheme, "bearer") && strings.HasPrefix(text, accessTokenText) {
			return text
		}
	}
	for _, v := range metadata.ValueFromIncomingContext(ctx, "token") {
		if strings.HasPrefix(v, accessTokenText) {
			return v
		}
	}
	return ""
}

// principal returns who shows credentials, and until when they are good; the zero time for as long as the connection.
func (r *records) principal(c credentials, now time.Time) (*pb.Principal, time.Time, error) {
	if c.bearer != "" {
		t, err := r.token(c.bearer, now)
		if err != nil {
			return nil, time.Time{}, err
		}
		return r.named(t.GetName()), time.Unix(0, t.GetExpiresNanos()), nil
	}
	switch {
	case c.stranger != nil:
		return nil, time.Time{}, unknown("show an access token (they begin with "+accessTokenText+"), or a certificate of the cluster: %v", c.stranger)
	case c.caller.Node != 0:
		return nil, time.Time{}, refusal(codes.PermissionDenied, "the certificate of node %v is for what nodes do; show one of a client, or an access token", c.caller.Node)
	}
	return r.named(c.caller.Client), time.Time{}, nil
}

// named returns what a name may do: nothing if it is not known.
func (r *records) named(name string) *pb.Principal {
	if p := r.principals[name]; p != nil {
		return p
	}
	return &pb.Principal{Name: name}
}

// token returns a bearer token that is good. What its refusals say does not help to guess one.
func (r *records) token(text string, now time.Time) (*pb.AccessToken, error) {
	id, hash, err := parseAccessToken(text)
	if err != nil {
		return nil, unknown("%v", err)
	}
	t := r.tokens[string(id)]
	switch {
	case subtle.ConstantTimeCompare(t.GetHash(), hash) != 1:
		return nil, unknown("access token %x is not known here: it is wrong, was revoked, or expired long ago", id)
	case t.GetExpiresNanos() <= now.UnixNano():
		return nil, unknown("access token %x has expired", id)
	}
	return t, nil
}

// unknown is for whom nobody knows.
func unknown(format string, args ...any) error {
	return refusal(codes.Unauthenticated, format, args...)
}

// refusal is a gRPC status, with the error as its detail: clients know by that that nothing was done.
func refusal(code codes.Code, format string, args ...any) error {
	return detailed(code, fmt.Errorf("%w: "+format, append([]any{nexusraft.ErrDenied}, args...)...))
}

func detailed(code codes.Code, err error) error {
	return wire.WithDetails(status.New(code, err.Error()), err)
}

// need returns what a method asks of its caller, checked false if nothing more is to be checked here.
func (a *access) need(c credentials, method string) (need Need, checked bool, err error) {
	switch {
	case !c.encrypted && c.bearer != "":
		return need, false, unknown("an access token came over a connection that is not encrypted, where others can read it: revoke it")
	case !c.encrypted || transport.IsPublic(method):
		return need, false, nil
	case transport.IsBetweenNodes(method) || forNodes[method]:
		return need, false, c.checkNode(method)
	case method == pb.Cluster_Status_FullMethodName && c.caller.Node != 0 && c.bearer == "":
		return need, false, nil
	}
	need, registered := a.methods[method]
	if !registered { // the handler says that there is no such method, to those who may know
		need = Need{Role: nexusraft.AccessRead, In: InAnyZone}
	}
	return need, true, nil
}

// checkNode refuses who is no node. What a node may, transport and Node.admits say.
func (c credentials) checkNode(method string) error {
	switch {
	case c.stranger != nil:
		return unknown("%s needs the certificate of a node: %v", method, c.stranger)
	case c.caller.Node == 0:
		return refusal(codes.PermissionDenied, "%s needs the certificate of a node, not that of client %q", method, c.caller.Client)
	}
	return nil
}

// check returns a status, unless the caller may do what it asks for, and until when that holds.
func (a *access) check(c credentials, asks asked) (time.Time, error) {
	records, err := a.current()
	if err != nil {
		return time.Time{}, detailed(codes.Unavailable, fmt.Errorf("who may do what can't be read here now: %w", err))
	}
	p, until, err := records.principal(c, a.node.config.Clock())
	if err != nil {
		return time.Time{}, err
	}
	if asks.role == nexusraft.AccessNone {
		return time.Time{}, refusal(codes.PermissionDenied, "%s is not for clients where access is restricted: nobody has said who may call it", asks.method)
	}
	if !asks.allows(p) {
		return time.Time{}, refusal(codes.PermissionDenied, "%s needs the role %s in %s, which %q has not; an admin can give it: nexus-raft access grant %s --role %s%s",
			asks.method, asks.role, asks.where(), p.GetName(), p.GetName(), asks.role, asks.flag())
	}
	return until, nil
}

// tell logs a refusal, now and then, and returns it.
func (a *access) tell(ctx context.Context, method string, err error) error {
	if err != nil && a.said.Allow() {
		addr := ""
		if p, ok := grpcpeer.FromContext(ctx); ok {
			addr = p.Addr.String()
		}
		a.node.logger.Warn("access refused", "method", method, "addr", addr, "err", status.Convert(err).Message())
	}
	return err
}

// options are the interceptors that refuse who may not call.
func (a *access) options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(a.unary), grpc.ChainStreamInterceptor(a.stream)}
}

func (a *access) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	c := credentialsOf(ctx)
	need, checked, err := a.need(c, info.FullMethod)
	if err == nil && checked {
		_, err = a.check(c, need.of(ctx, info.FullMethod, req))
	}
	if err != nil {
		return nil, a.tell(ctx, info.FullMethod, err)
	}
	return handle(ctx, req)
}
