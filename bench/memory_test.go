package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/ingest/simcam"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
	"afterimage/qa"
)

// witness gives the true answer when it is shown a picture of every stretch of the evidence, and says that it does not know otherwise.
type witness struct {
	epoch     time.Time
	questions []simcam.Truth
	asked     *atomic.Int64
	fail      func(n int64) error
}

func (w witness) Generate(ctx context.Context, p llm.Prompt, _ llm.Options, emit func(llm.Token) error) (llm.Stats, error) {
	n := w.asked.Add(1)
	if w.fail != nil {
		if err := w.fail(n); err != nil {
			return llm.Stats{}, err
		}
	}
	var times []time.Duration
	visual, question := 0, ""
	for i, part := range p {
		switch {
		case part.Visual.Rows > 0:
			clock, err := time.Parse("150405", p[i-1].Text)
			if err != nil {
				return llm.Stats{}, err
			}
			at := w.epoch.Truncate(24 * time.Hour).Add(clock.Sub(clock.Truncate(24 * time.Hour)))
			times, visual = append(times, at.Sub(w.epoch)), visual+part.Visual.Rows
		case part.Control == assistantPart:
			question = p[i-1].Text
		}
	}
	answer := "I do not know."
	for _, q := range w.questions {
		if q.Question == question && knows(times, q) {
			answer = q.Answer
		}
	}
	return llm.Stats{VisualTokens: visual, PromptTokens: visual + 10, Generated: 5, FirstToken: 2 * time.Millisecond, Total: 4 * time.Millisecond, Finish: "stop"},
		errors.Join(ctx.Err(), emit(llm.Token{Text: answer}))
}

const assistantPart = "<|assistant|>"

func knows(times []time.Duration, q simcam.Truth) bool {
	spans := q.Evidence
	if len(spans) == 0 {
		spans = []simcam.Span{{From: q.From, To: q.To}}
	}
	for _, s := range spans {
		if !slices.ContainsFunc(times, func(t time.Duration) bool { return t >= s.From-time.Second && t <= s.To }) {
			return false
		}
	}
	return true
}

// countingEncoder counts the pictures that it encodes.
type countingEncoder struct {
	meanEncoder
	n *atomic.Int64
}

func (c countingEncoder) Encode(ctx context.Context, frames ...ingest.Frame) ([]compute.Matrix, error) {
	c.n.Add(int64(len(frames)))
	return c.meanEncoder.Encode(ctx, frames...)
}

const second = time.Second

var oldStreet = []simcam.Truth{
	{ID: "now", Type: simcam.CurrentState, Form: "yesno", Question: "Is the door open?", Answer: "Yes, it is.", Short: "yes", At: 690 * second, From: 689 * second, To: 690 * second},
	{ID: "half a minute", Type: simcam.Attribute, Form: "colour", Question: "What colour was the car?", Answer: "The car was red.", Short: "red", At: 690 * second,
		From: 650 * second, To: 660 * second, Evidence: []simcam.Span{{From: 650 * second, To: 660 * second}}},
	{ID: "five minutes", Type: simcam.Direction, Form: "direction", Question: "Which way did the dog go?", Answer: "To the left.", Short: "left", At: 690 * second,
		From: 380 * second, To: 390 * second, Evidence: []simcam.Span{{From: 380 * second, To: 390 * second}}},
	{ID: "eleven minutes", Type: simcam.Attribute, Form: "colour", Question: "What colour was the van?", Answer: "The van was blue.", Short: "blue", At: 690 * second,
		From: 20 * second, To: 30 * second, Evidence: []simcam.Span{{From: 20 * second, To: 30 * second}}},
	{ID: "all", Type: simcam.Counting, Form: "count", Question: "How many bicycles?", Answer: "I saw two bicycles.", Short: "2", At: 690 * second, From: 100 * second, To: 690 * second,
		Evidence: []simcam.Span{{From: 100 * second, To: 105 * second}, {From: 600 * second, To: 605 * second}}},
}

// oldStreetRig is a stream of 691.5 s, asked at its end.
func oldStreetRig(asked, encoded *atomic.Int64) (Rig, Video) {
	epoch := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	v := Video{Name: "old.mp4", Epoch: epoch, Questions: oldStreet, Open: func(ctx context.Context) (ingest.Source, error) {
		return smallCamera(ctx, 900_300, 691500*time.Millisecond, epoch)
	}}
	return Rig{Encoder: countingEncoder{n: encoded}, Model: witness{epoch: epoch, questions: oldStreet, asked: asked}, Machine: Machine{CPU: "test", Model: "witness"}}, v
}

func TestMemoryTellsMemoriesApart(t *testing.T) {
	var asked, encoded atomic.Int64
	rig, video := oldStreetRig(&asked, &encoded)
	o := MemoryOptions{
		Subjects: []Subject{{"everything", memorybank.Recent{N: 4000}}, {"recent", memorybank.Recent{N: 16}}},
		Budgets:  []int{1 << 16, 512}, Videos: []Video{video}, Log: filepath.Join(t.TempDir(), "out.jsonl"),
	}
	last := 0
	o.Progress = func(done, total int, _ string) {
		assert.LessOrEqual(t, done, total)
		assert.GreaterOrEqual(t, done, last)
		last = done
		if done == total {
			last = -1
		}
	}
	r, err := Memory(t.Context(), rig, o)
	require.NoError(t, err)
	assert.Equal(t, -1, last, "the progress never came to its end")
	assert.EqualValues(t, 1383, encoded.Load(), "every frame once, for all memories")
	assert.Equal(t, []string{"everything", "recent", "newest", "blind"}, r.Strategies)
	assert.Equal(t, []int{512, 1 << 16}, r.Budgets)
	assert.Equal(t, 5, r.Questions)
	assert.Equal(t, 5*4*2, r.Answers)
	// Within 512 tokens both see the same 16 frames, which are all that recent has within any budget.
	assert.Equal(t, 5*4, r.Generated, "everything, recent, newest and blind have one prompt a question that is their own")
	assert.EqualValues(t, r.Generated, asked.Load())

	type want map[string]float64 // by age
	for _, tt := range []struct {
		strategy string
		budget   int
		exact    want
	}{
		{"everything", 1 << 16, want{"now": 1, "up to 1 min": 1, "1-10 min": 1, "over 10 min": 1, "whole": 1}},
		{"everything", 512, want{"now": 1, "up to 1 min": 0, "1-10 min": 0, "over 10 min": 0, "whole": 0}},
		{"recent", 1 << 16, want{"now": 1, "up to 1 min": 0, "1-10 min": 0, "over 10 min": 0, "whole": 0}},
		{"newest", 512, want{"now": 1, "up to 1 min": 0, "1-10 min": 0, "over 10 min": 0, "whole": 0}},
		{"blind", 512, want{"now": 0, "up to 1 min": 0, "1-10 min": 0, "over 10 min": 0, "whole": 0}},
	} {
		sum := 0.0
		for _, age := range Ages {
			s, ok := r.Score("videos", tt.strategy, tt.budget, age, "")
			require.True(t, ok, age)
			assert.Equal(t, tt.exact[age], s.Exact, "%s within %d, %s", tt.strategy, tt.budget, age)
			assert.Equal(t, 1, s.N)
			if age != "now" { // what the model was shown is what it knows
				assert.Equal(t, 1, s.Recall.N, age)
				assert.Equal(t, tt.exact[age], s.Recall.Exact, "%s within %d, %s", tt.strategy, tt.budget, age)
			}
			sum += s.Exact
		}
		s, _ := r.Score("videos", tt.strategy, tt.budget, "", "")
		assert.InDelta(t, sum/5, s.Exact, 1e-9)
		assert.Equal(t, 4, s.Recall.N)
	}
	// Two of five questions share a type: right on the newest only is 1/5 of questions, and 1/4 of types.
	s, _ := r.Score("videos", "recent", 512, "", "")
	assert.InDelta(t, .25, s.Macro.Mean, 1e-9)
	assert.Equal(t, 4, s.Macro.N)
	for _, c := range r.Costs {
		want := map[string]int{"everything": 512, "recent": 512, "newest": 32, "blind": 0}[c.Strategy]
		if c.Budget > 512 && c.Strategy == "everything" {
			want = 1381 * 32 // up to the moment of asking
		}
		assert.Equal(t, want, c.TokensMax, "%s within %d", c.Strategy, c.Budget)
		assert.Positive(t, c.Bytes)
		assert.Positive(t, c.UpdateUS)
	}
	var end []SeriesPoint
	for _, p := range r.Series {
		if p.AtS == 691 {
			end = append(end, p)
		}
	}
	require.Len(t, end, 4)
	assert.Equal(t, 1383.0, end[0].Entries)
	assert.Equal(t, 16.0, end[1].Entries)
	assert.InDelta(t, end[1].Bytes*1383/16, end[0].Bytes, end[0].Bytes*.02)

	d, ok := r.Difference("videos", "everything", 1<<16, "")
	require.True(t, ok)
	assert.Equal(t, "recent", d.Reference)
	assert.Equal(t, 5, d.N)
	assert.InDelta(t, .8, d.More, 1e-9, "four of five were gained")
	d, _ = r.Difference("videos", "everything", 512, "")
	assert.Zero(t, d.More)
	d, _ = r.Difference("videos", "blind", 512, "now")
	assert.Equal(t, -1.0, d.More)

	md := r.Markdown()
	assert.Contains(t, md, "points more than recent")
	assert.Contains(t, md, "| newest | 0 (−")
	assert.Contains(t, md, "1 video, at most 512 visual tokens")
	assert.Regexp(t, `\| recent \| 100\.0 \(21–100\) \| 0\.0 \(0–79\) \|.* 20\.0 \(4–62\) \| 25\.0 `, md)
	text, err := os.ReadFile(o.Log)
	require.NoError(t, err)
	assert.Equal(t, 1+5*4*2+1, strings.Count(string(text), "\n"))
}

// With a disk, a question that names a time is answered from what the memory has forgotten.
func TestMemoryReadsBackFromDisk(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for disk, want := range map[int64]float64{0: 0, 64 << 20: 1} {
		var asked, encoded atomic.Int64
		rig, video := oldStreetRig(&asked, &encoded)
		q := simcam.Truth{ID: "then", Type: simcam.PastState, Form: "yesno", Question: "What happened between 09:02:00 and 09:02:10?", Answer: "Yes, it was.", Short: "yes",
			At: 690 * second, From: 122 * second, To: 124 * second, Evidence: []simcam.Span{{From: 122 * second, To: 124 * second}}}
		video.Questions = []simcam.Truth{q}
		rig.Model = witness{epoch: video.Epoch, questions: video.Questions, asked: &asked}
		r, err := Memory(t.Context(), rig, MemoryOptions{Subjects: []Subject{{"recent", memorybank.Recent{N: 16}}}, Budgets: []int{2048}, Videos: []Video{video}, Disk: disk})
		require.NoError(t, err)
		s, ok := r.Score("videos", "recent", 2048, "", "")
		require.True(t, ok)
		assert.Equal(t, want, s.Exact, "%d bytes", disk)
		assert.Equal(t, want, s.Recall.Exact)
		s, _ = r.Score("videos", "newest", 2048, "", "")
		assert.Zero(t, s.Exact, "the baselines have no disk")
	}
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	assert.Empty(t, left, "the disk's directories are left behind")
}

func memorySimOptions(t *testing.T) MemoryOptions {
	return MemoryOptions{
		Subjects: []Subject{{"flash", memorybank.Flash{}}, {"recent", memorybank.Recent{N: 8}}}, Budgets: []int{128, 512}, Seeds: []uint64{900_301, 900_302},
		Lengths: []time.Duration{2 * time.Minute, 3 * time.Minute}, PerMinute: 3, Camera: smallCamera, Log: filepath.Join(t.TempDir(), "out.jsonl"),
	}
}

func TestMemoryResumes(t *testing.T) {
	var asked, encoded atomic.Int64
	rig, _ := oldStreetRig(&asked, &encoded)
	o := memorySimOptions(t)
	whole, err := Memory(t.Context(), rig, o)
	require.NoError(t, err)
	assert.Equal(t, []string{"2 min", "3 min"}, whole.Groups)
	all := asked.Swap(0)

	broken := rig
	broken.Model = witness{asked: &asked, fail: func(n int64) error {
		if n > all/2 {
			return errors.New("power cut")
		}
		return nil
	}}
	_, err = Memory(t.Context(), broken, o)
	require.ErrorContains(t, err, "power cut")
	f, err := os.OpenFile(o.Log, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(`{"stream":"2 min","ques`)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	o.Resume = true
	asked.Store(0)
	resumed, err := Memory(t.Context(), rig, o)
	require.NoError(t, err)
	assert.Less(t, asked.Load(), all, "finished streams were asked again")
	assert.Positive(t, asked.Load())
	assert.Equal(t, whole.Scores, resumed.Scores)
	assert.Equal(t, whole.Generated, resumed.Generated)
	assert.Len(t, resumed.Series, len(whole.Series), "what was measured before the interruption is there too")
	again, err := Memory(t.Context(), rig, o)
	require.NoError(t, err)
	assert.Equal(t, resumed, again, "all of it is in the log, also how long it took")

	o.Seeds = append(o.Seeds, 900_303)
	more, err := Memory(t.Context(), rig, o)
	require.NoError(t, err)
	assert.Greater(t, more.Questions, whole.Questions, "streams may be added to a run")

	o.Budgets = []int{512}
	_, err = Memory(t.Context(), rig, o)
	require.ErrorContains(t, err, "another run")
}

// boastful shows all it has, whatever the budget; mute shows nothing.
type (
	boastful struct{ memorybank.Recent }
	mute     struct{ memorybank.Recent }
)

func (boastful) Select(s *memorybank.Snapshot, _ []float32, _ int) []memorybank.Entry {
	return s.Entries
}
func (mute) Select(*memorybank.Snapshot, []float32, int) []memorybank.Entry { return nil }

func TestMemoryRefuses(t *testing.T) {
	var asked, encoded atomic.Int64
	rig, video := oldStreetRig(&asked, &encoded)
	for want, change := range map[string]func(*MemoryOptions){
		"no strategies":         func(o *MemoryOptions) { o.Subjects = nil },
		"named twice":           func(o *MemoryOptions) { o.Subjects = append(o.Subjects, o.Subjects[0]) },
		"without":               func(o *MemoryOptions) { o.Subjects[0].Name = "" },
		"no streams":            func(o *MemoryOptions) { o.Seeds = nil },
		"on disk: want":         func(o *MemoryOptions) { o.Disk = 100 },
		"no budgets":            func(o *MemoryOptions) { o.Budgets = nil },
		"one frame takes 32":    func(o *MemoryOptions) { o.Budgets = []int{16} },
		"is named twice":        func(o *MemoryOptions) { o.Seeds = []uint64{1, 1} },
		"one question a minute": func(o *MemoryOptions) { o.PerMinute = 0 },
		"at least one minute":   func(o *MemoryOptions) { o.Lengths[0] = time.Second },
		"a stream is shorter":   func(o *MemoryOptions) { o.Every = 3 },
		"no questions":          func(o *MemoryOptions) { o.Videos = []Video{{Name: "x"}} },
		"of a budget of 128":    func(o *MemoryOptions) { o.Subjects[0].Strategy = boastful{memorybank.Recent{N: 8}} },
		`"late" is to be asked at 12m0s, but the last picture is of 11m31s`: func(o *MemoryOptions) {
			v := video
			v.Questions = append(slices.Clone(oldStreet), simcam.Truth{ID: "late", Type: "x", Form: "yesno", Question: "Is it late?", Short: "yes", At: 12 * time.Minute, To: time.Minute})
			o.Seeds, o.Videos = nil, []Video{v}
		},
		"camera is gone": func(o *MemoryOptions) {
			o.Camera = func(ctx context.Context, seed uint64, length time.Duration, epoch time.Time) (ingest.Source, error) {
				s, err := smallCamera(ctx, seed, length, epoch)
				return &breaking{s, 100}, err
			}
		},
		"240 frames could not be encoded: frame 239: broken": func(o *MemoryOptions) { o.Progress = nil },
	} {
		o := memorySimOptions(t)
		change(&o)
		r := rig
		if strings.Contains(want, "encoded") {
			r.Encoder = brokenEncoder{}
		}
		_, err := Memory(t.Context(), r, o)
		assert.ErrorContains(t, err, want)
	}

	o := memorySimOptions(t)
	o.Subjects[0].Strategy = mute{memorybank.Recent{N: 8}}
	report, err := Memory(t.Context(), rig, o)
	require.NoError(t, err)
	assert.Positive(t, report.Refused)
	s, ok := report.Score("2 min", "flash", 128, "", "")
	require.True(t, ok)
	assert.Less(t, s.Exact, 1.0, "no answer is no right answer")
	assert.Contains(t, report.Markdown(), "nothing in memory fitted the budget")

	ctx, cancel := context.WithCancel(t.Context())
	o = memorySimOptions(t)
	o.Progress = func(done, _ int, _ string) {
		if done > 100 {
			cancel()
		}
	}
	_, err = Memory(ctx, rig, o)
	assert.ErrorIs(t, err, context.Canceled)
}

type breaking struct {
	ingest.Source
	left int
}

func (b *breaking) Next(ctx context.Context) (ingest.Frame, error) {
	if b.left--; b.left < 0 {
		return ingest.Frame{}, errors.New("camera is gone")
	}
	return b.Source.Next(ctx)
}

type brokenEncoder struct{ meanEncoder }

func (brokenEncoder) Encode(context.Context, ...ingest.Frame) ([]compute.Matrix, error) {
	return nil, errors.New("broken")
}

func TestQueriesAreWorkedOutOnce(t *testing.T) {
	n := 0
	query := onceEach(func(q string) []float32 { n++; return []float32{float32(len(q))} })
	assert.Equal(t, query("a"), query("a"))
	assert.Equal(t, []float32{2}, query("bb"))
	assert.Equal(t, 2, n)
	assert.Nil(t, onceEach(nil))
}

func TestAges(t *testing.T) {
	at := 20 * time.Minute
	spans := func(to ...time.Duration) (out []simcam.Span) {
		for _, x := range to {
			out = append(out, simcam.Span{From: x - second, To: x})
		}
		return out
	}
	for want, q := range map[string]simcam.Truth{
		"now 0s":             {Type: simcam.CurrentState, From: at - second, To: at},
		"now 2s":             {Type: simcam.Attribute, Evidence: spans(at - 2*second)},
		"up to 1 min 1m0s":   {Type: simcam.Attribute, Evidence: spans(at - time.Minute)},
		"1-10 min 10m0s":     {Type: simcam.SequenceValidation, Evidence: spans(time.Minute, at-10*time.Minute)},
		"over 10 min 10m1s":  {Type: simcam.When, From: 0, To: at, Evidence: spans(at - 10*time.Minute - second)},
		"over 10 min 18m0s":  {Type: simcam.EventOccurrence, From: time.Minute, To: 2 * time.Minute}, // nothing happened in a window
		"whole 0s":           {Type: simcam.EventOccurrence, From: 0, To: at},                        // it never happened
		"whole 19m0s":        {Type: simcam.Counting, Evidence: spans(time.Minute)},
		"whole 0s and never": {Type: simcam.DidNotHappen, From: 0, To: at},
	} {
		q.At = at
		got := ageOf(q)
		assert.Equal(t, strings.TrimSuffix(want, " and never"), fmt.Sprintf("%s %s", got.name, got.since))
	}
}

func TestShows(t *testing.T) {
	epoch := time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)
	item := func(from, to float64) qa.EvidenceItem {
		at := func(s float64) time.Time { return epoch.Add(time.Duration(s * float64(second))) }
		return qa.EvidenceItem{From: at(from), To: at(to)}
	}
	span := simcam.Span{From: 100 * second, To: 110 * second}
	for _, tt := range []struct {
		from, to float64
		want     bool
	}{
		{105, 105, true}, {100, 100, true}, {110, 110, true}, {99.5, 99.5, false}, {95, 115, true}, {90, 130, true}, {90, 131, false}, {0, 3600, false}, {109, 113, true}, {109, 114, false},
	} {
		got := shows([]qa.EvidenceItem{item(0, 1), item(tt.from, tt.to)}, simcam.Truth{Evidence: []simcam.Span{span}}, epoch)
		assert.Equal(t, tt.want, got, "%v to %v", tt.from, tt.to)
	}
	two := []simcam.Span{span, {From: 200 * second, To: 210 * second}}
	one := []qa.EvidenceItem{item(205, 205)}
	assert.False(t, shows(one, simcam.Truth{Type: simcam.SequenceValidation, Evidence: two}, epoch), "both are needed")
	assert.True(t, shows(one, simcam.Truth{Type: simcam.EventOccurrence, Evidence: two}, epoch), "either will do")
}

func TestAverage(t *testing.T) {
	a := newAverage([]Rate{NewRate(5, 10), NewRate(10, 10)})
	assert.InDelta(t, .75, a.Mean, 1e-9)
	assert.Less(t, a.CI95[0], .60)
	assert.Greater(t, a.CI95[1], .90)
	assert.Equal(t, Average{CI95: [2]float64{0, 1}}, newAverage(nil))
}

func TestDifference(t *testing.T) {
	more, ci := newDifference(100, 30, 10)
	assert.InDelta(t, .2, more, 1e-9)
	assert.InDelta(t, .0791, ci[0], 5e-5) // Agresti and Min's: b* = 30.5, c* = 10.5, n* = 102
	assert.InDelta(t, .3131, ci[1], 5e-5)
	more, ci = newDifference(3, 0, 0)
	assert.Zero(t, more)
	assert.Less(t, ci[0], -.3, "three that agree prove little")
	assert.InDelta(t, -ci[0], ci[1], 1e-9)
}

func TestEveryMinutes(t *testing.T) {
	for minutes, want := range map[int]int{1: 1, 10: 1, 20: 1, 21: 2, 60: 3, 480: 24} {
		o := MemoryOptions{}
		assert.Equal(t, want, o.EveryMinutes(time.Duration(minutes)*time.Minute), "%d", minutes)
	}
	assert.Equal(t, 5, (&MemoryOptions{Every: 5}).EveryMinutes(time.Hour))
	for seed := range uint64(50) {
		for _, length := range []time.Duration{time.Hour, 8 * time.Hour, 24 * time.Hour} {
			e := epochFor(seed, length)
			assert.Equal(t, e.Day(), e.Add(length-second).Day(), "seed %d runs over midnight", seed)
		}
		assert.Equal(t, Epoch(seed), epochFor(seed, time.Hour))
	}
}

func TestMemoryPage(t *testing.T) {
	var asked, encoded atomic.Int64
	rig, video := oldStreetRig(&asked, &encoded)
	rig.Machine.Model = `<script>&"'`
	o := memorySimOptions(t)
	o.Videos = []Video{video}
	r, err := Memory(t.Context(), rig, o)
	require.NoError(t, err)
	var page bytes.Buffer
	require.NoError(t, r.HTML(&page))
	html := page.String()
	for _, bad := range []string{"<script", "http:", "https:", "src=", "@import", "url(", "<link", "NaN", "Inf", "ZgotmplZ"} {
		assert.False(t, strings.Contains(html, bad), bad)
	}

	// It is well formed; every picture has a title, a description and a table under it.
	ids, refs := map[string]bool{}, []string{}
	figures, svgs, tables, depth := 0, 0, 0, 0
	d := xml.NewDecoder(strings.NewReader(html))
	d.Entity = xml.HTMLEntity
	for {
		token, err := d.Token()
		if token == nil {
			break
		}
		require.NoError(t, err)
		switch e := token.(type) {
		case xml.StartElement:
			depth++
			attr := map[string]string{}
			for _, a := range e.Attr {
				attr[a.Name.Local] = a.Value
			}
			if id := attr["id"]; id != "" {
				assert.False(t, ids[id], "id %s twice", id)
				ids[id] = true
			}
			refs = append(refs, strings.Fields(attr["aria-labelledby"])...)
			if to, ok := strings.CutPrefix(attr["href"], "#"); ok {
				refs = append(refs, to)
			}
			switch e.Name.Local {
			case "figure":
				figures++
			case "table":
				tables++
			case "svg":
				if attr["role"] == "img" {
					svgs++
				}
			}
		case xml.EndElement:
			depth--
		}
	}
	assert.Zero(t, depth)
	for _, ref := range refs {
		assert.True(t, ids[ref], "nothing is called %s", ref)
	}
	assert.Equal(t, 3*4+2, svgs, "four plots a group, and two of what it costs")
	assert.Equal(t, 3*6+3, tables)
	assert.Equal(t, tables+1, figures)
	for _, id := range []string{"2-min-age", "3-min-tokens", "videos-age", "videos-recall", "videos-recall-age", "videos-type", "videos-against", "cost-update", "cost-bytes", "cost-table"} {
		assert.True(t, ids[id], id)
	}
	s, _ := r.Score("videos", "flash", 512, "now", "")
	name := fmt.Sprintf("flash, now: %s %%, n = 1", percentWords(s.Exact, s.CI95))
	assert.True(t, strings.Contains(html, name), name)
	assert.Len(t, regexp.MustCompile(`<g class="s0">`).FindAllString(html, -1), svgs, "flash is in every plot")

	file := filepath.Join(t.TempDir(), "out.html")
	require.NoError(t, r.WriteHTML(file))
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, html, string(written))

	text, err := json.Marshal(r)
	require.NoError(t, err)
	var back MemoryReport
	require.NoError(t, json.Unmarshal(text, &back))
	assert.Equal(t, *r, back)
}

func TestReadQuestions(t *testing.T) {
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "q.json")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	const good = `{"question":"Is it?","form":"yesno","short":"yes","at_ns":9000000000,"from_ns":1,"to_ns":2}`
	epoch, questions, err := ReadQuestions(write(`{"epoch":"2026-05-04T12:00:00Z","questions":[` + good + `,
{"id":"b","type":"counting","form":"count","question":"How many?","answer":"Two.","short":"2","at_ns":5000000000,"from_ns":0,"to_ns":5000000000}]}`))
	require.NoError(t, err)
	assert.Equal(t, 12, epoch.Hour())
	require.Len(t, questions, 2)
	assert.Equal(t, "b", questions[0].ID, "by time")
	assert.Equal(t, simcam.Truth{ID: "1", Type: "yesno", Form: "yesno", Question: "Is it?", Short: "yes", At: 9 * second, From: 1, To: 2}, questions[1])

	one := func(q string) string { return `{"epoch":"2026-05-04T12:00:00Z","questions":[` + q + `]}` }
	for want, text := range map[string]string{
		"line 2":                     "{\n\"epoch\": nonsense}",
		"line 1: EOF":                "",
		"line 1: json: unknown":      `{"epochs":1}`,
		"want the time of the first": `{"epoch":"yesterday","questions":[` + good + `]}`,
		"no questions":               `{"epoch":"2026-05-04T12:00:00Z"}`,
		"more after the end":         one(good) + "{}",
		"id is another":              one(strings.Replace(good, "{", `{"id":"a",`, 1) + "," + strings.Replace(good, "{", `{"id":"a",`, 1)),
		`form "essay": want one of`:  one(strings.Replace(good, "yesno", "essay", 1)),
		"question 1: no question":    one(strings.Replace(good, "Is it?", " ", 1)),
		"no short":                   one(strings.Replace(good, `"short":"yes",`, "", 1)),
		"at_ns: want":                one(strings.Replace(good, "9000000000", "0", 1)),
		"where the evidence lies":    one(strings.Replace(good, `"to_ns":2`, `"to_ns":9000000001`, 1)),
		"evidence from 3s to 2s":     one(strings.Replace(good, "{", `{"evidence":[{"from_ns":3000000000,"to_ns":2000000000}],`, 1)),
		"and not as its short":       one(strings.Replace(good, "{", `{"answer":"Perhaps.",`, 1)),
		"cannot unmarshal string":    one(strings.Replace(good, "9000000000", `"9s"`, 1)),
	} {
		_, _, err := ReadQuestions(write(text))
		assert.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, "q.json")
	}
	_, _, err = ReadQuestions(filepath.Join(t.TempDir(), "nowhere.json"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}
