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

	// Where the rows of Visual stand, for models whose positions have three axes (M-RoPE, see Engine.Axes). Neither: each row takes one
	// position, as a token does.
	Grid Grid
	// Positions are time, height and width of every row, relative to the position at which the part begins (they may be negative); nil:
	// from Grid.
	Positions [][3]int32
	// Advance, with Positions, is how far from the beginning of the part what follows begins; 0: behind the largest position that the part
	// uses, as Hugging Face's Qwen2-VL has it.
	Advance int32
}

// Join appends q to p, which it may overwrite. Where two texts meet they become one, because tokens reach across the seam.
func Join(p, q Prompt) Prompt {
	if n := len(p); n > 0 && len(q) > 0 && p[n-1].Text != "" && q[0].Text != "" {
		p[n-1].Text += q[0].Text
		q = q[1:]
	}
	return append(p, q...)
}

// Grid is how rows lie: T x H x W of them, T slowest, W fastest. The row at (t, h, w) stands at time t, height h and width w.
type Grid struct{ T, H, W int }

// Place gives visual parts that follow each other explicit positions: those of all their rows, one part after another, relative to where the
// first begins, and where what follows the last begins. That is how positions come that belong to all parts together, such as AM-RoPE's
// (memorybank.Flash.Positions from 0).
func Place(parts []Part, rows [][3]int, next int) error {
	sum := 0
	for _, p := range parts {
		sum += p.Visual.Rows
	}
	if sum != len(rows) || sum == 0 {
		return fmt.Errorf("llm: %d positions for %d visual rows", len(rows), sum)
	}
	begin := 0
	for i := range parts {
		p := &parts[i]
		p.Positions = make([][3]int32, p.Visual.Rows)
		for r, at := range rows[:p.Visual.Rows] {
			for axis, v := range at {
				if v -= begin; v < -maxPosition || v > maxPosition {
					return fmt.Errorf("llm: visual row stands at %d", v+begin)
				}
				p.Positions[r][axis] = int32(v)
			}
		}
		rows = rows[p.Visual.Rows:]
		p.Advance = 1 // any would do: what follows is placed from the beginning of the first
		if last := i == len(parts)-1; last {
			p.Advance = int32(min(max(next-begin, -maxPosition), 2*maxPosition))
		} else if i == len(parts)-2 && next == begin+1 {
			p.Advance = 2 // so that the last one's is not 0, which would mean something else
		}
		begin += int(p.Advance)
	}
	if parts[len(parts)-1].Advance == 0 {
		return errors.New("llm: what follows the only visual part stands where that begins")
	}
	return nil
}

// Prompt is what a model is given, in order. Every row, visual or not, takes one row of the context.
type Prompt []Part

// sequence is a prompt as rows: spans in order, and the key and token of every row (-1 for a visual one).
type sequence struct {
	spans  []compute.Input
	keys   []key
	tokens []int32
	visual int
	parts  []int32 // where each part begins, and the last ends
	axes   int     // of positions
	next   int32   // where the row behind the last stands, on every axis if there are three
}

// maxPosition bounds positions: up to there every one is a float32.
const maxPosition = 1 << 24

func (p Prompt) rows(tok *tokenizer.Tokenizer, c *Config) (*sequence, error) {
	s := &sequence{axes: c.axes()}
	for i, part := range p {
		s.parts = append(s.parts, int32(len(s.keys)))
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
			if err := s.image(part); err != nil {
				return nil, fmt.Errorf("%w: part %d: %w", ErrPrompt, i, err)
			}
		}
	}
	s.parts = append(s.parts, int32(len(s.keys)))
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
		s.keys = append(s.keys, s.token(id, len(s.keys)))
		s.next++
	}
	s.tokens = append(s.tokens, ids...)
}

// token is the key of a token in a row behind those that are there.
func (s *sequence) token(id int32, row int) key {
	k := key{row: id}
	if s.axes == 3 {
		at := s.next + int32(row-len(s.keys))
		k.at = [3]int32{at, at, at}
	}
	return k
}

func (s *sequence) image(p Part) error {
	m := p.Visual
	first := len(s.keys)
	for r := range m.Rows {
		s.keys = append(s.keys, key{visual: p.ID, row: int32(r), of: int32(m.Rows)})
		s.tokens = append(s.tokens, -1)
	}
	s.spans = append(s.spans, compute.Input{Visual: m})
	s.visual += m.Rows
	if s.axes != 3 {
		if p.Positions != nil {
			return errors.New("positions of three axes, this model's have one")
		}
		return nil
	}
	return s.place(s.keys[first:], p)
}

// place says where the rows of a visual part stand.
func (s *sequence) place(keys []key, p Part) error {
	g, n := p.Grid, len(keys)
	switch {
	case p.Positions != nil && len(p.Positions) != n:
		return fmt.Errorf("%d positions for %d visual rows", len(p.Positions), n)
	case p.Positions == nil && p.Advance != 0:
		return errors.New("an advance without positions")
	case p.Positions == nil && g != Grid{} && (min(g.T, g.H, g.W) < 1 || n/g.T/g.H != g.W || g.T*g.H*g.W != n):
		return fmt.Errorf("a grid of %dx%dx%d for %d visual rows", g.T, g.H, g.W, n)
	}
	begin, last := int64(s.next), int64(-1)
	for r := range keys {
		at := [3]int32{int32(r), int32(r), int32(r)}
		switch {
		case p.Positions != nil:
			at = p.Positions[r]
		case g != Grid{}:
			at = [3]int32{int32(r / (g.H * g.W)), int32(r / g.W % g.H), int32(r % g.W)}
		}
		for axis, v := range at {
			v := begin + int64(v)
			if v < 0 || v > maxPosition {
				return fmt.Errorf("visual row %d stands at %d", r, v)
			}
			last = max(last, v)
			keys[r].at[axis] = int32(v)
		}
	}
	next := last + 1
	if p.Advance != 0 {
		next = begin + int64(p.Advance)
	}
	if next < 0 || next > maxPosition {
		return fmt.Errorf("what follows it stands at %d", next)
	}
	s.next = int32(next)
	return nil
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
