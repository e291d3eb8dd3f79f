package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"afterimage/ingest"
	"afterimage/memorybank"
	"afterimage/qa"
)

type watchCmd struct {
	List     watchListCmd     `cmd:"" help:"List a server's standing questions and how they stand."`
	Add      watchAddCmd      `cmd:"" help:"Ask a stream something again and again, and be told when the answer becomes yes."`
	Rm       watchRmCmd       `cmd:"" help:"Remove a standing question."`
	Backtest watchBacktestCmd `cmd:"" help:"Say when a standing question would have fired, from what is remembered."`
}

func (c *watchCmd) Help() string {
	return `A standing question is put to the newest picture of a stream again and again. It fires when the model has been sure of the answer for long
enough, and then not again before its cooldown is over and the answer has changed. Those of the configuration file are changed there.

Examples:
  afterimage watch backtest front_door "Is there a parcel at the door?"
  afterimage watch add front_door "Is there a parcel at the door?" --name parcel --webhook https://example.org/hook
  afterimage watch list`
}

// serverFlags say which server to talk to, and as whom.
type serverFlags struct {
	Server    string `default:"http://${listen}" env:"AFTERIMAGE_SERVER" placeholder:"URL" help:"The server (${default})."`
	TokenFile string `placeholder:"FILE" env:"AFTERIMAGE_TOKEN_FILE" help:"A file with a token of the server on its first line; AFTERIMAGE_TOKEN is one itself."`
}

// call sends body (nil: none) and reads the answer into out (nil: leaves it). An answer that is an error becomes one.
func (f *serverFlags) call(ctx context.Context, a *app, method, path string, body, out any) error {
	resp, err := f.open(ctx, a, method, path, body, "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(out); err != nil {
		return fmt.Errorf("watch: %s answers what is not understood: %w", f.host(), err)
	}
	return nil
}

func (f *serverFlags) host() string {
	if u, err := url.Parse(f.Server); err == nil && u.Host != "" {
		return u.Host
	}
	return "the server"
}

// open sends a request and returns an answer that is no error.
func (f *serverFlags) open(ctx context.Context, a *app, method, path string, body any, accept string) (*http.Response, error) {
	base, err := url.Parse(f.Server)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, errors.New("watch: --server: want a URL such as http://" + defaultListen)
	}
	token, _ := a.lookup("AFTERIMAGE_TOKEN")
	if f.TokenFile != "" {
		if token, err = readToken(f.TokenFile); err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
	}
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		content = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(f.Server, "/")+path, content)
	if err != nil {
		return nil, fmt.Errorf("watch: --server: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", accept)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }} // the token is for this server
	resp, err := client.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("watch: no server at %s: %w; start one with \"afterimage serve\", or say --server", f.host(), errors.Unwrap(err))
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var doc struct {
		Error struct{ Code, Message, Param string }
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&doc); err != nil || doc.Error.Message == "" {
		return nil, fmt.Errorf("watch: %s answers %s", f.host(), resp.Status)
	}
	return nil, saidError(doc.Error.Param, doc.Error.Message)
}

func saidError(param, message string) error {
	if param != "" {
		return fmt.Errorf("watch: %s: %s", param, message)
	}
	return fmt.Errorf("watch: %s", message)
}

// watchDoc is what a server says of a standing question.
type watchDoc struct {
	ID          string   `json:"id"`
	Name        string   `json:"name"`
	Stream      string   `json:"stream"`
	Ask         string   `json:"ask"`
	State       string   `json:"state"`
	Fixed       bool     `json:"fixed"`
	Paused      bool     `json:"paused"`
	Probability *float64 `json:"probability"`
	Firings     uint64   `json:"firings"`
	LastFired   string   `json:"last_fired"`
	Error       string   `json:"error"`
	Cost        struct {
		Checks  uint64  `json:"checks"`
		CheckMS float64 `json:"check_ms"`
	} `json:"cost"`
}

type watchListCmd struct {
	serverFlags `embed:""`

	JSON bool `name:"json" help:"Print the server's own JSON instead."`
}

func (c *watchListCmd) Run(ctx context.Context, a *app) error {
	if c.JSON {
		var raw json.RawMessage
		if err := c.call(ctx, a, http.MethodGet, "/api/watches", nil, &raw); err != nil {
			return err
		}
		return writeJSON(a.out, raw)
	}
	list, err := c.list(ctx, a)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(a.out)
	if len(list) == 0 {
		fmt.Fprintln(w, "no standing questions")
	}
	for _, d := range list {
		state := d.State
		if d.Paused {
			state = "paused"
		}
		fmt.Fprintf(w, "%s  %s/%s  %q  %s", d.ID, d.Stream, d.Name, d.Ask, state)
		if d.Probability != nil {
			fmt.Fprintf(w, " at %.2f", *d.Probability)
		}
		fmt.Fprintf(w, ", fired %d times", d.Firings)
		if d.LastFired != "" {
			fmt.Fprintf(w, ", last %s", d.LastFired)
		}
		if d.Cost.Checks > 0 {
			fmt.Fprintf(w, ", %d checks of %.1f ms", d.Cost.Checks, d.Cost.CheckMS)
		}
		if d.Fixed {
			fmt.Fprint(w, ", of the configuration")
		}
		if d.Error != "" {
			fmt.Fprintf(w, ", failing: %s", d.Error)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func (f *serverFlags) list(ctx context.Context, a *app) ([]watchDoc, error) {
	var doc struct{ Watches []watchDoc }
	err := f.call(ctx, a, http.MethodGet, "/api/watches", nil, &doc)
	return doc.Watches, err
}

// find returns the ID of a standing question by that, by its name or by stream/name.
func (f *serverFlags) find(ctx context.Context, a *app, name string) (string, error) {
	list, err := f.list(ctx, a)
	if err != nil {
		return "", err
	}
	var found []string
	for _, d := range list {
		if d.ID == name {
			return name, nil
		}
		if d.Name == name || d.Stream+"/"+d.Name == name {
			found = append(found, d.ID)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("watch: there is no standing question %s", name)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("watch: several streams have a standing question %s: name it as STREAM/%s", name, name)
}

// watchFlags are a standing question but for the question.
type watchFlags struct {
	Choices    []string      `placeholder:"A,B" help:"What the model chooses among, as it would begin its answers; yes and no when not given."`
	Fire       []string      `placeholder:"A" help:"Which of them count; the first when not given."`
	Threshold  float64       `placeholder:"P" help:"From which probability on the answer counts, 0.5 to 1."`
	Hysteresis float64       `placeholder:"P" help:"It ceases to count so far below the threshold."`
	Every      time.Duration `placeholder:"TIME" help:"Between two checks."`
	OnChange   bool          `help:"Check only where the picture changed."`
	Hold       string        `placeholder:"TIME" help:"How long it must count before it fires; 0s: at once."`
	Cooldown   string        `placeholder:"TIME" help:"From a firing to the next, at least; 0s: none."`
	Look       string        `enum:"now,memory," default:"" help:"What the model is shown: now (the newest picture) or memory; memory when not given where the question names a time, else now."`
}

func (f *watchFlags) spec(stream, ask string) (s qa.WatchSpec, err error) {
	s = qa.WatchSpec{Stream: stream, Ask: ask, Choices: f.Choices, Fire: f.Fire, Threshold: f.Threshold, Hysteresis: f.Hysteresis, Every: f.Every,
		OnChange: f.OnChange, Look: qa.Look(f.Look)}
	for _, d := range []struct {
		flag, text string
		into       *time.Duration
	}{{"hold", f.Hold, &s.Hold}, {"cooldown", f.Cooldown, &s.Cooldown}} {
		if d.text == "" {
			continue
		}
		if *d.into, err = time.ParseDuration(d.text); err != nil || *d.into < 0 {
			return s, fmt.Errorf("watch: --%s: want a time such as 10s", d.flag)
		}
		if *d.into == 0 {
			*d.into = -1
		}
	}
	return s, nil
}

type watchAddCmd struct {
	serverFlags `embed:""`
	watchFlags  `embed:""`

	Stream   string        `arg:"" help:"The stream."`
	Question string        `arg:"" help:"The question, as in \"Is there a parcel at the door?\""`
	Name     string        `placeholder:"NAME" help:"What to call it; made up when not given."`
	Deadline time.Duration `placeholder:"TIME" help:"Say so when it has not fired for so long."`
	Webhook  string        `placeholder:"URL" help:"https address that is told too. Beyond its host it is shown to nobody again."`
	Paused   bool          `help:"Add it, but do not check it yet."`
	JSON     bool          `name:"json" help:"Print the server's own JSON instead."`
}

func (c *watchAddCmd) Run(ctx context.Context, a *app) error {
	spec, err := c.spec(c.Stream, c.Question)
	if err != nil {
		return err
	}
	spec.Name, spec.Deadline, spec.Webhook, spec.Paused = c.Name, c.Deadline, c.Webhook, c.Paused
	var raw json.RawMessage
	if err := c.call(ctx, a, http.MethodPost, "/api/watches", spec, &raw); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(a.out, raw)
	}
	var d watchDoc
	if err := json.Unmarshal(raw, &d); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "%s  %s/%s stands\n", d.ID, d.Stream, d.Name)
	return err
}

type watchRmCmd struct {
	serverFlags `embed:""`

	Watch string `arg:"" help:"Its ID, its name, or STREAM/NAME."`
}

func (c *watchRmCmd) Run(ctx context.Context, a *app) error {
	id, err := c.find(ctx, a, c.Watch)
	if err != nil {
		return err
	}
	if err := c.call(ctx, a, http.MethodDelete, "/api/watches/"+url.PathEscape(id), nil, nil); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s removed\n", id)
	return err
}

type watchBacktestCmd struct {
	serverFlags `embed:""`
	watchFlags  `embed:""`
	memoryPlace `embed:""`

	Stream   string `arg:"" help:"The stream; with --memory a stream's memory on disk, or its directory. Without a question: a standing question's ID or name."`
	Question string `arg:"" optional:"" help:"The question."`
	From     string `placeholder:"TIME" help:"Where to begin: 2026-05-04T14:00:00Z, \"2026-05-04 14:00\" or 14:00 (today); when watching began when not given."`
	To       string `placeholder:"TIME" help:"Where to end; now when not given."`
	Memory   bool   `help:"Read the memory on disk, which no server may have open, instead of asking a server."`
	JSON     bool   `name:"json" help:"Print one JSON object instead."`
}

func (c *watchBacktestCmd) Help() string {
	return `Puts the question to the pictures that are remembered, in memory and on disk, as it would have been put to them when they were new.

Examples:
  afterimage watch backtest front_door "Is there a parcel at the door?" --from 08:00
  afterimage watch backtest parcel --threshold 0.95
  afterimage watch backtest front_door "Is the gate open?" --memory`
}

// backtestDoc is what a server says of a back-test, as far as it is printed here.
type backtestDoc struct {
	Type     string  `json:"type"`
	Done     int     `json:"done"`
	Total    int     `json:"total"`
	WatchedS float64 `json:"watched_s"`
	Checks   int     `json:"checks"`
	Coarse   int     `json:"coarse"`
	SparseS  float64 `json:"sparse_s"`
	Sentence string  `json:"sentence"`
	Cost     struct {
		CheckMS float64 `json:"check_ms"`
	} `json:"cost"`
	Events []struct {
		Kind        string  `json:"kind"`
		At          string  `json:"at"`
		Probability float64 `json:"probability"`
	} `json:"events"`
	Error struct{ Message, Param string } `json:"error"`
}

func (c *watchBacktestCmd) Run(ctx context.Context, a *app) error {
	if c.Memory {
		return c.fromDisk(ctx, a)
	}
	spec, err := c.spec(c.Stream, c.Question)
	if err != nil {
		return err
	}
	path := "/api/watches/backtest"
	if c.Question == "" {
		id, err := c.serverFlags.find(ctx, a, c.Stream)
		if err != nil {
			return err
		}
		path = "/api/watches/" + url.PathEscape(id) + "/backtest"
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	body := map[string]any{}
	if err := json.Unmarshal(raw, &body); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	for name, v := range body {
		if v == "" || c.Question == "" && name == "stream" {
			delete(body, name)
		}
	}
	if err := c.stretch(time.Now(), func(name string, at time.Time) { body[name] = at.Format(time.RFC3339Nano) }); err != nil {
		return err
	}
	resp, err := c.open(ctx, a, http.MethodPost, path, body, "application/x-ndjson")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 64<<20)
	var bar *progress
	for lines.Scan() {
		var d backtestDoc
		if err := json.Unmarshal(lines.Bytes(), &d); err != nil {
			return fmt.Errorf("watch: %s answers what is not understood: %w", c.host(), err)
		}
		switch d.Type {
		case "progress":
			if bar == nil && d.Total > 0 {
				bar = newProgress(a, "checking", d.Total)
			}
			if bar != nil {
				bar.set(d.Done, "checking")
			}
		case "error":
			return saidError(d.Error.Param, d.Error.Message)
		default:
			if bar != nil {
				bar.done()
			}
			if c.JSON {
				return writeJSON(a.out, json.RawMessage(lines.Bytes()))
			}
			return printBacktest(a, d)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("watch: %s ended its answer early: %w", c.host(), cmp.Or(lines.Err(), io.ErrUnexpectedEOF))
}

// stretch reads --from and --to.
func (c *watchBacktestCmd) stretch(now time.Time, set func(name string, at time.Time)) error {
	for _, f := range [][2]string{{"from", c.From}, {"to", c.To}} {
		if f[1] == "" {
			continue
		}
		at, err := parseMoment(f[1], now)
		if err != nil {
			return fmt.Errorf("watch: --%s: %w", f[0], err)
		}
		set(f[0], at)
	}
	return nil
}

func printBacktest(a *app, d backtestDoc) error {
	w := bufio.NewWriter(a.out)
	fmt.Fprintln(w, d.Sentence)
	for _, e := range d.Events {
		fmt.Fprintf(w, "  %-7s  %s  at %.2f\n", e.Kind, e.At, e.Probability)
	}
	fmt.Fprintf(w, "%d checks in %s of watching, %.1f ms each", d.Checks, durationWords(time.Duration(d.WatchedS*float64(time.Second))), d.Cost.CheckMS)
	if d.Coarse > 0 {
		fmt.Fprintf(w, "; %d of them saw only the average of a longer while", d.Coarse)
	}
	if d.SparseS > 5 {
		fmt.Fprintf(w, "; up to %s apart, since memory has no more pictures", durationWords(time.Duration(d.SparseS*float64(time.Second))))
	}
	fmt.Fprintln(w)
	return w.Flush()
}

// storedWatched is the coverage of a memory that nobody fills.
type storedWatched struct{ coverage *ingest.Coverage }

// Status implements qa.Watched.
func (storedWatched) Status() ingest.Status { return ingest.Status{State: ingest.Ended} }

// Coverage implements qa.Watched.
func (w storedWatched) Coverage() *ingest.Coverage { return w.coverage }

// fromDisk back-tests on a memory that no server has open.
func (c *watchBacktestCmd) fromDisk(ctx context.Context, a *app) (err error) {
	if c.Question == "" {
		return errors.New("watch: --memory needs the question: standing questions are the server's")
	}
	path, err := c.memoryPlace.find(a, c.Stream)
	if err != nil {
		return err
	}
	spec, err := c.spec("memory", c.Question)
	if err != nil {
		return err
	}
	spec.Name = "backtest"
	if spec, err = spec.Complete(); err != nil {
		return err
	}
	if err := a.handOver(ctx); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	m, err := openMachine(a)
	if err != nil {
		return err
	}
	defer m.close(a.log)
	in, err := memorybank.Inspect(path)
	if err != nil {
		return err
	}
	store, err := memorybank.OpenStore(path, memorybank.StoreOptions{
		Origin: m.origin, Budget: max(2<<30, 2*in.Cold.Bytes), Warn: func(err error) { a.log.Warn("memory on disk", "err", err) },
	})
	if errors.Is(err, memorybank.ErrInUse) {
		return fmt.Errorf("%w: leave out --memory to ask the server that has it", err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	stretches, err := store.Watched(ctx)
	if err != nil {
		return err
	}
	epoch := store.Bank().Snapshot().Epoch
	watched := storedWatched{ingest.NewCoverage(0, 0)}
	spans := make([]ingest.Span, len(stretches))
	for i, w := range stretches {
		spans[i].From, spans[i].To = w.Wall(epoch)
	}
	watched.coverage.Restore(spans)
	session := qa.NewSession(store.Bank(), m.share(), watched, nil)
	session.Reading, session.Query, session.VisualTokens = m.reading, m.query(a.log), m.visual
	var from, to time.Time
	if err := c.stretch(time.Now().In(epoch.Location()), func(name string, at time.Time) {
		if name == "from" {
			from = at
		} else {
			to = at
		}
	}); err != nil {
		return err
	}
	var bar *progress
	b, err := session.Backtest(ctx, spec, from, to, func(done, total int) {
		if bar == nil {
			bar = newProgress(a, "checking", total)
		}
		bar.set(done, "checking")
	})
	if err != nil {
		return err
	}
	if bar != nil {
		bar.done()
	}
	d := backtestDoc{Type: "result", WatchedS: b.Watched.Seconds(), Checks: b.Checks, Coarse: b.Coarse, SparseS: b.Sparse.Seconds(), Sentence: b.Sentence()}
	d.Cost.CheckMS = float64(b.Cost.PerCheck().Microseconds()) / 1000
	for _, e := range b.Events {
		d.Events = append(d.Events, struct {
			Kind        string  `json:"kind"`
			At          string  `json:"at"`
			Probability float64 `json:"probability"`
		}{string(e.Kind), stamp(e.At), e.Probability})
	}
	if c.JSON {
		return writeJSON(a.out, d)
	}
	return printBacktest(a, d)
}
