package main

import (
	"encoding/json"
	"io"
	"time"

	"afterimage/qa"
)

// answerDoc is an answer for programs.
type answerDoc struct {
	Question     string        `json:"question"`
	Answer       string        `json:"answer"`
	AsOf         string        `json:"as_of"`
	LagMS        int64         `json:"lag_ms"`
	State        string        `json:"state"`
	FromCoverage bool          `json:"from_coverage"`
	Focus        *spanDoc      `json:"focus,omitempty"`  // what the times in the question narrowed the memory to
	Prefer       string        `json:"prefer,omitempty"` // "first" or "last", where the question says so
	Note         string        `json:"note,omitempty"`   // what the answer had to do without
	Evidence     []evidenceDoc `json:"evidence"`
	Gaps         []spanDoc     `json:"gaps"`
	FirstTokenMS float64       `json:"first_token_ms"`
	TokensPerS   float64       `json:"tokens_per_s"`
	VisualTokens int           `json:"visual_tokens"`
	Tokens       int           `json:"tokens"`
	Finish       string        `json:"finish"`
}

type evidenceDoc struct {
	spanDoc
	At   string `json:"at"`
	Role string `json:"role"`
}

type spanDoc struct {
	From string `json:"from"`
	To   string `json:"to"`
}

func answerJSON(question string, a qa.Answer) answerDoc {
	d := answerDoc{
		Question: question, Answer: a.Text, AsOf: stamp(a.Evidence.AsOf), LagMS: a.Evidence.Lag.Milliseconds(), State: string(a.Evidence.State),
		FromCoverage: a.FromCoverage, Evidence: []evidenceDoc{}, Gaps: []spanDoc{}, VisualTokens: a.Stats.VisualTokens, Tokens: a.Stats.Generated,
		FirstTokenMS: float64(a.Stats.FirstToken.Microseconds()) / 1000, TokensPerS: tokensPerSecond(a), Finish: a.Stats.Finish,
	}
	span := func(from, to time.Time) spanDoc { return spanDoc{stamp(from), stamp(to)} }
	d.Prefer, d.Note = a.Evidence.Prefer.String(), a.Evidence.Note
	if f := a.Evidence.Focus; !f.From.IsZero() {
		d.Focus = &spanDoc{stamp(f.From), stamp(f.To)}
	}
	for _, e := range a.Evidence.Items {
		d.Evidence = append(d.Evidence, evidenceDoc{span(e.From, e.To), stamp(e.At), e.Role.String()})
	}
	for _, g := range a.Evidence.Gaps {
		d.Gaps = append(d.Gaps, span(g.From, g.To))
	}
	return d
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
