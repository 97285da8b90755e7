// Package bench measures a key-value service that speaks etcd's v3 API: with a number of
// clients, each of which waits for its answer before it asks again (a closed loop).
//
// Nothing in it is particular to nexus-raft, so that etcd itself can be measured in the
// same way. It writes keys with the prefix bench/ and leaves them where they are.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
)

// Op is what is measured.
type Op string

// The operations. A Get is linearizable; its keys are written before the measurement.
const (
	Put Op = "put"
	Get Op = "get"
)

// requestTimeout bounds every single request.
const requestTimeout = 10 * time.Second

// Config says what to measure, all of it.
type Config struct {
	Op        Op
	Endpoints []string      // one connection each, the clients spread over them
	Clients   int           // how many ask at the same time
	ValueSize int           // bytes
	KeySpace  int           // how many different keys
	Duration  time.Duration // how long requests begin
	Zone      string        // goes into the metadata nexus-zone; "" for none

	// Security are the options that secure a connection; without any it is not encrypted.
	Security []grpc.DialOption

	Progress io.Writer
	Bar      bool // Progress is a terminal: show a progress bar
}

// Run measures. When ctx ends it stops early and returns what there is so far, marked as
// interrupted.
//
// It fails if no endpoint answers, and if any refuses a first request, since then the rest
// would be refused as well. If nothing succeeded later on, there are a result and an error.
func Run(ctx context.Context, c Config) (*Result, error) {
	out := newProgress(c)
	conns, absent, err := dial(ctx, c)
	if err != nil {
		return nil, err
	}
	defer conns.close()
	for _, err := range absent {
		out.say("goes on without %v", err)
	}
	if err := prepare(ctx, c, conns, out); err != nil {
		return nil, err
	}
	l := newLoad(c, conns)
	r := l.run(ctx, out)
	r.Absent = texts(absent)
	if r.Operations == 0 {
		return r, r.nothing()
	}
	return r, nil
}

// prepare sees to it that the measurement can go well: it fills the key space that is to
// be read, or writes one key to see that it may.
func prepare(ctx context.Context, c Config, conns connections, out *progress) error {
	keys := 1
	if c.Op == Get {
		keys = c.KeySpace
		out.say("filling the key space: %d keys under %s with values of %d bytes", c.KeySpace, prefix, c.ValueSize)
	}
	if err := fill(ctx, c, conns, keys); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted before anything was measured")
		}
		return fmt.Errorf("write the first keys: %w", err)
	}
	return nil
}

func texts(errs []error) []string {
	var out []string
	for _, err := range errs {
		out = append(out, err.Error())
	}
	return out
}
