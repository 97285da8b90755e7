package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

type historyStream = grpc.ServerStreamingServer[pb.HistoryResponse]

// parts are answers with a version for each of the revisions, which are those of deletions if they are negative.
func parts(newest, compacted int64, revisions ...[]int64) []*pb.HistoryResponse {
	var all []*pb.HistoryResponse
	for _, part := range revisions {
		resp := &pb.HistoryResponse{Revision: newest, Compacted: compacted}
		for _, rev := range part {
			v := &pb.KeyVersion{Revision: rev, CreateRevision: 2, Version: rev - 1, Lease: 5, Bytes: uint64(10 * rev)}
			if rev < 0 {
				v = &pb.KeyVersion{Revision: -rev}
			}
			resp.Versions = append(resp.Versions, v)
		}
		all = append(all, resp)
	}
	return all
}

// sends sends all and ends the stream with err.
func sends(err error, all ...*pb.HistoryResponse) func(*pb.HistoryRequest, historyStream) error {
	return func(_ *pb.HistoryRequest, stream historyStream) error {
		for _, part := range all {
			if err := stream.Send(part); err != nil {
				return err
			}
		}
		return err
	}
}

// revisionsOf collects a history, and its error.
func revisionsOf(ctx context.Context, c *Client) (revisions []nexusraft.Revision, last error) {
	for v, err := range c.History(ctx, []byte("k")) {
		if err != nil {
			last = err
			continue
		}
		revisions = append(revisions, v.Revision)
	}
	return revisions, last
}

func TestHistory(t *testing.T) {
	n := start(t, func(n *fakeNode) {
		n.history = func(req *pb.HistoryRequest, stream historyStream) error {
			if req.Zone != 7 || string(req.Key) != "k" {
				t.Errorf("asked for %v", req)
			}
			return sends(nil, parts(9, 3, []int64{3, 4}, []int64{-5})...)(req, stream)
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}, Zone: 7})
	var got []KeyVersion
	for v, err := range c.History(within(t), []byte("k")) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, v)
	}
	want := []KeyVersion{
		{Revision: 3, CreateRevision: 2, Version: 2, Lease: 5, Bytes: 30},
		{Revision: 4, CreateRevision: 2, Version: 3, Lease: 5, Bytes: 40},
		{Revision: 5},
	}
	if diff := cmp.Diff(want, got); diff != "" || got[0].Deleted() || !got[2].Deleted() {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for range c.History(within(t), []byte("k")) {
		break
	}
}

// A history that breaks goes on through the next node, without a version twice and without what is newer.
func TestHistoryGoesOn(t *testing.T) {
	unavailable := status.Error(codes.Unavailable, "it stops")
	for name, tc := range map[string]struct {
		second []*pb.HistoryResponse
		want   []nexusraft.Revision
		err    error
	}{
		"the same":       {parts(12, 1, []int64{2, 3, 4}, []int64{6, 9, 11}), []nexusraft.Revision{2, 3, 4, 6, 9}, nil},
		"compacted":      {parts(12, 3, []int64{3, 4}, []int64{6, 11}), []nexusraft.Revision{2, 3, 4, 6}, nil},
		"with a gap":     {parts(12, 4, []int64{4}, []int64{6}), []nexusraft.Revision{2, 3}, ErrCompacted},
		"nothing is new": {parts(12, 1, []int64{2, 3}), []nexusraft.Revision{2, 3}, nil},
	} {
		first := start(t, func(n *fakeNode) {
			n.history = sends(unavailable, parts(9, 1, []int64{2, 3})...)
		})
		second := start(t, func(n *fakeNode) { n.history = sends(nil, tc.second...) })
		c := connect(t, Options{Endpoints: []string{first.address, second.address}})
		got, err := revisionsOf(within(t), c)
		if diff := cmp.Diff(tc.want, got); diff != "" || !errors.Is(err, tc.err) || (err == nil) != (tc.err == nil) {
			t.Errorf("%s: %v, want %v (-want +got):\n%s", name, err, tc.err, diff)
		}
		if first.arrivals.Load() != 1 || second.arrivals.Load() != 1 {
			t.Errorf("%s: not one request each", name)
		}
	}
}

// A node that is silent, or ends without an answer, is left for the next one.
func TestHistoryOfANodeThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	hangs := func(all ...*pb.HistoryResponse) func(*pb.HistoryRequest, historyStream) error {
		return func(req *pb.HistoryRequest, stream historyStream) error {
			if err := sends(nil, all...)(req, stream); err != nil {
				return err
			}
			<-stream.Context().Done()
			return stream.Context().Err()
		}
	}
	for name, first := range map[string]func(*pb.HistoryRequest, historyStream) error{
		"silent":                hangs(),
		"silent after a part":   hangs(parts(9, 1, []int64{2})...),
		"ends without a part":   sends(nil),
		"fails without a part":  sends(status.Error(codes.Unavailable, "it stops")),
		"does not know the RPC": sends(status.Error(codes.Unimplemented, "unknown service")),
	} {
		bad := start(t, func(n *fakeNode) { n.history = first })
		good := start(t, func(n *fakeNode) { n.history = sends(nil, parts(9, 1, []int64{2, 3, 4})...) })
		c := connect(t, Options{Endpoints: []string{bad.address, good.address}, AttemptTimeout: 100 * time.Millisecond})
		got, err := revisionsOf(within(t), c)
		if diff := cmp.Diff([]nexusraft.Revision{2, 3, 4}, got); diff != "" || err != nil || bad.arrivals.Load() != 1 {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

// A caller may take longer over a version than a node for an answer.
func TestHistoryOfASlowCaller(t *testing.T) {
	t.Parallel()
	const patience = 100 * time.Millisecond
	slept := make(chan struct{})
	n := start(t, func(n *fakeNode) {
		n.history = func(req *pb.HistoryRequest, stream historyStream) error {
			if err := sends(nil, parts(9, 1, []int64{2})...)(req, stream); err != nil {
				return err
			}
			select {
			case <-slept:
				return sends(nil, parts(9, 1, []int64{3})...)(req, stream)
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}, AttemptTimeout: patience})
	var got []nexusraft.Revision
	for v, err := range c.History(within(t), []byte("k")) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, v.Revision); len(got) == 1 {
			time.Sleep(3 * patience)
			close(slept)
		}
	}
	if diff := cmp.Diff([]nexusraft.Revision{2, 3}, got); diff != "" || n.arrivals.Load() != 1 {
		t.Errorf("%d requests (-want +got):\n%s", n.arrivals.Load(), diff)
	}
}

func TestRevisions(t *testing.T) {
	for compacted, oldest := range map[int64]nexusraft.Revision{-1: 1, 0: 1, 4: 4} {
		n := start(t, func(n *fakeNode) { n.history = sends(nil, parts(9, compacted, nil)...) })
		c := connect(t, Options{Endpoints: []string{n.address}})
		if from, to, err := c.Revisions(within(t)); from != oldest || to != 9 || err != nil {
			t.Errorf("compacted %d: got %d, %d, %v; want %d and 9", compacted, from, to, err, oldest)
		}
	}
}

// Errors end a history, and so does its context.
func TestHistoryFails(t *testing.T) {
	for name, tc := range map[string]struct {
		answer error
		want   error
	}{
		"denied":    {answer(nexusraft.ErrDenied, codes.PermissionDenied, "no"), nexusraft.ErrDenied},
		"compacted": {compactedAnswer, ErrCompacted},
		"empty":     {nil, context.Canceled}, // no part, which is no answer
	} {
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		n := start(t, func(n *fakeNode) {
			n.history = func(*pb.HistoryRequest, historyStream) error {
				if tc.answer == nil {
					cancel()
				}
				return tc.answer
			}
		})
		c := connect(t, Options{Endpoints: []string{n.address}})
		got, err := revisionsOf(ctx, c)
		if !errors.Is(err, tc.want) || got != nil {
			t.Errorf("%s: got %v, %v; want %v", name, got, err, tc.want)
		}
		if _, _, err := c.Revisions(ctx); !errors.Is(err, tc.want) {
			t.Errorf("%s, revisions: got %v; want %v", name, err, tc.want)
		}
	}
}
