package etcdtest

import (
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// minimise returns a sequence that still fails, from which no step and no field can go, or what it has
// come to after so many tries. fails must be true for steps.
func minimise(steps []step, tries int, fails func([]step) bool) []step {
	m := &minimiser{steps: steps, tries: tries, fails: fails}
	for changed := true; changed && m.tries > 0; {
		changed = m.dropSteps()
		changed = m.shrinkSteps() || changed
	}
	return m.steps
}

type minimiser struct {
	steps []step
	tries int
	fails func([]step) bool
}

// try takes a sequence if it still fails.
func (m *minimiser) try(steps []step) bool {
	if m.tries <= 0 {
		return false
	}
	m.tries--
	if !m.fails(steps) {
		return false
	}
	m.steps = steps
	return true
}

// dropSteps drops runs of steps, long ones first.
func (m *minimiser) dropSteps() (changed bool) {
	for run := max(len(m.steps)/2, 1); ; run /= 2 {
		for i := len(m.steps) - run; i >= 0; i-- {
			if i+run > len(m.steps) {
				continue
			}
			rest := slices.Concat(m.steps[:i], m.steps[i+run:])
			if m.try(rest) || m.try(earlier(rest, i, int64(run))) {
				changed = true
			}
		}
		if run <= 1 {
			return changed
		}
	}
}

// earlier returns the steps with all revisions of those from the i-th on earlier by some: what was
// dropped before them may have had as many.
func earlier(steps []step, i int, by int64) []step {
	steps = slices.Clone(steps)
	for ; i < len(steps); i++ {
		steps[i].req = proto.Clone(steps[i].req)
		mapRevisions(steps[i].req.ProtoReflect(), func(r int64) int64 {
			if r < lowest || r > highest {
				return r
			}
			return max(r-by, lowest)
		})
	}
	return steps
}

// shrinkSteps makes each step smaller, one change after the other.
func (m *minimiser) shrinkSteps() (changed bool) {
	for i := range m.steps {
		for n := 0; m.tries > 0; {
			smaller, ok := shrunk(m.steps[i], n)
			if !ok {
				break
			}
			steps := slices.Clone(m.steps)
			steps[i] = smaller
			if m.try(steps) {
				changed = true // and the n-th change is another one now
			} else {
				n++
			}
		}
	}
	return changed
}

// shrunk returns the step with the n-th change that makes it smaller; false if there are fewer.
func shrunk(s step, n int) (step, bool) {
	if s.member != 0 {
		if n == 0 {
			s.member = 0
			return s, true
		}
		n--
	}
	if r, ok := s.req.(*etcdserverpb.TxnRequest); ok {
		alone := append(opsAlone(r.Success), opsAlone(r.Failure)...)
		if n < len(alone) {
			alone[n].member = s.member
			return alone[n], true
		}
		n -= len(alone)
	}
	s.req = proto.Clone(s.req)
	return s, shrink(s.req.ProtoReflect(), &n)
}

// opsAlone returns each operation as a step of its own.
func opsAlone(ops []*etcdserverpb.RequestOp) (steps []step) {
	for _, op := range ops {
		switch r := op.Request.(type) {
		case *etcdserverpb.RequestOp_RequestRange:
			steps = append(steps, step{method: "Range", req: r.RequestRange})
		case *etcdserverpb.RequestOp_RequestPut:
			steps = append(steps, step{method: "Put", req: r.RequestPut})
		case *etcdserverpb.RequestOp_RequestDeleteRange:
			steps = append(steps, step{method: "DeleteRange", req: r.RequestDeleteRange})
		case *etcdserverpb.RequestOp_RequestTxn:
			steps = append(steps, step{method: "Txn", req: r.RequestTxn})
		}
	}
	return steps
}

// onlyBranch makes a Txn one without compares and with one branch's operations.
func onlyBranch(r *etcdserverpb.TxnRequest, n *int) (done bool) {
	if len(r.Compare) == 0 {
		return false
	}
	for _, branch := range [][]*etcdserverpb.RequestOp{r.Success, r.Failure} {
		if *n--; *n < 0 {
			r.Compare, r.Success, r.Failure = nil, branch, nil
			return true
		}
	}
	return false
}

// shrink makes the n-th change to m, and counts n down by the changes that there are in m otherwise.
func shrink(m protoreflect.Message, n *int) (done bool) {
	if r, ok := m.Interface().(*etcdserverpb.TxnRequest); ok && onlyBranch(r, n) {
		return true
	}
	var fields []protoreflect.FieldDescriptor
	m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		fields = append(fields, f)
		return true
	})
	slices.SortFunc(fields, func(a, b protoreflect.FieldDescriptor) int { return int(a.Number() - b.Number()) })
	for _, f := range fields {
		if shrinkField(m, f, n) {
			return true
		}
	}
	return false
}

func shrinkField(m protoreflect.Message, f protoreflect.FieldDescriptor, n *int) (done bool) {
	now := func() bool { *n--; return *n < 0 }
	switch {
	case f.IsList():
		return shrinkList(m.Mutable(f).List(), n)
	case now():
		m.Clear(f)
		return true
	case f.Message() != nil:
		return shrink(m.Mutable(f).Message(), n)
	case f.Kind() == protoreflect.BytesKind && len(m.Get(f).Bytes()) > 1:
		if b := m.Get(f).Bytes(); now() {
			m.Set(f, protoreflect.ValueOfBytes(b[:1]))
			return true
		}
	}
	return false
}

// shrinkList drops the list's second half, an element, or makes one smaller.
func shrinkList(list protoreflect.List, n *int) (done bool) {
	if half := list.Len() / 2; half > 1 {
		if *n--; *n < 0 {
			list.Truncate(half)
			return true
		}
	}
	for i := range list.Len() {
		if *n--; *n < 0 {
			for j := i; j+1 < list.Len(); j++ {
				list.Set(j, list.Get(j+1))
			}
			list.Truncate(list.Len() - 1)
			return true
		}
		if shrink(list.Get(i).Message(), n) {
			return true
		}
	}
	return false
}
