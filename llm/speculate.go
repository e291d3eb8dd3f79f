package llm

import (
	"context"
	"errors"

	"afterimage/internal/compute"
)

// Drafter proposes up to n tokens to follow committed, which holds every token of the sequence so far (-1 for a visual row). The
// engine verifies each, so a bad proposal costs time, never correctness. A Drafter is called by one request at a time and must
// not keep committed. nil drafts nothing.
type Drafter interface {
	Draft(committed []int32, n int) []int32
}

// target is the model as the decode loop sees it.
type target interface {
	// verify runs tokens after the sequence so far and returns one row of logits for each, unless ctx has ended.
	verify(ctx context.Context, tokens []int32) (compute.Matrix, error)
	// keep drops all but the first n of the tokens just verified from the sequence.
	keep(n int)
	// room is how many tokens the sequence can still take.
	room() int
}

var errNotFinite = errors.New("the model's logits are not finite")

// decoder is the draft-verify-accept loop of one request. Plain decoding is the same loop without drafts.
type decoder struct {
	target    target
	drafter   Drafter
	sampler   *sampler
	stop      func(id int32) bool
	committed []int32 // all tokens of the sequence, the last one not yet run
	limit     int     // tokens to emit at most
	vocab     int
	emit      func(id int32) error

	generated, drafted, accepted int
	batch                        []int32
}

// run emits first, which was drawn from the prompt's last logits, and all that follow. It returns how it finished: "stop" or
// "length".
//
// A node's token y is drawn from the model's own distribution after temperature and top-p, and the draft is followed while it
// says y (inference by a deterministic tree): what is emitted never depends on the draft.
func (d *decoder) run(ctx context.Context, first int32) (string, error) {
	if done, err := d.commit(first); done != "" || err != nil {
		return done, err
	}
	for {
		room := d.target.room()
		if room < 1 {
			return "length", nil
		}
		d.batch = append(d.batch[:0], d.committed[len(d.committed)-1])
		draft := d.draft(min(maxDraft, room-1, d.limit-d.generated-1))
		d.batch = append(d.batch, draft...)
		logits, err := d.target.verify(ctx, d.batch)
		if err != nil {
			return "", err
		}
		if !finite(logits.Data) {
			return "", errNotFinite
		}
		for i := range logits.Rows {
			y := d.sampler.sample(logits.Row(i))
			right := i < len(d.batch)-1 && d.batch[i+1] == y
			if right {
				d.accepted++
			} else {
				d.target.keep(i + 1)
			}
			done, err := d.commit(y)
			if done != "" || err != nil {
				d.target.keep(i + 1)
				return done, err
			}
			if !right {
				break
			}
		}
	}
}

func (d *decoder) commit(id int32) (done string, err error) {
	if d.stop(id) {
		return "stop", nil
	}
	d.generated++
	d.committed = append(d.committed, id)
	if err := d.emit(id); err != nil {
		return "", err
	}
	if d.generated >= d.limit {
		return "length", nil
	}
	return "", nil
}

// draft asks for up to n tokens and keeps those before the first that is no token.
func (d *decoder) draft(n int) []int32 {
	if d.drafter == nil || n < 1 {
		return nil
	}
	draft := d.drafter.Draft(d.committed, n)
	draft = draft[:min(n, len(draft))]
	for i, id := range draft {
		if id < 0 || int(id) >= d.vocab {
			draft = draft[:i]
			break
		}
	}
	d.drafted += len(draft)
	return draft
}
