package rpc

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/budget"
)

// lists are made while the answer to them holds what it takes.
type lists struct {
	Granter
	Issuer

	held func() int64
	seen []int64
}

func (l *lists) Access(context.Context) ([]nexusraft.Principal, error) {
	l.seen = append(l.seen, l.held())
	return []nexusraft.Principal{{Name: "ann"}}, nil
}

func (l *lists) Tokens(context.Context) ([]nexusraft.JoinToken, error) {
	l.seen = append(l.seen, l.held())
	return nil, nil
}

// Lists of access and of tokens reserve before they are made.
func TestListsReserve(t *testing.T) {
	for share, want := range map[int64]codes.Code{
		budget.ListBytes + 1: codes.OK,
		budget.ListBytes:     codes.ResourceExhausted,
	} {
		all := budget.NewBytes(share, share, time.Millisecond, new(budget.Counters))
		if err := all.Take(t.Context(), "p", 1); err != nil { // alone it would get through
			t.Fatal(err)
		}
		a := all.NewAnswer("p")
		inTime := func(f func(context.Context) error) error {
			ctx, cancel := context.WithTimeout(budget.WithAnswer(t.Context(), a), time.Second)
			defer cancel()
			return f(ctx)
		}
		l := &lists{held: a.Held}
		err := inTime(func(ctx context.Context) error {
			_, err := (&access{granter: l}).ListAccess(ctx, &pb.ListAccessRequest{})
			return err
		})
		err2 := inTime(func(ctx context.Context) error {
			_, err := (&tokens{issuer: l}).ListTokens(ctx, &pb.ListTokensRequest{})
			return err
		})
		if status.Code(err) != want || status.Code(err2) != want || a.Held() > 1<<10 {
			t.Errorf("a share of %d: got %v and %v, holding %d; want %v", share, err, err2, a.Held(), want)
		}
		for _, held := range l.seen {
			if held != budget.ListBytes {
				t.Errorf("%d bytes were held while a list was made, want %d", held, budget.ListBytes)
			}
		}
	}
}
