package ffmpeg

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDecodeSampled(t *testing.T) {
	path := mp4(t, 320, 180, 25, 90) // the last one at 3.56 s
	for _, tt := range []struct {
		fps  float64
		want int
	}{{0, 8}, {2, 8}, {1, 4}, {25, 90}, {-1, 90}, {100, 90}, {0.5, 2}, {7, 26}} {
		fs := all(t, path, Options{FPS: tt.fps})
		require.Equal(t, tt.want, len(fs), "fps %v", tt.fps)
		for i, f := range fs {
			assert.Equal(t, int64(i), f.Index)
			assert.Equal(t, [2]int{320, 180}, [2]int{f.W, f.H})
			// The picture's own number says when it was taken.
			n := int(f.PTS.Seconds()*25 + 0.5)
			assert.InDelta(t, 20+2*n%160, grey(f), 6, "fps %v frame %d at %v", tt.fps, i, f.PTS)
			if tt.fps > 0 && tt.fps < 10 {
				assert.InDelta(t, float64(i)/tt.fps, f.PTS.Seconds(), 0.13/tt.fps+0.04)
			}
			assert.Equal(t, fs[0].Wall.Add(f.PTS), f.Wall)
		}
		assert.Zero(t, fs[0].PTS)
	}
}
