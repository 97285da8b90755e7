package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/storage"
)

// A zone's events are part of its state tree, and so they are replicated, stored and sent in
// snapshots with the changes that they tell of, by the same atomic writes (I2), and are
// the same on every replica (I4):
//
//	0x00 'e' sequence (8 bytes, big-endian)    one event, see encodeEvent
//	0x00 'q'                                   the eventLog; absent in a zone without events so far

// DefaultRetention is how many of a zone's events are kept, and for how long by the
// zone's time, unless Zone.SetEventRetention says otherwise.
var DefaultRetention = Retention{Count: 10_000, Age: 24 * time.Hour}

// Retention says which of a zone's events are kept: the newest. Whatever it says, they take
// not much more than 64 MiB.
type Retention struct {
	Count uint64        // 0 turns the zone's events off
	Age   time.Duration // 0: for ever
}

const (
	maxEventLogBytes = 64 << 20
	maxAppEventBytes = 1 << 20 // the payload of an application's event: it travels in a command
	appTopics        = "app/"
	trimStep         = 256 // events that a command deletes besides twice its own
	retentionSlack   = 8   // trimming begins an eighth beyond the limit, and so has something to do
	eventHeaderBytes = 8 + 2 + 2
	eventLogBytes    = 6 * 8
)

var eventLogKey = []byte{partNode, 'q'}

func eventKey(sequence uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{partNode, 'e'}, sequence)
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

// storedEvent is an event as it was read. Its payload is borrowed.
type storedEvent struct {
	time        int64
	topic, kind string
	payload     []byte
}

// decodeEvent reads what encodeEvent wrote; for everything else it returns ErrCorrupt.
func decodeEvent(b []byte) (storedEvent, error) {
	if len(b) < eventHeaderBytes {
		return storedEvent{}, fmt.Errorf("%w: an event of %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	e := storedEvent{time: int64(binary.BigEndian.Uint64(b))}
	topic, kind, rest := int(binary.BigEndian.Uint16(b[8:])), int(binary.BigEndian.Uint16(b[10:])), b[eventHeaderBytes:]
	if topic+kind > len(rest) {
		return storedEvent{}, fmt.Errorf("%w: an event ends inside its topic or type", nexusraft.ErrCorrupt)
	}
	e.topic, e.kind, e.payload = string(rest[:topic]), string(rest[topic:topic+kind]), rest[topic+kind:]
	if err := checkEvent(e.topic, e.kind, len(e.payload)); err != nil {
		return storedEvent{}, fmt.Errorf("%w: stored %v", nexusraft.ErrCorrupt, err)
	}
	return e, nil
}

// checkEvent returns why a state machine can't publish such an event.
func checkEvent(topic, kind string, payload int) error {
	for _, name := range [...]string{topic, kind} {
		switch {
		case len(name) > nexusraft.MaxEventNameBytes:
			return fmt.Errorf("event: %w: a topic or type of %d bytes, limit %d", nexusraft.ErrTooLarge, len(name), nexusraft.MaxEventNameBytes)
		case name == "" || !utf8.ValidString(name):
			return fmt.Errorf("event: %w: topic %q and type %q must be text, and not empty", nexusraft.ErrRefused, topic, kind)
		}
	}
	if payload > nexusraft.MaxEventPayloadBytes {
		return fmt.Errorf("event: %w: a payload of %d bytes, limit %d", nexusraft.ErrTooLarge, payload, nexusraft.MaxEventPayloadBytes)
	}
	return nil
}

// eventLog says which events a zone has.
//
// 1 <= oldest <= next; events oldest to next-1 are there, and bytes is the size of their
// stored forms; oldestTime is that of the oldest one.
type eventLog struct {
	next, oldest, bytes uint64
	oldestTime          int64
	keep                Retention
}

func newEventLog() eventLog { return eventLog{next: 1, oldest: 1, keep: DefaultRetention} }

func (l eventLog) encode() []byte {
	b := make([]byte, 0, eventLogBytes)
	for _, v := range [...]uint64{l.next, l.oldest, l.bytes, uint64(l.oldestTime), l.keep.Count, uint64(l.keep.Age)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func decodeEventLog(b []byte) (eventLog, error) {
	if len(b) != eventLogBytes {
		return eventLog{}, fmt.Errorf("%w: the record of a zone's events has %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	l := eventLog{
		next: at(0), oldest: at(1), bytes: at(2), oldestTime: int64(at(3)),
		keep: Retention{Count: at(4), Age: time.Duration(at(5))},
	}
	if l.oldest == 0 || l.next < l.oldest || l.keep.Age < 0 {
		return eventLog{}, fmt.Errorf("%w: a zone's events from %d to %d, kept for %v", nexusraft.ErrCorrupt, l.oldest, l.next, l.keep.Age)
	}
	return l, nil
}

func loadEventLog(r nexusraft.Reader) (eventLog, error) {
	b, ok, err := r.Get(eventLogKey)
	if err != nil {
		return eventLog{}, fmt.Errorf("read the record of a zone's events: %w", err)
	}
	if !ok {
		return newEventLog(), nil
	}
	return decodeEventLog(b)
}

// publishEvents appends events, as encodeEvent makes them, to those of a zone, deletes what
// is over, and returns the last one's sequence. Where events are off it only deletes.
func publishEvents(base *storage.Overlay, now int64, events ...[]byte) (last uint64, err error) {
	l, err := loadEventLog(base)
	if err != nil {
		return 0, err
	}
	if l.keep.Count == 0 {
		events = nil
	}
	for _, e := range events {
		if l.oldest == l.next {
			l.oldestTime = now
		}
		if err := base.Set(eventKey(l.next), e); err != nil {
			return 0, err
		}
		l.next++
		l.bytes += uint64(len(e))
	}
	if err := l.trim(base, now, trimStep+2*len(events)); err != nil {
		return 0, err
	}
	return l.next - 1, base.Set(eventLogKey, l.encode())
}

// trim deletes events that are over, the oldest first, most of them at most. It waits until
// an eighth is over, so that most commands delete nothing.
func (l *eventLog) trim(base *storage.Overlay, now int64, most int) error {
	if !l.over(now, retentionSlack) {
		return nil
	}
	for p, err := range base.Scan(eventKey(l.oldest), eventKey(l.next)) {
		if err != nil {
			return fmt.Errorf("read the oldest events: %w", err)
		}
		e, err := decodeEvent(p.Value)
		if err != nil {
			return err
		}
		l.oldestTime = e.time
		if most == 0 || !l.over(now, 0) {
			return nil
		}
		if err := base.Delete(eventKey(l.oldest)); err != nil {
			return err
		}
		most--
		l.oldest++
		l.bytes -= min(l.bytes, uint64(len(p.Value)))
	}
	return nil
}

// over reports whether the oldest event is to go; with a slack of n only if the limit is
// exceeded by one part of n.
func (l *eventLog) over(now int64, slack uint64) bool {
	beyond := func(v, limit uint64) bool {
		if slack > 0 {
			limit += min(limit/slack, ^uint64(0)-limit)
		}
		return v > limit
	}
	if l.next == l.oldest {
		return false
	}
	age := uint64(max(now-l.oldestTime, 0))
	return beyond(l.next-l.oldest, l.keep.Count) || beyond(l.bytes, maxEventLogBytes) ||
		l.keep.Age > 0 && beyond(age, uint64(l.keep.Age))
}

// Publish implements nexusraft.Tx.
func (t *machineTx) Publish(topic, kind string, payload []byte) error {
	if err := checkEvent(topic, kind, len(payload)); err != nil {
		return err
	}
	if topic == topicGap {
		return fmt.Errorf("event: %w: the topic %q is for events that are missing", nexusraft.ErrRefused, topicGap)
	}
	size := eventHeaderBytes + len(topic) + len(kind) + len(payload)
	if t.eventBytes += size; t.eventBytes > nexusraft.MaxCommandEventBytes {
		return fmt.Errorf("event: %w: the command's events have over %d bytes", nexusraft.ErrTooLarge, nexusraft.MaxCommandEventBytes)
	}
	t.events = append(t.events, encodeEvent(t.now, topic, kind, payload))
	return nil
}

// applyPublish appends an application's event; the answer is its sequence.
func applyPublish(base *storage.Overlay, now int64, c *pb.PublishEvent) ([]byte, error) {
	if err := checkAppEvent(c.GetTopic(), c.GetType(), len(c.GetPayload())); err != nil {
		return nil, err
	}
	l, err := loadEventLog(base)
	if err != nil {
		return nil, err
	}
	if l.keep.Count == 0 {
		return nil, errEventsOff
	}
	last, err := publishEvents(base, now, encodeEvent(now, c.GetTopic(), c.GetType(), c.GetPayload()))
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(nil, last), nil
}

var errEventsOff = fmt.Errorf("%w: the zone's events are turned off; keep more than 0 of them to turn them on", nexusraft.ErrRefused)

func checkAppEvent(topic, kind string, payload int) error {
	if !strings.HasPrefix(topic, appTopics) || topic == appTopics {
		return fmt.Errorf("%w: publish to topic %.64q: topics of applications begin with %q", nexusraft.ErrRefused, topic, appTopics)
	}
	if payload > maxAppEventBytes {
		return fmt.Errorf("event: %w: a payload of %d bytes, limit %d", nexusraft.ErrTooLarge, payload, maxAppEventBytes)
	}
	return checkEvent(topic, kind, payload)
}

// applyRetention changes how many events are kept.
func applyRetention(base *storage.Overlay, now int64, c *pb.EventRetention) error {
	keep := Retention{Count: c.GetCount(), Age: time.Duration(c.GetAgeNanos())}
	if err := keep.check(); err != nil {
		return err
	}
	l, err := loadEventLog(base)
	if err != nil {
		return err
	}
	off := l.keep.Count == 0
	l.keep = keep
	if err := l.trim(base, now, trimStep); err != nil {
		return err
	}
	if err := base.Set(eventLogKey, l.encode()); err != nil {
		return err
	}
	if off && keep.Count > 0 { // what has happened meanwhile has no event: who follows is to know
		_, err = publishEvents(base, now, encodeEvent(now, topicGap, topicGap, nil))
	}
	return err
}

func (r Retention) check() error {
	if r.Age < 0 {
		return fmt.Errorf("%w: keep events for %v: give an age of 0 to keep them for ever", nexusraft.ErrRefused, r.Age)
	}
	return nil
}

// Publish appends an event to the zone's events and returns its sequence, once it is
// committed. Topic begins with "app/"; topic and kind have at most 256 bytes each, payload at
// most 1 MiB; it is copied. It may be called on any replica, as Zone.Propose may.
//
// Errors: those of Zone.Propose, and ErrRefused for another topic or where the zone's events
// are turned off.
func (z *Zone) Publish(ctx context.Context, topic, kind string, payload []byte) (sequence uint64, err error) {
	if err := checkAppEvent(topic, kind, len(payload)); err != nil {
		return 0, err
	}
	answer, err := z.node.proposeOwn(ctx, z.id, &pb.NodeCommand{Kind: &pb.NodeCommand_Publish{
		Publish: &pb.PublishEvent{Topic: topic, Type: kind, Payload: payload},
	}})
	if err != nil {
		return 0, fmt.Errorf("publish an event: %w", err)
	}
	if len(answer) != 8 {
		return 0, fmt.Errorf("publish an event: %w: the answer has %d bytes", nexusraft.ErrCorrupt, len(answer))
	}
	return binary.BigEndian.Uint64(answer), nil
}

// SetEventRetention changes how many of the zone's events are kept, and for how long by the
// zone's time. What is over is deleted in steps, as commands publish. Errors are those of
// Zone.Propose, and ErrRefused for a negative age.
func (z *Zone) SetEventRetention(ctx context.Context, keep Retention) error {
	if err := keep.check(); err != nil {
		return err
	}
	_, err := z.node.proposeOwn(ctx, z.id, &pb.NodeCommand{Kind: &pb.NodeCommand_Retention{
		Retention: &pb.EventRetention{Count: keep.Count, AgeNanos: int64(keep.Age)},
	}})
	if err != nil {
		return fmt.Errorf("change how many events are kept: %w", err)
	}
	return nil
}
