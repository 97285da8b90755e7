package node_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

// registers is what concurrent callers ask of a zone's keys, and what they get.
type registers struct {
	c     *cluster
	begin time.Time

	leased atomic.Int32 // calls of ReadLease

	mu      sync.Mutex // guards what follows
	history []porcupine.Operation
	reads   int // of them that were answered
	bounded []boundedRead
}

// access is a read of a key, or a write that returns what was there.
type access struct{ key, write string }

// answer is what an access returned; unknown if nothing was heard of it.
type answer struct {
	value   string
	unknown bool
}

var registerModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := make(map[string][]porcupine.Operation)
		for _, op := range history {
			key := op.Input.(access).key
			byKey[key] = append(byKey[key], op)
		}
		var out [][]porcupine.Operation
		for _, ops := range byKey {
			out = append(out, ops)
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out := input.(access), output.(answer)
		next := state
		if in.write != "" {
			next = in.write
		}
		return out.unknown || out.value == state, next
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

func (r *registers) add(client int, in access, out answer, called time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	op := porcupine.Operation{
		ClientId: client, Input: in, Call: int64(called), Output: out,
		Return: int64(time.Since(r.begin)),
	}
	switch {
	case in.write == "" && out.unknown:
		return // a read without an answer is as if it had not been
	case out.unknown:
		op.Return = math.MaxInt64 // it may still happen
	case in.write == "":
		r.reads++
	}
	r.history = append(r.history, op)
}

// write proposes through a member until ctx ends.
func (r *registers) write(ctx context.Context, client int, m *member) {
	for i := 0; ctx.Err() == nil; i++ {
		in := access{fmt.Sprint("k", rand.IntN(2)), fmt.Sprintf("%d.%d", client, i)}
		called := time.Since(r.begin)
		result, err := m.try(r.c.t.Context(), time.Second, in.key, in.write)
		if err == nil || errors.Is(err, nexusraft.ErrUncertain) {
			r.add(client, in, answer{string(result.Data), err != nil}, called)
		}
	}
}

// read reads through a member until ctx ends.
func (r *registers) read(ctx context.Context, client int, m *member) {
	for ctx.Err() == nil {
		r.readOnce(ctx, client, m.zone().Read)
	}
}

// readLease is read for a leader that may read alone.
func (r *registers) readLease(ctx context.Context, client int, m *member) {
	for ctx.Err() == nil {
		r.readOnce(ctx, client, m.zone().ReadLease)
		r.leased.Add(1)
		time.Sleep(time.Millisecond) // so that they are not most of what happens
	}
}

func (r *registers) readOnce(
	ctx context.Context, client int, read func(context.Context, func(nexusraft.Reader) error) error,
) {
	in := access{key: fmt.Sprint("k", rand.IntN(2))}
	var out answer
	called := time.Since(r.begin)
	within, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := read(within, func(x nexusraft.Reader) error {
		value, _, err := x.Get([]byte(in.key))
		out.value = string(value)
		return err
	})
	out.unknown = err != nil
	r.add(client, in, out, called)
}

// readWithin reads states of bounded age through a member until ctx ends.
func (r *registers) readWithin(ctx context.Context, m *member, age time.Duration) {
	for ctx.Err() == nil {
		x := boundedRead{key: fmt.Sprint("k", rand.IntN(2)), from: time.Since(r.begin) - age}
		within, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := m.zone().ReadWithin(within, age, func(s nexusraft.Reader) error {
			value, _, err := s.Get([]byte(x.key))
			x.value = string(value)
			return err
		})
		cancel()
		if err != nil {
			continue
		}
		r.mu.Lock()
		r.bounded = append(r.bounded, x)
		r.mu.Unlock()
		time.Sleep(time.Millisecond) // so that they are not all of what little happens
	}
}

// boundedRead is a value that was read of a state as it was at that time, or later.
type boundedRead struct {
	key, value string
	from       time.Duration
}

// checkBounded finds writes that were acknowledged before a read's bound, and began when the write of the
// value that was read was over: then the state was too old.
func (r *registers) checkBounded() {
	r.c.t.Helper()
	for _, x := range r.bounded {
		over := int64(-1) // when the write of the value was; it may be uncertain, and then it never was
		for _, op := range r.history {
			if in := op.Input.(access); in.key == x.key && in.write == x.value && in.write != "" {
				over = op.Return
			}
		}
		for _, op := range r.history {
			if in := op.Input.(access); in.key == x.key && in.write != "" && op.Call > over && op.Return < int64(x.from) {
				r.c.t.Errorf("%q was read of a state from %v or later; %q was written at %v", x.value, x.from, in.write,
					time.Duration(op.Return))
				return
			}
		}
	}
}

// TestReadsAreLinearizable reads by the follower and by the leader of a zone that is written to,
// while paths are long and change their length, so that answers come late and in the wrong order.
func TestReadsAreLinearizable(t *testing.T) {
	c := newCluster(t, func(n *node.Config) { n.MaxClockDrift = 0.01 })
	paths := c.paths()
	c.redial()
	leader := c.awaitSync()
	follower := c.other(leader)
	r := &registers{c: c, begin: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for i := range 2 {
		callers.Go(func() { r.write(ctx, i, leader) })
		callers.Go(func() { r.read(ctx, 2+i, follower) })
		callers.Go(func() { r.read(ctx, 4+i, follower) })
	}
	callers.Go(func() { r.read(ctx, 6, leader) })
	callers.Go(func() { r.readLease(ctx, 7, leader) })
	callers.Go(func() { r.readWithin(ctx, follower, 15*time.Millisecond) })
	callers.Go(func() { r.readWithin(ctx, follower, 100*time.Millisecond) })
	most := rounds(200, 400)
	eventually(t, "reads", func() error {
		for _, p := range paths {
			p.Delay(rand.N(20 * time.Millisecond))
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if leased := int(r.leased.Load()); r.reads-leased < most || leased < 100 {
			return fmt.Errorf("%d reads, %d of them by ReadLease", r.reads, leased)
		}
		return nil
	})
	cancel()
	callers.Wait()
	result := porcupine.CheckOperationsTimeout(registerModel, r.history, 20*time.Second)
	if result != porcupine.Ok {
		t.Errorf("%d operations, %d reads among them, are not linearizable: %v", len(r.history), r.reads, result)
	}
	r.checkBounded()
	t.Logf("%d operations, %d reads among them, and %d of bounded age", len(r.history), r.reads, len(r.bounded))
}
