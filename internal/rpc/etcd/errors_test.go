package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/kv"
)

type expectation struct {
	err  error
	code codes.Code
	text string
	kind pb.ErrorKind
}

// expected is what clients see of each error.
var expected = []expectation{
	{
		nexusraft.ErrUncertain, codes.Unknown, "nexusraft: outcome unknown, the write may have happened or may still happen",
		pb.ErrorKind_ERROR_KIND_UNCERTAIN,
	},
	{fmt.Errorf("%w: %w", nexusraft.ErrUncertain, context.DeadlineExceeded), codes.Unknown, "nexusraft: outcome " +
		"unknown, the write may have happened or may still happen", pb.ErrorKind_ERROR_KIND_UNCERTAIN},
	{fmt.Errorf("%w: %w", nexusraft.ErrUncertain, nexusraft.ErrClosed), codes.Unknown, "nexusraft: outcome unknown, the " +
		"write may have happened or may still happen", pb.ErrorKind_ERROR_KIND_UNCERTAIN},
	{nexusraft.ErrCorrupt, codes.DataLoss, "etcdserver: corrupt cluster", pb.ErrorKind_ERROR_KIND_CORRUPT},
	{nexusraft.ErrClosed, codes.Unavailable, "etcdserver: server stopped", pb.ErrorKind_ERROR_KIND_CLOSED},
	{
		nexusraft.ErrDiskFull, codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded",
		pb.ErrorKind_ERROR_KIND_DISK_FULL,
	},
	{nexusraft.ErrNoQuorum, codes.Unavailable, "etcdserver: request timed out", pb.ErrorKind_ERROR_KIND_NO_QUORUM},
	{
		&nexusraft.NotLeaderError{Zone: 1, Leader: 2, Address: "a:1"}, codes.Unavailable, "etcdserver: no leader",
		pb.ErrorKind_ERROR_KIND_NOT_LEADER,
	},
	{
		nexusraft.ErrOverloaded, codes.ResourceExhausted, "etcdserver: too many requests",
		pb.ErrorKind_ERROR_KIND_OVERLOADED,
	},
	{nexusraft.ErrZoneNotFound, codes.NotFound, "nexusraft: zone not found", pb.ErrorKind_ERROR_KIND_ZONE_NOT_FOUND},
	{kv.ErrResponseTooLarge, codes.InvalidArgument, kv.ErrResponseTooLarge.Error(), pb.ErrorKind_ERROR_KIND_TOO_LARGE},
	{kv.ErrTooManyKeys, codes.InvalidArgument, kv.ErrTooManyKeys.Error(), pb.ErrorKind_ERROR_KIND_TOO_LARGE},
	{kv.ErrRequestTooLarge, codes.InvalidArgument, "etcdserver: request is too large", pb.ErrorKind_ERROR_KIND_TOO_LARGE},
	{nexusraft.ErrTooLarge, codes.InvalidArgument, "etcdserver: request is too large", pb.ErrorKind_ERROR_KIND_TOO_LARGE},
	{nexusraft.ErrFenced, codes.FailedPrecondition, "nexusraft: fenced", pb.ErrorKind_ERROR_KIND_FENCED},
	{nexusraft.ErrRefused, codes.FailedPrecondition, "nexusraft: refused", pb.ErrorKind_ERROR_KIND_REFUSED},
	{
		nexusraft.ErrUnknownSession, codes.FailedPrecondition, "nexusraft: unknown or expired session",
		pb.ErrorKind_ERROR_KIND_UNKNOWN_SESSION,
	},
	{
		nexusraft.ErrNotFounded, codes.Unavailable, "nexusraft: the data directory belongs to no cluster",
		pb.ErrorKind_ERROR_KIND_NOT_FOUNDED,
	},
	{nexusraft.ErrDenied, codes.PermissionDenied, "nexusraft: denied", pb.ErrorKind_ERROR_KIND_DENIED},
	{
		&nexusraft.GoneError{Asked: 3, Oldest: 7}, codes.OutOfRange, "nexusraft: no longer kept",
		pb.ErrorKind_ERROR_KIND_GONE,
	},
	{kv.ErrEmptyKey, codes.InvalidArgument, "etcdserver: key is not provided", pb.ErrorKind_ERROR_KIND_APPLICATION},
	{kv.ErrKeyNotFound, codes.InvalidArgument, "etcdserver: key not found", pb.ErrorKind_ERROR_KIND_APPLICATION},
	{kv.ErrValueProvided, codes.InvalidArgument, "etcdserver: value is provided", pb.ErrorKind_ERROR_KIND_APPLICATION},
	{kv.ErrLeaseProvided, codes.InvalidArgument, "etcdserver: lease is provided", pb.ErrorKind_ERROR_KIND_APPLICATION},
	{kv.ErrLeaseNotFound, codes.NotFound, "etcdserver: requested lease not found", pb.ErrorKind_ERROR_KIND_APPLICATION},
	{
		kv.ErrLeaseExists, codes.FailedPrecondition, "etcdserver: lease already exists",
		pb.ErrorKind_ERROR_KIND_APPLICATION,
	},
	{kv.ErrLeaseTTLTooLarge, codes.OutOfRange, "etcdserver: too large lease TTL", pb.ErrorKind_ERROR_KIND_APPLICATION},
	{
		kv.ErrTooManyLeases, codes.ResourceExhausted, "kv: the zone has 1000000 leases, as many as it may have",
		pb.ErrorKind_ERROR_KIND_APPLICATION,
	},
	{kv.ErrInvalidSort, codes.InvalidArgument, "etcdserver: invalid sort option", pb.ErrorKind_ERROR_KIND_APPLICATION},
	{
		kv.ErrCompacted, codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted",
		pb.ErrorKind_ERROR_KIND_APPLICATION,
	},
	{
		kv.ErrFutureRevision, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision",
		pb.ErrorKind_ERROR_KIND_APPLICATION,
	},
	{
		kv.ErrTooManyOps, codes.InvalidArgument, "etcdserver: too many operations in txn request",
		pb.ErrorKind_ERROR_KIND_APPLICATION,
	},
	{
		kv.ErrDuplicateKey, codes.InvalidArgument, "etcdserver: duplicate key given in txn request",
		pb.ErrorKind_ERROR_KIND_APPLICATION,
	},
	{kv.ErrTxnTooWide, codes.InvalidArgument, kv.ErrTxnTooWide.Error(), pb.ErrorKind_ERROR_KIND_TOO_LARGE},
	{errUnswept, codes.Unknown, errUnswept.Error(), pb.ErrorKind_ERROR_KIND_APPLICATION},
	{kv.ErrNoHistory, codes.Unavailable, kv.ErrNoHistory.Error(), pb.ErrorKind_ERROR_KIND_APPLICATION},
	{kv.ErrLeaseRevoking, codes.Unavailable, kv.ErrLeaseRevoking.Error(), pb.ErrorKind_ERROR_KIND_APPLICATION},
	{kv.ErrNoLeases, codes.Unavailable, kv.ErrNoLeases.Error(), pb.ErrorKind_ERROR_KIND_APPLICATION},
	{kv.ErrBadCommand, codes.Internal, "kv: not a command of this state machine", pb.ErrorKind_ERROR_KIND_APPLICATION},
	{
		errBadMetadata, codes.InvalidArgument, "nexusraft: the metadata nexus-zone is not one hexadecimal zone ID",
		pb.ErrorKind_ERROR_KIND_APPLICATION,
	},
	{
		errBadSession, codes.InvalidArgument, "nexusraft: the metadata nexus-session is not one session and number, as in " +
			"71/3",
		pb.ErrorKind_ERROR_KIND_APPLICATION,
	},
}

func TestEveryErrorIsExpected(t *testing.T) {
	isExpected := func(err error) bool {
		return slices.ContainsFunc(expected, func(e expectation) bool { return errors.Is(e.err, err) })
	}
	for _, own := range ownErrors {
		if !isExpected(own.err) {
			t.Errorf("no expectation for %v", own.err)
		}
	}
	for kind := range pb.ErrorKind_name {
		err := wire.ErrorFromProto(&pb.Error{Kind: pb.ErrorKind(kind), Text: "x"})
		if row, ok := wire.Find(err); ok && !isExpected(row.Sentinel) {
			t.Errorf("no expectation for %v", row.Sentinel)
		}
	}
}

// Where a text is etcd's, its clients compare it.
func TestTextsOfEtcd(t *testing.T) {
	for _, tt := range []struct{ err, etcds error }{
		{nexusraft.ErrCorrupt, rpctypes.ErrGRPCCorrupt},
		{nexusraft.ErrClosed, rpctypes.ErrGRPCStopped},
		{nexusraft.ErrDiskFull, rpctypes.ErrGRPCNoSpace},
		{nexusraft.ErrNoQuorum, rpctypes.ErrGRPCTimeout},
		{nexusraft.ErrNotLeader, rpctypes.ErrGRPCNoLeader},
		{nexusraft.ErrOverloaded, rpctypes.ErrGRPCRequestTooManyRequests},
		{nexusraft.ErrTooLarge, rpctypes.ErrGRPCRequestTooLarge},
	} {
		got, want := status.Convert(toStatus(tt.err)), status.Convert(tt.etcds)
		if got.Code() != want.Code() || got.Message() != want.Message() {
			t.Errorf("%v: got %v, want %v", tt.err, got, want)
		}
	}
}

// checkStatus compares what came over the wire: code, text and, unless kind is
// unspecified, the detail.
func checkStatus(t *testing.T, what string, err error, code codes.Code, text string, kind pb.ErrorKind) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != code || st.Message() != text {
		t.Errorf("%s: got %v %q, want %v %q", what, st.Code(), st.Message(), code, text)
	}
	got := pb.ErrorKind_ERROR_KIND_UNSPECIFIED
	for _, d := range st.Details() {
		if m, ok := d.(*pb.Error); ok {
			got = m.GetKind()
		}
	}
	if got != kind {
		t.Errorf("%s: got detail %v, want %v", what, got, kind)
	}
}

func TestErrorsOnTheWire(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	for _, want := range expected {
		z.err = fmt.Errorf("zone 1: %w", want.err)
		_, err := client.Put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("k")})
		checkStatus(t, fmt.Sprintf("put, %v", want.err), err, want.code, want.text, want.kind)
		_, err = client.DeleteRange(t.Context(), &etcdserverpb.DeleteRangeRequest{Key: []byte("k")})
		checkStatus(t, fmt.Sprintf("delete, %v", want.err), err, want.code, want.text, want.kind)
		_, err = client.Range(t.Context(), &etcdserverpb.RangeRequest{Key: []byte("k")})
		checkStatus(t, fmt.Sprintf("range, %v", want.err), err, want.code, want.text, want.kind)
	}
}

// A write is never answered by a code that etcd's client takes for "try again" while the
// write may have happened; a read says what happened.
func TestContextAndUnknownErrors(t *testing.T) {
	uncertain := expected[0]
	tests := []struct {
		err      error
		readCode codes.Code
		readText string
		readKind pb.ErrorKind
	}{
		{context.Canceled, codes.Canceled, "etcdserver: request canceled", pb.ErrorKind_ERROR_KIND_UNSPECIFIED},
		{
			context.DeadlineExceeded, codes.DeadlineExceeded, "etcdserver: context deadline exceeded",
			pb.ErrorKind_ERROR_KIND_UNSPECIFIED,
		},
		{errors.New("no row knows this"), codes.Internal, "no row knows this", pb.ErrorKind_ERROR_KIND_APPLICATION},
	}
	z := newZone()
	client := dialKV(t, z)
	for _, test := range tests {
		z.err = test.err
		_, err := client.Put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("k")})
		checkStatus(t, fmt.Sprintf("put, %v", test.err), err, uncertain.code, uncertain.text, uncertain.kind)
		_, err = client.Range(t.Context(), &etcdserverpb.RangeRequest{Key: []byte("k")})
		checkStatus(t, fmt.Sprintf("range, %v", test.err), err, test.readCode, test.readText, test.readKind)
	}
}

func TestAnUnreadableResultOfAWriteIsUncertain(t *testing.T) {
	uncertain := expected[0]
	z := newZone()
	client := dialKV(t, z)
	for _, data := range []string{"\xff", "\x00"} { // no such outcome; a response without header
		z.data = []byte(data)
		_, err := client.Put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("k")})
		checkStatus(t, fmt.Sprintf("result %q", data), err, uncertain.code, uncertain.text, uncertain.kind)
	}
}

// Refused requests don't reach the zone when the request alone can tell.
func TestRefusedBeforeProposing(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	tests := []struct {
		req  *etcdserverpb.PutRequest
		code codes.Code
		text string
	}{
		{&etcdserverpb.PutRequest{}, codes.InvalidArgument, "etcdserver: key is not provided"},
		{&etcdserverpb.PutRequest{Key: make([]byte, kv.MaxKeyBytes+1)}, codes.InvalidArgument, "etcdserver: request is too " +
			"large"},
		{
			&etcdserverpb.PutRequest{Key: []byte("k"), Value: make([]byte, kv.MaxRequestBytes)}, codes.InvalidArgument,
			"etcdserver: request is too large",
		},
	}
	for _, test := range tests {
		_, err := client.Put(t.Context(), test.req)
		if st := status.Convert(err); st.Code() != test.code || st.Message() != test.text {
			t.Errorf("got %v %q, want %v %q", st.Code(), st.Message(), test.code, test.text)
		}
	}
	_, err := client.DeleteRange(t.Context(), &etcdserverpb.DeleteRangeRequest{})
	checkStatus(t, "delete without key", err, codes.InvalidArgument, "etcdserver: key is not provided",
		pb.ErrorKind_ERROR_KIND_APPLICATION)
	_, err = client.Range(t.Context(), &etcdserverpb.RangeRequest{})
	checkStatus(t, "range without key", err, codes.InvalidArgument, "etcdserver: key is not provided",
		pb.ErrorKind_ERROR_KIND_APPLICATION)
	if z.proposals != 0 || z.reads != 0 {
		t.Errorf("the zone saw %d proposals and %d reads, want none", z.proposals, z.reads)
	}
	// What only the state can tell is a result of the command, and reads the same.
	_, err = client.Put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("k"), IgnoreValue: true})
	checkStatus(t, "ignore_value", err, codes.InvalidArgument, "etcdserver: key not found",
		pb.ErrorKind_ERROR_KIND_APPLICATION)
	_, err = client.Put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("k"), Lease: 1})
	checkStatus(t, "a lease", err, codes.NotFound, "etcdserver: requested lease not found",
		pb.ErrorKind_ERROR_KIND_APPLICATION)
	if z.proposals != 2 {
		t.Errorf("the zone saw %d proposals, want 2", z.proposals)
	}
}

// Where asking again later helps, the answer says when.
func TestRetryInfo(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want time.Duration
	}{
		{nexusraft.ErrOverloaded, 50 * time.Millisecond},
		{&nexusraft.NotLeaderError{Zone: 1}, 100 * time.Millisecond},
		{&nexusraft.NotLeaderError{Zone: 1, Leader: 2, Address: "a:1"}, 0},
		{nexusraft.ErrNoQuorum, 300 * time.Millisecond},
		{nexusraft.ErrDiskFull, 5 * time.Second},
		{nexusraft.ErrRefused, 0},
		{errors.Join(nexusraft.ErrUncertain, nexusraft.ErrNoQuorum), 0},
	} {
		var got time.Duration
		for _, d := range status.Convert(toStatus(tt.err)).Details() {
			if info, ok := d.(*errdetails.RetryInfo); ok {
				got = info.GetRetryDelay().AsDuration()
			}
		}
		if got != tt.want {
			t.Errorf("%v: retry after %v, want %v", tt.err, got, tt.want)
		}
	}
}
