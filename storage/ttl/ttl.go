package ttl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

const (
	// MaxNameBytes is the length of a name at most.
	MaxNameBytes = storage.MaxNameBytes - len(deadlines)

	// MaxValueBytes is the length of a value at most; that of a key is storage.MaxKeyBytes.
	MaxValueBytes = storage.MaxValueBytes - stampBytes
)

const (
	deadlines            = "/deadlines" // behind the name of the tree of entries
	defaultSweepInterval = time.Second
)

// Options are the choices of a Tree. The zero value of each field is its default.
type Options struct {
	// SweepInterval is how often the store is swept of what has expired; 1 s by default.
	SweepInterval time.Duration

	// Clock tells the time; time.Now by default. It is called from any goroutine.
	Clock func() time.Time

	// Logger takes what goes wrong in the background; slog.Default() by default.
	Logger *slog.Logger
}

// withDefaults returns a complete copy, or what is wrong with o, which may be nil.
func (o *Options) withDefaults() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	if c.SweepInterval == 0 {
		c.SweepInterval = defaultSweepInterval
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.SweepInterval < 0 {
		return c, fmt.Errorf("SweepInterval is %v, must be positive", c.SweepInterval)
	}
	return c, nil
}

// Tree is a key space whose pairs have a time to live. Its methods may be called from any
// goroutine. Keys and values are copied. As with a storage.Tree, each write takes what it
// shall wait for as its last argument; without one that is the store's default.
type Tree struct {
	s         *storage.Store
	name      string
	pairs     *storage.Tree
	deadlines *storage.Tree
	o         Options

	sweeping chan struct{} // full while somebody sweeps
	from     atomic.Int64  // see Sweep

	closed  atomic.Bool
	stop    context.CancelFunc // ends the background
	stopped chan struct{}      // closed when it has ended
}

// Open returns the tree of that name, creating it if there is none, and begins to sweep it in the
// background. o may be nil. A name is 1 to MaxNameBytes bytes of UTF-8 without control
// characters; the store's trees of that name and of name + "/deadlines" must not be written
// otherwise. It may be open more than once; each one sweeps. Close it before the store.
func Open(s *storage.Store, name string, o *Options) (*Tree, error) {
	c, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open expiring tree %q: %w", name, err)
	}
	if len(name) > MaxNameBytes {
		return nil, fmt.Errorf("open expiring tree: name of %d bytes, must be 1 to %d", len(name), MaxNameBytes)
	}
	t := &Tree{s: s, name: name, o: c, sweeping: make(chan struct{}, 1), stopped: make(chan struct{})}
	if t.pairs, err = s.Tree(name); err != nil {
		return nil, fmt.Errorf("open expiring tree %q: %w", name, err)
	}
	if t.deadlines, err = s.Tree(name + deadlines); err != nil {
		return nil, fmt.Errorf("open expiring tree %q: %w", name, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	t.stop = stop
	go t.sweepAlways(ctx)
	return t, nil
}

// Close ends the sweeping, for whose current step it waits. The store stays open, and what
// has not expired stays in it. Calls that begin later return nexusraft.ErrClosed. A second
// Close does nothing.
func (t *Tree) Close() {
	t.closed.Store(true)
	t.stop()
	<-t.stopped
}

// usable returns why the tree can't be used.
func (t *Tree) usable() error {
	if t.closed.Load() {
		return fmt.Errorf("%w: expiring tree %q", nexusraft.ErrClosed, t.name)
	}
	return nil
}

// now is the clock's time in nanoseconds since 1970.
func (t *Tree) now() int64 { return t.o.Clock().UnixNano() }

func errTTL(ttl time.Duration) error { return fmt.Errorf("time to live of %v, must be positive", ttl) }

// errClock: there is no way to say when something ends.
var errClock = errors.New("the clock is set to a time before 1970; set it right")

// deadline returns when a time to live that begins now will be over. What would end after
// the year 2262, the last that can be told in nanoseconds, ends then.
func (t *Tree) deadline(ttl time.Duration) (int64, error) {
	now := t.now()
	switch {
	case ttl <= 0:
		return 0, errTTL(ttl)
	case now < 0:
		return 0, errClock
	case now > math.MaxInt64-int64(ttl):
		return math.MaxInt64, nil
	}
	return now + int64(ttl), nil
}
