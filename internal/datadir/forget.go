package datadir

import "github.com/nexi-lab/nexus-raft/internal/peering"

// ForgetLives forgets which openings of its peers the node has seen, and keeps their addresses. It
// returns of how many peers it has forgotten something. The node does not run.
func (d *Dir) ForgetLives() (forgotten int, err error) {
	known, err := loadPeers(d.node)
	if err != nil {
		return 0, err
	}
	b := d.Store.NewBatch()
	defer b.Close()
	for id, p := range known {
		if err := stagePeer(b, d.node, id, peering.Peer{Address: p.Address}); err != nil {
			return 0, err
		}
	}
	return len(known), b.Commit(true)
}
