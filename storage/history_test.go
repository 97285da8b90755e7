package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// call is what one caller asked for, and answer what it got. The keys are a and b, "" is no
// value.
type call struct {
	Op       string
	Key      string
	Old, New string
}

type answer struct {
	Found string // what was there
	Key   string // where
	Done  bool   // it was swapped, or popped
}

// state is what the two keys hold.
type state struct{ A, B string }

func (s state) with(key, value string) state {
	if key == "a" {
		return state{value, s.B}
	}
	return state{s.A, value}
}

func (s state) at(key string) string {
	if key == "a" {
		return s.A
	}
	return s.B
}

// step says whether the answer to a call is right in a state, and what the next state is.
func (s state) step(c call, got answer) (bool, state) {
	switch c.Op {
	case "get":
		return got.Found == s.at(c.Key), s
	case "set":
		return true, s.with(c.Key, c.New)
	case "batch":
		return true, state{c.New, c.New}
	case "clear":
		return true, state{}
	case "scan":
		return got.Found == s.A+","+s.B, s
	case "cas":
		if swapped := s.at(c.Key) == c.Old; !swapped {
			return !got.Done && got.Found == s.at(c.Key), s
		}
		return got.Done, s.with(c.Key, c.New)
	case "update": // appends, but forgets what gets too long
		return got.Found == s.at(c.Key), s.with(c.Key, appended(s.at(c.Key), c.New))
	case "move": // a transaction that reads and writes both
		return got.Found == s.A+","+s.B, state{s.B, appended(s.A, c.New)}
	case "copy": // a transaction that reads both and writes one
		return got.Found == s.A+","+s.B, s.with(c.Key, appended(s.at(otherKey(c.Key)), c.New))
	case "popFirst", "popLast":
		return s.popped(c.Op == "popLast", got)
	}
	panic("unknown operation " + c.Op)
}

func (s state) popped(last bool, got answer) (bool, state) {
	keys := []string{"a", "b"}
	if last {
		slices.Reverse(keys)
	}
	for _, key := range keys {
		if value := s.at(key); value != "" {
			return got == answer{Found: value, Key: key, Done: true}, s.with(key, "")
		}
	}
	return !got.Done, s
}

func otherKey(key string) string {
	if key == "a" {
		return "b"
	}
	return "a"
}

func appended(old, more string) string {
	if len(old) > 6 {
		return more
	}
	return old + more
}

var historyModel = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(s, c, got any) (bool, any) { return s.(state).step(c.(call), got.(answer)) },
	DescribeOperation: func(c, got any) string {
		in, _ := json.Marshal(c)
		out, _ := json.Marshal(got)
		return fmt.Sprintf("%s: %s", in, out)
	},
}

// TestLinearizable records what concurrent callers ask and get, and has porcupine look for
// an order that explains it.
func TestLinearizable(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newStore(t)
			history := fourCallers(t, s, seed)
			result, info := porcupine.CheckOperationsVerbose(historyModel, history, 20*time.Second)
			if result != porcupine.Ok {
				path := t.ArtifactDir() + "/history.html"
				check(t, porcupine.VisualizePath(historyModel, info, path))
				t.Fatalf("seed %d: %v, see %s", seed, result, path)
			}
		})
	}
}

// fourCallers has four callers at work and returns what they did.
func fourCallers(t *testing.T, s *Store, seed uint64) []porcupine.Operation {
	var mu sync.Mutex
	var history []porcupine.Operation
	begin := time.Now()
	var wg sync.WaitGroup
	for client := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(client)))
			seen := []string{""} // to be expected by compare-and-swaps
			for n := range 60 {
				c := randomCall(rng, seen, fmt.Sprintf("%c%d", 'p'+client, n))
				called := time.Since(begin)
				got, err := run(t, s, c, Durability(rng.IntN(2)))
				if err != nil {
					t.Errorf("%+v: %v", c, err)
					return
				}
				mu.Lock()
				history = append(history, porcupine.Operation{
					ClientId: client, Input: c, Output: got, Call: int64(called), Return: int64(time.Since(begin)),
				})
				mu.Unlock()
				if c.Op == "get" || c.Op == "cas" {
					seen = append(seen, got.Found)
				}
			}
		})
	}
	wg.Wait()
	return history
}

var weights = map[string]int{
	"get": 3, "set": 2, "cas": 4, "update": 3, "move": 2, "copy": 3, "scan": 2, "popFirst": 2, "popLast": 2, "batch": 1,
	"clear": 1,
}

func randomCall(rng *rand.Rand, seen []string, value string) call {
	var ops []string
	for _, op := range slices.Sorted(maps.Keys(weights)) {
		ops = append(ops, slices.Repeat([]string{op}, weights[op])...)
	}
	c := call{Op: ops[rng.IntN(len(ops))], Key: string("ab"[rng.IntN(2)]), New: value}
	if c.Op == "cas" {
		c.Old = seen[len(seen)-1]
		if rng.IntN(4) == 0 {
			c.New = ""
		}
	}
	return c
}

// none is nil for the empty string, as no value is.
func none(value string) []byte {
	if value == "" {
		return nil
	}
	return []byte(value)
}

// run does a call.
func run(t *testing.T, s *Store, c call, d Durability) (got answer, err error) {
	key := []byte(c.Key)
	var found []byte
	switch c.Op {
	case "get":
		found, _, err = s.Get(key)
	case "set":
		err = s.Set(key, []byte(c.New), d)
	case "clear":
		err = s.Clear(d)
	case "cas":
		found, got.Done, err = s.CompareAndSwap(key, none(c.Old), none(c.New), d)
	case "update":
		found, _, err = s.Update(key, func(old []byte) ([]byte, error) {
			return []byte(appended(string(old), c.New)), nil
		}, d)
	case "popFirst", "popLast":
		pop := s.PopFirst
		if c.Op == "popLast" {
			pop = s.PopLast
		}
		p, ok, err := pop(d)
		return answer{Found: string(p.Value), Key: string(p.Key), Done: ok}, err
	case "batch":
		b := s.NewBatch()
		defer b.Close()
		err = errors.Join(b.Set(s.Default(), []byte("a"), []byte(c.New)), b.Set(s.Default(), []byte("b"), []byte(c.New)))
		return got, errors.Join(err, b.Commit(d == Sync))
	case "scan":
		x := s.NewSnapshot()
		defer x.Close()
		got.Found, err = both(x.Reader(s.Default()), c.New)
		return got, err
	case "move", "copy":
		err = s.Transact(t.Context(), func(tx *Tx) error {
			got.Found, err = transaction(tx.Tree(s.Default()), c)
			return err
		}, d)
		return got, err
	}
	got.Found = string(found)
	return got, err
}

// both reads a and b, by a scan or one by one, as the last letter of how decides.
func both(r nexusraft.Reader, how string) (string, error) {
	var values [2]string
	if (how[len(how)-1]-'0')%2 == 0 {
		for p, err := range r.Scan(nil, nil) {
			if err != nil {
				return "", err
			}
			values[p.Key[0]-'a'] = string(p.Value)
		}
	} else {
		for i := range values {
			value, _, err := r.Get([]byte{'a' + byte(i)})
			if err != nil {
				return "", err
			}
			values[i] = string(value)
		}
	}
	return values[0] + "," + values[1], nil
}

// transaction does a move or a copy.
func transaction(in nexusraft.ReadWriter, c call) (found string, err error) {
	if found, err = both(in, c.New); err != nil {
		return "", err
	}
	var before state
	before.A, before.B, _ = strings.Cut(found, ",")
	_, next := before.step(c, answer{Found: found})
	for _, key := range []string{"a", "b"} {
		switch value := next.at(key); {
		case c.Op == "copy" && key != c.Key:
		case value == "":
			err = errors.Join(err, in.Delete([]byte(key)))
		default:
			err = errors.Join(err, in.Set([]byte(key), []byte(value)))
		}
	}
	return found, err
}
