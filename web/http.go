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

	"afterimage/qa"
	"golang.org/x/sync/singleflight"
)

//go:embed static
var static embed.FS

// Config says how to serve. The zero value serves loopback listeners without a token.
type Config struct {
	Token          string         // a bearer token for everything; without it and Tokens, only loopback listeners are served
	Tokens         func() []Token // more tokens, as they are at each call, which must be quick; nil: none
	TLS            bool           // the listener speaks TLS: pages of http are then other sites
	AllowedHosts   []string       // Host names to answer to besides loopback's, without port
	AllowedOrigins []string       // origins of other pages that may use the server, as "https://host[:port]"
	Suggestions    []string       // questions that the page offers
	Version        Version
	Ready          func() []string // what keeps the server from being ready; nil or none: ready
	Log            *slog.Logger    // nil: discarded
	Metrics        *Metrics        // nil: the server's own
	Engines        func() []Engine // the language models' counters; nil: /metrics has none
	Watches        *qa.Standing    // standing questions; nil: none

	Schema []byte // the configuration file's JSON schema, served at /schema.json; nil: none

	MaxConnections int           // sockets at once; default 64
	MaxResponses   int           // answers at once on one socket; default 8
	MaxAsking      int           // answers at once on the whole server; default 64
	Clips          ClipMaker     // makes the clips that evidence links to; nil: there are none
	MaxThumbBytes  int           // thumbnails and clips kept for evidence links; default 32 MiB
	WriteTimeout   time.Duration // how long one message may take to leave; default 5 s
	StatsEvery     time.Duration // between memory.stats events; default 1 s
	AnswerTimeout  time.Duration // longest answer; default 5 min
	FailureDelay   time.Duration // a wrong token is answered after up to this; default 2 s, negative: at once

	RequestRate  Rate // of HTTP requests and WebSocket messages, of each token; default 200 a second, 1000 at once
	QuestionRate Rate // of questions, of each token; default 20 a second, 256 at once
	MaxSockets   int  // sockets at once, of each token; default MaxConnections

	resumeWithin time.Duration // tests shorten it
}

// Version is what /api/version says.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Model   string `json:"model,omitempty"`
	Device  string `json:"device,omitempty"`
}

// DefaultConnections and DefaultAsking are what zero fields of a Config mean.
const (
	DefaultConnections = 64
	DefaultAsking      = 64
)

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
	cfg         Config
	log         *slog.Logger
	gate        gate
	guarded     atomic.Bool // a token is needed from now on
	budgets     budgets
	failing     chan struct{} // a slot a wrong token that is being delayed
	table       atomic.Pointer[table]
	metrics     *Metrics
	scraper     http.Handler
	description []byte // openapi.yaml, as JSON
	thumbs      *thumbs
	films       chan struct{}      // a slot a clip that is being made
	filming     singleflight.Group // by the clip's id
	assets      map[string]asset
	conns       chan struct{} // a slot a socket
	asking      chan struct{} // a slot an answer
	used        atomic.Bool
	started     time.Time

	ctx  context.Context // of every socket and poller; done when the server stops
	stop context.CancelCauseFunc

	pace pace // of answers

	takingMu sync.Mutex
	taking   map[string]*session // that may be taken up again, by handle
	parked   int                 // of them, those without a connection

	changing sync.Mutex // over SetStreams
	pictured uint32     // ids given to streams' pictures so far

	mu       sync.Mutex
	stopping bool
	sessions map[*session]time.Time // open ones, and since when
	wg       sync.WaitGroup         // every goroutine that spawn and enter counted
}

var errStopping = errors.New("the server is stopping")

// New checks the configuration and the streams' names. Streams are shown in the order given.
func New(cfg Config, streams []Stream) (*Server, error) {
	if strings.ContainsFunc(cfg.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("web: a token has printable ASCII characters only, without spaces: it travels in a header")
	}
	def(&cfg.MaxConnections, DefaultConnections)
	def(&cfg.MaxResponses, 8)
	def(&cfg.MaxAsking, DefaultAsking)
	def(&cfg.MaxThumbBytes, 32<<20)
	def(&cfg.WriteTimeout, 5*time.Second)
	def(&cfg.StatsEvery, time.Second)
	def(&cfg.AnswerTimeout, 5*time.Minute)
	def(&cfg.resumeWithin, resumeWithin)
	def(&cfg.MaxSockets, cfg.MaxConnections)
	if cfg.FailureDelay == 0 {
		cfg.FailureDelay = 2 * time.Second
	}
	if cfg.RequestRate == (Rate{}) {
		cfg.RequestRate = Rate{200, 1000}
	}
	if cfg.QuestionRate == (Rate{}) {
		cfg.QuestionRate = Rate{20, 256}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, log: cfg.Log.With("component", "web"), gate: newGate(cfg), thumbs: newThumbs(cfg.MaxThumbBytes), films: make(chan struct{}, clipsAtOnce),
		conns: make(chan struct{}, cfg.MaxConnections), asking: make(chan struct{}, cfg.MaxAsking), failing: make(chan struct{}, 64),
		budgets: budgets{requests: cfg.RequestRate, questions: cfg.QuestionRate, sockets: cfg.MaxSockets, byHash: map[[sha256.Size]byte]*budget{}},
	}
	s.started = time.Now()
	s.sessions, s.taking = map[*session]time.Time{}, map[string]*session{}
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	s.table.Store(&table{})
	if s.metrics = cfg.Metrics; s.metrics == nil {
		s.metrics = NewMetrics()
	}
	s.scraper = s.newScraper()
	if err := s.SetStreams(streams); err != nil {
		return nil, err
	}
	var err error
	if s.assets, err = loadAssets(); err != nil {
		return nil, err
	}
	if s.description, err = openapiJSON(); err != nil {
		return nil, err
	}
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
		_, guarded := s.tokens()
		if err := CheckListen(ln.Addr().String(), guarded); err != nil {
			return err
		}
		host, _, _ := net.SplitHostPort(ln.Addr().String())
		s.gate.open = !loopbackName(host)
	}
	h := &http.Server{
		Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	if s.cfg.Watches != nil {
		s.spawn(s.followWatches)
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

// route is one thing that the server answers to.
type route struct {
	pattern string // as http.ServeMux has it
	need    Role   // 0: anyone who passes the Host check
	handler http.HandlerFunc
}

// table of all routes but the page's; each is described in openapi.yaml.
func (s *Server) api() []route {
	return []route{
		{"GET /livez", 0, s.livez},
		{"GET /readyz", 0, s.readyz},
		{"GET /openapi.json", 0, s.openapi},
		{"GET /schema.json", 0, s.schema},
		{"GET /metrics", RoleRead, s.scrape},
		{"GET /api/version", RoleRead, s.version},
		{"GET /api/streams", RoleRead, s.listStreams},
		{"GET /api/streams/{name}", RoleRead, s.oneStream},
		{"GET /api/streams/{name}/frame.jpeg", RoleRead, s.frame},
		{"GET /api/streams/{name}/memory", RoleRead, s.memoryEntries},
		{"GET /api/streams/{name}/memory/snapshots", RoleAdmin, s.listSnapshots},
		{"POST /api/streams/{name}/memory/snapshots", RoleAdmin, s.takeSnapshot},
		{"GET /api/streams/{name}/memory/snapshots/{file}", RoleAdmin, s.snapshotFile},
		{"DELETE /api/streams/{name}/memory/snapshots/{file}", RoleAdmin, s.dropSnapshot},
		{"POST /api/streams/{name}/forget", RoleAdmin, s.forget},
		{"GET /api/evidence/{file}", RoleRead, s.evidence},
		{"GET /api/sessions", RoleAdmin, s.listSessions},
		{"GET /api/watches", RoleRead, s.listWatches},
		{"POST /api/watches", RoleAdmin, s.createWatch},
		{"GET /api/watches/{id}", RoleRead, s.oneWatch},
		{"PATCH /api/watches/{id}", RoleAdmin, s.updateWatch},
		{"DELETE /api/watches/{id}", RoleAdmin, s.deleteWatch},
		{"POST /api/watches/backtest", RoleAsk, s.backtestWatch},
		{"POST /api/watches/{id}/backtest", RoleAsk, s.backtestWatch},
		{"GET /v1/models", RoleRead, s.models},
		{"GET /v1/models/{model}", RoleRead, s.oneModel},
		{"POST /v1/chat/completions", RoleAsk, s.completions},
		{"GET /v1/realtime", RoleRead, s.realtime},
	}
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /static/{file}", s.page)
	for _, r := range s.api() {
		if r.need == 0 {
			mux.Handle(r.pattern, r.handler)
		} else {
			mux.Handle(r.pattern, s.private(r.need, r.handler))
		}
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusNotFound, "not_found", "there is nothing here")
	})
	return s.gate.guard(mux)
}

func (s *Server) livez(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
}

// readyz says whether questions can be answered; with ?stream=NAME, and a token that may see it, also whether that stream is live.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	reasons := []string{}
	if s.cfg.Ready != nil {
		reasons = append(reasons, s.cfg.Ready()...)
	}
	if len(s.asking) == cap(s.asking) {
		reasons = append(reasons, "too many questions are being answered")
	}
	if name := r.URL.Query().Get("stream"); name != "" {
		who, err := s.identify(r) // whether there is such a stream is not everybody's to know
		if err == nil {
			err = s.authorize(who, name, RoleRead)
		}
		if st := s.stream(name); st == nil || err != nil {
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

func (s *Server) listStreams(w http.ResponseWriter, r *http.Request) {
	list := []streamInfo{}
	for _, st := range s.visible(callerOf(r), RoleRead) {
		list = append(list, st.info(st.Status()))
	}
	writeJSON(w, http.StatusOK, map[string]any{"streams": list})
}

// find returns the stream that the path names, or answers 404.
func (s *Server) find(w http.ResponseWriter, name string) *served {
	st := s.stream(name)
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
	writeJSON(w, status, map[string]errorBody{"error": {Type: errorType(status), Code: code, Message: message}})
}
