package llm

import (
	"errors"
	"time"

	"afterimage/internal/compute"
)

// Drafter proposes up to n tokens to follow committed, which holds every token of the sequence so far (-1 for a visual row). The
// engine verifies each, so a bad proposal costs time, never correctness. A Drafter is called by one request at a time and must
// not keep committed. nil drafts nothing.
type Drafter interface {
	Draft(committed []int32, n int) []int32
}

// maxDraft is how many tokens a drafter may propose at once.
const maxDraft = 7

var errNotFinite = errors.New("the model's logits are not finite")

// request is one prompt on its way through the scheduler: waiting, then prefilling, then decoding by draft, verify and accept.
// Plain decoding is the same without drafts.
type request struct {
	// in
	seq    *sequence
	ended  func() error // why its asker no longer wants it, if so
	stop   func(id int32) bool
	limit  int // tokens to draw at most; 0 of one that only warms
	client uint64
	draw   compute.Draw // but for U
	seed   uint64

	shares   *compute.Shares // what the prompt's last row attends to, where that is wanted; else nil
	choosing *choosing       // of one that chooses among answers and draws none; else nil

	// The scheduler's goroutine owns these until out is closed.
	kv                          *kv  // nil while waiting
	forgot                      bool // its rows are not to be found by others
	cached                      int  // rows of the prompt that were there
	committed                   []int32
	generated, drafted, accepts int
	tallied                     int             // of drafted, those that the scheduler has counted
	segment                     compute.Segment // of the pass under way
	spans                       []compute.Input
	positions                   [][3]int32
	ahead                       []key // of batch
	batch, drawn                []int32
	draws                       []compute.Draw

	// out
	out     chan int32 // tokens; closed at the end, has room for all
	started time.Time  // of its first pass; zero if there was none
	finish  string
	err     error
}

func (r *request) warms() bool { return r.limit == 0 }

// rest is how many rows of the prompt are still to be run.
func (r *request) rest() int { return len(r.seq.keys) - len(r.kv.keys) }

// rows is how many rows it may come to take.
func (r *request) rows(context int) int {
	return len(r.seq.keys) + min(r.limit, context-len(r.seq.keys))
}

// prefill makes the segment of the next n rows of the prompt. A token is drawn after the last.
func (r *request) prefill(n int) {
	past := len(r.kv.keys)
	r.spans = r.seq.slice(r.spans[:0], past, past+n)
	draws := 0
	if past+n == len(r.seq.keys) && !r.warms() {
		draws = 1
	}
	r.prepare(past, r.seq.keys[past:past+n], draws)
	if draws > 0 {
		r.segment.Shares = r.shares
	}
}

// verify makes the segment of the last token and a draft of what follows.
func (r *request) verify(draft []int32) {
	r.batch = append(r.batch[:0], r.committed[len(r.committed)-1])
	r.batch = append(r.batch, draft...)
	r.spans = append(r.spans[:0], compute.Input{IDs: r.batch})
	r.drafted += len(draft)
	past := len(r.kv.keys)
	r.ahead = r.ahead[:0]
	for i, id := range r.batch {
		r.ahead = append(r.ahead, r.seq.token(id, past+i))
	}
	r.prepare(past, r.ahead, len(r.batch))
}

// choosesNow reports whether the next pass is over tokens of choices.
func (r *request) choosesNow() bool { return r.choosing != nil && r.rest() == 0 }

// choose makes the segment of the next path of choices. Its K/V is of no use afterwards, and is written over.
func (r *request) choose() {
	past := len(r.kv.keys)
	r.batch, r.ahead = r.batch[:0], r.ahead[:0]
	for depth, i := range r.choosing.path() {
		id := r.choosing.branches[i].token
		r.batch, r.ahead = append(r.batch, id), append(r.ahead, r.seq.token(id, past+depth))
	}
	r.spans = append(r.spans[:0], compute.Input{IDs: r.batch})
	r.prepare(past, r.ahead, len(r.batch))
}

// prepare makes the segment of the rows in spans, whose keys are given.
func (r *request) prepare(past int, keys []key, draws int) {
	r.kv.grow(past + len(keys))
	r.draws, r.drawn = r.draws[:0], r.drawn[:0]
	for i := range draws {
		d := r.draw
		if d.Temperature > 0 {
			d.U = uniform(r.seed, r.generated+i)
		}
		r.draws, r.drawn = append(r.draws, d), append(r.drawn, -1)
	}
	r.segment = compute.Segment{Inputs: r.spans, Past: past, Pages: r.kv.pages, Draws: r.draws, Drawn: r.drawn}
	if r.choosing != nil && draws > 0 {
		r.segment.Logits = r.choosing.room(draws)
	}
	if r.seq.axes != 3 {
		return
	}
	r.positions = r.positions[:0]
	apart := false // from where they would stand anyway
	for i, k := range keys {
		at := int32(past + i)
		apart = apart || k.at != [3]int32{at, at, at}
		r.positions = append(r.positions, k.at)
	}
	if apart {
		r.segment.Positions = r.positions
	}
}

// accept takes what a pass over the segment drew. It returns how the request ended with that, if it did.
//
// Each token y was drawn from the model's own distribution after temperature and top-p, and the draft is followed while it says y
// (inference by a deterministic tree): what is emitted never depends on the draft.
func (r *request) accept(context int) (finish string, err error) {
	if n := r.rest(); n > 0 {
		past := len(r.kv.keys)
		r.kv.add(r.seq.keys[past : past+r.segment.Rows()]...)
		switch {
		case r.rest() > 0:
			return "", nil
		case r.warms():
			return "stop", nil
		case r.choosing != nil:
			return r.chose()
		case r.drawn[0] < 0:
			return "", errNotFinite
		}
		return r.commit(r.drawn[0]), nil
	}
	if r.choosing != nil {
		return r.chose()
	}
	for i, y := range r.drawn {
		if y < 0 {
			return "", errNotFinite
		}
		r.kv.add(r.ahead[i])
		right := i+1 < len(r.batch) && r.batch[i+1] == y
		if right {
			r.accepts++
		}
		if finish := r.commit(y); finish != "" || !right {
			if finish == "" && len(r.kv.keys) >= context {
				finish = "length"
			}
			return finish, nil
		}
	}
	return "", nil // not reached: the last row has no draft to follow
}

// chose takes what a pass found about the choices.
func (r *request) chose() (finish string, err error) {
	if done, err := r.choosing.take(); !done || err != nil {
		return "", err
	}
	return "stop", nil
}

func (r *request) commit(id int32) (finish string) {
	if r.stop(id) {
		return "stop"
	}
	r.generated++
	r.committed = append(r.committed, id)
	r.out <- id
	if r.generated >= r.limit {
		return "length"
	}
	return ""
}

// draft asks for up to n tokens and keeps those before the first that is no token.
func (r *request) draft(d Drafter, n, vocab int) []int32 {
	if d == nil || n < 1 {
		return nil
	}
	draft := d.Draft(r.committed, n)
	draft = draft[:min(n, len(draft))]
	for i, id := range draft {
		if id < 0 || int(id) >= vocab {
			return draft[:i]
		}
	}
	return draft
}

// most is how many tokens may be drafted: no more than may be emitted or than the context has room for behind the last token.
func (r *request) most(context int) int {
	return min(maxDraft, context-len(r.kv.keys)-1, r.limit-r.generated-1)
}
