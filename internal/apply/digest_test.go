package apply

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
)

// copyOf is a replica: a state tree, and the effects over it that are not written yet. Its state machine
// does what commands say; one that begins with "name" writes which replica it is, as none may.
type copyOf struct {
	t       testing.TB
	name    string
	store   *storage.Store
	tree    *storage.Tree
	overlay *storage.Overlay
	last    system.Digest // the last checkpoint
}

func newCopy(t testing.TB, name string) *copyOf {
	s, err := storage.Open("data", &storage.Options{FS: storage.NewMemFS()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	tree, err := s.Tree("state")
	if err != nil {
		t.Fatal(err)
	}
	c := &copyOf{t: t, name: name, store: s, tree: tree, overlay: storage.NewOverlay(tree)}
	begin := system.FoundingDigest()
	if err := c.overlay.Set(begin.Key, begin.Value); err != nil {
		t.Fatal(err)
	}
	return c
}

// Apply implements nexusraft.StateMachine.
func (c *copyOf) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	key := []byte{cmd.Data[1]}
	switch cmd.Data[0] {
	case 'n':
		return nil, tx.Set([]byte("name"), []byte(c.name))
	case 'r':
		return nil, tx.DeleteRange(key, nil)
	case 'd':
		return nil, tx.Delete(key)
	case 'o': // nothing
		return nil, nil
	case 'e':
		return nil, tx.Publish("app/x", "t", key)
	case 'f':
		_ = tx.Set(key, cmd.Data)
		return nil, errors.New("of " + c.name) // a text that differs is no difference
	}
	return []byte(c.name), tx.Set(key, cmd.Data)
}

// write stores what was applied so far, as the end of a round's part does.
func (c *copyOf) write() {
	b := c.store.NewBatch()
	defer b.Close()
	if err := errors.Join(c.overlay.WriteTo(b, c.tree), b.Commit(false)); err != nil {
		c.t.Fatal(err)
	}
	c.overlay.Reset()
}

func (c *copyOf) apply(index nexusraft.Index, e *zone.Envelope) error {
	o, err := Command(Machine{StateMachine: c}, c.overlay, index, e)
	c.note(o)
	return err
}

func (c *copyOf) note(o Effects) {
	if o.Checkpoint.Index != 0 {
		c.last = o.Checkpoint
	}
}

func (c *copyOf) digest() system.Digest {
	d, ok, err := system.LoadDigest(c.overlay)
	if err != nil || !ok {
		c.t.Fatal(ok, err)
	}
	return d
}

// verify is what a leader whose checkpoint that is proposes.
func verify(t testing.TB, d system.Digest) *zone.Envelope {
	b, err := proto.Marshal(&pb.NodeCommand{Kind: &pb.NodeCommand_VerifyState{
		VerifyState: &pb.VerifyState{Index: uint64(d.Index), Digest: d.Sum},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return &zone.Envelope{Own: true, Command: b}
}

// Replicas that apply the same entries of every kind have the same digest, however their writes are cut
// into parts, and pass each other's checks; a replica that remembers a checkpoint no more passes, too.
func TestReplicasHaveOneDigest(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 1))
		a, b := newCopy(t, "a"), newCopy(t, "b")
		var first system.Digest
		members := nexusraft.Membership{}
		for i := nexusraft.Index(1); i <= 2000; i++ {
			command := []byte{"rdefoppp"[rng.IntN(8)], byte('a' + rng.IntN(20)), byte(i)}
			e := &zone.Envelope{Time: int64(rng.IntN(100)), Command: command}
			if rng.IntN(50) == 0 {
				e.Request.Session = 1
			}
			kind, next := rng.IntN(60), members.With(nexusraft.Member{
				Replica: nexusraft.ReplicaID(i), Node: nexusraft.NodeID(i), Role: nexusraft.RoleLearner,
			})
			check := verify(t, a.last)
			for _, c := range []*copyOf{a, b} {
				var o Effects
				var err error
				switch {
				case kind == 0:
					o, err = Nothing(c.overlay, i)
				case kind == 1:
					o, err = Members(c.overlay, i, e.Time, members, next)
				case kind == 2:
					err = c.apply(i, check)
				default:
					err = c.apply(i, e)
				}
				if c.note(o); err != nil {
					t.Fatalf("seed %d, %s, entry %d: %v", seed, c.name, i, err)
				}
				if rng.IntN(10) == 0 {
					c.write()
				}
			}
			if a.digest() != b.digest() || a.last != b.last || a.digest().Index != i {
				t.Fatalf("seed %d: after entry %d: %v and %v", seed, i, a.digest(), b.digest())
			}
			if first.Index == 0 {
				first = a.last
			}
		}
		if first.Index != 256 || a.last.Index != 1792 {
			t.Errorf("checkpoints from %d to %d", first.Index, a.last.Index)
		}
		if err := a.apply(2001, verify(t, system.Digest{Index: 100, Sum: 1})); err != nil {
			t.Errorf("an entry that is no checkpoint: %v", err)
		}
	}
}

// A state machine that writes which replica it is, is found out at the next checkpoint; so is one command
// of thousands that does something else, at any later one.
func TestDifferenceIsFound(t *testing.T) {
	for _, at := range []nexusraft.Index{1, 255, 256, 257, 700} {
		a, b := newCopy(t, "a"), newCopy(t, "b")
		var found nexusraft.Index
		for i := nexusraft.Index(1); i <= at+1000 && found == 0; i++ {
			e := &zone.Envelope{Time: 1, Command: []byte{'p', 'k', byte(i)}}
			switch {
			case i == at:
				e.Command[0] = 'n'
			case a.last.Index == i-1 && i > 1:
				e = verify(t, a.last)
			}
			if err := a.apply(i, e); err != nil {
				t.Fatal(err)
			}
			if err := b.apply(i, e); err != nil {
				d, ok := errors.AsType[*system.DivergedError](err)
				if !ok || !errors.Is(err, nexusraft.ErrCorrupt) || d.Leader != a.last.Sum || d.Here != b.last.Sum {
					t.Errorf("got %v", err)
				}
				found = d.Index
			}
		}
		if want := (at + 255) / 256 * 256; found != want {
			t.Errorf("a difference at %d is found after entry %d, want %d", at, found, want)
		}
	}
}

// together applies commands as those of one entry.
func (c *copyOf) together(index nexusraft.Index, commands ...string) (checkpoints int) {
	c.t.Helper()
	for i, command := range commands {
		e := &zone.Envelope{Time: 1, Place: i, More: i < len(commands)-1, Command: []byte(command)}
		o, err := Command(Machine{StateMachine: c}, c.overlay, index, e)
		if c.note(o); err != nil {
			c.t.Fatal(err)
		}
		if o.Checkpoint.Index != 0 {
			checkpoints++
		}
	}
	return checkpoints
}

// TestDigestIsOfAllCommandsOfAnEntry: each of them and their order; and the next entry follows.
func TestDigestIsOfAllCommandsOfAnEntry(t *testing.T) {
	of := func(commands ...string) system.Digest {
		c := newCopy(t, "a")
		c.together(1, "pk", "pl")
		c.together(2, commands...)
		c.together(3, "px")
		if c.digest().Index != 3 {
			t.Errorf("after %q there is the digest %v, want that of entry 3", commands, c.digest())
		}
		return c.digest()
	}
	want := of("pa", "pb", "pc")
	if got := of("pa", "pb", "pc"); got != want {
		t.Errorf("the same entries have the digests %v and %v", got, want)
	}
	for _, other := range [][]string{
		{"oa", "pb", "pc"}, {"pa", "ob", "pc"}, {"pa", "pb", "oc"}, {"pa", "pc", "pb"}, {"pa", "pb"}, {"pc"},
	} {
		if of(other...) == want {
			t.Errorf("entries of %q have the digest of others", other)
		}
	}
}

// TestCheckpointIsOfAWholeEntry: there is one after the last of its commands, and replicas that agree pass.
func TestCheckpointIsOfAWholeEntry(t *testing.T) {
	a := newCopy(t, "a")
	for i := nexusraft.Index(1); i <= 255; i++ {
		a.together(i, "pa", "pb")
	}
	if n := a.together(256, "pa", "pb", "pc"); n != 1 || a.last != a.digest() {
		t.Errorf("%d checkpoints, the last one %v, want one, %v", n, a.last, a.digest())
	}
	if err := a.apply(257, verify(t, a.last)); err != nil {
		t.Errorf("it differs from itself: %v", err)
	}
}

// A command that only one replica refuses is found, though neither has written anything.
func TestRefusalIsPartOfTheDigest(t *testing.T) {
	a, b := newCopy(t, "a"), newCopy(t, "b")
	for _, x := range []struct {
		c       *copyOf
		command string
	}{{a, "f-"}, {b, "o-"}} {
		if err := x.c.apply(1, &zone.Envelope{Command: []byte(x.command)}); err != nil {
			t.Fatal(err)
		}
	}
	if a.digest() == b.digest() {
		t.Error("the digests are the same")
	}
}

// A zone without a digest has none from its commands; one whose entries an earlier release has applied
// meanwhile, which knows of none, gives it up rather than being taken for one that differs.
func TestZoneWithoutADigest(t *testing.T) {
	o := emptyState(t)
	c := newCopy(t, "a")
	for i := nexusraft.Index(1); i <= 300; i++ {
		if _, err := Command(Machine{StateMachine: c}, o, i, &zone.Envelope{Command: []byte("pk")}); err != nil {
			t.Fatal(err)
		}
		if i != 200 {
			_ = c.apply(i, &zone.Envelope{Command: []byte("pk")})
		}
	}
	for _, r := range []nexusraft.Reader{o, c.overlay} {
		if d, ok, err := system.LoadDigest(r); ok || err != nil {
			t.Errorf("got %v, %v", d, err)
		}
	}
	if err := c.apply(301, verify(t, system.Digest{Index: 256, Sum: 1})); err != nil {
		t.Error(err)
	}
}

// The cost of a digest, for puts of 128 bytes: compare the two in one run.
func BenchmarkDigest(b *testing.B) {
	for _, with := range []bool{false, true} {
		b.Run(fmt.Sprintf("digest=%t", with), func(b *testing.B) {
			c := newCopy(b, "a")
			if !with {
				if err := system.DropDigest(c.overlay); err != nil {
					b.Fatal(err)
				}
			}
			e := &zone.Envelope{Command: append([]byte("pk"), make([]byte, 126)...)}
			var i nexusraft.Index
			for b.Loop() {
				i++
				if err := c.apply(i, e); err != nil {
					b.Fatal(err)
				}
				if i%100 == 0 {
					c.write()
				}
			}
		})
	}
}
