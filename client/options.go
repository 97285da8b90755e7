package client

import (
	"errors"
	"slices"
	"strings"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// Defaults of Options.
const (
	DefaultDialTimeout    = 500 * time.Millisecond
	DefaultAttemptTimeout = 2 * time.Second
)

// Options says how to reach a cluster. Only Endpoints has no default.
type Options struct {
	// Endpoints are addresses of nodes, in the order in which they are tried at first; later
	// the one that answered last comes first. host:port is encrypted if there are
	// Credentials, http://host:port never, https://host:port always.
	Endpoints []string

	// Credentials are PEM blocks, in this order: the client's certificate and its PRIVATE KEY, if
	// it has them, by which the cluster knows it; the certificate of the cluster's CA, by which the
	// client verifies servers; and a NEXUS-RAFT TOKEN, if it has one. None of them is sent
	// unencrypted. nil: no encryption.
	Credentials []byte

	// BearerToken is a secret that goes with every request, except to nodes whose certificates say
	// that they are witnesses, in place of a token in Credentials. It needs Credentials, which may be
	// the certificate of the cluster's CA alone, and no endpoint may be http://. "" for none.
	BearerToken string

	// Zone is where the keys are; 0 means the root zone.
	Zone nexusraft.ZoneID

	// ExactlyOnce makes each Put, Delete and Txn that may write happen once, however often it has to be sent. The client
	// registers a session with the first one, numbers them, and sends one whose outcome is unknown again, with the same
	// number, to any endpoint, until its context ends: give it one that does. 64 are under way at most, one more waits.
	//
	// nexusraft.ErrUncertain is left for a write whose context ends, or whose client is closed, while its outcome is
	// unknown, and for one that no endpoint will take any more, of a zone that was deleted for example. It comes with
	// nexusraft.ErrUnknownSession if the zone has forgotten the session meanwhile, which it does after an hour without
	// use, or if too many others are used: then nobody knows any more. A session that was forgotten before the
	// write was sent is replaced. An endpoint of an earlier release, or a cluster with a node of one, refuses the write.
	ExactlyOnce bool

	// DialTimeout bounds the wait for a connection to one endpoint before the next one is
	// tried; 0 means DefaultDialTimeout.
	DialTimeout time.Duration

	// AttemptTimeout bounds the wait for one endpoint's answer to a request that was
	// sent. A read then goes to the next endpoint, and so does a write with ExactlyOnce; any other write
	// ends with nexusraft.ErrUncertain. 0 means DefaultAttemptTimeout.
	AttemptTimeout time.Duration

	// PageTimeout bounds the wait for each page of List, ListAt and Zones; 0 means that only its context does.
	PageTimeout time.Duration

	// OnWait, if set, is called with the reason whenever Members, ChangeMembership, TransferLeader,
	// CreateZone, DeleteZone, Subscribe, Watch, or what watches, is about to wait before it tries again, up to a
	// few dozen times a second, on the goroutine of that call, or of a Lock that is held. It must not call the client.
	OnWait func(reason error)
}

// withDefaults returns a completed copy, or everything that is wrong with o.
func (o Options) withDefaults() (Options, error) {
	o.Endpoints = slices.Clone(o.Endpoints)
	if o.Zone == 0 {
		o.Zone = nexusraft.RootZone
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = DefaultDialTimeout
	}
	if o.AttemptTimeout == 0 {
		o.AttemptTimeout = DefaultAttemptTimeout
	}
	var errs []error
	if len(o.Endpoints) == 0 {
		errs = append(errs, errors.New("no endpoint: name at least one node as host:port"))
	}
	for i, e := range o.Endpoints {
		e = strings.TrimSpace(e) // as in "a:1, b:1"
		o.Endpoints[i] = e
		if _, _, err := o.security(e); err != nil {
			errs = append(errs, err)
		}
	}
	if o.Credentials != nil {
		b, err := pki.ParseBundle(o.Credentials)
		if err == nil {
			_, err = b.Config(time.Now)
		}
		errs = append(errs, err)
	}
	errs = append(errs, o.checkBearer())
	if o.DialTimeout < 0 || o.AttemptTimeout < 0 || o.PageTimeout < 0 {
		errs = append(errs, errors.New("a timeout is negative"))
	}
	return o, errors.Join(errs...)
}
