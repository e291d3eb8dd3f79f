package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
	"afterimage/qa"
)

// asked is a stream that standing questions are put to: a picture says how probable yes is.
type asked struct {
	t        *testing.T
	stream   string
	bank     *memorybank.Bank
	coverage *ingest.Coverage
	standing *qa.Standing
	round    func(context.Context) error
	epoch    time.Time
	seconds  int
	fail     atomic.Bool
}

func newAsked(t *testing.T, stream string) *asked {
	t.Helper()
	a := &asked{t: t, stream: stream, coverage: ingest.NewCoverage(0, 0), epoch: time.Now().Add(-time.Hour).Truncate(time.Second)}
	a.bank = memorybank.New(a.epoch, memorybank.Recent{N: 200})
	var err error
	a.standing, err = qa.NewStanding(qa.StandingOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.standing.Close()) })
	a.round = a.standing.AttachManually(stream, qa.NewSession(a.bank, a, a, nil))
	return a
}

func (a *asked) Status() ingest.Status      { return ingest.Status{State: ingest.Live} }
func (a *asked) Coverage() *ingest.Coverage { return a.coverage }

func (a *asked) Generate(context.Context, llm.Prompt, llm.Options, func(llm.Token) error) (llm.Stats, error) {
	return llm.Stats{}, errors.New("not asked for")
}

func (a *asked) Choose(_ context.Context, p llm.Prompt, choices []string) ([]float64, llm.Stats, error) {
	if a.fail.Load() {
		return nil, llm.Stats{}, errors.New("the device is on fire")
	}
	out := make([]float64, len(choices))
	for _, part := range p {
		if part.Visual.Rows > 0 {
			out[0], out[len(out)-1] = float64(part.Visual.Data[0]), 1-float64(part.Visual.Data[0])
		}
	}
	return out, llm.Stats{PromptTokens: 44, CachedTokens: 33}, nil
}

// show is a second of the stream.
func (a *asked) show(yes float32) {
	a.t.Helper()
	a.coverage.Mark(a.epoch.Add(time.Duration(a.seconds) * time.Second))
	a.bank.Add(memorybank.Entry{At: time.Duration(a.seconds) * time.Second, Grid: memorybank.Grid{H: 2, W: 2},
		Tokens: compute.Matrix{Rows: 4, Cols: 3, Data: slices.Repeat([]float32{yes, 1, 2}, 4)}, Thumb: thumbOf(a.seconds % 8)})
	require.NoError(a.t, a.round(a.t.Context()))
	a.seconds++
}

// whole is a question with every field.
const whole = `{"name":"parcel","stream":"yard","ask":"Is there a parcel?","choices":["yes","no","unsure"],"fire":["yes"],"threshold":0.9,"hysteresis":0.3,"every":"500ms",
"on_change":true,"hold":"0s","cooldown":"0s","deadline":"1h0m0s","look":"now","webhook":"https://example.org/canary?key=canary"}`

// request sends one with a JSON body and, perhaps, a token.
func request(t *testing.T, method, url, body, token string) (int, object) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	var o object
	require.NoError(t, json.Unmarshal(b, &o), "%s", b)
	return resp.StatusCode, o
}

func TestWatchRoutes(t *testing.T) {
	a := newAsked(t, "yard")
	base, _ := serve(t, Config{Watches: a.standing}, newFake("yard"), newFake("door"))
	status, w := request(t, "POST", base+"/api/watches", whole, "")
	require.Equal(t, 201, status, w)
	id := w["id"].(string)
	assert.Equal(t, "https://example.org/…", w["webhook"], "it is shown to nobody again")
	assert.Nil(t, w["probability"])
	assert.Equal(t, "0s", w["hold"])
	for body, want := range map[string]struct {
		status      int
		code, param string
	}{
		whole:                            {409, "watch_exists", ""},
		`{"stream":"nope","ask":"?"}`:    {404, "stream_not_found", ""},
		`{"stream":"yard","ask":""}`:     {400, "invalid_value", "ask"},
		`{"stream":"yard","asks":"?"}`:   {400, "unknown_parameter", "asks"},
		`{"stream":"yard","ask":7}`:      {400, "invalid_value", "ask"},
		`{"stream":"yard","stream":"y"}`: {400, "invalid_value", "stream"},
		`{"stream":"yard"`:               {400, "invalid_value", ""},
		`{"stream":"yard","ask":"?","webhook":"ftp://canary"}`: {400, "invalid_value", "webhook"},
	} {
		status, o := request(t, "POST", base+"/api/watches", body, "")
		assert.Equal(t, want.status, status, body)
		assert.Equal(t, want.code, at(o, "error", "code"), body)
		if want.param != "" {
			assert.Equal(t, want.param, at(o, "error", "param"), body)
		}
		assert.NotContains(t, fmt.Sprint(o), "canary")
	}
	status, o := request(t, "PATCH", base+"/api/watches/"+id, `{"webhook":"https://example.org/…","threshold":0.8,"on_change":false}`, "")
	require.Equal(t, 200, status, o)
	info, err := a.standing.Get(id)
	require.NoError(t, err)
	assert.Equal(t, "https://example.org/canary?key=canary", info.Spec.Webhook, "what was shown in its place is not taken for it")
	assert.Equal(t, .8, info.Spec.Threshold)
	a.show(1)
	a.show(0)
	_, o = request(t, "GET", base+"/api/watches/"+id, "", "")
	require.Len(t, o["events"], 2)
	assert.Equal(t, "fired", at(o, "events", 0, "kind"))
	status, _, _ = get(t, base+at(o, "events", 0, "thumb").(string))
	assert.Equal(t, 200, status)

	a.seconds += 10
	for i := range 12 {
		a.show(float32(i / 4 % 2))
	}
	r, err := http.NewRequest("POST", base+"/api/watches/backtest", strings.NewReader(whole))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/x-ndjson")
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	var last object
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		last = nil
		require.NoError(t, json.Unmarshal(lines.Bytes(), &last))
	}
	assert.Equal(t, "result", last["type"])
	assert.EqualValues(t, 2, last["firings"])
	assert.EqualValues(t, 14, last["checks"])
	assert.Len(t, last["gaps"], 1)
	status, o = request(t, "POST", base+"/api/watches/"+id+"/backtest", `{"from":"2001-01-01T00:00:00Z","to":"2001-01-02T00:00:00Z"}`, "")
	assert.Equal(t, 400, status, o)
	assert.Equal(t, "no_backtest", at(o, "error", "code"))
	status, _ = request(t, "DELETE", base+"/api/watches/"+id, "", "")
	assert.Equal(t, 200, status)
	status, _ = request(t, "DELETE", base+"/api/watches/"+id, "", "")
	assert.Equal(t, 404, status)

	none, _ := serve(t, Config{}, newFake("yard"))
	status, o = request(t, "POST", none+"/api/watches", whole, "")
	assert.Equal(t, 501, status)
	assert.Equal(t, "watches_not_supported", at(o, "error", "code"))
}

// TestWatchPermissions: who may not see a stream does not learn of its questions either.
func TestWatchPermissions(t *testing.T) {
	a := newAsked(t, "yard")
	door := token("door", "door-secret", RoleAdmin)
	door.Streams = []string{"door"}
	tokens := []Token{token("admin", "admin-secret", RoleAdmin), token("ask", "ask-secret", RoleAsk), token("read", "read-secret", RoleRead), door}
	base, _ := serve(t, Config{Watches: a.standing, Tokens: func() []Token { return tokens }}, newFake("yard"), newFake("door"))
	_, w := request(t, "POST", base+"/api/watches", whole, "admin-secret")
	id := w["id"].(string)
	a.show(1)
	for _, tt := range []struct {
		method, path, body, token string
		want                      int
	}{
		{"POST", "", whole, "read-secret", 403}, {"POST", "", whole, "ask-secret", 403}, {"POST", "", whole, "door-secret", 404}, {"POST", "", whole, "", 401},
		{"GET", "/" + id, "", "read-secret", 200}, {"GET", "/" + id, "", "door-secret", 404},
		{"PATCH", "/" + id, `{"paused":true}`, "ask-secret", 403}, {"PATCH", "/" + id, `{"paused":true}`, "door-secret", 404},
		{"PATCH", "/" + id, `{"stream":"door"}`, "door-secret", 404},
		{"DELETE", "/" + id, "", "read-secret", 403}, {"DELETE", "/" + id, "", "door-secret", 404},
		{"POST", "/backtest", whole, "read-secret", 403}, {"POST", "/backtest", whole, "ask-secret", 200}, {"POST", "/backtest", whole, "door-secret", 404},
		{"POST", "/" + id + "/backtest", "", "ask-secret", 200}, {"POST", "/" + id + "/backtest", "", "door-secret", 404},
	} {
		status, o := request(t, tt.method, base+"/api/watches"+tt.path, tt.body, tt.token)
		assert.Equal(t, tt.want, status, "%s %s as %s: %v", tt.method, tt.path, tt.token, o)
	}
	_, o := request(t, "GET", base+"/api/watches", "", "door-secret")
	assert.Empty(t, o["watches"])
	_, o = request(t, "GET", base+"/api/watches", "", "read-secret")
	assert.Len(t, o["watches"], 1)
}

func TestWatchSocket(t *testing.T) {
	a := newAsked(t, "yard")
	base, _ := serve(t, Config{Watches: a.standing}, newFake("yard"))
	c := dial(t, base, "yard")
	c.until("session.created")
	c.send(`{"type":"watch.create","event_id":"e1","watch":{"stream":"yard","ask":"Is there a parcel?","hold":"0s","cooldown":"0s"}}`)
	id := at(c.until("watch.created"), "watch", "id").(string)
	a.show(1)
	e := c.until("watch.fired")
	assert.Equal(t, "yard", e["stream"])
	assert.Equal(t, id, at(e, "watch", "id"))
	assert.EqualValues(t, 1, at(e, "event", "probability"))
	assert.Equal(t, "yes", at(e, "event", "choice"))
	status, _, _ := get(t, base+at(e, "event", "thumb").(string))
	assert.Equal(t, 200, status)
	a.show(0)
	assert.Equal(t, "cleared", at(c.until("watch.cleared"), "event", "kind"))
	c.send(`{"type":"watch.update","id":"` + id + `","watch":{"threshold":0.4}}`)
	e = c.until("error")
	assert.Equal(t, "watch.threshold", at(e, "error", "param"))
	c.send(`{"type":"watch.update","id":"` + id + `","watch":{"threshold":0.6}}`)
	assert.EqualValues(t, .6, at(c.until("watch.updated"), "watch", "threshold"))
	a.fail.Store(true)
	a.show(1)
	assert.Equal(t, "the device is on fire", at(c.until("watch.error"), "event", "error"))
	c.send(`{"type":"watch.delete","event_id":"e9","id":"nobody"}`)
	assert.Equal(t, "watch_not_found", at(c.until("error"), "error", "code"))
	c.send(`{"type":"watch.delete","id":"` + id + `"}`)
	assert.Equal(t, id, c.until("watch.deleted")["id"])
	c.send(`{"type":"watch.create","wotch":{}}`)
	assert.Equal(t, "unknown_parameter", at(c.until("error"), "error", "code"))
	assert.Empty(t, a.standing.List())
}
