package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// front stands before a server and answers for it what the page is to be tested against whatever the server itself offers: a memory of
// three levels and standing questions. Everything else goes through; events can be put into every open socket.
type front struct {
	base string

	mu      sync.Mutex
	watches []object
	bodies  []object // of POST, PATCH and backtests, in order
	reply   object   // what a back-test finds
	memory  func(stream string) any
	sockets map[*relay]bool
	sent    []object     // what the page sent over sockets
	dialled []string     // paths and queries of sockets, in order
	change  func(object) // changes evidence on its way to the page; nil: nothing
	lack    bool         // standing questions and memory are missing, as on an older server
}

type relay struct {
	mu  sync.Mutex
	out *websocket.Conn
}

func (r *relay) write(kind int, b []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.WriteMessage(kind, b)
}

func newFront(t *testing.T, base string) *front {
	t.Helper()
	back, err := url.Parse(base)
	require.NoError(t, err)
	f := &front{sockets: map[*relay]bool{}, memory: func(string) any { return someMemory(time.Now()) }}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(back); r.Out.Host = r.In.Host }}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/watches", f.or404(func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, 200, object{"watches": append([]object{}, f.watches...)})
	}))
	mux.HandleFunc("POST /api/watches", f.or404(func(w http.ResponseWriter, r *http.Request) {
		spec := f.body(r)
		if strings.Contains(fmt.Sprint(spec["ask"]), "weather") {
			writeError(w, 400, "bad_watch", "ask: the model cannot tell the weather")
			return
		}
		watch := object{"id": fmt.Sprintf("w%d", len(f.watches)+1), "state": "idle", "checked": stamp(time.Now()), "probability": .12, "firings": 0,
			"cost": object{"checks": 5, "check_ms": 4.2}}
		maps.Copy(watch, spec)
		f.watches = append(f.watches, watch)
		writeJSON(w, 201, watch)
	}))
	mux.HandleFunc("GET /api/watches/{id}", f.or404(func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, 200, object{"id": r.PathValue("id"), "events": f.reply["events"]})
	}))
	mux.HandleFunc("POST /api/watches/backtest", f.or404(func(w http.ResponseWriter, r *http.Request) {
		f.body(r)
		line, err := json.Marshal(f.reply)
		if err != nil {
			panic(err) // it is made below
		}
		writeBytes(w, "application/x-ndjson", append([]byte(`{"type":"progress","done":10,"total":412}`+"\n"), line...))
	}))
	mux.HandleFunc("PATCH /api/watches/{id}", f.or404(func(w http.ResponseWriter, r *http.Request) {
		patch := f.body(r)
		for _, watch := range f.watches {
			if watch["id"] == r.PathValue("id") {
				maps.Copy(watch, patch)
			}
		}
		writeJSON(w, 200, object{})
	}))
	mux.HandleFunc("DELETE /api/watches/{id}", f.or404(func(w http.ResponseWriter, r *http.Request) {
		kept := f.watches[:0:0]
		for _, watch := range f.watches {
			if watch["id"] != r.PathValue("id") {
				kept = append(kept, watch)
			}
		}
		f.watches = kept
		w.WriteHeader(http.StatusNoContent)
	}))
	mux.HandleFunc("GET /api/streams/{name}/memory", f.or404(func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, 200, f.memory(r.PathValue("name")))
	}))
	mux.HandleFunc("GET /api/evidence/{file}", func(w http.ResponseWriter, r *http.Request) {
		n := 0
		if _, err := fmt.Sscanf(r.PathValue("file"), "fake-%d.jpg", &n); err != nil {
			proxy.ServeHTTP(w, r)
			return
		}
		writeBytes(w, "image/jpeg", thumbOf(n%25))
	})
	mux.HandleFunc("GET /v1/realtime", func(w http.ResponseWriter, r *http.Request) { f.relay(w, r, back.Host) })
	mux.Handle("/", proxy)
	s := httptest.NewServer(mux)
	f.base = s.URL
	t.Cleanup(func() {
		f.drop()
		s.CloseClientConnections()
		s.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return f
}

func (f *front) or404(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.lack {
			writeError(w, http.StatusNotFound, "not_found", "there is nothing here")
			return
		}
		h(w, r)
	}
}

// body reads and keeps a request's object. The caller holds mu.
func (f *front) body(r *http.Request) object {
	var o object
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		o = object{"error": err.Error()}
	}
	f.bodies = append(f.bodies, o)
	return o
}

func (f *front) relay(w http.ResponseWriter, r *http.Request, host string) {
	in, resp, err := (&websocket.Dialer{Subprotocols: websocket.Subprotocols(r)}).Dial("ws://"+host+r.URL.RequestURI(), nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	resp.Body.Close()
	defer in.Close()
	out, err := (&websocket.Upgrader{Subprotocols: []string{in.Subprotocol()}, CheckOrigin: func(*http.Request) bool { return true }}).Upgrade(w, r, nil)
	if err != nil {
		return // it has answered
	}
	defer out.Close()
	to := &relay{out: out}
	f.mu.Lock()
	f.sockets[to] = true
	f.dialled = append(f.dialled, r.URL.RequestURI())
	f.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer in.Close()
		for {
			kind, b, err := out.ReadMessage()
			if err != nil {
				return
			}
			var o object
			if json.Unmarshal(b, &o) == nil {
				f.mu.Lock()
				f.sent = append(f.sent, o)
				f.mu.Unlock()
			}
			if in.WriteMessage(kind, b) != nil {
				return
			}
		}
	}()
	for {
		kind, b, err := in.ReadMessage()
		if err == nil {
			b = f.changed(b)
		}
		if err != nil || to.write(kind, b) != nil {
			break
		}
	}
	out.Close()
	<-done
	f.mu.Lock()
	delete(f.sockets, to)
	f.mu.Unlock()
}

func (f *front) changed(b []byte) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ev object
	if f.change == nil || !bytes.Contains(b, []byte(`"response.evidence"`)) || json.Unmarshal(b, &ev) != nil {
		return b
	}
	f.change(ev)
	b, err := json.Marshal(ev)
	if err != nil {
		panic(err) // it was JSON
	}
	return b
}

// tell puts an event into every open socket.
func (f *front) tell(t *testing.T, ev object) {
	t.Helper()
	b, err := json.Marshal(ev)
	require.NoError(t, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	require.NotEmpty(t, f.sockets)
	for s := range f.sockets {
		require.NoError(t, s.write(websocket.TextMessage, b))
	}
}

// drop cuts every socket without a word.
func (f *front) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.sockets {
		_ = s.out.Close() // it may be closed already
	}
}

// posted is the body of the nth request with one.
func (f *front) posted(n int) object {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n >= len(f.bodies) {
		return nil
	}
	return f.bodies[n]
}

// lastSent is the newest message of a type that the page sent.
func (f *front) lastSent(kind string) object {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.sent) - 1; i >= 0; i-- {
		if f.sent[i]["type"] == kind {
			return f.sent[i]
		}
	}
	return nil
}

// someMemory is a memory of four hours: spans that double in length with age, moments, and the newest frame.
func someMemory(now time.Time) object {
	id := 0
	entry := func(role string, from, to, at time.Time, weight int) object {
		id++
		return object{"slot": fmt.Sprint(id), "role": role, "from": stamp(from), "to": stamp(to), "at": stamp(at), "weight": weight, "tokens": 16,
			"thumb": fmt.Sprintf("/api/evidence/fake-%d.jpg", id)}
	}
	var fine, coarse []object
	for from := now.Add(-4 * time.Hour); from.Before(now); {
		to := from.Add(max(20*time.Second, now.Sub(from)/12))
		if to.After(now) {
			to = now
		}
		coarse = append(coarse, entry("synopsis", from, to, from.Add(to.Sub(from)/2), int(to.Sub(from).Seconds())))
		from = to
	}
	for i := range 14 {
		at := now.Add(-time.Duration(i*i) * 70 * time.Second)
		fine = append(fine, entry("detail", at, at.Add(time.Second), at, 1))
	}
	fine = append(fine, entry("newest", now, now, now, 1))
	return object{"stream": "street", "strategy": "flash", "version": 7, "as_of": stamp(now),
		"levels": []object{{"level": 0, "tokens": 16 * len(fine), "entries": fine}, {"level": 1, "tokens": 16 * len(coarse), "entries": coarse}}}
}

// someFirings is what a back-test of the last four hours finds.
func someFirings(now time.Time) object {
	at := func(minutes int) stamp { return stamp(now.Add(-time.Duration(minutes) * time.Minute)) }
	var events, samples []object
	for i := 240; i > 0; i-- {
		if i < 95 && i > 80 {
			continue // nobody was watching
		}
		p := .06 + .9*math.Exp(-math.Pow(math.Mod(float64(i), 80)-40, 2)/40)
		samples = append(samples, object{"at": at(i), "probability": p})
		if i%80 == 42 {
			events = append(events, object{"id": fmt.Sprintf("e%d", i), "kind": "fired", "at": at(i), "probability": p, "thumb": fmt.Sprintf("/api/evidence/fake-%d.jpg", i/20)},
				object{"id": fmt.Sprintf("c%d", i), "kind": "cleared", "at": at(i - 6), "probability": .2})
		}
	}
	return object{"type": "result", "from": at(240), "to": at(0), "checks": 412, "coarse": 37, "firings": 3, "threshold": .8, "events": events, "samples": samples,
		"gaps": []object{{"from": at(95), "to": at(80)}}}
}
