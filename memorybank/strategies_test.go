package memorybank

import (
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"

	"afterimage/internal/compute"

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
						rows, text := f.Positions(snap, snap.Select(nil, 0), p.Start)
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
	rows, text := f.Positions(bank.Snapshot(), nil, 3)
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
	rows, text = f.Positions(s, shown, 10)
	require.Equal(t, [][3]int{
		{10, 10, 10}, {10, 10, 11}, {10, 11, 10}, {10, 11, 11}, // frame 0
		{20, 18, 18}, {22, 18, 18}, // behind 8 rows: frames 0..3, of which 1.5 is the mean, to even; frame 4
		{14, 10, 10}, {14, 10, 11}, {14, 11, 10}, {14, 11, 11}, // frame 4
	}, rows)
	require.Equal(t, 23, text)
}
