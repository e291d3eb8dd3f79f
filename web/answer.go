package web

import (
	"context"
	"errors"
	"strings"
	"time"

	"afterimage/ingest"
	"afterimage/llm"
	"afterimage/qa"
)

// answering is one response on its way: it belongs to its own goroutine.
type answering struct {
	*session
	arrived  time.Time
	question qa.Question
	itemID   string
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
	ans, err := a.stream.Ask(ctx, a.question, a.delta)
	if a.text.Len() == 0 && err == nil {
		_ = a.delta(ans.Text) // a lost connection ends the session by itself
	}
	text := a.text.String()
	a.put(&textEvent{header: a.header("response.output_text.done"), ItemID: a.itemID, Text: &text})
	if err == nil || !ans.Evidence.AsOf.IsZero() {
		a.put(a.evidence(ans.Evidence))
	}
	r := &a.response
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
	st := ans.Stats
	r.Usage = &usage{
		TotalTokens: st.PromptTokens + st.Generated, InputTokens: st.PromptTokens, OutputTokens: st.Generated,
		InputDetails: inputDetails{st.CachedTokens, max(0, st.PromptTokens-st.VisualTokens), st.VisualTokens},
	}
	r.Timings = &timings{QueuedMS: ms(st.Queued), FirstTokenMS: ms(a.first), TotalMS: ms(time.Since(a.arrived))}
	if d := st.Total - st.FirstToken; st.Generated > 1 && st.FirstToken > 0 && d > 0 {
		r.Timings.TokensPerS = round1(float64(st.Generated-1) / d.Seconds())
	}
	return &responseEvent{a.header("response.done"), *r}
}

// outcome turns how Ask ended into a status.
func outcome(ctx context.Context, finish string, err error) (string, *statusDetails) {
	cause := context.Cause(ctx)
	switch {
	case err == nil && finish == "length":
		return "incomplete", &statusDetails{Type: "incomplete", Reason: "max_output_tokens"}
	case err == nil && finish != "cancelled":
		return "completed", nil
	case errors.Is(cause, errTooLong):
		return "incomplete", &statusDetails{Type: "incomplete", Reason: "time_limit"}
	case cause != nil || finish == "cancelled" || errors.Is(err, context.Canceled):
		reason := "client_cancelled"
		if errors.Is(cause, errGone) || errors.Is(cause, errStopping) {
			reason = "connection_closed"
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

// evidence describes what the answer was given and keeps its thumbnails for the links.
func (a *answering) evidence(e qa.Evidence) *evidenceEvent {
	ev := &evidenceEvent{
		header: a.header("response.evidence"), AsOf: stamp(e.AsOf), LagMS: max(0, e.Lag.Milliseconds()), State: string(e.State),
		Coverage: spans(e.Coverage), Gaps: spans(e.Gaps), Items: make([]evidenceInfo, 0, len(e.Items)),
	}
	ev.Prefer, ev.Note = e.Prefer.String(), clip(e.Note, 300)
	if f := e.Focus; !f.From.IsZero() {
		ev.Focus = &spanInfo{stamp(f.From), stamp(f.To)}
	}
	for _, it := range e.Items {
		info := evidenceInfo{Stream: a.stream.Name(), From: stamp(it.From), To: stamp(it.To), At: stamp(it.At),
			Role: it.Role.String(), Slot: itoa(it.ID), Weight: it.Weight}
		if id := a.srv.thumbs.put(a.stream.Name(), it.Thumb); id != "" {
			info.Thumb = "/api/evidence/" + id + ".jpg"
		}
		ev.Items = append(ev.Items, info)
	}
	return ev
}

func spans(in []ingest.Span) []spanInfo {
	out := make([]spanInfo, 0, len(in))
	for _, s := range in {
		out = append(out, spanInfo{stamp(s.From), stamp(s.To)})
	}
	return out
}

func ms(d time.Duration) float64 { return round1(float64(d) / float64(time.Millisecond)) }
func round1(v float64) float64   { return float64(int64(v*10+0.5)) / 10 }
