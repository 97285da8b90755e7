package system

import (
	"errors"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

func storedToken(id byte, expires int64, uses uint32, role pb.Role) (*pb.JoinToken, pki.Token) {
	secret := pki.Token{ID: [8]byte{id}, Secret: [16]byte{id, 1}}
	hash := secret.Hash()
	return &pb.JoinToken{Id: secret.ID[:], Hash: hash[:], ExpiresNanos: expires, Uses: uses, Role: role}, secret
}

func use(t pki.Token, node uint64, role pb.Role) *pb.UseJoinToken {
	hash := t.Hash()
	return &pb.UseJoinToken{Id: t.ID[:], Hash: hash[:], Node: node, Role: role}
}

func TestUseJoinToken(t *testing.T) {
	base := emptyState(t)
	stored, secret := storedToken(1, 100, 2, pb.Role_ROLE_MEMBER)
	if err := applyPutJoinToken(base, 1, stored); err != nil {
		t.Fatal(err)
	}
	wrong := secret
	wrong.Secret[0]++
	steps := []struct {
		what string
		now  int64
		use  *pb.UseJoinToken
		want string // of the refusal; "" for none
	}{
		{"wrong secret", 2, use(wrong, 7, pb.Role_ROLE_MEMBER), "not known"},
		{"wrong role", 2, use(secret, 7, pb.Role_ROLE_WITNESS), "for a member"},
		{"first node", 2, use(secret, 7, pb.Role_ROLE_MEMBER), ""},
		{"first node again", 3, use(secret, 7, pb.Role_ROLE_MEMBER), ""},
		{"second node", 3, use(secret, 8, pb.Role_ROLE_MEMBER), ""},
		{"third node", 3, use(secret, 9, pb.Role_ROLE_MEMBER), "used up"},
		{"first node, with all used", 99, use(secret, 7, pb.Role_ROLE_MEMBER), ""},
		{"first node, too late", 100, use(secret, 7, pb.Role_ROLE_MEMBER), "expired"},
	}
	for _, s := range steps {
		err := applyUseJoinToken(base, s.now, s.use)
		if s.want == "" && err != nil {
			t.Errorf("%s: got %v, want none", s.what, err)
		}
		if s.want != "" && (!errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), s.want)) {
			t.Errorf("%s: got %v, want a refusal with %q", s.what, err, s.want)
		}
	}
	if err := applyDeleteJoinToken(base, &pb.DeleteJoinToken{Id: secret.ID[:]}); err != nil {
		t.Fatal(err)
	}
	if err := applyUseJoinToken(base, 3, use(secret, 7, pb.Role_ROLE_MEMBER)); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("revoked: got %v, want ErrRefused", err)
	}
}

func TestExpiredTokensAreSwept(t *testing.T) {
	base := emptyState(t)
	for i := range byte(3) {
		stored, _ := storedToken(i+1, int64(10*(i+1)), 1, 0)
		if err := applyPutJoinToken(base, 1, stored); err != nil {
			t.Fatal(err)
		}
	}
	stored, _ := storedToken(9, 100, 1, 0)
	if err := applyPutJoinToken(base, 20, stored); err != nil {
		t.Fatal(err)
	}
	tokens, err := JoinTokens(base)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for _, x := range tokens {
		got = append(got, x.GetId()[0])
	}
	if want := []byte{3, 9}; string(got) != string(want) {
		t.Errorf("got tokens %v, want %v", got, want)
	}
}

func FuzzDecodeJoinToken(f *testing.F) {
	f.Add([]byte("\x0a\x08abcdefgh"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := decode[pb.JoinToken](b, joinTokenRecord); err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("got %v, want ErrCorrupt", err)
		}
	})
}

// A use keeps its key, and by another one it is no use again. Of uses that an earlier release has
// applied no key is known.
func TestUseOfATokenKeepsItsKey(t *testing.T) {
	base := emptyState(t)
	stored, secret := storedToken(1, 100, 3, pb.Role_ROLE_WITNESS)
	if err := applyPutJoinToken(base, 1, stored); err != nil {
		t.Fatal(err)
	}
	by := func(node uint64, key string) *pb.UseJoinToken {
		u := use(secret, node, pb.Role_ROLE_WITNESS)
		if key != "" {
			u.KeyHash = []byte(key)
		}
		return u
	}
	for _, step := range []struct {
		use     *pb.UseJoinToken
		refused bool
	}{
		{by(7, "a"), false},
		{by(7, "a"), false},
		{by(7, "b"), true},
		{by(7, ""), true},
		{by(8, ""), false},
		{by(8, "b"), false},
		{by(9, "b"), false},
		{by(10, "c"), true}, // used up
	} {
		if err := applyUseJoinToken(base, 2, step.use); (err != nil) != step.refused {
			t.Errorf("%v: got %v, want it refused: %t", step.use, err, step.refused)
		}
	}
}
