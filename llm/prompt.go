package llm

import (
	"errors"
	"fmt"

	"afterimage/internal/compute"
	"afterimage/llm/tokenizer"
)

// ErrPrompt is wrapped by every error that the prompt itself causes: too long, an unknown control token, rows of another width.
var ErrPrompt = errors.New("bad prompt")

// Part is a piece of a prompt: exactly one of Control, Text, Tokens and Visual is set.
type Part struct {
	Control string         // a special token's name, such as "<|user|>"
	Text    string         // never becomes a special token, whatever it says
	Tokens  []int32        // as they are, for engines without a tokenizer
	Visual  compute.Matrix // rows already in the model's embedding space; read until Generate returns
	ID      uint64         // of Visual: equal IDs mean equal rows, so cached K/V may be reused; 0 is never reused
}

// Prompt is what a model is given, in order. Every row, visual or not, takes one position.
type Prompt []Part

// sequence is a prompt as rows: spans in order, and the key and token of every row (-1 for a visual one).
type sequence struct {
	spans  []compute.Input
	keys   []key
	tokens []int32
	visual int
}

func (p Prompt) rows(tok *tokenizer.Tokenizer, c *Config) (*sequence, error) {
	s := &sequence{}
	for i, part := range p {
		set := 0
		for _, is := range []bool{part.Control != "", part.Text != "", part.Tokens != nil, part.Visual.Rows != 0} {
			if is {
				set++
			}
		}
		switch {
		case set > 1:
			return nil, fmt.Errorf("%w: part %d is more than one of control, text, tokens and visual", ErrPrompt, i)
		case tok == nil && (part.Control != "" || part.Text != ""):
			return nil, fmt.Errorf("%w: part %d: this engine has no tokenizer", ErrPrompt, i)
		case part.Control != "":
			id, ok := tok.Special(part.Control)
			if !ok {
				return nil, fmt.Errorf("%w: part %d: unknown control token %q", ErrPrompt, i, part.Control)
			}
			s.text([]int32{id})
		case part.Text != "":
			s.text(tok.EncodeAt(part.Text, p.place(i, tok)))
		case part.Tokens != nil:
			s.text(part.Tokens)
		case part.Visual.Rows != 0:
			v := part.Visual
			if v.Cols != c.Hidden || len(v.Data) != v.Rows*v.Cols {
				return nil, fmt.Errorf("%w: part %d: visual rows of %d values, the model takes %d", ErrPrompt, i, v.Cols, c.Hidden)
			}
			s.image(v, part.ID)
		}
	}
	for i, id := range s.tokens {
		if int(id) >= c.Vocab || id < 0 && s.keys[i].of == 0 {
			return nil, fmt.Errorf("%w: token %d is outside the model's vocabulary of %d", ErrPrompt, id, c.Vocab)
		}
	}
	switch n := len(s.keys); {
	case n == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrPrompt)
	case n >= c.Context:
		return nil, fmt.Errorf("%w: %d rows leave no room for an answer in the context of %d", ErrPrompt, n, c.Context)
	}
	return s, nil
}

func (s *sequence) text(ids []int32) {
	if len(ids) == 0 {
		return
	}
	s.spans = append(s.spans, compute.Input{IDs: ids})
	for _, id := range ids {
		s.keys = append(s.keys, key{row: id})
	}
	s.tokens = append(s.tokens, ids...)
}

func (s *sequence) image(m compute.Matrix, id uint64) {
	s.spans = append(s.spans, compute.Input{Visual: m})
	for r := range m.Rows {
		s.keys = append(s.keys, key{visual: id, row: int32(r), of: int32(m.Rows)})
		s.tokens = append(s.tokens, -1)
	}
	s.visual += m.Rows
}

// slice returns the spans of rows [from, to).
func (s *sequence) slice(dst []compute.Input, from, to int) []compute.Input {
	at := 0
	for _, sp := range s.spans {
		n := sp.Rows()
		a, b := max(from-at, 0), min(to-at, n)
		if a < b {
			if sp.IDs != nil {
				dst = append(dst, compute.Input{IDs: sp.IDs[a:b]})
			} else {
				c := sp.Visual.Cols
				dst = append(dst, compute.Input{Visual: compute.Matrix{Rows: b - a, Cols: c, Data: sp.Visual.Data[a*c : b*c]}})
			}
		}
		at += n
	}
	return dst
}
