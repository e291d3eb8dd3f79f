package main

import (
	"encoding/json"
	"io"

	"afterimage/qa"
)

// answerDoc is an answer for programs.
type answerDoc struct {
	Question     string         `json:"question"`
	Asked        string         `json:"question_as_asked,omitempty"` // as it was put to the model
	Answer       string         `json:"answer"`
	FromCoverage bool           `json:"from_coverage"`
	Evidence     qa.EvidenceDoc `json:"evidence"` // of the shape that the server gives
	FirstTokenMS float64        `json:"first_token_ms"`
	TokensPerS   float64        `json:"tokens_per_s"`
	VisualTokens int            `json:"visual_tokens"`
	Tokens       int            `json:"tokens"`
	Finish       string         `json:"finish"`
}

func answerJSON(question string, a qa.Answer) answerDoc {
	return answerDoc{
		Question: question, Asked: a.Asked, Answer: a.Text, FromCoverage: a.FromCoverage, Evidence: a.Evidence.Doc("", nil),
		FirstTokenMS: float64(a.Stats.FirstToken.Microseconds()) / 1000, TokensPerS: tokensPerSecond(a),
		VisualTokens: a.Stats.VisualTokens, Tokens: a.Stats.Generated, Finish: a.Stats.Finish,
	}
}

type spanDoc struct {
	From string `json:"from"`
	To   string `json:"to"`
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
