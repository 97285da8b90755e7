package system

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// message is a pointer to a generated message T.
type message[T any] interface {
	*T
	proto.Message
}

// decode reads what encode wrote. what names the record in errors.
func decode[T any, M message[T]](b []byte, what string) (M, error) {
	m := M(new(T))
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%w: %s can't be read: %w", nexusraft.ErrCorrupt, what, err)
	}
	return m, nil
}

// decodeAll reads all records from start to end, in the order of their keys.
func decodeAll[T any, M message[T]](r nexusraft.Reader, start, end []byte, what string) (all []M, err error) {
	for p, err := range r.Scan(start, end) {
		if err != nil {
			return nil, err
		}
		m, err := decode[T, M](p.Value, what)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// encode returns the same bytes on every replica that runs the same release.
func encode(m proto.Message, what string) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", what, err)
	}
	return b, nil
}

// set stores a record.
func set(base nexusraft.ReadWriter, key []byte, m proto.Message, what string) error {
	b, err := encode(m, what)
	if err != nil {
		return err
	}
	return base.Set(key, b)
}

// expiring is a record that is good for a while.
type expiring interface {
	GetId() []byte
	GetExpiresNanos() int64
}

// sweep deletes those of all that have expired at now, and returns how many are left. It refuses an
// identifier that is among them; what names the record.
func sweep[T expiring](
	base nexusraft.ReadWriter, now int64, all []T, id []byte, key func([]byte) []byte, what string,
) (left int, err error) {
	for _, old := range all {
		if bytes.Equal(old.GetId(), id) {
			return 0, fmt.Errorf("%w: %s %x exists", nexusraft.ErrRefused, what, id)
		}
		if old.GetExpiresNanos() > now {
			left++
			continue
		}
		if err := base.Delete(key(old.GetId())); err != nil {
			return 0, err
		}
	}
	return left, nil
}
