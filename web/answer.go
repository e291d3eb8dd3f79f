package web

import (
	"context"
	"errors"
	"strings"
	"time"

	"afterimage/llm"
	"afterimage/qa"
)

// answering is one response on its way: it belongs to its own goroutine.
type answering struct {
	*session
	arrived  time.Time
	question qa.Question
	streams  []*served
	itemID   string
	talk     bool // the question is the conversation's, and the answer will be
	response responseInfo
	text     strings.Builder
	first    time.Duration // from the question's arrival to its first text
}

func (a *answering) header(kind string) header {
	return header{Type: kind, ResponseID: a.response.ID}
}

func (a *answering) delta(text string) error {
	if text == "" {
		return nil
	}
	if a.text.Len() == 0 {
		a.first = time.Since(a.arrived)
	}
	a.text.WriteString(text)
	if !a.put(&textEvent{header: a.header("response.output_text.delta"), ItemID: a.itemID, Delta: &text}) {
		return errSlowReader
	}
	return nil
}

// run asks and reports; it returns response.done for the caller to send.
func (a *answering) run(ctx context.Context) event {
	ctx, stop := context.WithTimeoutCause(ctx, a.srv.cfg.AnswerTimeout, errTooLong)
	defer stop()
	var ans combined
	err := ctx.Err() // it may have been cancelled while it waited
	if err == nil {
		ans, err = a.srv.ask(ctx, a.streams, a.question, a.delta)
	}
	if a.text.Len() == 0 && err == nil {
		_ = a.delta(ans.Text) // a lost connection ends the session by itself
	}
	text := a.text.String()
	a.put(&textEvent{header: a.header("response.output_text.done"), ItemID: a.itemID, Text: &text})
	if err == nil || !ans.Evidence.AsOf.IsZero() {
		body := a.srv.evidenceOf(a.streams[0].Name(), ans.Evidence)
		body.Asked = ans.Asked
		a.put(&evidenceEvent{a.header("response.evidence"), body})
	}
	r := &a.response
	r.Asked = ans.Asked
	r.MemoryVersion, r.FromCoverage = ans.Version, ans.FromCoverage
	r.Status, r.StatusDetails = outcome(ctx, ans.Stats.Finish, err)
	if r.Status == "failed" {
		a.srv.log.Warn("question failed", "stream", a.stream.Name(), "session", a.id, "response_id", r.ID, "err", err)
	}
	status := "completed"
	if r.Status != "completed" {
		status = "incomplete"
	}
	r.Output = []item{{ID: a.itemID, Type: "message", Role: "assistant", Status: status, Content: []content{{"output_text", text}}}}
	if a.talk {
		a.said(r.Output[0], qa.Exchange{Question: a.question.Text, Answer: text, At: first(ans.Evidence.Asked, a.arrived)})
	}
	r.Usage, r.Timings = usageOf(ans.Stats), timingsOf(ans.Stats, a.arrived, a.first)
	return &responseEvent{a.header("response.done"), *r}
}

// outcome turns how Ask ended into a status.
func outcome(ctx context.Context, finish string, err error) (string, *statusDetails) {
	cause := context.Cause(ctx)
	switch {
	case err == nil && finish == "length":
		return "incomplete", &statusDetails{Type: "incomplete", Reason: "max_output_tokens"}
	case err == nil && finish == qa.FinishDeadline:
		return "incomplete", &statusDetails{Type: "incomplete", Reason: "deadline"}
	case err == nil && finish != "cancelled":
		return "completed", nil
	case errors.Is(cause, errTooLong):
		return "incomplete", &statusDetails{Type: "incomplete", Reason: "time_limit"}
	case cause != nil || finish == "cancelled" || errors.Is(err, context.Canceled):
		reason := "client_cancelled"
		if errors.Is(cause, errGone) || errors.Is(cause, errStopping) {
			reason = "connection_closed"
		}
		if errors.Is(cause, errInterrupted) {
			reason = "interrupted"
		}
		return "cancelled", &statusDetails{Type: "cancelled", Reason: reason}
	}
	body := &errorBody{Type: "server_error", Code: "answer_failed", Message: clip(err.Error(), 300)}
	switch {
	case errors.Is(err, qa.ErrQuestion):
		body.Type, body.Code = "invalid_request_error", "bad_question"
	case errors.Is(err, llm.ErrBusy):
		body.Code = "busy" // asking again later may help
	}
	return "failed", &statusDetails{Type: "failed", Error: body}
}

// usageOf and timingsOf are an answer's numbers; first is when its first text came, since it arrived.
func usageOf(st llm.Stats) *usage {
	return &usage{
		TotalTokens: st.PromptTokens + st.Generated, InputTokens: st.PromptTokens, OutputTokens: st.Generated,
		InputDetails: inputDetails{st.CachedTokens, max(0, st.PromptTokens-st.VisualTokens), st.VisualTokens},
	}
}

// timingsOf says how long things took. first is when the first text came, which may be a camera's name and not yet the model's.
func timingsOf(st llm.Stats, arrived time.Time, first time.Duration) *timings {
	t := &timings{QueuedMS: ms(st.Queued), FirstTokenMS: ms(max(first, st.FirstToken)), TotalMS: ms(time.Since(arrived))}
	if d := st.Total - st.FirstToken; st.Generated > 1 && st.FirstToken > 0 && d > 0 {
		t.TokensPerS = round1(float64(st.Generated-1) / d.Seconds())
	}
	return t
}

// first is a, or b where a is not set.
func first(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}

func ms(d time.Duration) float64 { return round1(float64(d) / float64(time.Millisecond)) }
func round1(v float64) float64   { return float64(int64(v*10+0.5)) / 10 }
