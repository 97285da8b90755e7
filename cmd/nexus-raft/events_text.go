package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// eventObject is an event as JSON.
type eventObject struct {
	Sequence      uint64                `json:"sequence"`
	Time          time.Time             `json:"time"`
	Zone          nexusraft.ZoneID      `json:"zone,omitzero"`
	Incarnation   nexusraft.Incarnation `json:"incarnation,omitzero"`
	Topic         string                `json:"topic"`
	Type          string                `json:"type"`
	Pair          *pair                 `json:"pair,omitempty"`      // of a key's event; one that was deleted has no value
	Range         *keyRange             `json:"range,omitempty"`     // of many keys that were deleted at once
	Member        *nexusraft.Member     `json:"member,omitempty"`    // of a member's event
	ZoneInfo      *nexusraft.ZoneInfo   `json:"zone_info,omitempty"` // of a zone's creation or deletion
	Detail        *client.Detail        `json:"detail,omitempty"`    // of a node's own event
	Payload       *string               `json:"payload,omitempty"`
	PayloadBase64 []byte                `json:"payload_base64,omitempty"`
}

// keyRange is a range of keys as JSON; the end is etcd's range_end.
type keyRange struct {
	Key       *string            `json:"key,omitempty"`
	KeyBase64 []byte             `json:"key_base64,omitempty"`
	End       *string            `json:"range_end,omitempty"`
	EndBase64 []byte             `json:"range_end_base64,omitempty"`
	Modified  nexusraft.Revision `json:"mod_revision"`
}

// newEventObject decodes what it knows. A payload that it can't read is left as it is: it
// may be of a later release.
func newEventObject(e nexusraft.Event) eventObject {
	o := eventObject{
		Sequence: e.Sequence, Time: e.Time.UTC(), Zone: e.Zone, Incarnation: e.Incarnation,
		Topic: e.Topic, Type: e.Type,
	}
	if len(e.Payload) > 0 && o.decode(e) != nil {
		o.Payload, o.PayloadBase64 = textOrBytes(e.Payload)
	}
	return o
}

// errUnknown: the payload is an application's, or of a later release.
var errUnknown = errors.New("unknown payload")

// decode fills in the field that the topic has.
func (o *eventObject) decode(e nexusraft.Event) error {
	switch e.Topic {
	case client.KeyTopic:
		return o.decodeKey(e)
	case client.MemberTopic:
		m, err := client.MemberOf(e)
		if err == nil {
			o.Member = &m
		}
		return err
	case client.ZoneTopic:
		z, err := client.ZoneOf(e)
		if err == nil {
			o.ZoneInfo = &z
		}
		return err
	case client.LeaderTopic, client.SyncTopic, client.PeerTopic, client.HealthTopic, client.SnapshotTopic:
		d, err := client.DetailOf(e)
		if err == nil {
			o.Detail = &d
		}
		return err
	}
	return errUnknown
}

func (o *eventObject) decodeKey(e nexusraft.Event) error {
	kv, err := client.KeyValueOf(e)
	if err != nil {
		return err
	}
	switch e.Type {
	case client.PutType, client.PutLargeType, client.DeleteType:
		p := newPair(kv)
		if e.Type != client.PutType {
			p.Value = nil
		}
		o.Pair = &p
	case client.DeleteRangeType, client.DeleteLeaseType:
		o.Range = &keyRange{Modified: kv.ModRevision}
		o.Range.Key, o.Range.KeyBase64 = textOrBytes(kv.Key)
		o.Range.End, o.Range.EndBase64 = textOrBytes(kv.Value)
	default:
		return errUnknown
	}
	return nil
}

// maxBrief is how many bytes of a key, a value or a payload a line shows.
const maxBrief = 80

// brief returns an event's payload for a line of text.
func brief(e nexusraft.Event) string {
	o := newEventObject(e)
	switch {
	case o.Pair != nil || o.Range != nil:
		return briefKey(e)
	case o.Member != nil:
		return nexusraft.PrintableText(fmt.Sprintf("%s %v at %s", o.Member.Role, *o.Member, o.Member.Address))
	case o.ZoneInfo != nil:
		z := o.ZoneInfo
		return fmt.Sprintf("%s (%v), state machine %s", printable(z.Name), z.ID, printable(z.Machine))
	case o.Detail != nil:
		return printable(briefDetail(e, *o.Detail))
	}
	return clipped(e.Payload)
}

func briefKey(e nexusraft.Event) string {
	kv, err := client.KeyValueOf(e)
	switch {
	case err != nil:
		return clipped(e.Payload)
	case e.Type == client.DeleteType, e.Type == client.PutLargeType:
		return clipped(kv.Key)
	case e.Type == client.DeleteRangeType, e.Type == client.DeleteLeaseType:
		return clipped(kv.Key) + " to " + clipped(kv.Value)
	}
	return clipped(kv.Key) + " = " + clipped(kv.Value)
}

func briefDetail(e nexusraft.Event, d client.Detail) string {
	var parts []string
	add := func(known bool, name string, value any) {
		if known {
			parts = append(parts, fmt.Sprint(name, " ", value))
		}
	}
	add(e.Zone != 0, "zone", e.Zone)
	add(d.Node != 0, "node", d.Node)
	add(d.Address != "", "at", d.Address)
	add(d.Term != 0, "term", d.Term)
	add(d.Index != 0, "index", d.Index)
	add(d.Problem != "", "problem:", d.Problem)
	return strings.Join(parts, " ")
}

func clipped(b []byte) string {
	if len(b) <= maxBrief {
		return printable(string(b))
	}
	return fmt.Sprintf("%s… (%d bytes)", printable(string(b[:maxBrief])), len(b))
}
