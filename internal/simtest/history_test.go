package simtest

import (
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// registerModel is one register, as a state its value. An operation without an answer may
// give anything.
var registerModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		value, op := state.(string), input.(*operation)
		if op.command == "" {
			return value == output.(string), value
		}
		next, result := transition(value, op.fields())
		return op.ret == 0 || result == output.(string), next
	},
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("%s %q -> %q", input.(*operation).key, input.(*operation).command, output)
	},
}

// checkHistory has porcupine look for an order of the operations that explains all answers.
func (s *sim) checkHistory() {
	if key, n, got := s.explain(); got != porcupine.Ok {
		s.fatalf("the history of %s, %d operations, is not linearizable: %v", key, n, got)
	}
}

// explain returns the first register whose operations no order explains, and how many it has.
func (s *sim) explain() (key string, operations int, got porcupine.CheckResult) {
	byKey := make(map[string][]porcupine.Operation)
	for i, op := range s.clients.history {
		if op.ret == 0 && !op.open() || s.keys && op.ret == 0 && s.withoutEffect(op) {
			continue
		}
		ret := op.ret
		if ret == 0 {
			ret = math.MaxInt64
		}
		byKey[op.key] = append(byKey[op.key], porcupine.Operation{
			ClientId: i, Input: op, Call: op.call, Output: op.output,
			Return: ret,
		})
	}
	if s.keys {
		return keysName, len(byKey[keysName]),
			porcupine.CheckOperationsTimeout(keySpaceModel, byKey[keysName], 20*time.Second)
	}
	for i := range registers {
		key = fmt.Sprintf("r%d", i)
		if got = porcupine.CheckOperationsTimeout(registerModel, byKey[key], 20*time.Second); got != porcupine.Ok {
			return key, len(byKey[key]), got
		}
	}
	return "", 0, porcupine.Ok
}
