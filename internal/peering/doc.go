// Package peering is a node among its peers: what a full node and a witness do alike.
//
//   - identity_openings.go: the node's identity, and the openings of its directory: each has an
//     incarnation and a boot, which count from the first word with a peer on (invariant I5).
//   - known_peers.go: known peers, the latest life that was seen of each, and where they are reached.
//   - refusals.go: peers that refuse this node for good, and when that ends it.
//   - join.go: asking for admission to a cluster.
//   - own_certificate.go: how connections are encrypted, and the certificate of the cluster's own
//     authority; certificate_renewal.go: the next certificate; believed_authorities.go: which
//     authorities are believed.
//
// It keeps nothing itself: RecordStore, which the owner gives, writes to the owner's disk in the owner's
// form. The time comes from Options.Clock alone; pauses are timers.
package peering
