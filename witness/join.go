package witness

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport"
)

const (
	joinPause  = 200 * time.Millisecond // between two rounds over the addresses
	joinNotice = 5 * time.Second        // between two lines that say what it waits for
)

// admit brings the witness into its cluster, if it is in none, and gives its zones to the
// worker.
func (w *Witness) admit(ctx context.Context) error {
	logs := w.logs
	if w.keeper.identity().Cluster == 0 {
		log, err := w.join(ctx)
		if err != nil {
			return err
		}
		logs = []*Log{log}
	}
	for _, log := range logs {
		if err := w.host(ctx, log); err != nil {
			return err
		}
	}
	return nil
}

// host gives a zone to the worker and waits until it has taken it.
func (w *Witness) host(ctx context.Context, log *Log) error {
	h, err := newHosted(log, w.keeper.identity().Incarnation, w.config, w.peers, w.connect, w.errRemoved)
	if err != nil {
		return err
	}
	taken := make(chan struct{})
	if !w.inbox.call(func() { w.worker.zones[h.id] = h; close(taken) }) {
		return nexusraft.ErrOverloaded
	}
	select {
	case <-taken:
		return nil
	case <-w.stopped:
		return nexusraft.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join asks the members at the configured addresses until one admits this node, and
// stores the admission.
func (w *Witness) join(ctx context.Context) (*Log, error) {
	for _, addr := range w.config.Join {
		if transport.SameAddress(addr, w.identity().Address) {
			return nil, fmt.Errorf("%w: %s is this witness's own address: give --join the address of a member", nexusraft.ErrRefused, addr)
		}
	}
	request, key, err := w.joinRequest()
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	result, err := w.askUntilAdmitted(ctx, request)
	if err != nil {
		return nil, err
	}
	if key != nil {
		own, want := pki.Pair{Cert: result.Certificate, Key: key}, pki.Subject{Cluster: result.Cluster, Node: w.identity().Node}
		if _, err := w.certificates.Load().Next(own, want, time.Now()); err != nil {
			return nil, fmt.Errorf("join: %w", err)
		}
	}
	log, err := w.createLog(result)
	if err != nil {
		return nil, err
	}
	// The log is there before the identity names it: one that is missing later is lost.
	if err := w.keeper.admitted(result.Cluster, result.Zone, result.Certificate, key); err != nil {
		return nil, err
	}
	if key != nil {
		if err := w.useCertificate(w.keeper.identity()); err != nil {
			return nil, err
		}
	}
	w.logger.Info("joined", "node", w.identity().Node, "cluster", result.Cluster, "zone", result.Zone, "replica", result.Replica)
	return log, nil
}

// createLog stores the log of an admission, or finds it stored by an earlier attempt that
// was cut off.
func (w *Witness) createLog(r transport.JoinResult) (*Log, error) {
	c := w.config
	o := Origin{Cluster: r.Cluster, Node: w.keeper.identity().Node, Zone: r.Zone, Replica: r.Replica}
	log, err := OpenLog(c.FS, c.Dir, r.Zone)
	if isMissing(err) {
		return CreateLog(c.FS, c.Dir, o, r.Membership)
	}
	if err == nil && log.Origin() != o {
		err = fmt.Errorf("%w: %s holds the log of another replica of zone %v: clear the directory to join as a new node", nexusraft.ErrRefused, c.Dir, r.Zone)
	}
	return log, err
}

func (w *Witness) askUntilAdmitted(ctx context.Context, r transport.JoinRequest) (transport.JoinResult, error) {
	var noticed time.Time
	heard := time.Now() // when somebody last answered
	for {
		result, err := w.askAll(ctx, r)
		switch {
		case err == nil:
			return result, nil
		case ctx.Err() != nil:
			return transport.JoinResult{}, ctx.Err()
		case errors.Is(err, nexusraft.ErrFenced):
			return transport.JoinResult{}, fmt.Errorf("join: %w: %s", err, w.wayBack())
		case isFinal(err):
			return transport.JoinResult{}, fmt.Errorf("join: %w", err)
		case !errors.Is(err, transport.ErrUnreachable):
			heard = time.Now()
		case time.Since(heard) > w.config.JoinTimeout:
			return transport.JoinResult{}, fmt.Errorf("join: nobody has answered for %v: %w", w.config.JoinTimeout, err)
		}
		if time.Since(noticed) > joinNotice {
			noticed = time.Now()
			w.logger.Info("not admitted yet, asking again", "join", strings.Join(w.config.Join, ","), "err", err)
		}
		select {
		case <-time.After(joinPause):
		case <-ctx.Done():
			return transport.JoinResult{}, ctx.Err()
		}
	}
}

// isFinal reports whether asking again can't help.
func isFinal(err error) bool {
	return errors.Is(err, nexusraft.ErrRefused) || errors.Is(err, nexusraft.ErrFenced) || errors.Is(err, nexusraft.ErrCorrupt)
}

// askAll asks each address once, and the leader that one of them names. Of the errors it
// returns the one that says most: an answer rather than silence.
func (w *Witness) askAll(ctx context.Context, r transport.JoinRequest) (result transport.JoinResult, answer error) {
	for _, addr := range w.config.Join {
		result, err := w.ask(ctx, addr, r)
		if hint, ok := errors.AsType[*nexusraft.NotLeaderError](err); ok && hint.Address != "" && hint.Address != addr {
			result, err = w.ask(ctx, hint.Address, r)
		}
		if err == nil {
			return result, nil
		}
		if answer == nil || errors.Is(answer, transport.ErrUnreachable) || isFinal(err) {
			answer = err
		}
	}
	return transport.JoinResult{}, answer
}

// joinCallTimeout bounds one call: a member answers when the conf change is committed.
const joinCallTimeout = 5 * time.Second

func (w *Witness) ask(ctx context.Context, addr string, r transport.JoinRequest) (transport.JoinResult, error) {
	ctx, cancel := context.WithTimeout(ctx, joinCallTimeout)
	defer cancel()
	return w.peers.Join(ctx, addr, r)
}
