package transport

import (
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

const (
	// hearing is how long a node that calls this one may say nothing: it pings three times as often.
	hearing = 3 * maxPingPause

	// maxLinkErrorBytes bounds what is told of an error, which may be in the peer's words.
	maxLinkErrorBytes = 512
)

// Links returns what a node knows of the links to its peers, ascending by node: p makes its calls,
// the server takes theirs.
//
// A peer that dies stops being reached, and its streams here may outlive it for a while. So a peer
// that is not reached is heard only if it has said something since.
func (s *Server) Links(p *Peers) (links []nexusraft.PeerStatus) {
	for _, x := range p.Stats() {
		at, speaks := s.seen.heardOf(x.Peer)
		l := nexusraft.PeerStatus{
			Node: x.Peer, Address: x.Address, Reached: x.Connected, Since: x.Since,
			Heard: speaks && (x.Connected || at.After(x.Since)), HeardAt: at,
		}
		if x.Err != nil {
			text := x.Err.Error()
			l.Error = strings.ToValidUTF8(text[:min(len(text), maxLinkErrorBytes)], "?")
		}
		links = append(links, l)
	}
	return links
}
