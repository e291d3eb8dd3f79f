package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/llm"
	"afterimage/qa"
)

// post sends one JSON body.
func post(t *testing.T, url, body string, headers ...string) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, b
}

// capturing returns a stream that notes its questions.
func capturing(name string, got *[]qa.Question) *fakeStream {
	f := newFake(name)
	say := f.answer("A red car. It is parked.", 0)
	f.ask = func(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
		*got = append(*got, q)
		return say(ctx, q, emit)
	}
	return f
}

func TestChatCompletion(t *testing.T) {
	var got []qa.Question
	base, _ := serve(t, Config{}, capturing("front_door", &got), newFake("yard"))
	resp, b := post(t, base+"/v1/chat/completions", `{"model":"afterimage","max_completion_tokens":40,"temperature":0.5,"top_p":0.9,"seed":7,
		"x_max_visual_tokens":500,"x_deadline_ms":5000,"messages":[
		{"role":"system","content":"Be brief."},
		{"role":"user","content":"Is there a car?"},{"role":"assistant","content":"Yes."},
		{"role":"user","content":[{"type":"video_url","video_url":{"url":"stream://front_door?last=10m"}},{"type":"text","text":"What colour is it?"}]}]}`)
	require.Equal(t, 200, resp.StatusCode, string(b))
	var out object
	require.NoError(t, json.Unmarshal(b, &out))
	assert.Equal(t, "chat.completion", out["object"])
	assert.Equal(t, "A red car. It is parked.", at(out, "choices", 0, "message", "content"))
	assert.Equal(t, "stop", at(out, "choices", 0, "finish_reason"))
	assert.EqualValues(t, 840, at(out, "usage", "prompt_tokens"))
	assert.EqualValues(t, 790, at(out, "usage", "prompt_tokens_details", "cached_tokens"))
	assert.Equal(t, "front_door", at(out, "x_evidence", 0, "stream"))
	assert.Equal(t, "live", at(out, "x_evidence", 0, "stream_state"))
	assert.Equal(t, []any{"messages[0]"}, out["x_ignored"])
	assert.Positive(t, at(out, "timings", "total_ms"))
	thumb, _ := at(out, "x_evidence", 0, "items", 0, "thumb").(string)
	status, _, _ := get(t, base+thumb)
	assert.Equal(t, 200, status, thumb)

	require.Len(t, got, 1)
	q := got[0]
	assert.Equal(t, "What colour is it?", q.Text)
	assert.Equal(t, []qa.Exchange{{Question: "Is there a car?", Answer: "Yes."}}, q.History)
	assert.Equal(t, 40, q.MaxTokens)
	assert.Equal(t, 500, q.MaxVisualTokens)
	assert.Equal(t, uint64(7), q.Seed)
	assert.InDelta(t, 0.5, q.Temperature, 1e-6)
	assert.InDelta(t, 0.9, q.TopP, 1e-6)
	assert.WithinDuration(t, time.Now().Add(-10*time.Minute), q.From, time.Minute)
	assert.True(t, q.To.IsZero())
	assert.WithinDuration(t, time.Now().Add(5*time.Second), q.Deadline, 10*time.Second)
}

// events reads a stream of server-sent events to its end.
func events(t *testing.T, body io.Reader) (chunks []object, done bool) {
	t.Helper()
	for sc := bufio.NewScanner(body); sc.Scan(); {
		data, ok := strings.CutPrefix(sc.Text(), "data: ")
		if !ok {
			assert.Empty(t, sc.Text())
			continue
		}
		if data == "[DONE]" {
			done = true
			continue
		}
		assert.False(t, done, "nothing follows [DONE]")
		var o object
		require.NoError(t, json.Unmarshal([]byte(data), &o), data)
		chunks = append(chunks, o)
	}
	return chunks, done
}

func TestChatStream(t *testing.T) {
	base, _ := serve(t, Config{}, newFake("street"))
	for _, usage := range []bool{false, true} {
		options := ""
		if usage {
			options = `"stream_options":{"include_usage":true},`
		}
		resp, b := post(t, base+"/v1/chat/completions", `{"model":"stream://street","stream":true,`+options+`"messages":[{"role":"user","content":"Is there a car?"}]}`)
		require.Equal(t, 200, resp.StatusCode, string(b))
		assert.Equal(t, "text/event-stream; charset=utf-8", resp.Header.Get("Content-Type"))
		chunks, done := events(t, bytes.NewReader(b))
		require.True(t, done)
		assert.Equal(t, "assistant", at(chunks[0], "choices", 0, "delta", "role"))
		text, n := "", len(chunks)
		if usage {
			n--
			assert.Empty(t, chunks[n]["choices"])
			assert.EqualValues(t, 840, at(chunks[n], "usage", "prompt_tokens"))
		}
		for i, c := range chunks[:n] {
			assert.Equal(t, "chat.completion.chunk", c["object"])
			assert.Equal(t, chunks[0]["id"], c["id"])
			assert.Nil(t, c["usage"])
			part, _ := at(c, "choices", 0, "delta", "content").(string)
			text += part
			assert.Equal(t, i == n-1, at(c, "choices", 0, "finish_reason") == "stop")
		}
		assert.Equal(t, "A red car is parked at the gate. It arrived three minutes ago and nobody left it since.", text)
		assert.NotEmpty(t, at(chunks[n-1], "x_evidence", 0, "items"))
	}
}

func TestChatStopSequences(t *testing.T) {
	f := newFake("street")
	say := func(pieces ...string) {
		f.ask = func(_ context.Context, _ qa.Question, emit func(string) error) (a qa.Answer, err error) {
			for _, p := range pieces {
				if err := emit(p); err != nil {
					return a, err
				}
				a.Text += p
			}
			a.Stats.Finish = "stop"
			return a, nil
		}
	}
	base, _ := serve(t, Config{}, f)
	for _, c := range []struct {
		pieces     []string
		stop, want string
	}{
		{[]string{"a car", ". a van"}, `"."`, "a car"},
		{[]string{"a ca", "r and", " a van"}, `["r an"]`, "a ca"},
		{[]string{"one tw", "o three"}, `["two x","thr"]`, "one two "},
		{[]string{"aab", "aac"}, `["aac"]`, "aab"},
		{[]string{"grün", "e Tür"}, `["ne"]`, "grü"},
		{[]string{"the end is EN"}, `["END"]`, "the end is EN"},
		{[]string{"xENDy", "z"}, `["y","END"]`, "x"},
		{[]string{"nothing"}, `null`, "nothing"},
	} {
		say(c.pieces...)
		for _, stream := range []string{"false", "true"} {
			resp, b := post(t, base+"/v1/chat/completions", `{"model":"afterimage","stream":`+stream+`,"stop":`+c.stop+`,"messages":[{"role":"user","content":"?!"}]}`)
			require.Equal(t, 200, resp.StatusCode, string(b))
			if stream == "true" {
				chunks, done := events(t, bytes.NewReader(b))
				require.True(t, done)
				text := ""
				for _, o := range chunks {
					part, _ := at(o, "choices", 0, "delta", "content").(string)
					text += part
				}
				assert.Equal(t, c.want, text, "%v %s", c.pieces, c.stop)
				continue
			}
			var o object
			require.NoError(t, json.Unmarshal(b, &o))
			assert.Equal(t, c.want, at(o, "choices", 0, "message", "content"), "%v %s", c.pieces, c.stop)
			assert.Equal(t, "stop", at(o, "choices", 0, "finish_reason"))
		}
	}
}

func TestChatRefusals(t *testing.T) {
	base, _ := serve(t, Config{}, newFake("front_door"), newFake("yard"))
	video := func(url string) string {
		q, _ := json.Marshal(url)
		return `"messages":[{"role":"user","content":[{"type":"video_url","video_url":{"url":` + string(q) + `}},{"type":"text","text":"What?"}]}]`
	}
	ok := video("stream://yard")
	for _, c := range []struct {
		body   string
		status int
		code   string
	}{
		{`{"model":"afterimage",` + ok + `}`, 200, ""},
		{`{"model":"afterimage","n":1,"logprobs":false,"tools":[],"tool_choice":"auto","user":"me","store":false,"response_format":{"type":"text"},"presence_penalty":0,"logit_bias":{},"metadata":{"a":"b"},` + ok + `}`, 200, ""},
		{`{"model":"stream://yard","messages":[{"role":"user","content":"What?"}]}`, 200, ""},
		{`{"model":"afterimage",` + video("rtsp://viewer:secret@192.0.2.10/live") + `}`, 400, "url_not_allowed"},
		{`{"model":"afterimage",` + video("http://169.254.169.254/latest/meta-data") + `}`, 400, "url_not_allowed"},
		{`{"model":"afterimage",` + video("file:///etc/passwd") + `}`, 400, "url_not_allowed"},
		{`{"model":"afterimage",` + video("data:video/mp4;base64,AAAA") + `}`, 400, "url_not_allowed"},
		{`{"model":"afterimage",` + video("STREAM://yard") + `}`, 400, "url_not_allowed"},
		{`{"model":"afterimage",` + video("stream://yard?url=http://x") + `}`, 400, "invalid_value"},
		{`{"model":"afterimage",` + video("stream://a:b@yard") + `}`, 400, "invalid_value"},
		{`{"model":"afterimage",` + video("stream://yard/../x") + `}`, 400, "invalid_value"},
		{`{"model":"afterimage",` + video("stream://yard?last=-1m") + `}`, 400, "invalid_value"},
		{`{"model":"afterimage",` + video("stream://yard?last=1m&from=2026-05-04T12:00:00Z") + `}`, 400, "invalid_value"},
		{`{"model":"afterimage",` + video("stream://yard?from=2026-05-04T12:00:00Z&to=2026-05-04T11:00:00Z") + `}`, 400, "invalid_value"},
		{`{"model":"afterimage",` + video("stream://yard?from=noon") + `}`, 400, "invalid_value"},
		{`{"model":"afterimage",` + video("stream://nope") + `}`, 404, "stream_not_found"},
		{`{"model":"gpt-4o",` + ok + `}`, 404, "model_not_found"},
		{`{` + ok + `}`, 400, "missing_required_parameter"},
		{`{"model":"afterimage"}`, 400, "missing_required_parameter"},
		{`{"model":"afterimage","messages":[{"role":"user","content":"What?"}]}`, 400, "stream_needed"},
		{`{"model":"afterimage","messages":[{"role":"assistant","content":"Hm."}]}`, 400, "no_question"},
		{`{"model":"afterimage","messages":[{"role":"robot","content":"Hm."}]}`, 400, "invalid_value"},
		{`{"model":"afterimage","messages":[{"role":"tool","content":"Hm."}]}`, 400, "unsupported_value"},
		{`{"model":"afterimage","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://x"}}]}]}`, 400, "invalid_value"},
		{`{"model":"afterimage","messages":[{"role":"user","content":7}]}`, 400, "invalid_type"},
		{`{"model":"afterimage","n":2,` + ok + `}`, 400, "unsupported_value"},
		{`{"model":"afterimage","tools":[{"type":"function"}],` + ok + `}`, 400, "unsupported_parameter"},
		{`{"model":"afterimage","logprobs":true,` + ok + `}`, 400, "unsupported_parameter"},
		{`{"model":"afterimage","response_format":{"type":"json_object"},` + ok + `}`, 400, "unsupported_value"},
		{`{"model":"afterimage","temprature":1,` + ok + `}`, 400, "unknown_parameter"},
		{`{"model":"afterimage","temperature":3,` + ok + `}`, 400, "decimal_out_of_range"},
		{`{"model":"afterimage","max_tokens":0,` + ok + `}`, 400, "integer_below_min_value"},
		{`{"model":"afterimage","max_tokens":1,"max_completion_tokens":1,` + ok + `}`, 400, "invalid_value"},
		{`{"model":"afterimage","stop":["a","b","c","d","e"],` + ok + `}`, 400, "array_above_max_length"},
		{`{"model":"afterimage","stop":7,` + ok + `}`, 400, "invalid_type"},
		{`{"model":"afterimage","stream_options":{"include_usage":true},` + ok + `}`, 400, "invalid_value"},
		{`{"model":7,` + ok + `}`, 400, "invalid_type"},
		{`{`, 400, "invalid_json"},
		{`[]`, 400, "invalid_json"},
		{`{"model":"afterimage","messages":[{"role":"user","content":"` + strings.Repeat("x", maxQuestion+1) + `"}]}`, 400, "question_too_long"},
		{`{"model":"` + strings.Repeat("x", maxChat) + `"}`, 413, "request_too_large"},
	} {
		resp, b := post(t, base+"/v1/chat/completions", c.body)
		assert.Equal(t, c.status, resp.StatusCode, "%.200s: %s", c.body, b)
		if c.code == "" {
			continue
		}
		var o struct{ Error map[string]any }
		require.NoError(t, json.Unmarshal(b, &o), string(b))
		assert.Equal(t, c.code, o.Error["code"], "%.200s: %s", c.body, b)
		for _, name := range []string{"message", "type", "param", "code"} {
			assert.Contains(t, o.Error, name, "OpenAI's envelope has all four")
		}
		assert.NotContains(t, string(b), "secret")
	}
	resp, _ := post(t, base+"/v1/chat/completions", `{"model":"afterimage",`+ok+`}`, "Content-Type", "text/plain")
	assert.Equal(t, http.StatusUnsupportedMediaType, resp.StatusCode)
}

func TestChatSeveralStreams(t *testing.T) {
	var door, yard []qa.Question
	base, _ := serve(t, Config{}, capturing("door", &door), capturing("yard", &yard))
	resp, b := post(t, base+"/v1/chat/completions", `{"model":"afterimage","x_max_visual_tokens":500,"messages":[{"role":"user","content":[
		{"type":"video_url","video_url":{"url":"stream://door?from=2026-05-04T12:00:00Z"}},{"type":"video_url","video_url":{"url":"stream://yard?from=2026-05-04T12:00:00Z"}},
		{"type":"text","text":"What is there?"}]}]}`)
	require.Equal(t, 200, resp.StatusCode, string(b))
	var o object
	require.NoError(t, json.Unmarshal(b, &o))
	assert.Equal(t, "door: A red car. It is parked.\nyard: A red car. It is parked.", at(o, "choices", 0, "message", "content"))
	assert.Equal(t, "door", at(o, "x_evidence", 0, "stream"))
	assert.Equal(t, "yard", at(o, "x_evidence", 1, "stream"))
	assert.EqualValues(t, 1680, at(o, "usage", "prompt_tokens"))
	require.Len(t, yard, 1)
	assert.Equal(t, 250, yard[0].MaxVisualTokens)
	assert.Equal(t, time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC), yard[0].From.UTC())
}

func TestChatBusyLoadingAndFailing(t *testing.T) {
	f := newFake("street")
	release := make(chan struct{})
	say := f.ask
	f.ask = func(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
		<-release
		return say(ctx, q, emit)
	}
	var loading []string
	base, _ := serve(t, Config{MaxAsking: 1, Ready: func() []string { return loading }}, f)
	const body = `{"model":"afterimage","messages":[{"role":"user","content":"What?"}]}`
	first := make(chan int)
	go func() {
		resp, err := http.Post(base+"/v1/chat/completions", "application/json", strings.NewReader(body))
		if err != nil {
			first <- 0
			return
		}
		resp.Body.Close()
		first <- resp.StatusCode
	}()
	require.Eventually(t, func() bool {
		resp, b := post(t, base+"/v1/chat/completions", `{"model":"nope","messages":[{"role":"user","content":"What?"}]}`)
		assert.Equal(t, 404, resp.StatusCode, string(b))
		status, _, _ := get(t, base+"/readyz")
		return status == http.StatusServiceUnavailable // the one place is taken
	}, 10*time.Second, 10*time.Millisecond)
	resp, b := post(t, base+"/v1/chat/completions", body)
	assert.Equal(t, http.StatusTooManyRequests, resp.StatusCode, string(b))
	assert.NotEmpty(t, resp.Header.Get("Retry-After"))
	close(release)
	assert.Equal(t, 200, <-first)

	for status, err := range map[int]error{429: llm.ErrBusy, 400: qa.ErrQuestion, 500: io.ErrUnexpectedEOF, 503: llm.ErrClosed} {
		f.ask = func(context.Context, qa.Question, func(string) error) (qa.Answer, error) { return qa.Answer{}, err }
		resp, b := post(t, base+"/v1/chat/completions", body)
		assert.Equal(t, status, resp.StatusCode, string(b))
		assert.Equal(t, status == 429 || status == 503, resp.Header.Get("Retry-After") != "")
	}
	// Once words went out there is no status to change: the last event says what happened, and [DONE] does not come.
	f.ask = func(_ context.Context, _ qa.Question, emit func(string) error) (qa.Answer, error) {
		_ = emit("A red")
		return qa.Answer{}, io.ErrUnexpectedEOF
	}
	resp, b = post(t, base+"/v1/chat/completions", strings.Replace(body, "{", `{"stream":true,`, 1))
	assert.Equal(t, 200, resp.StatusCode)
	chunks, done := events(t, bytes.NewReader(b))
	assert.False(t, done)
	assert.Equal(t, "answer_failed", at(chunks[len(chunks)-1], "error", "code"))

	loading = []string{"the model is loading"}
	resp, b = post(t, base+"/v1/chat/completions", body)
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode, string(b))
	assert.NotEmpty(t, resp.Header.Get("Retry-After"))
}

// A client that leaves ends its answer.
func TestChatClientLeaves(t *testing.T) {
	f := newFake("street")
	ended := make(chan error, 1)
	f.ask = func(ctx context.Context, _ qa.Question, emit func(string) error) (qa.Answer, error) {
		_ = emit("A")
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return qa.Answer{}, ctx.Err()
	}
	base, _ := serve(t, Config{}, f)
	ctx, leave := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/chat/completions",
		strings.NewReader(`{"model":"afterimage","stream":true,"messages":[{"role":"user","content":"What?"}]}`))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	leave()
	resp.Body.Close()
	select {
	case err := <-ended:
		assert.ErrorIs(t, err, context.Canceled)
	case <-time.After(10 * time.Second):
		t.Fatal("the answer went on without anyone to read it")
	}
}

func TestModels(t *testing.T) {
	base, _ := serve(t, Config{Version: Version{Model: "embedded"}}, newFake("front_door"))
	_, _, b := get(t, base+"/v1/models")
	var o object
	require.NoError(t, json.Unmarshal(b, &o))
	assert.Equal(t, "list", o["object"])
	assert.Equal(t, "embedded", at(o, "data", 0, "id"))
	assert.Equal(t, "stream://front_door", at(o, "data", 1, "id"))
	status, _, _ := get(t, base+"/v1/models/embedded")
	assert.Equal(t, 200, status)
	status, _, _ = get(t, base+"/v1/models/stream%3A%2F%2Ffront_door")
	assert.Equal(t, 200, status)
	status, _, _ = get(t, base+"/v1/models/nope")
	assert.Equal(t, 404, status)
}
