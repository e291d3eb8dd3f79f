package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/llm"
	"afterimage/memorybank"
	"afterimage/qa"
)

// echo answers with the question and how many exchanges came before it.
func echo(_ context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
	err := emit(fmt.Sprintf("%s after %d", q.Text, len(q.History)))
	return qa.Answer{ID: q.ID, Asked: q.Text, Evidence: someEvidence(time.Now()), Stats: llm.Stats{Finish: "stop"}}, err
}

// remembering is a fake whose memory can be looked at.
type remembering struct{ *fakeStream }

func (r remembering) Remembered() []qa.EvidenceItem {
	now := time.Now()
	return []qa.EvidenceItem{{ID: 1, From: now.Add(-time.Minute), To: now, At: now, Role: memorybank.Synopsis, Thumb: thumbOf(1)}}
}

// Scripts are lines of "> client event" and "< type of the server event that comes next, and some of its fields".
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/realtime/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			f := newFake("street")
			f.ask = echo
			base, _ := serve(t, Config{}, remembering{f})
			c := dial(t, base, "street")
			script, err := os.Open(file)
			require.NoError(t, err)
			defer script.Close()
			lines := bufio.NewScanner(script)
			for n := 1; lines.Scan(); n++ {
				line := lines.Text()
				where := fmt.Sprintf("%s:%d", file, n)
				switch {
				case strings.HasPrefix(line, "> "):
					c.send(line[2:])
				case strings.HasPrefix(line, "< "):
					kind, fields, _ := strings.Cut(line[2:], " ")
					ev := c.next()
					require.Equal(t, kind, ev["type"], "%s: %v", where, ev)
					var want object
					require.NoError(t, json.Unmarshal([]byte(fields), &want), where)
					requireHas(t, want, ev, where)
				default:
					require.True(t, line == "" || line[0] == '#', where)
				}
			}
			require.NoError(t, lines.Err())
		})
	}
}

// requireHas makes sure that got has all that want has.
func requireHas(t *testing.T, want, got object, where string) {
	t.Helper()
	for name, v := range want {
		if inner, ok := v.(object); ok {
			there, ok := got[name].(object)
			require.True(t, ok, "%s: %s of %v", where, name, got)
			requireHas(t, inner, there, where)
			continue
		}
		require.Equal(t, v, got[name], "%s: %s", where, name)
	}
}

func TestTimesAndDeadlinesReachTheQuestion(t *testing.T) {
	f := newFake("street")
	got := make(chan qa.Question, 1)
	f.ask = func(_ context.Context, q qa.Question, _ func(string) error) (qa.Answer, error) {
		got <- q
		return qa.Answer{Stats: llm.Stats{Finish: qa.FinishDeadline}, Evidence: qa.Evidence{AsOf: time.Now(), Cut: []string{"some"}}}, nil
	}
	base, _ := serve(t, Config{}, f)
	c := dial(t, base, "street")
	before := time.Now()
	c.send(`{"type":"response.create","response":{"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"Who?"}]}],
		"as_of":"2026-05-02T10:04:11.240Z","range":{"from":"2026-05-02T09:00:00+01:00","to":"2026-05-02T10:00:00Z"},"deadline_ms":1500}}`)
	q := <-got
	assert.True(t, q.AsOf.Equal(time.Date(2026, 5, 2, 10, 4, 11, 240e6, time.UTC)))
	assert.True(t, q.From.Equal(time.Date(2026, 5, 2, 8, 0, 0, 0, time.UTC)))
	assert.True(t, q.To.Equal(time.Date(2026, 5, 2, 10, 0, 0, 0, time.UTC)))
	assert.WithinDuration(t, before.Add(1500*time.Millisecond), q.Deadline, time.Second)
	assert.Equal(t, []any{"some"}, c.until("response.evidence")["cut"])
	done := c.until("response.done")
	assert.Equal(t, "incomplete", at(done, "response", "status"))
	assert.Equal(t, "deadline", at(done, "response", "status_details", "reason"))
}

func TestSeveralStreamsInOneQuestion(t *testing.T) {
	door, yard, attic := newFake("door"), newFake("yard"), newFake("attic")
	for _, f := range []*fakeStream{door, yard, attic} {
		f.ask = func(_ context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
			err := emit(f.name + "'s")
			return qa.Answer{Evidence: someEvidence(time.Now()), Stats: llm.Stats{Finish: "stop", Generated: 1}}, err
		}
	}
	base, _ := serve(t, Config{Tokens: func() []Token { return []Token{token("two", "a-secret-for-two", RoleAsk, "door", "yard")} }}, door, yard, attic)
	c := dialAs(t, base, "door", "a-secret-for-two")
	ask := func(streams string) {
		c.send(`{"type":"response.create","response":{"streams":` + streams + `,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"Who?"}]}]}}`)
	}
	ask(`["door","yard"]`)
	assert.Equal(t, []any{"door", "yard"}, at(c.until("response.created"), "response", "streams"))
	ev := c.until("response.evidence")
	assert.Len(t, ev["items"], 50)
	assert.Equal(t, "door", at(ev, "items", 0, "stream"))
	assert.Equal(t, "yard", at(ev, "items", 49, "stream"))
	assert.Equal(t, "yard", at(ev, "streams", 1, "stream"))
	assert.Len(t, at(ev, "streams", 1, "coverage"), 2)
	done := c.until("response.done")
	assert.Equal(t, "door: door's\nyard: yard's", at(done, "response", "output", 0, "content", 0, "text"))
	ask(`["door","attic"]`)
	assert.Equal(t, "stream_not_found", at(c.until("error"), "error", "code"), "what a token is not for does not exist for it")
	ask(`["door","door"]`)
	assert.Equal(t, "invalid_value", at(c.until("error"), "error", "code"))
}

func TestOnBusy(t *testing.T) {
	f := newFake("street")
	release := make(chan struct{})
	f.ask = func(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
		if err := emit(q.Text); err != nil {
			return qa.Answer{}, err
		}
		if strings.HasPrefix(q.Text, "wait") {
			select {
			case <-release:
			case <-ctx.Done():
				return qa.Answer{}, ctx.Err()
			}
		}
		return qa.Answer{Stats: llm.Stats{Finish: "stop"}}, nil
	}
	base, _ := serve(t, Config{MaxAsking: 1}, f)
	c := dial(t, base, "street")
	ask := func(text, busy string) {
		c.send(`{"type":"response.create","response":{"on_busy":"` + busy + `","input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"` + text + `"}]}]}}`)
	}
	ask("wait 1", "reject")
	assert.Equal(t, "in_progress", at(c.until("response.created"), "response", "status"))
	c.until("response.output_text.delta")
	ask("no", "reject")
	ev := c.until("error")
	assert.Equal(t, codeRejected, at(ev, "error", "code"))
	assert.Equal(t, "rate_limit_error", at(ev, "error", "type"))
	assert.NotZero(t, at(ev, "error", "retry_after_ms"))
	ask("wait 2", "queue")
	assert.Equal(t, "queued", at(c.until("response.created"), "response", "status"))
	ask("third", "queue")
	c.until("response.created")
	release <- struct{}{}
	assert.Equal(t, "wait 1", at(c.until("response.done"), "response", "output", 0, "content", 0, "text"))
	release <- struct{}{}
	assert.Equal(t, "wait 2", at(c.until("response.done"), "response", "output", 0, "content", 0, "text"))
	assert.Equal(t, "third", at(c.until("response.done"), "response", "output", 0, "content", 0, "text"))

	ask("wait 4", "")
	c.until("response.output_text.delta")
	ask("fifth", "interrupt")
	done := c.until("response.done")
	assert.Equal(t, "cancelled", at(done, "response", "status"))
	assert.Equal(t, "interrupted", at(done, "response", "status_details", "reason"))
	done = c.until("response.done")
	assert.Equal(t, "completed", at(done, "response", "status"))
	assert.Equal(t, "fifth", at(done, "response", "output", 0, "content", 0, "text"))

	ask("wait 6", "")
	c.until("response.output_text.delta")
	ask("never", "queue")
	id := c.until("response.created")["response_id"].(string)
	c.send(`{"type":"response.cancel","response_id":"` + id + `"}`)
	done = c.until("response.done")
	assert.Equal(t, id, done["response_id"], "what waits can be cancelled")
	assert.Equal(t, "cancelled", at(done, "response", "status"))
}

// An answer that does not hear of being interrupted holds up the next one, rather than that there are more and more of them.
func TestInterruptingIsNoWayAroundTheLimit(t *testing.T) {
	f := newFake("street")
	stubborn := make(chan struct{})
	var now, most atomic.Int64
	f.ask = func(context.Context, qa.Question, func(string) error) (qa.Answer, error) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		<-stubborn
		return qa.Answer{}, context.Canceled
	}
	base, _ := serve(t, Config{MaxResponses: 1}, f)
	c := dial(t, base, "street")
	const asked = 20
	for i := range asked {
		if i == 1 {
			require.Eventually(t, func() bool { return now.Load() == 1 }, 10*time.Second, time.Millisecond)
		}
		c.send(`{"type":"response.create","response":{"on_busy":"interrupt","input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"x"}]}]}}`)
	}
	ended := 0
	for over := false; ended < asked; {
		switch ev := c.next(); ev["type"] {
		case "response.done":
			assert.Equal(t, "cancelled", at(ev, "response", "status"))
			ended++
		case "error":
			assert.Equal(t, codeTooMany, at(ev, "error", "code"))
			ended++
		}
		if ended >= asked-4 && !over { // those that still run or wait
			over = true
			close(stubborn)
		}
	}
	assert.EqualValues(t, 1, most.Load())
}

// resume connects again from after an event.
func resume(t *testing.T, base, stream, handle string, after any) *client {
	t.Helper()
	d := websocket.Dialer{HandshakeTimeout: 5 * time.Second}
	ws, resp, err := d.Dial(fmt.Sprintf("ws%s/v1/realtime?stream=%s&resume=%s&after=%v", strings.TrimPrefix(base, "http"), stream, handle, after), nil)
	require.NoError(t, err)
	resp.Body.Close()
	t.Cleanup(func() { ws.Close() })
	return &client{t, ws}
}

func TestALostConnectionIsTakenUp(t *testing.T) {
	f := newFake("street")
	var words atomic.Int64
	release := make(chan struct{})
	f.ask = func(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
		for i := range 100 {
			if i == 50 {
				<-release
			}
			if err := emit(fmt.Sprintf("%d ", i)); err != nil {
				return qa.Answer{}, err
			}
			words.Add(1)
		}
		return qa.Answer{Stats: llm.Stats{Finish: "stop"}}, ctx.Err()
	}
	base, _ := serve(t, Config{StatsEvery: time.Millisecond}, f)
	c := dial(t, base, "street")
	session := at(c.until("session.created"), "session", "id")
	c.send(`{"type":"session.update","session":{"resumption":true}}`)
	handle := c.until("session.resumption")["handle"].(string)
	c.ask("Count")
	var last any
	for range 10 {
		last = c.until("response.output_text.delta")["seq"]
	}
	c.ws.NetConn().Close() // without a word, as a network does
	close(release)
	require.Eventually(t, func() bool { return words.Load() == 100 }, 10*time.Second, time.Millisecond, "the answer goes on")

	c = resume(t, base, "street", handle, last)
	var text string
	seq := last.(float64)
	var ev object
	for ev = c.next(); ev["type"] != "response.done"; ev = c.next() {
		require.Greater(t, ev["seq"].(float64), seq, "%v", ev)
		seq = ev["seq"].(float64)
		if ev["type"] == "response.output_text.delta" {
			text += ev["delta"].(string)
		}
	}
	var want strings.Builder
	for i := 10; i < 100; i++ {
		fmt.Fprintf(&want, "%d ", i)
	}
	assert.Equal(t, want.String(), text, "every word once")
	fresh := c.until("session.resumption")
	assert.Equal(t, true, fresh["resumed"])
	assert.NotEqual(t, handle, fresh["handle"])
	c.send(`{"type":"session.update","session":{}}`)
	assert.Equal(t, session, at(c.until("session.updated"), "session", "id"))
	c.ask("And?") // the conversation is there too
	c.until("response.done")

	// A connection that does not know yet that it is lost gives way.
	again := resume(t, base, "street", fresh["handle"].(string), seq)
	require.Error(t, readToEnd(c))
	last = again.until("session.resumption")["seq"]

	// An old handle is worth nothing.
	other := resume(t, base, "street", handle, last)
	assert.NotEqual(t, session, at(other.until("session.created"), "session", "id"))
	assert.Equal(t, "resumption_failed", at(other.until("error"), "error", "code"))
	again.send(`{"type":"session.update","session":{}}`)
	assert.Equal(t, session, at(again.until("session.updated"), "session", "id"))
}

func TestResumptionIsBounded(t *testing.T) {
	f := newFake("street")
	ended := make(chan struct{}, 1)
	f.ask = func(ctx context.Context, _ qa.Question, _ func(string) error) (qa.Answer, error) {
		<-ctx.Done()
		ended <- struct{}{}
		return qa.Answer{}, ctx.Err()
	}
	base, _ := serve(t, Config{resumeWithin: 50 * time.Millisecond}, f, newFake("yard"))
	begin := func() (c *client, handle string, last any) {
		c = dial(t, base, "street")
		c.send(`{"type":"session.update","session":{"resumption":true}}`)
		ev := c.until("session.resumption")
		return c, ev["handle"].(string), ev["seq"]
	}
	refused := func(c *client) {
		assert.Equal(t, "resumption_failed", at(c.until("error"), "error", "code"))
	}
	c, handle, last := begin()
	c.ask("Wait")
	c.until("response.created")
	c.ws.NetConn().Close()
	<-ended // nobody came in time
	refused(resume(t, base, "street", handle, last))

	c, handle, _ = begin()
	c.ws.NetConn().Close()
	refused(resume(t, base, "street", handle, 9999)) // events that never were
	c, handle, last = begin()
	refused(resume(t, base, "yard", handle, last))
	require.NoError(t, c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second)))
	require.Error(t, readToEnd(c))
	refused(resume(t, base, "street", handle, last)) // closed on purpose

	var kept sentEvents
	for i := range uint64(maxSentEvents + 10) {
		kept.add(i+1, []byte("x"))
	}
	_, ok := kept.from(5)
	assert.False(t, ok, "too much was missed")
	list, ok := kept.from(maxSentEvents)
	assert.True(t, ok)
	assert.Len(t, list, 10)
}

func TestGoingAway(t *testing.T) {
	f := newFake("street")
	base, stop := serve(t, Config{}, f)
	c := dial(t, base, "street")
	c.until("session.created")
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	assert.NotZero(t, c.until("session.going_away")["time_left_ms"])
	assert.True(t, websocket.IsCloseError(readToEnd(c), websocket.CloseGoingAway))
	<-stopped
}

// 200 sockets ask at once of a server that answers a few at a time: each question is answered or refused with a time to try again, and who tries
// again then is answered in the end.
func TestTwoHundredSocketsAskAtOnce(t *testing.T) {
	const sockets = 200
	f := newFake("street")
	places := make(chan struct{}, 4) // as an engine takes turns
	f.ask = func(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		case <-ctx.Done():
			return qa.Answer{}, ctx.Err()
		}
		time.Sleep(2 * time.Millisecond)
		return echo(ctx, q, emit)
	}
	base, _ := serve(t, Config{MaxConnections: sockets, MaxAsking: 32}, f)
	clients := make([]*client, sockets)
	for i := range clients {
		clients[i] = dial(t, base, "street")
	}
	var answered, refused atomic.Int64
	var all sync.WaitGroup
	problems := make(chan error, sockets)
	begin := make(chan struct{})
	for i, c := range clients {
		all.Go(func() {
			<-begin
			problems <- persist(c.ws, fmt.Sprintf("Question %d", i), &answered, &refused)
		})
	}
	close(begin)
	all.Wait()
	for range sockets {
		require.NoError(t, <-problems)
	}
	assert.EqualValues(t, sockets, answered.Load())
	assert.Positive(t, refused.Load(), "more were asked at once than there are places")
	resp, err := http.Get(base + "/readyz")
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusOK, resp.StatusCode, "every place is free again")
}

// persist asks until it is answered, waiting as it is told.
func persist(ws *websocket.Conn, question string, answered, refused *atomic.Int64) error {
	create := `{"type":"response.create","response":{"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"` + question + `"}]}]}}`
	if err := ws.WriteMessage(websocket.TextMessage, []byte(create)); err != nil {
		return err
	}
	for {
		if err := ws.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return err
		}
		_, raw, err := ws.ReadMessage()
		if err != nil {
			return err
		}
		var ev struct {
			Type  string
			Error errorBody
		}
		if err := json.Unmarshal(raw, &ev); err != nil {
			return err
		}
		switch ev.Type {
		case "response.done":
			if !strings.Contains(string(raw), question+" after 0") || !strings.Contains(string(raw), `"completed"`) {
				return fmt.Errorf("not the answer: %s", raw)
			}
			answered.Add(1)
			return nil
		case "error":
			if ev.Error.Type != "rate_limit_error" || ev.Error.RetryAfterMS <= 0 {
				return errors.New("refused without a time to try again: " + string(raw))
			}
			refused.Add(1)
			time.Sleep(time.Duration(ev.Error.RetryAfterMS) * time.Millisecond)
			if err := ws.WriteMessage(websocket.TextMessage, []byte(create)); err != nil {
				return err
			}
		}
	}
}

func TestASlowReaderIsToldToTryAgainLater(t *testing.T) {
	f := newFake("street")
	base, _ := serve(t, Config{WriteTimeout: time.Nanosecond}, f) // whatever waits has waited too long
	c := dial(t, base, "street")
	err := readToEnd(c)
	assert.True(t, websocket.IsCloseError(err, websocket.CloseTryAgainLater), "%v", err)
}
