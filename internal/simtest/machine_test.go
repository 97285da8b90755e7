package simtest

import (
	"fmt"
	"hash/fnv"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// machine is the state machine of the simulated zone: a few registers. A command is
// "put KEY VALUE", "append KEY VALUE" or "cas KEY OLD NEW"; the result of an append is the
// new value, that of a cas is "yes" or "no".
type machine struct{}

var _ nexusraft.StateMachine = machine{}

// Apply implements nexusraft.StateMachine.
func (machine) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	f := strings.Split(string(cmd.Data), " ")
	if len(f) < 3 {
		return nil, fmt.Errorf("command %q", cmd.Data)
	}
	old, _, err := tx.Get([]byte(f[1]))
	if err != nil {
		return nil, err
	}
	next, result := transition(string(old), f)
	if err := tx.Set([]byte(f[1]), []byte(next)); err != nil {
		return nil, err
	}
	return []byte(result), nil
}

// silent makes a nexusraft.Tx of an overlay; the machine publishes nothing.
type silent struct{ *storage.Overlay }

// Publish implements nexusraft.Tx.
func (silent) Publish(string, string, []byte) error { return nil }

// Note implements nexusraft.Tx.
func (silent) Note(any) {}

// transition is what a command does to its register, and what it returns. The history
// check and the oracle's model use it too.
func transition(old string, f []string) (next, result string) {
	switch {
	case f[0] == "put":
		return f[2], ""
	case f[0] == "append":
		return old + f[2], old + f[2]
	case old == f[2]:
		return f[3], "yes"
	}
	return old, "no"
}

// stateHash is a hash of all that a state holds.
func stateHash(r nexusraft.Reader) (uint64, error) {
	h := fnv.New64a()
	for p, err := range r.Scan(nil, nil) {
		if err != nil {
			return 0, err
		}
		fmt.Fprintf(h, "%q=%q;", p.Key, p.Value)
	}
	return h.Sum64(), nil
}
