package system

import (
	"encoding/binary"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// How many of a zone's events are deleted, and when. Changing one changes history.
const (
	maxEventLogBytes = 64 << 20
	trimStep         = 256 // events that a command deletes besides twice its own
	retentionSlack   = 8   // trimming begins an eighth beyond the limit, and so has something to do
)

const eventLogBytes = 6 * 8

var eventLogKey = []byte{Prefix, 'q'}

// EventLog says which events a zone has.
//
// 1 <= Oldest <= Next; events Oldest to Next-1 are there, and bytes is the size of their stored
// forms; oldestTime is that of the oldest one.
type EventLog struct {
	Next, Oldest uint64
	bytes        uint64
	oldestTime   int64
	keep         nexusraft.Retention
}

func newEventLog() EventLog { return EventLog{Next: 1, Oldest: 1, keep: nexusraft.DefaultRetention()} }

func (l EventLog) encode() []byte {
	b := make([]byte, 0, eventLogBytes)
	for _, v := range [...]uint64{l.Next, l.Oldest, l.bytes, uint64(l.oldestTime), l.keep.Count, uint64(l.keep.Age)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func decodeEventLog(b []byte) (EventLog, error) {
	if len(b) != eventLogBytes {
		return EventLog{}, fmt.Errorf("%w: the record of a zone's events has %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	l := EventLog{
		Next: at(0), Oldest: at(1), bytes: at(2), oldestTime: int64(at(3)),
		keep: nexusraft.Retention{Count: at(4), Age: time.Duration(at(5))},
	}
	if l.Oldest == 0 || l.Next < l.Oldest || l.keep.Age < 0 {
		return EventLog{}, fmt.Errorf("%w: a zone's events from %d to %d, kept for %v", nexusraft.ErrCorrupt, l.Oldest,
			l.Next, l.keep.Age)
	}
	return l, nil
}

// LoadEventLog returns which events a zone has; ErrCorrupt if that can't be read.
func LoadEventLog(r nexusraft.Reader) (EventLog, error) {
	b, ok, err := r.Get(eventLogKey)
	if err != nil {
		return EventLog{}, fmt.Errorf("read the record of a zone's events: %w", err)
	}
	if !ok {
		return newEventLog(), nil
	}
	return decodeEventLog(b)
}

// Check returns why events from next on can't be sent: GoneError if they are no longer kept,
// ErrRefused if events are off, or there is none yet before next.
func (l EventLog) Check(next uint64) error {
	switch {
	case l.keep.Count == 0:
		return ErrEventsOff
	case next < l.Oldest:
		return &nexusraft.GoneError{Asked: next, Oldest: l.Oldest}
	case next > l.Next:
		return NotYetPublished(next, l.Next-1)
	}
	return nil
}

// NotYetPublished refuses to begin at an event after the newest one's successor.
func NotYetPublished(next, newest uint64) error {
	return fmt.Errorf("%w: event %d is not there yet, the newest is %d", nexusraft.ErrRefused, next, newest)
}

// ErrEventsOff: the zone keeps no events.
var ErrEventsOff = fmt.Errorf("%w: the zone's events are turned off; keep more than 0 of them to turn them on",
	nexusraft.ErrRefused)

// trim deletes events beyond the limits, the oldest first, and at most so many. It begins only once
// they exceed a limit by an eighth, so that most commands delete nothing.
func (l *EventLog) trim(base nexusraft.ReadWriter, now int64, most int) error {
	if !l.over(now, retentionSlack) {
		return nil
	}
	for p, err := range base.Scan(EventKey(l.Oldest), EventKey(l.Next)) {
		if err != nil {
			return fmt.Errorf("read the oldest events: %w", err)
		}
		e, err := DecodeEvent(p.Value)
		if err != nil {
			return err
		}
		l.oldestTime = e.Time
		if most == 0 || !l.over(now, 0) {
			return nil
		}
		if err := base.Delete(EventKey(l.Oldest)); err != nil {
			return err
		}
		most--
		l.Oldest++
		l.bytes -= min(l.bytes, uint64(len(p.Value)))
	}
	return nil
}

// over reports whether the oldest event is beyond a limit; with a slack of n, by more than one part
// in n.
func (l *EventLog) over(now int64, slack uint64) bool {
	beyond := func(v, limit uint64) bool {
		if slack > 0 {
			limit += min(limit/slack, ^uint64(0)-limit)
		}
		return v > limit
	}
	if l.Next == l.Oldest {
		return false
	}
	age := uint64(max(now-l.oldestTime, 0))
	return beyond(l.Next-l.Oldest, l.keep.Count) || beyond(l.bytes, maxEventLogBytes) ||
		l.keep.Age > 0 && beyond(age, uint64(l.keep.Age))
}

// applyRetention changes how many events are kept.
func applyRetention(base nexusraft.ReadWriter, now int64, c *pb.EventRetention) error {
	keep := nexusraft.Retention{Count: c.GetCount(), Age: time.Duration(c.GetAgeNanos())}
	if err := CheckRetention(keep); err != nil {
		return err
	}
	l, err := LoadEventLog(base)
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
	if off && keep.Count > 0 { // what has happened meanwhile has no event, and subscriptions are to know
		_, err = publish(base, now, encodeEvent(now, TopicGap, TopicGap, nil))
	}
	return err
}

// CheckRetention returns ErrRefused for a retention that there can't be.
func CheckRetention(keep nexusraft.Retention) error {
	if keep.Age < 0 {
		return fmt.Errorf("%w: keep events for %v: give an age of 0 to keep them for ever", nexusraft.ErrRefused, keep.Age)
	}
	return nil
}
