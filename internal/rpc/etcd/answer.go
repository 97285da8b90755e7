package etcd

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/kv"
)

// middlingAnswer is for how many bytes of pairs an answer reserves before it is known how large it
// will be. A larger one is measured first.
const middlingAnswer = 2 << 20

// question is what is asked of a zone's state.
type question[R proto.Message] struct {
	past bool // it reads a range at a revision: see turns

	// within answers, or returns kv.ErrResponseTooLarge for an answer of more than so many bytes.
	within func(r nexusraft.Reader, bytes int) (R, error)

	// measure returns for how many bytes within answers.
	measure func(r nexusraft.Reader) (int, error)
}

// answer answers a question within the budget of answers. A small answer reserves nothing; a larger one is made anew
// each time that more is reserved for it, for no call waits for memory while it holds some. Read is how it is read
// first: what that makes sure of then holds for this replica's state.
func answer[R proto.Message](ctx context.Context, s *KV, z Zone, read readFunc, q question[R]) (R, error) {
	if q.past {
		leave, err := s.turns.enterPast(ctx)
		if err != nil {
			var none R
			return none, err
		}
		defer leave()
	}
	bytes := budget.AnswerBytesFree
	for {
		var resp R
		err := read(ctx, func(r nexusraft.Reader) (err error) {
			resp, err = q.within(abortable{r, ctx, s.turns}, bytes)
			return err
		})
		if err == nil {
			budget.ShrinkAnswer(ctx, 2*int64(proto.Size(resp)))
			return resp, nil
		}
		if !errors.Is(err, kv.ErrResponseTooLarge) || bytes >= kv.MaxRangeBytes {
			return resp, err
		}
		read = z.ReadLocal // confirmed before, so at least as new as asked for
		if bytes, err = next(ctx, s, z, bytes, q.measure); err != nil {
			return resp, err
		}
		if err := budget.Reserve(ctx, 2*int64(bytes)); err != nil { // as pairs, and encoded
			return resp, rpc.OverBudget(err)
		}
	}
}

// next returns how large an answer may be that was too large for so many bytes.
func next(
	ctx context.Context, s *KV, z Zone, bytes int, measure func(nexusraft.Reader) (int, error),
) (more int, err error) {
	if bytes < middlingAnswer {
		return middlingAnswer, nil
	}
	budget.ShrinkAnswer(ctx, 0)
	err = z.ReadLocal(ctx, func(r nexusraft.Reader) error {
		more, err = measure(abortable{r, ctx, s.turns})
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case more > kv.MaxRangeBytes:
		return 0, kv.ErrResponseTooLarge
	}
	more += more/8 + middlingAnswer // it may grow until it is read
	return min(more, kv.MaxRangeBytes), nil
}

type readFunc func(context.Context, func(nexusraft.Reader) error) error

// readOf returns how a request reads a zone.
func readOf(z Zone, serializable bool) readFunc {
	if serializable {
		return z.ReadLocal
	}
	return z.Read
}
