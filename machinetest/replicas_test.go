package machinetest_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/machinetest"
)

// machineFunc is a state machine.
type machineFunc func(nexusraft.Tx, nexusraft.Command) ([]byte, error)

func (f machineFunc) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) { return f(tx, cmd) }

// verdict is a machinetest.TB that keeps why a test has failed.
type verdict struct{ says string }

type failed struct{}

func (*verdict) Helper() {}

func (v *verdict) Fatalf(format string, args ...any) {
	v.says = fmt.Sprintf(format, args...)
	panic(failed{})
}

// verdictOn plays commands, six without anything if none is given, and returns why that has failed; "" if it has not.
func verdictOn(t *testing.T, m nexusraft.StateMachine, commands ...nexusraft.Command) (says string) {
	t.Helper()
	v := &verdict{}
	defer func() {
		if p := recover(); p != nil && p != (failed{}) {
			panic(p)
		}
		says = v.says
	}()
	z := machinetest.New(v, m)
	for i := range byte(6) {
		if len(commands) == 0 {
			_, _ = z.Apply(nexusraft.Command{Data: []byte{i}})
		}
	}
	for _, c := range commands {
		_, _ = z.Apply(c)
	}
	return ""
}

// orders is a state machine that notes the positions of its commands, of which those of one byte are alone.
type orders struct{ seen *[]string }

func (o orders) Apply(_ nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	*o.seen = append(*o.seen, fmt.Sprint(cmd.Index, ".", cmd.Place))
	return nil, nil
}

func (orders) Alone(command []byte) bool { return len(command) == 1 }

// Commands come two to an entry, but for those that are to be alone; and at the positions that they are given.
func TestPositions(t *testing.T) {
	t.Parallel()
	var seen []string
	z := machinetest.New(t, orders{&seen})
	for _, c := range []nexusraft.Command{
		{}, {}, {}, {Data: []byte{1}}, {}, {}, {Index: 9, Place: 2}, {Index: 9, Place: 4}, {}, {Index: 10, Place: 1}, {},
	} {
		_, _ = z.Apply(c)
	}
	var once []string // both replicas see each
	for i := 0; i < len(seen); i += 2 {
		once = append(once, seen[i])
	}
	want := []string{"1.0", "1.1", "2.0", "3.0", "4.0", "4.1", "9.2", "9.4", "10.0", "10.1", "11.0"}
	if !slices.Equal(once, want) {
		t.Errorf("got %q, want %q", once, want)
	}
	for name, c := range map[string]nexusraft.Command{
		"an index that was": {Index: 1}, "the same place": {Index: 2, Place: 1}, "a place before": {Index: 2},
	} {
		says := verdictOn(t, orders{&seen}, nexusraft.Command{Index: 2, Place: 1}, c)
		want := fmt.Sprintf("index %d, place %d, after index 2, place 1", c.Index, c.Place)
		if !strings.Contains(says, want) {
			t.Errorf("%s: got %q, want %q", name, says, want)
		}
	}
}

// A state machine that is none is found.
func TestMistakesAreFound(t *testing.T) {
	t.Parallel()
	var calls [3]int
	var kept []byte
	for name, tt := range map[string]struct {
		machine nexusraft.StateMachine
		says    string
	}{
		"good": {machineFunc(func(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
			return cmd.Data, tx.Set([]byte("k"), cmd.Data)
		}), ""},
		"another state": {machineFunc(func(tx nexusraft.Tx, _ nexusraft.Command) ([]byte, error) {
			calls[0]++
			return nil, tx.Set([]byte("k"), fmt.Append(nil, calls[0]))
		}), `after the command at 1 the replicas' states differ:
"k" "1"

and

"k" "2"`},
		"another answer": {machineFunc(func(nexusraft.Tx, nexusraft.Command) ([]byte, error) {
			calls[1]++
			return fmt.Append(nil, calls[1]), nil
		}), "the replicas answer the command at 1 with"},
		"another error": {machineFunc(func(nexusraft.Tx, nexusraft.Command) ([]byte, error) {
			calls[2]++
			return nil, fmt.Errorf("%d", calls[2])
		}), "the replicas answer the command at 1 with"},
		"panic": {machineFunc(func(nexusraft.Tx, nexusraft.Command) ([]byte, error) { panic("no") }), "command at 1"},
		"data that is kept": {machineFunc(func(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
			if kept == nil {
				kept = cmd.Data
			}
			return nil, tx.Set([]byte("k"), kept)
		}), "after the command at 1 the replicas' states differ"},
		"a value that is kept": {machineFunc(func(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
			err := tx.Set([]byte("k"), cmd.Data)
			old, _, getErr := tx.Get([]byte("k"))
			_, _, secondErr := tx.Get([]byte("x"))
			if old[0] != cmd.Data[0] {
				panic("spoilt")
			}
			return nil, errors.Join(err, getErr, secondErr)
		}), "spoilt"},
		"a pair that is kept": {machineFunc(func(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
			var last nexusraft.Pair
			err := errors.Join(tx.Set([]byte("k"), cmd.Data), tx.Set([]byte("l"), cmd.Data))
			for p := range tx.Scan(nil, nil) {
				if last.Key != nil && last.Key[0] != 'k' {
					panic("spoilt")
				}
				last = p
			}
			return nil, err
		}), "spoilt"},
		"a count that no state has": {opener{}, "after the command at 5 the replicas' states differ"},
		"no Open":                   {opener{fails: true}, "open: got <nil>, no"},
	} {
		if says := verdictOn(t, tt.machine); !strings.Contains(says, tt.says) || (says == "") != (tt.says == "") {
			t.Errorf("%s: got %q, want %q", name, says, tt.says)
		}
	}
}

// opener counts commands in memory, where an opening forgets them.
type opener struct{ fails bool }

func (opener) Apply(nexusraft.Tx, nexusraft.Command) ([]byte, error) { panic("not opened") }

func (o opener) Open(nexusraft.ZoneID, nexusraft.Reader) (nexusraft.StateMachine, error) {
	if o.fails {
		return nil, errors.New("no")
	}
	n := 0
	return machineFunc(func(tx nexusraft.Tx, _ nexusraft.Command) ([]byte, error) {
		n++
		return nil, tx.Set([]byte("n"), fmt.Append(nil, n))
	}), nil
}

// What is applied is as on a node.
func TestReplicas(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	z := machinetest.New(t, machineFunc(func(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
		tx.Note(string(cmd.Data))
		err := errors.Join(
			tx.Set(cmd.Data, fmt.Appendf(nil, "%d %d v%d", cmd.Index, cmd.Time, cmd.Version)),
			tx.Publish("app/t", "made", cmd.Data), tx.Delete([]byte("gone")), tx.DeleteRange([]byte("x"), nil),
		)
		if string(cmd.Data) == "bad" {
			return nil, refused
		}
		return cmd.Data, err
	}))
	apply := func(cmd nexusraft.Command, want error) {
		t.Helper()
		answer, err := z.Apply(cmd)
		if err != want || err == nil && string(answer) != string(cmd.Data) {
			t.Errorf("%q: got %q, %v", cmd.Data, answer, err)
		}
	}
	apply(nexusraft.Command{Data: []byte("a"), Time: 50}, nil)
	apply(nexusraft.Command{Data: []byte("bad"), Time: 60}, refused)
	z.SetVersion(3)
	apply(nexusraft.Command{Data: []byte("b"), Index: 300, Time: 7}, nil)
	if got, want := z.Dump(), []string{`"a" "1 50 v0"`, `"b" "300 60 v3"`}; !slices.Equal(got, want) {
		t.Errorf("state: got %q, want %q", got, want)
	}
	if got := z.Calls(); got != 4 {
		t.Errorf("the last command made %d calls, want 4", got)
	}
	if v, ok, err := z.Reader().Get([]byte("a")); string(v) != "1 50 v0" || !ok || err != nil {
		t.Errorf("got %q, %v, %v", v, ok, err)
	}
	if got := z.Notes(); !slices.Equal(got, []any{"a", "b"}) {
		t.Errorf("notes: %q", got)
	}
	events := z.Events()
	if len(events) != 2 || events[1].Topic != "app/t" || events[1].Type != "made" || string(events[1].Payload) != "b" {
		t.Errorf("events: %+v", events)
	}
}
