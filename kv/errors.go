package kv

import (
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// What a request can be refused for; nothing was written. Compare with errors.Is. A
// request over a limit is refused with an error that is nexusraft.ErrTooLarge.
var (
	// ErrEmptyKey: the request names no key.
	ErrEmptyKey = errors.New("kv: key is not provided")

	// ErrKeyNotFound: ignore_value or ignore_lease asks for what the key has, and there is no such
	// key.
	ErrKeyNotFound = errors.New("kv: key not found")

	// ErrValueProvided: ignore_value together with a value.
	ErrValueProvided = errors.New("kv: value is provided together with ignore_value")

	// ErrLeaseProvided: ignore_lease together with a lease.
	ErrLeaseProvided = errors.New("kv: lease is provided together with ignore_lease")

	// ErrLeaseNotFound: the request names a lease that is not there, or of a put, one that is being revoked.
	ErrLeaseNotFound = errors.New("kv: requested lease not found")

	// ErrLeaseExists: a grant of an ID that a lease has.
	ErrLeaseExists = errors.New("kv: lease already exists")

	// ErrLeaseTTLTooLarge: a grant for more than MaxLeaseTTL seconds.
	ErrLeaseTTLTooLarge = errors.New("kv: too large lease TTL")

	// ErrTooManyLeases: a grant in a zone that has MaxLeases.
	ErrTooManyLeases = fmt.Errorf("kv: the zone has %d leases, as many as it may have", MaxLeases)

	// ErrLeaseRenewed: the lease has another generation than the one of the revoke.
	ErrLeaseRenewed = errors.New("kv: the lease was renewed since")

	// ErrLeaseRevoking is no refusal: the lease has ended and some of its keys are gone, but it had more than one
	// command removes. Propose the same again.
	ErrLeaseRevoking = errors.New("kv: the lease has more keys to remove, revoke it again")

	// ErrNoLeases: leases are offered once all nodes of the zone run a release that knows them: then it takes a moment.
	ErrNoLeases = errors.New("kv: leases need all nodes of the zone to be of this release")

	// ErrInvalidSort: an unknown sort order or sort target.
	ErrInvalidSort = errors.New("kv: invalid sort option")

	// ErrCompacted: the revision asked for is older than the compaction revision; of a compaction, not newer.
	ErrCompacted = errors.New("kv: required revision has been compacted")

	// ErrFutureRevision: the revision asked for is newer than the newest there is.
	ErrFutureRevision = errors.New("kv: required revision is a future revision")

	// ErrTooManyOps: a transaction has more compares, or operations in a branch, than are allowed.
	ErrTooManyOps = errors.New("kv: too many operations in txn request")

	// ErrDuplicateKey: a transaction puts a key twice, or puts and deletes it.
	ErrDuplicateKey = errors.New("kv: duplicate key given in txn request")

	// ErrNoHistory: the zone keeps the newest revisions only, until all its nodes run a release that keeps more:
	// then it takes a moment.
	ErrNoHistory = errors.New("kv: transactions and compactions need all nodes of the zone to be of this release")

	// ErrBadCommand: the proposed bytes are not a command of this state machine.
	ErrBadCommand = errors.New("kv: not a command of this state machine")

	// ErrResponseTooLarge: the answer would be over MaxRangeBytes, over MaxTxnBytes for a transaction that writes, or over
	// MaxPrevKVBytes for a delete that asks for the previous pairs. Ask for less.
	ErrResponseTooLarge = fmt.Errorf("kv: response over its limit, ask for less (limit, keys_only, a smaller range): %w",
		nexusraft.ErrTooLarge)

	// ErrTooManyKeys: a delete of more than MaxDeleteKeys keys.
	ErrTooManyKeys = fmt.Errorf("kv: the range has more than %d keys, delete it in parts: %w", MaxDeleteKeys,
		nexusraft.ErrTooLarge)

	// ErrTxnTooWide: a transaction that looks at more than MaxTxnKeys keys.
	ErrTxnTooWide = fmt.Errorf("kv: the transaction looks at more than %d keys, ask for smaller ranges: %w", MaxTxnKeys,
		nexusraft.ErrTooLarge)

	// ErrRequestTooLarge: a put's key is over MaxKeyBytes, or a request is over MaxRequestBytes.
	ErrRequestTooLarge = fmt.Errorf("kv: key over %d bytes or request over %d bytes: %w", MaxKeyBytes, MaxRequestBytes,
		nexusraft.ErrTooLarge)
)
