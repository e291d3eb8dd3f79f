package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
	"afterimage/qa"
)

// forgettingFake can also forget.
type forgettingFake struct{ *rememberingFake }

func (f forgettingFake) Forget(context.Context, time.Time, time.Time) (memorybank.Forgotten, error) {
	return memorybank.Forgotten{Entries: 1}, nil
}

func (f forgettingFake) Pictures(context.Context, ingest.Span, int) ([]qa.Picture, error) {
	return []qa.Picture{{At: epoch, JPEG: thumbOf(0)}, {At: epoch.Add(time.Second), JPEG: thumbOf(1)}}, nil
}

// described is the served description, ready to check requests and answers against.
type described struct {
	t      *testing.T
	base   string
	doc    *openapi3.T
	router routers.Router
	seen   map[string]bool // properties of answers that came
	asked  map[string]bool // operations that were called
}

func describe(t *testing.T, base string) *described {
	t.Helper()
	status, _, raw := get(t, base+"/openapi.json")
	require.Equal(t, 200, status)
	load := func() *openapi3.T {
		doc, err := openapi3.NewLoader().LoadFromData(raw)
		require.NoError(t, err)
		return doc
	}
	require.NoError(t, load().Validate(context.Background()))
	d := &described{t: t, base: base, doc: load(), seen: map[string]bool{}, asked: map[string]bool{}}
	for _, s := range d.doc.Components.Schemas { // answers may have no field that is not described
		closeSchema(s)
	}
	for _, path := range d.doc.Paths.Map() {
		for _, op := range path.Operations() {
			for _, r := range op.Responses.Map() {
				for _, m := range r.Value.Content {
					closeSchema(m.Schema)
				}
			}
		}
	}
	d.doc.Servers = nil
	var err error
	d.router, err = gorillamux.NewRouter(d.doc)
	require.NoError(t, err)
	return d
}

// closeSchema forbids properties that are not listed, all the way down.
func closeSchema(s *openapi3.SchemaRef) {
	if s == nil || s.Value == nil {
		return
	}
	v := s.Value
	if len(v.Properties) > 0 && v.AdditionalProperties.Has == nil {
		no := false
		v.AdditionalProperties.Has = &no
	}
	for _, p := range v.Properties {
		closeSchema(p)
	}
	closeSchema(v.Items)
}

// call sends a request and checks it and its answer.
func (d *described) call(method, path, body string, want int) []byte {
	d.t.Helper()
	r, err := http.NewRequest(method, d.base+path, strings.NewReader(body))
	require.NoError(d.t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	route, params, err := d.router.FindRoute(r)
	require.NoError(d.t, err, path)
	input := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true}}
	if want < 400 {
		require.NoError(d.t, openapi3filter.ValidateRequest(context.Background(), input), "%s %s", method, path)
		if r.Body = http.NoBody; body != "" {
			r.Body = io.NopCloser(strings.NewReader(body)) // the check has read it
		}
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(d.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(d.t, err)
	require.Equal(d.t, want, resp.StatusCode, "%s %s: %.300s", method, path, b)
	kind := resp.Header.Get("Content-Type")
	if strings.HasPrefix(kind, "application/json") || want == http.StatusNoContent {
		err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: resp.StatusCode,
			Header: resp.Header, Body: io.NopCloser(bytes.NewReader(b)), Options: input.Options})
		require.NoError(d.t, err, "%s %s: %.2000s", method, path, b)
	}
	answer := route.Operation.Responses.Status(want)
	if answer == nil {
		answer = route.Operation.Responses.Default()
	}
	require.NotNil(d.t, answer, "%s %s: %d", method, path, want)
	if want != http.StatusNoContent {
		media := answer.Value.Content.Get(kind)
		require.NotNil(d.t, media, "%s %s answers with %s", method, path, kind)
		if strings.HasPrefix(kind, "application/json") {
			var v any
			require.NoError(d.t, json.Unmarshal(b, &v))
			d.mark(media.Schema, v)
		}
	}
	d.asked[route.Operation.OperationID] = true
	return b
}

// mark notes which described properties an answer has.
func (d *described) mark(s *openapi3.SchemaRef, v any) {
	if s == nil || s.Value == nil {
		return
	}
	for _, one := range s.Value.AnyOf {
		d.mark(one, v)
	}
	switch v := v.(type) {
	case map[string]any:
		for name, p := range s.Value.Properties {
			if inner, ok := v[name]; ok {
				d.seen[fmt.Sprintf("%p %s", s.Value, name)] = true
				d.mark(p, inner)
			}
		}
	case []any:
		for _, e := range v {
			d.mark(s.Value.Items, e)
		}
	}
}

// unseen lists the described properties of a schema that no answer had.
func (d *described) unseen(at string, s *openapi3.SchemaRef, done map[*openapi3.Schema]bool) (list []string) {
	if s == nil || s.Value == nil || done[s.Value] {
		return nil
	}
	done[s.Value] = true
	for _, name := range slices.Sorted(maps.Keys(s.Value.Properties)) {
		if !d.seen[fmt.Sprintf("%p %s", s.Value, name)] {
			list = append(list, at+"."+name)
			continue
		}
		list = append(list, d.unseen(at+"."+name, s.Value.Properties[name], done)...)
	}
	for _, one := range s.Value.AnyOf {
		list = append(list, d.unseen(at, one, done)...)
	}
	return append(list, d.unseen(at, s.Value.Items, done)...)
}

func TestOpenAPIDescribesWhatTheServerDoes(t *testing.T) {
	yard := forgettingFake{newRemembering("yard", 20)}
	yard.show(time.Second)
	yard.set(ingest.Offline, "connection refused")
	say := yard.ask
	yard.ask = func(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
		a, err := say(ctx, q, emit)
		a.Evidence.Items[0].Clip = ingest.Span{From: epoch, To: epoch.Add(5 * time.Second)}
		a.FromCoverage, a.Asked, a.Evidence.Cut = true, q.Text, []string{"the oldest of it"}
		return a, err
	}
	tokens := []Token{token("admin", "admin-secret", RoleAdmin)}
	ready := []string{"the model is loading"}
	standing, err := qa.NewStanding(qa.StandingOptions{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, standing.Close()) }()
	watched, model := &seenAll{}, &yes{}
	for i := range 20 {
		watched.coverage.Mark(epoch.Add(time.Duration(i) * time.Second))
	}
	round := standing.AttachManually("yard", qa.NewSession(yard.bank, qa.Shared(model, 1), watched, func() time.Time { return epoch.Add(20 * time.Second) }))
	s, err := New(Config{Watches: standing, Clips: func(context.Context, []qa.Picture) ([]byte, error) { return []byte("a film"), nil }, Version: Version{"0.1.0", "abc", "embedded", "cpu"}, Ready: func() []string { return ready }, Schema: []byte(`{}`), StatsEvery: time.Hour,
		Tokens: func() []Token { return tokens }}, []Stream{yard, newFake("door")})
	require.NoError(t, err)
	base := serving(t, s)
	d := describe(t, base)

	// Every route is described, and nothing else is.
	var have, want []string
	for _, r := range s.api() {
		have = append(have, r.pattern)
	}
	for path, item := range d.doc.Paths.Map() {
		for method := range item.Operations() {
			want = append(want, method+" "+path)
		}
	}
	slices.Sort(have)
	slices.Sort(want)
	require.Equal(t, want, have)

	d.call("GET", "/api/streams", "", 401)
	http.DefaultClient.Transport = bearer("admin-secret")
	defer func() { http.DefaultClient.Transport = nil }()
	d.call("GET", "/livez", "", 200)
	d.call("GET", "/readyz", "", 503)
	ready = nil
	d.call("GET", "/readyz", "", 200)
	d.call("GET", "/openapi.json", "", 200)
	d.call("GET", "/schema.json", "", 200)
	d.call("GET", "/metrics", "", 200)
	d.call("GET", "/api/version", "", 200)
	d.call("GET", "/api/streams", "", 200)
	d.call("GET", "/api/streams/yard", "", 200)
	d.call("GET", "/api/streams/nope", "", 404)
	d.call("GET", "/api/streams/yard/frame.jpeg", "", 200)
	d.call("GET", "/api/streams/yard/memory", "", 200)
	d.call("GET", "/api/streams/door/memory", "", 501)
	var info struct{ File string }
	require.NoError(t, json.Unmarshal(d.call("POST", "/api/streams/yard/memory/snapshots", "", 201), &info))
	d.call("GET", info.File, "", 200)
	d.call("GET", "/api/streams/yard/memory/snapshots", "", 200)
	d.call("DELETE", strings.TrimSuffix(info.File, ".safetensors"), "", 204)
	d.call("GET", "/v1/models", "", 200)
	d.call("GET", "/v1/models/"+url.PathEscape("embedded"), "", 200)
	d.call("GET", "/v1/models/nope", "", 404)
	b := d.call("POST", "/v1/chat/completions", `{"model":"stream://yard","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"What?"}]}`, 200)
	var o object
	require.NoError(t, json.Unmarshal(b, &o))
	d.call("GET", at(o, "x_evidence", 0, "items", 0, "thumb").(string), "", 200)
	d.call("GET", at(o, "x_evidence", 0, "items", 0, "clip").(string), "", 200)
	d.call("POST", "/v1/chat/completions", `{"model":"nope","messages":[{"role":"user","content":"What?"}]}`, 404)
	d.call("POST", "/api/streams/yard/forget", `{"from":"2026-05-04T12:00:00Z","to":"2026-05-04T12:01:00Z"}`, 200)
	d.call("POST", "/api/streams/yard/forget", `{}`, 400)
	const spec = `{"name":"parcel","stream":"yard","ask":"Is a parcel on the step?","choices":["yes","no"],"fire":["yes"],"threshold":0.7,"hysteresis":0.2,"every":"1s","on_change":true,
		"hold":"0s","cooldown":"2s","deadline":"1h","look":"now","webhook":"https://hooks.example/a-secret","paused":`
	d.call("POST", "/api/watches", spec+`true,"what":1}`, 400)
	var watch struct{ ID string }
	require.NoError(t, json.Unmarshal(d.call("POST", "/api/watches", spec+`true}`, 201), &watch))
	one := "/api/watches/" + watch.ID
	d.call("PATCH", one, `{"paused":false}`, 200)
	require.NoError(t, round(context.Background()))
	d.call("GET", "/api/watches", "", 200)
	d.call("GET", one, "", 200)
	model.fail = errors.New("the device is lost")
	yard.bank.Add(memorybank.Entry{At: 21 * time.Second, Grid: memorybank.Grid{H: 1, W: 1}, Tokens: compute.Matrix{Rows: 1, Cols: 3, Data: []float32{9, 9, -9}}})
	watched.coverage.Mark(epoch.Add(21 * time.Second))
	_ = round(context.Background()) // what failed is in the question
	model.fail = nil
	d.call("GET", one, "", 200)
	d.call("GET", "/api/watches/nope", "", 404)
	d.call("POST", "/api/watches/backtest", spec+`false,"from":"2026-05-04T12:00:00Z","to":"2026-05-04T12:00:20Z"}`, 200)
	d.call("POST", one+"/backtest", `{"cooldown":"1s"}`, 200)
	d.call("DELETE", one, "", 200)
	dialAs(t, base, "yard", "admin-secret").until("session.created")
	d.call("GET", "/api/sessions", "", 200)
	d.call("GET", "/v1/realtime?stream=yard", "", 400)

	// A stream's chunks are of the described kind too.
	chunk := d.doc.Components.Schemas["ChatCompletionChunk"]
	for _, body := range []string{`{"model":"stream://yard","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"developer","content":"Be brief."},{"role":"user","content":"What?"}]}`} {
		chunks, done := events(t, bytes.NewReader(d.call("POST", "/v1/chat/completions", body, 200)))
		require.True(t, done)
		for _, c := range chunks {
			require.NoError(t, chunk.Value.VisitJSON(c, openapi3.EnableJSONSchema2020()), c)
			d.mark(chunk, c)
		}
	}

	for path, item := range d.doc.Paths.Map() {
		for method, op := range item.Operations() {
			assert.True(t, d.asked[op.OperationID], "%s %s was not called", method, path)
			for status, r := range op.Responses.Map() {
				if media := r.Value.Content.Get("application/json"); media != nil && status != "default" {
					unseen := d.unseen(method+" "+path+" "+status, media.Schema, map[*openapi3.Schema]bool{})
					unseen = slices.DeleteFunc(unseen, func(at string) bool { return strings.HasSuffix(at, "events.error") }) // of missed deadlines
					assert.Empty(t, unseen, "described, but in no answer")
				}
			}
		}
	}
	assert.Empty(t, d.unseen("chunk", chunk, map[*openapi3.Schema]bool{}))

	// The request's names are those that the handler reads.
	var names []string
	for f := range reflect.TypeFor[chatRequest]().Fields() {
		names = append(names, f.Tag.Get("json"))
	}
	assert.ElementsMatch(t, names, slices.Collect(maps.Keys(d.doc.Components.Schemas["ChatRequest"].Value.Properties)))
}

// bearer adds a token to every request.
type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

// yes is a model that finds that everything is so.
type yes struct{ fail error }

func (*yes) Generate(context.Context, llm.Prompt, llm.Options, func(llm.Token) error) (llm.Stats, error) {
	return llm.Stats{Finish: "stop"}, nil
}

func (y *yes) Choose(_ context.Context, _ llm.Prompt, choices []string) ([]float64, llm.Stats, error) {
	p := make([]float64, len(choices))
	p[0] = 1
	return p, llm.Stats{PromptTokens: 40, CachedTokens: 30}, y.fail
}

// seenAll is a source that is live.
type seenAll struct{ coverage ingest.Coverage }

func (s *seenAll) Status() ingest.Status      { return ingest.Status{State: ingest.Live} }
func (s *seenAll) Coverage() *ingest.Coverage { return &s.coverage }
