package simtest

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// machine is the state machine of the simulated zone: a few registers. A command is
// "put KEY VALUE", "append KEY VALUE", "cas KEY OLD NEW" or "must KEY OLD NEW"; the result of an
// append is the new value, that of a cas is "yes" or "no", and a must fails where a cas says no.
type machine struct {
	lies  nexusraft.Index // from here on it writes who it is, as no machine may; 0: it does not
	where string
}

var _ nexusraft.StateMachine = machine{}

// Apply implements nexusraft.StateMachine.
func (m machine) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	f := strings.Split(string(cmd.Data), " ")
	if len(f) < 3 {
		return nil, fmt.Errorf("command %q", cmd.Data)
	}
	old, _, err := tx.Get([]byte(f[1]))
	if err != nil {
		return nil, err
	}
	next, result := transition(string(old), f)
	if f[0] == "must" && result == "no" {
		return nil, errMust
	}
	if m.lies != 0 && cmd.Index >= m.lies {
		if err := tx.Set([]byte("where"), []byte(m.where)); err != nil {
			return nil, err
		}
	}
	at := strconv.FormatInt(cmd.Time, 10)
	return []byte(result), errors.Join(tx.Set([]byte(f[1]), []byte(next)), tx.Set([]byte(timeKey), []byte(at)))
}

// timeKey is where the machine keeps the time of the last command that has not failed.
const timeKey = "time"

// errMust is the answer to a must that finds another value.
var errMust = errors.New("another value")

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
