package zone

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

var envelopes = []Envelope{
	{},
	{Command: []byte("put")},
	{Own: true, Command: []byte("publish")},
	{
		Proposal: ProposalID{Replica: 1, Incarnation: 2, Sequence: 3},
		Request:  nexusraft.RequestID{Session: 4, Sequence: 5}, Time: 6, Command: []byte{0},
	},
	{
		Proposal: ProposalID{math.MaxUint64, math.MaxUint64 - 1, math.MaxUint64 - 2},
		Request:  nexusraft.RequestID{Session: math.MaxUint64 - 3, Sequence: math.MaxUint64 - 4}, Time: math.MinInt64,
		Command: bytes.Repeat([]byte("x"), 1000),
	},
}

func TestEnvelopeRoundTrip(t *testing.T) {
	for _, want := range envelopes {
		got, err := DecodeEntry(want.Encode())
		if err != nil {
			t.Fatalf("decode %+v: %v", want, err)
		}
		if diff := cmp.Diff([]Envelope{want}, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// TestEnvelopeFormat pins the stored form: what is in a log must be readable for ever.
func TestEnvelopeFormat(t *testing.T) {
	want := []byte{
		1,
		0, 0, 0, 0, 0, 0, 0, 1,
		0, 0, 0, 0, 0, 0, 0, 2,
		0, 0, 0, 0, 0, 0, 0, 3,
		0, 0, 0, 0, 0, 0, 0, 4,
		0, 0, 0, 0, 0, 0, 0, 5,
		0, 0, 0, 0, 0, 0, 0, 6,
		0,
	}
	if diff := cmp.Diff(want, envelopes[3].Encode()); diff != "" {
		t.Errorf("stored form (-want +got):\n%s", diff)
	}
}

func TestEnvelopeIsACopy(t *testing.T) {
	command := []byte("abc")
	b := Envelope{Command: command}.Encode()
	command[0] = 'x'
	if got, err := DecodeEntry(b); err != nil || string(got[0].Command) != "abc" {
		t.Errorf("got %v, %v: the stored form shares the caller's memory", got, err)
	}
}

func TestDecodeEntryCorrupt(t *testing.T) {
	good := envelopes[2].Encode()
	for name, b := range map[string][]byte{
		"nothing":       nil,
		"a torn header": good[:envelopeHeader-1],
		"kind 0":        append([]byte{0}, good[1:]...),
		"a later kind":  append([]byte{envelopeBatch + 1}, good[1:]...),
		"too large":     make([]byte, envelopeHeader+MaxCommandBytes+1),
	} {
		if name == "too large" {
			b[0] = envelopeMachine
		}
		if got, err := DecodeEntry(b); !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("%s: got %+v and error %v, want ErrCorrupt", name, got, err)
		}
	}
	largest := append(make([]byte, 0), envelopes[0].Encode()...)
	largest = append(largest, make([]byte, MaxCommandBytes)...)
	if _, err := DecodeEntry(largest); err != nil {
		t.Errorf("the largest command: %v", err)
	}
}

// FuzzDecodeEntry: any bytes give an error that says corrupt, or envelopes that are stored as just these
// bytes.
func FuzzDecodeEntry(f *testing.F) {
	for _, e := range envelopes {
		f.Add(e.Encode())
	}
	for _, b := range batches {
		f.Add(encodeEntry(b))
	}
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := DecodeEntry(b)
		if err != nil {
			if !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Errorf("got error %v, want ErrCorrupt", err)
			}
			return
		}
		if got := encodeEntry(all); !bytes.Equal(got, b) {
			t.Errorf("got %x after decoding %x", got, b)
		}
	})
}
