package main

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"time"
)

// weight is what a way carries beside round trips, for a while.
type weight func(r *wireRunner, ctx context.Context, l link, span time.Duration) error

// inundate sends as much as it can.
func (r *wireRunner) inundate(ctx context.Context, l link, span time.Duration) error {
	return r.pour(ctx, l, large, span)
}

// replicate sends appends as Raft does, which has a bounded number of them unanswered.
func (r *wireRunner) replicate(ctx context.Context, l link, span time.Duration) error {
	for end := time.Now().Add(span); time.Now().Before(end); {
		for range 64 {
			if err := l.append(ctx, make([]byte, large)); err != nil {
				return err
			}
		}
	}
	return nil
}

// trickle sends appends at 20 MB/s.
func (r *wireRunner) trickle(ctx context.Context, l link, span time.Duration) error {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(span); time.Now().Before(end); <-ticker.C {
		for range 5 {
			if err := l.append(ctx, make([]byte, large)); err != nil {
				return err
			}
		}
	}
	return nil
}

// appends is how many megabytes of appends are taken in a second.
func (r *wireRunner) appends(w way) (v float64, err error) {
	err = r.with(w, func(ctx context.Context, l link) error {
		before, err := l.received(ctx)
		if err != nil {
			return err
		}
		start := time.Now()
		if err := r.replicate(ctx, l, r.time); err != nil {
			return err
		}
		if err := l.settle(ctx); err != nil {
			return err
		}
		took := time.Since(start)
		after, err := l.received(ctx)
		v = float64(after.Bytes-before.Bytes) / 1e6 / took.Seconds()
		return err
	})
	return v, err
}

// trip is one round trip over a link.
type trip func(l link, ctx context.Context) error

// roundTrips returns a quantile of round trips in microseconds.
func (r *wireRunner) roundTrips(w way, once trip, beside weight, quantile float64) (v float64, err error) {
	err = r.with(w, func(ctx context.Context, l link) error {
		v, err = r.roundTripsOver(ctx, l, once, beside, quantile)
		return err
	})
	return v, err
}

// timesIdle returns how many times the idle p99 the one under load is, over the same link.
func (r *wireRunner) timesIdle(w way, beside weight) (v float64, err error) {
	err = r.with(w, func(ctx context.Context, l link) error {
		idle, err := r.roundTripsOver(ctx, l, link.ping, nil, 0.99)
		if err != nil {
			return err
		}
		loaded, err := r.roundTripsOver(ctx, l, link.ping, beside, 0.99)
		v = loaded / idle
		return err
	})
	return v, err
}

// roundTripsOver makes them one at a time, a millisecond apart, with a load beside them unless
// that is nil.
func (r *wireRunner) roundTripsOver(
	ctx context.Context, l link, once trip, beside weight, quantile float64,
) (float64, error) {
	loaded := make(chan error, 1)
	if beside != nil {
		go func() { loaded <- beside(r, ctx, l, r.time+r.time/4) }()
		time.Sleep(r.time / 8) // the load is there, which is all that this waits for
	} else {
		loaded <- nil
	}
	var took []float64
	var err error
	for end := time.Now().Add(r.time); err == nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
		start := time.Now()
		err = once(l, ctx)
		took = append(took, float64(time.Since(start).Nanoseconds())/1e3)
	}
	slices.Sort(took)
	return took[int(quantile*float64(len(took)-1))], errors.Join(err, <-loaded)
}

// maxUnanswered is how many appends are on their way to a replica of Raft at most, which is
// also what a node has by default.
const maxUnanswered = 256

// unanswered bounds the appends that are on their way.
type unanswered chan struct{} // as many tokens as may still be sent

func newUnanswered() unanswered {
	u := make(unanswered, maxUnanswered)
	for range maxUnanswered {
		u.answered()
	}
	return u
}

// answered makes room for one more.
func (u unanswered) answered() { u <- struct{}{} }

// wait waits for room, and makes data an append.
func (u unanswered) wait(ctx context.Context, data []byte) error {
	select {
	case <-u:
		data[0] = 1
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settle waits until all were answered.
func (u unanswered) settle(ctx context.Context) error {
	for range maxUnanswered {
		select {
		case <-u:
			defer u.answered()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// isAppend reports whether a message is to be answered.
func isAppend(data []byte) bool { return len(data) > answerBytes && data[0] == 1 }

// echoer is a plain TCP connection to the other process.
type echoer struct {
	address string
	conn    net.Conn // nil until it is used
}

func (e *echoer) echo(ctx context.Context) (err error) {
	if e.conn == nil {
		if e.conn, err = new(net.Dialer).DialContext(ctx, "tcp", e.address); err != nil {
			return err
		}
	}
	message := make([]byte, pingBytes)
	if _, err := e.conn.Write(message); err != nil {
		return err
	}
	_, err = io.ReadFull(e.conn, message)
	return err
}

func (e *echoer) close() {
	if e.conn != nil {
		_ = e.conn.Close() // measured is measured
	}
}

// echoAll sends back what comes over each connection, until lis is closed.
func echoAll(lis net.Listener) {
	for {
		conn, err := lis.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}) // its sender notices
		}()
	}
}
