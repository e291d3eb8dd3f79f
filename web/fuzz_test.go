package web

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"afterimage/qa"
)

// FuzzHTTP sends any body to every route that takes one, and any path and query to those that do not: whatever comes, the answer is a
// whole one, of a status that says whose mistake it was, and an error has its envelope.
func FuzzHTTP(f *testing.F) {
	for _, seed := range []string{
		`{"model":"afterimage","messages":[{"role":"user","content":"What?"}]}`,
		`{"model":"stream://yard","stream":true,"stop":["a","."],"max_tokens":3,"temperature":0.5,"seed":-1,"messages":[{"role":"user","content":[{"type":"video_url","video_url":{"url":"stream://yard?last=10m"}},{"type":"text","text":"What?"}]}]}`,
		`{"model":"stream://yard","messages":[{"role":"user","content":[{"type":"video_url","video_url":{"url":"stream://yard?from=2026-05-04T12:00:00Z&to=2026-05-04T12:05:00Z"}},{"type":"text","text":"At 9:40?"}]}]}`,
		`{"model":"afterimage","messages":[{"role":"system","content":"x"},{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":[]},{"role":"user","content":"b"}]}`,
		`{"from":"2026-05-04T12:00:00Z","to":"2026-05-04T12:05:00Z"}`,
		`{"name":"p","stream":"yard","ask":"Is a parcel there?","every":"1s","threshold":0.7,"webhook":"https://127.0.0.1/x"}`,
		`{"name":"p","stream":"yard","ask":"?","choices":["a","b"],"from":"2026-05-04T12:00:00Z"}`, `{}`, `[]`, `null`, `{"a":{"a":{}}}`, "\xff", `{"model":1e999}`, `{"model":"\u0000"}`,
	} {
		f.Add(seed, "/api/streams/yard", "stream=yard")
	}
	f.Add("", "/api/streams/..%2f", "stream=%zz")
	f.Add("", "/v1/models/stream:%2F%2Fyard", "")
	f.Add("", "/api/evidence/00.jpg", "x=;")
	standing, err := qa.NewStanding(qa.StandingOptions{})
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, standing.Close()) })
	yard := newRemembering("yard", 3)
	yard.ask = yard.answer("A red car.", 0)
	s, err := New(Config{Watches: standing, RequestRate: Rate{-1, 0}, QuestionRate: Rate{-1, 0}, AnswerTimeout: time.Second}, []Stream{forgettingFake{yard}})
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, s.wait()) })
	handler := s.routes()
	f.Fuzz(func(t *testing.T, body, path, query string) {
		for _, r := range s.api() {
			method, target := fill(r.pattern, "yard", "x")
			if method == http.MethodPost || method == http.MethodPatch {
				check(t, handler, method, target, "", body)
			}
		}
		if strings.HasPrefix(path, "/") {
			check(t, handler, http.MethodGet, path, query, "")
			check(t, handler, http.MethodDelete, path, query, "")
		}
		for _, w := range standing.List() { // so that they do not become ever more
			require.NoError(t, standing.Delete(t.Context(), w.ID))
		}
	})
}

func check(t *testing.T, handler http.Handler, method, path, query, body string) {
	t.Helper()
	r := httptest.NewRequest(method, "/", strings.NewReader(body))
	r.Host = "127.0.0.1"
	u, err := url.Parse(path)
	if err != nil || u.Path == "" {
		return // net/http would not hand it on
	}
	u.RawQuery = query
	r.URL = u
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	switch {
	case w.Code < 200 || w.Code > 599, w.Code == http.StatusInternalServerError:
		t.Fatalf("%s %s?%s with %q: %d %s", method, path, query, body, w.Code, w.Body)
	case w.Code < 400:
		return
	}
	if kind := w.Header().Get("Content-Type"); kind != "application/json" {
		return // the mux's own: a method that a path does not take
	}
	var o struct {
		Error *struct{ Type, Message string }
	}
	if path == "/readyz" {
		return
	}
	if err := json.NewDecoder(bytes.NewReader(w.Body.Bytes())).Decode(&o); err != nil || o.Error == nil || o.Error.Type == "" || o.Error.Message == "" {
		t.Fatalf("%s %s?%s with %q: %d %s", method, path, query, body, w.Code, w.Body)
	}
}
