package system

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/storage"
)

// applyRecorded applies one command as a replica does; the text is its answer.
func applyRecorded(t *testing.T, base *storage.Overlay, leaders int64, c *pb.NodeCommand) string {
	t.Helper()
	now, err := AdvanceTime(base, leaders)
	if err != nil {
		t.Fatal(err)
	}
	effects := storage.NewOverlay(base)
	a, err := Apply(effects, nil, 1, now, own(t, c))
	if err != nil {
		t.Fatal(err)
	}
	if a.Refused != nil {
		return fmt.Sprintf("refused: %v", a.Refused)
	}
	effects.MergeInto(base)
	return fmt.Sprintf("%q events %t access %t change %q", a.Answer, a.Events, a.Access, a.Change)
}

// TestRecordedHistory compares a history of commands with what an earlier release has made of it:
// its answers and its state, byte by byte. What applying a command does is for ever: replicas of two
// releases apply the same log, and one that starts anew applies an old one.
func TestRecordedHistory(t *testing.T) {
	var b strings.Builder
	base := emptyState(t)
	record, err := encode(&pb.Authority{Certificate: []byte("cert-a"), Key: []byte("key-a")}, authorityRecord)
	if err != nil {
		t.Fatal(err)
	}
	if err := base.Set(authorityKey, record); err != nil {
		t.Fatal(err)
	}
	for i, c := range scriptedHistory() {
		fmt.Fprintf(&b, "%02d %s\n", i, applyRecorded(t, base, int64(1000+(i%7)*10), c))
	}
	members := nexusraft.Membership{}.With(nexusraft.Member{
		Replica: 1, Node: 11, Name: "n1", Address: "a:1", Role: nexusraft.RoleMember,
	})
	more := members.With(nexusraft.Member{Replica: 2, Node: 12, Name: "w", Address: "w:1", Role: nexusraft.RoleWitness})
	for _, step := range [][2]nexusraft.Membership{{{}, members}, {members, more}, {more, more.Without(1)}} {
		if err := PublishMembers(base, 2000, step[0], step[1]); err != nil {
			t.Fatal(err)
		}
	}
	b.WriteString(dumped(t, base))
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 3000 {
		answer := applyRecorded(t, base, int64(3000+10*i+r.IntN(50)), drawnCommand(r))
		if i%100 == 99 {
			fmt.Fprintf(&b, "%d %.60s %x\n", i+1, answer, sha256.Sum256([]byte(dumped(t, base))))
		}
	}
	want, err := os.ReadFile("testdata/history.txt")
	if err != nil {
		t.Fatal(err)
	}
	was, is := strings.Split(strings.ReplaceAll(string(want), "\r\n", "\n"), "\n"), strings.Split(b.String(), "\n")
	if len(is) != len(was) {
		t.Fatalf("%d lines, want %d", len(is), len(was))
	}
	for i, line := range is {
		if line != was[i] {
			t.Fatalf("line %d: got\n%s\nwant\n%s", i+1, line, was[i])
		}
	}
}

// scriptedHistory has a command of each kind, accepted and refused.
func scriptedHistory() []*pb.NodeCommand {
	const read, admin = pb.AccessRole_ACCESS_ROLE_READ, pb.AccessRole_ACCESS_ROLE_ADMIN
	token := func(id byte, uses uint32, role pb.Role) *pb.NodeCommand {
		return &pb.NodeCommand{Kind: &pb.NodeCommand_PutJoinToken{PutJoinToken: &pb.JoinToken{
			Id: bytes.Repeat([]byte{id}, 8), Hash: bytes.Repeat([]byte{id}, sha256.Size), Role: role, Uses: uses,
			ExpiresNanos: 5000,
		}}}
	}
	use := func(id byte, node uint64, key string) *pb.NodeCommand {
		return &pb.NodeCommand{Kind: &pb.NodeCommand_UseJoinToken{UseJoinToken: &pb.UseJoinToken{
			Id: bytes.Repeat([]byte{id}, 8), Hash: bytes.Repeat([]byte{id}, sha256.Size), Node: node,
			Role: pb.Role_ROLE_MEMBER, KeyHash: []byte(key),
		}}}
	}
	forget := &pb.NodeCommand{Kind: &pb.NodeCommand_DeleteJoinToken{DeleteJoinToken: &pb.DeleteJoinToken{
		Id: bytes.Repeat([]byte{1}, 8),
	}}}
	rotate := func(step uint64, cert, key string) *pb.NodeCommand {
		return &pb.NodeCommand{Kind: &pb.NodeCommand_RotateAuthority{RotateAuthority: &pb.RotateAuthority{
			Step: step, Certificate: []byte(cert), Key: []byte(key),
		}}}
	}
	return []*pb.NodeCommand{
		publishing("app/a", "made", "p1"), publishing("key", "made", "p"), publishing("app/", "made", "p"),
		setRole("alice", 1, admin), setRole("alice", 0, read), setRole("bob", 3, read), setRole("nobody", 1, 0),
		setRole("admin", 0, 0), deletePrincipalOf("admin"), setRole("a b", 1, read), setRole("alice", 1, 7),
		putToken("bob", 1, 1500), putToken("bob", 1, 1500), putToken("nobody", 2, 1500), putToken("alice", 3, 1001),
		putToken("alice", 4, 9000), deleteToken(9), deleteToken(1), deletePrincipalOf("bob"), deletePrincipalOf("bob"),
		token(1, 2, pb.Role_ROLE_MEMBER), token(1, 2, pb.Role_ROLE_MEMBER), token(2, 0, pb.Role_ROLE_MEMBER),
		token(2, 65, pb.Role_ROLE_MEMBER), token(2, 1, pb.Role_ROLE_LEARNER), token(2, 1, pb.Role_ROLE_WITNESS),
		use(1, 7, "k"), use(1, 7, "k"), use(1, 7, "other"), use(1, 8, ""), use(1, 9, "k"), use(2, 7, "k"), use(3, 7, "k"),
		forget, forget, retaining(300, 0), retaining(300, -1), retaining(0, 0), publishing("app/a", "made", "p2"),
		retaining(3, 100), publishing("app/a", "made", "p3"), publishing("app/b", strings.Repeat("x", 257), ""),
		rotate(1, "cert-b", ""), rotate(2, "cert-b", "key-b"), rotate(1, "cert-b", "key-b"), token(4, 3, 0),
		rotate(2, "cert-c", "key-c"), rotate(2, "", ""), rotate(3, "", ""), rotate(4, "cert-c", strings.Repeat("k", 9<<10)),
		rotate(4, "cert-c", "key-c"), token(5, 1, pb.Role_ROLE_MEMBER),
	}
}

func publishing(topic, kind, payload string) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_Publish{Publish: &pb.PublishEvent{
		Topic: topic, Type: kind, Payload: []byte(payload),
	}}}
}

func retaining(count uint64, age int64) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_Retention{Retention: &pb.EventRetention{Count: count, AgeNanos: age}}}
}

// drawnCommand is one of many small commands.
func drawnCommand(r *rand.Rand) *pb.NodeCommand {
	name, id := fmt.Sprint("p", r.IntN(20)), byte(r.IntN(30))
	switch r.IntN(20) {
	case 0:
		return retaining(uint64(r.IntN(500)), int64(r.IntN(3)*1000))
	case 1, 2, 3:
		return setRole(name, uint64(r.IntN(70)), pb.AccessRole(r.IntN(5)))
	case 4:
		return deletePrincipalOf(name)
	case 5, 6, 7:
		return putToken(name, id, int64(r.IntN(40_000)))
	case 8:
		return deleteToken(id)
	case 9, 10:
		return &pb.NodeCommand{Kind: &pb.NodeCommand_PutJoinToken{PutJoinToken: &pb.JoinToken{
			Id: bytes.Repeat([]byte{id}, 8), Hash: bytes.Repeat([]byte{id}, sha256.Size), Uses: uint32(r.IntN(5)),
			ExpiresNanos: int64(r.IntN(40_000)),
		}}}
	case 11, 12:
		return &pb.NodeCommand{Kind: &pb.NodeCommand_UseJoinToken{UseJoinToken: &pb.UseJoinToken{
			Id: bytes.Repeat([]byte{id}, 8), Hash: bytes.Repeat([]byte{id}, sha256.Size), Node: uint64(r.IntN(6)),
			Role: pb.Role_ROLE_MEMBER, KeyHash: []byte{byte(r.IntN(2))},
		}}}
	}
	return publishing(fmt.Sprint("app/", r.IntN(9)), "drawn", strings.Repeat("x", r.IntN(200)))
}

// A limit that Apply depends on is for ever: with another one, an old log gives another state.
func TestLimitsAreForEver(t *testing.T) {
	keep := nexusraft.DefaultRetention()
	for name, x := range map[string]struct{ got, want int64 }{
		"principals":              {maxPrincipals, 4096},
		"roles of a principal":    {maxPrincipalRoles, 64},
		"access tokens":           {maxAccessTokens, 4096},
		"join tokens":             {maxJoinTokens, 1024},
		"uses of a join token":    {MaxJoinTokenUses, 64},
		"bytes of an authority":   {MaxAuthorityBytes, 8 << 10},
		"bytes of events":         {maxEventLogBytes, 64 << 20},
		"payload of a program":    {maxAppEventBytes, 1 << 20},
		"events deleted":          {trimStep, 256},
		"slack of a limit":        {retentionSlack, 8},
		"events kept":             {int64(keep.Count), 10_000},
		"age of events":           {int64(keep.Age), int64(24 * time.Hour)},
		"topic of an event":       {nexusraft.MaxEventNameBytes, 256},
		"payload of an event":     {nexusraft.MaxEventPayloadBytes, 2 << 20},
		"events of a command":     {nexusraft.MaxCommandEventBytes, 16 << 20},
		"identifier of a token":   {pki.AccessTokenIDBytes, 8},
		"name of a client, bytes": {longestName(), 64},
		"sessions":                {maxSessions, 4096},
		"bytes of sessions":       {maxSessionsBytes, 16 << 20},
		"bytes of a session":      {maxSessionBytes, 1 << 20},
		"charge of a session":     {sessionCharge, 1 << 10},
		"charge of an answer":     {sessionAnswerCharge, 128},
		"window of a session":     {sessionWindow, 64},
		"life of a session":       {int64(sessionLife), int64(time.Hour)},
		"expired sessions swept":  {sessionSweep, 4},
		"owner of a session":      {maxSessionOwnerBytes, 64},
	} {
		if x.got != x.want {
			t.Errorf("%s: %d, and was %d", name, x.got, x.want)
		}
	}
}

// longestName returns the length of the longest name of a client.
func longestName() (n int64) {
	for pki.ValidateClient(strings.Repeat("a", int(n)+1)) == nil {
		n++
	}
	return n
}
