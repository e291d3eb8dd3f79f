package memorybank

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"afterimage/internal/compute"

	"github.com/stretchr/testify/require"
)

// TestCompositeAgainstNumPy compares every step with testdata/make_composite_golden.py, which remembers all frames.
func TestCompositeAgainstNumPy(t *testing.T) {
	b, err := os.ReadFile("testdata/composite_golden.json")
	require.NoError(t, err)
	type list struct {
		Start, End []int64
		Weight     []float32
		Rows       [][]float32
	}
	var g struct {
		Past, Unit, Recent, Dim int
		Times                   []int64
		Frames                  [][]float32
		States                  []struct{ Coarse, Past, Recent list }
	}
	require.NoError(t, json.Unmarshal(b, &g))
	bank := New(time.Unix(0, 0).UTC(), Composite{Past: g.Past, Unit: g.Unit, Recent: g.Recent})
	for i, rows := range g.Frames {
		bank.Add(Entry{
			At: time.Duration(g.Times[i]) * time.Millisecond, Grid: Grid{4, 4}, Tokens: compute.Matrix{Rows: 16, Cols: g.Dim, Data: rows},
		})
		coarse, past, recent := parts(bank.Snapshot().Entries)
		for name, c := range map[string]struct {
			got  []Entry
			want list
		}{"coarse": {coarse, g.States[i].Coarse}, "past": {past, g.States[i].Past}, "recent": {recent, g.States[i].Recent}} {
			got := list{Start: []int64{}, End: []int64{}, Weight: []float32{}}
			for _, e := range c.got {
				got.Start, got.End = append(got.Start, e.Start.Milliseconds()), append(got.End, e.End.Milliseconds())
				got.Weight = append(got.Weight, e.Weight)
			}
			require.Equal(t, c.want.Start, got.Start, "frame %d %s", i, name)
			require.Equal(t, c.want.End, got.End, "frame %d %s", i, name)
			require.Equal(t, c.want.Weight, got.Weight, "frame %d %s", i, name)
			for j, rows := range c.want.Rows {
				require.InDeltaSlice(t, rows, c.got[j].Tokens.Data, 2e-5, "frame %d %s %d", i, name, j)
			}
		}
	}
}

// checkComposite is what holds of a Composite's snapshot after any frames whatever. seen maps IDs to the rows they were first met with.
func checkComposite(t *testing.T, c Composite, s *Snapshot, seen map[uint64]*float32) {
	t.Helper()
	if s.Version == 0 {
		require.Empty(t, s.Select(nil, 100))
		return
	}
	sizes := c.sizes()
	coarse, past, recent := parts(s.Entries)
	require.LessOrEqual(t, len(past), sizes.Past)
	require.Len(t, recent, min(sizes.Recent+1, int(s.Version)))
	weigh := func(list []Entry) (sum float32) {
		for i, e := range list {
			sum += e.Weight
			require.LessOrEqual(t, e.Start, e.At)
			require.LessOrEqual(t, e.At, e.End)
			if i > 0 {
				require.LessOrEqual(t, list[i-1].End, e.Start)
			}
		}
		return sum
	}
	require.Equal(t, float32(s.Version), weigh(past)+weigh(recent))
	if sizes.Unit > 0 {
		require.Equal(t, weigh(past), weigh(coarse))
		require.LessOrEqual(t, len(coarse), 2*int(math.Log2(float64(s.Version)+2))+3)
	} else {
		require.Empty(t, coarse)
	}
	ids := map[uint64]bool{}
	for _, e := range s.Entries {
		require.False(t, ids[e.ID], "ID %d twice", e.ID)
		ids[e.ID] = true
	}
	query := []float32{1, 0, 0}
	for _, budget := range []int{0, 1, 4, 7, 40, 33, 100, 1000} {
		prefix := s.Prefix(budget)
		for _, q := range [][]float32{nil, query} {
			shown, rows := s.Select(q, budget), 0
			require.GreaterOrEqual(t, len(shown), len(prefix))
			for i, e := range shown {
				rows += e.Tokens.Rows
				if i < len(prefix) {
					require.Equal(t, prefix[i].ID, e.ID, "whatever is asked, prompts begin alike")
				}
				if at, ok := seen[e.ID]; ok {
					require.Same(t, at, &e.Tokens.Data[0], "ID %d came back with other rows", e.ID)
				}
				seen[e.ID] = &e.Tokens.Data[0]
			}
			most := budget
			if budget == 0 {
				most = sizes.Tokens
			}
			require.LessOrEqual(t, rows, most)
			if most >= s.Newest.Tokens.Rows {
				require.Contains(t, shown, s.Newest, "the newest frame is always in where it fits")
			}
		}
	}
}

func FuzzComposite(f *testing.F) {
	f.Add([]byte{}, 3, 2, 1)
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0}, 1, 1, -1)
	f.Add([]byte("a fixed camera sees the same street for hours, then a van comes, and everybody wants to know its colour"), 4, 3, 2)
	f.Fuzz(func(t *testing.T, data []byte, past, unit, recent int) {
		c := Composite{Past: past % 50, Unit: unit % 20, Recent: recent % 9, Tokens: 60}
		bank, seen, at := New(time.Unix(0, 0), c), map[uint64]*float32{}, time.Duration(0)
		for i := 0; i+2 < len(data) && i < 600; i += 3 {
			grid := Grid{2, 2}
			if data[i] == 255 {
				grid = Grid{3, 1}
			}
			m := compute.NewMatrix(grid.H*grid.W, 3)
			for j := range m.Data {
				m.Data[j] = float32(int8(data[i+1])) * float32(j%5)
			}
			at += time.Duration(int8(data[i+2])) * 100 * time.Millisecond
			held := bank.Snapshot()
			before := append([]Entry(nil), held.Entries...)
			bank.Add(Entry{At: max(at, 0), Grid: grid, Tokens: m})
			require.Equal(t, before, held.Entries, "what a snapshot holds is never written to")
			if i%15 == 0 {
				checkComposite(t, c, bank.Snapshot(), seen)
			}
		}
		checkComposite(t, c, bank.Snapshot(), seen)
	})
}

// A question is shown what its indicator is near to, the earliest or latest of it where it says so, and nothing of other times when
// it names one.
func TestCompositeSelectsByQuestion(t *testing.T) {
	c := Composite{Past: 100, Unit: -1, Recent: -1, Tokens: 4 + 3}
	bank := New(time.Unix(0, 0), c)
	for i := range 40 {
		m := compute.NewMatrix(4, 2)
		m.Data[i%4*2+i/4%2] = 1
		point := []float32{1, 0}
		if i%10 == 5 { // 5, 15, 25, 35
			point = []float32{float32(i), 100}
		}
		bank.Add(Entry{At: time.Duration(i) * time.Second, Grid: Grid{2, 2}, Tokens: m, Indicator: NewIndicator(point)})
	}
	seconds := func(entries []Entry) (at []int) {
		for _, e := range entries {
			at = append(at, int(e.At/time.Second))
		}
		return at
	}
	s := *bank.Snapshot()
	query := []float32{0, 1}
	require.Equal(t, []int{39, 5, 15, 25}, seconds(s.Select(query, 0)), "the newest, then those nearest to the question, in time order")
	s.Prefer = Latest
	require.Equal(t, []int{39, 15, 25, 35}, seconds(s.Select(query, 0)))
	s.Prefer = Earliest
	require.Equal(t, []int{39, 0, 1, 5}, seconds(s.Select(query, 0)), "the earliest of twice as many as fit")
	s.Prefer = AnyTime
	require.Equal(t, []int{39, 6, 19, 32}, seconds(s.Select(nil, 0)), "without a query, evenly")
	part := s.Between(20*time.Second, 30*time.Second)
	require.Equal(t, []int{19, 20, 25}, seconds(part.Select([]float32{0, 1}, 3)))
}

func TestCompositeRestored(t *testing.T) {
	c := Composite{Past: 6, Unit: 2, Recent: 2}
	whole, first := New(time.Unix(0, 0).UTC(), c), New(time.Unix(0, 0).UTC(), c)
	stream(whole, 0, 90)
	stream(first, 0, 50)
	again, err := Restore(bytes.NewReader(saved(t, first)), c, origin)
	require.NoError(t, err)
	require.Equal(t, first.Snapshot(), again.Snapshot())
	stream(again, 50, 90)
	require.Equal(t, whole.Snapshot(), again.Snapshot())
}

// fill gives a bank so many frames that its past is full.
func fill(c Composite, frames int) (*Bank, func()) {
	r := rand.New(rand.NewPCG(5, 6))
	ms, points := make([]compute.Matrix, 97), make([]Indicator, 97)
	for i := range ms {
		ms[i] = compute.NewMatrix(32, 384)
		for j := range ms[i].Data {
			ms[i].Data[j] = float32(r.NormFloat64())
		}
		v := make([]float32, 128)
		for j := range v {
			v[j] = float32(r.NormFloat64())
		}
		points[i] = NewIndicator(v)
	}
	bank, n := New(time.Unix(0, 0), c), 0
	add := func() {
		bank.Add(Entry{At: time.Duration(n) * time.Second, Grid: Grid{4, 8}, Tokens: ms[n%97], Indicator: points[n*31%97]})
		n++
	}
	for range frames {
		add()
	}
	return bank, add
}

// BenchmarkCompositeAdd is one frame of the default model into a memory of 10,000 spans.
func BenchmarkCompositeAdd(b *testing.B) {
	_, add := fill(Composite{Past: 10_000}, 11_000)
	b.ReportAllocs()
	for b.Loop() {
		add()
	}
}

// BenchmarkCompositeSelect picks 512 tokens out of 10,000 spans.
func BenchmarkCompositeSelect(b *testing.B) {
	bank, _ := fill(Composite{Past: 10_000}, 11_000)
	s, query := bank.Snapshot(), bank.Snapshot().Newest.Indicator.Vector()
	b.ReportAllocs()
	for b.Loop() {
		s.Select(query, 512)
	}
}
