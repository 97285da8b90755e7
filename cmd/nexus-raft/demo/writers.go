package demo

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// putTimeout bounds one write, the client's attempts included. A write that has not
// happened by then is begun anew.
const putTimeout = 20 * time.Second

// putter is the part of client.Client that writes.
type putter interface {
	Put(ctx context.Context, key, value []byte) (client.PutResult, error)
}

// writers walk the directory in rounds and store a record for every file, again in each
// round, until they are stopped. Each path belongs to one writer, so that the writes of a
// key follow each other; a round begins while others still write the one before.
type writers struct {
	walker *walker
	client putter
	ledger *ledger
	queues []chan string // one for each writer; an empty path ends a round

	writes atomic.Uint64  // numbers the writes
	rounds []atomic.Int64 // complete rounds of each writer
}

func newWriters(w *walker, p putter, l *ledger, number int) *writers {
	out := &writers{walker: w, client: p, ledger: l, rounds: make([]atomic.Int64, number)}
	for range number {
		out.queues = append(out.queues, make(chan string, 64))
	}
	return out
}

// complete returns how many rounds all writers have finished.
func (w *writers) complete() int64 {
	n := w.rounds[0].Load()
	for i := range w.rounds {
		n = min(n, w.rounds[i].Load())
	}
	return n
}

// run writes until ctx ends, which is no error. It is for one call.
func (w *writers) run(ctx context.Context) error {
	inner, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var running sync.WaitGroup
	for i := range w.queues {
		running.Go(func() { fail(w.writer(inner, i)) })
	}
	fail(w.feed(inner))
	for _, q := range w.queues {
		close(q)
	}
	running.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(inner)
}

// feed walks in rounds and hands the paths out, until ctx ends.
func (w *writers) feed(ctx context.Context) error {
	seed := maphash.MakeSeed()
	for {
		files := 0
		err := w.walker.walk(ctx, func(path string) error {
			files++
			return w.hand(ctx, int(maphash.String(seed, path)%uint64(len(w.queues))), path)
		})
		if err == nil && files == 0 {
			err = errors.New("the directory holds no file any more")
		}
		for i := range w.queues {
			if err == nil {
				err = w.hand(ctx, i, "")
			}
		}
		if err == nil && w.complete() > 0 && w.ledger.counts().records == 0 {
			err = errors.New("none of the directory's files can be read")
		}
		if err != nil {
			return err
		}
	}
}

func (w *writers) hand(ctx context.Context, i int, path string) error {
	select {
	case w.queues[i] <- path:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// writer stores what its queue names, until the queue is closed.
func (w *writers) writer(ctx context.Context, i int) error {
	reader := newRecorder(w.walker.root)
	for path := range w.queues[i] {
		if path == "" {
			w.rounds[i].Add(1)
			continue
		}
		rec, err := reader.read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the walk came by
		}
		if err != nil {
			w.walker.skipped.add(path, err)
			continue
		}
		if err := w.store(ctx, path, rec); err != nil {
			return err
		}
	}
	return nil
}

// store writes the record until a write of it is acknowledged. Each attempt is a write of
// its own, with its own number.
func (w *writers) store(ctx context.Context, key string, rec record) error {
	for {
		rec.Write = w.writes.Add(1)
		value := rec.encode()
		begun := time.Now()
		result, err := w.put(ctx, key, value)
		switch {
		case err == nil:
			w.ledger.acknowledge(key, value, begun, result)
			return nil
		case errors.Is(err, nexusraft.ErrUncertain):
			w.ledger.doubt(key, value)
		case errors.Is(err, context.DeadlineExceeded):
			w.ledger.refuse()
		case ctx.Err() == nil:
			return fmt.Errorf("write record: %w", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func (w *writers) put(ctx context.Context, key string, value []byte) (client.PutResult, error) {
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	return w.client.Put(ctx, []byte(key), value)
}
