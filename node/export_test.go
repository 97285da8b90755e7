package node

import "context"

// Awake returns how many of the node's zones do not sleep.
func (n *Node) Awake(ctx context.Context) (int, error) {
	awake, _, err := n.workers.Awake(ctx)
	return awake, err
}

// Changes is how often the node's signal has changed.
func (n *Node) Changes(ctx context.Context) (uint64, error) {
	_, own, err := n.workers.Awake(ctx)
	return own.Changes, err
}

// Handler is what the node does for its peers and clients, as the servers call it.
func (n *Node) Handler() handler { return handler{n} }
