package bench

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"afterimage/ingest"
	"afterimage/ingest/simcam"
	"afterimage/memorybank"
	"afterimage/qa"
)

// Subject is a strategy under comparison, by the name that the report gives it.
type Subject struct {
	Name     string
	Strategy memorybank.Strategy
}

// The baselines that Memory compares every strategy with.
const (
	BlindName  = "blind"
	NewestName = "newest"
)

// Video is a recorded stream with questions about it, in the format that "afterimage simcam --questions" writes.
type Video struct {
	Name      string // for the report and the log, for example the file's
	Epoch     time.Time
	Questions []simcam.Truth // by At
	Open      ingest.Opener  // Frame.Wall is Epoch + PTS
}

// MemoryOptions say what Memory compares, on which streams. Simulated streams are every seed in every length.
type MemoryOptions struct {
	Subjects  []Subject // the baselines are added where they are missing
	Budgets   []int     // most visual tokens of a question; every one is asked with each
	Seeds     []uint64
	Lengths   []time.Duration // of the simulated streams
	PerMinute int             // questions asked together at one moment of a minute
	Every     int             // of so many minutes one is asked in; 0: as few as leave at most 20 moments in a stream
	Camera    Camera          // of the simulated streams
	Videos    []Video
	Disk      int64  // bytes that each strategy's memory of a stream may take on disk, to read the past back from; 0: it has no disk
	Log       string // a .jsonl with every question; also what Resume reads; "" keeps none
	Resume    bool   // take finished streams from Log
	// Progress is told how much of all work is done, of what Resume left over; nil: nobody is.
	Progress func(done, total int, what string)
}

// most moments of a stream at which questions are asked, where Every does not say.
const mostMoments = 20

// together is how many questions are asked at once: enough to share passes over the weights, few enough for the engine's queue.
const together = 8

// ahead is how many encoded frames may wait for the moments before them: encoding goes on while questions are answered.
const ahead = 256

// MemoryRecord is one question asked of one strategy within one budget.
type MemoryRecord struct {
	Stream   string `json:"stream"` // "60 min", or "videos": what the report groups by
	Video    string `json:"video,omitempty"`
	Strategy string `json:"strategy"`
	Budget   int    `json:"budget"`
	Record
	Age      string  `json:"age"`    // one of Ages
	AgeMS    int64   `json:"age_ms"` // from the end of the evidence to the question
	Shown    *bool   `json:"shown"`  // whether the evidence was among the entries shown; null where the question has none
	Entries  int     `json:"entries"`
	SelectUS float64 `json:"select_us"`          // selecting from the whole memory
	Repeated bool    `json:"repeated,omitempty"` // an equal prompt had been answered: times are that one's
	Refused  string  `json:"refused,omitempty"`  // why there was no answer, for example that nothing fits the budget
}

// MemorySample is what a strategy took over a stretch of a stream.
type MemorySample struct {
	Strategy string  `json:"strategy"`
	AtS      float64 `json:"at_s"`   // the stretch's end, in stream time
	Frames   int     `json:"frames"` // in the stretch
	MeanUS   float64 `json:"update_us_mean"`
	MedianUS float64 `json:"update_us_median"`
	P99US    float64 `json:"update_us_p99"`
	Bytes    int64   `json:"bytes"`   // held at the end
	Entries  int     `json:"entries"` // held at the end
}

// memoryHead is the first line of Memory's log. Streams may be added to a run, strategies and budgets may not.
type memoryHead struct {
	Benchmark  string `json:"benchmark"`
	Strategies string `json:"strategies"`
	Budgets    string `json:"budgets"`
	PerMinute  int    `json:"questions_per_minute"`
	Every      int    `json:"every"`
	Disk       int64  `json:"disk_bytes"`
	Model      string `json:"model"`
}

// memoryKey names a stream in the log.
type memoryKey struct {
	Video   string  `json:"video,omitempty"`
	Seed    uint64  `json:"seed,omitempty"`
	Minutes float64 `json:"minutes,omitempty"`
}

func (k memoryKey) String() string {
	if k.Video != "" {
		return k.Video
	}
	return fmt.Sprintf("seed %d, %g min", k.Seed, k.Minutes)
}

// streamExtra is what the log has of a stream besides the questions.
type streamExtra struct {
	Seconds float64        `json:"seconds"` // that it took
	Samples []MemorySample `json:"samples"`
}

// memoryStream is a stream to be watched once by all strategies.
type memoryStream struct {
	memoryKey
	group  string
	epoch  time.Time
	open   ingest.Opener
	asks   []moment
	frames int // about, for the progress
}

// moment is a time of a stream with what is asked then.
type moment struct {
	at     time.Duration
	truths []simcam.Truth
}

// A frame's share of the work, and an answer's, in the progress.
const (
	frameWork  = 1
	answerWork = 8
)

type memoryRun struct {
	rig      Rig
	o        MemoryOptions
	streams  []memoryStream
	progress func(work int, what string)
}

// Memory compares strategies: every stream is watched once, each frame goes to one memory a strategy, and at the same moments the same
// questions are asked of each within each budget, through the same calls as of a served stream. When ctx ends early it returns ctx's
// error; what was finished is in the log and Resume goes on from there.
func Memory(ctx context.Context, rig Rig, o MemoryOptions) (*MemoryReport, error) {
	o.Subjects = slices.Clone(o.Subjects)
	for _, b := range []Subject{{NewestName, NewestOnly{}}, {BlindName, Blind{}}} {
		if !slices.ContainsFunc(o.Subjects, func(s Subject) bool { return s.Name == b.Name }) {
			o.Subjects = append(o.Subjects, b)
		}
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	m := &memoryRun{rig: rig, o: o, streams: o.streams()}
	log, err := openLog[memoryHead, memoryKey, MemoryRecord, streamExtra](o.Log, o.Resume, o.head(rig.Machine))
	if err != nil {
		return nil, err
	}
	defer log.close()

	total, done := 0, 0
	for _, s := range m.streams {
		if _, ok := log.finished[s.memoryKey]; !ok {
			total += m.work(s)
		}
	}
	m.progress = func(work int, what string) {
		if done += work; o.Progress != nil {
			o.Progress(min(done, total), total, what)
		}
	}
	var all []MemoryRecord
	samples := map[string][]MemorySample{} // by group
	seconds := 0.0
	for i, s := range m.streams {
		p, ok := log.finished[s.memoryKey]
		if !ok {
			before, start := done, time.Now()
			if p, err = m.watch(ctx, s, i); err != nil {
				return nil, fmt.Errorf("bench: %s: %w", s, err)
			}
			p.extra.Seconds = round3(time.Since(start).Seconds())
			if err := log.add(s.memoryKey, p.records, p.extra); err != nil {
				return nil, err
			}
			m.progress(before+m.work(s)-done, s.String()) // what was guessed wrong
		}
		all = append(all, p.records...)
		samples[s.group] = append(samples[s.group], p.extra.Samples...)
		seconds += p.extra.Seconds
	}
	r := compare(o, m.groups(), all, samples)
	r.Seconds, r.Machine = round3(seconds), rig.Machine
	return r, nil
}

func (o *MemoryOptions) check() error {
	names := map[string]bool{}
	for _, s := range o.Subjects {
		switch {
		case s.Name == "" || s.Strategy == nil:
			return errors.New("bench: a strategy without a name or without itself")
		case names[s.Name]:
			return fmt.Errorf("bench: strategy %s is named twice", s.Name)
		}
		names[s.Name] = true
	}
	simulated := len(o.Seeds) > 0 && len(o.Lengths) > 0
	switch {
	case len(o.Subjects) <= 2 && names[NewestName] && names[BlindName]:
		return errors.New("bench: no strategies to compare")
	case !simulated && len(o.Videos) == 0:
		return errors.New("bench: no streams: name seeds and lengths, or videos")
	case o.Disk != 0 && o.Disk < memorybank.MinBudget:
		return fmt.Errorf("bench: %d bytes on disk: want at least %d", o.Disk, memorybank.MinBudget)
	case len(o.Budgets) == 0:
		return errors.New("bench: no budgets")
	case simulated && o.PerMinute < 1:
		return errors.New("bench: want at least one question a minute")
	case simulated && slices.Min(o.Lengths) < time.Minute:
		return errors.New("bench: want streams of at least one minute")
	case simulated && o.Every < 0 || o.Every > int(slices.Min(append(o.Lengths, math.MaxInt64))/time.Minute):
		return fmt.Errorf("bench: questions every %d minutes: a stream is shorter", o.Every)
	}
	for _, list := range []int{distinct(o.Budgets), distinct(o.Seeds), distinct(o.Lengths)} {
		if list < 0 {
			return errors.New("bench: a budget, a seed or a length is named twice")
		}
	}
	videos := map[string]bool{}
	for _, v := range o.Videos {
		switch {
		case videos[v.Name]:
			return fmt.Errorf("bench: video %s is named twice", v.Name)
		case len(v.Questions) == 0:
			return fmt.Errorf("bench: video %s: no questions", v.Name)
		}
		videos[v.Name] = true
	}
	return nil
}

// distinct is how many values there are, or -1 where some are equal.
func distinct[T comparable](values []T) int {
	seen := map[T]bool{}
	for _, v := range values {
		if seen[v] {
			return -1
		}
		seen[v] = true
	}
	return len(seen)
}

func (o *MemoryOptions) head(m Machine) memoryHead {
	var names []string
	for _, s := range o.Subjects {
		names = append(names, s.Name)
	}
	return memoryHead{"memory", strings.Join(names, " "), fmt.Sprint(o.Budgets), o.PerMinute, o.Every, o.Disk, m.Model + " " + m.ModelHash}
}

// EveryMinutes is the distance of the minutes in which a stream of this length is asked questions.
func (o *MemoryOptions) EveryMinutes(length time.Duration) int {
	if o.Every > 0 {
		return o.Every
	}
	minutes := int(length / time.Minute)
	return max(1, (minutes+mostMoments-1)/mostMoments)
}

// streams lists all that is to be watched: simulated streams by length and seed, then videos.
func (o *MemoryOptions) streams() []memoryStream {
	var out []memoryStream
	for _, length := range o.Lengths {
		for _, seed := range o.Seeds {
			s := memoryStream{
				memoryKey: memoryKey{Seed: seed, Minutes: length.Minutes()}, group: groupName(length), epoch: epochFor(seed, length), frames: int(2 * length.Seconds()),
			}
			s.open = func(ctx context.Context) (ingest.Source, error) { return o.Camera(ctx, seed, length, s.epoch) }
			script, every := simcam.NewScript(seed, length), o.EveryMinutes(length)
			all := moments(seed, length)
			for i := every - 1; i < len(all); i += every {
				s.asks = append(s.asks, moment{all[i], script.Questions(s.epoch, all[i], o.PerMinute, seed^uint64(all[i]))})
			}
			out = append(out, s)
		}
	}
	for _, v := range o.Videos {
		s := memoryStream{memoryKey: memoryKey{Video: v.Name}, group: videosGroup, epoch: v.Epoch, open: v.Open}
		for _, q := range v.Questions {
			if n := len(s.asks); n == 0 || s.asks[n-1].at != q.At {
				s.asks = append(s.asks, moment{at: q.At})
			}
			last := &s.asks[len(s.asks)-1]
			last.truths = append(last.truths, q)
		}
		s.frames = int(2 * s.asks[len(s.asks)-1].at.Seconds())
		out = append(out, s)
	}
	return out
}

const videosGroup = "videos"

func groupName(length time.Duration) string { return fmt.Sprintf("%g min", length.Minutes()) }

// groups are the names of the groups that streams are reported in, in order.
func (m *memoryRun) groups() []string {
	var out []string
	for _, s := range m.streams {
		if !slices.Contains(out, s.group) {
			out = append(out, s.group)
		}
	}
	return out
}

// epochFor is Epoch for streams that it would let run over midnight.
func epochFor(seed uint64, length time.Duration) time.Time {
	e := Epoch(seed)
	midnight := e.Truncate(24 * time.Hour)
	if left := 24*time.Hour - length; e.Sub(midnight) > left {
		return midnight.Add(e.Sub(midnight) % max(left, time.Second))
	}
	return e
}

func (m *memoryRun) work(s memoryStream) int {
	n := 0
	for _, a := range s.asks {
		n += len(a.truths)
	}
	return s.frames*frameWork + n*len(m.o.Subjects)*len(m.o.Budgets)*answerWork
}

// contender is one strategy's memory of one stream.
type contender struct {
	Subject
	bank    *memorybank.Bank
	session *qa.Session
	spent   []float64 // of the updates of this stretch, us
}

// watch has one stream watched by all strategies. number tells its entries from other streams' in the model's cache.
func (m *memoryRun) watch(ctx context.Context, s memoryStream, number int) (piece[MemoryRecord, streamExtra], error) {
	var p piece[MemoryRecord, streamExtra]
	src, err := s.open(ctx)
	if err != nil {
		return p, err
	}
	ctx, stop := context.WithCancel(ctx)
	watched := &simWatched{epoch: s.epoch, coverage: ingest.NewCoverage(0, 0)}
	known := &answered{of: map[[sha256.Size]byte]*oneAnswer{}}
	query := onceEach(m.rig.Query)
	list := make([]*contender, len(m.o.Subjects))
	for i, subject := range m.o.Subjects {
		c, forget, err := m.contend(subject, s.epoch)
		if err != nil {
			stop()
			return p, errors.Join(err, src.Close())
		}
		defer forget()
		model := qa.Shared(m.rig.Model, uint16(number*len(list)+i+1)) // begins again after 65,536, when the first is cached no more
		c.session = qa.NewSession(c.bank, once{model, known}, watched, watched.now)
		c.session.Query = query
		list[i] = c
	}

	f := &feed{ctx: ctx, door: memorybank.New(s.epoch, NewestOnly{}), entries: make(chan memorybank.Entry, ahead)}
	go func() {
		defer close(f.entries)
		var meter qa.Meter
		f.err = qa.Watch(ctx, src, m.rig.Encoder, f, &meter)
		if got := meter.Read(); f.err == nil && got.Failed > 0 {
			f.err = fmt.Errorf("%d frames could not be encoded: %s", got.Failed, got.LastError)
		}
	}()
	err = m.follow(ctx, s, f, watched, list, &p)
	stop()
	for range f.entries { // what was encoded for nothing; when they end, so has Watch
	}
	if e := src.Close(); err == nil {
		err = e
	}
	return p, err
}

// contend makes a strategy's memory of one stream. forget frees it.
func (m *memoryRun) contend(s Subject, epoch time.Time) (_ *contender, forget func(), err error) {
	if m.o.Disk == 0 || s.Name == BlindName || s.Name == NewestName {
		return &contender{Subject: s, bank: memorybank.New(epoch, s.Strategy)}, func() {}, nil
	}
	dir, err := os.MkdirTemp("", "afterimage-bench-")
	if err != nil {
		return nil, nil, err
	}
	store, err := memorybank.OpenStore(dir, memorybank.StoreOptions{Strategy: s.Strategy, Epoch: epoch, Budget: m.o.Disk, Wait: true, NoSync: true})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &contender{Subject: s, bank: store.Bank()}, func() {
		_ = store.Close() // nobody reads it again
		_ = os.RemoveAll(dir)
	}, nil
}

// endSlack is how far after its last frame a stream may still be asked about: frames come every half second or so.
const endSlack = 2 * time.Second

// follow adds the frames that come and asks at the moments between them.
func (m *memoryRun) follow(ctx context.Context, s memoryStream, f *feed, watched *simWatched, list []*contender, p *piece[MemoryRecord, streamExtra]) error {
	asks, last, n := s.asks, time.Duration(-1), 0
	stretch := stretchOf(s)
	next := stretch
	ask := func() error {
		got, err := m.ask(ctx, s, watched, list, asks[0])
		p.records = append(p.records, got...)
		asks = asks[1:]
		return err
	}
	for e := range f.entries {
		if least := slices.Min(m.o.Budgets); least < e.Tokens.Rows {
			return fmt.Errorf("a budget of %d visual tokens: one frame takes %d", least, e.Tokens.Rows)
		}
		for len(asks) > 0 && e.At > asks[0].at && last >= 0 {
			if err := ask(); err != nil {
				return err
			}
		}
		for e.At >= next {
			p.extra.Samples = append(p.extra.Samples, sample(list, next)...)
			next += stretch
		}
		watched.clock.Store(int64(e.At))
		watched.coverage.Mark(s.epoch.Add(e.At))
		watched.frames.Add(1)
		for _, c := range list {
			start := time.Now()
			c.bank.Add(e)
			c.spent = append(c.spent, micros(time.Since(start)))
		}
		last, n = e.At, n+1
		m.progress(min(frameWork, max(0, s.frames-n)), s.String())
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case f.err != nil:
		return f.err
	case last < 0:
		return errors.New("not one picture")
	}
	p.extra.Samples = append(p.extra.Samples, sample(list, last)...)
	for len(asks) > 0 && asks[0].at <= last+endSlack {
		if err := ask(); err != nil {
			return err
		}
	}
	if len(asks) > 0 {
		return fmt.Errorf("question %q is to be asked at %s, but the last picture is of %s", asks[0].truths[0].ID, asks[0].at, last)
	}
	return nil
}

// stretchOf is how long the stretches of a stream are that are measured together: at most 48 in a stream, none below 15 s.
func stretchOf(s memoryStream) time.Duration {
	length := time.Duration(s.frames) * time.Second / 2
	return max(15*time.Second, (length/48 + time.Second - 1).Truncate(time.Second))
}

// sample closes a stretch.
func sample(list []*contender, at time.Duration) []MemorySample {
	var out []MemorySample
	for _, c := range list {
		if len(c.spent) == 0 {
			continue
		}
		snap := c.bank.Snapshot()
		out = append(out, MemorySample{
			Strategy: c.Name, AtS: at.Seconds(), Frames: len(c.spent), MeanUS: round3(mean(c.spent)), MedianUS: round3(median(c.spent)), P99US: round3(percentile(c.spent, .99)),
			Bytes: snap.Bytes(), Entries: len(snap.Entries),
		})
		c.spent = c.spent[:0]
	}
	return out
}

// ask asks all questions of a moment of every strategy within every budget: a strategy at a time, so that what the model has read of
// its memory is read once.
func (m *memoryRun) ask(ctx context.Context, s memoryStream, watched *simWatched, list []*contender, at moment) ([]MemoryRecord, error) {
	watched.clock.Store(int64(at.at))
	var all []MemoryRecord
	for _, c := range list {
		for _, budget := range m.o.Budgets {
			records, errs := make([]MemoryRecord, len(at.truths)), make([]error, len(at.truths))
			turns := make(chan struct{}, together)
			var wg sync.WaitGroup
			for i, t := range at.truths {
				wg.Go(func() {
					turns <- struct{}{}
					defer func() { <-turns }()
					records[i], errs[i] = m.askOne(ctx, s, c, budget, t)
				})
			}
			wg.Wait()
			if err := errors.Join(errs...); err != nil {
				return all, err
			}
			all = append(all, records...)
			m.progress(len(at.truths)*answerWork, fmt.Sprintf("%s, %s", s, c.Name))
		}
	}
	// Selecting is timed by itself: questions that are answered meanwhile would be in the figures.
	for i := range all {
		r := &all[i]
		c := list[slices.IndexFunc(list, func(c *contender) bool { return c.Name == r.Strategy })]
		snap, query := c.bank.Snapshot(), []float32(nil)
		if c.session.Query != nil {
			query = c.session.Query(r.Question)
		}
		start := time.Now()
		snap.Select(query, r.Budget)
		r.SelectUS = round3(micros(time.Since(start)))
	}
	return all, nil
}

func (m *memoryRun) askOne(ctx context.Context, s memoryStream, c *contender, budget int, t simcam.Truth) (MemoryRecord, error) {
	r := MemoryRecord{Stream: s.group, Video: s.Video, Strategy: c.Name, Budget: budget}
	q := qa.Question{ID: t.ID, Text: t.Question, MaxVisualTokens: budget}
	if _, blind := c.Strategy.(Blind); blind {
		q.MaxVisualTokens = 0 // a budget of which nothing is used is refused
	}
	answer, err := c.session.Ask(context.WithValue(ctx, repeatedKey{}, &r.Repeated), q, nil)
	switch {
	case errors.Is(err, qa.ErrQuestion):
		r.Refused, err = err.Error(), nil
	case err != nil:
		return r, fmt.Errorf("%s, %d tokens: question %s: %w", c.Name, budget, t.ID, err)
	case answer.Stats.VisualTokens > budget:
		return r, fmt.Errorf("%s: question %s: %d visual tokens of a budget of %d", c.Name, t.ID, answer.Stats.VisualTokens, budget)
	}
	r.Record, r.Entries = recordOf(s.Seed, t, answer), len(answer.Evidence.Items)
	age := ageOf(t)
	r.Age, r.AgeMS = age.name, age.since.Milliseconds()
	if len(t.Evidence) > 0 {
		shown := shows(answer.Evidence.Items, t, s.epoch)
		r.Shown = &shown
	}
	return r, err
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
