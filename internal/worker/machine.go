package worker

import (
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

// errMachine is why a zone stops on this node, though its log and state are whole: its state machine can't
// go on with them.
var errMachine = errors.New("the state machine can't go on with the zone's state")

// machine returns the state machine of a name; the root zone's has none. nil: this program lacks it.
func (w *worker) machine(name string) nexusraft.StateMachine {
	if name == "" {
		return w.o.StateMachine
	}
	return w.o.Machines[name]
}

// openMachine readies the state machine for the state as it is: at a start, and when a snapshot has replaced it.
// An error stops the zone on this node.
func (g *group) openMachine() error {
	if err := system.CheckDiverged(g.state); err != nil {
		return wayOut(err, g.id, g.w.o.Path)
	}
	version, err := system.MachineVersion(g.state)
	if err != nil {
		return err
	}
	if err := g.knows(version); err != nil {
		return err
	}
	m := g.configured
	if o, ok := m.(nexusraft.Opener); ok {
		if m, err = callOpen(o, g.id, apply.MachineReader(g.state)); err != nil {
			return err
		}
	}
	g.machine = apply.Machine{StateMachine: m, Version: version, Loads: new(system.Loads)}
	g.leads, _ = m.(nexusraft.Leading)
	return nil
}

// knows returns errMachine if this program's state machine is older than a version of the zone's.
func (g *group) knows(version uint32) error {
	if known := apply.VersionOf(g.configured); version > known {
		return fmt.Errorf("%w: %w: the zone is at version %d of its state machine, and this program knows version %d: run "+
			"the release that knows it, and the zone goes on from here", errMachine, nexusraft.ErrRefused, version, known)
	}
	return nil
}

// callOpen turns a panic into an error.
func callOpen(o nexusraft.Opener, id nexusraft.ZoneID, r nexusraft.Reader) (m nexusraft.StateMachine, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: its Open panicked: %v", errMachine, p)
		}
	}()
	switch m, err = o.Open(id, r); {
	case err != nil:
		err = fmt.Errorf("%w: its Open failed: %w", errMachine, err)
	case m == nil:
		err = fmt.Errorf("%w: its Open has returned none", errMachine)
	}
	return m, err
}
