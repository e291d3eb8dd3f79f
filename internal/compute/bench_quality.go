package compute

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
)

// Twin is a Device whose decoders do everything twice: with the weights as they are asked for, which give the tokens, and with weights
// held as As, which are only compared. An engine on it shows what quantising costs in real use: the second decoder is given the
// first one's tokens and K/V of its own.
type Twin struct {
	Device
	As DType
	// Make makes the decoders of a Device that has none of its own; nil: such a Device is an error.
	Make func(ctx context.Context, d Device, c DecoderConfig, w DecoderWeights) (Decoder, error)

	mu    sync.Mutex
	found Likeness
}

// Likeness is how near the second decoder's distributions came, over all tokens that were drawn.
type Likeness struct {
	Tokens int
	Agree  float64 // share of tokens whose most probable next one is the same
	KL     float64 // mean Kullback-Leibler divergence from the first, in nats
	MaxKL  float64
}

// Likeness returns what was found so far.
func (t *Twin) Likeness() Likeness {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.found
	if l.Tokens > 0 {
		l.Agree /= float64(l.Tokens)
		l.KL /= float64(l.Tokens)
	}
	return l
}

// NewDecoder implements Decoders. w is asked for everything twice; c.Pages should be given, for both must have as many.
func (t *Twin) NewDecoder(ctx context.Context, c DecoderConfig, w DecoderWeights) (Decoder, error) {
	build := t.Make
	if own, ok := t.Device.(Decoders); ok {
		build = func(ctx context.Context, _ Device, c DecoderConfig, w DecoderWeights) (Decoder, error) {
			return own.NewDecoder(ctx, c, w)
		}
	}
	if build == nil {
		return nil, fmt.Errorf("compute: %s has no decoders of its own: %w", t.Device.Name(), errors.ErrUnsupported)
	}
	first, err := build(ctx, t.Device, c, w)
	if err != nil {
		return nil, err
	}
	c.Weights, c.Pages = t.As, first.Limits().Pages
	second, err := build(ctx, t.Device, c, w)
	if err != nil {
		return nil, errors.Join(err, first.Close())
	}
	return &twinDecoder{Decoder: first, second: second, t: t, vocab: c.Vocab}, nil
}

type twinDecoder struct {
	Decoder
	second Decoder
	t      *Twin
	vocab  int
}

func (d *twinDecoder) Forward(ctx context.Context, pass []Segment) error {
	pass, other := slices.Clone(pass), slices.Clone(pass)
	for i := range pass {
		n := len(pass[i].Draws)
		if n == 0 {
			continue
		}
		if pass[i].Logits == nil {
			m := NewMatrix(n, d.vocab)
			pass[i].Logits = &m
		}
		m := NewMatrix(n, d.vocab)
		other[i].Logits, other[i].Drawn = &m, make([]int32, n)
	}
	if err := d.Decoder.Forward(ctx, pass); err != nil {
		return err
	}
	if err := d.second.Forward(ctx, other); err != nil {
		return err
	}
	d.t.mu.Lock()
	defer d.t.mu.Unlock()
	for i := range pass {
		for r := range pass[i].Draws {
			d.t.found.add(pass[i].Logits.Row(r), other[i].Logits.Row(r))
		}
	}
	return nil
}

func (d *twinDecoder) CopyPages(ctx context.Context, to, from []int32) error {
	return errors.Join(d.Decoder.CopyPages(ctx, to, from), d.second.CopyPages(ctx, to, from))
}

func (d *twinDecoder) Close() error { return errors.Join(d.Decoder.Close(), d.second.Close()) }

// add counts one row of logits of each.
func (l *Likeness) add(p, q []float32) {
	largest := func(v []float32) (at int, logSum float64) {
		for i := range v {
			if v[i] > v[at] {
				at = i
			}
		}
		var sum float64
		for _, x := range v {
			sum += math.Exp(float64(x - v[at]))
		}
		return at, float64(v[at]) + math.Log(sum)
	}
	a, logP := largest(p)
	b, logQ := largest(q)
	var kl float64
	for i := range p {
		lp := float64(p[i]) - logP
		kl += math.Exp(lp) * (lp - (float64(q[i]) - logQ))
	}
	l.Tokens++
	if a == b {
		l.Agree++
	}
	l.KL += kl
	l.MaxKL = max(l.MaxKL, kl)
}
