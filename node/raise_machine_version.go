package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/worker"
)

// A zone's leader raises the version of the zone's state machine (nexusraft.Versioned). It asks each node that has
// a copy of the state, each time anew: what a node has said before does not bind the program that runs
// there next. That nothing is applied that a program does not know is not due to this: each replica
// refuses the raise itself, and a state that has it (internal/worker: group.knows).

const (
	raisePause   = 2 * time.Second        // between two looks, at most, while nothing happens; the first ones come sooner
	raiseTimeout = 2 * time.Second        // for one zone
	raiseRest    = 100 * time.Millisecond // between two looks, at least
)

// tendMachineVersions raises the versions of the zones that this node leads, until ctx ends.
func (n *Node) tendMachineVersions(ctx context.Context) {
	if len(n.machineVersions()) == 0 {
		return
	}
	held := make(map[nexusraft.ZoneID]string) // why a zone's version is not raised, as the log has it
	pause := raiseRest
	for {
		changed := n.events.Changed() // before the zones are looked at, so that nothing falls in between
		if waiting := n.raiseMachineVersions(ctx, held); waiting {
			pause = min(2*pause, raisePause)
		} else {
			pause = raisePause
		}
		if !rest(ctx, raiseRest, nil) || !rest(ctx, pause, changed) {
			return
		}
	}
}

// rest waits for so long, or for a channel, and reports whether ctx goes on.
func rest(ctx context.Context, pause time.Duration, changed <-chan struct{}) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// raiseMachineVersions is one look. It reports whether a zone is left that waits for a member. What fails is
// tried again by the next one.
func (n *Node) raiseMachineVersions(ctx context.Context, held map[nexusraft.ZoneID]string) (waiting bool) {
	zones, err := n.workers.Raisable(ctx)
	if err != nil {
		return true
	}
	said := make(map[nexusraft.NodeID]nodeAnswer)
	for _, z := range zones {
		err := n.raiseMachineVersion(ctx, z, said)
		if err == nil {
			delete(held, z.Zone)
			continue
		}
		waiting = true
		if why := err.Error(); held[z.Zone] != why && ctx.Err() == nil {
			held[z.Zone] = why
			n.logger.Info("version of a state machine not raised yet", "zone", z.Zone, "version", z.Now, "known", z.May,
				"err", err)
		}
	}
	return waiting
}

// nodeAnswer is what a node has said in one look.
type nodeAnswer struct {
	status nexusraft.NodeStatus
	err    error
}

// raiseMachineVersion raises a zone's version as far as all members know it. An error says which one does not
// know what this program does.
func (n *Node) raiseMachineVersion(ctx context.Context, z worker.Raisable, said map[nexusraft.NodeID]nodeAnswer) error {
	ctx, cancel := context.WithTimeout(ctx, raiseTimeout)
	defer cancel()
	to, held := z.May, error(nil)
	for _, m := range z.Members {
		known, err := n.machineVersionOf(ctx, m.Node, z.Machine, said)
		switch {
		case err != nil:
			return fmt.Errorf("%v has not said which version it knows: %w", m, err)
		case known < to:
			to, held = known, fmt.Errorf("%v knows version %d: install the newest release on it", m, known)
		}
	}
	if to <= z.Now {
		return held
	}
	root := z.Zone == nexusraft.RootZone
	if root {
		if err := n.registry.RequireVersion(ctx); err != nil {
			return err
		}
	}
	_, err := n.proposeSystem(ctx, z.Zone, &pb.NodeCommand{Kind: &pb.NodeCommand_RaiseMachineVersion{
		RaiseMachineVersion: &pb.RaiseMachineVersion{Version: to, RootZone: root},
	}})
	if err != nil {
		return fmt.Errorf("raise the version: %w", err)
	}
	return held
}

// machineVersionOf asks a node which version of a state machine its program knows, once in a look.
func (n *Node) machineVersionOf(
	ctx context.Context, node nexusraft.NodeID, kind string, said map[nexusraft.NodeID]nodeAnswer,
) (uint32, error) {
	a, asked := said[node]
	if !asked {
		asking, cancel := context.WithTimeout(ctx, driver.StatusTimeout)
		a.status, a.err = n.peers.Status(asking, node, nexusraft.RootZone) // versions come with any zone
		cancel()
		said[node] = a
	}
	return a.status.MachineVersions[kind], a.err
}

// machines are the names of the state machines that zones may run here.
func (n *Node) machines() []string { return slices.Sorted(maps.Keys(n.config.Machines)) }

// machineVersions returns the highest versions that this program knows of its state machines, by their
// names, without those of version 0; see nexusraft.NodeStatus.
func (n *Node) machineVersions() map[string]uint32 {
	versions := make(map[string]uint32)
	note := func(name string, m nexusraft.StateMachine) {
		if v := apply.VersionOf(m); v > 0 {
			versions[name] = v
		}
	}
	note("", n.config.StateMachine)
	for name, m := range n.config.Machines {
		note(name, m)
	}
	return versions
}
