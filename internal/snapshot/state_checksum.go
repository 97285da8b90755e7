package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/binary"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Checksum digests a state: SHA-256 over each pair in key order, lengths included. It leaves
// Checksum.Applied to the caller, and ends with the context's error as soon as that has one.
func Checksum(ctx context.Context, state nexusraft.Reader) (c nexusraft.Checksum, err error) {
	sum := sha256.New()
	for p, err := range state.Scan(nil, nil) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nexusraft.Checksum{}, err
		}
		for _, part := range [][]byte{p.Key, p.Value} {
			sum.Write(binary.AppendUvarint(nil, uint64(len(part))))
			sum.Write(part)
		}
		c.Pairs++
		c.Bytes += uint64(len(p.Key) + len(p.Value))
	}
	c.Sum = sum.Sum(nil)
	return c, nil
}
