package system

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/storage"
)

func registerSession(owner string) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_RegisterSession{RegisterSession: &pb.RegisterSession{Owner: owner}}}
}

// sessionsZone is a zone with sessions, to which commands are applied.
type sessionsZone struct {
	t     rapid.TB
	base  *storage.Overlay
	index nexusraft.Index
	now   int64
}

func newSessionsZone(t rapid.TB, base nexusraft.Reader) *sessionsZone {
	return &sessionsZone{t: t, base: storage.NewOverlay(base), now: int64(time.Hour)}
}

func (z *sessionsZone) register(owner string) uint64 {
	z.t.Helper()
	z.index++
	r, err := Apply(z.base, nil, z.index, z.now, own(z.t, registerSession(owner)))
	if err != nil || r.Refused != nil {
		z.t.Fatalf("register: %v, %v", err, r.Refused)
	}
	answer, _ := CutAnswer(r.Answer)
	if id := binary.BigEndian.Uint64(answer); id != uint64(z.index) {
		z.t.Fatalf("the session registered at index %d has the ID %d", z.index, id)
	}
	return uint64(z.index)
}

// run applies a command of a session whose answer is as given, and says what became of it: "ran", "again" with
// the answer of the first run, or the refusal's sentinel.
func (z *sessionsZone) run(id, sequence uint64, command string, data []byte, answer error) string {
	z.t.Helper()
	z.index++
	a, err := BeginAttempt(z.base, z.now, nexusraft.RequestID{Session: id, Sequence: sequence}, []byte(command))
	switch {
	case errors.Is(err, nexusraft.ErrUnknownSession):
		return "unknown"
	case errors.Is(err, nexusraft.ErrRefused):
		return "refused"
	case err != nil:
		z.t.Fatal(err)
	case a.Ran:
		return fmt.Sprintf("again %d %.20q %v", a.Index, a.Data, a.Err)
	}
	if err := a.End(z.index, data, answer); err != nil {
		z.t.Fatal(err)
	}
	return "ran"
}

// check holds that the records agree with one another, and with the limits.
func (z *sessionsZone) check() {
	z.t.Helper()
	table, err := loadSessions(z.base)
	if err != nil {
		z.t.Fatal(err)
	}
	var count, total, last, answers uint64
	for id := table.oldest; id != 0; {
		s, err := table.get(id)
		if err != nil {
			z.t.Fatal(err)
		}
		if s.prev != last {
			z.t.Fatalf("session %d is after %d in the list, and says %d", id, last, s.prev)
		}
		charged := uint64(sessionCharge)
		for place := range uint64(sessionWindow) {
			if s.kept&(1<<place) == 0 {
				continue
			}
			a, err := table.answer(s, s.top-place)
			if err != nil {
				z.t.Fatal(err)
			}
			charged += a.charge()
			answers++
		}
		if charged != s.bytes || charged > maxSessionBytes {
			z.t.Fatalf("session %d has %d bytes, says %d, limit %d", id, charged, s.bytes, maxSessionBytes)
		}
		count, total, last, id = count+1, total+charged, id, s.next
	}
	if count != table.count || total != table.bytes || last != table.newest || count > maxSessions ||
		total > maxSessionsBytes {
		z.t.Fatalf("%d sessions, %d bytes, newest %d; the table says %+v", count, total, last, table.sessionTable)
	}
	for p, err := range z.base.Scan(answerPrefixOf, []byte{Prefix, 'r', 'a' + 1}) {
		if err != nil {
			z.t.Fatal(err)
		}
		if answers--; len(p.Key) != 12 {
			z.t.Fatalf("the key %q", p.Key)
		}
	}
	if answers != 0 {
		z.t.Fatalf("%d answers are kept by no session, modulo 2^64", -answers)
	}
}

// What a session says of each number: in the window, in any order, below it, above it, and again.
func TestSessionWindow(t *testing.T) {
	z := newSessionsZone(t, emptyState(t))
	z.index = 9
	id := z.register("alice")
	for _, x := range []struct {
		sequence      uint64
		command, want string
	}{
		{0, "c0", "refused"},
		{2, "c2", "ran"},
		{1, "c1", "ran"},
		{1, "c1", `again 13 "c1" <nil>`},
		{2, "c2", `again 12 "c2" <nil>`},
		{2, "other", "refused"},
		{65, "c65", "ran"},
		{1, "c1", "unknown"},
		{2, "c2", `again 12 "c2" <nil>`},
		{3, "c3", "ran"},
		{66, "c66", "ran"},
		{2, "c2", "unknown"},
		{3, "c3", `again 20 "c3" <nil>`},
		{4, "c4", "ran"},
		{130, "c130", "ran"},
		{66, "c66", "unknown"},
		{67, "c67", "ran"},
		{130, "c130", `again 25 "c130" <nil>`},
		{1 << 63, "far", "ran"},
		{131, "c131", "unknown"},
		{1<<64 - 1, "last", "ran"},
		{1<<64 - 1, "last", `again 31 "last" <nil>`},
		{1 << 63, "far", "unknown"},
	} {
		if got := z.run(id, x.sequence, x.command, []byte(x.command), nil); got != x.want {
			t.Errorf("at %d number %d, %s: got %s, want %s", z.index, x.sequence, x.command, got, x.want)
		}
		z.check()
	}
}

// An error is an answer like another: the same text, the same sentinels.
func TestSessionKeepsErrors(t *testing.T) {
	z := newSessionsZone(t, emptyState(t))
	id := z.register("")
	for i, first := range append(answerSentinels[:], errors.New("the state machine's own"),
		errors.Join(nexusraft.ErrDenied, nexusraft.ErrGone)) {
		number := uint64(i + 1)
		first = fmt.Errorf("command %d: %w", i, first)
		if got := z.run(id, number, "c", []byte("lost"), first); got != "ran" {
			t.Fatal(got)
		}
		a, err := BeginAttempt(z.base, z.now, nexusraft.RequestID{Session: id, Sequence: number}, []byte("c"))
		if err != nil || !a.Ran || a.Data != nil || a.Err == nil || a.Err.Error() != first.Error() {
			t.Fatalf("%v: got %+v, %v", first, a, err)
		}
		for _, sentinel := range answerSentinels {
			if errors.Is(a.Err, sentinel) != errors.Is(first, sentinel) {
				t.Errorf("%v again: matches %v: %t", first, sentinel, errors.Is(a.Err, sentinel))
			}
		}
	}
}

// Every sentinel of the root package that a node knows is kept.
func TestAnswerSentinelsAreForEver(t *testing.T) {
	var all []string
	for _, err := range answerSentinels {
		all = append(all, strings.TrimPrefix(err.Error(), "nexusraft: "))
	}
	const want = "outcome unknown; corrupt data; closed; disk full; no quorum confirmed the read in time; not leader; " +
		"overloaded, nothing was written; zone not found; too large; fenced; refused; unknown or expired session; " +
		"the data directory belongs to no cluster; no longer kept; denied"
	if got := strings.Join(all, "; "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A leader's clock that jumps by hours lets no session expire that was in use.
func TestSessionsOutliveAJump(t *testing.T) {
	z := newSessionsZone(t, emptyState(t))
	id, other := z.register("a"), z.register("b")
	z.run(id, 1, "c", nil, nil)
	for range 30 {
		z.now += 30 * int64(sessionLife)
		for range 10 {
			z.now++
			if got := z.run(id, 1, "c", nil, nil); !strings.HasPrefix(got, "again") {
				t.Fatalf("the session in use: %s", got)
			}
		}
	}
	if got := z.run(other, 1, "c", nil, nil); got != "ran" {
		t.Errorf("one that was not used during 30 jumps: %s", got)
	}
	z.check()
}

// A session that was not used for an hour is forgotten, the others are not; what is forgotten is not run.
func TestSessionExpires(t *testing.T) {
	z := newSessionsZone(t, emptyState(t))
	var ids []uint64
	for range 2 * sessionSweep {
		ids = append(ids, z.register("a"))
		z.run(ids[len(ids)-1], 1, "c", nil, nil)
	}
	keeper := z.register("a")
	for range sessionLife/sessionPause - 1 {
		z.now += int64(sessionPause)
		z.run(keeper, 1, "c", nil, nil)
	}
	z.now += int64(sessionPause)
	if got := z.run(ids[3], 1, "c", nil, nil); !strings.HasPrefix(got, "again") {
		t.Errorf("after an hour: %s", got)
	}
	z.now++
	if got := z.run(ids[7], 1, "c", nil, nil); got != "unknown" {
		t.Errorf("after more than an hour: %s", got)
	}
	z.check()
	table, err := loadSessions(z.base)
	if err != nil {
		t.Fatal(err)
	}
	if want := uint64(len(ids) + 1 - sessionSweep - 1); table.count != want {
		t.Errorf("one command has left %d sessions, want %d: the one that it used, and %d by the way", table.count, want,
			sessionSweep)
	}
	if got := z.run(ids[3], 2, "c", nil, nil); got != "ran" {
		t.Errorf("the one that was used: %s", got)
	}
	z.check()
}

// A command of an unknown session changes nothing, not even the zone's time, as in earlier releases.
func TestUnknownSessionChangesNothing(t *testing.T) {
	z := newSessionsZone(t, emptyState(t))
	if got := z.run(7, 1, "c", nil, nil); got != "unknown" || z.base.Len() != 0 {
		t.Errorf("got %s, and %d writes", got, z.base.Len())
	}
}

// Any number of registrations takes no more than a zone has, and a session in use stays.
func TestSessionsAreBounded(t *testing.T) {
	z := newSessionsZone(t, emptyState(t))
	first, used := z.register("bob"), z.register("alice")
	for i := range uint64(3 * maxSessions) {
		z.register("mallory")
		if i%1000 == 0 {
			if got := z.run(used, i+1, "c", nil, nil); got != "ran" {
				t.Fatalf("after %d registrations the session in use: %s", i, got)
			}
		}
	}
	z.check()
	if got := z.run(first, 1, "c", nil, nil); got != "unknown" {
		t.Errorf("the session that was used longest ago: %s", got)
	}
	if table, err := loadSessions(z.base); err != nil || table.count != maxSessions {
		t.Errorf("%d sessions, %v, want %d", table.count, err, maxSessions)
	}
}

// Answers are bounded by bytes: of a session the lowest numbers go first, of a zone the sessions that were
// used longest ago. What has run and whose answer is gone is refused, not run.
func TestSessionAnswersAreBounded(t *testing.T) {
	z := newSessionsZone(t, emptyState(t))
	big := bytes.Repeat([]byte{'x'}, maxSessionBytes/2-sessionCharge)
	oldest := z.register("a")
	z.run(oldest, 1, "c", nil, nil)
	id := z.register("a")
	for number := range uint64(3) {
		if got := z.run(id, number+1, "c", big, nil); got != "ran" {
			t.Fatal(got)
		}
		z.check()
	}
	for number, want := range []string{"unknown", "again", "again"} {
		if got := z.run(id, uint64(number)+1, "c", nil, nil); !strings.HasPrefix(got, want) {
			t.Errorf("number %d: got %s, want %s", number+1, got, want)
		}
	}
	if got := z.run(id, 4, "c", make([]byte, maxSessionBytes), nil); got != "ran" {
		t.Errorf("an answer that is too large to be kept: %s", got)
	}
	if got := z.run(id, 4, "c", nil, nil); got != "unknown" {
		t.Errorf("again: %s", got)
	}
	for range maxSessionsBytes / maxSessionBytes {
		id := z.register("b")
		z.run(id, 1, "c", big, nil)
		z.run(id, 2, "c", big, nil)
		z.check()
	}
	if got := z.run(oldest, 1, "c", nil, nil); got != "unknown" {
		t.Errorf("the session that was used longest ago: %s", got)
	}
}

// Whatever sessions go through, their records agree with one another and with the limits.
func TestSessionsAddUp(t *testing.T) {
	empty := emptyState(t)
	rapid.Check(t, func(t *rapid.T) {
		z := newSessionsZone(t, empty)
		var ids []uint64
		for range rapid.IntRange(1, 40).Draw(t, "commands") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1:
				ids = append(ids, z.register("a"))
			case 2:
				z.now += rapid.Int64Range(0, int64(sessionLife)).Draw(t, "pause")
			default:
				if len(ids) == 0 {
					continue
				}
				id := rapid.SampledFrom(ids).Draw(t, "id")
				number := rapid.Uint64Range(1, 200).Draw(t, "number")
				z.run(id, number, "c", make([]byte, rapid.SampledFrom([]int{0, 100, maxSessionBytes / 3}).Draw(t, "bytes")), nil)
			}
			z.check()
		}
	})
}

// In the root zone sessions wait for the cluster's version (I16): a node of an earlier release would stop at one.
func TestSessionsNeedTheVersion(t *testing.T) {
	base := emptyState(t)
	c := registerSession("a")
	c.GetRegisterSession().RootZone = true
	if _, err := applied(t, base, c); !errors.Is(err, nexusraft.ErrRefused) || base.Len() != 0 {
		t.Errorf("at version 3: %v", err)
	}
	if _, err := applied(t, base, raiseVersion(ZonesVersion)); err != nil {
		t.Fatal(err)
	}
	if _, err := applied(t, base, c); err != nil {
		t.Errorf("at version 4: %v", err)
	}
	c.GetRegisterSession().Owner = strings.Repeat("a", maxSessionOwnerBytes+1)
	if _, err := applied(t, base, c); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("a long name: %v", err)
	}
}

func FuzzSessionRecords(f *testing.F) {
	f.Add((&session{id: 1, next: 2, top: 3, ran: 7, kept: 5, bytes: 2000, used: 9, owner: "alice"}).encode())
	f.Add(sessionTable{count: 1, bytes: 1024, oldest: 1, newest: 1}.encode())
	f.Add((&sessionAnswer{sequence: 1, index: 2, data: []byte("data")}).encode())
	failed := answerOf(nil, nexusraft.ErrRefused)
	f.Add(failed.encode())
	long := sessionAnswer{failed: true, data: make([]byte, maxSessionErrorBytes+1)}
	f.Add(long.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := decodeSessionTable(b); err == nil && !bytes.Equal(x.encode(), b) {
			t.Errorf("table %x: got %+v", b, x)
		} else if err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Error(err)
		}
		if x, err := decodeSession(5, b); err == nil && !bytes.Equal(x.encode(), b) {
			t.Errorf("session %x: got %+v", b, x)
		} else if err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Error(err)
		}
		x, err := decodeSessionAnswer(b)
		if err == nil && !bytes.Equal(x.encode(), b) {
			t.Errorf("answer %x: got %+v", b, x)
		} else if err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Error(err)
		}
		if data, answer := x.result(); err == nil && x.failed {
			again := answerOf(data, answer)
			if again.matches != x.matches || !bytes.Equal(again.data, x.data) {
				t.Errorf("answer %x: again %+v", b, again)
			}
		}
	})
}
