package memorybank

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"afterimage/internal/compute"

	"github.com/stretchr/testify/require"
)

// fakeEncoder is both encoders, simple enough to follow by hand.
type fakeEncoder struct{}

func meanRows(frames []compute.Matrix) compute.Matrix {
	m := compute.NewMatrix(frames[0].Rows, frames[0].Cols)
	for _, f := range frames {
		for i, v := range f.Data {
			m.Data[i] += v / float32(len(frames))
		}
	}
	return m
}

func halfOf(m, add compute.Matrix) compute.Matrix {
	for i, v := range add.Data {
		m.Data[i] += v / 2
	}
	return m
}

func (fakeEncoder) Clip(prev compute.Matrix, _, _ string, frames []compute.Matrix) (compute.Matrix, []float32, error) {
	m := meanRows(frames)
	return halfOf(meanRows(frames), prev), gist(m), nil
}

func (fakeEncoder) Segment(past, frames []compute.Matrix) (compute.Matrix, []compute.Matrix, error) {
	rows := make([]compute.Matrix, len(frames))
	for i, f := range frames {
		if len(frames) <= 2 || i%2 == 0 {
			rows[i] = compute.Matrix{Rows: f.Rows, Cols: f.Cols, Data: slices.Clone(f.Data)}
			for j := range rows[i].Data {
				rows[i].Data[j] += 100
			}
		}
	}
	memory := meanRows(frames)
	if len(past) > 0 {
		memory = halfOf(memory, past[len(past)-1])
	}
	return memory, rows, nil
}

func (fakeEncoder) Indicate(rows compute.Matrix) ([]float32, error) { return gist(rows), nil }

// heard is a fakeEncoder that notes what it is told, and fails when it is to.
type heard struct {
	fakeEncoder
	clips    []string
	segments []string
	fail     error
}

func (h *heard) Clip(prev compute.Matrix, since, start string, frames []compute.Matrix) (compute.Matrix, []float32, error) {
	h.clips = append(h.clips, fmt.Sprintf("%d %s %s %d", len(prev.Data), since, start, len(frames)))
	if h.fail != nil {
		return compute.Matrix{}, nil, h.fail
	}
	return h.fakeEncoder.Clip(prev, since, start, frames)
}

func (h *heard) Segment(past, frames []compute.Matrix) (compute.Matrix, []compute.Matrix, error) {
	h.segments = append(h.segments, fmt.Sprintf("%d %d", len(past), len(frames)))
	if h.fail != nil {
		return compute.Matrix{}, nil, h.fail
	}
	return h.fakeEncoder.Segment(past, frames)
}

func addFrame(b *Bank, seconds int, grid Grid, values ...float32) {
	m := compute.NewMatrix(grid.H*grid.W, len(values))
	for i := range m.Data {
		m.Data[i] = values[i%len(values)]
	}
	b.Add(Entry{At: time.Duration(seconds) * time.Second, Grid: grid, Tokens: m})
}

// The encoder is told the time of day where the bank is, of the whole history and of the clip; another grid begins another history.
func TestPropagatedTellsTheTime(t *testing.T) {
	zone := time.FixedZone("there", 2*3600)
	h := &heard{}
	bank := New(time.Date(2026, 3, 1, 23, 59, 50, 0, zone), Propagated{Encoder: h, Frames: 3})
	for i := range 9 {
		addFrame(bank, i*2, Grid{2, 2}, 1, float32(i))
	}
	addFrame(bank, 20, Grid{2, 2}, 1, 1)
	addFrame(bank, 21, Grid{4, 2}, 1, 1)
	addFrame(bank, 22, Grid{4, 2}, 1, 1)
	require.Equal(t, []string{"0 235950 235950 3", "2 235950 235956 3", "2 235950 000002 3", "2 235950 000010 1"}, h.clips)
	addFrame(bank, 23, Grid{4, 2}, 1, 1)
	require.Equal(t, "0 000011 000011 3", h.clips[4])
}

func TestBridgePassesMemories(t *testing.T) {
	h := &heard{}
	bank := New(time.Unix(0, 0), Bridge{Encoder: h, Segmenter: Clips{N: 3}})
	for i := range 8 {
		addFrame(bank, i, Grid{2, 2}, 1, float32(i))
	}
	for i := range 3 {
		addFrame(bank, 8+i, Grid{4, 2}, 1, 1)
	}
	require.Equal(t, []string{"0 3", "1 3", "2 2", "0 3"}, h.segments, "rows of another shape end a segment, and its memory is no past of theirs")
}

// What the encoder cannot sum up is averaged, Failed is told, and the stream goes on.
func TestLearnedOutliveTheirEncoder(t *testing.T) {
	broken := errors.New("device lost")
	for name, c := range map[string]struct {
		strategy func(h *heard, failed func(error)) Strategy
		shown    int
	}{
		"propagated": {func(h *heard, failed func(error)) Strategy { return Propagated{Encoder: h, Frames: 10, Failed: failed} }, 0},
		"bridge": {func(h *heard, failed func(error)) Strategy {
			return Bridge{Encoder: h, Segmenter: Clips{N: 10}, Failed: failed}
		}, bridgeFrames},
		"silent": {func(h *heard, _ func(error)) Strategy { return Propagated{Encoder: h, Frames: 10} }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h, told := &heard{fail: broken}, []error(nil)
			bank := New(time.Unix(0, 0), c.strategy(h, func(err error) { told = append(told, err) }))
			for i := range 10 {
				addFrame(bank, i, Grid{2, 2}, float32(i), 9-float32(i))
			}
			entries := bank.Snapshot().Entries
			require.Len(t, entries, 1+c.shown)
			require.InDeltaSlice(t, []float32{4.5, 4.5}, entries[0].Tokens.Data, 1e-5)
			require.InDelta(t, 1, entries[0].Indicator.Cosine([]float32{math.Sqrt2 / 2, math.Sqrt2 / 2}), 0.01)
			require.EqualValues(t, 10, entries[0].Weight)
			for _, e := range entries[1:] {
				require.EqualValues(t, e.At.Seconds(), e.Tokens.Data[0], "as it was")
			}
			if name != "silent" {
				require.Equal(t, []error{broken}, told)
			}
			h.fail = nil
			for i := range 10 {
				addFrame(bank, 10+i, Grid{2, 2}, 1, 1)
			}
			require.NotEmpty(t, bank.Snapshot().Select(nil, 100))
			require.Equal(t, []float32{1 + 2.25, 1 + 2.25}, round(bank.Snapshot().Entries[1].Tokens.Data), "what stood in is propagated")
		})
	}
}

func round(v []float32) []float32 {
	out := slices.Clone(v)
	for i := range out {
		out[i] = float32(math.Round(float64(out[i])*1e4) / 1e4)
	}
	return out
}

// misshapen is an encoder of another model.
type misshapen struct{ fakeEncoder }

func (misshapen) Clip(compute.Matrix, string, string, []compute.Matrix) (compute.Matrix, []float32, error) {
	return compute.NewMatrix(3, 2), []float32{1, 0}, nil
}

func (misshapen) Segment(_, frames []compute.Matrix) (compute.Matrix, []compute.Matrix, error) {
	return frames[0], nil, nil
}

func TestLearnedRefuseOtherShapes(t *testing.T) {
	var told []string
	failed := func(err error) { told = append(told, err.Error()) }
	for _, s := range []Strategy{Propagated{Encoder: misshapen{}, Frames: 2, Failed: failed}, Bridge{Encoder: misshapen{}, Segmenter: Clips{N: 2}, Failed: failed}} {
		bank := New(time.Unix(0, 0), s)
		addFrame(bank, 0, Grid{2, 2}, 1, 2)
		addFrame(bank, 1, Grid{2, 2}, 3, 4)
		require.Equal(t, []float32{2, 3}, bank.Snapshot().Entries[0].Tokens.Data)
	}
	require.Equal(t, []string{"memorybank: the summary of a clip of rows [1 2] is [3 2]",
		"memorybank: the memory of a segment of rows [1 2] is [1 2], with 0 frames of 2"}, told)
}

// checkLearned is what holds of a Propagated's or Bridge's snapshot after any frames whatever. seen maps IDs to the rows they were first met
// with.
func checkLearned(t *testing.T, s *Snapshot, most, show int, seen map[uint64]*float32) {
	t.Helper()
	if s.Version == 0 {
		require.Empty(t, s.Select(nil, 100))
		require.Empty(t, s.Prefix(100))
		return
	}
	_, bridge := s.strategy.(Bridge)
	ids, frames, kept := map[uint64]bool{}, float32(0), 0
	var last Entry
	for _, e := range s.Entries {
		require.False(t, ids[e.ID], "ID %d twice", e.ID)
		ids[e.ID] = true
		require.Equal(t, s.Version >= e.ID/idStep, true)
		require.True(t, e.Start <= e.At && e.At <= e.End && e.End <= s.Now)
		require.GreaterOrEqual(t, e.part, last.part)
		if e.part == last.part {
			require.GreaterOrEqual(t, e.Start, last.End)
		}
		if e.part == 0 {
			kept++
		}
		if !bridge || e.part != bridgedPart {
			frames += e.Weight
		}
		if at, ok := seen[e.ID]; ok {
			require.Same(t, at, &e.Tokens.Data[0], "ID %d came back with other rows", e.ID)
		}
		seen[e.ID] = &e.Tokens.Data[0]
		last = e
	}
	require.Equal(t, float32(s.Version), frames, "weights count frames")
	require.LessOrEqual(t, kept, max(most, 2))
	for _, budget := range []int{0, 1, 2, 3, 4, 5, 7, 9, 13, 33, 200} {
		prefix := s.Prefix(budget)
		for _, query := range [][]float32{nil, {1, 0, 0}, {0, -1, 0}} {
			shown, rows, chosen := s.Select(query, budget), 0, 0
			at := time.Duration(0)
			for i, e := range shown {
				rows += e.Tokens.Rows
				if i < len(prefix) {
					require.Equal(t, prefix[i].ID, e.ID, "whatever is asked, prompts begin alike")
				}
				if e.part == 0 && e.Role == Synopsis {
					chosen++
				}
				if !bridge || e.part != bridgedPart { // they are of the last memory's time
					require.GreaterOrEqual(t, e.Start, at, "in time order")
					at = e.Start
				}
			}
			if budget > 0 {
				require.LessOrEqual(t, rows, budget)
			} else if s.Newest.Tokens.Rows == 4 { // of frames of one shape
				require.LessOrEqual(t, chosen, max(show, 1)*2)
			}
			if budget == 0 || budget >= s.Newest.Tokens.Rows {
				require.Equal(t, s.Newest, shown[len(shown)-1], "the newest frame is always in where it fits")
			}
		}
	}
}

func FuzzLearned(f *testing.F) {
	f.Add([]byte{}, 3, 2, 1)
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 1, 1, 1)
	f.Add([]byte("a fixed camera sees the same street for hours, then a van comes, and everybody wants to know its colour"), 4, 3, 2)
	f.Add([]byte{255, 1, 1, 0, 2, 2, 255, 3, 3, 0, 4, 4, 255, 5, 5, 0, 6, 6}, 2, 4, 8)
	f.Fuzz(func(t *testing.T, data []byte, frames, most, show int) {
		frames, most, show = 1+abs(frames%9), abs(most%12), abs(show%6)
		for _, s := range []Strategy{
			Propagated{Encoder: fakeEncoder{}, Frames: frames, Clips: most, Show: show},
			Bridge{Encoder: fakeEncoder{}, Segmenter: Clips{N: frames}, Segments: most, Show: show},
			Bridge{Encoder: fakeEncoder{}, Segmenter: Dips{Frames: frames + 2, Within: frames}, Segments: most, Show: show},
			Bridge{Encoder: fakeEncoder{}, Segmenter: SceneTilling{Window: frames, Most: 3 * frames}, Segments: most, Show: show},
		} {
			bank, seen, at := New(time.Unix(0, 0), s), map[uint64]*float32{}, time.Duration(0)
			kept := most
			if kept == 0 {
				kept = 1024
			}
			for i := 0; i+2 < len(data) && i < 400; i += 3 {
				grid := Grid{2, 2}
				if data[i] == 255 {
					grid = Grid{4, 1}
				}
				m := compute.NewMatrix(grid.H*grid.W, 3)
				for j := range m.Data {
					m.Data[j] = float32(int8(data[i+1])) * float32(j%5)
				}
				at += time.Duration(int8(data[i+2])) * 100 * time.Millisecond
				held := bank.Snapshot()
				before := slices.Clone(held.Entries)
				bank.Add(Entry{At: max(at, 0), Grid: grid, Tokens: m})
				require.Equal(t, before, held.Entries, "what a snapshot holds is never written to")
				if i%15 == 0 {
					checkLearned(t, bank.Snapshot(), kept, orDefault(show, 8), seen)
				}
			}
			checkLearned(t, bank.Snapshot(), kept, orDefault(show, 8), seen)
		}
	})
}

func abs(n int) int { return max(n, -n) }

func TestLearnedRestored(t *testing.T) {
	for _, s := range []Strategy{Propagated{Encoder: fakeEncoder{}, Frames: 4, Clips: 5}, Bridge{Encoder: fakeEncoder{}, Segmenter: Dips{Frames: 7, Within: 4}, Segments: 5}} {
		whole, first := New(time.Unix(0, 0).UTC(), s), New(time.Unix(0, 0).UTC(), s)
		stream(whole, 0, 90)
		stream(first, 0, 51)
		again, err := Restore(bytes.NewReader(saved(t, first)), s, origin)
		require.NoError(t, err)
		require.Equal(t, first.Snapshot().Entries, again.Snapshot().Entries)
		stream(again, 51, 90)
		require.Equal(t, whole.Snapshot().Entries, again.Snapshot().Entries)
	}
	bank := New(time.Unix(0, 0).UTC(), Propagated{Encoder: fakeEncoder{}})
	stream(bank, 0, 20)
	_, err := Restore(bytes.NewReader(saved(t, bank)), Propagated{Encoder: fakeEncoder{}, Frames: 4}, origin)
	require.ErrorContains(t, err, `"memorybank.Propagated{Frames:8, Clips:1024, Show:8}", this is "memorybank.Propagated{Frames:4, Clips:1024, Show:8}"`)
}

// BenchmarkLearned is what a frame and a question cost beside the encoder, with as many clips or memories as are kept by default.
func BenchmarkLearned(b *testing.B) {
	for name, s := range map[string]Strategy{
		"propagated":      Propagated{Encoder: fakeEncoder{}},
		"bridge":          Bridge{Encoder: fakeEncoder{}},
		"bridge of clips": Bridge{Encoder: fakeEncoder{}, Segmenter: Clips{N: 8}},
	} {
		bank, at := New(time.Unix(0, 0), s), 0
		rng := rand.New(rand.NewPCG(7, 8))
		frames, points := make([]compute.Matrix, 97), make([]Indicator, 97)
		for i := range frames {
			frames[i] = compute.NewMatrix(32, 384)
			for j := range frames[i].Data {
				frames[i].Data[j] = rng.Float32() - 0.4
			}
			points[i] = NewIndicator(gist(frames[i])[:128])
		}
		add := func() {
			at++
			bank.Add(Entry{At: time.Duration(at) * time.Second / 2, Grid: Grid{4, 8}, Tokens: frames[at%97], Indicator: points[at%97]})
		}
		for range 8300 {
			add()
		}
		b.Run(name+"/update", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				add()
			}
		})
		query := bank.Snapshot().Entries[0].Indicator.Vector()
		b.Run(name+"/select", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bank.Snapshot().Select(query, 512)
			}
			b.ReportMetric(float64(len(bank.Snapshot().Entries)), "entries")
		})
	}
}
