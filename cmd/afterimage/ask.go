package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"afterimage/ingest"
	"afterimage/memorybank"
	"afterimage/qa"
)

type askCmd struct {
	Source    string        `arg:"" help:"What to watch: a file, rtsp://, http(s)://, v4l2:/dev/video0 or sim://street?seed=100000."`
	Question  []string      `arg:"" help:"What to ask. Several are answered in turn from the same memory."`
	With      []string      `placeholder:"SOURCE" sep:"none" help:"Another camera that every question is about too; may be repeated. Each has its share of --max-visual-tokens, and answers name them."`
	For       time.Duration `default:"20s" help:"How long to watch a live source. A file is watched to its end, as fast as possible."`
	FPS       float64       `name:"fps" default:"2" help:"Pictures a second to look at."`
	Transport string        `enum:"tcp,udp" default:"tcp" help:"RTSP over tcp or udp."`
	Strategy  MemoryConfig  `default:"flash" placeholder:"NAME" help:"How to remember (${default}): a strategy that \"afterimage list strategies\" lists, with options as in flash:synopsis=32,detail=4."`
	Visual    int           `name:"max-visual-tokens" placeholder:"N" help:"Most visual tokens that a question is shown; without it, as many as the strategy likes."`
	MaxTokens int           `default:"256" help:"Longest answer, in tokens."`
	Starts    time.Time     `placeholder:"TIME" help:"The time of day of a file's first picture, as 2026-05-04T12:00:00Z; now when not given. Questions about clock times need it."`
	JSON      bool          `name:"json" help:"Print one JSON object a question instead of text."`
}

func (c *askCmd) Help() string {
	return `Watches, then answers, token by token, and says which moments the answer was given. Of several questions a later one may lean on those
before it: "And what colour was it?"

Examples:
  afterimage ask clip.mp4 "What happened, in order?"
  afterimage ask rtsp://viewer:secret@192.0.2.10/stream2 "Is the door open?" --for 1m
  afterimage ask "sim://street?seed=123456" "How many cars have passed?"
  afterimage ask "sim://street?seed=1" --with "sim://street?seed=2" "Is anyone there?" "And what happened in the last minute?"`
}

func (c *askCmd) Run(ctx context.Context, a *app) error {
	var configs []StreamConfig
	for _, source := range append([]string{c.Source}, c.With...) {
		sc, err := c.config(source, configs)
		if err != nil {
			return err
		}
		configs = append(configs, sc)
	}
	if err := a.handOver(ctx); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	m, err := openMachine(a)
	if err != nil {
		return err
	}
	defer m.close(a.log)
	all := cameras{all: qa.Several{Streams: map[string]qa.Asker{}}}
	var streams []*stream
	for _, sc := range configs {
		s, err := openFastStream(ctx, a, m, sc, c.Starts)
		if err != nil {
			return err
		}
		defer s.close()
		streams, all.names, all.all.Streams[sc.Name] = append(streams, s), append(all.names, sc.Name), s
	}
	if err := c.watch(ctx, a, streams); err != nil {
		return err
	}
	var history []qa.Exchange
	for _, text := range c.Question {
		answer, err := c.answer(ctx, a, all, text, history)
		if err != nil {
			return err
		}
		history = append(history, qa.Exchange{Question: text, Answer: answer.Text, At: answer.Evidence.Asked})
	}
	return nil
}

// config checks a source and names it as none before it is.
func (c *askCmd) config(source string, before []StreamConfig) (sc StreamConfig, err error) {
	u, err := ingest.ParseURL(source)
	if err != nil {
		return sc, err
	}
	if err := checkSource(u); err != nil {
		return sc, err
	}
	name := nameOf(u)
	for n, taken := 2, name; slices.ContainsFunc(before, func(o StreamConfig) bool { return o.Name == name }); n++ {
		name = fmt.Sprintf("%.60s-%d", taken, n)
	}
	sc = StreamConfig{Name: name, URL: u, FPS: c.FPS, Transport: c.Transport, Memory: c.Strategy, VisualTokens: c.Visual}
	sc.inherit(StreamConfig{})
	return sc, sc.check(func(key, format string, args ...any) error {
		return fmt.Errorf("ask: --%s: %s", strings.ReplaceAll(key, "_", "-"), fmt.Sprintf(format, args...))
	})
}

// cameras are what each question of the verb is about.
type cameras struct {
	names []string
	all   qa.Several
}

// Ask implements qa.Asker.
func (c cameras) Ask(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
	return c.all.Ask(ctx, c.names, q, emit)
}

// watch lets the memories fill, files' first. Live sources are watched at once, and stay watched while the answers are given.
func (c *askCmd) watch(ctx context.Context, a *app, streams []*stream) error {
	live := false
	for _, s := range streams {
		if s.live {
			live = true
			continue
		}
		fmt.Fprintf(a.err, "watching %s to its end\n", s.url)
		if err := s.watch(ctx); err != nil {
			return err
		}
		if s.frames() == 0 {
			return fmt.Errorf("ask: %s: no picture could be read%s", s.url, because(s.Status().Err))
		}
	}
	if !live {
		return nil
	}
	for _, s := range streams {
		if s.live {
			fmt.Fprintf(a.err, "watching %s for %s\n", s.url, c.For)
			s.watchInBackground(ctx)
		}
	}
	select { // what connecting takes is counted: a source that never shows itself must not hold the user up
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(c.For):
	}
	for _, s := range streams {
		if s.frames() == 0 {
			return fmt.Errorf("ask: %s: no picture within %s%s", s.url, c.For, because(s.Status().Err))
		}
	}
	return nil
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func (c *askCmd) answer(ctx context.Context, a *app, s qa.Asker, text string, history []qa.Exchange) (qa.Answer, error) {
	q := qa.Question{Text: text, MaxTokens: c.MaxTokens, History: history}
	if c.JSON {
		answer, err := s.Ask(ctx, q, func(string) error { return nil })
		if err != nil {
			return answer, err
		}
		return answer, writeJSON(a.out, answerJSON(text, answer))
	}
	if len(c.Question) > 1 {
		fmt.Fprintf(a.out, "> %s\n", text)
	}
	return tell(ctx, a.out, s, q)
}

// tell asks and writes the answer as it comes, then a line about how it came about.
func tell(ctx context.Context, w io.Writer, s qa.Asker, q qa.Question) (qa.Answer, error) {
	answer, err := s.Ask(ctx, q, func(piece string) error {
		_, err := io.WriteString(w, piece)
		return err
	})
	fmt.Fprintln(w)
	if err != nil {
		return answer, err
	}
	fmt.Fprintf(w, "  %s\n", evidenceLine(q.Text, answer))
	if line := statsLine(answer); line != "" {
		fmt.Fprintf(w, "  %s\n", line)
	}
	return answer, nil
}

// evidenceLine names the moments an answer was given, in one line.
func evidenceLine(asked string, answer qa.Answer) string {
	e := answer.Evidence
	var b strings.Builder
	fmt.Fprintf(&b, "as of %s", stamp(e.AsOf))
	if from, to, n := evidenceSpan(e); n > 0 {
		fmt.Fprintf(&b, ", from %d moments between %s and %s", n, clock(from), clock(to))
	}
	if f := e.Focus; !f.From.IsZero() {
		fmt.Fprintf(&b, ", asked about %s to %s", clock(f.From), clock(f.To))
	}
	if e.Prefer != memorybank.AnyTime {
		fmt.Fprintf(&b, ", the %s of what fits", e.Prefer)
	}
	if e.Note != "" {
		fmt.Fprintf(&b, ", but %s", e.Note)
	}
	if e.State != "" && e.State != ingest.Live && e.State != ingest.Ended {
		fmt.Fprintf(&b, ", the source is %s", e.State)
	}
	for _, cut := range e.Cut {
		fmt.Fprintf(&b, ", %s", cut)
	}
	for _, g := range e.Gaps {
		fmt.Fprintf(&b, ", not watching %s to %s", clock(g.From), clock(g.To))
	}
	for _, c := range e.Cameras {
		if f := c.Focus; !f.From.IsZero() {
			fmt.Fprintf(&b, ", %s asked about %s to %s", c.Stream, clock(f.From), clock(f.To))
		}
		for _, g := range c.Gaps {
			fmt.Fprintf(&b, ", %s not watching %s to %s", c.Stream, clock(g.From), clock(g.To))
		}
	}
	if answer.Asked != "" && answer.Asked != asked {
		fmt.Fprintf(&b, ", put as %q", answer.Asked)
	}
	return b.String()
}

func evidenceSpan(e qa.Evidence) (from, to time.Time, n int) {
	for _, item := range e.Items {
		if n == 0 || item.From.Before(from) {
			from = item.From
		}
		if n == 0 || item.To.After(to) {
			to = item.To
		}
		n++
	}
	return from, to, n
}

func clock(t time.Time) string { return t.Format("15:04:05") }

// statsLine is empty when no model spoke.
func statsLine(answer qa.Answer) string {
	s := answer.Stats
	if answer.FromCoverage || s.Generated == 0 {
		return ""
	}
	line := fmt.Sprintf("first token %d ms, %d visual tokens", s.FirstToken.Milliseconds(), s.VisualTokens)
	if rate := tokensPerSecond(answer); rate > 0 {
		line += fmt.Sprintf(", %.0f tokens/s", rate)
	}
	return line
}

// tokensPerSecond counts the tokens after the first; 0 when there are none.
func tokensPerSecond(answer qa.Answer) float64 {
	s := answer.Stats
	if spent := s.Total - s.FirstToken; s.Generated > 1 && spent > 0 {
		return float64(s.Generated-1) / spent.Seconds()
	}
	return 0
}
