package node

// Handler is what the node does for its peers and clients, as the servers call it.
func (n *Node) Handler() handler { return handler{n} }
