package node

import "time"

// AuthorityKey is the private key of the cluster's authority, PEM.
func (n *Node) AuthorityKey() ([]byte, error) {
	ca, err := n.authority()
	return ca.Key, err
}

// RenewCertificate does at once what the node does now and then.
func (n *Node) RenewCertificate(now time.Time) error { return n.renew(now) }
