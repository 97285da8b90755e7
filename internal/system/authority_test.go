package system

import (
	"errors"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// Each step is taken once, in its turn, whoever asks for it how often; the old key is gone once it
// signs for nobody.
func TestRotateAuthorityCommand(t *testing.T) {
	base := emptyState(t)
	if err := applyRotateAuthority(base, &pb.RotateAuthority{
		Step: 1, Certificate: []byte("b"),
		Key: []byte("kb"),
	}); !errors.Is(err, ErrNoAuthority) {
		t.Errorf("without an authority: got %v", err)
	}
	record, err := encode(&pb.Authority{Certificate: []byte("a"), Key: []byte("ka")}, authorityRecord)
	if err != nil {
		t.Fatal(err)
	}
	if err := base.Set(authorityKey, record); err != nil {
		t.Fatal(err)
	}
	next := &pb.RotateAuthority{Step: 1, Certificate: []byte("b"), Key: []byte("kb")}
	for _, x := range []struct {
		what    string
		command *pb.RotateAuthority
		refused bool
		phase   nexusraft.AuthorityPhase
		list    string // who is believed after it
		keys    string // that are kept after it
	}{
		{"nothing to begin with", &pb.RotateAuthority{Step: 1}, true, nexusraft.AuthorityAlone, "a", "ka"},
		{"a step too far", &pb.RotateAuthority{Step: 2}, true, nexusraft.AuthorityAlone, "a", "ka"},
		{"the first", next, false, nexusraft.AuthorityBelieved, "ab", "kakb"},
		{"the first again", next, true, nexusraft.AuthorityBelieved, "ab", "kakb"},
		{
			"another new one", &pb.RotateAuthority{Step: 2, Certificate: []byte("c"), Key: []byte("kc")}, true,
			nexusraft.AuthorityBelieved, "ab", "kakb",
		},
		{"the second", &pb.RotateAuthority{Step: 2}, false, nexusraft.AuthoritySigns, "ba", "kb"},
		{"the second again", &pb.RotateAuthority{Step: 2}, true, nexusraft.AuthoritySigns, "ba", "kb"},
		{"the last", &pb.RotateAuthority{Step: 3}, false, nexusraft.AuthorityAlone, "b", "kb"},
		{"the last again", &pb.RotateAuthority{Step: 3}, true, nexusraft.AuthorityAlone, "b", "kb"},
		{
			"the next one", &pb.RotateAuthority{Step: 4, Certificate: []byte("c"), Key: []byte("kc")}, false,
			nexusraft.AuthorityBelieved, "bc", "kbkc",
		},
	} {
		err := applyRotateAuthority(base, x.command)
		if errors.Is(err, nexusraft.ErrRefused) != x.refused || err != nil && !x.refused {
			t.Errorf("%s: got %v, want it refused: %t", x.what, err, x.refused)
		}
		a, err := Authority(base)
		if err != nil {
			t.Fatal(err)
		}
		list, keys := string(Believed(a)), string(a.GetKey())+string(a.GetNextKey())
		if Phase(a) != x.phase || list != x.list || keys != x.keys {
			t.Errorf("%s: got phase %q, %q believed, keys %q; want %q, %q, %q", x.what, Phase(a), list, keys, x.phase, x.list,
				x.keys)
		}
	}
}

// Two authorities, both of which are believed, fit into what nodes tell each other.
func TestAuthoritiesFitTheirLimit(t *testing.T) {
	if 2*MaxAuthorityBytes > pki.MaxAuthoritiesBytes {
		t.Errorf("two authorities of %d bytes, limit %d", MaxAuthorityBytes, pki.MaxAuthoritiesBytes)
	}
}
