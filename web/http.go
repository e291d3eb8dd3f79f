// Package web serves watched streams to people and programs: one page, a few JSON resources and the realtime WebSocket.
// There are only a few types: a Stream is what is watched and asked, a Config says how to serve, and a Server serves.
//
// Everything is private to the machine unless the Config says otherwise: the Host of every request is checked, the Origin of
// every request that a browser's script could make, and the token wherever one is set.
package web

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

//go:embed static
var static embed.FS

// Config says how to serve. The zero value serves loopback listeners without a token.
type Config struct {
	Token          string   // bearer token that every private route then needs; "" is accepted on loopback only
	AllowedHosts   []string // Host names to answer to besides loopback's, without port
	AllowedOrigins []string // origins of other pages that may use the server, as "https://host[:port]"
	Suggestions    []string // questions that the page offers
	Version        Version
	Ready          func() []string // what keeps the server from being ready; nil or none: ready
	Log            *slog.Logger    // nil: discarded

	MaxConnections int           // sockets at once; default 64
	MaxResponses   int           // answers at once on one socket; default 8
	MaxAsking      int           // answers at once on the whole server; default 64
	MaxThumbBytes  int           // thumbnails kept for evidence links; default 32 MiB
	WriteTimeout   time.Duration // how long one message may take to leave; default 5 s
	StatsEvery     time.Duration // between memory.stats events; default 1 s
	AnswerTimeout  time.Duration // longest answer; default 5 min
}

// Version is what /api/version says.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Model   string `json:"model,omitempty"`
	Device  string `json:"device,omitempty"`
}

const (
	maxMessage  = 64 << 10
	maxQuestion = 4 << 10
	stopWithin  = 10 * time.Second
	// Shutdown waits 5 s for a connection that has asked nothing yet, and browsers keep such ones ready. Whoever pressed Ctrl-C
	// does not wait for that, nor for a client that reads slowly.
	stopGrace = time.Second
)

// Server serves streams. It is made by New and used by one Serve.
type Server struct {
	cfg     Config
	log     *slog.Logger
	gate    gate
	streams []*served
	byName  map[string]*served
	thumbs  *thumbs
	assets  map[string]asset
	conns   chan struct{} // a slot a socket
	asking  chan struct{} // a slot an answer
	used    atomic.Bool

	ctx  context.Context // of every socket and poller; done when the server stops
	stop context.CancelCauseFunc

	mu       sync.Mutex
	stopping bool
	wg       sync.WaitGroup // every goroutine that spawn and enter counted
}

var errStopping = errors.New("the server is stopping")

// New checks the configuration and the streams' names. Streams are shown in the order given.
func New(cfg Config, streams []Stream) (*Server, error) {
	if len(streams) == 0 {
		return nil, errors.New("web: there is no stream to serve")
	}
	if strings.ContainsFunc(cfg.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("web: a token has printable ASCII characters only, without spaces: it travels in a header")
	}
	def(&cfg.MaxConnections, 64)
	def(&cfg.MaxResponses, 8)
	def(&cfg.MaxAsking, 64)
	def(&cfg.MaxThumbBytes, 32<<20)
	def(&cfg.WriteTimeout, 5*time.Second)
	def(&cfg.StatsEvery, time.Second)
	def(&cfg.AnswerTimeout, 5*time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, log: cfg.Log.With("component", "web"), gate: newGate(cfg), byName: map[string]*served{}, thumbs: newThumbs(cfg.MaxThumbBytes),
		conns: make(chan struct{}, cfg.MaxConnections), asking: make(chan struct{}, cfg.MaxAsking),
	}
	for i, st := range streams {
		name := st.Name()
		if !streamName.MatchString(name) {
			return nil, fmt.Errorf("web: stream name %q: use letters, digits, - and _, at most 64", name)
		}
		if s.byName[name] != nil {
			return nil, fmt.Errorf("web: two streams are named %q", name)
		}
		sv := &served{Stream: st, live: &live{stream: st, id: uint32(i), start: s.spawn, watchers: map[*outbox]struct{}{}}}
		s.streams, s.byName[name] = append(s.streams, sv), sv
	}
	var err error
	if s.assets, err = loadAssets(); err != nil {
		return nil, err
	}
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	return s, nil
}

func def[T int | time.Duration](v *T, to T) {
	if *v <= 0 {
		*v = to
	}
}

// Serve answers on ln until ctx is done, then ends every socket and answer and waits for them. It closes ln. A listener that other
// machines can reach is refused when no token is set. The error is nil after a clean stop.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	if s.used.Swap(true) {
		return errors.New("web: Serve is called once")
	}
	defer s.stop(errStopping)
	if ln.Addr().Network() != "unix" {
		if err := CheckListen(ln.Addr().String(), s.cfg.Token); err != nil {
			return err
		}
		host, _, _ := net.SplitHostPort(ln.Addr().String())
		s.gate.open = !loopbackName(host)
	}
	h := &http.Server{
		Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(ln) }()
	select {
	case err := <-served:
		return errors.Join(fmt.Errorf("web: serve %s: %w", ln.Addr(), err), s.wait())
	case <-ctx.Done():
	}
	s.stop(errStopping)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	err := h.Shutdown(grace)
	<-served
	if errors.Is(err, context.DeadlineExceeded) {
		err = h.Close()
	}
	if err != nil {
		err = fmt.Errorf("web: stop: %w", err)
	}
	return errors.Join(err, s.wait())
}

// wait refuses new goroutines and waits for those that run.
func (s *Server) wait() error {
	s.stop(errStopping)
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(stopWithin):
		return fmt.Errorf("web: stop: a socket or an answer did not end within %s", stopWithin)
	}
}

// enter counts one goroutine that the stop must wait for; false when the server is stopping.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.wg.Add(1)
	return true
}

// spawn runs fn on a goroutine that the stop waits for; fn ends when its ctx is done.
func (s *Server) spawn(fn func(context.Context)) bool {
	if !s.enter() {
		return false
	}
	go func() {
		defer s.wg.Done()
		fn(s.ctx)
	}()
	return true
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /static/{file}", s.page)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /api/version", s.gate.private(s.version))
	mux.Handle("GET /api/streams", s.gate.private(s.listStreams))
	mux.Handle("GET /api/streams/{name}", s.gate.private(s.oneStream))
	mux.Handle("GET /api/streams/{name}/frame.jpeg", s.gate.private(s.frame))
	mux.Handle("POST /api/streams/{name}/forget", s.gate.private(s.forget))
	mux.Handle("GET /api/evidence/{file}", s.gate.private(s.evidence))
	mux.Handle("GET /v1/realtime", s.gate.private(s.realtime))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusNotFound, "not_found", "there is nothing here")
	})
	return s.gate.guard(mux)
}

// readyz says whether questions can be answered; with ?stream=NAME also whether that stream is live.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	reasons := []string{}
	if s.cfg.Ready != nil {
		reasons = append(reasons, s.cfg.Ready()...)
	}
	if len(s.asking) == cap(s.asking) {
		reasons = append(reasons, "too many questions are being answered")
	}
	if name := r.URL.Query().Get("stream"); name != "" {
		if st := s.byName[name]; st == nil {
			reasons = append(reasons, "there is no such stream")
		} else if state := st.Status().State; state != "live" {
			reasons = append(reasons, "the stream is "+string(state))
		}
	}
	status := http.StatusOK
	if len(reasons) > 0 {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, map[string]any{"ready": len(reasons) == 0, "reasons": reasons})
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		Name string `json:"name"`
		Version
		Go       string `json:"go"`
		Protocol string `json:"protocol"`
	}{"afterimage", s.cfg.Version, runtime.Version(), protocolName})
}

func (s *Server) listStreams(w http.ResponseWriter, _ *http.Request) {
	list := make([]streamInfo, 0, len(s.streams))
	for _, st := range s.streams {
		list = append(list, st.info(st.Status()))
	}
	writeJSON(w, http.StatusOK, map[string]any{"streams": list})
}

// find returns the stream that the path names, or answers 404.
func (s *Server) find(w http.ResponseWriter, name string) *served {
	st := s.byName[name]
	if st == nil {
		writeError(w, http.StatusNotFound, "stream_not_found", "there is no such stream")
	}
	return st
}

func (s *Server) oneStream(w http.ResponseWriter, r *http.Request) {
	if st := s.find(w, r.PathValue("name")); st != nil {
		m := st.memory()
		writeJSON(w, http.StatusOK, struct {
			streamInfo
			Memory memoryInfo `json:"memory"`
		}{st.info(st.Status()), m.Memory})
	}
}

func (s *Server) frame(w http.ResponseWriter, r *http.Request) {
	st := s.find(w, r.PathValue("name"))
	if st == nil {
		return
	}
	p, err := st.live.latest()
	if errors.Is(err, errNoPicture) {
		writeError(w, http.StatusNotFound, "no_picture", "this stream has not shown a picture yet")
		return
	}
	if err != nil {
		s.log.Warn("picture", "stream", st.Name(), "err", err)
		writeError(w, http.StatusInternalServerError, "no_picture", "the picture could not be encoded")
		return
	}
	w.Header().Set("X-Frame-Time", p.wall.Format("2006-01-02T15:04:05.000Z07:00"))
	writeBytes(w, "image/jpeg", p.jpeg())
}

func (s *Server) evidence(w http.ResponseWriter, r *http.Request) {
	id, isJPEG := strings.CutSuffix(r.PathValue("file"), ".jpg")
	jpeg, ok := s.thumbs.get(id)
	if !isJPEG || !ok {
		writeError(w, http.StatusNotFound, "evidence_not_found", "this picture is not kept any more")
		return
	}
	w.Header().Set("Cache-Control", "private, max-age=3600, immutable") // the id is a digest of the picture
	writeBytes(w, "image/jpeg", jpeg)
}

type asset struct {
	body       []byte
	kind, etag string
}

// loadAssets reads the page's files once. Types are spelled out: the machine's own table may lack them, and nosniff is set.
func loadAssets() (map[string]asset, error) {
	kinds := map[string]string{".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
		".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
	assets := map[string]asset{}
	files, err := fs.ReadDir(static, "static")
	if err != nil {
		return nil, fmt.Errorf("web: read the page: %w", err)
	}
	for _, f := range files {
		kind := kinds[path.Ext(f.Name())]
		if kind == "" {
			continue // notices, not parts of the page
		}
		b, err := static.ReadFile("static/" + f.Name())
		if err != nil {
			return nil, fmt.Errorf("web: read the page: %w", err)
		}
		sum := sha256.Sum256(b)
		assets[f.Name()] = asset{b, kind, `"` + hex.EncodeToString(sum[:8]) + `"`}
	}
	return assets, nil
}

func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	if name == "" {
		name = "index.html"
	}
	a, ok := s.assets[name]
	if !ok {
		writeError(w, http.StatusNotFound, "not_found", "there is nothing here")
		return
	}
	w.Header().Set("Cache-Control", "no-cache") // revalidated, so that an upgraded binary is never mixed with an old script
	w.Header().Set("ETag", a.etag)
	if r.Header.Get("If-None-Match") == a.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeBytes(w, a.kind, a.body)
}

// The write errors below are dropped: they mean that the client left, and there is nobody to tell.

func writeBytes(w http.ResponseWriter, kind string, b []byte) {
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(b)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":{"type":"server_error","code":"encoding","message":"the answer could not be written"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	kind := "invalid_request_error"
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		kind = "authentication_error"
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		kind = "rate_limit_error"
	case status >= 500:
		kind = "server_error"
	}
	writeJSON(w, status, map[string]errorBody{"error": {Type: kind, Code: code, Message: message}})
}
