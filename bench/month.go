package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"afterimage/internal/compute"
	"afterimage/memorybank"
)

// MonthOptions say how long a stream is made up. Every field is needed unless it says otherwise.
type MonthOptions struct {
	Days       float64
	FPS        float64
	Names      []string // of the strategies
	Strategies []memorybank.Strategy
	Dir        string // where the first one's store is kept; empty: nothing is on disk
	Budget     int64  // of that directory
	Tokens     int    // visual tokens that a question may be shown
	Usage      func() (Usage, error)
	// Progress is told every hundredth; nil: nobody is.
	Progress func(done, total int, what string)
}

// MonthReport is what remembering for a month took, day by day.
type MonthReport struct {
	Benchmark string     `json:"benchmark"` // "month"
	Days      float64    `json:"days"`
	FPS       float64    `json:"fps"`
	Frames    int        `json:"frames"`
	Rows      [2]int     `json:"rows"` // of a frame
	Budget    int64      `json:"disk_budget"`
	Tokens    int        `json:"max_visual_tokens"`
	ByDay     []MonthDay `json:"by_day"`
	Seconds   float64    `json:"seconds"`
	Machine   Machine    `json:"machine"`
}

// MonthDay is one day of it. Times are of calls on one core, medians unless they say otherwise.
type MonthDay struct {
	Day        float64         `json:"day"` // at its end
	RSSMB      float64         `json:"rss_mb"`
	Strategies []MonthStrategy `json:"strategies"`
	RecallMS   float64         `json:"recall_hour_ms"`  // an hour of the past, read from disk within the budget of tokens
	SearchMS   float64         `json:"recall_all_ms"`   // all of the past, by the question
	DiskMB     float64         `json:"disk_mb"`         //
	Cold       int             `json:"cold_entries"`    //
	Segments   int             `json:"segments"`        //
	IndexMB    float64         `json:"cold_index_mb"`   // of memory
	OldestDay  float64         `json:"oldest_cold_day"` // how far back the disk reaches
	Dropped    uint64          `json:"dropped"`
}

// MonthStrategy is one strategy on one day.
type MonthStrategy struct {
	Name      string  `json:"name"`
	Entries   int     `json:"entries"`
	UpdateUS  float64 `json:"update_us"`
	Update99  float64 `json:"update_p99_us"`
	SelectUS  float64 `json:"select_us"`
	Select99  float64 `json:"select_p99_us"`
	SelectTop float64 `json:"select_max_us"`
}

// What a made-up frame has: the embedded model's.
const (
	monthGridH, monthGridW = 4, 8
	monthDim               = 384
)

// wander makes frames whose rows walk at random and now and then jump to another scene.
type wander struct {
	state uint64
	rows  []float32
	scene []float32
}

func newWander() *wander {
	n := monthGridH * monthGridW * monthDim
	return &wander{state: 88172645463325252, rows: make([]float32, n), scene: make([]float32, n)}
}

// uniform is in [-0.5, 0.5), by xorshift: a month of normal deviates would take longer than what is measured.
func (w *wander) uniform() float32 {
	w.state ^= w.state << 13
	w.state ^= w.state >> 7
	w.state ^= w.state << 17
	return float32(int32(w.state>>32)) / (1 << 32)
}

func (w *wander) next(n int) compute.Matrix {
	if n%300 == 0 { // a new scene every five minutes at a frame a second
		for i := range w.scene {
			w.scene[i] = 4 * w.uniform()
		}
	}
	m := compute.NewMatrix(monthGridH*monthGridW, monthDim)
	for i, v := range w.rows {
		v += 0.05*(w.scene[i]-v) + 0.1*w.uniform()
		w.rows[i], m.Data[i] = v, v
	}
	return m
}

// Month makes up a stream of many days, without pictures or models, has it remembered by every strategy and by a store on disk, and measures
// what that takes as the memory grows older.
func Month(ctx context.Context, machine Machine, o MonthOptions) (_ *MonthReport, err error) {
	total := int(o.Days * 86400 * o.FPS)
	if total < 100 {
		return nil, errors.New("bench: want at least a hundred frames")
	}
	if o.Progress == nil {
		o.Progress = func(int, int, string) {}
	}
	r := &MonthReport{Benchmark: "month", Days: o.Days, FPS: o.FPS, Frames: total, Rows: [2]int{monthGridH * monthGridW, monthDim}, Budget: o.Budget,
		Tokens: o.Tokens, Machine: machine}
	epoch := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	banks := make([]*memorybank.Bank, len(o.Strategies))
	var store *memorybank.Store
	for i, s := range o.Strategies {
		banks[i] = memorybank.New(epoch, s)
	}
	var warned error
	if o.Dir != "" {
		store, err = memorybank.OpenStore(o.Dir, memorybank.StoreOptions{
			Origin: memorybank.Origin{Encoder: "none", Config: "made up"}, Strategy: o.Strategies[0], Epoch: epoch, Budget: o.Budget, NoSync: true,
			Warn: func(err error) { warned = errors.Join(warned, err) },
		})
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		defer func() { err = errors.Join(err, store.Close()) }()
		if banks[0] = store.Bank(); banks[0].Snapshot().Version > 0 {
			return nil, fmt.Errorf("bench: %s holds a memory already: name an empty directory", o.Dir)
		}
	}
	day := newMonthSamples(len(banks))
	began, pick := time.Now(), rand.New(rand.NewPCG(1, 2))
	w := newWander()
	for n := range total {
		if n%256 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		rows := w.next(n)
		at := time.Duration(float64(n) / o.FPS * float64(time.Second))
		for store != nil && store.Backlog() >= 16 { // this stream is a thousand times as fast as a camera; the disk need not be
			time.Sleep(20 * time.Microsecond)
		}
		for i, b := range banks {
			start := time.Now()
			b.Add(memorybank.Entry{At: at, Grid: memorybank.Grid{H: monthGridH, W: monthGridW}, Tokens: rows})
			day.update[i] = append(day.update[i], since(start))
		}
		if n%997 == 996 {
			if err := day.ask(ctx, banks, store, pick, o.Tokens); err != nil {
				return nil, fmt.Errorf("bench: %w", err)
			}
		}
		perDay := int(86400 * o.FPS)
		if (n+1)%perDay == 0 || n+1 == total {
			d, err := day.sum(o, banks, store)
			if err != nil {
				return nil, fmt.Errorf("bench: %w", err)
			}
			d.Day = math.Round(100*float64(n+1)/float64(perDay)) / 100
			r.ByDay = append(r.ByDay, d)
			day = newMonthSamples(len(banks))
		}
		if (n+1)%max(total/100, 1) == 0 {
			o.Progress((n+1)*100/total, 100, fmt.Sprintf("day %.1f", at.Hours()/24))
		}
	}
	r.Seconds = round3(time.Since(began).Seconds())
	if warned != nil {
		return nil, fmt.Errorf("bench: %w", warned)
	}
	return r, nil
}

func since(start time.Time) float64 { return float64(time.Since(start).Nanoseconds()) / 1e3 }

// monthSamples are a day's measurements, in microseconds.
type monthSamples struct {
	update, choose [][]float64
	hour, all      []float64
}

func newMonthSamples(banks int) *monthSamples {
	return &monthSamples{update: make([][]float64, banks), choose: make([][]float64, banks)}
}

// ask times one question: of every bank's memory, of one hour of the past and of all of it.
func (m *monthSamples) ask(ctx context.Context, banks []*memorybank.Bank, store *memorybank.Store, pick *rand.Rand, tokens int) error {
	query := banks[0].Snapshot().Newest.Indicator.Vector()
	for i, b := range banks {
		snap := b.Snapshot()
		start := time.Now()
		shown := snap.Select(query, tokens)
		m.choose[i] = append(m.choose[i], since(start))
		rows := 0
		for _, e := range shown {
			rows += e.Tokens.Rows
		}
		if rows > tokens || rows == 0 {
			return fmt.Errorf("%d visual tokens of a budget of %d", rows, tokens)
		}
	}
	if store == nil {
		return nil
	}
	snap := banks[0].Snapshot()
	from := time.Duration(pick.Int64N(int64(snap.Now) + 1))
	start := time.Now()
	if _, err := snap.Recall(ctx, from, from+time.Hour, query, tokens); err != nil {
		return err
	}
	m.hour = append(m.hour, since(start))
	if len(m.hour)%10 == 1 {
		start = time.Now()
		if _, err := snap.Recall(ctx, 0, snap.Now+1, query, tokens); err != nil {
			return err
		}
		m.all = append(m.all, since(start))
	}
	return nil
}

func (m *monthSamples) sum(o MonthOptions, banks []*memorybank.Bank, store *memorybank.Store) (MonthDay, error) {
	var d MonthDay
	u, err := o.Usage()
	if err != nil {
		return d, err
	}
	d.RSSMB = round3(float64(u.RSS) / 1e6)
	at := func(list []float64, q float64) float64 {
		if len(list) == 0 {
			return 0
		}
		slices.Sort(list)
		return round3(list[min(int(q*float64(len(list))), len(list)-1)])
	}
	for i, b := range banks {
		d.Strategies = append(d.Strategies, MonthStrategy{
			Name: o.Names[i], Entries: len(b.Snapshot().Entries), UpdateUS: at(m.update[i], .5), Update99: at(m.update[i], .99),
			SelectUS: at(m.choose[i], .5), Select99: at(m.choose[i], .99), SelectTop: at(m.choose[i], 1),
		})
	}
	d.RecallMS, d.SearchMS = round3(at(m.hour, .5)/1e3), round3(at(m.all, .5)/1e3)
	if store != nil {
		st := store.Stats()
		d.DiskMB, d.Cold, d.Segments = round3(float64(st.Bytes)/1e6), st.Entries, st.Segments
		d.IndexMB, d.OldestDay, d.Dropped = round3(float64(st.Index)/1e6), round3(st.Oldest.From.Hours()/24), st.Dropped+st.Lost
	}
	return d, nil
}

// Markdown is the report as a table.
func (r *MonthReport) Markdown() string {
	var b strings.Builder
	b.WriteString("| day | resident MB |")
	if len(r.ByDay) == 0 {
		return ""
	}
	for _, s := range r.ByDay[0].Strategies {
		fmt.Fprintf(&b, " %s: entries | update µs (p99) | select µs (p99) |", s.Name)
	}
	b.WriteString(" disk MB | entries on disk | back to day | recall an hour, ms | of all time, ms |\n|---:|---:|")
	b.WriteString(strings.Repeat("---:|---:|---:|", len(r.ByDay[0].Strategies)) + "---:|---:|---:|---:|---:|\n")
	for _, d := range r.ByDay {
		fmt.Fprintf(&b, "| %g | %.0f |", d.Day, d.RSSMB)
		for _, s := range d.Strategies {
			fmt.Fprintf(&b, " %d | %.0f (%.0f) | %.0f (%.0f) |", s.Entries, s.UpdateUS, s.Update99, s.SelectUS, s.Select99)
		}
		fmt.Fprintf(&b, " %.0f | %d | %g | %.1f | %.1f |\n", d.DiskMB, d.Cold, d.OldestDay, d.RecallMS, d.SearchMS)
	}
	fmt.Fprintf(&b, "\n%d frames of %dx%d made up in %.0f s, %d visual tokens a question, a disk budget of %.0f MB, %s.\n",
		r.Frames, r.Rows[0], r.Rows[1], r.Seconds, r.Tokens, float64(r.Budget)/1e6, r.Machine.CPU)
	return b.String()
}
