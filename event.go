package nexusraft

import (
	"fmt"
	"strings"
	"time"
)

// Event is something that happened in a zone or on a node.
type Event struct {
	Sequence    uint64 // from 1 on, without gaps in the zone or in the node's incarnation
	Topic       string
	Type        string
	Payload     []byte // its form goes with the topic; anything, for topics that begin with "app/"
	Time        time.Time
	Zone        ZoneID      // 0 for the node as a whole
	Incarnation Incarnation // of the node whose own event it is; 0 for a zone's
}

// EventBatch is some events, in order, and where to go on after them. Its receiver owns it.
type EventBatch struct {
	Events      []Event     // may be empty
	Next        uint64      // where to go on: above all that were sent or filtered out
	Incarnation Incarnation // that Next is of, for a node's own events
}

// Subscription says which events to send. None of Topics or Types means all.
type Subscription struct {
	Zone        ZoneID      // 0: the node's own events
	Topics      []string    // an event is sent if its topic is one of these or lies below one
	Types       []string    // and its type one of these
	From        uint64      // the first sequence to send; 0: what happens from now on
	Incarnation Incarnation // that From is of, for a node's own events; 0: the present one
}

// Validate returns ErrTooLarge if there are more than MaxEventFilters topics or types, or
// one of them is longer than any event's.
func (s Subscription) Validate() error {
	for _, names := range [][]string{s.Topics, s.Types} {
		if len(names) > MaxEventFilters {
			return fmt.Errorf("%w: subscribe to %d topics or types, limit %d", ErrTooLarge, len(names), MaxEventFilters)
		}
		for _, name := range names {
			if len(name) > MaxEventNameBytes {
				return fmt.Errorf("%w: subscribe to a topic or type of %d bytes, limit %d", ErrTooLarge, len(name),
					MaxEventNameBytes)
			}
		}
	}
	return nil
}

// Wants reports whether an event of that topic and type is to be sent.
func (s Subscription) Wants(topic, kind string) bool {
	return wanted(s.Types, func(t string) bool { return kind == t }) && s.WantsTopic(topic)
}

// WantsTopic reports whether events of that topic are to be sent, of some type.
func (s Subscription) WantsTopic(topic string) bool {
	return wanted(s.Topics, func(t string) bool { return below(topic, t) })
}

func wanted(names []string, fits func(string) bool) bool {
	for _, name := range names {
		if fits(name) {
			return true
		}
	}
	return len(names) == 0
}

// below reports whether a topic is prefix or lies below it: whole parts count, so that
// "member" includes "member/added" and not "members". A slash at prefix's end changes nothing.
func below(topic, prefix string) bool {
	prefix = strings.TrimSuffix(prefix, "/")
	rest, ok := strings.CutPrefix(topic, prefix)
	return ok && (rest == "" || rest[0] == '/' || prefix == "")
}
