package web

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"afterimage/ingest"
	"afterimage/qa"
)

// Standing questions over HTTP and over the socket. What a question asks is a qa.WatchSpec's JSON; a webhook is shown without its path and query,
// which often are its secret, and is kept when it comes back like that.

const (
	maxWatch     = 16 << 10         // bytes of a request
	pollBacktest = 2 * time.Second  // between two lines of progress
	mostBacktest = 30 * time.Minute // that one may take
	pictures     = 64               // of a back-test's events that come with a thumbnail
)

type watchInfo struct {
	ID string `json:"id"`
	qa.WatchSpec
	Fixed       bool        `json:"fixed"` // of the configuration file
	Created     stamp       `json:"created"`
	State       string      `json:"state"`
	Since       stamp       `json:"since"`
	Checked     stamp       `json:"checked"` // the picture that was checked last
	Probability *float64    `json:"probability"`
	Choice      string      `json:"choice,omitempty"`
	Firings     uint64      `json:"firings"`
	LastFired   stamp       `json:"last_fired"`
	Error       string      `json:"error,omitempty"`
	Cost        watchCost   `json:"cost"`
	Events      []watchTold `json:"events,omitempty"` // the newest, oldest first; only of one question
}

// MarshalJSON joins the question and how it stands in one object.
func (w watchInfo) MarshalJSON() ([]byte, error) {
	spec := w.WatchSpec
	spec.Webhook = qa.Redacted(spec.Webhook)
	a, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	type state struct { // the same without the spec
		ID          string      `json:"id,omitempty"`
		Fixed       bool        `json:"fixed"`
		Created     stamp       `json:"created"`
		State       string      `json:"state"`
		Since       stamp       `json:"since"`
		Checked     stamp       `json:"checked"`
		Probability *float64    `json:"probability"`
		Choice      string      `json:"choice,omitempty"`
		Firings     uint64      `json:"firings"`
		LastFired   stamp       `json:"last_fired"`
		Error       string      `json:"error,omitempty"`
		Cost        watchCost   `json:"cost"`
		Events      []watchTold `json:"events,omitempty"`
	}
	b, err := json.Marshal(state{w.ID, w.Fixed, w.Created, w.State, w.Since, w.Checked, w.Probability, w.Choice, w.Firings, w.LastFired, w.Error, w.Cost, w.Events})
	if err != nil {
		return nil, err
	}
	b[0] = ','
	return append(a[:len(a)-1], b...), nil
}

type watchCost struct {
	Checks       uint64  `json:"checks"`
	Unchanged    uint64  `json:"unchanged"`
	Late         uint64  `json:"late"`
	Failed       uint64  `json:"failed"`
	CheckMS      float64 `json:"check_ms"` // of all checks of a round, divided among them
	PromptTokens uint64  `json:"prompt_tokens"`
	CachedTokens uint64  `json:"cached_tokens"`
}

// watchTold is an event of a standing question.
type watchTold struct {
	ID          string  `json:"id,omitempty"`
	Kind        string  `json:"kind"` // fired, cleared, error
	At          stamp   `json:"at"`   // of the picture
	Told        stamp   `json:"told"`
	DelayMS     *int64  `json:"delay_ms,omitempty"` // from the picture to when it was told
	Probability float64 `json:"probability"`
	Choice      string  `json:"choice,omitempty"`
	Error       string  `json:"error,omitempty"`
	Thumb       string  `json:"thumb,omitempty"`
}

type (
	watchEvent struct { // watch.fired, watch.cleared, watch.error
		header
		Stream string    `json:"stream"`
		Watch  watchInfo `json:"watch"`
		Event  watchTold `json:"event"`
	}
	watchChanged struct { // watch.created, watch.updated, watch.deleted
		header
		Watch *watchInfo `json:"watch,omitempty"`
		ID    string     `json:"id,omitempty"`
	}
	clientWatch struct {
		Type    string          `json:"type"`
		EventID string          `json:"event_id"`
		ID      string          `json:"id"`    // of watch.update and watch.delete
		Watch   json.RawMessage `json:"watch"` // of watch.create and watch.update
	}
)

func costInfo(c qa.WatchCost) watchCost {
	return watchCost{c.Checks, c.Unchanged, c.Late, c.Failed, float64(c.PerCheck().Microseconds()) / 1000, c.PromptTokens, c.CachedTokens}
}

func (s *Server) watchInfo(w qa.WatchInfo) watchInfo {
	info := watchInfo{ID: w.ID, WatchSpec: w.Spec, Fixed: w.Fixed, Created: stamp(w.Created), State: string(w.State), Since: stamp(w.Since), Checked: stamp(w.Checked),
		Choice: w.Choice, Firings: w.Firings, LastFired: stamp(w.LastFired), Error: w.Error, Cost: costInfo(w.Cost)}
	if w.Choice != "" { // it was checked since the program began
		info.Probability = &w.Probability
	}
	return info
}

func (s *Server) watchTold(e qa.WatchEvent) watchTold {
	t := watchTold{ID: e.ID, Kind: string(e.Kind), At: stamp(e.At), Told: stamp(e.Told), Probability: e.Probability, Choice: e.Choice, Error: e.Error}
	if !e.Told.IsZero() && e.Kind != qa.Failed {
		ms := max(0, e.Told.Sub(e.At).Milliseconds())
		t.DelayMS = &ms
	}
	if items := e.Evidence.Items; len(items) > 0 {
		if id := s.thumbs.put(e.Watch.Spec.Stream, items[len(items)-1].Thumb); id != "" {
			t.Thumb = "/api/evidence/" + id + ".jpg"
		}
	}
	return t
}

// watchEvents are a stream's events while a socket is open; nil where there are no standing questions.
func (s *Server) watchEvents(stream string) (<-chan qa.WatchEvent, func()) {
	if s.cfg.Watches == nil {
		return nil, func() {}
	}
	return s.cfg.Watches.Subscribe(stream)
}

func (s *Server) watchEvent(e qa.WatchEvent) event {
	return &watchEvent{header{Type: "watch." + string(e.Kind)}, e.Watch.Spec.Stream, s.watchInfo(e.Watch), s.watchTold(e)}
}

// refusal is how an error of qa.Standing is answered.
func refusal(err error) (status int, body errorBody) {
	body = errorBody{Type: "invalid_request_error", Message: err.Error()}
	var we *qa.WatchError
	var d *denied
	switch {
	case errors.As(err, &we):
		body.Code, body.Message, status = "invalid_value", we.Why, http.StatusBadRequest
		if body.Param = we.Field; strings.HasPrefix(we.Why, "there is no such field") {
			body.Code = "unknown_parameter"
		}
	case errors.As(err, &d):
		return d.status, errorBody{Type: errorType(d.status), Code: d.code, Message: d.message}
	case errors.Is(err, qa.ErrNoWatch):
		body.Code, status = "watch_not_found", http.StatusNotFound
	case errors.Is(err, qa.ErrNoStream):
		body.Code, status = "stream_not_found", http.StatusNotFound
	case errors.Is(err, qa.ErrFixedWatch):
		body.Code, status = "watch_fixed", http.StatusConflict
	case errors.Is(err, qa.ErrTaken):
		body.Code, status = "watch_exists", http.StatusConflict
	case errors.Is(err, qa.ErrTooMany):
		body.Code, status = "too_many_watches", http.StatusConflict
	case errors.Is(err, qa.ErrBacktest):
		body.Code, status = "no_backtest", http.StatusBadRequest
	case errors.Is(err, qa.ErrBacktestBusy):
		body.Type, body.Code, status = "rate_limit_error", "backtest_running", http.StatusTooManyRequests
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		body.Type, body.Code, status = "server_error", "backtest_ended", http.StatusServiceUnavailable
	default:
		body.Type, body.Code, status = "server_error", "internal", http.StatusInternalServerError
	}
	return status, body
}

func (s *Server) refuse(w http.ResponseWriter, err error) {
	status, body := refusal(err)
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "10")
	}
	if status == http.StatusInternalServerError {
		s.log.Error("standing questions", "err", err)
	}
	writeJSON(w, status, map[string]errorBody{"error": body})
}

// standing returns the standing questions, or answers that there are none.
func (s *Server) standing(w http.ResponseWriter) *qa.Standing {
	if s.cfg.Watches == nil {
		writeError(w, http.StatusNotImplemented, "watches_not_supported", "this server keeps no standing questions")
	}
	return s.cfg.Watches
}

// watchBody reads a request's JSON object; an empty body is an empty object.
func watchBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxWatch))
	if err != nil {
		return nil, &qa.WatchError{Why: "the body could not be read, or is too long"}
	}
	if len(raw) == 0 {
		return []byte("{}"), nil
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, &denied{status: http.StatusUnsupportedMediaType, code: "unsupported_media_type", message: "the body is JSON: Content-Type: application/json"}
	}
	if _, _, err := checkJSON(raw); err != nil {
		var ce *clientError
		errors.As(err, &ce)
		return nil, &qa.WatchError{Field: ce.param, Why: ce.message}
	}
	return raw, nil
}

// find returns a standing question whose stream the caller may see, with a role.
func (s *Server) findWatch(c *caller, standing *qa.Standing, id string, need Role) (qa.WatchInfo, error) {
	info, err := standing.Get(id)
	if err != nil {
		return info, err
	}
	if err := s.authorize(c, info.Spec.Stream, need); err != nil {
		if s.authorize(c, info.Spec.Stream, RoleRead) != nil {
			err = qa.ErrNoWatch // nobody learns by its ID that there is one
		}
		return qa.WatchInfo{}, err
	}
	return info, nil
}

func (s *Server) listWatches(w http.ResponseWriter, r *http.Request) {
	standing := s.standing(w)
	if standing == nil {
		return
	}
	list := []watchInfo{}
	for _, info := range standing.List() {
		if stream := r.URL.Query().Get("stream"); stream != "" && stream != info.Spec.Stream {
			continue
		}
		if s.authorize(callerOf(r), info.Spec.Stream, RoleRead) == nil {
			list = append(list, s.watchInfo(info))
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"watches": list})
}

func (s *Server) oneWatch(w http.ResponseWriter, r *http.Request) {
	standing := s.standing(w)
	if standing == nil {
		return
	}
	info, err := s.findWatch(callerOf(r), standing, r.PathValue("id"), RoleRead)
	if err != nil {
		s.refuse(w, err)
		return
	}
	shown := s.watchInfo(info)
	for _, e := range standing.Events(info.ID) {
		shown.Events = append(shown.Events, s.watchTold(e))
	}
	writeJSON(w, http.StatusOK, shown)
}

// addWatch and changeWatch are what HTTP and the socket share.
func (s *Server) addWatch(ctx context.Context, c *caller, raw []byte) (qa.WatchInfo, error) {
	var spec qa.WatchSpec
	if err := spec.UnmarshalJSON(raw); err != nil {
		return qa.WatchInfo{}, err
	}
	if err := s.authorize(c, spec.Stream, RoleAdmin); err != nil {
		return qa.WatchInfo{}, err
	}
	return s.cfg.Watches.Create(ctx, spec)
}

func (s *Server) changeWatch(ctx context.Context, c *caller, id string, raw []byte) (qa.WatchInfo, error) {
	info, err := s.findWatch(c, s.cfg.Watches, id, RoleAdmin)
	if err != nil {
		return info, err
	}
	spec := info.Spec
	if err := spec.UnmarshalJSON(raw); err != nil {
		return info, err
	}
	if err := s.authorize(c, spec.Stream, RoleAdmin); err != nil {
		return info, err
	}
	if spec.Webhook == qa.Redacted(info.Spec.Webhook) {
		spec.Webhook = info.Spec.Webhook
	}
	return s.cfg.Watches.Update(ctx, id, spec)
}

func (s *Server) createWatch(w http.ResponseWriter, r *http.Request) {
	if s.standing(w) == nil {
		return
	}
	raw, err := watchBody(w, r)
	if err == nil {
		var info qa.WatchInfo
		if info, err = s.addWatch(r.Context(), callerOf(r), raw); err == nil {
			w.Header().Set("Location", "/api/watches/"+info.ID)
			writeJSON(w, http.StatusCreated, s.watchInfo(info))
			return
		}
	}
	s.refuse(w, err)
}

func (s *Server) updateWatch(w http.ResponseWriter, r *http.Request) {
	if s.standing(w) == nil {
		return
	}
	raw, err := watchBody(w, r)
	if err == nil {
		var info qa.WatchInfo
		if info, err = s.changeWatch(r.Context(), callerOf(r), r.PathValue("id"), raw); err == nil {
			writeJSON(w, http.StatusOK, s.watchInfo(info))
			return
		}
	}
	s.refuse(w, err)
}

func (s *Server) deleteWatch(w http.ResponseWriter, r *http.Request) {
	standing := s.standing(w)
	if standing == nil {
		return
	}
	info, err := s.findWatch(callerOf(r), standing, r.PathValue("id"), RoleAdmin)
	if err == nil {
		err = standing.Delete(r.Context(), info.ID)
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"id": info.ID, "deleted": true})
}

type backtestInfo struct {
	Type      string       `json:"type"` // "result"
	From      stamp        `json:"from"`
	To        stamp        `json:"to"`
	WatchedS  float64      `json:"watched_s"`
	Gaps      []qa.SpanDoc `json:"gaps"`
	Checks    int          `json:"checks"`
	Coarse    int          `json:"coarse"`   // checks of pictures that memory has only as an average
	SparseS   float64      `json:"sparse_s"` // the largest distance of two checks while somebody was watching
	Firings   int          `json:"firings"`
	State     string       `json:"state"` // at the end
	Events    []watchTold  `json:"events"`
	Samples   []sampleInfo `json:"samples"`
	Cost      watchCost    `json:"cost"`
	Threshold float64      `json:"threshold"`
	Sentence  string       `json:"sentence"`
}

type sampleInfo struct {
	At          stamp   `json:"at"`
	Probability float64 `json:"probability"`
}

func (s *Server) backtestInfo(b qa.Backtest) backtestInfo {
	info := backtestInfo{Type: "result", From: stamp(b.From), To: stamp(b.To), WatchedS: b.Watched.Seconds(), Gaps: spansOf(b.Gaps), Checks: b.Checks, Coarse: b.Coarse,
		SparseS: b.Sparse.Seconds(), Firings: b.Firings, State: string(b.Last), Events: []watchTold{}, Samples: []sampleInfo{}, Cost: costInfo(b.Cost),
		Threshold: b.Spec.Threshold, Sentence: b.Sentence()}
	for i, e := range b.Events {
		if i >= pictures {
			e.Evidence.Items = nil
		}
		info.Events = append(info.Events, s.watchTold(e))
	}
	for _, x := range b.Samples {
		info.Samples = append(info.Samples, sampleInfo{stamp(x.At), x.Probability})
	}
	return info
}

func spansOf(spans []ingest.Span) []qa.SpanDoc {
	list := make([]qa.SpanDoc, len(spans))
	for i, sp := range spans {
		list[i] = qa.SpanDoc{From: stamp(sp.From), To: stamp(sp.To)}
	}
	return list
}

// backtestWatch answers POST /api/watches/backtest, of a question in the body, and POST /api/watches/{id}/backtest, of one that stands and what the
// body changes; both bodies may have from and to. With Accept: application/x-ndjson a line of progress comes every two seconds, and then the
// result; else the result alone. Who closes the connection ends it.
func (s *Server) backtestWatch(w http.ResponseWriter, r *http.Request) {
	standing := s.standing(w)
	if standing == nil {
		return
	}
	spec, from, to, err := s.backtestOf(w, r, standing)
	if err != nil {
		s.refuse(w, err)
		return
	}
	control := http.NewResponseController(w)
	extend := func() { _ = control.SetWriteDeadline(time.Now().Add(time.Minute)) } // what is not supported stays as it is
	ctx, cancel := context.WithTimeout(r.Context(), mostBacktest)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	lines := strings.Contains(r.Header.Get("Accept"), "application/x-ndjson")
	type outcome struct {
		b   qa.Backtest
		err error
	}
	ended, steps := make(chan outcome, 1), make(chan [2]int, 1)
	if !s.enter() {
		s.refuse(w, context.Canceled)
		return
	}
	go func() {
		defer s.wg.Done()
		b, err := standing.Backtest(ctx, spec, from, to, func(done, total int) {
			select {
			case <-steps:
			default:
			}
			steps <- [2]int{done, total}
		})
		ended <- outcome{b, err}
	}()
	said := false
	line := func(v any) {
		if !said {
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.Header().Set("X-Accel-Buffering", "no")
			said = true
		}
		raw, err := json.Marshal(v)
		if err != nil {
			raw = []byte(`{"type":"error"}`)
		}
		extend()
		if _, err := w.Write(append(raw, '\n')); err != nil || control.Flush() != nil {
			cancel()
		}
	}
	tick := time.NewTicker(pollBacktest)
	defer tick.Stop()
	var at [2]int
	for {
		select {
		case at = <-steps:
		case <-tick.C:
			extend()
			if lines {
				line(map[string]any{"type": "progress", "done": at[0], "total": at[1]})
			}
		case o := <-ended:
			extend()
			switch {
			case o.err != nil && said:
				_, body := refusal(o.err)
				line(map[string]any{"type": "error", "error": body})
			case o.err != nil:
				s.refuse(w, o.err)
			case lines:
				line(s.backtestInfo(o.b))
			default:
				writeJSON(w, http.StatusOK, s.backtestInfo(o.b))
			}
			return
		}
	}
}

// backtestOf reads what a back-test is asked of.
func (s *Server) backtestOf(w http.ResponseWriter, r *http.Request, standing *qa.Standing) (spec qa.WatchSpec, from, to time.Time, err error) {
	c := callerOf(r)
	if id := r.PathValue("id"); id != "" {
		info, err := s.findWatch(c, standing, id, RoleAsk)
		if err != nil {
			return spec, from, to, err
		}
		spec = info.Spec
	}
	raw, err := watchBody(w, r)
	if err != nil {
		return spec, from, to, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return spec, from, to, &qa.WatchError{Why: err.Error()}
	}
	for name, into := range map[string]*time.Time{"from": &from, "to": &to} {
		if v, ok := fields[name]; ok {
			if err := json.Unmarshal(v, into); err != nil {
				return spec, from, to, &qa.WatchError{Field: name, Why: "want a time as in RFC 3339"}
			}
			delete(fields, name)
		}
	}
	if raw, err = json.Marshal(fields); err != nil {
		return spec, from, to, err
	}
	if err := spec.UnmarshalJSON(raw); err != nil {
		return spec, from, to, err
	}
	return spec, from, to, s.authorize(c, spec.Stream, RoleAsk)
}

// watchMessage acts on watch.create, watch.update and watch.delete.
func (c *session) watchMessage(kind string, raw []byte) error {
	if c.srv.cfg.Watches == nil {
		return &clientError{"watches_not_supported", "this server keeps no standing questions", ""}
	}
	var m clientWatch
	if err := decode(raw, &m); err != nil {
		return err
	}
	if len(m.Watch) == 0 {
		m.Watch = json.RawMessage("{}")
	}
	var info qa.WatchInfo
	var err error
	ctx := c.ctx
	switch kind {
	case "watch.create":
		info, err = c.srv.addWatch(ctx, c.caller, m.Watch)
	case "watch.update":
		info, err = c.srv.changeWatch(ctx, c.caller, m.ID, m.Watch)
	default:
		if info, err = c.srv.findWatch(c.caller, c.srv.cfg.Watches, m.ID, RoleAdmin); err == nil {
			err = c.srv.cfg.Watches.Delete(ctx, m.ID)
		}
	}
	if err != nil {
		_, body := refusal(err)
		if body.Code == "internal" {
			return err
		}
		param := body.Param
		if param != "" {
			param = "watch." + param
		}
		return &clientError{body.Code, body.Message, param}
	}
	if kind == "watch.delete" {
		c.put(&watchChanged{header: header{Type: "watch.deleted"}, ID: m.ID})
		return nil
	}
	shown := c.srv.watchInfo(info)
	c.put(&watchChanged{header: header{Type: kind + "d"}, Watch: &shown})
	return nil
}
