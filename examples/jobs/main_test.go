package main

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/machinetest"
)

// The program's play, in a new directory.
func TestJobs(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.TempDir(), &out); err != nil {
		t.Fatal(err)
	}
	want := `put cat.png
put dog.png
worker 1 takes cat.png, attempt 1
worker 1 falls silent for an hour
worker 2 takes cat.png, attempt 2
worker 1 is back, and too late
worker 2 has done cat.png
jobs waiting: 1, leased: 0
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("want (-), got (+):\n%s", d)
	}
}

// maxCalls is how much of the state a command may read and write: calls, with the steps of scans.
const maxCalls = 6

// apply is z.Apply, by a bounded number of calls.
func apply(t machinetest.TB, z *machinetest.Replicas, cmd nexusraft.Command) ([]byte, error) {
	t.Helper()
	answer, err := z.Apply(cmd)
	if z.Calls() > maxCalls {
		t.Fatalf("a command made %d calls, the limit is %d", z.Calls(), maxCalls)
	}
	return answer, err
}

// held is what the model knows of a job.
type held struct {
	id, lease, attempt uint64
	end                int64
	job                string
}

// Whatever is put, taken and done, in any order: the queue is a list in which the lease that ran
// out first comes first, then the job that was put first. No command touches more keys than it may.
func TestQueueIsAList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		z := machinetest.New(t, queue{})
		var waiting, leased []held // leased: by end
		var known []Taken          // all that were ever taken
		now, order := int64(1), uint64(nexusraft.MaxEntryCommands)
		do := func(command []byte) ([]byte, error) {
			order += rapid.SampledFrom([]uint64{1, 1, nexusraft.MaxEntryCommands, 700}).Draw(t, "order")
			now += int64(rapid.SampledFrom([]time.Duration{0, time.Millisecond, 9 * time.Millisecond}).Draw(t, "time"))
			cmd := commandAt(order)
			cmd.Time, cmd.Data = now, command
			answer, err := apply(t, z, cmd)
			if err != nil && !errors.Is(err, nexusraft.ErrRefused) {
				t.Fatal(err)
			}
			return answer, err
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				job := rapid.StringN(0, 3, 5).Draw(t, "job")
				answer, err := do(Put([]byte(job)))
				if err != nil || number(answer) != order {
					t.Fatalf("got %x, %v, want %d", answer, err, order)
				}
				waiting = append(waiting, held{id: order, job: job})
			},
			"take": func(t *rapid.T) {
				lease := rapid.SampledFrom([]time.Duration{
					0, minLease, 10 * time.Millisecond, 50 * time.Millisecond, maxLease, maxLease + 1, -1,
				}).Draw(t, "lease")
				answer, err := do(Take(lease))
				if lease < minLease || lease > maxLease {
					if err == nil {
						t.Fatalf("a lease of %v was given", lease)
					}
					return
				}
				var h held
				switch {
				case len(leased) > 0 && leased[0].end <= now:
					h, leased = leased[0], leased[1:]
				case len(waiting) > 0:
					h, waiting = waiting[0], waiting[1:]
				default:
					if got, ok := ParseTaken(answer); ok || err != nil {
						t.Fatalf("got %+v, %v, want none", got, err)
					}
					return
				}
				h.lease, h.end, h.attempt = order, now+int64(lease), h.attempt+1
				got, _ := ParseTaken(answer)
				want := Taken{ID: h.id, Lease: h.lease, Attempt: h.attempt, Job: []byte(h.job)}
				if d := cmp.Diff(want, got); d != "" || err != nil {
					t.Fatalf("%v, want (-), got (+):\n%s", err, d)
				}
				known = append(known, got)
				at := 0
				for at < len(leased) && (leased[at].end < h.end || leased[at].end == h.end && leased[at].id < h.id) {
					at++
				}
				leased = append(leased[:at:at], append([]held{h}, leased[at:]...)...)
			},
			"done": func(t *rapid.T) {
				if len(known) == 0 {
					t.Skip("nothing was taken")
				}
				k := rapid.SampledFrom(known).Draw(t, "taken")
				_, err := do(Done(k))
				for i, h := range leased {
					if h.id != k.ID {
						continue
					}
					if refused := h.lease != k.Lease; refused != (err != nil) {
						t.Fatalf("got %v, want refused: %v", err, refused)
					}
					if err == nil {
						leased = append(leased[:i:i], leased[i+1:]...)
					}
					return
				}
				if err != nil {
					t.Fatalf("done once more: %v", err)
				}
			},
			"nonsense": func(t *rapid.T) {
				command := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "command")
				if len(command) > 0 && (command[0] == opPut || command[0] == opTake || command[0] == opDone) {
					command[0]++
				}
				if _, err := do(command); err == nil {
					t.Fatalf("%x was accepted", command)
				}
			},
			"": func(t *rapid.T) {
				w, l, err := Waiting(z.Reader(), 1_000)
				if err != nil || w != len(waiting) || l != len(leased) {
					t.Fatalf("got %d waiting, %d leased, %v, want %d and %d", w, l, err, len(waiting), len(leased))
				}
			},
		})
	})
}

// What is refused leaves nothing behind, and says what to do.
func TestRefusals(t *testing.T) {
	t.Parallel()
	z := machinetest.New(t, queue{})
	put := nexusraft.Command{Index: 1, Time: 1, Data: Put([]byte("a"))}
	if _, err := apply(t, z, put); err != nil {
		t.Fatal(err)
	}
	before := z.Dump()
	for i, command := range [][]byte{
		nil,
		{opTake},
		{opDone, 1},
		Put(make([]byte, maxJobBytes+1)), Take(0), Take(maxLease + 1),
		Done(Taken{ID: put.Order()}),
	} {
		_, err := apply(t, z, nexusraft.Command{Index: nexusraft.Index(2 + i), Time: 2, Data: command})
		if !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("%.20x: got %v, want a refusal", command, err)
		}
	}
	if d := cmp.Diff(before, z.Dump()); d != "" {
		t.Errorf("a refusal changed the state:\n%s", d)
	}
}

// commandAt returns a command without data: that of an order.
func commandAt(order uint64) nexusraft.Command {
	return nexusraft.Command{
		Index: nexusraft.Index(order / nexusraft.MaxEntryCommands), Place: int(order % nexusraft.MaxEntryCommands),
	}
}
