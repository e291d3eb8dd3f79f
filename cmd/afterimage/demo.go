package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"afterimage/ingest"
	"afterimage/ingest/simcam"
	"afterimage/qa"
	"afterimage/web"
)

type demoCmd struct {
	Once     bool         `help:"Ask three questions at three moments of the stream, print answers and truth, and end."`
	Listen   string       `default:"${listen}" env:"AFTERIMAGE_LISTEN" placeholder:"HOST:PORT" help:"Where the page is served (${listen}); with --once there is no page."`
	Strategy MemoryConfig `default:"flash" placeholder:"NAME" help:"How to remember (${default}): a strategy that \"afterimage list strategies\" lists, with options as in flash:synopsis=32,detail=4."`
	Seed     uint64       `placeholder:"N" help:"Which street day to play: 100000 or more, which the default model has never seen. Without it, another one every time; with --once, 100000."`
}

func (c *demoCmd) Help() string {
	return `A simulated camera serves H.264 over RTSP on this machine; Afterimage watches it as it would any camera. Open the page, or type
questions here while the stream goes on.

Examples:
  afterimage demo
  afterimage demo --once`
}

const (
	// firstHeldOut is the first seed that no training has used.
	firstHeldOut = 100_000
	demoFPS      = 25
)

var demoQuestions = []string{"What were the last three things that happened?", "Describe the scene", "Is the door open?", "Did a car come by?", "How many people did you see?"}

func (c *demoCmd) Run(ctx context.Context, a *app) error {
	switch {
	case c.Seed != 0 && c.Seed < firstHeldOut:
		return fmt.Errorf("demo: --seed: want %d or more; the model was trained on those below", firstHeldOut)
	case c.Seed == 0 && c.Once:
		c.Seed = firstHeldOut
	case c.Seed == 0:
		c.Seed = firstHeldOut + rand.Uint64N(800_000)
	}
	if err := a.handOver(ctx); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	var ln net.Listener
	if !c.Once {
		var err error
		if ln, err = net.Listen("tcp", c.Listen); err != nil {
			return fmt.Errorf("demo: %w; another port: --listen 127.0.0.1:0", err)
		}
		defer ln.Close()
	}
	f, err := openFleet(a, 1)
	if err != nil {
		return err
	}
	defer f.close(a.log)
	m := f.machines[0]
	script := simcam.NewScript(c.Seed, 0)
	camera, err := simcam.ServeRTSP(simcam.NewRenderer(script, simcam.SceneW, simcam.SceneH), simcam.RTSPOptions{
		Addr: "127.0.0.1:0", FPS: demoFPS, NewEncoder: withSimEncoder, Log: a.log.With("component", "simcam"),
	})
	if err != nil {
		return err
	}
	defer camera.Close()
	u, err := ingest.ParseURL(camera.URL())
	if err != nil {
		return err
	}
	sc := StreamConfig{Name: "street", URL: u, Memory: c.Strategy}
	sc.inherit(StreamConfig{})
	a.metrics = web.NewMetrics()
	s, err := openStream(ctx, a, m, sc)
	if err != nil {
		return err
	}
	defer s.close()
	d := &demo{a: a, stream: s, script: script, camera: camera}
	if c.Once {
		fmt.Fprintf(a.out, "camera   %s (simulated, seed %d, H.264)\nmodel    %s on %s\n", u, c.Seed, m.name, m.device)
		return d.once(ctx)
	}
	fmt.Fprintf(a.out, `
  page     %s
  camera   %s (simulated, seed %d, H.264)
  model    %s on %s

Type a question and press Enter, any time; the stream goes on meanwhile. For example: %s
Ctrl-C stops everything.

`, pageURL(ln.Addr()), u, c.Seed, m.name, m.device, demoQuestions[0])
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	standing, err := openStanding(a, "", WebhookConfig{})
	if err != nil {
		return err
	}
	defer func() {
		if err := standing.close(); err != nil {
			a.log.Warn("close", "err", err)
		}
	}()
	server, err := newServer(a, f, ln, []web.Stream{s}, web.Config{Suggestions: demoQuestions, Watches: standing.Standing})
	if err != nil {
		return err
	}
	s.watchInBackground(ctx)
	standing.Attach(s.name, s.Session)
	go d.converse(ctx) // not waited for: nothing can interrupt a read from a terminal
	return serve(ctx, server, ln)
}

// demo is a running demonstration.
type demo struct {
	a      *app
	stream *stream
	script *simcam.Script
	camera *simcam.RTSPServer
}

// converse answers the lines typed until there are no more.
func (d *demo) converse(ctx context.Context) {
	lines := bufio.NewScanner(d.a.in)
	var history []qa.Exchange
	for lines.Scan() {
		text := strings.TrimSpace(lines.Text())
		if text == "" {
			continue
		}
		answer, err := tell(ctx, d.a.out, d.stream, qa.Question{Text: text, History: history})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			fmt.Fprintf(d.a.out, "  no answer: %v\n", err)
		default:
			history = append(history[max(0, len(history)-keptExchanges):], qa.Exchange{Question: text, Answer: answer.Text, At: answer.Evidence.Asked})
		}
		fmt.Fprintln(d.a.out)
	}
}

// keptExchanges is how far back a conversation is remembered, and one more.
const keptExchanges = 15

// moments of stream time before which no question of "once" is asked. The first is early: the whole run should have its first
// answer 15 s after it was started.
var onceMoments = []time.Duration{9 * time.Second, 20 * time.Second, 32 * time.Second}

// patience is how long after its moment a question is waited for, in case nothing worth asking about has happened.
const patience = 60 * time.Second

// once asks three questions of different types, each at its moment of the live stream.
func (d *demo) once(ctx context.Context) error {
	d.stream.watchInBackground(ctx)
	if err := d.firstFrame(ctx); err != nil {
		return err
	}
	answered, right := 0, 0
	used := map[string]bool{}
	for i, moment := range onceMoments {
		t, err := d.question(ctx, moment, used, uint64(i))
		if err != nil {
			return err
		}
		fmt.Fprintf(d.a.out, "\n%s into the stream (%s)\n  question  %s\n", t.At.Round(100*time.Millisecond), t.Type, t.Question)
		answer, err := d.stream.Ask(ctx, qa.Question{Text: t.Question}, nil)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			fmt.Fprintf(d.a.out, "  no answer %v\n", err)
			continue
		}
		verdict := "does not match the truth"
		if simcam.Score(t, answer.Text).Exact {
			verdict = "matches the truth"
			right++
		}
		text := strings.TrimSpace(answer.Text)
		if text != "" {
			answered++
		} else {
			text, verdict = "(nothing)", "no answer"
		}
		fmt.Fprintf(d.a.out, "  answer    %s\n  truth     %s\n  verdict   %s\n", text, t.Answer, verdict)
		fmt.Fprintf(d.a.out, "  evidence  %s", evidenceLine(t.Question, answer))
		if t.To > 0 {
			fmt.Fprintf(d.a.out, "; the truth lies at %s to %s", clock(d.camera.Start.Add(t.From)), clock(d.camera.Start.Add(t.To)))
		}
		fmt.Fprintln(d.a.out)
		if line := statsLine(answer); line != "" {
			fmt.Fprintf(d.a.out, "  speed     %s\n", line)
		}
	}
	fmt.Fprintf(d.a.out, "\n%d of %d questions answered, %d as the truth has it.\n", answered, len(onceMoments), right)
	if answered < len(onceMoments) {
		return errors.New("demo: not every question was answered")
	}
	return nil
}

func (d *demo) firstFrame(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := waitFor(ctx, 20*time.Millisecond, func() bool { return d.stream.frames() > 0 }); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("demo: no picture from the camera within 30 s%s", because(d.stream.Status().Err))
		}
		return err
	}
	return nil
}

// question waits until moment and then until the script has a question of a type not used yet.
func (d *demo) question(ctx context.Context, moment time.Duration, used map[string]bool, seed uint64) (simcam.Truth, error) {
	var t simcam.Truth
	ctx, cancel := context.WithDeadline(ctx, d.camera.Start.Add(moment+patience))
	defer cancel()
	err := waitFor(ctx, 100*time.Millisecond, func() bool {
		at := time.Since(d.camera.Start)
		if at < moment {
			return false
		}
		// Many are drawn, so that there is one of a new type.
		for _, q := range d.script.Questions(d.camera.Start, at, 3*len(simcam.Types), d.script.Seed+seed) {
			if !used[q.Type] {
				t = q
				used[q.Type] = true
				return true
			}
		}
		return false
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return t, errors.New("demo: nothing worth asking about happened; try another --seed")
	}
	return t, err
}
