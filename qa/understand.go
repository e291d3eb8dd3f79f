package qa

import (
	"context"
	"time"

	"afterimage/ingest"
	"afterimage/memorybank"
)

// understood is what a question means in its conversation: the words to be put, what they are read with, and the stretch that alone counts.
type understood struct {
	text     string
	earlier  []Exchange // for a layout that reads conversations; nil else
	from, to time.Time  // zero: without that end; to is exclusive
	note     string     // what could not be understood
}

// understand reads q in the light of what was said before it. asked is the present of the question.
func (s *Session) understand(q Question, asked time.Time, snap *memorybank.Snapshot) understood {
	u := understood{text: q.Text, from: q.From, to: q.To}
	rest, since := sinceAsked(u.text)
	if since {
		u.text = rest
		if n := len(q.History); n > 0 && !q.History[n-1].At.IsZero() {
			u.within(q.History[n-1].At.In(snap.Epoch.Location()), time.Time{})
		} else {
			u.note = "when you last asked is not known here, so all that is remembered counts"
		}
	}
	if _, ok := s.Reading.layout().(Conversational); ok {
		u.earlier = q.History
	} else {
		u.text = whole(u.text, q.History, asked)
	}
	return u
}

// history is what the model is shown of the conversation, and the bytes of its words.
func (u *understood) history() ([]Exchange, int) { return recent(u.earlier) }

// within narrows the stretch; a zero time is no bound.
func (u *understood) within(from, to time.Time) {
	if u.from.IsZero() || from.After(u.from) {
		u.from = from
	}
	if u.to.IsZero() || !to.IsZero() && to.Before(u.to) {
		u.to = to
	}
}

// limit makes the stretch count for the times that a question names: those that reach into it are cut to it, and where none does, it is the
// time. All of what is returned is only then, which narrow keeps to.
func (u *understood) limit(times []namedTime, e Evidence, snap *memorybank.Snapshot, c *ingest.Coverage) []namedTime {
	if u.from.IsZero() && u.to.IsZero() || snap.Version == 0 || len(e.Coverage) == 0 {
		return times
	}
	words := ""
	w := when{span: ingest.Span{From: u.from, To: u.to}}
	loc := snap.Epoch.Location()
	switch {
	case u.from.IsZero():
		w.span.From = e.Coverage[0].From
		words = "until " + timeWords(u.to.In(loc), e.Asked)
	case u.to.IsZero():
		w.span.To = e.Asked.Add(1)
		words = "since " + timeWords(u.from.In(loc), e.Asked)
	default:
		words = "between " + timeWords(u.from.In(loc), e.Asked) + " and " + timeWords(u.to.In(loc), e.Asked)
	}
	if !w.span.From.Before(w.span.To) { // all of it was before anyone watched
		w.span.From = w.span.To.Add(-1)
	}
	w.span.From, w.span.To, w.words = w.span.From.In(loc), w.span.To.In(loc), words
	verdict, span := w.look(e, c)
	stretch := namedTime{when: w, verdict: verdict, span: span, only: true}
	if verdict != seen {
		return []namedTime{stretch}
	}
	var inside []namedTime
	for _, t := range times {
		if t.verdict != seen || t.span.From.IsZero() {
			continue
		}
		t.span.From, t.span.To = later(t.span.From, span.From), earlier(t.span.To, span.To)
		if t.only = true; !t.span.From.After(t.span.To) {
			inside = append(inside, t)
		}
	}
	if len(inside) > 0 {
		return inside
	}
	return []namedTime{stretch}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// asOf is a snapshot as it would have been at a past time, as far as what is remembered now tells: moments that reach beyond it are left out.
// e becomes that time's too. The snapshot is nil where nothing is remembered from before.
func (s *Session) asOf(ctx context.Context, snap *memorybank.Snapshot, e *Evidence, at time.Time) (*memorybank.Snapshot, error) {
	loc := snap.Epoch.Location()
	e.Asked = at.In(loc)
	cut := e.Coverage[:0:0]
	for _, span := range e.Coverage {
		if !span.From.After(at) {
			cut = append(cut, ingest.Span{From: span.From, To: earlier(span.To, at)})
		}
	}
	e.Coverage, e.Gaps = cut, nil
	if len(cut) > 0 {
		e.Gaps = s.watched.Coverage().Gaps(cut[0].From, at)
	}
	t := at.Sub(snap.Epoch)
	if snap.Version == 0 || t >= snap.Now {
		if snap.Version > 0 {
			e.Lag = max(at.Sub(e.AsOf), 0)
		}
		return snap, nil
	}
	e.State, e.Since, e.Note, e.AsOf, e.Lag = ingest.Offline, time.Time{}, "", time.Time{}, 0
	if s.watched.Coverage().Watched(at) {
		e.State = ingest.Live
	}
	from := t
	for i := range snap.Entries {
		from = min(from, snap.Entries[i].Start)
	}
	if len(cut) > 0 {
		from = min(from, cut[0].From.Sub(snap.Epoch))
	}
	part, err := snap.Recall(ctx, from, t+1, nil, 0)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		e.Note = "finer memories of that time could not be read from the disk"
		if s.Warn != nil {
			s.Warn(err)
		}
		part = snap.Between(from, t+1)
	}
	if part == nil {
		return nil, nil
	}
	view := *part
	view.Entries, view.Newest = nil, memorybank.Entry{}
	view.Now = from
	for _, entry := range part.Entries {
		if entry.End <= t {
			view.Entries = append(view.Entries, entry)
			view.Now = max(view.Now, entry.End)
		}
	}
	if len(view.Entries) == 0 {
		return nil, nil
	}
	if then := view.At(t); then != nil && then.Now <= t { // the newest frame of that time, if one is remembered alone
		view.Newest, view.Now = then.Newest, max(view.Now, then.Now)
	}
	e.AsOf = view.Wall(view.Now)
	e.Lag = max(at.Sub(e.AsOf), 0)
	return &view, nil
}

// watchedIn is watchedWords where nothing may have been watched.
func watchedIn(e Evidence) string {
	if len(e.Coverage) == 0 {
		return "I was not watching yet."
	}
	return watchedWords(e)
}

func joinNotes(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}
