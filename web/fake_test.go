package web

import (
	"bytes"
	"context"
	"encoding/json"
	"image"
	"image/color"
	"image/jpeg"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"afterimage/ingest"
	"afterimage/llm"
	"afterimage/memorybank"
	"afterimage/qa"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeStream is a watched street whose answers are scripted.
type fakeStream struct {
	name string
	ask  func(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error)

	mu     sync.Mutex
	status ingest.Status
	frame  ingest.Frame
	taken  int // calls of LatestFrame
	subs   map[chan ingest.Status]bool
}

func newFake(name string) *fakeStream {
	f := &fakeStream{name: name, subs: map[chan ingest.Status]bool{}, status: ingest.Status{State: ingest.Connecting, Since: time.Now()}}
	f.ask = f.answer("A red car is parked at the gate. It arrived three minutes ago and nobody left it since.", 0)
	return f
}

func (f *fakeStream) Name() string   { return f.name }
func (f *fakeStream) Source() string { return "rtsp://xxxxx@192.0.2.10/stream2" }

func (f *fakeStream) Status() ingest.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *fakeStream) Subscribe() (<-chan ingest.Status, func()) {
	ch := make(chan ingest.Status, 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs[ch] = true
	return ch, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subs, ch)
	}
}

func (f *fakeStream) Ask(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
	return f.ask(ctx, q, emit)
}

func (f *fakeStream) LatestFrame() (ingest.Frame, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken++
	return f.frame, f.frame.Pix != nil
}

func (f *fakeStream) MemoryStats() MemoryStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frame.Pix == nil {
		return MemoryStats{Strategy: "flash"}
	}
	return MemoryStats{Strategy: "flash", Version: uint64(f.frame.Index), Entries: 64, Tokens: 800, Bytes: 3_412_000,
		Oldest: f.frame.Wall.Add(-f.frame.PTS), Newest: f.frame.Wall}
}

// set changes the state, as a supervisor does.
func (f *fakeStream) set(state ingest.State, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.State, f.status.Since, f.status.Err = state, time.Now(), why
	for ch := range f.subs {
		select {
		case <-ch:
		default:
		}
		ch <- f.status
	}
}

// show makes the picture of stream time t the newest frame.
func (f *fakeStream) show(t time.Duration) {
	pix := scene(640, 360, t)
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.frame = ingest.Frame{Index: f.frame.Index + 1, PTS: t, Wall: now, W: 640, H: 360, Pix: pix}
	f.status.LastFrame = now
	f.status.Frames++
}

// answer streams text word by word, with evidence about the last four hours.
func (f *fakeStream) answer(text string, pause time.Duration) func(context.Context, qa.Question, func(string) error) (qa.Answer, error) {
	return func(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
		a := qa.Answer{ID: q.ID, Version: 7, Evidence: someEvidence(time.Now())}
		words := strings.SplitAfter(text, " ")
		for i, word := range words {
			if err := emit(word); err != nil {
				return a, err
			}
			a.Text += word
			a.Stats = llm.Stats{PromptTokens: 840, VisualTokens: 800, CachedTokens: 790, Generated: i + 1, FirstToken: 84 * time.Millisecond,
				Total: 84*time.Millisecond + time.Duration(i)*3*time.Millisecond, Finish: "stop"}
			select {
			case <-ctx.Done():
				a.Stats.Finish = "cancelled"
				return a, ctx.Err()
			case <-time.After(pause):
			}
		}
		return a, nil
	}
}

func someEvidence(now time.Time) qa.Evidence {
	e := qa.Evidence{AsOf: now, Lag: 210 * time.Millisecond, State: ingest.Live,
		Coverage: []ingest.Span{{From: now.Add(-4 * time.Hour), To: now.Add(-95 * time.Minute)}, {From: now.Add(-80 * time.Minute), To: now}},
		Gaps:     []ingest.Span{{From: now.Add(-95 * time.Minute), To: now.Add(-80 * time.Minute)}}}
	for i := range 24 {
		at := now.Add(-time.Duration(24-i) * 10 * time.Minute)
		it := qa.EvidenceItem{ID: uint64(i), From: at.Add(-5 * time.Minute), To: at.Add(5 * time.Minute), At: at, Role: memorybank.Synopsis, Weight: float32(i), Thumb: thumbOf(i)}
		if i%3 == 0 {
			it.Role = memorybank.Detail
		}
		e.Items = append(e.Items, it)
	}
	return qa.Evidence{AsOf: e.AsOf, Lag: e.Lag, State: e.State, Prefer: memorybank.Latest, Note: "without the disk",
		Focus: ingest.Span{From: now.Add(-time.Hour), To: now}, Coverage: e.Coverage, Gaps: e.Gaps,
		Items: append(e.Items, qa.EvidenceItem{ID: 99, From: now, To: now, At: now, Role: memorybank.Newest, Weight: 1, Thumb: thumbOf(24)})}
}

var thumbOf = func() func(int) []byte {
	var mu sync.Mutex
	made := map[int][]byte{}
	return func(i int) []byte {
		mu.Lock()
		defer mu.Unlock()
		if made[i] == nil {
			made[i] = encodeJPEG(192, 108, scene(192, 108, time.Duration(i)*3*time.Second))
		}
		return made[i]
	}
}()

func encodeJPEG(w, h int, pix []byte) []byte {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for i := range w * h {
		img.Set(i%w, i/w, color.RGBA{pix[3*i], pix[3*i+1], pix[3*i+2], 255})
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, nil); err != nil {
		panic(err) // memory never fails
	}
	return b.Bytes()
}

// scene draws a street with a house and a car that moves with t.
func scene(w, h int, t time.Duration) []byte {
	pix := make([]byte, 3*w*h)
	car := math.Mod(t.Seconds()*0.06, 1.3) - 0.15
	for y := range h {
		for x := range w {
			u, v := float64(x)/float64(w), float64(y)/float64(h)
			c := [3]float64{120 + 60*v, 165 + 40*v, 215} // sky
			switch {
			case v > .92:
				c = [3]float64{150, 146, 138}
			case v > .68:
				c = [3]float64{74, 76, 80}
				if math.Abs(v-.8) < .008 && math.Mod(u, .1) < .06 {
					c = [3]float64{220, 215, 190}
				}
			case v > .6:
				c = [3]float64{104, 128, 74}
			case u > .16 && u < .52 && v > .28:
				c = [3]float64{196, 172, 140}
				if u > .31 && u < .37 && v > .42 {
					c = [3]float64{96, 56, 38}
				} else if v > .36 && v < .47 && (math.Abs(u-.24) < .03 || math.Abs(u-.44) < .03) {
					c = [3]float64{250, 222, 140}
				}
			case u > .13 && u < .55 && v > .12 && v > .28-.9*math.Min(u-.13, .55-u):
				c = [3]float64{128, 62, 52}
			case math.Hypot((u-.78)*1.6, v-.36) < .17:
				c = [3]float64{64, 104, 58}
			case math.Abs(u-.78) < .012 && v > .4:
				c = [3]float64{92, 66, 44}
			}
			if d := u - car; d > 0 && d < .17 && v > .7 && v < .8 || d > .03 && d < .13 && v > .64 && v <= .7 {
				c = [3]float64{190, 38, 36}
			}
			for _, wheel := range []float64{.035, .13} {
				if math.Hypot((u-car-wheel)*1.78, v-.8) < .03 {
					c = [3]float64{24, 24, 26}
				}
			}
			grain := float64((x*7919+y*104729)%13 - 6)
			for k := range 3 {
				pix[3*(y*w+x)+k] = uint8(min(max(c[k]+grain, 0), 255))
			}
		}
	}
	return pix
}

// serve runs a server on a port of its own and stops it, waiting, at the test's end.
func serve(t *testing.T, cfg Config, streams ...Stream) (base string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return serveOn(t, ln, cfg, streams...)
}

func serveOn(t *testing.T, ln net.Listener, cfg Config, streams ...Stream) (base string, stop func()) {
	t.Helper()
	s, err := New(cfg, streams)
	require.NoError(t, err)
	return run(t, s, ln)
}

// serving runs a server that is made already on a port of its own.
func serving(t *testing.T, s *Server) (base string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	base, _ = run(t, s, ln)
	return base
}

func run(t *testing.T, s *Server, ln net.Listener) (base string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
		http.DefaultClient.CloseIdleConnections()
	})
	t.Cleanup(stop)
	return "http://" + ln.Addr().String(), stop
}

// client is a real WebSocket client that fails the test rather than wait for ever.
type client struct {
	t  *testing.T
	ws *websocket.Conn
}

func dial(t *testing.T, base, stream string, protocols ...string) *client {
	t.Helper()
	d := websocket.Dialer{Subprotocols: protocols, HandshakeTimeout: 5 * time.Second}
	ws, resp, err := d.Dial("ws"+strings.TrimPrefix(base, "http")+"/v1/realtime?stream="+stream, nil)
	require.NoError(t, err)
	resp.Body.Close()
	t.Cleanup(func() { ws.Close() })
	return &client{t, ws}
}

func (c *client) send(raw string) {
	c.t.Helper()
	require.NoError(c.t, c.ws.WriteMessage(websocket.TextMessage, []byte(raw)))
}

type object = map[string]any

// next is the next event that is not one of the periodic ones.
func (c *client) next() object {
	c.t.Helper()
	for limit := time.Now().Add(30 * time.Second); ; {
		require.True(c.t, time.Now().Before(limit), "nothing but statistics and pictures")
		kind, raw := c.message()
		if kind != websocket.TextMessage {
			continue
		}
		var ev object
		require.NoError(c.t, json.Unmarshal(raw, &ev), string(raw))
		if ev["type"] != "memory.stats" {
			return ev
		}
	}
}

func (c *client) message() (int, []byte) {
	c.t.Helper()
	require.NoError(c.t, c.ws.SetReadDeadline(time.Now().Add(20*time.Second)))
	kind, raw, err := c.ws.ReadMessage()
	require.NoError(c.t, err)
	return kind, raw
}

// until skips events until one of the type arrives.
func (c *client) until(kind string) object {
	c.t.Helper()
	for limit := time.Now().Add(30 * time.Second); ; { // statistics keep coming for ever
		ev := c.next()
		if ev["type"] == kind {
			return ev
		}
		require.True(c.t, time.Now().Before(limit), "no %s in time", kind)
	}
}

// ask sends a question and its response.create.
func (c *client) ask(text string) {
	c.t.Helper()
	q, err := json.Marshal(text)
	require.NoError(c.t, err)
	c.send(`{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"input_text","text":` + string(q) + `}]}}`)
	c.send(`{"type":"response.create"}`)
}

// at follows names and indices through an event.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(object)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}
