package main

import (
	"encoding/binary"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Limits of commands. All replicas depend on them: they can't be changed for a zone that has
// commands.
const (
	maxJobBytes = 64 << 10
	minLease    = time.Millisecond
	maxLease    = 24 * time.Hour
)

// What a command does, in its first byte.
const (
	opPut  = 'p' // the job
	opTake = 't' // the lease in nanoseconds, 8 bytes
	opDone = 'd' // the job's ID and the lease's, 8 bytes each
)

// Put is the command that appends a job. Its answer is the job's ID.
func Put(job []byte) []byte { return append([]byte{opPut}, job...) }

// Take is the command that leases a job: the one whose lease ran out first, or else the oldest that
// was never taken. Its answer is for ParseTaken.
func Take(lease time.Duration) []byte { return numbers([]byte{opTake}, uint64(lease)) }

// Done is the command that removes a job. It is refused if the job was taken again under another
// lease; a job that is gone already was done before, which is no error: it may be proposed again.
func Done(t Taken) []byte { return numbers([]byte{opDone}, t.ID, t.Lease) }

// Taken is a job under a lease.
type Taken struct {
	ID      uint64
	Lease   uint64 // which lease: each has another number
	Attempt uint64 // 1 when the job is taken for the first time
	Job     []byte
}

// ParseTaken reads the answer of a Take, and reports whether there was a job to take. Job aliases
// the answer.
func ParseTaken(answer []byte) (t Taken, ok bool) {
	if len(answer) < 24 {
		return Taken{}, false
	}
	return Taken{ID: number(answer), Lease: number(answer[8:]), Attempt: number(answer[16:]), Job: answer[24:]}, true
}

// queue is a queue of jobs as a state machine. Its keys:
//
//	h             the lowest ID that a job which was never taken can have
//	j, ID         the job
//	l, end, ID    a job is leased until the zone's time is end
//	t, ID         that lease: its number, its end and the attempt, 8 bytes each
//
// A job's ID is the order of the command that put it, and a lease's number that of its Take: both
// ascend, and none is used twice. Each command reads and writes a few keys, however long the queue
// is: a Take looks at one lease and at one job, and begins at h, so that it passes over no removed
// one.
type queue struct{}

func (queue) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	if len(cmd.Data) == 0 {
		return nil, refuse("an empty command: make one with Put, Take or Done")
	}
	switch op, data := cmd.Data[0], cmd.Data[1:]; {
	case op == opPut && len(data) <= maxJobBytes:
		return put(tx, cmd.Order(), data)
	case op == opPut:
		return nil, refuse("a job of %d bytes, the limit is %d: keep the rest elsewhere, and its place in the job",
			len(data), maxJobBytes)
	case op == opTake && len(data) == 8:
		return take(tx, cmd, time.Duration(number(data)))
	case op == opDone && len(data) == 16:
		return nil, done(tx, number(data), number(data[8:]))
	}
	return nil, refuse("a command %q of %d bytes: make one with Put, Take or Done", cmd.Data[0], len(cmd.Data))
}

// refuse returns a refusal, which its proposer can tell from other errors on any member.
func refuse(format string, args ...any) error {
	return fmt.Errorf("jobs: %w: "+format, append([]any{nexusraft.ErrRefused}, args...)...)
}

func put(tx nexusraft.Tx, id uint64, job []byte) ([]byte, error) {
	return numbers(nil, id), tx.Set(numbers([]byte("j"), id), job)
}

func take(tx nexusraft.Tx, cmd nexusraft.Command, lease time.Duration) ([]byte, error) {
	if lease < minLease || lease > maxLease {
		return nil, refuse("a lease of %v: give one from %v to %v", lease, minLease, maxLease)
	}
	id, attempt, err := next(tx, uint64(cmd.Time))
	if err != nil || attempt == 0 {
		return nil, err
	}
	job, _, err := tx.Get(numbers([]byte("j"), id))
	if err != nil {
		return nil, err
	}
	answer := append(numbers(nil, id, cmd.Order(), attempt), job...) // copied before tx is used again
	end := uint64(cmd.Time) + uint64(lease)
	if err := tx.Set(numbers([]byte("t"), id), numbers(nil, cmd.Order(), end, attempt)); err != nil {
		return nil, err
	}
	return answer, tx.Set(numbers([]byte("l"), end, id), nil)
}

// next finds the job to take at a time, and removes the lease that ran out, if it had one. Attempt
// is 0 if there is no job.
func next(tx nexusraft.Tx, now uint64) (id, attempt uint64, err error) {
	for p, err := range tx.Scan([]byte("l"), numbers([]byte("l"), now+1)) {
		if err != nil {
			return 0, 0, err
		}
		id = number(p.Key[9:])
		lease, _, err := tx.Get(numbers([]byte("t"), id))
		if err != nil {
			return 0, 0, err
		}
		return id, number(lease[16:]) + 1, tx.Delete(numbers([]byte("l"), number(lease[8:]), id))
	}
	first, err := firstNew(tx)
	if err != nil {
		return 0, 0, err
	}
	for p, err := range tx.Scan(numbers([]byte("j"), first), []byte("k")) {
		if err != nil {
			return 0, 0, err
		}
		id = number(p.Key[1:])
		return id, 1, tx.Set([]byte("h"), numbers(nil, id+1))
	}
	return 0, 0, nil
}

// firstNew returns the lowest ID that a job which was never taken can have.
func firstNew(r nexusraft.Reader) (uint64, error) {
	first, ok, err := r.Get([]byte("h"))
	if err != nil || !ok {
		return 0, err
	}
	return number(first), nil
}

func done(tx nexusraft.Tx, id, lease uint64) error {
	held, ok, err := tx.Get(numbers([]byte("t"), id))
	if err != nil {
		return err
	}
	if !ok {
		_, exists, err := tx.Get(numbers([]byte("j"), id))
		if exists {
			return refuse("job %d was not taken: take it first", id)
		}
		return err
	}
	if number(held) != lease {
		return refuse("job %d is taken under lease %d, no longer under %d: drop what was done, or ask for longer leases",
			id, number(held), lease)
	}
	if err := tx.Delete(numbers([]byte("l"), number(held[8:]), id)); err != nil {
		return err
	}
	if err := tx.Delete(numbers([]byte("t"), id)); err != nil {
		return err
	}
	return tx.Delete(numbers([]byte("j"), id))
}

// Waiting counts the jobs that were never taken, and those that are under a lease, however old;
// each at most up to limit.
func Waiting(r nexusraft.Reader, limit int) (waiting, leased int, err error) {
	first, err := firstNew(r)
	if err != nil {
		return 0, 0, err
	}
	if waiting, err = count(r, numbers([]byte("j"), first), []byte("k"), limit); err != nil {
		return 0, 0, err
	}
	leased, err = count(r, []byte("t"), []byte("u"), limit)
	return waiting, leased, err
}

func count(r nexusraft.Reader, start, end []byte, limit int) (n int, err error) {
	for _, err := range r.Scan(start, end) {
		if err != nil {
			return 0, err
		}
		if n++; n >= limit {
			break
		}
	}
	return n, nil
}

// numbers appends numbers, 8 bytes each: as a key they sort as numbers do.
func numbers(b []byte, all ...uint64) []byte {
	for _, n := range all {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func number(b []byte) uint64 { return binary.BigEndian.Uint64(b) }
