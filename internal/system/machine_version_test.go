package system

import (
	"errors"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

func raiseMachine(version uint32, root bool) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_RaiseMachineVersion{
		RaiseMachineVersion: &pb.RaiseMachineVersion{Version: version, RootZone: root},
	}}
}

// The version of a zone's state machine never goes back, and what raises it says so.
func TestMachineVersion(t *testing.T) {
	base := emptyState(t)
	for _, x := range []struct{ to, raised, want uint32 }{{0, 0, 0}, {2, 2, 2}, {1, 0, 2}, {2, 0, 2}, {7, 7, 7}} {
		r, err := applied(t, base, raiseMachine(x.to, false))
		if err != nil || r.MachineVersion != x.raised {
			t.Errorf("raise to %d: got %d, %v, want %d", x.to, r.MachineVersion, err, x.raised)
		}
		if v, err := MachineVersion(base); err != nil || v != x.want {
			t.Errorf("after a raise to %d: got %d, %v, want %d", x.to, v, err, x.want)
		}
	}
	if err := base.Set(machineVersionKey, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := MachineVersion(base); !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Errorf("a damaged version: got %v", err)
	}
}

// In the root zone it waits for the cluster's version: an earlier release would stop over the command.
func TestMachineVersionOfTheRootZone(t *testing.T) {
	base := emptyState(t)
	_, err := applied(t, base, raiseMachine(1, true))
	const says = "need a cluster of version 4, and this one has 3"
	if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), says) {
		t.Errorf("at version 3: got %v", err)
	}
	if v, err := MachineVersion(base); v != 0 || err != nil {
		t.Errorf("it was raised to %d, %v", v, err)
	}
	if _, err := applied(t, base, raiseVersion(machineVersionsVersion)); err != nil {
		t.Fatal(err)
	}
	if r, err := applied(t, base, raiseMachine(1, true)); err != nil || r.MachineVersion != 1 {
		t.Errorf("at version 4: got %d, %v", r.MachineVersion, err)
	}
}
