package main

import (
	"bytes"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/machinetest"
)

// The program's play, in a new directory.
func TestConfig(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.TempDir(), &out); err != nil {
		t.Fatal(err)
	}
	want := `the watcher sees: timeout = "5s", deleted: false
the watcher sees: timeout = "9s", deleted: false
the watcher sees: colour = "blue", deleted: false
the watcher sees: colour = "", deleted: true
a change of what was read too long ago is refused: true
read: timeout = "9s"
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("want (-), got (+):\n%s", d)
	}
}

// Random commands: the store is a map with versions, and its events, from any moment on, make of what was
// read then what is read later.
func TestConfigIsAMapThatIsWatched(t *testing.T) {
	t.Parallel()
	names := rapid.SampledFrom([]string{"a", "b", "c", "ä", "", "\xff", strings.Repeat("n", maxNameBytes+1)})
	sizes := rapid.SampledFrom(append(slices.Repeat([]int{0, 1, 30}, 10), maxValueBytes, maxValueBytes+1)) // few are large
	rapid.Check(t, func(t *rapid.T) {
		z := machinetest.New(t, store{})
		model := make(map[string]Setting)
		versions := []uint64{Absent, Any, Any}
		order, from := uint64(nexusraft.MaxEntryCommands), 0
		watched := make(map[string]Setting)
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			name, version := names.Draw(t, "name"), rapid.SampledFrom(versions).Draw(t, "version")
			value := bytes.Repeat([]byte("v"), sizes.Draw(t, "bytes"))
			set := rapid.Bool().Draw(t, "set")
			order += rapid.SampledFrom([]uint64{1, 1, nexusraft.MaxEntryCommands, 700}).Draw(t, "order")
			command := Delete(name, version)
			if set {
				command = Set(name, version, value)
			}
			accepted := name != "" && name != "\xff" && len(name) <= maxNameBytes && (!set || len(value) <= maxValueBytes) &&
				(version == Any || version == model[name].Version)

			before, events := z.Dump(), len(z.Events())
			cmd := commandAt(order)
			cmd.Data = command
			answer, err := z.Apply(cmd)
			switch {
			case err != nil && !errors.Is(err, nexusraft.ErrRefused):
				t.Fatal(err)
			case (err == nil) != accepted:
				t.Fatalf("%.40q: got %v, want accepted: %v (there is %v)", command, err, accepted, model[name].Version)
			case err != nil && (!slices.Equal(before, z.Dump()) || events != len(z.Events())):
				t.Fatalf("%.40q was refused, and changed the state", command)
			}
			if accepted {
				if got, err := ParseVersion(answer); got != order || err != nil {
					t.Fatalf("answer %d, %v, want %d", got, err, order)
				}
				versions = append(versions, order)
				if delete(model, name); set {
					model[name] = Setting{Name: name, Version: order, Value: append([]byte(nil), value...)}
				}
			}
			all, version, err := All(z.Reader())
			if err != nil || version > order || len(all) != len(model) {
				t.Fatalf("%d settings of version %d, %v, want %d", len(all), version, err, len(model))
			}
			for _, s := range all {
				one, err := Get(z.Reader(), s.Name)
				if err != nil || !reflect.DeepEqual(s, model[s.Name]) || !reflect.DeepEqual(s, one) {
					t.Fatalf("%.99v by All, %.99v by Get, %v, want %.99v", s, one, err, model[s.Name])
				}
			}
			if rapid.IntRange(0, 9).Draw(t, "read") == 0 { // a watcher begins again
				from, watched = len(z.Events()), maps.Clone(model)
			}
		}
		for _, e := range z.Events()[from:] {
			s, err := ParseEvent(e.Payload)
			if err != nil || e.Topic != Topic || (e.Type == "deleted") != s.Deleted {
				t.Fatalf("event %.99v: %v, deleted: %t", e, err, s.Deleted)
			}
			if delete(watched, s.Name); !s.Deleted {
				watched[s.Name] = s
			}
		}
		if !reflect.DeepEqual(watched, model) {
			t.Fatalf("a watcher has %.999v, want %.999v", watched, model)
		}
	})
}

// What no command or event has made is refused, whatever it is.
func FuzzParse(f *testing.F) {
	f.Add(Set("n", Any, []byte("v")))
	f.Add(Delete("n", 7))
	f.Add([]byte("d"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseEvent(b); err == nil {
			again := append(command(b[0], s.Name, s.Version), s.Value...)
			if !bytes.Equal(again, b) {
				t.Errorf("%x is read as %v", b, s)
			}
		}
		_, err := machinetest.New(t, store{}).Apply(nexusraft.Command{Data: b})
		if err != nil && !errors.Is(err, nexusraft.ErrRefused) {
			t.Error(err)
		}
	})
}

// commandAt returns a command without data: that of an order.
func commandAt(order uint64) nexusraft.Command {
	return nexusraft.Command{
		Index: nexusraft.Index(order / nexusraft.MaxEntryCommands), Place: int(order % nexusraft.MaxEntryCommands),
	}
}
