package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Limits of commands. All replicas depend on them: they can't be changed for a zone that has
// commands.
const (
	maxNameBytes  = 200
	maxValueBytes = 64 << 10
)

// What a command does, in its first byte. Then come the version that the setting must have, 8 bytes, the
// length of the name, 4 bytes, the name, and the value.
const (
	opSet    = 's'
	opDelete = 'd' // without a value
)

// Versions that no setting has: what a command may ask for instead of one.
const (
	Absent uint64 = 0              // there must be no such setting
	Any    uint64 = math.MaxUint64 // whatever there is
)

// Set is the command that gives a setting a value, if its version is the one that is named. Its answer is
// for ParseVersion.
func Set(name string, version uint64, value []byte) []byte {
	return append(command(opSet, name, version), value...)
}

// Delete is the command that deletes a setting, if its version is the one that is named. Its answer is for
// ParseVersion.
func Delete(name string, version uint64) []byte { return command(opDelete, name, version) }

func command(op byte, name string, version uint64) []byte {
	b := binary.BigEndian.AppendUint64([]byte{op}, version)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(name))), name...)
}

// ParseVersion reads the answer of Set or Delete: the command's version. Versions ascend over all settings.
func ParseVersion(answer []byte) (uint64, error) {
	if len(answer) != 8 {
		return 0, fmt.Errorf("config: an answer of %d bytes is no version", len(answer))
	}
	return binary.BigEndian.Uint64(answer), nil
}

// Setting is a name with its value.
type Setting struct {
	Name    string
	Version uint64 // of the command that has set, or deleted, it
	Value   []byte
	Deleted bool // and there is no value
}

// Topic is that of the store's events. Their payload is for ParseEvent.
const Topic = "config"

// ParseEvent reads an event of Topic: what a setting has become.
func ParseEvent(payload []byte) (Setting, error) {
	op, version, name, value, ok := parse(payload)
	if !ok {
		return Setting{}, fmt.Errorf("config: an event of %d bytes is no setting", len(payload))
	}
	return Setting{
		Name: name, Version: version, Value: append([]byte(nil), value...), Deleted: op == opDelete,
	}, nil
}

// parse reads a command, or an event, which is one with the setting's new version.
func parse(b []byte) (op byte, version uint64, name string, value []byte, ok bool) {
	if len(b) < 13 || uint64(binary.BigEndian.Uint32(b[9:])) > uint64(len(b)-13) {
		return 0, 0, "", nil, false
	}
	rest, size := b[13:], binary.BigEndian.Uint32(b[9:])
	op, version, name, value = b[0], binary.BigEndian.Uint64(b[1:]), string(rest[:size]), rest[size:]
	return op, version, name, value, op == opSet || op == opDelete && len(value) == 0
}

// store is a configuration store as a state machine. Its keys:
//
//	v         the version of the last change, 8 bytes
//	s, name   a setting: its version, 8 bytes, and its value
//
// Each change is an event, in the same command, so none is without its event.
type store struct{}

func (store) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	op, wanted, name, value, ok := parse(cmd.Data)
	switch {
	case !ok:
		return nil, refuse("a command of %d bytes: make one with Set or Delete", len(cmd.Data))
	case name == "" || len(name) > maxNameBytes || !utf8.ValidString(name):
		return nil, refuse("a name of %d bytes: it is text of 1 to %d", len(name), maxNameBytes)
	case len(value) > maxValueBytes:
		return nil, refuse("%q: a value of %d bytes, limit %d", name, len(value), maxValueBytes)
	}
	old, err := Get(tx, name)
	if err != nil {
		return nil, err
	}
	if wanted != Any && wanted != old.Version {
		return nil, refuse("%q has version %d and not %d: read it again", name, old.Version, wanted)
	}
	now := binary.BigEndian.AppendUint64(nil, cmd.Order())
	if op == opDelete && old.Version == Absent {
		return now, nil // it may be proposed again
	}
	if op == opDelete {
		err = tx.Delete(key(name))
	} else {
		err = tx.Set(key(name), append(now[:8:8], value...))
	}
	if err != nil {
		return nil, err
	}
	if err := tx.Set([]byte("v"), now); err != nil {
		return nil, err
	}
	kind := map[byte]string{opSet: "set", opDelete: "deleted"}[op]
	return now, tx.Publish(Topic, kind, append(command(op, name, cmd.Order()), value...))
}

// refuse returns a refusal, which its proposer can tell from other errors on any member.
func refuse(format string, args ...any) error {
	return fmt.Errorf("config: %w: "+format, append([]any{nexusraft.ErrRefused}, args...)...)
}

func key(name string) []byte { return append([]byte("s"), name...) }

// Get returns a setting; one that is not there has the version Absent.
func Get(r nexusraft.Reader, name string) (Setting, error) {
	b, ok, err := r.Get(key(name))
	if err != nil || !ok {
		return Setting{Name: name, Deleted: true}, err
	}
	return setting(name, b)
}

func setting(name string, b []byte) (Setting, error) {
	if len(b) < 8 {
		return Setting{}, fmt.Errorf("config: %w: setting %q has %d bytes", nexusraft.ErrCorrupt, name, len(b))
	}
	return Setting{Name: name, Version: binary.BigEndian.Uint64(b), Value: append([]byte(nil), b[8:]...)}, nil
}

// All returns all settings, by name, and the version of the last change.
func All(r nexusraft.Reader) (all []Setting, version uint64, err error) {
	b, ok, err := r.Get([]byte("v"))
	if err != nil || !ok {
		return nil, 0, err
	}
	version = binary.BigEndian.Uint64(b)
	for p, err := range r.Scan([]byte("s"), []byte("t")) {
		if err != nil {
			return nil, 0, err
		}
		s, err := setting(string(p.Key[1:]), p.Value)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, s)
	}
	return all, version, nil
}
