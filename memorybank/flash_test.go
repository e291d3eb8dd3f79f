package memorybank

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"afterimage/internal/compute"

	"github.com/stretchr/testify/require"
)

// TestFlashAgainstNumPy compares every step with testdata/make_flash_golden.py, which remembers all frames.
func TestFlashAgainstNumPy(t *testing.T) {
	b, err := os.ReadFile("testdata/flash_golden.json")
	require.NoError(t, err)
	var g struct {
		Synopsis, Detail, Dim int
		Grid                  [2]int
		Times                 []int64
		Frames                [][]float32
		States                []struct {
			Start, End, At, Detail []int64
			Weight                 []float32
			Rows                   [][]float32
		}
	}
	require.NoError(t, json.Unmarshal(b, &g))
	bank := New(time.Unix(0, 0).UTC(), Flash{Synopsis: g.Synopsis, Detail: g.Detail})
	for i, rows := range g.Frames {
		n := g.Grid[0] * g.Grid[1]
		bank.Add(Entry{
			At: time.Duration(g.Times[i]) * time.Millisecond, Grid: Grid{g.Grid[0], g.Grid[1]},
			Tokens: compute.Matrix{Rows: n, Cols: g.Dim, Data: rows},
		})
		s, want := bank.Snapshot(), g.States[i]
		var start, end, at, detail []int64
		var weight []float32
		for _, e := range s.Entries {
			start, end = append(start, e.Start.Milliseconds()), append(end, e.End.Milliseconds())
			at, weight = append(at, e.At.Milliseconds()), append(weight, e.Weight)
		}
		for _, e := range s.Select(nil, 0) {
			if e.Role == Detail {
				detail = append(detail, e.At.Milliseconds())
			}
		}
		require.Equal(t, want.Start, start, "frame %d", i)
		require.Equal(t, want.End, end, "frame %d", i)
		require.Equal(t, want.Weight, weight, "frame %d", i)
		require.Equal(t, want.At, at, "frame %d", i)
		require.Equal(t, want.Detail, detail, "frame %d", i)
		for j, rows := range want.Rows {
			require.InDeltaSlice(t, rows, s.Entries[j].Tokens.Data, 2e-5, "frame %d cluster %d", i, j)
		}
	}
}

// checkFlash is what holds of a Flash snapshot after any frames whatever. seen maps IDs to the rows they were first met with.
func checkFlash(t *testing.T, f Flash, s *Snapshot, seen map[uint64]*float32) {
	t.Helper()
	synopsis, detail := f.sizes()
	require.LessOrEqual(t, len(s.Entries), synopsis)
	require.Equal(t, min(int(s.Version), synopsis), len(s.Entries))
	var sum float32
	ids := map[uint64]bool{}
	for i, e := range s.Entries {
		sum += e.Weight
		require.LessOrEqual(t, e.Start, e.At)
		require.LessOrEqual(t, e.At, e.End)
		if i > 0 {
			require.LessOrEqual(t, s.Entries[i-1].End, e.Start)
		}
		require.Equal(t, Synopsis, e.Role)
		require.False(t, ids[e.ID], "ID %d twice", e.ID)
		ids[e.ID] = true
		require.Equal(t, e.At, e.exemplar.frame.At)
		require.Equal(t, e.Thumb, e.exemplar.frame.Thumb)
	}
	require.Equal(t, float32(s.Version), sum)
	for _, budget := range []int{0, 1, 7, 40, 33, 100, 1000} {
		shown := s.Select(nil, budget)
		rows, details := 0, 0
		for i, e := range shown {
			rows += e.Tokens.Rows
			if e.Role == Detail {
				details++
			}
			require.Equal(t, e.Grid.H*e.Grid.W, e.Tokens.Rows)
			if i > 0 && e.Role == shown[i-1].Role {
				require.LessOrEqual(t, shown[i-1].End, e.Start)
			}
			if i > 0 {
				order := map[Role]int{Detail: 0, Synopsis: 1, Newest: 2}
				require.LessOrEqual(t, order[shown[i-1].Role], order[e.Role])
			}
			first := &e.Tokens.Data[0]
			if at, ok := seen[e.ID]; ok {
				require.Same(t, at, first, "ID %d came back with other rows", e.ID)
			}
			seen[e.ID] = first
		}
		if budget > 0 {
			require.LessOrEqual(t, rows, budget)
		} else {
			require.Equal(t, min(detail, len(s.Entries))+len(s.Entries)+1, len(shown))
		}
		require.LessOrEqual(t, details, detail)
	}
}

// FuzzFlash adds frames read from the fuzzer's bytes: times that jump and run back, rows that repeat, overflow or are not numbers,
// grids that change.
func FuzzFlash(f *testing.F) {
	f.Add([]byte{}, 3, 2)
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0}, 1, 1)
	f.Add([]byte("a fixed camera sees the same street for hours, then a van"), 4, 0)
	f.Add([]byte{255, 254, 253, 252, 1, 2, 3, 255, 0, 7, 7, 7, 7, 7, 7, 250, 251}, 2, -1)
	f.Fuzz(func(t *testing.T, data []byte, synopsis, detail int) {
		strategy := Flash{Synopsis: synopsis % 12, Detail: detail % 5}
		bank := New(time.Time{}, strategy)
		seen := map[uint64]*float32{}
		var held []*Snapshot
		for i, c := range data[:min(len(data), 64)] {
			g := Grid{2, 2}
			if c == 200 {
				g = Grid{3, 1}
			}
			m := compute.NewMatrix(g.H*g.W, 2)
			for j := range m.Data {
				m.Data[j] = float32(c%16) * float32(j+1)
			}
			switch c {
			case 255:
				m.Data[0] = float32(math.NaN())
			case 254:
				m.Data[1] = float32(math.Inf(1))
			case 253:
				m.Data[2] = math.MaxFloat32
			}
			bank.Add(Entry{At: time.Duration(i*10-int(c)) * time.Second, Grid: g, Tokens: m, Thumb: []byte{c}})
			s := bank.Snapshot()
			require.Equal(t, uint64(i+1), s.Version)
			checkFlash(t, strategy, s, seen)
			if i%16 == 0 {
				held = append(held, s)
			}
		}
		for _, s := range held { // what was taken earlier has not moved
			checkFlash(t, strategy, s, seen)
		}
	})
}

func TestFlashLongStreamKeepsInvariants(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	f := Flash{Synopsis: 16, Detail: 4}
	bank := New(time.Now(), f)
	at := time.Duration(0)
	for i := range 5000 {
		m := compute.NewMatrix(8, 3)
		for j := range m.Data {
			m.Data[j] = float32(r.NormFloat64()) + float32(i/700)
		}
		at += time.Duration(r.IntN(1000)) * time.Millisecond
		bank.Add(Entry{At: at, Grid: Grid{2, 4}, Tokens: m})
		if i%250 == 0 {
			checkFlash(t, f, bank.Snapshot(), map[uint64]*float32{})
		}
	}
	checkFlash(t, f, bank.Snapshot(), map[uint64]*float32{})
}

func TestPoolOddGrid(t *testing.T) {
	m := compute.Matrix{Rows: 3, Cols: 2, Data: []float32{1, 10, 3, 30, 5, 50}}
	g, p := pool2x2(Grid{3, 1}, m)
	require.Equal(t, Grid{2, 1}, g)
	require.Equal(t, []float32{2, 20, 5, 50}, p.Data)
	g, p = pool2x2(Grid{1, 3}, m)
	require.Equal(t, Grid{1, 2}, g)
	require.Equal(t, []float32{2, 20, 5, 50}, p.Data)
}

// A static scene must not drift: averaging equal rows any number of times gives them back, bit for bit.
func TestFlashStaticSceneIsExact(t *testing.T) {
	bank := New(time.Now(), Flash{Synopsis: 2})
	m := compute.NewMatrix(4, 3)
	for j := range m.Data {
		m.Data[j] = 0.1 * float32(j+1)
	}
	_, want := pool2x2(Grid{2, 2}, m)
	for i := range 1000 {
		bank.Add(Entry{At: time.Duration(i), Grid: Grid{2, 2}, Tokens: m})
	}
	for _, e := range bank.Snapshot().Entries {
		require.Equal(t, want.Data, e.Tokens.Data)
	}
}

func fullBank(rows Grid, dim, frames int, s Strategy) (*Bank, []compute.Matrix) {
	r := rand.New(rand.NewPCG(3, 4))
	ms := make([]compute.Matrix, 97)
	for i := range ms {
		ms[i] = compute.NewMatrix(rows.H*rows.W, dim)
		for j := range ms[i].Data {
			ms[i].Data[j] = float32(r.NormFloat64())
		}
	}
	bank := New(time.Now(), s)
	for i := range frames {
		bank.Add(Entry{At: time.Duration(i) * time.Second, Grid: rows, Tokens: ms[i%len(ms)]})
	}
	return bank, ms
}

// BenchmarkFlashAdd is one frame of the default model, 32x384, into a full bank.
func BenchmarkFlashAdd(b *testing.B) {
	bank, ms := fullBank(Grid{4, 8}, 384, 100, Flash{})
	at := bank.Snapshot().Now
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		at += time.Second
		bank.Add(Entry{At: at, Grid: Grid{4, 8}, Tokens: ms[i%len(ms)]})
	}
}

func BenchmarkFlashSelect(b *testing.B) {
	bank, _ := fullBank(Grid{4, 8}, 384, 100, Flash{})
	s := bank.Snapshot()
	b.ReportAllocs()
	for b.Loop() {
		s.Select(nil, 0)
	}
}

func BenchmarkFlashSelectBudget(b *testing.B) {
	bank, _ := fullBank(Grid{4, 8}, 384, 100, Flash{})
	s := bank.Snapshot()
	b.ReportAllocs()
	for b.Loop() {
		s.Select(nil, 600)
	}
}
