package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// kinds are the requests that sequences are made of, besides Range, Put and DeleteRange of the newest
// revision.
type kinds struct {
	history, txn, compact, hashKV, stream, lease bool
}

var everyKind = kinds{history: true, txn: true, compact: true, hashKV: true, stream: true, lease: true}

// kindsToTest returns the kinds that the environment names, or all.
func kindsToTest(t *testing.T) kinds {
	named, ok := os.LookupEnv("NEXUS_RAFT_DIFFERENTIAL_KINDS")
	if !ok {
		return everyKind
	}
	var k kinds
	for _, name := range strings.Split(named, ",") {
		switch name {
		case "history":
			k.history = true
		case "txn":
			k.txn = true
		case "compact":
			k.compact = true
		case "hashkv":
			k.hashKV = true
		case "stream":
			k.stream = true
		case "lease":
			k.lease = true
		case "all":
			k = everyKind
		default:
			t.Fatalf("NEXUS_RAFT_DIFFERENTIAL_KINDS has %q, which is none of history, txn, compact, hashkv, stream, lease, all",
				name)
		}
	}
	return k
}

// has says whether all of the steps are of the kinds.
func (k kinds) has(steps []step) bool {
	return !slices.ContainsFunc(steps, func(s step) bool {
		switch s.method {
		case "Txn":
			return !k.txn
		case "Compact":
			return !k.compact
		case "HashKV":
			return !k.hashKV
		case "LeaseGrant", "LeaseRevoke", "LeaseKeepAlive", "LeaseTimeToLive", "LeaseLeases":
			return !k.lease
		case "RangeStream":
			return !k.stream || ofThePast(s.req) && !k.history
		case "Range":
			return ofThePast(s.req) && !k.history
		}
		return false
	})
}

// ofThePast says whether a Range asks for a revision of the sequence.
func ofThePast(req proto.Message) bool {
	r := req.(*etcdserverpb.RangeRequest).Revision
	return r >= lowest && r < highest
}

// duration is how long sequences are played: a little while; two minutes in CI; else as the
// environment says.
func duration(t *testing.T) time.Duration {
	text, ok := os.LookupEnv("NEXUS_RAFT_DIFFERENTIAL")
	if !ok {
		if os.Getenv("NEXUS_RAFT_CI") != "" {
			return 2 * time.Minute
		}
		return 4 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("NEXUS_RAFT_DIFFERENTIAL: %v", err)
	}
	return d
}

// pair are two stores that shall answer alike.
type pair struct {
	want, got *store
	kinds     kinds
}

// newPair returns an etcd and a cluster of ours.
func newPair(t *testing.T, k kinds) *pair {
	t.Helper()
	return &pair{etcdStore(t, "etcd"), ourStore(t), k}
}

func etcdStore(t *testing.T, name string) *store {
	t.Helper()
	st, err := newStore(name, false, newReference(t).address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.close)
	return st
}

func ourStore(t *testing.T) *store {
	t.Helper()
	leader, follower, err := ownCluster(t).roles()
	if err != nil {
		t.Fatal(err)
	}
	st, err := newStore("nexus-raft", true, leader.address, follower.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.close)
	return st
}

// difference is where two stores part.
type difference struct {
	step      int
	want, got outcome
}

// compare plays a sequence on both and returns the first difference, or nil. Outcomes of the moment
// (a leader that changes) make it play again; those that stay are compared as all others.
func (p *pair) compare(ctx context.Context, steps []step) (*difference, error) {
	var want, got []outcome
	var err error
	for range 3 {
		var wantErr, gotErr error
		var both sync.WaitGroup
		both.Go(func() { want, wantErr = p.want.play(ctx, steps, p.kinds) })
		both.Go(func() { got, gotErr = p.got.play(ctx, steps, p.kinds) })
		both.Wait()
		if err = errors.Join(wantErr, gotErr); err == nil {
			break
		}
	}
	if len(want) != len(steps) || len(got) != len(steps) {
		return nil, err
	}
	if i := differ(steps, want, got); i >= 0 {
		return &difference{i, want[i], got[i]}, nil
	}
	return nil, nil
}

// minimised returns the shortest sequence that is found and in which the stores part, and where.
func (p *pair) minimised(ctx context.Context, steps []step, first *difference) ([]step, *difference) {
	d := first
	steps = minimise(steps[:d.step+1], 1000, func(steps []step) bool {
		found, err := p.compare(ctx, steps)
		if err != nil || found == nil {
			return false
		}
		d = found
		return true
	})
	return steps, d
}

// search plays the sequences of seeds until one shows a difference, which it returns with its seed, or
// until so many have been played, or the time is over; 0 of either is no bound.
func (p *pair) search(
	ctx context.Context, from uint64, k kinds, most int, limit time.Duration,
) (played int, seed uint64, steps []step, d *difference, err error) {
	begun := time.Now()
	for seed = from; ; seed++ {
		if most > 0 && played >= most || limit > 0 && time.Since(begun) > limit {
			return played, seed, nil, nil, nil
		}
		steps = sequence(seed, k)
		d, err = p.compare(ctx, steps)
		if err != nil || d != nil {
			return played, seed, steps, d, err
		}
		played++
	}
}

// report fails the test with a minimised sequence, and keeps that as a test case.
func (p *pair) report(t *testing.T, name string, steps []step, d *difference) {
	t.Helper()
	steps, d = p.minimised(t.Context(), steps, d)
	text := fmt.Sprintf("# %s\n%s", name, formatSteps(steps))
	file := filepath.Join(keptSequences, strings.ReplaceAll(name, " ", "-")+".txt")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Error(err)
	}
	t.Errorf("%s: step %d differs; the sequence is kept in %s:\n%s\n%s: %v\n\n%s: %v", name, d.step+1, file, text,
		p.want.name, d.want, p.got.name, d.got)
}

// keptSequences has those that once failed, or show what a suite of etcd's shows.
const keptSequences = "testdata/differential"

// roundLimit is how long two stores live before new ones take their place: the past of all sequences
// takes room.
const roundLimit = 5 * time.Minute

// TestDifferential plays random sequences of requests on an etcd and on a cluster of ours.
func TestDifferential(t *testing.T) {
	k, seed := kindsToTest(t), rand.Uint64()>>32<<16
	end := time.Now().Add(duration(t))
	for round := 1; time.Now().Before(end) && !t.Failed(); round++ {
		t.Run(fmt.Sprint("round", round), func(t *testing.T) {
			p := newPair(t, k)
			begun := time.Now()
			played, last, steps, d, err := p.search(t.Context(), seed, k, 0, min(roundLimit, time.Until(end)))
			t.Logf("seeds %d to %d: %d sequences, %.0f each second", seed, last, played,
				float64(played)/time.Since(begun).Seconds())
			if err != nil {
				t.Fatalf("seed %d: %v", last, err)
			}
			if d != nil {
				p.report(t, fmt.Sprint("seed ", last), steps, d)
			}
			seed = last + 1
		})
	}
}

// TestDifferentialSeed plays one seed again.
func TestDifferentialSeed(t *testing.T) {
	var seed uint64
	if _, err := fmt.Sscan(os.Getenv("NEXUS_RAFT_DIFFERENTIAL_SEED"), &seed); err != nil {
		t.Skip("NEXUS_RAFT_DIFFERENTIAL_SEED names no seed")
	}
	k := kindsToTest(t)
	p, steps := newPair(t, k), sequence(seed, k)
	t.Logf("the sequence:\n%s", formatSteps(steps))
	d, err := p.compare(t.Context(), steps)
	if err != nil {
		t.Fatal(err)
	}
	if d != nil {
		p.report(t, fmt.Sprint("seed ", seed), steps, d)
	}
}

// TestDifferentialKept plays the sequences that are kept.
func TestDifferentialKept(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(keptSequences, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d kept sequences, %v", len(files), err)
	}
	k := kindsToTest(t)
	p := newPair(t, k)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			steps, err := readSteps(file)
			if err != nil {
				t.Fatal(err)
			}
			if !k.has(steps) {
				t.Skip("NEXUS_RAFT_DIFFERENTIAL_KINDS leaves it out")
			}
			d, err := p.compare(t.Context(), steps)
			if err != nil {
				t.Fatal(err)
			}
			if d != nil {
				t.Errorf("step %d differs: %v\n%s: %v\n\n%s: %v", d.step+1, steps[d.step], p.want.name, d.want, p.got.name, d.got)
			}
		})
	}
}

// TestTxnThatEndsAnEtcd shows that ours refuses what no etcd may be sent, and writes nothing of it.
func TestTxnThatEndsAnEtcd(t *testing.T) {
	st := ourStore(t)
	for _, ignores := range []string{"ignore_value", "ignore_lease"} {
		var steps []step
		for _, line := range []string{
			`0 Put key:"b" value:"1"`,
			`1 Txn success:{request_delete_range:{key:"a" range_end:"\x00"}} ` +
				`success:{request_put:{key:"b" ` + ignores + `:true}}`,
			`0 Range key:"b"`,
		} {
			s, err := parseStep(line)
			if err != nil {
				t.Fatal(err)
			}
			steps = append(steps, s)
		}
		got, err := st.play(t.Context(), steps, kinds{})
		if err != nil {
			t.Fatal(err)
		}
		left, _ := got[2].answer.(*etcdserverpb.RangeResponse)
		if got[1].code != codes.InvalidArgument || left.GetHeader().GetRevision() != origin+1 || left.GetCount() != 1 {
			t.Errorf("%s: got %v, and then %v; want a refusal, and the key as it was", ignores, got[1], got[2])
		}
	}
}
