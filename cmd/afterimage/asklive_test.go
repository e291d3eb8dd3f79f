package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/web"
)

// socket is a realtime connection that fails the test rather than wait for ever.
type socket struct {
	t  testing.TB
	ws *websocket.Conn
}

// serveLive serves streams and returns a connection about the first.
func serveLive(t testing.TB, streams ...web.Stream) socket {
	t.Helper()
	server, err := web.New(web.Config{QuestionRate: web.Rate{PerSecond: -1}, RequestRate: web.Rate{PerSecond: -1}}, streams)
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln) }()
	ws, resp, err := websocket.DefaultDialer.Dial("ws://"+ln.Addr().String()+"/v1/realtime?stream="+streams[0].Name(), http.Header{})
	require.NoError(t, err)
	resp.Body.Close()
	t.Cleanup(func() {
		ws.Close()
		stop()
		require.NoError(t, <-served)
	})
	return socket{t, ws}
}

func (s socket) send(format string, args ...any) {
	s.t.Helper()
	require.NoError(s.t, s.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, format, args...)))
}

// liveEvent is what the tests look at of an event.
type liveEvent struct {
	Type       string
	ResponseID string `json:"response_id"`
	Gaps       []struct{ From, To time.Time }
	Focus      struct{ From, To time.Time }
	Streams    []struct{ Stream string }
	Asked      string `json:"question_as_asked"`
	Response   struct {
		Status       string
		FromCoverage bool `json:"from_coverage"`
		Output       []struct{ Content []struct{ Text string } }
	}
	Error struct{ Message string }
}

func (e liveEvent) text() string { return e.Response.Output[0].Content[0].Text }

func (s socket) until(kind string) liveEvent {
	s.t.Helper()
	require.NoError(s.t, s.ws.SetReadDeadline(time.Now().Add(60*time.Second)))
	for {
		_, raw, err := s.ws.ReadMessage()
		require.NoError(s.t, err)
		var ev liveEvent
		require.NoError(s.t, json.Unmarshal(raw, &ev))
		require.False(s.t, ev.Type == "error" && kind != "error", "%s", raw)
		if ev.Type == kind {
			return ev
		}
	}
}

// ask sends a question with options, such as `"seed":1`, and returns its evidence and its end.
func (s socket) ask(question, options string) (evidence, done liveEvent) {
	s.t.Helper()
	s.send(`{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"input_text","text":%q}]}}`, question)
	s.send(`{"type":"response.create","response":{%s}}`, options)
	evidence = s.until("response.evidence")
	return evidence, s.until("response.done")
}

// A camera is cut for a known time and comes back. Through the whole server, what is asked about that time is answered from the coverage map, and
// what is asked about the time around it by the model.
func TestAskAboutTheTimeThatACameraWasCut(t *testing.T) {
	camera, s := watchedDoor(t, 900_206)
	eventually := func(ok func() bool, what string) {
		t.Helper()
		require.Eventually(t, ok, 30*time.Second, 10*time.Millisecond, what)
	}
	eventually(func() bool { return s.frames() >= 10 }, "no pictures")
	before := s.Status().LastFrame
	camera.Stop()
	cut := time.Now()
	eventually(func() bool { return s.Status().State == ingest.Offline }, "never offline")
	time.Sleep(max(0, 7*time.Second-time.Since(cut)))
	require.NoError(t, camera.Restart())
	back := time.Now()
	eventually(func() bool { return s.Status().State == ingest.Live && s.Status().LastFrame.After(back) }, "never back")
	held := s.frames()
	eventually(func() bool { return s.frames() >= held+5 }, "the memory did not go on")

	c := serveLive(t, s)
	dark := cut.Add(3500 * time.Millisecond)
	evidence, done := c.ask("What happened at "+dark.Format(time.TimeOnly)+"?", `"max_output_tokens":4`)
	assert.True(t, done.Response.FromCoverage)
	assert.True(t, strings.HasPrefix(done.text(), "I was not watching at "+dark.Format(time.TimeOnly)+". I have watched from "), done.text())
	require.NotEmpty(t, evidence.Gaps)
	gap := evidence.Gaps[len(evidence.Gaps)-1]
	assert.WithinDuration(t, cut, gap.From, 2*time.Second)
	assert.False(t, gap.To.Before(back), "it cannot have watched before the camera was back")

	rfc := func(at time.Time) string { return at.Format(time.RFC3339Nano) }
	_, done = c.ask("Is the door open?", fmt.Sprintf(`"max_output_tokens":4,"range":{"from":%q,"to":%q}`, rfc(dark.Add(-time.Second)), rfc(dark.Add(time.Second))))
	assert.True(t, done.Response.FromCoverage)
	assert.Contains(t, done.text(), "I was not watching between ")

	_, done = c.ask("What happened in the last second?", fmt.Sprintf(`"max_output_tokens":4,"as_of":%q`, rfc(dark)))
	assert.True(t, done.Response.FromCoverage)
	assert.Contains(t, done.text(), "I was not watching in the last second")

	evidence, done = c.ask("Is the door open?", fmt.Sprintf(`"max_output_tokens":4,"range":{"to":%q}`, rfc(before)))
	assert.False(t, done.Response.FromCoverage)
	assert.False(t, evidence.Focus.To.After(before))
	_, done = c.ask("Is the door open?", `"max_output_tokens":4`)
	assert.False(t, done.Response.FromCoverage)
}

func TestAskAboutSeveralCameras(t *testing.T) {
	clean(t)
	code, out, errs := command(t, t.Context(), "--model", randomModel(t), "ask", "sim://street?seed=900207&minutes=0.1&pace=false",
		"--with", "sim://street?seed=900208&minutes=0.1&pace=false", "Is the door open?", "What was there at 03:00 on 1999-01-01?", "--max-tokens", "4", "--starts", "2026-05-04T12:00:00Z")
	require.Zero(t, code, errs)
	assert.Regexp(t, `(?m)^street: `, out)
	assert.Regexp(t, `(?m)^street-2: `, out)
	assert.Contains(t, out, "street-2: I was not watching at")
	code, _, errs = command(t, t.Context(), "--model", randomModel(t), "ask", "sim://street?seed=1", "--with", "gopher://x", "What?")
	assert.NotZero(t, code)
	assert.Contains(t, errs, "unknown scheme")
}

// BenchmarkStopping measures how long the embedded model goes on after it is told to stop, through the whole server: cancel is from the message to
// response.done, interrupt to the first word of the next answer.
func BenchmarkStopping(b *testing.B) {
	a := &app{log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	m, err := openMachine(a)
	require.NoError(b, err)
	defer m.close(a.log)
	u, err := ingest.ParseURL("sim://street?seed=900209&minutes=4&pace=false")
	require.NoError(b, err)
	sc := StreamConfig{Name: "street", URL: u, FPS: 2}
	sc.inherit(StreamConfig{})
	s, err := openFastStream(b.Context(), a, m, sc, time.Time{})
	require.NoError(b, err)
	defer s.close()
	require.NoError(b, s.watch(b.Context()))
	c := serveLive(b, s)
	const long = `{"type":"response.create","response":{%s"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"List what happened, in order."}]}]}}`
	b.Run("cancel", func(b *testing.B) {
		var worst time.Duration
		for b.Loop() {
			b.StopTimer()
			c.send(long, "")
			c.until("response.output_text.delta")
			b.StartTimer()
			began := time.Now()
			c.send(`{"type":"response.cancel"}`)
			for ended := false; !ended; { // an answer that had ended already leaves an error
				_, raw, err := c.ws.ReadMessage()
				require.NoError(b, err)
				ended = strings.Contains(string(raw), `"type":"response.done"`)
			}
			worst = max(worst, time.Since(began))
		}
		b.ReportMetric(float64(worst.Microseconds())/1000, "worst-ms")
	})
	b.Run("interrupt", func(b *testing.B) {
		var worst time.Duration
		for b.Loop() {
			b.StopTimer()
			c.send(long, "")
			c.until("response.output_text.delta")
			b.StartTimer()
			began := time.Now()
			c.send(long, `"on_busy":"interrupt",`)
			c.until("response.created")
			c.until("response.output_text.delta")
			worst = max(worst, time.Since(began))
			b.StopTimer()
			c.until("response.done")
			b.StartTimer()
		}
		b.ReportMetric(float64(worst.Microseconds())/1000, "worst-ms")
	})
}
