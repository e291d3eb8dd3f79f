package memorybank

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"afterimage/internal/compute"

	"github.com/maruel/safetensors"
	"github.com/stretchr/testify/require"
)

// strategiesGolden is what testdata/make_strategies_golden.py writes.
type strategiesGolden struct {
	Frames    string
	Attention struct {
		Query, QueryBias, Key, KeyBias []float32
	}
	Segments map[string][]int
	States   map[string]map[string]struct {
		Span   [][3]int64
		Weight []float32
		Level  []uint8
		Shown  [][2]int64
		Rows   [][]float32
	}
	Positions map[string]struct {
		Start, Text int
		Rows        [][3]int
	}
}

func readGolden(t *testing.T) (g strategiesGolden, frames []Entry) {
	t.Helper()
	b, err := os.ReadFile("testdata/strategies_golden.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &g))
	b, err = os.ReadFile("testdata/" + g.Frames)
	require.NoError(t, err)
	var f struct {
		Dim    int
		Grid   [2]int
		Times  []int64
		Frames [][]float32
	}
	require.NoError(t, json.Unmarshal(b, &f))
	for i, rows := range f.Frames {
		frames = append(frames, Entry{
			At: time.Duration(f.Times[i]) * time.Millisecond, Grid: Grid{f.Grid[0], f.Grid[1]},
			Tokens: compute.Matrix{Rows: f.Grid[0] * f.Grid[1], Cols: f.Dim, Data: rows},
		})
	}
	return g, frames
}

// TestStrategiesAgainstNumPy compares steps of every strategy with a reference that remembers all frames.
func TestStrategiesAgainstNumPy(t *testing.T) {
	g, frames := readGolden(t)
	dim := frames[0].Tokens.Cols
	a := &Attention{
		Query:     compute.Matrix{Rows: len(g.Attention.QueryBias), Cols: dim, Data: g.Attention.Query},
		Key:       compute.Matrix{Rows: len(g.Attention.KeyBias), Cols: dim, Data: g.Attention.Key},
		QueryBias: g.Attention.QueryBias, KeyBias: g.Attention.KeyBias,
	}
	require.NoError(t, a.Check())
	strategies := map[string]Strategy{
		"uniform":        Uniform{N: 5},
		"reservoir":      Reservoir{N: 6, Seed: 9},
		"reservoir even": Reservoir{N: 6, Seed: 9, Even: true},
		"forest dips":    Forest{Events: 9, Segment: Dips{Frames: 10, Within: 5}},
		"forest clips":   Forest{Events: 12, Segment: Clips{N: 6}},
		"forest scenes":  Forest{Events: 6, Segment: SceneTilling{Window: 3, Most: 12}},
		"forest of one":  Forest{Events: 1, Segment: Clips{N: 4}},
		"star":           Star{Temporal: 7, Abstract: 5},
		"star attention": Star{Temporal: 4, Abstract: 3, Retrieved: 2, Rate: 0.3, Attention: a},
		"star compat":    Star{Temporal: 7, Abstract: 5, Compat: true},
		"flash compat":   Flash{Synopsis: 12, Detail: 5, Compat: true},
		"pyramid narrow": Pyramid{Capacity: [3]int{1, 0, 3}, Every: [3]int{3, 2, 1}},
		"pyramid rare":   Pyramid{Capacity: [3]int{2, 1, 2}, Every: [3]int{6, 3, 2}, Evict: LeastPenalty},
	}
	for _, e := range []Evict{MostAlike, Oldest, Evenly, LeastPenalty} {
		strategies["pyramid "+e.String()] = Pyramid{Capacity: [3]int{2, 4, 6}, Evict: e}
		strategies["pyramid compat "+e.String()] = Pyramid{Capacity: [3]int{3, 2, 6}, Evict: e, Compat: true}
	}
	require.Len(t, g.States, len(strategies))
	for name, s := range strategies {
		t.Run(name, func(t *testing.T) {
			bank, steps := New(time.Unix(0, 0).UTC(), s), 0
			for i, frame := range frames {
				bank.Add(frame)
				want, ok := g.States[name][strconv.Itoa(i)]
				if !ok {
					continue
				}
				steps++
				snap := bank.Snapshot()
				var span [][3]int64
				var weight []float32
				var level []uint8
				for _, e := range snap.Entries {
					span = append(span, [3]int64{e.Start.Milliseconds(), e.End.Milliseconds(), e.At.Milliseconds()})
					weight, level = append(weight, e.Weight), append(level, e.Level)
				}
				require.Equal(t, want.Span, span, "frame %d", i)
				require.Equal(t, want.Weight, weight, "frame %d", i)
				require.Equal(t, want.Level, level, "frame %d", i)
				var shown [][2]int64
				for _, e := range snap.Select(nil, 0) {
					shown = append(shown, [2]int64{e.At.Milliseconds(), int64(e.Level)})
				}
				require.Equal(t, want.Shown, shown, "frame %d", i)
				tolerance := 2e-5
				if _, ok := s.(Star); ok {
					tolerance = 1e-4 // slots are rounded to float32 with every frame
				}
				for j, rows := range want.Rows {
					require.InDeltaSlice(t, rows, snap.Entries[j].Tokens.Data, tolerance, "frame %d entry %d", i, j)
				}
				if f, ok := s.(Flash); ok {
					if p, ok := g.Positions[strconv.Itoa(i)]; ok {
						rows, text := f.Positions(snap, snap.Select(nil, 0), nil, p.Start)
						require.Equal(t, p.Rows, rows)
						require.Equal(t, p.Text, text)
					}
				}
			}
			require.Equal(t, len(g.States[name]), steps)
		})
	}
}

func TestSegmentersAgainstNumPy(t *testing.T) {
	g, frames := readGolden(t)
	for name, s := range map[string]Segmenter{
		"clips": Clips{N: 7}, "dips": Dips{Frames: 12, Within: 5}, "scenes": SceneTilling{Window: 4, Most: 24},
		"scenes without a floor": SceneTilling{Floor: -1, Window: 3, Most: 40},
	} {
		got, _ := cuts(s, frames)
		require.Equal(t, g.Segments[name], got, name)
	}
}

// The default's positions: times are frame numbers, and text begins behind everything.
func TestPositions(t *testing.T) {
	f := Flash{Synopsis: 2, Detail: 1}
	bank := New(time.Unix(0, 0), f)
	rows, text := f.Positions(bank.Snapshot(), nil, nil, 3)
	require.Empty(t, rows)
	require.Equal(t, 3, text)
	for i := range 5 {
		m := compute.NewMatrix(4, 1)
		m.Data[0] = float32(i / 4 * 9)
		bank.Add(Entry{At: time.Duration(i) * time.Second, Grid: Grid{2, 2}, Tokens: m})
	}
	s := bank.Snapshot()
	shown := s.Select(nil, 0)
	require.Len(t, shown, 4, "one exemplar, two clusters, the newest")
	rows, text = f.Positions(s, shown, nil, 10)
	require.Equal(t, [][3]int{
		{10, 10, 10}, {10, 10, 11}, {10, 11, 10}, {10, 11, 11}, // frame 0
		{20, 18, 18}, {22, 18, 18}, // behind 8 rows: frames 0..3, of which 1.5 is the mean, to even; frame 4
		{14, 10, 10}, {14, 10, 11}, {14, 11, 10}, {14, 11, 11}, // frame 4
	}, rows)
	require.Equal(t, 23, text)
}

// everyStrategy is what the tests below go through: defaults, small ones, extremes.
var everyStrategy = []Strategy{
	Recent{N: 3},
	Uniform{}, Uniform{N: 1}, Uniform{N: 4}, Uniform{N: math.MaxInt},
	Reservoir{}, Reservoir{N: 1}, Reservoir{N: 5, Seed: 3}, Reservoir{N: 5, Even: true},
	Flash{}, Flash{Synopsis: 1, Detail: -1}, Flash{Synopsis: 4, Detail: 2}, Flash{Synopsis: 6, Detail: 3, Compat: true},
	Flash{Synopsis: 1, Detail: 9, Compat: true}, Flash{Compat: true},
	Pyramid{}, Pyramid{Capacity: [3]int{1, 1, 1}}, Pyramid{Capacity: [3]int{0, 2, 0}}, Pyramid{Capacity: [3]int{-1, 0, 0}},
	Pyramid{Capacity: [3]int{1 << 40, 1, 1}}, Pyramid{Capacity: [3]int{2, 3, 4}, Every: [3]int{3, 2, 1}, Evict: Evenly},
	Pyramid{Capacity: [3]int{2, 3, 4}, Every: [3]int{4, 2, 0}, Evict: LeastPenalty},
	Pyramid{Capacity: [3]int{2, 3, 4}, Evict: Oldest}, Pyramid{Capacity: [3]int{2, 2, 3}, Compat: true},
	Pyramid{Capacity: [3]int{1, 0, 1}, Compat: true}, Pyramid{Capacity: [3]int{2, 1, 3}, Compat: true, Evict: LeastPenalty},
	Pyramid{Compat: true},
	Forest{}, Forest{Events: 1, Segment: Clips{N: 1}}, Forest{Events: 5, Segment: Dips{Frames: 4, Within: 3}},
	Forest{Events: -1, Segment: SceneTilling{Window: 2, Most: 9}}, Forest{Events: 3, Segment: Clips{N: 90}},
	Forest{Events: 7, Segment: greedy{}},
	Star{}, Star{Temporal: 1, Abstract: -1, Retrieved: -1}, Star{Temporal: 4, Abstract: 3, Retrieved: 2},
	Star{Temporal: 4, Abstract: 3, Rate: 1, Compat: true}, Star{Compat: true},
	Star{Temporal: 3, Abstract: 2, Rate: 9, Attention: &Attention{
		Query: compute.Matrix{Rows: 1, Cols: 2, Data: []float32{1, -1}}, Key: compute.Matrix{Rows: 1, Cols: 2, Data: []float32{2, 1}},
	}},
	Star{Temporal: 3, Abstract: 2, Attention: &Attention{}},
	Composite{Past: 4, Unit: 2, Recent: 1},
}

// greedy claims more than there is.
type greedy struct{}

func (greedy) Cut(pending []Entry) int { return len(pending) * 2 }

// most is how many entries a strategy may hold.
func most(s Strategy) int {
	switch s := s.(type) {
	case Recent:
		return s.size()
	case Uniform:
		return 2 * s.size()
	case Reservoir:
		return s.size()
	case Flash:
		n, _ := s.sizes()
		return n
	case Pyramid:
		capacity, _ := s.sizes()
		return capacity[0] + capacity[1] + capacity[2]
	case Forest:
		return s.size() + 90
	case Star:
		s = s.sizes()
		if s.Compat {
			return s.Abstract + 2*s.Temporal + 1
		}
		return s.Abstract + s.Temporal
	}
	return 1 << 20
}

// checkStrategy is what holds of every strategy's snapshot after any frames whatever. seen maps IDs to the rows they were first met with.
func checkStrategy(t *testing.T, s Strategy, snap *Snapshot, seen map[uint64]*float32, numbers, oneGrid bool, budgets []int) {
	t.Helper()
	require.LessOrEqual(t, len(snap.Entries), most(s))
	ids := map[uint64]bool{}
	var weight [3]float32
	ordered := true
	meet := func(e Entry) {
		if !(e.Grid.H*e.Grid.W == e.Tokens.Rows && e.Tokens.Rows > 0 && e.Start <= e.At && e.At <= e.End && e.End <= snap.Now &&
			e.Weight >= 1 && e.ID/idStep <= snap.Version) {
			t.Fatalf("impossible: %+v", e)
		}
		first := &e.Tokens.Data[0]
		if at, ok := seen[e.ID]; ok && at != first && *at != *first {
			t.Fatalf("ID %d came back with other rows", e.ID)
		}
		seen[e.ID] = first
		if numbers {
			for _, v := range e.Tokens.Data {
				if math.IsNaN(float64(v)) {
					t.Fatalf("entry %d has rows that are not numbers", e.ID)
				}
			}
		}
	}
	for i, e := range snap.Entries {
		meet(e)
		if ids[e.ID] {
			t.Fatalf("ID %d twice", e.ID)
		}
		ids[e.ID] = true
		weight[min(e.part, 2)] += e.Weight
		ordered = ordered && (i == 0 || snap.Entries[i-1].End <= e.Start)
	}
	frames := float32(snap.Version)
	compat, repeats := false, true // repeats: a frame may be shown as part of something, too
	switch s := s.(type) {
	case Recent, Uniform, Reservoir:
		repeats = false
		require.True(t, ordered)
	case Flash:
		compat = s.Compat
		if !compat {
			require.True(t, ordered)
			require.Equal(t, frames, weight[0])
		} else if numbers && oneGrid {
			require.Equal(t, frames, weight[0])
		}
	case Pyramid:
		compat, repeats = s.Compat, false
		for i := 1; i < len(snap.Entries); i++ {
			a, b := snap.Entries[i-1], snap.Entries[i]
			require.True(t, compat || a.part < b.part || before(a, b))
		}
	case Forest:
		require.True(t, ordered)
		require.Equal(t, frames, weight[eventPart]+weight[shortPart])
	case Star:
		if !s.Compat {
			require.Equal(t, frames, weight[temporalPart])
		}
		if s.Abstract >= 0 {
			require.Equal(t, frames, weight[abstractPart])
		}
	}
	for _, budget := range budgets {
		for _, query := range [][]float32{nil, {0.6, 0.8}, {1}} {
			for _, prefer := range []Order{AnyTime, Earliest, Latest} {
				if prefer != AnyTime && (query == nil || budget < 8) {
					continue
				}
				view := *snap
				view.Prefer = prefer
				rows := 0
				shown := view.Select(query, budget)
				for _, e := range shown {
					meet(e)
					rows += e.Tokens.Rows
				}
				if budget > 0 {
					require.LessOrEqual(t, rows, budget)
				}
				if _, composite := s.(Composite); !composite && !compat && (budget == 0 || budget >= snap.Newest.Tokens.Rows) {
					last := shown[len(shown)-1]
					require.Equal(t, snap.Newest.ID, last.ID)
					require.Equal(t, Newest, last.Role)
				}
				for i := 1; i < len(shown) && !repeats; i++ {
					if !before(shown[i-1], shown[i]) {
						t.Fatalf("budget %d: %d is shown before %d", budget, shown[i-1].ID, shown[i].ID)
					}
				}
			}
		}
	}
}

// checkNarrowed looks at a stretch of time.
func checkNarrowed(t *testing.T, snap *Snapshot) {
	part := snap.Between(snap.Now/3, snap.Now*2/3)
	if part == nil {
		return
	}
	for _, budget := range []int{0, 1, 9, 33} {
		for _, query := range [][]float32{nil, {0.6, 0.8}} {
			rows := 0
			for _, e := range part.Select(query, budget) {
				rows += e.Tokens.Rows
			}
			if budget > 0 {
				require.LessOrEqual(t, rows, budget)
			}
		}
	}
}

// frozen copies what a snapshot says, rows included, so that a change of it shows.
func frozen(s *Snapshot) []Entry {
	out := slices.Clone(s.Entries)
	for i := range out {
		out[i].Tokens.Data = slices.Clone(out[i].Tokens.Data)
	}
	return out
}

// play adds frames read from bytes to a bank: times that jump and run back, rows that repeat, overflow or are not numbers, grids that
// change.
func play(t *testing.T, s Strategy, data []byte) {
	bank := New(time.Time{}, s)
	seen := map[uint64]*float32{}
	numbers := true
	for i, c := range data {
		g := Grid{2, 2}
		switch {
		case c == 200:
			g = Grid{3, 1}
		case c == 201:
			g = Grid{1, 1}
		case c == 202:
			g = Grid{4, 8}
		}
		m := compute.NewMatrix(g.H*g.W, 2)
		for j := range m.Data {
			m.Data[j] = float32(c%16) * float32(j%2*int(c/16)+1)
		}
		switch c {
		case 255:
			m.Data[0], numbers = float32(math.NaN()), false
		case 254:
			m.Data[1], numbers = float32(math.Inf(1)), false
		case 253:
			m.Data[2], numbers = math.MaxFloat32, false // sums of it may overflow
		}
		old := bank.Snapshot()
		was := frozen(old)
		bank.Add(Entry{At: time.Duration(i*10-int(c)%40) * time.Second, Grid: g, Tokens: m, Thumb: []byte{c}})
		if numbers {
			require.Equal(t, was, old.Entries, "frame %d wrote to what was there before", i)
		}
		budgets := []int{0, 9}
		if i < 5 || i == len(data)-1 || i%16 == 15 {
			budgets = []int{0, 1, 2, 3, 4, 7, 8, 11, 31, 100, math.MaxInt}
		}
		checkNarrowed(t, bank.Snapshot())
		checkStrategy(t, s, bank.Snapshot(), seen, numbers, !bytes.ContainsAny(data, "\xc8\xc9\xca"), budgets)
	}
}

var playSeeds = []string{
	"", "\x00", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	"a fixed camera sees the same street for hours, then a van",
	"\xff\xfe\xfd\xfc\x01\x02\x03\xff\x00\x07\x07\x07\x07\x07\x07\xfa\xfb",
	"one\xc8\xc8\xc8two\xc9\xc9three\xca\xca\xca\xca\xcafour", "ababababbbbbaaaaabbbbabababcccc",
}

// FuzzStrategies plays the fuzzer's bytes to one of them.
func FuzzStrategies(f *testing.F) {
	for i, s := range playSeeds {
		f.Add([]byte(s), uint8(7*i))
	}
	f.Fuzz(func(t *testing.T, data []byte, which uint8) {
		play(t, everyStrategy[int(which)%len(everyStrategy)], data[:min(len(data), 64)])
	})
}

func TestStrategiesKeepInvariants(t *testing.T) {
	for _, s := range everyStrategy {
		t.Run(fmt.Sprintf("%#v", s), func(t *testing.T) {
			for _, seed := range playSeeds {
				play(t, s, []byte(seed))
			}
			r := rand.New(rand.NewPCG(5, 6))
			long := make([]byte, 150)
			for i := range long {
				long[i] = byte(r.IntN(6) * 17)
			}
			play(t, s, long)
		})
	}
}

// A restored bank goes on as if nothing had happened, whatever the strategy.
func TestStrategiesRestore(t *testing.T) {
	for _, s := range everyStrategy {
		for _, n := range []int{0, 1, 5, 61, 130} {
			whole := New(time.Unix(0, 0).UTC(), s)
			stream(whole, 0, n)
			back, err := Restore(bytes.NewReader(saved(t, whole)), s, origin)
			require.NoError(t, err, "%#v", s)
			require.Equal(t, whole.Snapshot(), back.Snapshot(), "%#v", s)
			stream(whole, n, n+40)
			stream(back, n, n+40)
			require.Equal(t, whole.Snapshot(), back.Snapshot(), "%#v", s)
			require.Equal(t, whole.Snapshot().Select([]float32{0, 1, 0}, 30), back.Snapshot().Select([]float32{0, 1, 0}, 30))
		}
	}
}

// What another strategy would not have left behind is refused.
func TestStrategiesRefuse(t *testing.T) {
	for name, c := range map[string]struct {
		s      restorer
		frames int
		change func(entries []Entry)
		want   string
	}{
		"uniform: too many":            {Uniform{N: 2}, 9, nil, "at most 4"},
		"uniform: not a frame":         {Uniform{N: 8}, 9, func(e []Entry) { e[3].End++ }, "entry.3 is not a single frame"},
		"reservoir: order":             {Reservoir{N: 8}, 5, func(e []Entry) { e[1], e[2] = e[2], e[1] }, "entry.2 is before"},
		"pyramid: too many":            {Pyramid{Capacity: [3]int{1, 1, 1}}, 40, nil, "list 0 has"},
		"pyramid: level":               {Pyramid{}, 40, func(e []Entry) { e[0].Level = 1 }, "list 0: entry 0 is not a single frame averaged 0 times"},
		"pyramid: order":               {Pyramid{}, 40, func(e []Entry) { e[0], e[1] = e[1], e[0] }, "list 0: entry 1 is not after"},
		"pyramid: no such list":        {Pyramid{}, 40, func(e []Entry) { e[len(e)-1].part = 7 }, "an entry of list 7"},
		"forest: too many":             {Forest{Events: 2}, 60, nil, "at most 2"},
		"forest: list":                 {Forest{}, 60, func(e []Entry) { e[len(e)-1].part = 0 }, "not in the list"},
		"forest: overlap":              {Forest{}, 60, func(e []Entry) { e[2].Start = 0 }, "entry.2 begins before"},
		"forest: events":               {Forest{}, 60, func(e []Entry) { e[0].seq = 1 << 40 }, "entry.1 is of an event before"},
		"star: too many":               {Star{Temporal: 3}, 60, nil, "at most"},
		"star: slot":                   {Star{}, 60, func(e []Entry) { e[0].Grid = Grid{2, 2} }, "slot 0"},
		"star: no exemplar":            {Star{}, 60, func(e []Entry) { e[30].exemplar = nil }, "cluster 5 has no exemplar"},
		"star: frames without compat":  {Star{}, 60, func(e []Entry) { e[len(e)-1].part = 2 }, "1 frames"},
		"star compat: another frame":   {Star{Compat: true}, 60, func(e []Entry) { e[len(e)-1].ID -= 256 }, "is another one"},
		"flash compat without a frame": {Flash{Compat: true}, 60, func(e []Entry) { e[0].exemplar = nil }, "no exemplar"},
	} {
		t.Run(name, func(t *testing.T) {
			made := c.s.(Strategy)
			if c.change == nil { // by a larger one
				switch c.s.(type) {
				case Uniform:
					made = Uniform{}
				case Pyramid:
					made = Pyramid{}
				case Forest:
					made = Forest{}
				case Star:
					made = Star{}
				}
			}
			bank := New(time.Unix(0, 0), made)
			stream(bank, 0, c.frames)
			entries := slices.Clone(bank.Snapshot().Entries)
			require.NoError(t, made.(restorer).restored(slices.Clone(entries)))
			if c.change != nil {
				c.change(entries)
			}
			require.ErrorContains(t, c.s.restored(entries), c.want)
		})
	}
}

// A file that says something else in places is refused, or goes on without harm.
func TestStrategiesRestoreTampered(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	refused, went := 0, 0
	for _, s := range everyStrategy {
		bank := New(time.Unix(0, 0).UTC(), s)
		stream(bank, 0, 40)
		good := saved(t, bank)
		for range 60 {
			file, err := safetensors.Parse(good)
			require.NoError(t, err)
			var h storeHeader
			require.NoError(t, json.Unmarshal([]byte(file.Metadata["afterimage"]), &h))
			for range 1 + r.IntN(3) {
				i := r.IntN(len(h.Entries))
				e, n := &h.Entries[i], r.IntN(8)
				switch r.IntN(9) {
				case 0:
					e.Part = uint8(n)
				case 1:
					e.Seq = r.Uint64() >> (8 * n)
				case 2:
					e.Merges = r.Uint32() >> (4 * n)
				case 3:
					e.Level = uint8(n)
				case 4:
					e.Weight = float32(n)
				case 5:
					e.ID = uint64(r.IntN(1 << 14))
				case 6:
					e.Start, e.End = e.Start-int64(n)*1e9, e.End+int64(r.IntN(8))*1e9
				case 7:
					e.Exemplar = nil
				case 8:
					h.Entries = slices.Delete(h.Entries, i, i+1)
				}
				if len(h.Entries) == 0 {
					break
				}
			}
			text, err := json.Marshal(h)
			require.NoError(t, err)
			file.Metadata["afterimage"] = string(text)
			var out bytes.Buffer
			require.NoError(t, file.Serialize(&out))
			back, err := Restore(&out, s, origin)
			if err != nil {
				refused++
				continue
			}
			went++
			for i := range 30 {
				stream(back, 40+i, 41+i)
				for _, e := range back.Snapshot().Select([]float32{0, 1, 0}, 40) {
					require.NotZero(t, e.Tokens.Rows)
				}
			}
			require.LessOrEqual(t, len(back.Snapshot().Entries), most(s)+40)
		}
	}
	require.NotZero(t, refused)
	require.NotZero(t, went)
	t.Logf("%d refused, %d went on", refused, went)
}

func TestAttentionShapes(t *testing.T) {
	m := compute.NewMatrix(2, 3)
	for want, a := range map[string]Attention{
		"key projection is 3x2":               {Query: m, Key: compute.NewMatrix(3, 2)},
		"projection is 0x0":                   {},
		"key projection is 2x3 with 5 values": {Query: m, Key: compute.Matrix{Rows: 2, Cols: 3, Data: m.Data[:5]}},
		"key bias has 3 values":               {Query: m, Key: m, KeyBias: make([]float32, 3)},
		"query bias has 1 values, want 2":     {Query: m, Key: m, QueryBias: make([]float32, 1)},
		"query projection is 2x3 with 1 va":   {Query: compute.Matrix{Rows: 2, Cols: 3, Data: make([]float32, 1)}, Key: m},
	} {
		require.ErrorContains(t, a.Check(), want)
	}
	require.NoError(t, (&Attention{Query: m, Key: m}).Check())
	a, b := &Attention{Query: m, Key: m}, &Attention{Query: m, Key: compute.NewMatrix(2, 3)}
	require.Equal(t, a.GoString(), b.GoString())
	b.Key.Data[1] = 1
	require.NotEqual(t, a.GoString(), b.GoString())
	require.Contains(t, fmt.Sprintf("%#v", Star{Attention: a}), "Attention:2x3:")
	require.Contains(t, fmt.Sprintf("%#v", Star{}), "Attention:nil")
}

// How long frames survive: with random replacement geometrically, with sampling equally.
func TestReservoirSurvival(t *testing.T) {
	const n, frames, seeds = 10, 60, 400
	for _, even := range []bool{false, true} {
		old, recent := 0, 0
		for seed := range uint64(seeds) {
			bank := New(time.Time{}, Reservoir{N: n, Seed: seed, Even: even})
			for range frames {
				bank.Add(Entry{Grid: Grid{1, 1}, Tokens: compute.NewMatrix(1, 1)})
			}
			for _, e := range bank.Snapshot().Entries {
				switch f := e.Frame(); {
				case f < 20:
					old++
				case f >= 40:
					recent++
				}
			}
		}
		perFrame := func(count int) float64 { return float64(count) / (20 * seeds) }
		wantOld, wantRecent := float64(n)/frames, float64(n)/frames
		if !even {
			wantOld, wantRecent = 0, 0
			for i := range 20 {
				wantOld += math.Pow(1-1.0/n, float64(frames-max(i, n-1)-1)) / 20
				wantRecent += math.Pow(1-1.0/n, float64(frames-40-i-1)) / 20
			}
		}
		require.InDelta(t, wantOld, perFrame(old), 0.015, "even %v", even)
		require.InDelta(t, wantRecent, perFrame(recent), 0.015, "even %v", even)
	}
}
