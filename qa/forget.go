package qa

import (
	"context"
	"errors"
	"fmt"
	"time"

	"afterimage/memorybank"
)

// Forgetter is a Model that keeps work between questions and can drop what was computed from entries whose IDs match; an llm.Engine is
// one. It returns when none of it can be found again.
type Forgetter interface {
	Forget(match func(id uint64) bool)
}

// ErrStretch is wrapped by the error about a stretch of time that cannot be forgotten because it is none.
var ErrStretch = errors.New("bad stretch of time")

// Forget erases [from, to) from the stream's memory: the bank and, where it has one, its store on disk (see memorybank.Bank.Forget), the
// map of what was watched, and all that the model has cached about this stream. Questions that come later see nothing of it. Those that are
// being answered go on with what they were given; Forget returns when they are done and nothing of theirs is left either, or with ctx's error:
// then all but that is done, and Forget may be called again.
func (s *Session) Forget(ctx context.Context, from, to time.Time) (memorybank.Forgotten, error) {
	epoch := s.bank.Snapshot().Epoch
	fail := func(did memorybank.Forgotten, err error) (memorybank.Forgotten, error) {
		return did, fmt.Errorf("qa: forget: %w", err)
	}
	if !from.Before(to) {
		return fail(memorybank.Forgotten{}, fmt.Errorf("%w: from %s to %s", ErrStretch, from.Format(time.RFC3339), to.Format(time.RFC3339)))
	}
	did, err := s.bank.Forget(ctx, from.Sub(epoch), to.Sub(epoch))
	if err != nil {
		return fail(did, err)
	}
	s.watched.Coverage().Cut(from, to)
	version := s.bank.Snapshot().Version
	s.warm.forget(version)
	drop := func() {
		s.joined.drop()
		if f, ok := s.model.(Forgetter); ok {
			f.Forget(func(uint64) bool { return true }) // what follows an entry in a prompt was computed from it too
		}
	}
	drop()
	if err := s.asking.older(ctx, version); err != nil { // they may have been about to give the model what is forgotten
		return fail(did, fmt.Errorf("a question from before is still being answered: %w", err))
	}
	drop()
	return did, nil
}
