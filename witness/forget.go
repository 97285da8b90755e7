package witness

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/nexi-lab/nexus-raft/transport"
)

// ForgetLives makes the data directory of a witness that does not run forget which openings of its
// peers it has seen, as node.ForgetLives does for a member: only if no directory was copied or put
// back. It returns of how many peers it has forgotten something.
func ForgetLives(f FS, dir string) (forgotten int, err error) {
	unlock, err := lock(f, dir)
	if err != nil {
		return 0, fmt.Errorf("forget lives: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	k, exists, err := openKeeper(f, dir)
	if err == nil && !exists {
		err = fmt.Errorf("open identity: %w", fs.ErrNotExist)
	}
	if err == nil {
		err = k.update(func(r *identityRecord) {
			r.Peers = slices.Clone(r.Peers)
			for i := range r.Peers {
				r.Peers[i].Opening = transport.Opening{}
			}
			forgotten = len(r.Peers)
		})
	}
	if err != nil {
		return 0, fmt.Errorf("forget lives: %w", err)
	}
	return forgotten, nil
}
