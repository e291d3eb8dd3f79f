package compute

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// DecoderBench times a Decoder as its owner sees it: by the clock, the calls and the waiting included. Inputs are random tokens. It
// writes over the decoder's pages from the first on.
type DecoderBench struct {
	Decoder Decoder
	Vocab   int
	rng     *rand.Rand
}

// NewDecoderBench is for a decoder with so many tokens.
func NewDecoderBench(d Decoder, vocab int) *DecoderBench {
	return &DecoderBench{Decoder: d, Vocab: vocab, rng: rand.New(rand.NewPCG(1, 2))}
}

func (b *DecoderBench) tokens(n int) []Input {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(b.rng.IntN(b.Vocab))
	}
	return []Input{{IDs: ids}}
}

// pagesOf deals out pages from first on for n rows.
func (b *DecoderBench) pagesOf(first, n int) ([]int32, error) {
	count := (n + PageRows - 1) / PageRows
	if have := b.Decoder.Limits().Pages; first+count > have {
		return nil, fmt.Errorf("compute: timing a decoder: %d pages are needed, it has %d", first+count, have)
	}
	pages := make([]int32, count)
	for i := range pages {
		pages[i] = int32(first + i)
	}
	return pages, nil
}

// fill runs n rows after past rows, a token drawn after the last.
func (b *DecoderBench) fill(ctx context.Context, pages []int32, past, n int) error {
	for n > 0 {
		rows := min(n, b.Decoder.Limits().ChunkRows)
		s := Segment{Inputs: b.tokens(rows), Past: past, Pages: pages}
		if rows == n {
			s.Draws, s.Drawn = make([]Draw, 1), make([]int32, 1)
		}
		if err := b.Decoder.Forward(ctx, []Segment{s}); err != nil {
			return err
		}
		past, n = past+rows, n-rows
	}
	return nil
}

// Prefill is the median seconds from nothing to the token after rows new rows that follow past rows: a question's first token when
// past is a warm memory, a cold start when it is 0.
func (b *DecoderBench) Prefill(ctx context.Context, past, rows, times int) (float64, error) {
	pages, err := b.pagesOf(0, past+rows)
	if err != nil {
		return 0, err
	}
	if past > 0 {
		if err := b.fill(ctx, pages, 0, past); err != nil {
			return 0, err
		}
	}
	return medianSeconds(times, func() error { return b.fill(ctx, pages, past, rows) })
}

// Steps is the median seconds of a pass that gives each of several questions its next token. They share the first rows of K/V, whole
// pages of them, and have own rows each beside.
func (b *DecoderBench) Steps(ctx context.Context, questions, shared, own, times int) (float64, error) {
	shared = shared / PageRows * PageRows
	prefix, err := b.pagesOf(0, shared)
	if err != nil {
		return 0, err
	}
	if shared > 0 {
		if err := b.fill(ctx, prefix, 0, shared); err != nil {
			return 0, err
		}
	}
	next := len(prefix)
	pass := make([]Segment, questions)
	for i := range pass {
		pages, err := b.pagesOf(next, own+times+2)
		if err != nil {
			return 0, err
		}
		next += len(pages)
		pages = append(slices.Clone(prefix), pages...)
		if own > 0 {
			if err := b.fill(ctx, pages, shared, own); err != nil {
				return 0, err
			}
		}
		pass[i] = Segment{Inputs: b.tokens(1), Past: shared + own, Pages: pages, Draws: make([]Draw, 1), Drawn: make([]int32, 1)}
	}
	return medianSeconds(times, func() error {
		if err := b.Decoder.Forward(ctx, pass); err != nil {
			return err
		}
		for i := range pass {
			s := &pass[i]
			if s.Drawn[0] < 0 {
				return fmt.Errorf("compute: timing a decoder: logits are not finite")
			}
			s.Inputs[0].IDs[0] = s.Drawn[0]
			s.Past++
		}
		return nil
	})
}

// medianSeconds times f after one call to warm up.
func medianSeconds(times int, f func() error) (float64, error) {
	all := make([]float64, 0, times)
	for i := range times + 1 {
		start := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		if i > 0 {
			all = append(all, time.Since(start).Seconds())
		}
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}
