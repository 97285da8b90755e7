package simtest

import (
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/kv"
)

// keysName is the key under which the operations of a key space are in the history: all in one.
const keysName = "keys"

// TestKeySpaceChaos is TestChaos with the key-value store in the place of registers: puts, deletes, transactions,
// compactions, sweeps, leases, and reads at old revisions, while the zone's version is raised somewhere in the middle.
func TestKeySpaceChaos(t *testing.T) {
	seen := make(map[string]int)
	play := func(t *testing.T, seed uint64) {
		for _, op := range keySpaceChaos(t, seed).clients.history {
			seen[op.kind()]++
		}
	}
	forSeeds(t, 30, play)
	if testing.Short() { // the mutants, which are planted in the short form, need these
		for _, seed := range []uint64{2, 3} {
			t.Run(fmt.Sprint(seed), func(t *testing.T) { play(t, seed) })
		}
	}
	t.Log(seen)
	if !rareHappens() {
		return
	}
	for _, kind := range []string{
		"put", "delete", "txn", "compact", "sweep", "raise", "read", "read: compacted",
		"read: future", "read of the past", "grant", "revoke", "checkpoint",
	} {
		if seen[kind] == 0 {
			t.Errorf("no %s among %v", kind, seen)
		}
	}
}

func keySpaceChaos(t *testing.T, seed uint64) *sim {
	s := newWorld(t, seed).add(onlyZone, firstIndex)
	s.runsKeySpace()
	s.begin(seed%3 == 0)
	s.clients.add(4)
	s.partBytes = int(seed % 4 / 3)
	s.faults.on = true
	s.run(250)
	s.faults.stop()
	s.recover()
	s.checkKeySpaces()
	return s
}

// runsKeySpace gives a new zone the key-value store.
func (s *sim) runsKeySpace() {
	s.keys, s.oracle.ledger.keys = true, newKeySpace()
	s.oracle.states[s.oracle.last] = s.oracle.hash()
}

// kind says what an operation was, for counts.
func (op *operation) kind() string {
	switch {
	case op.own:
		return "raise"
	case op.command != "":
		return []string{
			1: "put", 2: "delete", 3: "txn", 4: "compact", 5: "sweep", 6: "grant", 7: "revoke", 8: "checkpoint",
		}[op.command[0]]
	case op.output == "compacted", op.output == "future":
		return "read: " + op.output
	case op.rev > 0 && !strings.HasPrefix(op.output, fmt.Sprintf("%d:", op.rev)):
		return "read of the past"
	}
	return "read"
}

// withoutEffect reports whether an operation without an answer has had no effect: nobody sees what a sweep does, and
// puts, transactions, grants and checkpoints, no two of which are the same, either were committed, with an answer that
// is known then, or never will be. To try all of them everywhere would take porcupine too long.
func (s *sim) withoutEffect(op *operation) bool {
	switch op.kind() {
	case "sweep":
		return true
	case "put", "txn", "grant", "checkpoint":
		for index, fact := range s.oracle.committed {
			if fact.command == op.command {
				op.output, op.known = s.oracle.ledger.outcomes[index].data, true
				return false
			}
		}
		return true
	}
	return false
}

// beginKeys makes an operation on a key space up.
func (c *client) beginKeys() {
	cs, s := c.all, c.all.s
	op, now := cs.operation(c, keysName), s.oracle.ledger.keys
	key := func() []byte { return fmt.Appendf(nil, "k%d", s.rng.IntN(registers)) }
	put := func(key []byte) *etcdserverpb.PutRequest {
		value := fmt.Sprintf("%d.", cs.made)
		if s.percent(20) {
			value += strings.Repeat("x", 1100) // has a row of its own
		}
		return &etcdserverpb.PutRequest{Key: key, Value: []byte(value), Lease: s.someLease(now)}
	}
	var command []byte
	var err error
	switch p := s.rng.IntN(100); {
	case p < 30:
		if s.percent(70) {
			op.rev = max(1, now.rev+1-int64(s.rng.IntN(12)))
		}
	case p < 50:
		command, err = kv.EncodePut(put(key()))
	case p < 58:
		del := &etcdserverpb.DeleteRangeRequest{Key: key()}
		if s.percent(30) {
			del.RangeEnd = []byte("k9")
		}
		command, err = kv.EncodeDeleteRange(del)
	case p < 70:
		command, err = kv.EncodeTxn(s.makeTxn(now, put), kv.MaxTxnOps)
	case p < 80 && (now.leased || s.percent(10)):
		command, err = s.makeLease(now, int64(cs.made))
	case p < 88 && (now.versioned || s.percent(10)):
		rev := max(1, now.rev+1-int64(s.rng.IntN(8)))
		command, err = kv.EncodeCompact(&etcdserverpb.CompactionRequest{Revision: rev})
	case p < 95 || now.leased:
		command = kv.EncodeSweep(s.between(1, 4))
	default:
		op.own = true
		command, err = proto.Marshal(&pb.NodeCommand{Kind: &pb.NodeCommand_RaiseMachineVersion{
			RaiseMachineVersion: &pb.RaiseMachineVersion{Version: uint32(s.between(kv.VersionHistory, kv.VersionLeases))},
		}})
	}
	s.must(s.nodes[0], "encode a command", err)
	op.command = string(command)
	op.attempt()
}

// makeTxn makes up what Kubernetes does, a put of what has not changed since, with a second one that looks at the same
// key from inside.
func (s *sim) makeTxn(now *keySpace, put func([]byte) *etcdserverpb.PutRequest) *etcdserverpb.TxnRequest {
	first := s.rng.IntN(registers)
	key := func(i int) []byte { return fmt.Appendf(nil, "k%d", (first+i)%registers) }
	mod := now.pairs[string(key(0))].mod
	if s.percent(20) {
		mod++
	}
	compares := []*etcdserverpb.Compare{{
		Key: key(0), Target: etcdserverpb.Compare_MOD,
		TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: mod},
	}}
	puts := func(i int) *etcdserverpb.RequestOp {
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: put(key(i))}}
	}
	inner := &etcdserverpb.TxnRequest{
		Compare: compares, Success: []*etcdserverpb.RequestOp{puts(1)},
		Failure: []*etcdserverpb.RequestOp{puts(2)},
	}
	return &etcdserverpb.TxnRequest{
		Compare: compares,
		Success: []*etcdserverpb.RequestOp{
			puts(0), {Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: inner}},
		},
		Failure: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestDeleteRange{
			RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: key(3)},
		}}},
	}
}

// value is what a member's state has for a read.
func (op *operation) value(n *node) string {
	state := apply.MachineReader(n.disk.(*memberDisk).state)
	if op.key == keysName {
		got, err := readKeys(state, op.rev)
		n.s.must(n, "read the keys", err)
		return got
	}
	value, _, err := state.Get([]byte(op.key))
	n.s.must(n, "read a register", err)
	return string(value)
}

// hashed is a checksum of a key space at a revision, which nothing changes but a compaction.
type hashed struct{ rev, compacted int64 }

// checkKeys checks that a member's key space does not contradict itself, and that what it keeps has the same
// checksum as on the others, and as ever.
func (o *oracle) checkKeys(n *node, state nexusraft.Reader) {
	o.s.must(n, "check the key space", kv.Check(state))
	now, err := kv.StandingOf(state)
	o.s.must(n, "read the compaction revision", err)
	c, newest := now.Compacted, now.Newest
	for rev := max(c, 1); rev <= newest; rev++ {
		h, err := kv.HashKV(state, rev)
		o.s.must(n, "hash the key space", err)
		at := hashed{rev, c}
		if known, ok := o.hashes[at]; ok && known != h.Sum {
			o.s.fatalf("%s has the checksum %x at %+v, it was %x", n.name, h.Sum, at, known)
		}
		o.hashes[at] = h.Sum
	}
}

// checkKeySpaces checks each member's key space in the end, at every revision that it keeps.
func (s *sim) checkKeySpaces() {
	s.t.Helper()
	want := s.oracle.ledger.keys
	for _, n := range s.members() {
		if !s.admitted(n) {
			continue
		}
		state := apply.MachineReader(n.disk.(*memberDisk).state)
		s.oracle.checkKeys(n, state)
		s.oracle.checkLeases(n, state)
		for rev := int64(0); rev <= want.rev+1; rev++ {
			got, err := readKeys(state, rev)
			s.must(n, "read the keys", err)
			if want := want.read(rev); got != want {
				s.fatalf("%s at revision %d: got %s, want %s", n.name, rev, got, want)
			}
		}
	}
}
