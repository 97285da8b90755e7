package budget

import (
	"context"
	"sync"
)

// Answer is one answer under way, and what it holds of a budget, from before it is made until
// it is sent. Its methods may be called from any goroutine.
type Answer struct {
	Message any // set when it is made

	bytes     *Bytes
	principal string

	mu    sync.Mutex // guards what follows
	held  int64
	ended bool
	done  func() // called once, when the answer has ended
}

// NewAnswer returns an answer to a principal that holds nothing yet.
func (b *Bytes) NewAnswer(principal string) *Answer { return &Answer{bytes: b, principal: principal} }

type answerKey struct{}

// WithAnswer returns a context that carries the answer to its call.
func WithAnswer(ctx context.Context, a *Answer) context.Context {
	return context.WithValue(ctx, answerKey{}, a)
}

// Reserve has the answer to a call hold n bytes, in place of what it held before. It gives the old
// bytes back before it waits for more, so that no two calls wait for each other. Errors are those of
// Bytes.Take. Without a budget in ctx it returns nil.
func Reserve(ctx context.Context, n int64) error {
	a, _ := ctx.Value(answerKey{}).(*Answer)
	if a == nil {
		return nil
	}
	a.Shrink(0)
	if err := a.bytes.Take(ctx, a.principal, n); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = n
	return nil
}

// ReserveMade is Reserve for an answer that is made already and has n bytes, where nothing was
// reserved for it.
func (a *Answer) ReserveMade(ctx context.Context, n int) error {
	if n <= AnswerBytesFree || a.Held() > 0 {
		return nil
	}
	return Reserve(WithAnswer(ctx, a), 2*int64(n))
}

// ShrinkAnswer is Answer.Shrink of the answer to a call, if ctx has a budget.
func ShrinkAnswer(ctx context.Context, n int64) {
	if a, _ := ctx.Value(answerKey{}).(*Answer); a != nil {
		a.Shrink(n)
	}
}

// Shrink gives back what is held beyond n bytes.
func (a *Answer) Shrink(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held > n {
		a.bytes.Give(a.principal, a.held-n)
		a.held = n
	}
}

// Held returns how many bytes are held.
func (a *Answer) Held() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held
}

// OnEnd has f called when the answer ends; at once if it has. It is called once at most for an
// answer.
func (a *Answer) OnEnd(f func()) {
	a.mu.Lock()
	ended := a.ended
	a.done = f
	a.mu.Unlock()
	if ended {
		f()
	}
}

// End gives back all that is held: the answer was sent, or never will be. A second End does nothing.
func (a *Answer) End() {
	a.Shrink(0)
	a.mu.Lock()
	done := a.done
	if a.ended {
		done = nil
	}
	a.ended = true
	a.mu.Unlock()
	if done != nil {
		done()
	}
}

// Part returns an answer that holds, in place of a, what a held: a message of a stream, while a
// goes on to the next one.
func (a *Answer) Part(message any) *Answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	part := &Answer{Message: message, bytes: a.bytes, principal: a.principal, held: a.held}
	a.held = 0
	return part
}

// PrincipalOf returns the principal that the call of ctx is charged to; "" without a budget.
func PrincipalOf(ctx context.Context) string {
	if a, _ := ctx.Value(answerKey{}).(*Answer); a != nil {
		return a.principal
	}
	return ""
}

type effectsKey struct{}

type effects struct {
	bytes     *Bytes
	principal string
}

// WithEffects returns a context that carries the budget of effects, and the principal that its call
// is charged to.
func WithEffects(ctx context.Context, b *Bytes, principal string) context.Context {
	return context.WithValue(ctx, effectsKey{}, effects{b, principal})
}

// TakeEffects has a write hold n bytes until done is called, which must be once it is applied.
// Errors are those of Bytes.Take. Without a budget in ctx it takes nothing.
func TakeEffects(ctx context.Context, n int64) (done func(), err error) {
	e, ok := ctx.Value(effectsKey{}).(effects)
	if !ok {
		return func() {}, nil
	}
	if err := e.bytes.Take(ctx, e.principal, n); err != nil {
		return nil, err
	}
	return func() { e.bytes.Give(e.principal, n) }, nil
}
