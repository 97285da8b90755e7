package lessor

import (
	"encoding/binary"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// A question is one byte that says what is asked, and leases' IDs; the answer has a number for each ID, or two.
// Programs of different releases ask each other: a byte that was ever used keeps its meaning.
const (
	askRenew byte = 1 // answered by the TTL of each lease, 0 for one that is gone
	askLeft  byte = 2 // answered by the TTL and what is left of it of each lease, 0 and 0 for one that is gone
)

// maxAsked is how many leases a question may have: it and its answer have 64 KiB at most.
const maxAsked = 3000

func encodeQuestion(what byte, ids []int64) []byte { return appendNumbers([]byte{what}, ids) }

func decodeQuestion(b []byte) (what byte, ids []int64, err error) {
	if len(b) == 0 || b[0] != askRenew && b[0] != askLeft {
		return 0, nil, fmt.Errorf("%w: a question about leases that this release does not know", nexusraft.ErrRefused)
	}
	if ids, err = readNumbers(b[1:]); err != nil {
		return 0, nil, fmt.Errorf("%w: a question about leases: %w", nexusraft.ErrRefused, err)
	}
	if len(ids) > maxAsked {
		return 0, nil, fmt.Errorf("%w: a question about %d leases, limit %d", nexusraft.ErrRefused, len(ids), maxAsked)
	}
	return b[0], ids, nil
}

// decodeAnswer reads an answer of so many numbers.
func decodeAnswer(b []byte, count int) ([]int64, error) {
	numbers, err := readNumbers(b)
	if err == nil && len(numbers) != count {
		err = fmt.Errorf("%w: the answer has %d numbers, want %d", nexusraft.ErrCorrupt, len(numbers), count)
	}
	return numbers, err
}

func appendNumbers(b []byte, numbers []int64) []byte {
	for _, n := range numbers {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return b
}

func readNumbers(b []byte) (numbers []int64, err error) {
	for len(b) > 0 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return nil, fmt.Errorf("%w: no number at byte %d from the end", nexusraft.ErrCorrupt, len(b))
		}
		numbers, b = append(numbers, int64(n)), b[size:]
	}
	return numbers, nil
}
