package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"afterimage/ingest"
	"afterimage/qa"
)

// LiveStream is a watched stream under test.
type LiveStream struct {
	Name  string
	FPS   float64
	Meter func() qa.Progress
	State func() ingest.Status
}

// LiveOptions say how a server is loaded. Every field is needed unless it says otherwise.
type LiveOptions struct {
	Address   string // host:port of the server, without TLS and tokens
	Streams   []LiveStream
	Sockets   int           // that ask, all from the same moment on
	Quiet     time.Duration // watched before, for comparison
	Load      time.Duration // for which every socket asks again as soon as it has its answer
	Questions []string
	Progress  func(what string) // nil: nobody is told
}

// LiveReport is how asking and watching went together. Times are as a client sees them, in milliseconds.
type LiveReport struct {
	Benchmark string        `json:"benchmark"` // "live"
	Sockets   int           `json:"sockets"`
	Seconds   float64       `json:"seconds"` // of the load
	Limits    LiveLimits    `json:"limits"`
	Asking    LiveAsking    `json:"asking"`
	Watching  []LiveWatched `json:"watching"` // one row a phase and stream
	CPUCores  float64       `json:"cpu_cores,omitempty"`
	OtherLoad string        `json:"other_load,omitempty"` // of the machine, where it was not ours alone
	Machine   Machine       `json:"machine"`
}

// LiveLimits are the server's.
type LiveLimits struct {
	Connections int `json:"connections"`
	Asking      int `json:"asking"`
}

// LiveAsking is what became of the tries: every one is answered, cancelled (because we asked for that), refused, failed or lost.
type LiveAsking struct {
	Tries        int            `json:"tries"`
	Answered     int            `json:"answered"`
	Cancelled    int            `json:"cancelled"`
	Refused      map[string]int `json:"refused"`          // by status or code, as "429 with Retry-After"
	Failed       map[string]int `json:"failed"`           // answers that say why they failed
	Lost         int            `json:"lost"`             // neither answered nor told why not
	LostWhy      []string       `json:"lost_why"`         // the first few
	NeverServed  int            `json:"never_answered"`   // sockets without a single answer in all the time
	PerSecond    float64        `json:"answers_a_second"` //
	FirstTokenMS Spread         `json:"first_token_ms"`   // from asking
	AnswerMS     Spread         `json:"answer_ms"`        // from asking
	CancelMS     Spread         `json:"cancel_ms"`        // from response.cancel to the answer's end
	LateCancels  int            `json:"cancels_too_late"` // the answer was there first
	RefusedMS    Spread         `json:"refused_ms"`       // from trying to being told no
}

// LiveWatched is how one stream was watched in one phase.
type LiveWatched struct {
	Stream  string  `json:"stream"`
	Phase   string  `json:"phase"` // quiet or load
	Wanted  float64 `json:"fps_wanted"`
	Rate    float64 `json:"fps"`         // in memory
	Lowest  float64 `json:"fps_lowest"`  // over any 10 s
	Dropped uint64  `json:"dropped"`     //
	LagMS   Spread  `json:"lag_ms"`      // from a frame's arrival to when it is in memory
	GapMS   float64 `json:"longest_gap"` // between two moments at which frames came into memory, ms
}

// Spread is a distribution.
type Spread struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func spread(values []float64) Spread {
	return Spread{len(values), round3(percentile(values, .5)), round3(percentile(values, .95)), round3(percentile(values, .99)), round3(percentile(values, 1))}
}

// Live watches for a while, then lets all sockets ask at once, again and again, and measures what both sides see. Sockets that are refused
// try again when they were told to. The sockets are on this machine and take their share of it.
func Live(ctx context.Context, o LiveOptions) (*LiveReport, error) {
	if o.Sockets < 1 || len(o.Streams) == 0 || len(o.Questions) == 0 {
		return nil, errors.New("bench: live: want sockets, streams and questions")
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	r := &LiveReport{Benchmark: "live", Sockets: o.Sockets, Seconds: o.Load.Seconds()}
	o.Progress(fmt.Sprintf("watching %d streams for %s", len(o.Streams), o.Quiet))
	quiet, err := measureStreams(ctx, o.Streams, "quiet", func(ctx context.Context) error { return sleep(ctx, o.Quiet) })
	if err != nil {
		return nil, err
	}
	o.Progress(fmt.Sprintf("%d sockets ask for %s", o.Sockets, o.Load))
	load, err := measureStreams(ctx, o.Streams, "load", func(ctx context.Context) (err error) {
		r.Asking, err = loadSockets(ctx, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.Watching = append(quiet, load...)
	return r, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// measureStreams measures what comes into memory while run runs.
func measureStreams(ctx context.Context, streams []LiveStream, phase string, run func(context.Context) error) ([]LiveWatched, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	rows := make([]LiveWatched, len(streams))
	var wg sync.WaitGroup
	for i, s := range streams {
		wg.Go(func() { rows[i] = measureStream(ctx, s, phase) })
	}
	err := run(ctx)
	stop()
	wg.Wait()
	return rows, err
}

// lookAtMeters is how often a meter is read: frames come a hundred times less often.
const lookAtMeters = 5 * time.Millisecond

func measureStream(ctx context.Context, s LiveStream, phase string) LiveWatched {
	row := LiveWatched{Stream: s.Name, Phase: phase, Wanted: s.FPS}
	before, dropped, began := s.Meter(), s.State().Dropped, time.Now()
	frames, last := before.Frames, began
	type arrival struct {
		at time.Time
		n  uint64
	}
	var arrivals []arrival
	var lags []float64
	tick := time.NewTicker(lookAtMeters)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		p, now := s.Meter(), time.Now()
		if p.Frames == frames {
			continue
		}
		arrivals = append(arrivals, arrival{now, p.Frames - frames})
		lags = append(lags, ms(p.Lag))
		row.GapMS = max(row.GapMS, ms(now.Sub(last)))
		frames, last = p.Frames, now
	}
	end := time.Now()
	row.GapMS = max(row.GapMS, ms(end.Sub(last)))
	row.LagMS, row.Dropped = spread(lags), s.State().Dropped-dropped
	row.Rate = round3(float64(frames-before.Frames) / end.Sub(began).Seconds())
	row.Lowest = row.Rate
	const window = 10 * time.Second
	for from := began; !from.Add(window).After(end); from = from.Add(250 * time.Millisecond) {
		n := uint64(0)
		for _, a := range arrivals {
			if a.at.After(from) && !a.at.After(from.Add(window)) {
				n += a.n
			}
		}
		row.Lowest = min(row.Lowest, round3(float64(n)/window.Seconds()))
	}
	return row
}

// tally is what all sockets write into.
type tally struct {
	mu                             sync.Mutex
	a                              LiveAsking
	first, answer, cancel, refused []float64
}

func (t *tally) add(f func(*tally)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(t)
}

// loadSockets lets every socket ask until o.Load has passed, and waits for what is under way then.
func loadSockets(ctx context.Context, o LiveOptions) (LiveAsking, error) {
	t := &tally{a: LiveAsking{Refused: map[string]int{}, Failed: map[string]int{}, LostWhy: []string{}}}
	start := make(chan struct{})
	var until time.Time
	var wg sync.WaitGroup
	for i := range o.Sockets {
		wg.Go(func() {
			c := liveClient{o: o, tally: t, number: i, stream: o.Streams[i%len(o.Streams)].Name}
			<-start
			c.run(ctx, until)
			if c.answered == 0 {
				t.add(func(t *tally) { t.a.NeverServed++ })
			}
		})
	}
	began := time.Now()
	until = began.Add(o.Load)
	close(start)
	wg.Wait()
	t.a.PerSecond = round3(float64(t.a.Answered) / time.Since(began).Seconds())
	t.a.FirstTokenMS, t.a.AnswerMS, t.a.CancelMS, t.a.RefusedMS = spread(t.first), spread(t.answer), spread(t.cancel), spread(t.refused)
	return t.a, ctx.Err()
}

// liveClient is one socket, or the tries to have one.
type liveClient struct {
	o        LiveOptions
	tally    *tally
	number   int
	stream   string
	asked    int
	answered int
	refusals int // one after another
}

const (
	liveTimeout = 90 * time.Second // after which an answer, or a handshake, counts as lost
	cancelEvery = 10               // one question in so many is cancelled
	leaveAfter  = 4                // questions on one socket, then another is opened, so that everybody gets in
	retryLeast  = 500 * time.Millisecond
	retryMost   = 8 * time.Second
)

// patience is how long to wait after a refusal: as long as the server says, and longer with every refusal, as API clients do, by chance so
// that they do not all come back at once.
func (c *liveClient) patience(told time.Duration) time.Duration {
	wait := min(retryLeast<<min(c.refusals, 10), retryMost)
	c.refusals++
	return time.Duration(float64(max(wait, told)) * (1 + rand.Float64()/2))
}

func (c *liveClient) run(ctx context.Context, until time.Time) {
	for ctx.Err() == nil && time.Now().Before(until) {
		ws, wait := c.dial(ctx)
		if ws == nil {
			if sleep(ctx, min(c.patience(wait), max(0, time.Until(until)))) != nil {
				return
			}
			continue
		}
		for n := 0; n < leaveAfter && ctx.Err() == nil && time.Now().Before(until); n++ {
			wait, err := c.ask(ws)
			if err != nil {
				c.lost(err)
				break
			}
			if wait == 0 {
				c.refusals = 0
			} else if sleep(ctx, min(c.patience(wait), max(0, time.Until(until)))) != nil {
				break
			}
		}
		ws.Close()
	}
}

func (c *liveClient) lost(err error) {
	c.tally.add(func(t *tally) {
		if t.a.Lost++; len(t.a.LostWhy) < 8 {
			t.a.LostWhy = append(t.a.LostWhy, err.Error())
		}
	})
}

// dial connects; without a socket it says how long to wait before the next try.
func (c *liveClient) dial(ctx context.Context) (*websocket.Conn, time.Duration) {
	u := url.URL{Scheme: "ws", Host: c.o.Address, Path: "/v1/realtime", RawQuery: url.Values{"stream": {c.stream}}.Encode()}
	d := websocket.Dialer{HandshakeTimeout: liveTimeout}
	began := time.Now()
	ws, resp, err := d.DialContext(ctx, u.String(), nil)
	if err == nil {
		return ws, 0
	}
	if ctx.Err() != nil {
		return nil, 0
	}
	if resp == nil || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		c.tally.add(func(t *tally) { t.a.Tries++ })
		c.lost(err)
		return nil, 0
	}
	what, wait := strconv.Itoa(resp.StatusCode)+" without Retry-After", time.Duration(0)
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		what, wait = strconv.Itoa(resp.StatusCode)+" with Retry-After", time.Duration(s)*time.Second
	}
	c.refused(what, began)
	return nil, wait
}

func (c *liveClient) refused(what string, began time.Time) {
	c.tally.add(func(t *tally) {
		t.a.Tries++
		t.a.Refused[what]++
		t.refused = append(t.refused, ms(time.Since(began)))
	})
}

// liveEvent is what a client looks at of the server's events.
type liveEvent struct {
	Type       string `json:"type"`
	ResponseID string `json:"response_id"`
	Response   struct {
		ID            string `json:"id"`
		Status        string `json:"status"`
		StatusDetails struct {
			Error struct {
				Code string `json:"code"`
			} `json:"error"`
		} `json:"status_details"`
	} `json:"response"`
	Error struct {
		Type       string  `json:"type"`
		Code       string  `json:"code"`
		EventID    string  `json:"event_id"`
		RetryAfter float64 `json:"retry_after_ms"`
	} `json:"error"`
}

// ask puts one question. The error means that it was lost, and the connection with it. wait is 0, or after a refusal what the server says,
// at least a nanosecond.
func (c *liveClient) ask(ws *websocket.Conn) (wait time.Duration, err error) {
	c.asked++
	n := c.number + c.asked
	cancelled, cancelAt, first := n%cancelEvery == 0, time.Time{}, time.Duration(0)
	atToken := n/cancelEvery%2 == 0 // half of the cancelled are so as soon as they begin, half at their first word
	question := c.o.Questions[n%len(c.o.Questions)]
	began := time.Now()
	if err := ws.SetReadDeadline(began.Add(liveTimeout)); err != nil {
		return 0, err
	}
	id, ours := "ask"+strconv.Itoa(c.asked), ""
	err = ws.WriteJSON(map[string]any{"type": "response.create", "event_id": id, "response": map[string]any{"input": []any{map[string]any{
		"type": "message", "role": "user", "content": []any{map[string]any{"type": "input_text", "text": question}},
	}}}})
	if err != nil {
		return 0, c.untold(began, err)
	}
	cancel := func() error {
		cancelAt = time.Now()
		return ws.WriteJSON(map[string]string{"type": "response.cancel", "event_id": "cancel", "response_id": ours})
	}
	for {
		kind, raw, err := ws.ReadMessage()
		if err != nil {
			return 0, c.untold(began, err)
		}
		if kind != websocket.TextMessage {
			continue
		}
		var e liveEvent
		if err := json.Unmarshal(raw, &e); err != nil {
			return 0, c.untold(began, err)
		}
		switch e.Type {
		case "response.created":
			ours = e.Response.ID
			if cancelled && !atToken {
				err = cancel()
			}
		case "response.output_text.delta":
			if first == 0 && e.ResponseID == ours {
				first = time.Since(began)
				if cancelled && atToken {
					err = cancel()
				}
			}
		case "error":
			if e.Error.EventID == id {
				c.refused(e.Error.Code, began)
				return max(1, time.Duration(e.Error.RetryAfter*float64(time.Millisecond))), nil
			} // else there was nothing left to cancel: the answer has ended or is about to
		case "response.done":
			if e.Response.ID == ours {
				c.done(e, began, cancelAt, first)
				return 0, nil
			}
		}
		if err != nil {
			return 0, c.untold(began, err)
		}
	}
}

// untold counts a try of which nothing was heard.
func (c *liveClient) untold(began time.Time, err error) error {
	c.tally.add(func(t *tally) { t.a.Tries++ })
	return fmt.Errorf("after %s: %w", time.Since(began).Round(time.Millisecond), err)
}

func (c *liveClient) done(e liveEvent, began, cancelAt time.Time, first time.Duration) {
	now := time.Now()
	c.tally.add(func(t *tally) {
		t.a.Tries++
		switch status := e.Response.Status; {
		case status == "cancelled" && !cancelAt.IsZero():
			t.a.Cancelled++
			t.cancel = append(t.cancel, ms(now.Sub(cancelAt)))
		case status == "completed" || status == "incomplete":
			t.a.Answered++
			c.answered++
			if first > 0 {
				t.first = append(t.first, ms(first))
			}
			t.answer = append(t.answer, ms(now.Sub(began)))
			if !cancelAt.IsZero() {
				t.a.LateCancels++
			}
		default:
			t.a.Failed[status+" "+e.Response.StatusDetails.Error.Code]++
		}
	})
}

// Markdown is the report as two tables.
func (r *LiveReport) Markdown() string {
	var b strings.Builder
	a := r.Asking
	fmt.Fprintf(&b, "%d sockets ask at once for %g s; the server takes %d connections and answers %d questions at once.\n\n", r.Sockets, r.Seconds, r.Limits.Connections, r.Limits.Asking)
	b.WriteString("| tries | answered | cancelled as asked | refused | failed | lost | sockets never answered | answers/s |\n|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	fmt.Fprintf(&b, "| %d | %d | %d | %s | %s | %d | %d | %g |\n\n", a.Tries, a.Answered, a.Cancelled, counts(a.Refused), counts(a.Failed), a.Lost, a.NeverServed, a.PerSecond)
	b.WriteString("| ms | n | median | 95 % | 99 % | most |\n|---|---:|---:|---:|---:|---:|\n")
	for _, row := range []struct {
		what string
		s    Spread
	}{{"first token", a.FirstTokenMS}, {"whole answer", a.AnswerMS}, {"cancel to end", a.CancelMS}, {"refusal", a.RefusedMS}} {
		fmt.Fprintf(&b, "| %s | %d | %.0f | %.0f | %.0f | %.0f |\n", row.what, row.s.N, row.s.P50, row.s.P95, row.s.P99, row.s.Max)
	}
	b.WriteString("\n| stream | | frames/s wanted | in memory | lowest over 10 s | dropped | lag ms, median | 95 % | most | longest gap ms |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, w := range r.Watching {
		fmt.Fprintf(&b, "| %s | %s | %g | %.2f | %.2f | %d | %.0f | %.0f | %.0f | %.0f |\n", w.Stream, w.Phase, w.Wanted, w.Rate, w.Lowest, w.Dropped, w.LagMS.P50, w.LagMS.P95, w.LagMS.Max, w.GapMS)
	}
	fmt.Fprintf(&b, "\n%.2f cores of %s (%s, %d threads), model %s, %s, %s.", r.CPUCores, r.Machine.CPU, r.Machine.Device, r.Machine.Threads, r.Machine.Model, r.Machine.Commit, r.Machine.Date)
	if r.OtherLoad != "" {
		fmt.Fprintf(&b, " The machine was not ours alone: %s.", r.OtherLoad)
	}
	b.WriteString("\n")
	return b.String()
}

// counts is "12 server_busy, 3 429 with Retry-After".
func counts(m map[string]int) string {
	if len(m) == 0 {
		return "0"
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%d (%s)", m[k], strings.TrimSpace(k)))
	}
	return strings.Join(parts, ", ")
}
