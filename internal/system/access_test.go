package system

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/storage"
)

// accessState is an overlay over an empty tree, as in a round of the worker.
func accessState(t rapid.TB, store *storage.Store) *storage.Overlay {
	t.Helper()
	tree, err := store.Tree("access")
	if err != nil {
		t.Fatal(err)
	}
	base := storage.NewOverlay(tree)
	if _, err := AdvanceTime(base, 1); err != nil { // as every command does first
		t.Fatal(err)
	}
	return base
}

func memStore(t testing.TB) *storage.Store {
	t.Helper()
	store, err := storage.OpenTemporary(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func own(t rapid.TB, c *pb.NodeCommand) []byte {
	t.Helper()
	b, err := proto.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func setRole(name string, zone uint64, role pb.AccessRole) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_SetRole{SetRole: &pb.SetRole{
		Name: name,
		Role: &pb.ZoneRole{Zone: zone, Role: role},
	}}}
}

func deletePrincipalOf(name string) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_DeletePrincipal{DeletePrincipal: &pb.DeletePrincipal{Name: name}}}
}

func putToken(name string, id byte, expires int64) *pb.NodeCommand {
	hash := sha256.Sum256([]byte{id})
	return &pb.NodeCommand{Kind: &pb.NodeCommand_PutAccessToken{PutAccessToken: &pb.AccessToken{
		Id: bytes.Repeat([]byte{id}, pki.AccessTokenIDBytes), Hash: hash[:], Name: name, ExpiresNanos: expires,
	}}}
}

func deleteToken(id byte) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_DeleteAccessToken{DeleteAccessToken: &pb.DeleteAccessToken{
		Id: bytes.Repeat([]byte{id}, pki.AccessTokenIDBytes),
	}}}
}

// accessModel is who may do what, in maps.
type accessModel struct {
	roles  map[string]map[uint64]pb.AccessRole
	tokens map[byte]string // whose
	until  map[byte]int64
}

func newAccessModel() *accessModel {
	return &accessModel{
		roles:  map[string]map[uint64]pb.AccessRole{"admin": {0: pb.AccessRole_ACCESS_ROLE_ADMIN}},
		tokens: map[byte]string{}, until: map[byte]int64{},
	}
}

// admins counts those who may give roles.
func (m *accessModel) admins() (n int) {
	for _, zones := range m.roles {
		if max(zones[0], zones[1]) == pb.AccessRole_ACCESS_ROLE_ADMIN {
			n++
		}
	}
	return n
}

func (m *accessModel) forget(name string) {
	delete(m.roles, name)
	for id, whose := range m.tokens {
		if whose == name {
			delete(m.tokens, id)
		}
	}
}

// try makes a change if somebody who may give roles is left.
func (m *accessModel) try(name string, change func(map[uint64]pb.AccessRole)) bool {
	before, had := m.roles[name]
	next := map[uint64]pb.AccessRole{}
	for z, r := range before {
		next[z] = r
	}
	change(next)
	m.roles[name] = next
	if m.admins() == 0 {
		if m.roles[name] = before; !had {
			delete(m.roles, name)
		}
		return false
	}
	if len(next) == 0 {
		m.forget(name)
	}
	return true
}

// TestAccessAgainstAModel runs commands on two replicas and on maps. What is refused leaves nothing
// behind.
func TestAccessAgainstAModel(t *testing.T) {
	names := []string{"admin", "alice", "Bob-2", "c.d_e"}
	rapid.Check(t, func(t *rapid.T) {
		stores := []*storage.Store{temporary(t), temporary(t)}
		for _, s := range stores {
			defer s.Close()
		}
		a, b := accessState(t, stores[0]), accessState(t, stores[1])
		m, now := newAccessModel(), int64(100)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			name := rapid.SampledFrom(names).Draw(t, "name")
			id := rapid.ByteRange(1, 5).Draw(t, "token")
			zone := rapid.Uint64Range(0, 3).Draw(t, "zone")
			now += rapid.Int64Range(0, 20).Draw(t, "later")
			var c *pb.NodeCommand
			want := true
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				role := pb.AccessRole(rapid.IntRange(1, 3).Draw(t, "role"))
				c, want = setRole(name, zone, role), m.try(name, func(z map[uint64]pb.AccessRole) { z[zone] = role })
			case 1:
				_, has := m.roles[name][zone]
				c = setRole(name, zone, 0)
				want = has && m.try(name, func(z map[uint64]pb.AccessRole) { delete(z, zone) })
			case 2:
				_, has := m.roles[name]
				c, want = deletePrincipalOf(name), has && m.try(name, func(z map[uint64]pb.AccessRole) { clear(z) })
			case 3:
				_, has := m.roles[name]
				_, taken := m.tokens[id]
				c, want = putToken(name, id, now+30), has && !taken
				if want {
					for old := range m.tokens {
						if m.until[old] <= now {
							delete(m.tokens, old)
						}
					}
					m.tokens[id], m.until[id] = name, now+30
				}
			default:
				_, want = m.tokens[id]
				c = deleteToken(id)
				delete(m.tokens, id)
			}
			for _, base := range []*storage.Overlay{a, b} {
				effects := storage.NewOverlay(base)
				answer, err := Apply(effects, nil, 1, now, own(t, c))
				if err != nil {
					t.Fatal(err)
				}
				if (answer.Refused == nil) != want || answer.Access != want ||
					(!want && !errors.Is(answer.Refused, nexusraft.ErrRefused)) {
					t.Fatalf("%v: got %v, changed %t, want success %t", c, answer.Refused, answer.Access, want)
				}
				if want {
					effects.MergeInto(base)
				}
			}
			checkAccess(t, a, m)
			if x, y := dump(t, a), dump(t, b); x != y {
				t.Fatalf("the replicas differ:\n%s\n%s", x, y)
			}
		}
	})
}

func temporary(t *rapid.T) *storage.Store {
	s, err := storage.OpenTemporary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dump(t rapid.TB, r nexusraft.Reader) string {
	var b strings.Builder
	for p, err := range r.Scan(nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%x=%x\n", p.Key, p.Value)
	}
	return b.String()
}

func checkAccess(t *rapid.T, r nexusraft.Reader, m *accessModel) {
	principals, err := Principals(r)
	if err != nil {
		t.Fatal(err)
	}
	if len(principals) != len(m.roles) {
		t.Fatalf("got %d principals, want %d", len(principals), len(m.roles))
	}
	for _, p := range principals {
		for zone := range uint64(5) {
			if got, want := RoleIn(p, nexusraft.ZoneID(zone)), max(m.roles[p.GetName()][0],
				m.roles[p.GetName()][zone]); zone > 0 && got != want {
				t.Fatalf("%s in zone %d: got %v, want %v", p.GetName(), zone, got, want)
			}
		}
		if !slices.IsSortedFunc(p.GetRoles(), func(a, b *pb.ZoneRole) int { return int(a.GetZone()) - int(b.GetZone()) }) {
			t.Fatalf("the roles of %s are out of order: %v", p.GetName(), p.GetRoles())
		}
	}
	tokens, err := AccessTokens(r)
	if err != nil {
		t.Fatal(err)
	}
	got := map[byte]string{}
	for _, x := range tokens {
		got[x.GetId()[0]] = x.GetName()
	}
	if fmt.Sprint(got) != fmt.Sprint(m.tokens) {
		t.Fatalf("got the tokens %v, want %v", got, m.tokens)
	}
}

func TestAccessBounds(t *testing.T) {
	base := accessState(t, memStore(t))
	apply := func(c *pb.NodeCommand) error {
		effects := storage.NewOverlay(base)
		a, err := Apply(effects, nil, 1, 100, own(t, c))
		if err != nil {
			t.Fatal(err)
		}
		if a.Refused == nil {
			effects.MergeInto(base)
		}
		return a.Refused
	}
	const read = pb.AccessRole_ACCESS_ROLE_READ
	refused := func(what, text string, c *pb.NodeCommand) {
		t.Helper()
		if err := apply(c); !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v, want ErrRefused with %q", what, err, text)
		}
	}
	for _, name := range []string{"", "a b", "a/b", "ä", strings.Repeat("a", 65), "a\n"} {
		refused("a name", "the name of a client", setRole(name, 1, read))
		refused("a name", "the name of a client", deletePrincipalOf(name))
		refused("a name", "the name of a client", putToken(name, 1, 1000))
	}
	refused("an unknown role", "no role 4", setRole("a", 1, 4))
	refused("a negative role", "no role -1", setRole("a", 1, -1))
	refused("a token for nobody", "has no role", putToken("nobody", 1, 1000))
	refused("a short hash", "a hash of 1 bytes", &pb.NodeCommand{Kind: &pb.NodeCommand_PutAccessToken{
		PutAccessToken: &pb.AccessToken{Id: make([]byte, 8), Hash: []byte{1}, Name: "admin"},
	}})
	refused("a long identifier", "not 9", &pb.NodeCommand{Kind: &pb.NodeCommand_DeleteAccessToken{
		DeleteAccessToken: &pb.DeleteAccessToken{Id: make([]byte, 9)},
	}})
	refused("the last admin", "last admin", deletePrincipalOf("admin"))
	refused("the last admin", "last admin", setRole("admin", 0, read))
	for zone := range uint64(maxPrincipalRoles) {
		if err := apply(setRole("a", zone+1, read)); err != nil {
			t.Fatal(err)
		}
	}
	refused("too many roles", "65 roles, limit 64", setRole("a", 0, read))
	if err := apply(setRole("a", 1, pb.AccessRole_ACCESS_ROLE_WRITE)); err != nil {
		t.Errorf("another role in a zone: %v", err)
	}
}

// A cluster from before there were roles has its admin until and after the first role is given.
func TestAccessOfAnOldCluster(t *testing.T) {
	base := accessState(t, memStore(t))
	all, err := Principals(base)
	if err != nil || len(all) != 1 || all[0].GetName() != "admin" || !GivesRoles(all[0]) {
		t.Fatalf("got %v, %v; want admin alone", all, err)
	}
	if a, err := Apply(base, nil, 1, 1, own(t, setRole("alice", 1, pb.AccessRole_ACCESS_ROLE_READ))); err != nil ||
		a.Refused != nil {
		t.Fatal(err, a.Refused)
	}
	all, err = Principals(base)
	if err != nil || len(all) != 2 || !GivesRoles(FindPrincipal(all, "admin")) || GivesRoles(FindPrincipal(all, "alice")) {
		t.Errorf("got %v, %v; want admin as it was, and alice", all, err)
	}
}

// A node that joins has no state at first. Until it has, it knows nobody: not even the founder's
// admin, whose access may have been revoked.
func TestAccessBeforeTheState(t *testing.T) {
	tree, err := memStore(t).Tree("empty")
	if err != nil {
		t.Fatal(err)
	}
	base := storage.NewOverlay(tree)
	if all, err := Principals(base); len(all) > 0 || !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("got %v, %v; want nobody and ErrZoneNotFound", all, err)
	}
	if err := base.Set(authorityKey, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if all, err := Principals(base); err != nil || len(all) != 1 || all[0].GetName() != "admin" {
		t.Errorf("of a cluster from before there were roles: got %v, %v; want admin", all, err)
	}
}

// What else a command carries takes no room in the records.
func TestTokenIsStoredWithoutUnknownFields(t *testing.T) {
	base := accessState(t, memStore(t))
	c := putToken("admin", 1, 1000)
	c.GetPutAccessToken().ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 1})
	if a, err := Apply(base, nil, 1, 1, own(t, c)); err != nil || a.Refused != nil {
		t.Fatal(err, a.Refused)
	}
	tokens, err := AccessTokens(base)
	if err != nil || len(tokens) != 1 || len(tokens[0].ProtoReflect().GetUnknown()) != 0 {
		t.Errorf("got %v, %v; want one token without unknown fields", tokens, err)
	}
}
