package qa

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
)

// Chooser is a Model that says how probable each of several answers is; an llm.Engine is one.
type Chooser interface {
	Choose(ctx context.Context, p llm.Prompt, choices []string) ([]float64, llm.Stats, error)
}

var errNoChooser = errors.New("the model cannot choose among answers")

// hinter is a Layout of models that are told what to choose among.
type hinter interface {
	hint(question string, choices []string) string
}

// hint implements hinter: published models are asked in words, and begin with the word that they are asked for.
func (Chat) hint(question string, choices []string) string {
	return question + " Answer with " + strings.Join(choices[:len(choices)-1], ", ") + " or " + choices[len(choices)-1] + " only."
}

// glance is what standing questions about one moment are put to: the newest picture of view, or what the memory tells.
type glance struct {
	snap   *memorybank.Snapshot // the memory
	view   *memorybank.Snapshot // the moment alone
	at     time.Time            // of the picture
	rows   *compute.Matrix      // the picture's
	joined *joined              // shared by all questions about it
}

// glanceAt is a look at one moment of a memory: view is its newest picture.
func glanceAt(snap, view *memorybank.Snapshot) *glance {
	return &glance{snap: snap, view: view, at: view.Wall(view.Newest.At), rows: &view.Newest.Tokens, joined: &joined{}}
}

// verdict is what one check found.
type verdict struct {
	p        float64   // of the choices that fire, together
	each     []float64 // of every choice
	stats    llm.Stats
	evidence Evidence // what the model was shown
}

// choose puts a complete standing question to a moment. The clock that it names times by is the moment's.
func (s *Session) choose(ctx context.Context, g *glance, w *WatchSpec) (v verdict, err error) {
	defer s.asking.begin(g.snap.Version)() // see Forget
	chooser, ok := s.model.(Chooser)
	if !ok {
		return v, errNoChooser
	}
	v.evidence = gather(g.at, g.view, s.watched)
	view, question := g.view, w.Ask
	var query []float32
	budget := 0
	if w.looksBack(g.at) {
		times := namedTimes(w.Ask, v.evidence, g.snap, s.watched.Coverage())
		if budget = s.usual(); len(times) == 0 || !anySeen(times) {
			view = g.snap
		} else if view, question, query, err = s.focus(ctx, w.Ask, times, &v.evidence, g.snap, budget); err != nil {
			return v, err
		}
		budget = s.Reading.Fit(view, budget)
	}
	entries := view.Select(query, budget)
	v.evidence.Items = items(entries, g.snap, query)
	prompt, err := s.Reading.memory(ctx, g.joined, view, entries)
	if err != nil {
		return v, err
	}
	if h, ok := s.Reading.layout().(hinter); ok {
		question = h.hint(question, w.Choices)
	}
	prompt = append(prompt, s.Reading.layout().Question(question, view.Wall(view.Now))...)
	texts, of := sayings(prompt, w.Choices)
	p, stats, err := chooser.Choose(ctx, prompt, texts)
	if v.stats = stats; err != nil {
		return v, err
	}
	v.each = make([]float64, len(w.Choices))
	for i, p := range p {
		v.each[of[i]] += p
		if slices.Contains(w.Fire, w.Choices[of[i]]) {
			v.p += p
		}
	}
	v.p = min(v.p, 1) // rounding
	return v, nil
}

func anySeen(times []namedTime) bool {
	return slices.ContainsFunc(times, func(t namedTime) bool { return t.verdict == seen })
}

// looksBack reports whether the question is about more than its moment.
func (s *WatchSpec) looksBack(at time.Time) bool {
	if s.Look != LookAuto {
		return s.Look == LookMemory
	}
	times, _ := timesIn(s.Ask, at)
	return len(times) > 0
}

// sayings are the ways in which choices may begin an answer to prompt, and which choice each is: with a small or a capital letter, and behind
// words of the prompt after a space.
func sayings(prompt llm.Prompt, choices []string) (texts []string, of []int) {
	space := ""
	if n := len(prompt); n > 0 {
		if last, _ := utf8.DecodeLastRuneInString(prompt[n-1].Text); prompt[n-1].Text != "" && !unicode.IsSpace(last) {
			space = " "
		}
	}
	for i, c := range choices {
		r, n := utf8.DecodeRuneInString(c)
		for _, first := range []rune{unicode.ToLower(r), unicode.ToUpper(r)} {
			text := space + string(first) + c[n:]
			if !slices.Contains(texts, text) {
				texts, of = append(texts, text), append(of, i)
			}
		}
	}
	return texts, of
}

// best is the most probable choice.
func (v *verdict) best(w *WatchSpec) string {
	best := 0
	for i, p := range v.each {
		if p > v.each[best] {
			best = i
		}
	}
	if len(v.each) == 0 {
		return ""
	}
	return w.Choices[best]
}

// moved is how far apart two pictures are where they differ most: 1 less the cosine of the cell's rows, 0 to 2; 2 where they cannot be compared.
func moved(a, b compute.Matrix) float64 {
	if a.Rows != b.Rows || a.Cols != b.Cols || a.Rows == 0 {
		return 2
	}
	most := 0.0
	for r := range a.Rows {
		x, y := a.Row(r), b.Row(r)
		var xx, yy, xy float64
		for i, v := range x {
			xx += float64(v) * float64(v)
			yy += float64(y[i]) * float64(y[i])
			xy += float64(v) * float64(y[i])
		}
		if xx == 0 || yy == 0 {
			if xx != yy {
				return 2
			}
			continue
		}
		most = max(most, 1-xy/math.Sqrt(xx*yy))
	}
	return most
}

// chooseWhenFree is choose for who can wait: when all places are taken it tries again.
func (s *Session) chooseWhenFree(ctx context.Context, g *glance, w *WatchSpec) (verdict, error) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		v, err := s.choose(ctx, g, w)
		if !errors.Is(err, llm.ErrBusy) {
			return v, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return v, ctx.Err()
		}
	}
}
