package peering

import (
	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Identity is what a data directory is. Its JSON is part of a full node's stored form.
type Identity struct {
	Node        nexusraft.NodeID      `json:"node"`
	Name        string                `json:"name,omitempty"`
	Cluster     nexusraft.ClusterID   `json:"cluster"` // 0: belongs to none yet
	Incarnation nexusraft.Incarnation `json:"incarnation"`
	Boots       []nexusraft.Boot      `json:"boots,omitempty"` // of this opening and those before, see transport.Identity
}

// Peer is what is kept of a peer: the latest life that was seen of it, and where it said it is
// reached. Its JSON is the stored form.
type Peer struct {
	transport.Opening
	Address string `json:"address"`
}

// Credentials are a node's certificate of the cluster's own authority, and which authorities it
// believes. They are a value: what slices lead to is replaced, never changed. Their JSON is a full
// node's stored form.
type Credentials struct {
	Cert []byte `json:"cert"` // PEM, the authority that has signed it last; nil while the node joins
	Key  []byte `json:"key"`  // PEM; it never leaves the node

	// The authorities that the node believes, PEM, as they were after so many steps of rotations; none
	// for the one at the end of Cert.
	Roots []byte `json:"roots,omitempty"`
	Step  uint64 `json:"step,omitempty"`

	Former [][]byte `json:"former,omitempty"` // SHA-256 of those that it has believed and believes no more
}

// Pair returns the certificate and its key.
func (c Credentials) Pair() pki.Pair { return pki.Pair{Cert: c.Cert, Key: c.Key} }

// Believed returns the authorities that the node believes, PEM.
func (c Credentials) Believed() []byte { return pki.Believed(c.Cert, c.Roots) }

// TLSMode says how a data directory is served.
type TLSMode string

// The kinds of TLSMode. The texts are stored.
const (
	Plain       TLSMode = ""        // without TLS
	ClustersOwn TLSMode = "cluster" // with certificates of the cluster's own authority
	FromFiles   TLSMode = "files"
)

// Records are what a node must not forget.
type Records struct {
	Identity    Identity // the zero value for a directory that has none
	Peers       map[nexusraft.NodeID]Peer
	Credentials Credentials // the zero value if there are none
	TLSMode     TLSMode     // how the directory was served last with TLS; Plain if it never was
}

// RecordChange replaces records: those that are not nil.
type RecordChange struct {
	Identity    *Identity // in a directory that has none, before all else
	Peer        *Peer     // of Node
	Node        nexusraft.NodeID
	Credentials *Credentials
	TLSMode     *TLSMode // it comes alone, or with an admission, and counts no opening

	// Admission is a replica in a zone that this node has from now on. The rest is what the node is
	// then.
	Admission *transport.JoinResult
}

// RecordStore keeps the records of a node, in its owner's form. Its methods may be called from many
// goroutines.
type RecordStore interface {
	Load() (Records, error)

	// Save stores all of a change, or nothing. It is on the disk, synced, when Save returns. After an
	// error the node does not go on as if it had been stored; where it can't go on at all, the store
	// tells its owner, except for a change of the identity alone: Options.Fail is told of that.
	Save(RecordChange) error
}
