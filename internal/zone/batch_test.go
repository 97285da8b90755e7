package zone

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// batches are envelopes that one entry may carry.
var batches = [][]Envelope{
	proposed(Envelope{Command: []byte("a")}, Envelope{Command: []byte("bc")}),
	proposed(Envelope{Time: -7}, Envelope{Time: -7}, Envelope{Time: -7, Command: []byte{0}}),
	proposed(Envelope{Request: nexusraft.RequestID{Session: 8, Sequence: 9}, Command: []byte("x")},
		Envelope{Command: []byte("y")}, Envelope{Request: nexusraft.RequestID{Sequence: math.MaxUint64}}),
	proposed(make([]Envelope, maxBatchCommands)...),
	proposed(Envelope{Command: make([]byte, maxBatchBytes-2*batchLength)}, Envelope{}),
}

// proposed numbers envelopes as a driver does.
func proposed(all ...Envelope) []Envelope {
	for i := range all {
		all[i].Proposal = ProposalID{Replica: 1, Incarnation: 2, Sequence: 3}.plus(i)
	}
	return all
}

func TestBatchRoundTrip(t *testing.T) {
	for i, b := range batches {
		if n := fitting(b); n != len(b) {
			t.Errorf("batch %d: only %d of %d envelopes fit", i, n, len(b))
		}
		want := slices.Clone(b)
		for j := range want {
			want[j].Place, want[j].More = j, j < len(want)-1
		}
		got, err := DecodeEntry(encodeEntry(b))
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("batch %d: %v (-want +got):\n%s", i, err, diff)
		}
	}
}

// TestBatchFormat pins the stored form: what is in a log must be readable for ever.
func TestBatchFormat(t *testing.T) {
	b := proposed(Envelope{Time: 4, Command: []byte("ab")},
		Envelope{Time: 4, Request: nexusraft.RequestID{Session: 5, Sequence: 6}, Command: []byte("c")})
	want := []byte{
		3,
		0, 0, 0, 0, 0, 0, 0, 1,
		0, 0, 0, 0, 0, 0, 0, 2,
		0, 0, 0, 0, 0, 0, 0, 3,
		0, 0, 0, 0, 0, 0, 0, 4,
		0, 2,
		0, 0, 0, 2, 'a', 'b',
		0x80, 0, 0, 1,
		0, 0, 0, 0, 0, 0, 0, 5,
		0, 0, 0, 0, 0, 0, 0, 6,
		'c',
	}
	if diff := cmp.Diff(want, encodeEntry(b)); diff != "" {
		t.Errorf("stored form (-want +got):\n%s", diff)
	}
}

// TestWhatFitsAnEntry: where an entry ends.
func TestWhatFitsAnEntry(t *testing.T) {
	command := func(n int) Envelope { return Envelope{Command: make([]byte, n)} }
	request := nexusraft.RequestID{Session: 1}
	gap := proposed(Envelope{}, Envelope{}, Envelope{})
	gap[2].Proposal.Sequence++
	for name, tc := range map[string]struct {
		all  []Envelope
		want int
	}{
		"one":                      {proposed(Envelope{}), 1},
		"a large one":              {proposed(command(MaxCommandBytes), Envelope{}), 1},
		"a large one behind":       {proposed(Envelope{}, Envelope{}, command(maxBatchBytes)), 2},
		"as many as there may be":  {proposed(make([]Envelope, 1000)...), nexusraft.MaxEntryCommands},
		"as large as it may be":    {proposed(command(maxBatchBytes/2-4), command(maxBatchBytes/2-4), Envelope{}), 2},
		"larger by a byte":         {proposed(command(maxBatchBytes/2-4), command(maxBatchBytes/2-3)), 1},
		"larger by its request":    {proposed(command(maxBatchBytes-20), Envelope{Request: request}), 1},
		"the nodes' own":           {proposed(Envelope{Own: true}, Envelope{Own: true}), 1},
		"the nodes' own behind":    {proposed(Envelope{}, Envelope{}, Envelope{Own: true}), 2},
		"one that is to be alone":  {proposed(Envelope{Alone: true}, Envelope{}), 1},
		"one behind that is alone": {proposed(Envelope{}, Envelope{Alone: true}), 1},
		"another time":             {proposed(Envelope{Time: 1}, Envelope{Time: 1}, Envelope{Time: 2}), 2},
		"a gap in their sequences": {gap, 2},
	} {
		if got := fitting(tc.all); got != tc.want {
			t.Errorf("%s: %d fit, want %d", name, got, tc.want)
		}
	}
}

func TestDecodeBatchCorrupt(t *testing.T) {
	good := encodeEntry(batches[2])
	with := func(at int, b ...byte) []byte {
		out := bytes.Clone(good)
		copy(out[at:], b)
		return out
	}
	for name, b := range map[string][]byte{
		"a torn header":        good[:batchHeader-1],
		"no commands":          with(batchHeader-2, 0, 0),
		"one command":          with(batchHeader-2, 0, 1),
		"too many commands":    with(batchHeader-2, 1, 1),
		"a command too few":    with(batchHeader-2, 0, 2),
		"a command too many":   with(batchHeader-2, 0, 4),
		"a torn length":        append(bytes.Clone(good), 0)[:len(good)-requestBytes-2],
		"a torn request":       good[:len(good)-1],
		"a request of nothing": with(batchHeader+batchLength, make([]byte, requestBytes)...),
		"a length beyond":      with(len(good)-requestBytes-batchLength, 0x80, 0, 0, 1),
		"more after it":        append(bytes.Clone(good), 0),
		"too large":            append([]byte{envelopeBatch}, make([]byte, batchHeader+maxBatchBytes)...),
	} {
		if got, err := DecodeEntry(b); !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("%s: got %+v and error %v, want ErrCorrupt", name, got, err)
		}
	}
}
