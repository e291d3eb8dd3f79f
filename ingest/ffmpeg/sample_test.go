package ffmpeg

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func TestClock(t *testing.T) {
	const hour = 3600.0
	for name, tt := range map[string]struct {
		live      bool
		raw, wall []float64
		want      []float64
	}{
		"starts at zero":              {raw: []float64{90, 90.04, 90.08}, want: []float64{0, 0.04, 0.08}},
		"negative start":              {raw: []float64{-2, -1, 0}, want: []float64{0, 1, 2}},
		"long pauses in a file":       {raw: []float64{0, 60, 300}, want: []float64{0, 60, 300}},
		"a file wraps":                {raw: []float64{95000, 95001, 0.5, 1.5}, want: []float64{0, 1, 2, 3}},
		"a file jumps ahead":          {raw: []float64{0, 1, 26 * hour, 26*hour + 1}, want: []float64{0, 1, 2, 3}},
		"equal times":                 {raw: []float64{5, 5, 6}, want: []float64{0, 0, 1}},
		"a camera wraps":              {live: true, raw: []float64{100, 101, 0, 1}, wall: []float64{0, 1, 2.5, 3.5}, want: []float64{0, 1, 2.5, 3.5}},
		"a camera sets its clock":     {live: true, raw: []float64{10, 11, 5000, 5001}, wall: []float64{0, 1, 2, 3}, want: []float64{0, 1, 2, 3}},
		"the network stalls":          {live: true, raw: []float64{0, 1, 2, 3, 4}, wall: []float64{0, 1, 20, 20, 20.1}, want: []float64{0, 1, 2, 3, 4}},
		"a camera pauses":             {live: true, raw: []float64{0, 1, 31}, wall: []float64{0, 1, 31}, want: []float64{0, 1, 31}},
		"a burst of what came before": {live: true, raw: []float64{0, 1, 2, 3, 4, 5}, wall: []float64{0, 0, 0, 0, 0, 0}, want: []float64{0, 1, 2, 3, 4, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			c := clock{live: tt.live}
			start := time.Unix(1e9, 0)
			for i, raw := range tt.raw {
				now := start
				if tt.wall != nil {
					now = start.Add(seconds(tt.wall[i]))
				}
				peeked, _ := c.peek(seconds(raw), now)
				got := c.advance(seconds(raw), now)
				assert.Equal(t, got, peeked)
				assert.InDelta(t, tt.want[i], got.Seconds(), 1e-6, "step %d", i)
			}
		})
	}
}

func TestSampler(t *testing.T) {
	count := func(fps, stream float64, jitter []float64) (n int, least time.Duration) {
		s := newSampler(fps)
		last := time.Duration(-1 << 62)
		least = time.Hour
		for i := 0; float64(i) < 100*stream; i++ {
			at := seconds((float64(i) + jitter[i%len(jitter)]) / stream)
			if s.take(at) {
				n++
				least = min(least, at-last)
				last = at
			}
		}
		return n, least
	}
	for _, tt := range []struct {
		fps, stream float64
		jitter      []float64
		want        int
	}{
		{2, 25, []float64{0}, 200},
		{2, 29.97, []float64{0}, 200},
		{2, 2, []float64{0, 0.04, -0.04}, 200}, // the stream's own rate, with jitter: nothing is lost
		{5, 5, []float64{0, 0.1, -0.1}, 500},
		{2, 1, []float64{0}, 100},
		{0.5, 25, []float64{0}, 50},
		{0, 25, []float64{0}, 2500},
	} {
		n, least := count(tt.fps, tt.stream, tt.jitter)
		assert.InDelta(t, tt.want, n, 1, "%v of %v", tt.fps, tt.stream)
		if tt.fps > 0 {
			assert.GreaterOrEqual(t, least.Seconds(), 0.5/tt.fps)
		}
	}
}

func TestKeyGate(t *testing.T) {
	feed := func(g *keyGate, gaps ...float64) (at time.Duration) {
		for _, s := range gaps {
			at += seconds(s)
			g.key(at)
		}
		return at
	}
	g := keyGate{every: seconds(0.5)}
	at := feed(&g, 0, 0.5, 0.5, 0.5)
	require.True(t, g.only(at), "key frames at the sampling rate")
	require.True(t, g.only(at+seconds(0.9)))
	require.False(t, g.only(at+seconds(1.1)), "an overdue key frame")
	require.False(t, g.only(at), "and it must earn it again")

	for name, tt := range map[string]struct {
		gaps []float64
		want bool
	}{
		"often":          {[]float64{0, 0.2, 0.2, 0.2}, true},
		"uneven to grid": {[]float64{0, 0.4, 0.4, 0.4, 0.4}, false},
		"rare":           {[]float64{0, 2, 2, 2, 2}, false},
		"too few":        {[]float64{0, 0.2, 0.2}, false},
	} {
		g := keyGate{every: seconds(0.5)}
		assert.Equal(t, tt.want, g.only(feed(&g, tt.gaps...)), name)
	}
	assert.False(t, (&keyGate{intra: true}).only(0), "every frame is wanted")
	assert.True(t, (&keyGate{intra: true, every: 1}).only(0))
	assert.False(t, (&keyGate{intra: true, every: 1, banned: true}).only(0))
}

func TestOrientation(t *testing.T) {
	const one = 1 << 16
	m := func(a, b, c, d int32) [9]int32 {
		return [9]int32{a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30}
	}
	// Where the stored corner (0,0) of a 4x2 picture is shown.
	for name, tt := range map[string]struct {
		m    [9]int32
		w, h int
		x, y int
	}{
		"upright":         {m(1, 0, 0, 1), 4, 2, 0, 0},
		"half turn":       {m(-1, 0, 0, -1), 4, 2, 3, 1},
		"mirrored":        {m(-1, 0, 0, 1), 4, 2, 3, 0},
		"upside down":     {m(1, 0, 0, -1), 4, 2, 0, 1},
		"clockwise":       {m(0, 1, -1, 0), 2, 4, 1, 0},
		"anticlockwise":   {m(0, -1, 1, 0), 2, 4, 0, 3},
		"transposed":      {m(0, 1, 1, 0), 2, 4, 0, 0},
		"anti-transposed": {m(0, -1, -1, 0), 2, 4, 1, 3},
		"all zero":        {m(0, 0, 0, 0), 4, 2, 0, 0},
		"oblique":         {m(1, 1, -1, 1), 4, 2, 0, 0},
	} {
		o := newOrientation(tt.m)
		w, h := o.size(4, 2)
		require.Equal(t, [2]int{tt.w, tt.h}, [2]int{w, h}, name)
		x0, y0 := o.origin(4, 2)
		seen := map[[2]int]bool{}
		for y := range h {
			for x := range w {
				sx, sy := x0+x*o.xx+y*o.xy, y0+x*o.yx+y*o.yy
				require.True(t, sx >= 0 && sx < 4 && sy >= 0 && sy < 2, "%s: %d,%d", name, sx, sy)
				seen[[2]int{sx, sy}] = true
				if sx == 0 && sy == 0 {
					assert.Equal(t, [2]int{tt.x, tt.y}, [2]int{x, y}, name)
				}
			}
		}
		assert.Len(t, seen, 8, name)
	}
}
