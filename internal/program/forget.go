package program

import "github.com/nexi-lab/nexus-raft/witness"

// ForgetWitnessLives is witness.ForgetLives for a directory on this machine.
func ForgetWitnessLives(dir string) (int, error) { return witness.ForgetLives(witness.OSFS{}, dir) }
