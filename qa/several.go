package qa

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"afterimage/ingest"
	"afterimage/llm"
)

// Asker answers questions about one stream; a Session is one, and so is what embeds it.
type Asker interface {
	Ask(ctx context.Context, q Question, emit func(string) error) (Answer, error)
}

// Several answers a question from several streams' memories, by name. A budget of visual tokens is divided among them.
//
// Where one engine serves them all and the model's layout is Sectioned, the model is given one prompt with each camera's memory under its
// name. Else each stream is asked by itself, all at once, and the answer says after each name what was answered. Either way a stream that the
// coverage map answers for is not put to the model.
type Several struct{ Streams map[string]Asker }

// mostCameras bounds one question.
const mostCameras = 16

// own is what embeds a Session, too.
type own interface{ session() *Session }

func (s *Session) session() *Session { return s }

// Ask is Session.Ask of the named streams, in that order. The Answer's Evidence has the items of all, with their Stream, and each stream's own
// evidence in Cameras; AsOf is the oldest of theirs, Lag the longest.
func (s Several) Ask(ctx context.Context, names []string, q Question, emit func(string) error) (Answer, error) {
	a := Answer{ID: q.ID}
	fail := func(format string, args ...any) (Answer, error) {
		return a, fmt.Errorf("qa: ask several: %w", fmt.Errorf(format, args...))
	}
	var list []string
	for _, name := range names {
		if s.Streams[name] == nil {
			return fail("%w: there is no stream %q", ErrQuestion, name)
		}
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	switch n := len(list); {
	case n == 0:
		return fail("%w: it names no stream", ErrQuestion)
	case n > mostCameras:
		return fail("%w: %d streams, and %d is the most", ErrQuestion, n, mostCameras)
	case n == 1:
		return s.Streams[list[0]].Ask(ctx, q, emit)
	}
	if q.MaxVisualTokens > 0 {
		q.MaxVisualTokens = max(1, q.MaxVisualTokens/len(list))
	}
	began := time.Now()
	var text strings.Builder
	say := func(piece string) error {
		if piece == "" {
			return nil
		}
		text.WriteString(piece)
		if emit == nil {
			return nil
		}
		return emit(piece)
	}
	done, err := false, error(nil)
	if sessions := s.oneEngine(list); sessions != nil {
		done, err = inOnePrompt(ctx, list, sessions, q, &a, say)
	}
	if !done && err == nil {
		err = s.each(ctx, list, q, &a, say)
	}
	a.ID, a.Text = q.ID, text.String()
	a.Stats.Total = time.Since(began)
	if err != nil {
		return fail("%w", err)
	}
	return a, nil
}

// oneEngine is the Sessions of streams that one engine serves with one Sectioned layout; nil for others.
func (s Several) oneEngine(names []string) []*Session {
	var list []*Session
	for _, name := range names {
		o, ok := s.Streams[name].(own)
		if !ok {
			return nil
		}
		session := o.session()
		model, ok := session.model.(shared)
		if _, sectioned := session.Reading.layout().(Sectioned); !ok || !sectioned {
			return nil
		}
		if len(list) > 0 && !same(model.Model, list[0].model.(shared).Model) {
			return nil
		}
		list = append(list, session)
	}
	return list
}

// same reports whether two models are one.
func same(a, b Model) bool {
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.TypeOf(a).Comparable() && a == b
}

// inOnePrompt asks one question of all memories in one prompt. done is false where the layout cannot show them so.
func inOnePrompt(ctx context.Context, names []string, sessions []*Session, q Question, a *Answer, say func(string) error) (done bool, err error) {
	if !q.Deadline.IsZero() {
		limited, stop := context.WithDeadlineCause(ctx, q.Deadline, errDeadline)
		defer stop()
		ctx = limited
	}
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errDeadline) {
			a.Stats.Finish, err = FinishDeadline, nil
			a.Evidence.Cut = append(a.Evidence.Cut, "the answer ends where its deadline was")
		}
	}()
	var sections []Section
	var looked []found
	var shown []*Session
	var heads, asked []string
	answers := make([]Answer, len(sessions))
	for i, s := range sessions {
		defer s.asking.begin(0)()
		l, err := s.look(ctx, q, s.now(), &answers[i], s.share(len(sessions)))
		if err != nil {
			return true, fmt.Errorf("%s: %w", names[i], err)
		}
		if l.decided != "" {
			heads = append(heads, names[i]+": "+l.decided)
			continue
		}
		rows, err := s.joined.rows(ctx, l.reading.Join, l.entries)
		if err != nil {
			return true, fmt.Errorf("%s: %w", names[i], err)
		}
		sections = append(sections, Section{names[i], l.view, l.entries, rows})
		looked, shown, asked = append(looked, l), append(shown, s), append(asked, answers[i].Asked)
		if l.head != "" {
			heads = append(heads, names[i]+": "+strings.TrimSuffix(l.head, " Of all that I remember: "))
		}
	}
	gatherAll(a, names, answers)
	if len(sections) == 0 {
		a.FromCoverage, a.Stats.Finish = true, "stop"
		return true, say(strings.Join(heads, "\n"))
	}
	begin, parts, ok, err := shown[0].Reading.layout().(Sectioned).Sections(sections)
	if err != nil || !ok {
		return false, err
	}
	if len(heads) > 0 {
		if err := say(strings.Join(heads, "\n") + "\n"); err != nil {
			return true, err
		}
	}
	base := shown[0].model.(shared)
	prompt := begin
	for i, p := range parts {
		prompt = llm.Join(prompt, shown[i].model.(shared).own(p))
	}
	a.Asked = asked[0]
	if slices.ContainsFunc(asked, func(s string) bool { return s != asked[0] }) {
		a.Asked = q.Text // one moment was found for some and not for others
	}
	now := looked[0].view.Wall(looked[0].view.Now)
	prompt = append(prompt, looked[0].reading.question(looked[0].history, a.Asked, now)...)
	options := q.options()
	options.Client = base.stream
	st, err := base.Model.Generate(ctx, prompt, options, func(t llm.Token) error { return say(t.Text) })
	streams := map[string]uint64{}
	for i, s := range shown {
		streams[sections[i].Camera] = s.model.(shared).stream
	}
	a.Evidence.shared(prompt, st.Shares, func(it EvidenceItem) uint64 { return it.ID ^ streams[it.Stream] })
	for _, l := range looked {
		st = after(l.before, st)
	}
	a.Stats = st
	if err != nil {
		return true, err
	}
	for i, l := range looked {
		if l.tail != "" {
			if err := say(" " + sections[i].Camera + ":" + l.tail); err != nil {
				return true, err
			}
		}
	}
	return true, nil
}

// gatherAll puts the evidence of all together.
func gatherAll(a *Answer, names []string, answers []Answer) {
	e := &a.Evidence
	*e = Evidence{}
	for i := range answers {
		one := answers[i].Evidence
		if i == 0 || one.Asked.Before(e.Asked) {
			e.Asked = one.Asked
		}
		if i == 0 || one.AsOf.Before(e.AsOf) {
			e.AsOf = one.AsOf
		}
		e.Lag = max(e.Lag, one.Lag)
		if i == 0 || rank(one.State) > rank(e.State) {
			e.State, e.Since = one.State, one.Since
		}
		if one.Note != "" {
			e.Note = joinNotes(e.Note, names[i]+": "+one.Note)
		}
		for _, cut := range one.Cut {
			e.Cut = append(e.Cut, names[i]+": "+cut)
		}
		for _, it := range one.Items {
			it.Stream = names[i]
			e.Items = append(e.Items, it)
		}
		one.Items = nil
		e.Cameras = append(e.Cameras, CameraEvidence{names[i], one})
		a.Version = max(a.Version, answers[i].Version)
	}
}

// rank orders states from what is best to what an asker should know of first.
func rank(s ingest.State) int {
	return slices.Index([]ingest.State{ingest.Live, ingest.Ended, ingest.Connecting, ingest.Stalled, ingest.Offline}, s)
}

// pieces is an answer on its way to a reader who may not be there yet.
type pieces struct {
	mu   sync.Mutex
	list []string
	more chan struct{} // capacity 1
	done bool
}

func (p *pieces) put(piece string, last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if piece != "" {
		p.list = append(p.list, piece)
	}
	p.done = p.done || last
	select {
	case p.more <- struct{}{}:
	default:
	}
}

// read hands every piece to say until the last.
func (p *pieces) read(say func(string) error) error {
	for {
		p.mu.Lock()
		list, done := p.list, p.done
		p.list = nil
		p.mu.Unlock()
		for _, piece := range list {
			if err := say(piece); err != nil {
				return err
			}
		}
		if done && len(list) == 0 {
			return nil
		}
		if len(list) == 0 {
			<-p.more
		}
	}
}

// ofCamera is a conversation as one camera had it: of answers that name several, what was said for that one.
func ofCamera(name string, history []Exchange) []Exchange {
	list := slices.Clone(history)
	for i := range list {
		for line := range strings.Lines(list[i].Answer) {
			if said, ok := strings.CutPrefix(line, name+": "); ok {
				list[i].Answer = strings.TrimSpace(said)
			}
		}
	}
	return list
}

// each asks every stream by itself, all at once, and says the answers in order.
func (s Several) each(ctx context.Context, names []string, q Question, a *Answer, say func(string) error) error {
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	answers, errs, said := make([]Answer, len(names)), make([]error, len(names)), make([]*pieces, len(names))
	for i, name := range names {
		said[i] = &pieces{more: make(chan struct{}, 1)}
		running.Go(func() {
			q := q
			q.History = ofCamera(name, q.History)
			answers[i], errs[i] = s.Streams[name].Ask(ctx, q, func(piece string) error {
				said[i].put(piece, false)
				return nil
			})
			said[i].put("", true)
		})
	}
	var saying error
	for i, name := range names {
		label := name + ": "
		if i > 0 {
			label = "\n" + label
		}
		err := say(label)
		if err == nil {
			err = said[i].read(say)
		}
		if err != nil {
			saying = err
			break
		}
	}
	if saying != nil {
		stop()
	}
	running.Wait()
	gatherAll(a, names, answers)
	a.FromCoverage = true
	var failed []error
	for i, one := range answers {
		st := one.Stats
		a.FromCoverage = a.FromCoverage && one.FromCoverage
		if a.Asked == "" {
			a.Asked = one.Asked
		} else if a.Asked != one.Asked {
			a.Asked = q.Text // of each another: there is no one
		}
		sum := &a.Stats
		sum.PromptTokens += st.PromptTokens
		sum.VisualTokens += st.VisualTokens
		sum.CachedTokens += st.CachedTokens
		sum.Generated += st.Generated
		sum.Drafted += st.Drafted
		sum.Accepted += st.Accepted
		sum.Queued = max(sum.Queued, st.Queued)
		if st.FirstToken > 0 && (sum.FirstToken == 0 || st.FirstToken < sum.FirstToken) {
			sum.FirstToken = st.FirstToken // all began at once
		}
		if sum.Finish == "" || sum.Finish == "stop" {
			sum.Finish = st.Finish
		}
		if errs[i] != nil {
			failed = append(failed, fmt.Errorf("%s: %w", names[i], errs[i]))
		}
	}
	if saying != nil {
		return saying
	}
	return errors.Join(failed...)
}
