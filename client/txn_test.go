package client

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// everything is a transaction with all that there is, and askedForEverything what a node gets.
var (
	everything = Txn{
		If: []Compare{
			Key([]byte("a")).Value(Equal, []byte("1")),
			Key([]byte("a")).Version(Greater, 2),
			Key([]byte("a")).Created(Less, 3),
			Key([]byte("a")).Modified(NotEqual, 4),
			Key([]byte("a")).Lease(Equal, 5),
			Prefix([]byte("p")).Exists(),
			FromKey([]byte("q")).Absent(),
		},
		Then: []Operation{
			Put{Key: []byte("a"), Value: []byte("2"), Previous: true},
			Put{Key: []byte("b"), KeepValue: true},
			Get{Keys: Prefix([]byte("p")), Limit: 7, Revision: 3, KeysOnly: true},
			Delete{Keys: KeyRange([]byte("c"), []byte("d")), Previous: true},
			Txn{Then: []Operation{Get{Keys: Key([]byte("a")), CountOnly: true}}, Else: []Operation{Delete{Keys: Prefix(nil)}}},
		},
		Else: []Operation{Get{Keys: Key([]byte("a"))}},
	}
	askedForEverything = &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{
			{
				Key: []byte("a"), Target: etcdserverpb.Compare_VALUE,
				TargetUnion: &etcdserverpb.Compare_Value{Value: []byte("1")},
			},
			{
				Key: []byte("a"), Target: etcdserverpb.Compare_VERSION, Result: etcdserverpb.Compare_GREATER,
				TargetUnion: &etcdserverpb.Compare_Version{Version: 2},
			},
			{
				Key: []byte("a"), Target: etcdserverpb.Compare_CREATE, Result: etcdserverpb.Compare_LESS,
				TargetUnion: &etcdserverpb.Compare_CreateRevision{CreateRevision: 3},
			},
			{
				Key: []byte("a"), Target: etcdserverpb.Compare_MOD, Result: etcdserverpb.Compare_NOT_EQUAL,
				TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: 4},
			},
			{
				Key: []byte("a"), Target: etcdserverpb.Compare_LEASE,
				TargetUnion: &etcdserverpb.Compare_Lease{Lease: 5},
			},
			{
				Key: []byte("p"), RangeEnd: []byte("q"), Result: etcdserverpb.Compare_NOT_EQUAL,
				TargetUnion: &etcdserverpb.Compare_Version{},
			},
			{Key: []byte("q"), RangeEnd: []byte{0}, TargetUnion: &etcdserverpb.Compare_Version{}},
		},
		Success: []*etcdserverpb.RequestOp{
			requestPut(&etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("2"), PrevKv: true}),
			requestPut(&etcdserverpb.PutRequest{Key: []byte("b"), IgnoreValue: true}),
			requestRange(&etcdserverpb.RangeRequest{
				Key: []byte("p"), RangeEnd: []byte("q"), Limit: 7, Revision: 3, KeysOnly: true,
			}),
			requestDelete(&etcdserverpb.DeleteRangeRequest{Key: []byte("c"), RangeEnd: []byte("d"), PrevKv: true}),
			{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: &etcdserverpb.TxnRequest{
				Success: []*etcdserverpb.RequestOp{requestRange(&etcdserverpb.RangeRequest{Key: []byte("a"), CountOnly: true})},
				Failure: []*etcdserverpb.RequestOp{
					requestDelete(&etcdserverpb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}),
				},
			}}},
		},
		Failure: []*etcdserverpb.RequestOp{requestRange(&etcdserverpb.RangeRequest{Key: []byte("a")})},
	}
)

func requestPut(r *etcdserverpb.PutRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: r}}
}

func requestRange(r *etcdserverpb.RangeRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: r}}
}

func requestDelete(r *etcdserverpb.DeleteRangeRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

func answerPut(r *etcdserverpb.PutResponse) *etcdserverpb.ResponseOp {
	return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponsePut{ResponsePut: r}}
}

func answerRange(r *etcdserverpb.RangeResponse) *etcdserverpb.ResponseOp {
	return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: r}}
}

func answerDelete(r *etcdserverpb.DeleteRangeResponse) *etcdserverpb.ResponseOp {
	return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: r}}
}

func answerTxn(r *etcdserverpb.TxnResponse) *etcdserverpb.ResponseOp {
	return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseTxn{ResponseTxn: r}}
}

// What is asked for, and what an answer is read as.
func TestTxn(t *testing.T) {
	old := &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("1"), CreateRevision: 2, ModRevision: 4, Version: 3}
	pair := KeyValue{Key: []byte("a"), Value: []byte("1"), CreateRevision: 2, ModRevision: 4, Version: 3}
	var asked *etcdserverpb.TxnRequest
	n := start(t, func(n *fakeNode) {
		n.txn = func(ctx context.Context, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
			asked = req
			return &etcdserverpb.TxnResponse{
				Header: &etcdserverpb.ResponseHeader{Revision: 9}, Succeeded: true,
				Responses: []*etcdserverpb.ResponseOp{
					answerPut(&etcdserverpb.PutResponse{PrevKv: old}),
					answerPut(&etcdserverpb.PutResponse{}),
					answerRange(&etcdserverpb.RangeResponse{Kvs: []*mvccpb.KeyValue{old, old}, Count: 8, More: true}),
					answerDelete(&etcdserverpb.DeleteRangeResponse{Deleted: 1, PrevKvs: []*mvccpb.KeyValue{old}}),
					answerTxn(&etcdserverpb.TxnResponse{
						Responses: []*etcdserverpb.ResponseOp{answerDelete(&etcdserverpb.DeleteRangeResponse{Deleted: 4})},
					}),
				},
			}, grpc.SetHeader(ctx, metadata.Pairs("nexus-copies", "2"))
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	got, err := c.Txn(within(t), everything)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(askedForEverything, asked, protocmp.Transform()); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	want := TxnResult{Succeeded: true, Revision: 9, Copies: 2, Results: []OperationResult{
		{Pairs: []KeyValue{pair}},
		{},
		{Pairs: []KeyValue{pair, pair}, Count: 8, More: true},
		{Pairs: []KeyValue{pair}, Count: 1},
		{Txn: &TxnResult{Results: []OperationResult{{Count: 4}}}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

// Keys that are no range are none, and never all.
func TestKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		keys     KeySet
		key, end string
	}{
		"all":                   {Prefix(nil), "\x00", "\x00"},
		"from the empty key":    {FromKey(nil), "\x00", "\x00"},
		"below a key":           {KeyRange(nil, []byte("b")), "\x00", "b"},
		"range":                 {KeyRange([]byte("a"), []byte("b")), "a", "b"},
		"upside down":           {KeyRange([]byte("b"), []byte("a")), "\x01", "\x01"},
		"up to the empty key":   {KeyRange([]byte("b"), nil), "\x01", "\x01"},
		"up to the first key":   {KeyRange(nil, []byte{0}), "\x01", "\x01"},
		"from and to the first": {KeyRange([]byte{0}, []byte{0}), "\x01", "\x01"},
		"prefix of 0xff":        {Prefix([]byte("\xff\xff")), "\xff\xff", "\x00"},
	} {
		if string(tc.keys.key) != tc.key || string(tc.keys.end) != tc.end {
			t.Errorf("%s: got %q to %q, want %q to %q", name, tc.keys.key, tc.keys.end, tc.key, tc.end)
		}
	}
}

// An answer that does not fit the transaction is not taken for one: what was written is uncertain.
func TestTxnWhoseAnswerDoesNotFit(t *testing.T) {
	answers := map[string]*etcdserverpb.TxnResponse{
		"none":  {},
		"other": {Responses: []*etcdserverpb.ResponseOp{answerDelete(&etcdserverpb.DeleteRangeResponse{})}},
		"empty": {Responses: []*etcdserverpb.ResponseOp{{}}},
	}
	for name, answered := range answers {
		n := start(t, func(n *fakeNode) {
			n.txn = func(context.Context, *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
				return answered, nil
			}
		})
		c := connect(t, Options{Endpoints: []string{n.address}})
		for kind, o := range map[string]Operation{
			"put": Put{Key: []byte("k")}, "get": Get{Keys: Key([]byte("k"))},
			"txn": Txn{Then: []Operation{Get{Keys: Key([]byte("k"))}}},
		} {
			got, err := c.Txn(within(t), Txn{Else: []Operation{o}})
			if !errors.Is(err, nexusraft.ErrCorrupt) || errors.Is(err, nexusraft.ErrUncertain) != (kind == "put") ||
				got.Results != nil {
				t.Errorf("%s, answer to a %s: got %+v, %v", name, kind, got, err)
			}
		}
	}
}

// A transaction that only reads is sent again where one that writes is uncertain; in a session both are sent
// again, and only that which may write has a number.
func TestTxnsAreRetried(t *testing.T) {
	put, get := Put{Key: []byte("k")}, Get{Keys: Key([]byte("k"))}
	for name, tc := range map[string]struct {
		txn     Txn
		once    bool
		numbers []string
		fails   bool
	}{
		"read":                   {Txn{Else: []Operation{get}}, false, []string{"", ""}, false},
		"read inside":            {Txn{Else: []Operation{Txn{Then: []Operation{get}}}}, false, []string{"", ""}, false},
		"write":                  {Txn{Else: []Operation{get, put}}, false, []string{""}, true},
		"write inside":           {Txn{Else: []Operation{Txn{Then: []Operation{put}}}}, false, []string{""}, true},
		"read in a session":      {Txn{Else: []Operation{get}}, true, []string{"", ""}, false},
		"write in a session":     {Txn{Then: []Operation{put}}, true, []string{"1/1", "1/1"}, false},
		"write inside a session": {Txn{Then: []Operation{Txn{Else: []Operation{put}}}}, true, []string{"1/1", "1/1"}, false},
	} {
		z := &sessionZone{outcome: inOrder(uncertain)}
		n := start(t, func(n *fakeNode) {
			z.serve(n)
			n.txn = func(ctx context.Context, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
				return emptyTxn(req), z.write(ctx)
			}
		})
		c := connect(t, Options{Endpoints: []string{n.address}, ExactlyOnce: tc.once})
		_, err := c.Txn(within(t), tc.txn)
		if errors.Is(err, nexusraft.ErrUncertain) != tc.fails || (err != nil) != tc.fails {
			t.Errorf("%s: got %v", name, err)
		}
		z.wantNumbers(t, tc.numbers...)
	}
}

// emptyTxn is an answer to the branch of a transaction that runs if its compares don't hold.
func emptyTxn(req *etcdserverpb.TxnRequest) *etcdserverpb.TxnResponse {
	resp := &etcdserverpb.TxnResponse{}
	for _, op := range req.Failure {
		switch op := op.GetRequest().(type) {
		case *etcdserverpb.RequestOp_RequestRange:
			resp.Responses = append(resp.Responses, answerRange(&etcdserverpb.RangeResponse{}))
		case *etcdserverpb.RequestOp_RequestPut:
			resp.Responses = append(resp.Responses, answerPut(&etcdserverpb.PutResponse{}))
		case *etcdserverpb.RequestOp_RequestTxn:
			resp.Responses = append(resp.Responses, answerTxn(emptyTxn(op.RequestTxn)))
		}
	}
	return resp
}

func TestATxnThatIsTooLargeIsNotSent(t *testing.T) {
	n := start(t, nil)
	c := connect(t, Options{Endpoints: []string{n.address}})
	if _, err := c.Put(within(t), []byte("k"), nil); err != nil {
		t.Fatal(err)
	}
	_, err := c.Txn(within(t), Txn{Then: []Operation{Put{Key: []byte("k"), Value: make([]byte, 5<<20)}}})
	if !errors.Is(err, nexusraft.ErrTooLarge) || errors.Is(err, nexusraft.ErrUncertain) || n.arrivals.Load() != 1 {
		t.Errorf("got %v and %d requests, want ErrTooLarge, and the put alone", err, n.arrivals.Load())
	}
}

// compactedAnswer and futureAnswer are how a node answers.
var (
	compactedAnswer = answer(errors.New("kv: required revision has been compacted"), codes.OutOfRange,
		"etcdserver: mvcc: required revision has been compacted")
	futureAnswer = answer(errors.New("kv: required revision is a future revision"), codes.OutOfRange,
		"etcdserver: mvcc: required revision is a future revision")
)

// Refusals of revisions can be told apart, and nothing was written.
func TestRefusedRevisions(t *testing.T) {
	for sentinel, answered := range map[error]error{ErrCompacted: compactedAnswer, ErrFutureRevision: futureAnswer} {
		n := start(t, func(n *fakeNode) {
			n.rangeOf = func(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
				return nil, answered
			}
			n.txn = func(context.Context, *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
				return nil, answered
			}
			n.compact = func(context.Context, *etcdserverpb.CompactionRequest) (*etcdserverpb.CompactionResponse, error) {
				return nil, answered
			}
		})
		c := connect(t, Options{Endpoints: []string{n.address}})
		_, _, getErr := c.GetAt(within(t), []byte("k"), 7)
		var listErr error
		for _, listErr = range c.ListAt(within(t), []byte("k"), 7) {
		}
		_, txnErr := c.Txn(within(t), Txn{Then: []Operation{Put{Key: []byte("k")}}})
		for what, err := range map[string]error{
			"get": getErr, "list": listErr, "txn": txnErr,
			"compact": c.Compact(within(t), 7, false), "physical": c.Compact(within(t), 7, true),
		} {
			if !errors.Is(err, sentinel) || errors.Is(err, nexusraft.ErrUncertain) ||
				what != "txn" && !strings.Contains(err.Error(), "revision 7") || strings.Contains(err.Error(), "rpc error") {
				t.Errorf("%s: got %v, want %v", what, err, sentinel)
			}
		}
		if got := n.arrivals.Load(); got != 5 {
			t.Errorf("got %d requests, want each once", got)
		}
	}
}

func TestGetAt(t *testing.T) {
	var asked []*etcdserverpb.RangeRequest
	n := start(t, func(n *fakeNode) {
		n.rangeOf = func(_ context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
			asked = append(asked, req)
			return &etcdserverpb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Key: req.Key, ModRevision: 3}}}, nil
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	for rev, want := range map[nexusraft.Revision]int64{0: 0, 3: 3, 1 << 63: 1<<63 - 1, 1<<64 - 1: 1<<63 - 1} {
		asked = nil
		kv, found, err := c.GetAt(within(t), []byte("k"), rev)
		if err != nil || !found || kv.ModRevision != 3 || len(asked) != 1 || asked[0].Revision != want {
			t.Errorf("revision %d: got %+v, %t, %v, and asked for %v", rev, kv, found, err, asked)
		}
	}
}

// All pages of a ListAt are of one revision, also where that is the newest when it begins.
func TestListAtIsOneState(t *testing.T) {
	keys := make([]string, 3*pageKeys)
	for i := range keys {
		keys[i] = strings.Repeat("k", 1+i%7) + string(rune('0'+i))
	}
	for asked, want := range map[nexusraft.Revision][]int64{0: {0, 41, 41}, 5: {5, 5, 5}} {
		var got []int64
		n := start(t, func(n *fakeNode) {
			pages := ranges(keys, pageKeys, nil)
			n.rangeOf = func(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
				got = append(got, req.Revision)
				resp, err := pages(ctx, req)
				resp.Header = &etcdserverpb.ResponseHeader{Revision: 40 + int64(len(got))} // written meanwhile
				return resp, err
			}
		})
		c := connect(t, Options{Endpoints: []string{n.address}})
		pairs := 0
		for _, err := range c.ListAt(within(t), nil, asked) {
			if err != nil {
				t.Fatal(err)
			}
			pairs++
		}
		if diff := cmp.Diff(want, got); diff != "" || pairs != len(keys) {
			t.Errorf("list at %d: %d pairs, pages at (-want +got):\n%s", asked, pairs, diff)
		}
	}
}

// A compaction is sent again while nobody knows whether it was done, and an answer that it was is then no error.
func TestCompactIsRetried(t *testing.T) {
	notLeader := answer(&nexusraft.NotLeaderError{Zone: 1}, codes.Unavailable, "etcdserver: no leader")
	for name, tc := range map[string]struct {
		physical bool
		outcomes []error
		attempts int
		want     error
	}{
		"done":               {false, nil, 1, nil},
		"uncertain, done":    {false, []error{uncertain}, 2, nil},
		"uncertain, at once": {false, []error{uncertain, compactedAnswer}, 2, nil},
		"lost":               {false, []error{status.Error(codes.Unavailable, "gone"), compactedAnswer}, 2, nil},
		"not leader":         {false, []error{notLeader, compactedAnswer}, 2, ErrCompacted},
		"future":             {false, []error{uncertain, futureAnswer}, 2, nexusraft.ErrUncertain},
		"physical":           {true, []error{notLeader}, 2, nil},
		"physical uncertain": {true, []error{uncertain}, 1, nexusraft.ErrUncertain},
	} {
		outcome, attempts := inOrder(tc.outcomes...), 0
		var asked *etcdserverpb.CompactionRequest
		n := start(t, func(n *fakeNode) {
			n.compact = func(
				ctx context.Context, req *etcdserverpb.CompactionRequest,
			) (*etcdserverpb.CompactionResponse, error) {
				attempts++
				asked = req
				return &etcdserverpb.CompactionResponse{}, outcome(ctx, attempts-1)
			}
		})
		c := connect(t, Options{Endpoints: []string{n.address}})
		err := c.Compact(within(t), 7, tc.physical)
		if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) || attempts != tc.attempts ||
			asked.Revision != 7 || asked.Physical != tc.physical {
			t.Errorf("%s: got %v after %d attempts, the last of them %v; want %v after %d", name, err, attempts, asked,
				tc.want, tc.attempts)
		}
	}
}

// The space of what was compacted may take long to be free: only the call's context bounds that.
func TestPhysicalCompactionMayTakeLong(t *testing.T) {
	n := start(t, func(n *fakeNode) {
		n.compact = func(
			ctx context.Context, req *etcdserverpb.CompactionRequest,
		) (*etcdserverpb.CompactionResponse, error) {
			deadline, _ := ctx.Deadline()
			if bounded := time.Until(deadline) < 10*time.Second; bounded == req.Physical {
				t.Errorf("physical %t: the attempt ends in %v", req.Physical, time.Until(deadline))
			}
			return &etcdserverpb.CompactionResponse{}, nil
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	for _, physical := range []bool{false, true} {
		if err := c.Compact(within(t), 7, physical); err != nil {
			t.Error(err)
		}
	}
}

// The longest key is named in part.
func TestErrorsOfLongKeys(t *testing.T) {
	n := start(t, func(n *fakeNode) {
		n.rangeOf = func(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
			return nil, compactedAnswer
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	_, _, err := c.GetAt(within(t), bytes.Repeat([]byte{7}, 1<<10), 3)
	if err == nil || len(err.Error()) > 600 || strings.Contains(err.Error(), "\x07") {
		t.Errorf("got %v", err)
	}
}
