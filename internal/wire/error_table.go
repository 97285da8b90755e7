package wire

import (
	"errors"
	"time"

	"google.golang.org/grpc/codes"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// Retry says what a client may do by itself with an answer.
type Retry int

// The values. Zero is none of them, so that no row leaves it out.
const (
	Never     Retry = iota + 1 // the answer is final
	Again                      // nothing was done: ask again until the context ends
	Elsewhere                  // nothing was done, and this node will not do: ask each of the others once
	Unknown                    // final, and the caller gets ErrUncertain: this node can't tell what others have done
)

// Row is one sentinel: how it travels, and what a client may do with it.
type Row struct {
	Sentinel error
	Kind     pb.ErrorKind // in a nexusraft.v1.Error
	Code     codes.Code   // of a gRPC status
	Text     string       // of the status that etcd's services answer with; "" for the sentinel's own text
	Read     Retry        // what a client does after a call that changes nothing
	Write    Retry        // and after one that may change something
	After    time.Duration
}

// table has a row for each sentinel of the root package, and everything that maps one reads it:
// both directions of nexusraft.v1.Error, the statuses of all services, and the client's retries.
//
// An error may match several rows. The first one counts, and the rows that promise least come
// first, so that an unknown outcome is never reported as "nothing was written".
//
// Where etcd has an error of the same meaning its code and text are used, by which its clients
// recognise it. What they do by themselves decides the rest: etcd's Go client
//
//   - repeats a Range answered by Unavailable, which is safe;
//   - repeats a Put or DeleteRange answered by DeadlineExceeded or Canceled for as long as its own
//     context lives, so no write is ever answered by those;
//   - repeats no write answered by Unknown. That is why an unknown outcome has that code;
//   - repeats no write answered by Unavailable, except with two texts that only its own balancer
//     makes; but other clients do, so Unavailable always means "not written".
//
// After is how soon it makes sense to ask again, at the earliest; 0 where that is at once, or never.
// The rows are written without names of fields, so that none is left out.
var table = []Row{
	{
		nexusraft.ErrUncertain, pb.ErrorKind_ERROR_KIND_UNCERTAIN, codes.Unknown,
		"nexusraft: outcome unknown, the write may have happened or may still happen", Again, Never, 0,
	},
	{
		nexusraft.ErrCorrupt, pb.ErrorKind_ERROR_KIND_CORRUPT, codes.DataLoss,
		"etcdserver: corrupt cluster", Never, Unknown, 0,
	},
	{
		nexusraft.ErrClosed, pb.ErrorKind_ERROR_KIND_CLOSED, codes.Unavailable,
		"etcdserver: server stopped", Again, Again, 0,
	},
	{ // an operator must make room: a client that waits for that would hide it
		nexusraft.ErrDiskFull, pb.ErrorKind_ERROR_KIND_DISK_FULL, codes.ResourceExhausted,
		"etcdserver: mvcc: database space exceeded", Never, Never, 5 * time.Second,
	},
	{ // only reads end so
		nexusraft.ErrNoQuorum, pb.ErrorKind_ERROR_KIND_NO_QUORUM, codes.Unavailable,
		"etcdserver: request timed out", Again, Again, 300 * time.Millisecond,
	},
	{
		nexusraft.ErrNotLeader, pb.ErrorKind_ERROR_KIND_NOT_LEADER, codes.Unavailable,
		"etcdserver: no leader", Again, Again, 100 * time.Millisecond,
	},
	{
		nexusraft.ErrOverloaded, pb.ErrorKind_ERROR_KIND_OVERLOADED, codes.ResourceExhausted,
		"etcdserver: too many requests", Again, Again, 50 * time.Millisecond,
	},
	{ // a member may be behind
		nexusraft.ErrZoneNotFound, pb.ErrorKind_ERROR_KIND_ZONE_NOT_FOUND, codes.NotFound, "", Elsewhere, Elsewhere, 0,
	},
	{
		nexusraft.ErrTooLarge, pb.ErrorKind_ERROR_KIND_TOO_LARGE, codes.InvalidArgument,
		"etcdserver: request is too large", Never, Never, 0,
	},
	{
		nexusraft.ErrFenced, pb.ErrorKind_ERROR_KIND_FENCED, codes.FailedPrecondition, "", Never, Never, 0,
	},
	{
		nexusraft.ErrRefused, pb.ErrorKind_ERROR_KIND_REFUSED, codes.FailedPrecondition, "", Never, Never, 0,
	},
	{
		nexusraft.ErrUnknownSession, pb.ErrorKind_ERROR_KIND_UNKNOWN_SESSION, codes.FailedPrecondition, "",
		Never, Never, 0,
	},
	{
		nexusraft.ErrNotFounded, pb.ErrorKind_ERROR_KIND_NOT_FOUNDED, codes.Unavailable, "", Elsewhere, Elsewhere, 0,
	},
	{
		nexusraft.ErrGone, pb.ErrorKind_ERROR_KIND_GONE, codes.OutOfRange, "", Never, Never, 0,
	},
	{ // a member may be behind
		nexusraft.ErrDenied, pb.ErrorKind_ERROR_KIND_DENIED, codes.PermissionDenied, "", Elsewhere, Elsewhere, 0,
	},
}

// Find returns the row of an error; false for one that matches no sentinel.
func Find(err error) (Row, bool) {
	for _, row := range table {
		if errors.Is(err, row.Sentinel) {
			return row, true
		}
	}
	return Row{}, false
}

// ofKind returns the row of a kind; false for one that has no sentinel.
func ofKind(kind pb.ErrorKind) (Row, bool) {
	for _, row := range table {
		if row.Kind == kind {
			return row, true
		}
	}
	return Row{}, false
}

// EtcdText is the text of the status that etcd's services answer with.
func (r Row) EtcdText() string {
	if r.Text != "" {
		return r.Text
	}
	return r.Sentinel.Error()
}

// RetryAfter returns how soon it makes sense to ask again after err; 0 if that is not said, or if
// err names the leader.
func RetryAfter(err error) time.Duration {
	if nl, ok := errors.AsType[*nexusraft.NotLeaderError](err); ok && nl.Leader != 0 {
		return 0
	}
	row, _ := Find(err)
	return row.After
}
