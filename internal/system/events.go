package system

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// maxAppEventBytes is the largest payload of an application's event, which travels in a command.
// Changing it changes history.
const maxAppEventBytes = 1 << 20

const (
	appTopics        = "app/"
	eventHeaderBytes = 8 + 2 + 2
)

// TopicGap is the topic, and the type, of an event that stands for others, which are not there.
const TopicGap = "gap"

// EventKey is where a zone's event is stored.
func EventKey(sequence uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{Prefix, 'e'}, sequence)
}

// encodeEvent is an event as it is stored: time, lengths of topic and type, these, and the
// payload, which is the rest. Integers are big-endian.
func encodeEvent(now int64, topic, kind string, payload []byte) []byte {
	b := make([]byte, 0, eventHeaderBytes+len(topic)+len(kind)+len(payload))
	b = binary.BigEndian.AppendUint64(b, uint64(now))
	b = binary.BigEndian.AppendUint16(b, uint16(len(topic)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(kind)))
	b = append(b, topic...)
	b = append(b, kind...)
	return append(b, payload...)
}

// Event is an event as it was read. Its payload is borrowed.
type Event struct {
	Time        int64 // the zone's, in nanoseconds since the Unix epoch
	Topic, Type string
	Payload     []byte
}

// DecodeEvent reads what encodeEvent wrote; for everything else it returns ErrCorrupt.
func DecodeEvent(b []byte) (Event, error) {
	if len(b) < eventHeaderBytes {
		return Event{}, fmt.Errorf("%w: an event of %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	e := Event{Time: int64(binary.BigEndian.Uint64(b))}
	topic, kind, rest := int(binary.BigEndian.Uint16(b[8:])), int(binary.BigEndian.Uint16(b[10:])), b[eventHeaderBytes:]
	if topic+kind > len(rest) {
		return Event{}, fmt.Errorf("%w: an event ends inside its topic or type", nexusraft.ErrCorrupt)
	}
	e.Topic, e.Type, e.Payload = string(rest[:topic]), string(rest[topic:topic+kind]), rest[topic+kind:]
	if err := checkEvent(e.Topic, e.Type, len(e.Payload)); err != nil {
		return Event{}, fmt.Errorf("%w: stored %v", nexusraft.ErrCorrupt, err)
	}
	return e, nil
}

// checkEvent returns why a state machine can't publish such an event.
func checkEvent(topic, kind string, payload int) error {
	for _, name := range [...]string{topic, kind} {
		switch {
		case len(name) > nexusraft.MaxEventNameBytes:
			return fmt.Errorf("event: %w: a topic or type of %d bytes, limit %d", nexusraft.ErrTooLarge, len(name),
				nexusraft.MaxEventNameBytes)
		case name == "" || !utf8.ValidString(name):
			return fmt.Errorf("event: %w: topic %q and type %q must be text, and not empty", nexusraft.ErrRefused, topic, kind)
		}
	}
	if payload > nexusraft.MaxEventPayloadBytes {
		return fmt.Errorf("event: %w: a payload of %d bytes, limit %d", nexusraft.ErrTooLarge, payload,
			nexusraft.MaxEventPayloadBytes)
	}
	return nil
}

// Events are those of one command, in order, until they are published.
type Events struct {
	encoded [][]byte
	bytes   int
}

// Len returns how many they are.
func (e *Events) Len() int { return len(e.encoded) }

// Add appends one, which is copied, as nexusraft.Tx.Publish does.
func (e *Events) Add(now int64, topic, kind string, payload []byte) error {
	if err := checkEvent(topic, kind, len(payload)); err != nil {
		return err
	}
	if topic == TopicGap {
		return fmt.Errorf("event: %w: the topic %q is for events that are missing", nexusraft.ErrRefused, TopicGap)
	}
	size := eventHeaderBytes + len(topic) + len(kind) + len(payload)
	if e.bytes += size; e.bytes > nexusraft.MaxCommandEventBytes {
		return fmt.Errorf("event: %w: the command's events have over %d bytes", nexusraft.ErrTooLarge,
			nexusraft.MaxCommandEventBytes)
	}
	e.encoded = append(e.encoded, encodeEvent(now, topic, kind, payload))
	return nil
}

// Publish appends a command's events to those of a zone, and deletes those beyond its limits. Where
// events are off it only deletes.
func (e *Events) Publish(base nexusraft.ReadWriter, now int64) error {
	_, err := publish(base, now, e.encoded...)
	return err
}

// publish appends events, as encodeEvent makes them, to those of a zone, deletes those beyond the
// limits, and returns the last one's sequence. Where events are off it only deletes.
func publish(base nexusraft.ReadWriter, now int64, events ...[]byte) (last uint64, err error) {
	l, err := LoadEventLog(base)
	if err != nil {
		return 0, err
	}
	if l.keep.Count == 0 {
		events = nil
	}
	for _, e := range events {
		if l.Oldest == l.Next {
			l.oldestTime = now
		}
		if err := base.Set(EventKey(l.Next), e); err != nil {
			return 0, err
		}
		l.Next++
		l.bytes += uint64(len(e))
	}
	if err := l.trim(base, now, trimStep+2*len(events)); err != nil {
		return 0, err
	}
	return l.Next - 1, base.Set(eventLogKey, l.encode())
}

// applyPublish appends an application's event; the answer is its sequence.
func applyPublish(base nexusraft.ReadWriter, now int64, c *pb.PublishEvent) ([]byte, error) {
	if err := CheckPublish(c.GetTopic(), c.GetType(), len(c.GetPayload())); err != nil {
		return nil, err
	}
	l, err := LoadEventLog(base)
	if err != nil {
		return nil, err
	}
	if l.keep.Count == 0 {
		return nil, ErrEventsOff
	}
	last, err := publish(base, now, encodeEvent(now, c.GetTopic(), c.GetType(), c.GetPayload()))
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(nil, last), nil
}

// CheckPublish returns why an application can't publish such an event.
func CheckPublish(topic, kind string, payload int) error {
	if !strings.HasPrefix(topic, appTopics) || topic == appTopics {
		return fmt.Errorf("%w: publish to topic %.64q: topics of applications begin with %q", nexusraft.ErrRefused, topic,
			appTopics)
	}
	if payload > maxAppEventBytes {
		return fmt.Errorf("event: %w: a payload of %d bytes, limit %d", nexusraft.ErrTooLarge, payload, maxAppEventBytes)
	}
	return checkEvent(topic, kind, payload)
}
