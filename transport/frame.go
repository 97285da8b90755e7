package transport

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Frames are taken apart by hand, so that a message costs no allocation of its own and so
// that a frame is refused by its count before there is anything allocated for it. On the wire they
// are pb.Frame; these are its fields' numbers, and those of pb.Envelope.
const (
	frameMessages   protowire.Number = 1
	framePing       protowire.Number = 2
	envelopeZone    protowire.Number = 1
	envelopeMessage protowire.Number = 2
)

// appendFrame appends a frame of messages, with a ping unless that is 0.
func appendFrame(b []byte, msgs []Message, ping uint64) []byte {
	for _, m := range msgs {
		b = protowire.AppendTag(b, frameMessages, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(envelopeSize(m)))
		b = protowire.AppendTag(b, envelopeZone, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(m.Zone))
		b = protowire.AppendTag(b, envelopeMessage, protowire.BytesType)
		b = protowire.AppendBytes(b, m.Data)
	}
	if ping != 0 {
		b = protowire.AppendTag(b, framePing, protowire.VarintType)
		b = protowire.AppendVarint(b, ping)
	}
	return b
}

// envelopeSize is the length of what appendFrame writes for one message, without tag and length.
func envelopeSize(m Message) int {
	const tags = 2 // one byte each
	return tags + protowire.SizeVarint(uint64(m.Zone)) + protowire.SizeBytes(len(m.Data))
}

// parseFrame takes a frame apart. The messages share its memory, each its own part of it.
func parseFrame(b []byte) (msgs []Message, ping uint64, err error) {
	n, err := countMessages(b)
	if err != nil || n > maxFrameMessages {
		return nil, 0, errors.Join(err, tooMany(n))
	}
	msgs = make([]Message, 0, n)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b) // countMessages has seen that all is well
		b = b[n:]
		switch {
		case num == frameMessages && typ == protowire.BytesType:
			body, n := protowire.ConsumeBytes(b)
			b = b[n:]
			m, err := parseEnvelope(body)
			if err != nil {
				return nil, 0, err
			}
			msgs = append(msgs, m)
		case num == framePing && typ == protowire.VarintType:
			ping, n = protowire.ConsumeVarint(b)
			b = b[n:]
		default:
			b = b[protowire.ConsumeFieldValue(num, typ, b):]
		}
	}
	return msgs, ping, nil
}

func tooMany(n int) error {
	if n <= maxFrameMessages {
		return nil
	}
	return fmt.Errorf("read frame: %d messages, limit %d", n, maxFrameMessages)
}

// countMessages returns how many messages a frame has, or why it is none.
func countMessages(b []byte) (int, error) {
	n, err := countFields(b, frameMessages)
	if err != nil {
		return 0, fmt.Errorf("read frame: %w", err)
	}
	return n, nil
}

// countFields returns how often a field of bytes is in an encoded message, which is checked as far
// as its outermost fields go. The same number with another type is an unknown field, and no such one.
func countFields(b []byte, field protowire.Number) (count int, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeField(b)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		if num == field && typ == protowire.BytesType {
			count++
		}
		b = b[n:]
	}
	return count, nil
}

// parseEnvelope takes one message of a frame apart.
func parseEnvelope(b []byte) (m Message, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return Message{}, fmt.Errorf("read frame: envelope: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case num == envelopeZone && typ == protowire.VarintType:
			var zone uint64
			zone, n = protowire.ConsumeVarint(b)
			m.Zone = nexusraft.ZoneID(zone)
		case num == envelopeMessage && typ == protowire.BytesType:
			m.Data, n = protowire.ConsumeBytes(b)
			m.Data = m.Data[:len(m.Data):len(m.Data)]
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return Message{}, fmt.Errorf("read frame: envelope: %w", protowire.ParseError(n))
		}
		b = b[n:]
	}
	if len(m.Data) > maxMessageBytes {
		return Message{}, fmt.Errorf("read frame: a message of %d bytes, limit %d", len(m.Data), maxMessageBytes)
	}
	return m, nil
}
