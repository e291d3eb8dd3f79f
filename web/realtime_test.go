package web

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/llm"
	"afterimage/qa"
)

func TestAnAnswerIsStreamedWithItsEvidence(t *testing.T) {
	f := newFake("street")
	f.show(5 * time.Second)
	f.set(ingest.Live, "")
	base, _ := serve(t, Config{Suggestions: []string{"What is happening?"}}, f)
	c := dial(t, base, "street", protocolName)
	assert.Equal(t, protocolName, c.ws.Subprotocol())

	created := c.next()
	assert.Equal(t, "session.created", created["type"])
	assert.Equal(t, "What is happening?", at(created, "session", "suggestions", 0))
	assert.Equal(t, "live", at(created, "session", "stream", "state"))
	state := c.next()
	assert.Equal(t, "stream.state", state["type"])
	assert.Equal(t, "rtsp://xxxxx@192.0.2.10/stream2", state["source"])

	c.ask("Where is the car?")
	added := c.next()
	require.Equal(t, "conversation.item.added", added["type"])
	require.Equal(t, "conversation.item.done", c.next()["type"])
	response := c.next()
	require.Equal(t, "response.created", response["type"])
	id := response["response_id"]
	assert.Equal(t, "in_progress", at(response, "response", "status"))
	assert.Equal(t, at(added, "item", "id"), at(response, "response", "input_item_id"))

	ev := c.next()
	require.Equal(t, "conversation.item.added", ev["type"])
	assert.Equal(t, "assistant", at(ev, "item", "role"))
	var text string
	ev = c.next()
	for ; ev["type"] == "response.output_text.delta"; ev = c.next() {
		require.Equal(t, id, ev["response_id"])
		text += ev["delta"].(string)
	}
	require.Equal(t, "response.output_text.done", ev["type"])
	assert.Equal(t, text, ev["text"])
	assert.Contains(t, text, "A red car is parked")

	ev = c.next()
	require.Equal(t, "response.evidence", ev["type"])
	assert.Equal(t, "live", ev["stream_state"])
	assert.EqualValues(t, 210, ev["lag_ms"])
	assert.Len(t, ev["coverage"], 2)
	assert.Len(t, ev["gaps"], 1)
	assert.Equal(t, ev["as_of"], at(ev, "focus", "to"))
	assert.Equal(t, "last", ev["prefer"])
	assert.Equal(t, "without the disk", ev["note"])
	require.Len(t, ev["items"], 25)
	assert.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)$`, ev["as_of"])
	assert.Equal(t, "newest", at(ev, "items", 24, "role"))
	resp, err := http.Get(base + at(ev, "items", 24, "thumb").(string))
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Equal(t, "image/jpeg", resp.Header.Get("Content-Type"))
	assert.Equal(t, thumbOf(24), body)

	ev = c.next()
	require.Equal(t, "conversation.item.done", ev["type"])
	assert.Equal(t, text, at(ev, "item", "content", 0, "text"))

	ev = c.next()
	require.Equal(t, "response.done", ev["type"])
	assert.Equal(t, "completed", at(ev, "response", "status"))
	assert.Equal(t, text, at(ev, "response", "output", 0, "content", 0, "text"))
	assert.EqualValues(t, 800, at(ev, "response", "usage", "input_token_details", "visual_tokens"))
	assert.EqualValues(t, 333.3, at(ev, "response", "timings", "tokens_per_s"))
	assert.NotNil(t, at(ev, "response", "timings", "first_token_ms"))
}

func TestEventsAreNumberedWithoutHoles(t *testing.T) {
	f := newFake("street")
	base, _ := serve(t, Config{StatsEvery: time.Millisecond}, f)
	c := dial(t, base, "street")
	c.ask("Anything?")
	ids := map[any]bool{}
	for want := 1; ; want++ {
		_, raw := c.message()
		var ev object
		require.NoError(t, json.Unmarshal(raw, &ev))
		require.EqualValues(t, want, ev["seq"])
		require.False(t, ids[ev["event_id"]], "event_id is used once")
		ids[ev["event_id"]] = true
		if ev["type"] == "response.done" {
			break
		}
	}
}

func TestSeveralAnswersAtOnce(t *testing.T) {
	f := newFake("street")
	var both sync.WaitGroup
	both.Add(2)
	f.ask = func(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
		both.Done()
		both.Wait() // returns only if both are answered at the same time
		err := emit("about " + q.Text)
		return qa.Answer{Stats: llm.Stats{Finish: "stop"}}, err
	}
	base, _ := serve(t, Config{}, f)
	c := dial(t, base, "street")
	c.ask("cars")
	c.ask("dogs")
	got := map[string]bool{}
	for range 2 {
		ev := c.until("response.done")
		assert.Equal(t, "completed", at(ev, "response", "status"))
		got[at(ev, "response", "output", 0, "content", 0, "text").(string)] = true
	}
	assert.Equal(t, map[string]bool{"about cars": true, "about dogs": true}, got)
}

func TestCancel(t *testing.T) {
	for _, named := range []bool{true, false} {
		t.Run(fmt.Sprintf("named=%v", named), func(t *testing.T) {
			f := newFake("street")
			f.ask = f.answer(strings.Repeat("word ", 100000), time.Millisecond)
			base, _ := serve(t, Config{}, f)
			c := dial(t, base, "street")
			c.ask("Go on for ever")
			id := c.until("response.output_text.delta")["response_id"].(string)
			if named {
				c.send(`{"type":"response.cancel","response_id":"` + id + `"}`)
			} else {
				c.send(`{"type":"response.cancel"}`)
			}
			done := c.until("response.done")
			assert.Equal(t, "cancelled", at(done, "response", "status"))
			assert.Equal(t, "client_cancelled", at(done, "response", "status_details", "reason"))
			assert.True(t, strings.HasPrefix(at(done, "response", "output", 0, "content", 0, "text").(string), "word "))
			c.send(`{"type":"response.cancel","response_id":"` + id + `","event_id":"e7"}`)
			ev := c.until("error")
			assert.Equal(t, "response_cancel_not_active", at(ev, "error", "code"))
			assert.Equal(t, "e7", at(ev, "error", "event_id"))
		})
	}
}

func TestOutcomes(t *testing.T) {
	said := func(finish string, err error, text ...string) func(context.Context, qa.Question, func(string) error) (qa.Answer, error) {
		return func(_ context.Context, _ qa.Question, emit func(string) error) (qa.Answer, error) {
			for _, s := range text {
				if err := emit(s); err != nil {
					return qa.Answer{}, err
				}
			}
			return qa.Answer{Text: "whole", FromCoverage: len(text) == 0, Stats: llm.Stats{Finish: finish}}, err
		}
	}
	for name, c := range map[string]struct {
		ask    func(context.Context, qa.Question, func(string) error) (qa.Answer, error)
		status string
		why    string
		text   string
	}{
		"stop":     {said("stop", nil, "a", "", "b"), "completed", "", "ab"},
		"length":   {said("length", nil, "a"), "incomplete", "max_output_tokens", "a"},
		"coverage": {said("", nil), "completed", "", "whole"}, // nothing was emitted: the text is sent all the same
		"failed":   {said("", errors.New("engine: no room"), "a"), "failed", "answer_failed", "a"},
		"busy":     {said("", fmt.Errorf("engine: %w", llm.ErrBusy)), "failed", "busy", ""},
		"time limit": {func(ctx context.Context, _ qa.Question, _ func(string) error) (qa.Answer, error) {
			<-ctx.Done()
			return qa.Answer{}, ctx.Err()
		}, "incomplete", "time_limit", ""},
		"self-stopped": {said("cancelled", nil, "a"), "cancelled", "client_cancelled", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake("street")
			f.ask = c.ask
			base, _ := serve(t, Config{AnswerTimeout: 50 * time.Millisecond}, f)
			cl := dial(t, base, "street")
			cl.ask("Well?")
			var text string
			ev := cl.next()
			for ; ev["type"] != "response.done"; ev = cl.next() {
				if ev["type"] == "response.output_text.delta" {
					text += ev["delta"].(string)
				}
			}
			assert.Equal(t, c.text, text)
			assert.Equal(t, c.status, at(ev, "response", "status"))
			switch {
			case c.status == "failed":
				assert.Equal(t, c.why, at(ev, "response", "status_details", "error", "code"))
				assert.Contains(t, at(ev, "response", "status_details", "error", "message"), "engine: ")
			case c.why != "":
				assert.Equal(t, c.why, at(ev, "response", "status_details", "reason"))
			}
			if name == "coverage" {
				assert.Equal(t, true, at(ev, "response", "from_coverage"))
			}
		})
	}
}

func TestOptionsReachTheQuestion(t *testing.T) {
	f := newFake("street")
	got := make(chan qa.Question, 1)
	f.ask = func(_ context.Context, q qa.Question, _ func(string) error) (qa.Answer, error) {
		got <- q
		return qa.Answer{}, nil
	}
	base, _ := serve(t, Config{}, f)
	c := dial(t, base, "street")
	c.send(`{"type":"response.create","response":{"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":" Who? "}]}],
		"max_output_tokens":33,"max_visual_tokens":400,"temperature":0.5,"top_p":0.9,"seed":18446744073709551615}}`)
	q := <-got
	assert.Equal(t, c.until("response.done")["response_id"], q.ID)
	q.ID = ""
	assert.Equal(t, qa.Question{Text: "Who?", MaxTokens: 33, MaxVisualTokens: 400, Temperature: .5, TopP: .9, Seed: 1<<64 - 1}, q)
}

// badMessages are mistakes with the code that each must be answered with.
var badMessages = map[string]struct{ raw, code, param string }{
	"empty":             {``, "invalid_json", ""},
	"not json":          {`hello`, "invalid_json", ""},
	"cut short":         {`{"type":"session.update"`, "invalid_json", ""},
	"array":             {`[1]`, "invalid_json", ""},
	"two values":        {`{"type":"response.cancel"}{}`, "invalid_json", ""},
	"not utf-8":         {"{\"type\":\"\xff\"}", "invalid_json", ""},
	"deep":              {`{"type":"session.update","session":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`, "invalid_json", ""},
	"no type":           {`{}`, "missing_parameter", "type"},
	"type is a number":  {`{"type":7}`, "missing_parameter", "type"},
	"unknown event":     {`{"type":"watch.nothing"}`, "unknown_event", "type"},
	"unknown parameter": {`{"type":"session.update","session":{"colour":"red"}}`, "unknown_parameter", "colour"},
	"twice":             {`{"type":"session.update","type":"response.cancel"}`, "duplicate_name", "type"},
	"twice, other case": {`{"type":"session.update","session":{"video":true,"VIDEO":false}}`, "duplicate_name", "VIDEO"},
	"wrong type":        {`{"type":"session.update","session":{"video":"yes"}}`, "invalid_type", "session.video"},
	"no question":       {`{"type":"response.create"}`, "no_question", ""},
	"item type":         {`{"type":"conversation.item.create","item":{"type":"function_call"}}`, "invalid_value", "item.type"},
	"item role":         {`{"type":"conversation.item.create","item":{"type":"message","role":"system"}}`, "invalid_value", "item.role"},
	"item id":           {`{"type":"conversation.item.create","item":{"type":"message","role":"user","id":"<b>"}}`, "invalid_value", "item.id"},
	"no content":        {`{"type":"conversation.item.create","item":{"type":"message","role":"user"}}`, "missing_parameter", "item.content"},
	"audio":             {`{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"input_audio","text":""}]}}`, "invalid_value", "item.content.type"},
	"blank":             {`{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"input_text","text":" \n "}]}}`, "invalid_value", "item.content"},
	"long": {`{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"input_text","text":"` +
		strings.Repeat("a", maxQuestion+1) + `"}]}}`, "question_too_long", "item.content"},
	"tokens":        {`{"type":"response.create","response":{"max_output_tokens":0}}`, "invalid_value", "response.max_output_tokens"},
	"visual tokens": {`{"type":"response.create","response":{"max_visual_tokens":-1}}`, "invalid_value", "response.max_visual_tokens"},
	"temperature":   {`{"type":"response.create","response":{"temperature":3}}`, "invalid_value", "response.temperature"},
	"top_p":         {`{"type":"response.create","response":{"top_p":0}}`, "invalid_value", "response.top_p"},
	"overflow":      {`{"type":"response.create","response":{"temperature":1e99}}`, "invalid_type", "response.temperature"},
	"no response":   {`{"type":"response.cancel","response_id":"resp_x"}`, "response_cancel_not_active", "response_id"},
}

func TestMistakesAreAnsweredAndTheConnectionLives(t *testing.T) {
	f := newFake("street")
	base, _ := serve(t, Config{}, f)
	c := dial(t, base, "street")
	for name, m := range badMessages {
		c.send(m.raw)
		ev := c.until("error")
		assert.Equal(t, m.code, at(ev, "error", "code"), name)
		param, _ := at(ev, "error", "param").(string)
		assert.Equal(t, m.param, param, name)
	}
	require.NoError(t, c.ws.WriteMessage(websocket.BinaryMessage, []byte{1, 2, 3}))
	assert.Equal(t, "invalid_message", at(c.until("error"), "error", "code"))
	c.ask("Still there?")
	assert.Equal(t, "completed", at(c.until("response.done"), "response", "status"))
}

func TestItems(t *testing.T) {
	f := newFake("street")
	base, _ := serve(t, Config{}, f)
	c := dial(t, base, "street")
	put := func(rest string) {
		c.send(`{"type":"conversation.item.create",` + rest + `"item":{"id":"q1","type":"message","role":"user","content":[{"type":"input_text","text":"x"}]}}`)
	}
	put("")
	assert.Equal(t, "q1", at(c.until("conversation.item.added"), "item", "id"))
	put("")
	assert.Equal(t, "duplicate_item", at(c.until("error"), "error", "code"))
	put(`"previous_item_id":"zero",`)
	assert.Equal(t, "duplicate_item", at(c.until("error"), "error", "code"))
}

func TestTooManyAnswers(t *testing.T) {
	f := newFake("street")
	f.ask = func(ctx context.Context, _ qa.Question, _ func(string) error) (qa.Answer, error) {
		<-ctx.Done()
		return qa.Answer{}, ctx.Err()
	}
	base, _ := serve(t, Config{MaxResponses: 2, MaxAsking: 3}, f)
	c := dial(t, base, "street")
	for range 3 {
		c.ask("Wait")
	}
	ev := c.until("error")
	assert.Equal(t, codeTooMany, at(ev, "error", "code"))
	assert.Equal(t, "rate_limit_error", at(ev, "error", "type"))
	other := dial(t, base, "street")
	other.ask("One more")
	other.until("response.created")
	other.ask("And one too many")
	assert.Equal(t, codeBusy, at(other.until("error"), "error", "code"))
	resp, err := http.Get(base + "/readyz")
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	c.send(`{"type":"response.cancel"}`)
	c.until("response.done")
	c.until("response.done")
	c.ask("Room again")
	c.until("response.created")
}

func TestTooManyConnections(t *testing.T) {
	base, _ := serve(t, Config{MaxConnections: 1}, newFake("street"))
	c := dial(t, base, "street")
	c.until("session.created")
	_, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(base, "http")+"/v1/realtime?stream=street", nil)
	require.ErrorIs(t, err, websocket.ErrBadHandshake)
	assert.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
	assert.NotEmpty(t, resp.Header.Get("Retry-After"))
}

func TestOversizeMessageClosesThatConnectionOnly(t *testing.T) {
	base, _ := serve(t, Config{}, newFake("street"))
	c, other := dial(t, base, "street"), dial(t, base, "street")
	c.send(`{"type":"` + strings.Repeat("x", maxMessage) + `"}`)
	closed := readToEnd(c)
	assert.True(t, websocket.IsCloseError(closed, websocket.CloseMessageTooBig), "%v", closed)
	other.ask("Still there?")
	other.until("response.done")
}

// readToEnd reads until the connection ends and says how.
func readToEnd(c *client) error {
	for {
		require.NoError(c.t, c.ws.SetReadDeadline(time.Now().Add(20*time.Second)))
		if _, _, err := c.ws.ReadMessage(); err != nil {
			return err
		}
	}
}

func TestStatesArePublished(t *testing.T) {
	f := newFake("street")
	base, _ := serve(t, Config{StatsEvery: 10 * time.Millisecond}, f)
	c := dial(t, base, "street")
	assert.Equal(t, "connecting", c.until("stream.state")["state"])
	for _, state := range []ingest.State{ingest.Live, ingest.Stalled, ingest.Offline, ingest.Live, ingest.Ended} {
		f.set(state, "because")
		ev := c.until("stream.state")
		assert.Equal(t, string(state), ev["state"])
		assert.Equal(t, "because", ev["error"])
	}
}

func TestMemoryStats(t *testing.T) {
	f := newFake("street")
	base, _ := serve(t, Config{StatsEvery: 10 * time.Millisecond}, f)
	c := dial(t, base, "street")
	var ev object
	read := func() {
		for ev = nil; ev["type"] != "memory.stats"; {
			_, raw := c.message()
			ev = nil
			require.NoError(t, json.Unmarshal(raw, &ev))
		}
	}
	read()
	assert.Nil(t, ev["lag_ms"])
	assert.Nil(t, at(ev, "memory", "oldest"))
	f.show(time.Minute)
	for ev["lag_ms"] == nil {
		read()
	}
	assert.EqualValues(t, 800, at(ev, "memory", "tokens"))
	assert.NotNil(t, at(ev, "memory", "oldest"))
}

func TestLivePictures(t *testing.T) {
	f := newFake("street")
	f.show(time.Second)
	base, _ := serve(t, Config{}, newFake("other"), f)
	c := dial(t, base, "street")
	picture := func() []byte {
		for {
			if kind, raw := c.message(); kind == websocket.BinaryMessage {
				return raw
			}
		}
	}
	c.send(`{"type":"session.update","session":{"video":true}}`)
	assert.Equal(t, true, at(c.until("session.updated"), "session", "video"))
	first := picture()
	require.Greater(t, len(first), liveHeader)
	assert.EqualValues(t, 1, binary.BigEndian.Uint32(first), "stream")
	assert.EqualValues(t, time.Second.Microseconds(), binary.BigEndian.Uint64(first[4:]), "pts")
	assert.EqualValues(t, 1, binary.BigEndian.Uint32(first[12:]), "seq")
	assert.Equal(t, []byte{0xff, 0xd8}, first[16:18])
	f.show(2 * time.Second)
	assert.EqualValues(t, 2, binary.BigEndian.Uint32(picture()[12:]))

	c.send(`{"type":"session.update","session":{"video":false}}`)
	assert.Equal(t, false, at(c.until("session.updated"), "session", "video"))
	quiet := func() bool { // nobody watches, so nobody looks
		f.mu.Lock()
		before := f.taken
		f.mu.Unlock()
		time.Sleep(3 * livePoll / 2)
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.taken == before
	}
	require.Eventually(t, quiet, 10*time.Second, time.Millisecond)
	c.send(`{"type":"session.update","session":{"video":true}}`)
	assert.EqualValues(t, 2, binary.BigEndian.Uint32(picture()[12:]), "the same frame is not encoded again")
}

func TestSlowReaderLosesItsConnection(t *testing.T) {
	f := newFake("street")
	ended := make(chan error, 1)
	f.ask = func(ctx context.Context, _ qa.Question, emit func(string) error) (qa.Answer, error) {
		word := strings.Repeat("x", 1<<10)
		for {
			if err := emit(word); err != nil {
				ended <- err
				return qa.Answer{}, err
			}
			if ctx.Err() != nil {
				ended <- ctx.Err()
				return qa.Answer{}, ctx.Err()
			}
		}
	}
	base, _ := serve(t, Config{WriteTimeout: 100 * time.Millisecond}, f)
	c, other := dial(t, base, "street"), dial(t, base, "street")
	c.ask("Say a lot") // and never read
	require.Error(t, <-ended)
	require.Error(t, readToEnd(c))
	f.ask = f.answer("fine", 0)
	other.ask("Are you well?")
	assert.Equal(t, "completed", at(other.until("response.done"), "response", "status"))
}

func TestOutboxPolicy(t *testing.T) {
	o := newOutbox()
	o.setStats(&memoryEvent{Stream: "old"})
	o.setStats(&memoryEvent{Stream: "new"})
	one, two := &picture{}, &picture{message: []byte{1}}
	o.setPicture(one)
	o.setPicture(two)
	words := []string{"a", "b", "c"}
	for i := range words {
		require.True(t, o.put(&textEvent{Delta: &words[i]}))
	}
	for i := range words { // words first, all of them, in order
		ev, _, _, _ := o.next()
		assert.Equal(t, words[i], *ev.(*textEvent).Delta)
	}
	ev, _, _, _ := o.next()
	assert.Equal(t, "new", ev.(*memoryEvent).Stream, "only the newest statistics")
	_, _, pic, _ := o.next()
	assert.Same(t, two, pic, "only the newest picture")
	o.setPicture(two)
	_, _, pic, _ = o.next()
	assert.Nil(t, pic, "a picture goes out once")
	for o.put(&textEvent{Delta: &words[0]}) {
	}
	_, _, _, full := o.next()
	assert.True(t, full)
}

func TestStopEndsAnswersAndSaysGoodbye(t *testing.T) {
	f := newFake("street")
	f.ask = f.answer(strings.Repeat("word ", 100000), time.Millisecond)
	base, stop := serve(t, Config{}, f)
	c := dial(t, base, "street")
	c.ask("Go on for ever")
	c.until("response.output_text.delta")
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	done := c.until("response.done")
	assert.Equal(t, "cancelled", at(done, "response", "status"))
	assert.Equal(t, "connection_closed", at(done, "response", "status_details", "reason"))
	err := readToEnd(c)
	assert.True(t, websocket.IsCloseError(err, websocket.CloseGoingAway), "%v", err)
	<-stopped
}

func TestALostClientEndsItsAnswers(t *testing.T) {
	f := newFake("street")
	ended := make(chan struct{})
	f.ask = func(ctx context.Context, _ qa.Question, _ func(string) error) (qa.Answer, error) {
		<-ctx.Done()
		close(ended)
		return qa.Answer{}, ctx.Err()
	}
	base, _ := serve(t, Config{}, f)
	c := dial(t, base, "street")
	c.ask("Wait")
	c.until("response.created")
	c.ws.Close()
	<-ended
}

// FuzzMessage gives one session several messages, a line each: whatever they are, each is answered, and nothing is left running (see TestMain).
func FuzzMessage(f *testing.F) {
	for _, m := range badMessages {
		f.Add([]byte(m.raw))
	}
	scripts, err := filepath.Glob("testdata/realtime/*.txt")
	require.NoError(f, err)
	for _, file := range scripts {
		script, err := os.ReadFile(file)
		require.NoError(f, err)
		var messages []string
		for line := range strings.Lines(string(script)) {
			if m, ok := strings.CutPrefix(line, "> "); ok {
				messages = append(messages, strings.TrimSpace(m))
			}
		}
		f.Add([]byte(strings.Join(messages, "\n")))
	}
	const input = `"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"Who?"}]}]`
	for _, m := range []string{
		`{"type":"session.update","event_id":"a","session":{"video":true,"resumption":true}}`,
		`{"type":"response.create","response":{` + input + `,"seed":1,"on_busy":"queue"}}` + "\n" + `{"type":"response.create","response":{` + input + `,"on_busy":"interrupt"}}`,
		`{"type":"response.create","response":{` + input + `,"as_of":"2026-05-02T10:04:11Z","range":{"from":"0001-01-01T00:00:00Z"},"deadline_ms":1}}`,
		`{"type":"response.create","response":{` + input + `,"streams":["street","yard"]}}` + "\n" + `{"type":"response.cancel"}`,
		`{"type":"response.cancel","event_id":"` + strings.Repeat("é", 200) + `"}`,
	} {
		f.Add([]byte(m))
	}
	street, yard := newFake("street"), newFake("yard")
	street.ask, yard.ask = echo, echo
	s, err := New(Config{}, []Stream{remembering{street}, yard})
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, s.wait()) })
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := newSession(s, s.streams()[0])
		defer s.streams()[0].live.leave(c.out)
		messages := bytes.SplitN(raw, []byte("\n"), 16)
		for _, m := range messages {
			c.handle(m)
		}
		c.close()
		replies := 0
		for {
			ev, _, _, _ := c.out.next()
			if ev == nil {
				break
			}
			replies++
			b, err := c.encode(ev)
			require.NoError(t, err)
			require.True(t, json.Valid(b))
			require.Less(t, len(b), 2*maxMessage+(32<<10), "an answer is not much larger than its cause")
		}
		require.GreaterOrEqual(t, replies, len(messages), "nothing is ignored in silence")
		s.takingMu.Lock()
		defer s.takingMu.Unlock()
		require.Empty(t, s.taking, "a session that is closed cannot be taken up")
		require.Empty(t, s.asking, "and holds no place")
	})
}
