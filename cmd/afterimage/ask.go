package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"afterimage/ingest"
	"afterimage/memorybank"
	"afterimage/qa"
)

type askCmd struct {
	Source    string        `arg:"" help:"What to watch: a file, rtsp://, http(s)://, v4l2:/dev/video0 or sim://street?seed=100000."`
	Question  []string      `arg:"" help:"What to ask. Several are answered in turn from the same memory."`
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
	return `Watches, then answers, token by token, and says which moments the answer was given.

Examples:
  afterimage ask clip.mp4 "What happened, in order?"
  afterimage ask rtsp://viewer:secret@192.0.2.10/stream2 "Is the door open?" --for 1m
  afterimage ask "sim://street?seed=123456" "How many cars have passed?"`
}

func (c *askCmd) Run(ctx context.Context, a *app) error {
	u, err := ingest.ParseURL(c.Source)
	if err != nil {
		return err
	}
	if err := checkSource(u); err != nil {
		return err
	}
	sc := StreamConfig{Name: nameOf(u), URL: u, FPS: c.FPS, Transport: c.Transport, Memory: c.Strategy, VisualTokens: c.Visual}
	sc.inherit(StreamConfig{})
	if err := sc.check(func(key, format string, args ...any) error {
		return fmt.Errorf("ask: --%s: %s", strings.ReplaceAll(key, "_", "-"), fmt.Sprintf(format, args...))
	}); err != nil {
		return err
	}
	if err := a.handOver(ctx); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	m, err := openMachine(a)
	if err != nil {
		return err
	}
	defer m.close(a.log)
	s, err := openFastStream(ctx, a, m, sc, c.Starts)
	if err != nil {
		return err
	}
	defer s.close()
	if err := c.watch(ctx, a, s); err != nil {
		return err
	}
	for _, text := range c.Question {
		if err := c.answer(ctx, a, s, text); err != nil {
			return err
		}
	}
	return nil
}

// watch lets the memory fill. A live source stays watched while the answers are given.
func (c *askCmd) watch(ctx context.Context, a *app, s *stream) error {
	if !s.live {
		fmt.Fprintf(a.err, "watching %s to its end\n", s.url)
		if err := s.watch(ctx); err != nil {
			return err
		}
		if s.frames() == 0 {
			return fmt.Errorf("ask: %s: no picture could be read%s", s.url, because(s.Status().Err))
		}
		return nil
	}
	fmt.Fprintf(a.err, "watching %s for %s\n", s.url, c.For)
	s.watchInBackground(ctx)
	select { // what connecting takes is counted: a source that never shows itself must not hold the user up
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(c.For):
	}
	if s.frames() == 0 {
		return fmt.Errorf("ask: %s: no picture within %s%s", s.url, c.For, because(s.Status().Err))
	}
	return nil
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func (c *askCmd) answer(ctx context.Context, a *app, s *stream, text string) error {
	q := qa.Question{Text: text, MaxTokens: c.MaxTokens}
	if c.JSON {
		answer, err := s.Ask(ctx, q, func(string) error { return nil })
		if err != nil {
			return err
		}
		return writeJSON(a.out, answerJSON(text, answer))
	}
	if len(c.Question) > 1 {
		fmt.Fprintf(a.out, "> %s\n", text)
	}
	_, err := tell(ctx, a.out, s, q)
	return err
}

// tell asks and writes the answer as it comes, then a line about how it came about.
func tell(ctx context.Context, w io.Writer, s *stream, q qa.Question) (qa.Answer, error) {
	answer, err := s.Ask(ctx, q, func(piece string) error {
		_, err := io.WriteString(w, piece)
		return err
	})
	fmt.Fprintln(w)
	if err != nil {
		return answer, err
	}
	fmt.Fprintf(w, "  %s\n", evidenceLine(answer))
	if line := statsLine(answer); line != "" {
		fmt.Fprintf(w, "  %s\n", line)
	}
	return answer, nil
}

// evidenceLine names the moments an answer was given, in one line.
func evidenceLine(answer qa.Answer) string {
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
	for _, g := range e.Gaps {
		fmt.Fprintf(&b, ", not watching %s to %s", clock(g.From), clock(g.To))
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
