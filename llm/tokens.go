package llm

import (
	"fmt"

	"afterimage/llm/tokenizer"
)

// Tokens returns the token of every row that the prompt takes in a model of that tokenizer, -1 for visual rows. Its error wraps
// ErrPrompt.
func (p Prompt) Tokens(tok *tokenizer.Tokenizer) ([]int32, error) {
	var ids []int32
	for i, part := range p {
		switch {
		case part.Control != "":
			id, ok := tok.Special(part.Control)
			if !ok {
				return nil, fmt.Errorf("%w: part %d: unknown control token %q", ErrPrompt, i, part.Control)
			}
			ids = append(ids, id)
		case part.Text != "":
			ids = append(ids, tok.EncodeAt(part.Text, p.place(i, tok))...)
		case part.Tokens != nil:
			ids = append(ids, part.Tokens...)
		}
		for range part.Visual.Rows {
			ids = append(ids, -1)
		}
	}
	return ids, nil
}

// place says what stands beside text part i, which decides how it is tokenised. A text after a picture begins anew: models without
// tokens around their pictures were trained on texts that were tokenised one by one.
func (p Prompt) place(i int, tok *tokenizer.Tokenizer) tokenizer.Place {
	var at tokenizer.Place
	if i > 0 {
		before := p[i-1]
		at.Inside = before.Text != "" || before.Tokens != nil
		if i > 1 || before.Control != tok.BOS() {
			at.After = before.Control
		}
	}
	if i+1 < len(p) {
		at.Before = p[i+1].Control
	}
	return at
}
