package qa

import (
	"context"
	"slices"

	"afterimage/llm"
)

// Shared returns one stream's view of a model that several streams share. A bank numbers its entries by itself, so the same ID
// names other rows in another bank; the view makes IDs of different streams (below 1<<16) differ before the model caches by them.
func Shared(m Model, stream uint16) Model { return shared{m, uint64(stream) << streamShift} }

// streamShift leaves an ID room for 2^40 frames, which at 30 a second is a thousand years.
const streamShift = 48

type shared struct {
	Model
	stream uint64
}

// Generate implements Model. When many questions wait, the streams take turns.
func (s shared) Generate(ctx context.Context, p llm.Prompt, o llm.Options, emit func(llm.Token) error) (llm.Stats, error) {
	if o.Client == 0 {
		o.Client = s.stream
	}
	return s.Model.Generate(ctx, s.own(p), o, emit)
}

// Choose implements Chooser.
func (s shared) Choose(ctx context.Context, p llm.Prompt, choices []string) ([]float64, llm.Stats, error) {
	c, ok := s.Model.(Chooser)
	if !ok {
		return nil, llm.Stats{}, errNoChooser
	}
	return c.Choose(ctx, s.own(p), choices)
}

// Warm implements Warmer.
func (s shared) Warm(ctx context.Context, p llm.Prompt) error {
	w, ok := s.Model.(Warmer)
	if !ok {
		return errNoWarmer
	}
	return w.Warm(ctx, s.own(p))
}

// Forget implements Forgetter: of this stream's entries only.
func (s shared) Forget(match func(id uint64) bool) {
	if f, ok := s.Model.(Forgetter); ok {
		f.Forget(func(id uint64) bool { return id>>streamShift == s.stream>>streamShift && match(id^s.stream) })
	}
}

// own returns p with IDs that are this stream's only.
func (s shared) own(p llm.Prompt) llm.Prompt {
	p = slices.Clone(p)
	for i := range p {
		if p[i].ID != 0 {
			p[i].ID ^= s.stream
		}
	}
	return p
}
