package system

import (
	"encoding/binary"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// Each zone keeps the version of its state machine that its commands are applied with; see
// nexusraft.Versioned.
var machineVersionKey = []byte{Prefix, 'm'}

// machineVersionsVersion is the cluster's version from which on the root zone's may be raised.
const machineVersionsVersion = 4

// MachineVersion returns a zone's version of its state machine.
func MachineVersion(r nexusraft.Reader) (uint32, error) {
	b, ok, err := r.Get(machineVersionKey)
	switch {
	case err != nil || !ok:
		return 0, err
	case len(b) != 4:
		return 0, fmt.Errorf("%w: the version of the state machine has %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	return binary.BigEndian.Uint32(b), nil
}

// applyRaiseMachineVersion returns the new version, 0 if the zone's is as high already: two leaders may
// raise it.
func applyRaiseMachineVersion(base nexusraft.ReadWriter, c *pb.RaiseMachineVersion) (raised uint32, err error) {
	if c.GetRootZone() { // the other zones are in clusters of this version only
		if err := requireVersion(base, machineVersionsVersion, "versions of the root zone's state machine"); err != nil {
			return 0, err
		}
	}
	now, err := MachineVersion(base)
	if err != nil || c.GetVersion() <= now {
		return 0, err
	}
	return c.GetVersion(), base.Set(machineVersionKey, binary.BigEndian.AppendUint32(nil, c.GetVersion()))
}
