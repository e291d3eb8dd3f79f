package memorybank

import (
	"math"
	"testing"

	"afterimage/internal/compute"

	"github.com/stretchr/testify/require"
)

// angles returns one-row frames whose mean rows lie at these angles, in degrees.
func angles(degrees ...float64) []Entry {
	var out []Entry
	for _, d := range degrees {
		s, c := math.Sincos(d * math.Pi / 180)
		out = append(out, Entry{Grid: Grid{1, 1}, Tokens: compute.Matrix{Rows: 1, Cols: 2, Data: []float32{float32(c), float32(s)}}})
	}
	return out
}

// cuts plays frames to a segmenter one by one, as a strategy would, and returns the lengths of the segments and what is pending at last.
func cuts(s Segmenter, frames []Entry) (lengths []int, pending int) {
	from := 0
	for i := range frames {
		for {
			n := s.Cut(frames[from : i+1])
			if n == 0 {
				break
			}
			lengths = append(lengths, n)
			from += n
		}
	}
	return lengths, len(frames) - from
}

func TestSegmenters(t *testing.T) {
	still := make([]float64, 200)
	scenes := make([]float64, 0, 60)
	for i := range 60 { // three scenes of 20, each with a slow turn
		scenes = append(scenes, float64(i/20*40)+float64(i%20)/10+float64(i%2)/5)
	}
	for name, c := range map[string]struct {
		s       Segmenter
		frames  []Entry
		want    []int
		pending int
	}{
		"nothing":                    {Clips{}, nil, nil, 0},
		"clips":                      {Clips{N: 3}, angles(still[:8]...), []int{3, 3}, 2},
		"clips by default":           {Clips{}, angles(still[:33]...), []int{16, 16}, 1},
		"clips of one":               {Clips{N: 1}, angles(1, 2), []int{1, 1}, 0},
		"a dip":                      {Dips{Frames: 6, Within: 4}, angles(0, 1, 30, 31, 32, 70), []int{2}, 4},
		"a dip too far back":         {Dips{Frames: 6, Within: 4}, angles(0, 1, 3, 4, 5, 70), []int{2}, 4},
		"dips tie":                   {Dips{Frames: 5, Within: 4}, angles(0, 0, 0, 0, 0, 0), []int{1, 1}, 4},
		"dips of one":                {Dips{Frames: 1, Within: 1}, angles(0, 9, 0), []int{1, 1, 1}, 0},
		"dips by default, still":     {Dips{}, angles(still[:30]...), []int{1, 1, 1, 1, 1}, 25},
		"scenes":                     {SceneTilling{}, angles(scenes...), []int{20, 20}, 20},
		"scenes, smaller window":     {SceneTilling{Window: 3}, angles(scenes[15:48]...), []int{5, 20}, 8},
		"a still scene is not cut":   {SceneTilling{}, angles(still...), []int{64, 64, 64}, 8},
		"at most, in the valley":     {SceneTilling{Window: 4, Most: 6}, angles(0, 0, 20, 20, 20, 20), []int{2}, 4},
		"scenes of one":              {SceneTilling{Most: 1}, angles(0, 50), []int{1, 1}, 0},
		"nothing is cut before time": {SceneTilling{Window: 4}, angles(0, 0, 50, 50, 50), nil, 5},
	} {
		t.Run(name, func(t *testing.T) {
			got, pending := cuts(c.s, c.frames)
			require.Equal(t, c.want, got)
			require.Equal(t, c.pending, pending)
		})
	}
}

// Rows that are not numbers and grids that change are boundaries, not trouble.
func TestSegmentersOfWhatCannotBeCompared(t *testing.T) {
	frames := angles(0, 0, 0, 0, 0, 0)
	frames[3].Tokens.Data[0] = float32(math.NaN())
	require.EqualValues(t, -1, similarity(frames[2], frames[3]))
	require.Equal(t, 3, Dips{Frames: 6, Within: 5}.Cut(frames))
	frames = angles(0, 0, 0, 0, 0, 0)
	frames[2] = Entry{Grid: Grid{2, 1}, Tokens: compute.NewMatrix(2, 2)}
	require.Equal(t, 2, Dips{Frames: 6, Within: 5}.Cut(frames))
	require.Equal(t, 2, SceneTilling{Window: 2}.Cut(frames[:5]))
	require.Zero(t, similarity(Entry{Grid: Grid{1, 1}, Tokens: compute.NewMatrix(1, 2)}, frames[0]), "black is like nothing, and no trouble")
}
