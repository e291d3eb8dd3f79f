package web

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"afterimage/ingest"
	"afterimage/llm"
	"afterimage/qa"
)

// Measured is a Stream that counts more than its Status tells.
type Measured interface {
	Progress() qa.Progress         // of its Watch
	Reconnects() map[string]uint64 // by reason
	Evicted() uint64               // entries that its memory let go of
}

// Engine is what /metrics says of one language model at one moment.
type Engine struct {
	Model    string
	Counters llm.Counters
}

// Metrics is what a Prometheus server reads from /metrics. Labels are streams, models, strategies, watches and a few fixed words: never an
// address, a peer or a session, of which there would be ever more. Histograms that others fill come from Stream.
type Metrics struct {
	registry *prometheus.Registry

	decode, encode, batch, update, behind              *prometheus.HistogramVec // by stream
	firstToken, interToken, endToEnd, queue            *prometheus.HistogramVec
	requests, promptTokens, generatedTokens, visTokens *prometheus.CounterVec
	watchDelay                                         *prometheus.HistogramVec
	deliveryFailures                                   *prometheus.CounterVec
}

const namespace = "afterimage"

// Buckets, in seconds: of work that takes milliseconds, and of waits that take up to minutes.
var (
	workBuckets = prometheus.ExponentialBuckets(0.0005, 2, 15) // to 8 s
	waitBuckets = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300}
)

// NewMetrics returns metrics that nothing was counted on yet.
func NewMetrics() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(h)
		return h
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	m.decode = histogram("decode_seconds", "Decoding and converting, for each frame that was sampled.", workBuckets, "stream")
	m.encode = histogram("encode_seconds", "One call of the vision encoder.", workBuckets, "stream")
	m.batch = histogram("encode_batch_size", "Units of frames in one call of the vision encoder.", []float64{1, 2, 3, 4, 8, 16}, "stream")
	m.update = histogram("memory_update_seconds", "Taking one encoded frame into the memory.", workBuckets, "stream")
	m.behind = histogram("ingest_lag_seconds", "From a frame's arrival to when it was in the memory.", waitBuckets, "stream")
	m.firstToken = histogram("time_to_first_token_seconds", "From a question to the first of its answer.", waitBuckets, "stream")
	m.interToken = histogram("inter_token_latency_seconds", "Between two pieces of an answer.", workBuckets, "stream")
	m.endToEnd = histogram("e2e_request_latency_seconds", "From a question to the end of its answer.", waitBuckets, "stream")
	m.queue = histogram("request_queue_seconds", "What a question waited for its turn at the model.", waitBuckets, "stream")
	m.requests = counter("requests_total", "Questions, by how their answers ended.", "stream", "finish_reason")
	m.promptTokens = counter("prompt_tokens_total", "Tokens given to the model, visual ones included.", "stream")
	m.generatedTokens = counter("generation_tokens_total", "Tokens that the model wrote.", "stream")
	m.visTokens = counter("visual_tokens_total", "Visual tokens given to the model.", "stream")
	m.watchDelay = histogram("watch_delay_seconds", "From a picture to when a standing question was found to fire on it.", waitBuckets, "stream", "watch")
	m.deliveryFailures = counter("watch_delivery_failures_total", "Webhooks that were given up.", "stream", "watch")
	return m
}

// StreamMetrics are the histograms that a stream's watching fills.
type StreamMetrics struct {
	Decode                        qa.Observer
	Encode, Batch, Update, Behind qa.Observer // for a qa.Meter
}

// Stream returns a stream's. The server lets go of them when the stream is no longer served.
func (m *Metrics) Stream(name string) StreamMetrics {
	return StreamMetrics{m.decode.WithLabelValues(name), m.encode.WithLabelValues(name), m.batch.WithLabelValues(name),
		m.update.WithLabelValues(name), m.behind.WithLabelValues(name)}
}

// DeliveryFailed counts a webhook that was given up.
func (m *Metrics) DeliveryFailed(stream, watch string) {
	m.deliveryFailures.WithLabelValues(stream, watch).Inc()
}

// forget lets go of everything of a stream.
func (m *Metrics) forget(stream string) {
	of := prometheus.Labels{"stream": stream}
	for _, v := range []interface{ DeletePartialMatch(prometheus.Labels) int }{m.decode, m.encode, m.batch, m.update, m.behind, m.firstToken, m.interToken,
		m.endToEnd, m.queue, m.requests, m.promptTokens, m.generatedTokens, m.visTokens, m.watchDelay, m.deliveryFailures} {
		v.DeletePartialMatch(of)
	}
}

// Ask implements Stream: it measures on the way.
func (s *served) Ask(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
	return s.srv.metrics.measure(ctx, s.Name(), emit, func(emit func(string) error) (qa.Answer, error) { return s.Stream.Ask(ctx, q, emit) })
}

// measure measures how a question about a stream is answered; one about several has no stream's name.
func (m *Metrics) measure(ctx context.Context, name string, emit func(string) error, ask func(emit func(string) error) (qa.Answer, error)) (qa.Answer, error) {
	begun := time.Now()
	last := begun
	between := m.interToken.WithLabelValues(name)
	said := false
	a, err := ask(func(text string) error {
		now := time.Now()
		if said {
			between.Observe(now.Sub(last).Seconds())
		} else {
			m.firstToken.WithLabelValues(name).Observe(now.Sub(begun).Seconds())
		}
		last, said = now, true
		return emit(text)
	})
	took := time.Since(begun)
	finish := a.Stats.Finish
	switch {
	case err != nil && ctx.Err() != nil, finish == "cancelled":
		finish = "cancelled"
	case err != nil:
		finish = "failed"
	case a.FromCoverage:
		finish = "coverage"
	case finish == "":
		finish = "stop"
	}
	m.requests.WithLabelValues(name, finish).Inc()
	m.endToEnd.WithLabelValues(name).Observe(took.Seconds())
	if !a.FromCoverage {
		m.queue.WithLabelValues(name).Observe(a.Stats.Queued.Seconds())
	}
	m.promptTokens.WithLabelValues(name).Add(float64(a.Stats.PromptTokens))
	m.generatedTokens.WithLabelValues(name).Add(float64(a.Stats.Generated))
	m.visTokens.WithLabelValues(name).Add(float64(a.Stats.VisualTokens))
	return a, err
}

// scrape answers GET /metrics.
func (s *Server) scrape(w http.ResponseWriter, r *http.Request) {
	if err := s.authorize(callerOf(r), allStreams, RoleRead); err != nil { // it tells of all streams
		deny(w, err)
		return
	}
	s.scraper.ServeHTTP(w, r)
}

func (s *Server) newScraper() http.Handler {
	s.metrics.registry.MustRegister(state{s, newFamilies()})
	return promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// followWatches measures how late standing questions fire.
func (s *Server) followWatches(ctx context.Context) {
	events, unsubscribe := s.cfg.Watches.Subscribe("")
	defer unsubscribe()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			if e.Kind == qa.Fired {
				s.metrics.watchDelay.WithLabelValues(e.Watch.Spec.Stream, e.Watch.Spec.Name).Observe(max(0, e.Told.Sub(e.At).Seconds()))
			}
		case <-ctx.Done():
			return
		}
	}
}

// state collects what is read at the moment of a scrape rather than counted on the way.
type state struct {
	*Server
	families
}

// family is one metric of state.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func gauge(name, help string, labels ...string) family {
	return family{prometheus.NewDesc(namespace+"_"+name, help, labels, nil), prometheus.GaugeValue}
}

func count(name, help string, labels ...string) family {
	return family{prometheus.NewDesc(namespace+"_"+name, help, labels, nil), prometheus.CounterValue}
}

// families are what state collects.
type families struct {
	up, state, reconnects, received, dropped, lastFrame, stalls, frozen family
	slots, tokens, bytes, evictions                                     family
	running, waiting, refused                                           family
	drafted, accepted, acceptedAt                                       family
	deviceMemory, kvUsage                                               family
	evaluations, fired                                                  family
}

func newFamilies() (f families) {
	f.up = gauge("stream_up", "1 while frames arrive.", "stream")
	f.state = gauge("stream_state", "1 for the state that the stream is in, 0 for the others.", "stream", "state")
	f.reconnects = count("reconnects_total", "Times that a source came back, by why it was gone.", "stream", "reason")
	f.received = count("frames_received_total", "Frames received, the dropped ones included.", "stream")
	f.dropped = count("frames_dropped_total", "Frames that did not get into the memory: overload, or encode where that failed.", "stream", "reason")
	f.lastFrame = gauge("last_frame_timestamp_seconds", "When the newest frame arrived, Unix time.", "stream")
	f.stalls = count("stalls_total", "Times that an open source gave no frame for too long.", "stream")
	f.frozen = count("frozen_seconds_total", "Time for which a source gave the same picture again and again.", "stream")
	f.slots = gauge("memory_slots", "Entries in the memory, by how often their rows were averaged 2x2.", "stream", "strategy", "level")
	f.tokens = gauge("memory_tokens", "Visual tokens in the memory.", "stream", "strategy")
	f.bytes = gauge("memory_bytes", "Host memory of tokens and thumbnails.", "stream", "strategy")
	f.evictions = count("memory_evictions_total", "Entries that the strategy merged into others or dropped.", "stream", "strategy")
	f.running = gauge("requests_running", "Questions that the model is answering.", "model")
	f.waiting = gauge("requests_waiting", "Questions that wait for the model.", "model")
	f.refused = count("requests_refused_total", "Questions that the model's full queue refused.", "model")
	f.drafted = count("spec_decode_draft_tokens_total", "Tokens that were guessed ahead.", "model")
	f.accepted = count("spec_decode_accepted_tokens_total", "Of those, the ones that were right.", "model")
	f.acceptedAt = count("spec_decode_accepted_tokens_per_pos_total", "Of those, by place in their draft.", "model", "position")
	f.deviceMemory = gauge("gpu_memory_bytes", "Memory that the model holds on its device, which may be the processor.", "model", "kind")
	f.kvUsage = gauge("kv_cache_usage_ratio", "Pages of K/V in use, those kept for prompts that begin alike not counted.", "model")
	f.evaluations = count("watch_evaluations_total", "Checks of standing questions.", "stream", "watch")
	f.fired = count("watch_fired_total", "Firings of standing questions.", "stream", "watch")
	return f
}

// Describe implements prometheus.Collector: none, since what there is depends on the streams of the moment.
func (state) Describe(chan<- *prometheus.Desc) {}

var streamStates = []ingest.State{ingest.Connecting, ingest.Live, ingest.Stalled, ingest.Frozen, ingest.Offline, ingest.Ended}

// Collect implements prometheus.Collector.
func (s state) Collect(out chan<- prometheus.Metric) {
	f := s.families
	put := func(of family, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(of.desc, of.kind, v, labels...)
	}
	is := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	for _, sv := range s.streams() {
		name, st, m := sv.Name(), sv.Status(), sv.MemoryStats()
		put(f.up, is(st.State == ingest.Live), name)
		for _, state := range streamStates {
			put(f.state, is(st.State == state), name, string(state))
		}
		put(f.received, float64(st.Frames), name)
		put(f.dropped, float64(st.Dropped), name, "overload")
		put(f.stalls, float64(st.Stalls), name)
		frozen := st.FrozenFor
		if st.State == ingest.Frozen {
			frozen += max(0, time.Since(st.Since))
		}
		put(f.frozen, frozen.Seconds(), name)
		if !st.LastFrame.IsZero() {
			put(f.lastFrame, float64(st.LastFrame.UnixMilli())/1000, name)
		}
		put(f.tokens, float64(m.Tokens), name, m.Strategy)
		put(f.bytes, float64(m.Bytes), name, m.Strategy)
		if r, ok := sv.Stream.(Inspected); ok {
			for level, n := range r.Snapshot().Levels() {
				put(f.slots, float64(n), name, m.Strategy, strconv.Itoa(int(level)))
			}
		}
		if c, ok := sv.Stream.(Measured); ok {
			put(f.dropped, float64(c.Progress().Failed), name, "encode")
			put(f.evictions, float64(c.Evicted()), name, m.Strategy)
			for reason, n := range c.Reconnects() {
				put(f.reconnects, float64(n), name, reason)
			}
		}
	}
	if s.cfg.Engines != nil {
		models := map[string]llm.Counters{} // machines with the same model are one
		for _, e := range s.cfg.Engines() {
			models[e.Model] = together(models[e.Model], e.Counters)
		}
		for model, c := range models {
			put(f.running, float64(c.Active), model)
			put(f.waiting, float64(c.Waiting), model)
			put(f.refused, float64(c.Refused), model)
			put(f.drafted, float64(c.Drafted), model)
			put(f.accepted, float64(c.Accepted), model)
			for i, n := range c.AcceptedAt {
				put(f.acceptedAt, float64(n), model, strconv.Itoa(i))
			}
			put(f.deviceMemory, float64(c.WeightBytes), model, "weights")
			put(f.deviceMemory, float64(c.KVBytes), model, "kv")
			put(f.deviceMemory, float64(c.Bytes-c.WeightBytes-c.KVBytes), model, "buffers")
			if c.Pages > 0 {
				put(f.kvUsage, float64(c.Pages-c.FreePages-c.CachedPages)/float64(c.Pages), model)
			}
		}
	}
	if s.cfg.Watches != nil {
		for _, w := range s.cfg.Watches.List() {
			put(f.evaluations, float64(w.Cost.Checks), w.Spec.Stream, w.Spec.Name)
			put(f.fired, float64(w.Firings), w.Spec.Stream, w.Spec.Name)
		}
	}
}

// together adds up what two engines say.
func together(a, b llm.Counters) llm.Counters {
	a.Active, a.Waiting, a.Refused = a.Active+b.Active, a.Waiting+b.Waiting, a.Refused+b.Refused
	a.Drafted, a.Accepted = a.Drafted+b.Drafted, a.Accepted+b.Accepted
	for i, n := range b.AcceptedAt {
		a.AcceptedAt[i] += n
	}
	a.Bytes, a.WeightBytes, a.KVBytes = a.Bytes+b.Bytes, a.WeightBytes+b.WeightBytes, a.KVBytes+b.KVBytes
	a.Pages, a.FreePages, a.CachedPages = a.Pages+b.Pages, a.FreePages+b.FreePages, a.CachedPages+b.CachedPages
	return a
}
