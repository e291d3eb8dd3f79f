package llm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"afterimage/internal/compute"
)

// maxChoice is how many tokens a choice may have.
const maxChoice = 32

// Choose says how probable it is that the model answers p with each of the choices rather than with another of them: the probabilities of
// the answer beginning with their tokens, made to add up to 1. Where one choice is how another begins, it counts without that one; choices
// of the same tokens share theirs. Stats.Chosen says how probable all choices together were, which is little where the model would have
// answered something else. Equal calls give equal probabilities, whoever else is answered meanwhile, up to what prefilling from the cache rounds.
//
// Choices of one token each cost the prompt alone, of the others every one that does not begin another costs one more short pass. Nothing is
// drawn and nothing generated. It waits in line as a question does, and all Chooses together count as one client there; they
// are refused (ErrBusy) when half of the line is taken. Errors that the prompt or the choices cause wrap ErrPrompt.
func (e *Engine) Choose(ctx context.Context, p Prompt, choices []string) ([]float64, Stats, error) {
	start := time.Now()
	r, err := e.request(p)
	if err != nil {
		return nil, Stats{}, err
	}
	if r.choosing, err = e.branches(p, choices, len(r.seq.keys)); err != nil {
		return nil, Stats{}, fmt.Errorf("llm: %w: %w", ErrPrompt, err)
	}
	r.limit = max(1, r.choosing.longest())
	r.client = chooseClient
	r.out = make(chan int32)
	err = e.await(ctx, r, nil)
	stats := Stats{PromptTokens: len(r.seq.keys), VisualTokens: r.seq.visual, CachedTokens: r.cached, Finish: "stop", Total: time.Since(start)}
	stats.FirstToken = stats.Total
	if stats.Queued = stats.Total; !r.started.IsZero() {
		stats.Queued = r.started.Sub(start)
	}
	if err != nil {
		stats.Finish = "cancelled"
		return nil, stats, failed("choose", err)
	}
	probabilities, together := r.choosing.probabilities()
	stats.Chosen = together
	return probabilities, stats, nil
}

// chooseClient is whose question every Choose is.
const chooseClient = math.MaxUint64

// branches puts choices in one tree of tokens behind a prompt of that many rows.
func (e *Engine) branches(p Prompt, choices []string, rows int) (*choosing, error) {
	if e.tok == nil {
		return nil, errors.New("this engine has no tokenizer for choices")
	}
	if len(choices) == 0 {
		return nil, errors.New("there is nothing to choose from")
	}
	c := &choosing{vocab: e.c.Vocab, branches: []branch{{parent: -1}}}
	for i, choice := range choices {
		whole := append(slices.Clone(p), Part{Text: choice})
		ids := e.tok.EncodeAt(choice, whole.place(len(p), e.tok))
		if len(ids) == 0 {
			return nil, fmt.Errorf("choice %d is empty", i)
		}
		c.add(ids)
	}
	c.findPaths()
	if n, most := c.longest(), min(maxChoice, e.s.limits.StepRows, e.c.Context-rows); n > most {
		return nil, fmt.Errorf("a choice has %d tokens, at most %d fit", n+1, most+1)
	}
	return c, nil
}

// choosing is what a request that chooses keeps: a tree of tokens whose root is the prompt's last row. First the prompt runs and gives the
// probabilities of the root's branches, then every path to where the tree branches for the last time.
type choosing struct {
	vocab    int
	branches []branch // the root first, every other one after its parent
	ends     []int    // by choice: the branch of its last token
	paths    [][]int  // of branches, from below the root; one a pass
	next     int      // 0: the prompt is to run; else path next-1
	logits   compute.Matrix
}

type branch struct {
	token  int32
	parent int
	log    float64 // probability of the token behind its parent
}

// add puts the tokens of a choice in the tree.
func (c *choosing) add(ids []int32) {
	at := 0
	for _, id := range ids {
		next := slices.IndexFunc(c.branches, func(b branch) bool { return b.parent == at && b.token == id })
		if next < 0 {
			next = len(c.branches)
			c.branches = append(c.branches, branch{token: id, parent: at})
		}
		at = next
	}
	c.ends = append(c.ends, at)
}

// findPaths lists the paths that have to run: those to a branch that branches, unless it lies on a longer one.
func (c *choosing) findPaths() {
	inner := make([]bool, len(c.branches))
	for _, b := range c.branches[1:] {
		inner[b.parent] = true
	}
	passed := make([]bool, len(c.branches))
	for i := len(c.branches) - 1; i > 0; i-- {
		if !inner[i] || passed[i] {
			continue
		}
		var path []int
		for at := i; at > 0; at = c.branches[at].parent {
			path, passed[at] = append(path, at), true
		}
		slices.Reverse(path)
		c.paths = append(c.paths, path)
	}
}

// longest is how many rows the longest path takes.
func (c *choosing) longest() (n int) {
	for _, path := range c.paths {
		n = max(n, len(path))
	}
	return n
}

// path is the one to run next, once the prompt has run.
func (c *choosing) path() []int { return c.paths[c.next-1] }

// room is where the logits of so many rows go.
func (c *choosing) room(rows int) *compute.Matrix {
	c.logits = compute.Matrix{Rows: rows, Cols: c.vocab, Data: make([]float32, rows*c.vocab)}
	return &c.logits
}

// take reads the logits of the pass that just ended. It reports whether that was the last.
func (c *choosing) take() (done bool, err error) {
	from := []int{0} // the branches that each row of logits follows
	if c.next > 0 {
		from = c.path()
	}
	for i, at := range from {
		row := c.logits.Row(i)
		if !finite(row) {
			return false, errNotFinite
		}
		top := float64(row[argmax(row)])
		sum := 0.0
		for _, v := range row {
			sum += math.Exp(float64(v) - top)
		}
		for j := 1; j < len(c.branches); j++ {
			if b := &c.branches[j]; b.parent == at {
				b.log = float64(row[b.token]) - top - math.Log(sum)
			}
		}
	}
	c.next, c.logits = c.next+1, compute.Matrix{}
	return c.next > len(c.paths), nil
}

// probabilities are those of the choices, adding up to 1, and what they were of all answers.
func (c *choosing) probabilities() (p []float64, together float64) {
	logs := make([]float64, len(c.branches)) // of everything up to the branch
	for i := 1; i < len(c.branches); i++ {
		logs[i] = logs[c.branches[i].parent] + c.branches[i].log
	}
	top := math.Inf(-1)
	sharing := map[int]int{}
	for _, end := range c.ends {
		sharing[end]++
		top = max(top, logs[end])
	}
	own := map[int]float64{} // by end, relative to top
	for end := range sharing {
		own[end] += math.Exp(logs[end] - top)
		for up := c.branches[end].parent; up > 0; up = c.branches[up].parent {
			if sharing[up] > 0 { // what goes on from there is not that choice
				own[up] -= math.Exp(logs[end] - top)
				break
			}
		}
	}
	p = make([]float64, len(c.ends))
	sum := 0.0
	for i, end := range c.ends {
		p[i] = max(own[end], 0) / float64(sharing[end])
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p, sum * math.Exp(top)
}
