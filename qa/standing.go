package qa

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
)

// StandingOptions say how standing questions are kept. The zero value keeps them until the program ends.
type StandingOptions struct {
	File    string                     // where they and their states are kept, as JSON; "" keeps them in memory only
	Now     func() time.Time           // nil is time.Now
	Log     *slog.Logger               // nil logs nothing
	Deliver func(WatchEvent)           // told of every event of a question with a webhook, from one goroutine at a time; must not wait. nil: nobody is
	Allow   func(webhook string) error // whether one may be told, as far as its URL says; its error does not name it. nil: any
	Most    int                        // questions a stream; 64

	// Rest is how long a stream's checks pause after a round, as a multiple of what the round took, so that watching and people's questions
	// have the machine for most of the time; 1, that is half of it. Questions are then checked less often than they ask for.
	Rest float64
}

// WatchInfo is a standing question as it stands.
type WatchInfo struct {
	ID          string
	Spec        WatchSpec // complete
	Fixed       bool      // of the configuration file: it is changed there
	Created     time.Time
	State       WatchState
	Since       time.Time // when State began
	Checked     time.Time // the time of the picture that was checked last; zero: none was
	Probability float64   // that it found
	Choice      string    // the most probable answer
	Firings     uint64
	LastFired   time.Time // zero: never
	Error       string    // why the last check failed; "" if it did not
	Cost        WatchCost
}

// WatchCost is what checks took since the program began.
type WatchCost struct {
	Checks       uint64
	Unchanged    uint64        // times that a check was left out because nothing had changed
	Late         uint64        // checks that came later than they should have, as everybody was busy
	Failed       uint64        // checks that failed
	Time         time.Duration // of rounds, divided among the questions that were checked together
	PromptTokens uint64
	CachedTokens uint64 // of those, shared with other questions
}

// PerCheck is the mean time of a check; 0 before the first.
func (c WatchCost) PerCheck() time.Duration {
	if c.Checks == 0 {
		return 0
	}
	return c.Time / time.Duration(c.Checks)
}

// WatchEvent is something that happened to a standing question.
type WatchEvent struct {
	ID          string // unique, the same at every delivery
	Kind        WatchKind
	Watch       WatchInfo // as it then was
	At          time.Time // of the picture that decided it; of errors, when they were found
	Told        time.Time // when it was found: what lies between is the delay
	Probability float64
	Choice      string
	Error       string   // of Failed
	Evidence    Evidence // what the model was shown
}

// ErrNoWatch, ErrNoStream, ErrFixedWatch, ErrTooMany and ErrTaken are wrapped by errors of Standing's methods.
var (
	ErrNoWatch    = errors.New("there is no such standing question")
	ErrNoStream   = errors.New("there is no such stream")
	ErrFixedWatch = errors.New("this standing question is in the configuration file: change it there")
	ErrTooMany    = errors.New("this stream has as many standing questions as it may have")
	ErrTaken      = errors.New("this stream has a standing question of that name")
)

const (
	watchesVersion = 1
	checksTogether = 16 // of one stream at once; the engine puts as many into one pass as it can
	watchEvents    = 64 // that wait for a subscriber
	keptEvents     = 16 // of a question, the newest
	// changeOfPicture is from which on a picture has changed, see moved. On the simulated street, with its noise, rain and snow, it leaves out nearly
	// half of the checks, and what fires is the same ("afterimage bench watch").
	changeOfPicture = 0.02
	deadlineTick    = 5 * time.Second // how late a deadline may be noticed while no picture comes
)

// Standing puts standing questions: each again and again to the newest picture of its stream, all of a stream's together, and tells whoever
// subscribed when one fires. Watching never waits for it: a round of checks takes the newest picture there is, and those that came
// meanwhile are left out. What it knows survives a restart (StandingOptions.File), so that nothing fires twice because of one. A stream that
// is lost neither fires nor clears anything: what is not watched is not known.
//
// It is safe for concurrent use.
type Standing struct {
	o      StandingOptions
	events sync.Mutex // held while events are told, which keeps them in order

	mu       sync.Mutex
	watches  map[string]*watch
	streams  map[string]*checker
	subs     map[chan WatchEvent]string // stream, or "" for all
	backtest chan struct{}              // a slot
	closed   bool
}

// watch is a standing question. Standing.mu guards it, but for spec and fixed, which never change: a changed question is another watch.
type watch struct {
	id      string
	spec    WatchSpec // complete
	fixed   bool
	created time.Time
	turns   turnstile
	firings uint64

	checked time.Time
	last    verdict
	seen    *compute.Matrix // the picture of the last check, for OnChange
	err     string
	cost    WatchCost
	kept    []WatchEvent // newest last
}

// checker is one stream's goroutine.
type checker struct {
	standing *Standing
	name     string
	session  *Session
	stop     context.CancelFunc
	done     chan struct{} // closed when the goroutine is gone
}

// NewStanding returns what a File has, checked by nobody until its streams are attached. A file that cannot be read is an error, and stays.
func NewStanding(o StandingOptions) (*Standing, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Most, o.Rest = cmp.Or(o.Most, 64), cmp.Or(o.Rest, 1)
	s := &Standing{o: o, watches: map[string]*watch{}, streams: map[string]*checker{}, subs: map[chan WatchEvent]string{}, backtest: make(chan struct{}, 1)}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("qa: standing questions: %w", err)
	}
	return s, nil
}

// Attach begins to check the questions of a stream, until Detach or Close.
func (s *Standing) Attach(stream string, session *Session) {
	c := &checker{standing: s, name: stream, session: session, done: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	if !s.attach(c) {
		stop()
		return
	}
	go c.run(ctx)
}

// AttachManually is Attach for whoever keeps a stream's time, such as a benchmark: round checks what is due at the newest picture, and returns
// when that is done.
func (s *Standing) AttachManually(stream string, session *Session) (round func(context.Context) error) {
	c := &checker{standing: s, name: stream, session: session, stop: func() {}, done: make(chan struct{})}
	close(c.done)
	s.attach(c)
	return func(ctx context.Context) error {
		_, err := c.round(ctx, session.bank.Snapshot())
		return err
	}
}

func (s *Standing) attach(c *checker) bool {
	s.Detach(c.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.streams[c.name] = c
	}
	return !s.closed
}

// Detach ends checking a stream and waits for the checks under way. Its questions stay, for when it comes back.
func (s *Standing) Detach(stream string) {
	s.mu.Lock()
	c := s.streams[stream]
	delete(s.streams, stream)
	s.mu.Unlock()
	if c != nil {
		c.stop()
		<-c.done
	}
}

// Close ends all checks, keeps what is known and ends the subscriptions.
func (s *Standing) Close() error {
	s.mu.Lock()
	names := make([]string, 0, len(s.streams))
	for name := range s.streams {
		names = append(names, name)
	}
	s.closed = true
	s.mu.Unlock()
	for _, name := range names {
		s.Detach(name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch := range s.subs {
		close(ch)
	}
	s.subs = map[chan WatchEvent]string{}
	return s.save()
}

// List returns all standing questions by stream and name.
func (s *Standing) List() []WatchInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]WatchInfo, 0, len(s.watches))
	for _, w := range s.watches {
		list = append(list, w.info())
	}
	slices.SortFunc(list, func(a, b WatchInfo) int {
		return cmp.Or(cmp.Compare(a.Spec.Stream, b.Spec.Stream), cmp.Compare(a.Spec.Name, b.Spec.Name))
	})
	return list
}

// Get returns one.
func (s *Standing) Get(id string) (WatchInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watches[id]
	if w == nil {
		return WatchInfo{}, ErrNoWatch
	}
	return w.info(), nil
}

// Events returns the newest events of a question since the program began, oldest first.
func (s *Standing) Events(id string) []WatchEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.watches[id]; w != nil {
		return slices.Clone(w.kept)
	}
	return nil
}

// Create adds a standing question; a name that is missing is made up.
func (s *Standing) Create(_ context.Context, spec WatchSpec) (WatchInfo, error) {
	id := "watch_" + rand.Text()[:12]
	if spec.Name == "" {
		spec.Name = id
	}
	return s.put(id, spec, false)
}

// Update changes a standing question. Where what it asks, or of which stream, changes, it begins anew.
func (s *Standing) Update(_ context.Context, id string, spec WatchSpec) (WatchInfo, error) {
	s.mu.Lock()
	w := s.watches[id]
	s.mu.Unlock()
	switch {
	case w == nil:
		return WatchInfo{}, ErrNoWatch
	case w.fixed:
		return WatchInfo{}, ErrFixedWatch
	}
	return s.put(id, spec, true)
}

// complete is WatchSpec.Complete of one that may be told where it says.
func (s *Standing) complete(spec WatchSpec) (WatchSpec, error) {
	spec, err := spec.Complete()
	if err == nil && spec.Webhook != "" && s.o.Allow != nil {
		if e := s.o.Allow(spec.Webhook); e != nil {
			err = &WatchError{"webhook", e.Error()}
		}
	}
	return spec, err
}

// put adds or changes one.
func (s *Standing) put(id string, spec WatchSpec, there bool) (WatchInfo, error) {
	spec, err := s.complete(spec)
	if err != nil {
		return WatchInfo{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.watches[id]
	n := 0
	for _, w := range s.watches {
		if w.id == id || w.spec.Stream != spec.Stream {
			continue
		}
		if n++; w.spec.Name == spec.Name {
			return WatchInfo{}, ErrTaken
		}
	}
	switch {
	case s.closed:
		return WatchInfo{}, errors.New("qa: standing questions are closed")
	case there && old == nil: // deleted meanwhile
		return WatchInfo{}, ErrNoWatch
	case s.streams[spec.Stream] == nil && (old == nil || old.spec.Stream != spec.Stream):
		return WatchInfo{}, ErrNoStream
	case n >= s.o.Most:
		return WatchInfo{}, ErrTooMany
	}
	w := s.newWatch(id, spec, old)
	s.watches[id] = w
	if err := s.save(); err != nil {
		if delete(s.watches, id); old != nil {
			s.watches[id] = old
		}
		return WatchInfo{}, err
	}
	return w.info(), nil
}

// newWatch makes a question of a complete spec. What an old one knew goes on where it is about the same.
func (s *Standing) newWatch(id string, spec WatchSpec, old *watch) *watch {
	now := s.o.Now()
	w := &watch{id: id, spec: spec, created: now, turns: turnstile{State: WatchIdle, Since: now, Armed: now}}
	if old == nil {
		return w
	}
	w.created, w.firings, w.kept, w.cost = old.created, old.firings, old.kept, old.cost
	if spec.Stream == old.spec.Stream && spec.Ask == old.spec.Ask && slices.Equal(spec.Choices, old.spec.Choices) && slices.Equal(spec.Fire, old.spec.Fire) {
		w.turns, w.checked, w.last, w.seen = old.turns, old.checked, old.last, old.seen
		if spec.Deadline != old.spec.Deadline || spec.Paused != old.spec.Paused {
			w.turns.Armed, w.turns.Late = now, false
		}
	}
	return w
}

// Delete removes a standing question.
func (s *Standing) Delete(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watches[id]
	switch {
	case w == nil:
		return ErrNoWatch
	case w.fixed:
		return ErrFixedWatch
	}
	delete(s.watches, id)
	if err := s.save(); err != nil {
		s.watches[id] = w
		return err
	}
	return nil
}

// SetFixed makes specs the standing questions of the configuration file: those that are there already go on, others begin, and those that are not
// in it any more end. Their IDs are stream.name. Nothing changes when one of them is wrong.
func (s *Standing) SetFixed(specs []WatchSpec) error {
	fixed := map[string]WatchSpec{}
	for _, spec := range specs {
		spec, err := s.complete(spec)
		if err != nil {
			return fmt.Errorf("%s: %w", spec.Name, err)
		}
		id := spec.Stream + "." + spec.Name
		if _, ok := fixed[id]; ok {
			return fmt.Errorf("%s: %w", spec.Name, ErrTaken)
		}
		fixed[id] = spec
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watches {
		if _, ok := fixed[w.spec.Stream+"."+w.spec.Name]; ok && !w.fixed {
			return fmt.Errorf("%s: %w", w.spec.Name, ErrTaken)
		}
	}
	maps.DeleteFunc(s.watches, func(id string, w *watch) bool {
		_, ok := fixed[id]
		return w.fixed && !ok
	})
	for id, spec := range fixed {
		w := s.newWatch(id, spec, s.watches[id])
		w.fixed = true
		s.watches[id] = w
	}
	return s.save()
}

// Subscribe gives every later event of a stream ("": of all). A subscriber that does not keep up loses the oldest of them. The function ends the
// subscription; the channel is closed when Standing is.
func (s *Standing) Subscribe(stream string) (<-chan WatchEvent, func()) {
	ch := make(chan WatchEvent, watchEvents)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		close(ch)
		return ch, func() {}
	}
	s.subs[ch] = stream
	return ch, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subs, ch)
	}
}

// Forget drops the pictures of [from, to) that a stream's standing questions keep; when they fired then is still known. See Session.Forget.
func (s *Standing) Forget(stream string, from, to time.Time) {
	within := func(t time.Time) bool { return !t.Before(from) && t.Before(to) }
	clean := func(e Evidence) Evidence {
		e.Items = slices.DeleteFunc(slices.Clone(e.Items), func(i EvidenceItem) bool { return !i.From.After(to) && !i.To.Before(from) })
		return e
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watches {
		if w.spec.Stream != stream {
			continue
		}
		if within(w.checked) {
			w.seen = nil
		}
		w.last.evidence = clean(w.last.evidence)
		kept := slices.Clone(w.kept)
		for i := range kept {
			kept[i].Evidence = clean(kept[i].Evidence)
		}
		w.kept = kept
	}
}

// Undelivered tells that an event could not be delivered, as an event of its own that is not delivered.
func (s *Standing) Undelivered(e WatchEvent, why error) {
	s.mu.Lock()
	w := s.watches[e.Watch.ID]
	if w == nil {
		s.mu.Unlock()
		return
	}
	told := s.event(w, Failed, s.o.Now())
	told.Error = fmt.Sprintf("the webhook was not told that it %s at %s: %v", e.Kind, e.At.Format(time.RFC3339), why)
	s.mu.Unlock()
	s.tell([]WatchEvent{told}, false)
}

func (w *watch) info() WatchInfo {
	return WatchInfo{
		ID: w.id, Spec: w.spec, Fixed: w.fixed, Created: w.created, State: cmp.Or(w.turns.State, WatchIdle), Since: w.turns.Since, Checked: w.checked,
		Probability: w.last.p, Choice: w.last.best(&w.spec), Firings: w.firings, LastFired: w.turns.Last, Error: w.err, Cost: w.cost,
	}
}

// event is what happened to w. The caller holds mu.
func (s *Standing) event(w *watch, kind WatchKind, at time.Time) WatchEvent {
	return WatchEvent{ID: "event_" + rand.Text()[:16], Kind: kind, Watch: w.info(), At: at, Told: s.o.Now(), Probability: w.last.p,
		Choice: w.last.best(&w.spec), Evidence: w.last.evidence}
}

// tell hands events to everybody who wants them.
func (s *Standing) tell(events []WatchEvent, deliver bool) {
	s.events.Lock()
	defer s.events.Unlock()
	for _, e := range events {
		log := s.o.Log.With("watch", e.Watch.Spec.Name, "stream", e.Watch.Spec.Stream)
		if e.Kind == Failed {
			log.Warn("standing question", "event", e.Kind, "err", e.Error)
		} else {
			log.Info("standing question", "event", e.Kind, "at", e.At, "probability", e.Probability, "answer", e.Choice, "question", e.Watch.Spec.Ask)
		}
		s.mu.Lock()
		if w := s.watches[e.Watch.ID]; w != nil {
			if w.kept = append(w.kept, e); len(w.kept) > keptEvents {
				w.kept = slices.Clone(w.kept[1:])
			}
		}
		for ch, stream := range s.subs {
			if stream != "" && stream != e.Watch.Spec.Stream {
				continue
			}
			for sent := false; !sent; {
				select {
				case ch <- e:
					sent = true
				default:
					select {
					case <-ch:
					default:
					}
				}
			}
		}
		s.mu.Unlock()
		if deliver && s.o.Deliver != nil && e.Watch.Spec.Webhook != "" {
			s.o.Deliver(e)
		}
	}
}

// run is the goroutine of a stream.
func (c *checker) run(ctx context.Context) {
	defer close(c.done)
	version := uint64(0)
	for {
		wait, cancel := context.WithTimeout(ctx, deadlineTick)
		snap, err := c.session.bank.Next(wait, version)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil { // no picture came
			c.standing.tell(c.standing.overdue(c.name), true)
			continue
		}
		version = snap.Version
		took, err := c.round(ctx, snap)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.standing.o.Log.Error("standing questions could not be kept", "err", err)
		}
		if rest := time.Duration(float64(took) * c.standing.o.Rest); rest > 0 {
			timer := time.NewTimer(rest)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
		}
	}
}

// duty is one question in a round.
type duty struct {
	*watch
	spec WatchSpec // as it was when the round began
	gap  bool
	late bool
	v    verdict
	err  error
}

// round checks all questions that are due at the newest picture of snap, and tells what came of it. The error is about keeping the file.
func (c *checker) round(ctx context.Context, snap *memorybank.Snapshot) (took time.Duration, err error) {
	view := snap.Present()
	if view == nil {
		return 0, nil
	}
	s, g := c.standing, glanceAt(snap, view)
	due := s.due(c.name, g, c.session.watched.Coverage())
	start := time.Now()
	chooseAll(ctx, c.session, g, due)
	if took = time.Since(start); len(due) == 0 {
		took = 0
	}
	if ctx.Err() != nil {
		return took, nil
	}
	events, err := s.settle(g, due, took)
	events = append(events, s.overdue(c.name)...)
	s.tell(events, true)
	return took, err
}

// chooseAll puts questions to one moment: the first alone, and then the others together, which find in the engine's cache what all begin with.
func chooseAll(ctx context.Context, session *Session, g *glance, checks []*duty) {
	if len(checks) > 2 {
		checks[0].v, checks[0].err = session.choose(ctx, g, &checks[0].spec)
		checks = checks[1:]
	}
	var all sync.WaitGroup
	slots := make(chan struct{}, checksTogether)
	for _, k := range checks {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			k.v, k.err = session.choose(ctx, g, &k.spec)
		})
	}
	all.Wait()
}

// due lists what is to be checked at a moment.
func (s *Standing) due(stream string, g *glance, coverage *ingest.Coverage) []*duty {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*duty
	change := map[*compute.Matrix]float64{} // most were checked at the same moment
	for _, w := range s.watches {
		if w.spec.Stream != stream || w.spec.Paused {
			continue
		}
		since := g.at.Sub(w.checked)
		if !w.checked.IsZero() && since >= 0 && since < w.spec.Every-everySlack {
			continue
		}
		if w.spec.OnChange && w.seen != nil && since >= 0 && since < everyTenth*w.spec.Every && w.turns.settled() {
			d, ok := change[w.seen]
			if !ok {
				d = moved(*w.seen, *g.rows)
				change[w.seen] = d
			}
			if d < changeOfPicture {
				w.cost.Unchanged++
				continue
			}
		}
		list = append(list, &duty{watch: w, spec: w.spec, late: !w.spec.OnChange && !w.checked.IsZero() && since >= 2*w.spec.Every,
			gap: !w.checked.IsZero() && missed(coverage, w.checked, g.at)})
	}
	slices.SortFunc(list, func(a, b *duty) int {
		return cmp.Or(a.checked.Compare(b.checked), cmp.Compare(a.spec.Name, b.spec.Name))
	})
	return list
}

// everySlack is how much earlier than its time a check may come: pictures are not quite evenly spaced.
const everySlack = 20 * time.Millisecond

// missed reports whether somewhere from one picture to another nobody was watching. Without a coverage map it is not known.
func missed(c *ingest.Coverage, from, to time.Time) bool {
	if !from.Before(to) {
		return to.Before(from) // the clock was set back
	}
	return len(c.Within(from, to)) > 0 && len(c.Gaps(from, to)) > 0
}

// settle takes what the checks of a round found.
func (s *Standing) settle(g *glance, checks []*duty, took time.Duration) (events []WatchEvent, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for _, k := range checks {
		w := k.watch
		if s.watches[w.id] != w {
			continue // changed or removed meanwhile
		}
		w.cost.Time += took / time.Duration(len(checks))
		w.cost.Checks++
		if k.late {
			w.cost.Late++
		}
		if k.err != nil {
			w.cost.Failed++
			if errors.Is(k.err, llm.ErrBusy) {
				continue // the next picture will do
			}
			if why := k.err.Error(); w.err != why {
				w.err = why
				e := s.event(w, Failed, s.o.Now())
				e.Error = why
				events = append(events, e)
			}
			continue
		}
		w.err, w.checked, w.seen, w.last = "", g.at, g.rows, k.v
		w.cost.PromptTokens += uint64(k.v.stats.PromptTokens)
		w.cost.CachedTokens += uint64(k.v.stats.CachedTokens)
		kind := w.turns.step(&w.spec, g.at, k.v.p, k.gap)
		if kind == "" {
			continue
		}
		if changed = true; kind == Fired {
			w.firings++
		}
		events = append(events, s.event(w, kind, g.at))
	}
	if changed { // before anybody is told: a crash must not fire it again
		err = s.save()
	}
	return events, err
}

// overdue lists the deadlines that have passed.
func (s *Standing) overdue(stream string) (events []WatchEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.o.Now()
	for _, w := range s.watches {
		if w.spec.Stream == stream && !w.spec.Paused && w.turns.overdue(&w.spec, now) {
			e := s.event(w, Failed, now)
			e.Error = fmt.Sprintf("it has not fired for %s", w.spec.Deadline)
			events = append(events, e)
		}
	}
	if len(events) > 0 {
		if err := s.save(); err != nil {
			s.o.Log.Error("standing questions could not be kept", "err", err)
		}
	}
	return events
}

// The file.
type (
	watchesFile struct {
		Version int         `json:"version"`
		Watches []keptWatch `json:"watches"`
	}
	keptWatch struct {
		ID      string    `json:"id"`
		Spec    WatchSpec `json:"spec"`
		Fixed   bool      `json:"fixed,omitempty"`
		Created time.Time `json:"created"`
		Turns   turnstile `json:"state"`
		Firings uint64    `json:"firings,omitempty"`
		Checked time.Time `json:"checked,omitzero"`
	}
)

const mostFile = 16 << 20

func (s *Standing) load() error {
	if s.o.File == "" {
		return nil
	}
	info, err := os.Stat(s.o.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Size() > mostFile {
		return fmt.Errorf("%s has %d bytes, which these never take", s.o.File, info.Size())
	}
	raw, err := os.ReadFile(s.o.File)
	if err != nil {
		return err
	}
	var f watchesFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return fmt.Errorf("%s: %w", s.o.File, err)
	}
	if f.Version != watchesVersion {
		return fmt.Errorf("%s is of version %d, this program knows %d", s.o.File, f.Version, watchesVersion)
	}
	for _, k := range f.Watches {
		spec, err := k.Spec.Complete()
		if err != nil || k.ID == "" || s.watches[k.ID] != nil {
			return fmt.Errorf("%s: %q: %w", s.o.File, k.ID, cmp.Or(err, errors.New("its ID is missing or there twice")))
		}
		s.watches[k.ID] = &watch{id: k.ID, spec: spec, fixed: k.Fixed, created: k.Created, turns: k.Turns, firings: k.Firings, checked: k.Checked}
	}
	return nil
}

// save writes the file beside its name and renames it. The caller holds mu.
func (s *Standing) save() error {
	if s.o.File == "" {
		return nil
	}
	f := watchesFile{Version: watchesVersion, Watches: []keptWatch{}}
	for _, w := range s.watches {
		f.Watches = append(f.Watches, keptWatch{w.id, w.spec, w.fixed, w.created, w.turns, w.firings, w.checked})
	}
	slices.SortFunc(f.Watches, func(a, b keptWatch) int { return cmp.Compare(a.ID, b.ID) })
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("qa: keep standing questions: %w", err)
	}
	if err := replaceFile(s.o.File, append(raw, '\n')); err != nil {
		return fmt.Errorf("qa: keep standing questions: %w", err)
	}
	return nil
}

// replaceFile makes a private file hold raw, whole or not at all.
func replaceFile(name string, raw []byte) (err error) {
	part, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".part-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part.Name()))
		}
	}()
	_, err = part.Write(raw)
	if err == nil {
		err = part.Sync()
	}
	if e := part.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(part.Name(), name)
}
