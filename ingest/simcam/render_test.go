package simcam

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mean absolute difference of two pictures, 0..255.
func difference(a, b []byte) float64 {
	sum := 0
	for i := range a {
		d := int(a[i]) - int(b[i])
		sum += max(d, -d)
	}
	return float64(sum) / float64(len(a))
}

func picture(s *Script, w, h int, t time.Duration) []byte {
	buf := make([]byte, 3*w*h)
	NewRenderer(s, w, h).Render(buf, t)
	return buf
}

func TestRenderIsDeterministicAndMoves(t *testing.T) {
	s := NewScript(900_003, 10*time.Minute)
	a := picture(s, 640, 360, 100*time.Second)
	assert.Equal(t, a, picture(s, 640, 360, 100*time.Second))
	e := s.Episodes[0]
	for _, e = range s.Episodes {
		if e.Action == Cross && e.Category == Van {
			break
		}
	}
	mid := (e.Start + e.End) / 2
	assert.Greater(t, difference(picture(s, 640, 360, mid), picture(s, 640, 360, mid+time.Second)), 1.0, "a passing %s changes the picture", e.name())
}

// What a switch does must be visible as more than camera noise where it stands, by night and in fog too.
func TestSwitchesShow(t *testing.T) {
	shown := 0
	a, b := make([]byte, 3*640*360), make([]byte, 3*640*360)
	for seed := uint64(900_000); seed < 900_004; seed++ {
		s := NewScript(seed, 10*time.Minute)
		r := NewRenderer(s, 640, 360)
		for _, sw := range switches {
			for _, p := range s.On[sw] {
				x := map[Switch]float32{Door: r.scene.doorX, Lamp: r.scene.lampX, Gate: r.scene.gateX + 8}[sw]
				y := map[Switch]int{Door: 185, Lamp: 150, Gate: 208}[sw]
				before, after := p.From-40*time.Millisecond, p.From+40*time.Millisecond
				if before < 0 || len(s.Active(p.From)) > 0 || s.SkyAt(before) != s.SkyAt(after) {
					continue
				}
				r.Render(a, before)
				r.Render(b, after)
				var pa, pb []byte
				for dy := -5; dy <= 5; dy++ {
					o := 3 * ((y+dy)*640 + int(x) - 5)
					pa, pb = append(pa, a[o:o+33]...), append(pb, b[o:o+33]...)
				}
				assert.Greaterf(t, difference(pa, pb), 12.0, "seed %d: the %s at %v", seed, sw, p.From)
				shown++
			}
		}
	}
	assert.Greater(t, shown, 10)
}

func TestOddSizes(t *testing.T) {
	s := NewScript(7, time.Minute)
	for _, size := range [][2]int{{17, 16}, {641, 359}, {1280, 720}, {31, 333}} {
		buf := make([]byte, 3*size[0]*size[1])
		NewRenderer(s, size[0], size[1]).Render(buf, 10*time.Second)
		zero := 0
		for _, v := range buf {
			if v == 0 {
				zero++
			}
		}
		assert.Less(t, zero, len(buf)/4, "%v is painted", size)
	}
}

func TestCamera(t *testing.T) {
	c, err := Open(CameraOptions{Seed: 5, Length: 3 * time.Second, FPS: 2, Epoch: epoch})
	require.NoError(t, err)
	for i := range 6 {
		f, err := c.Next(context.Background())
		require.NoError(t, err)
		assert.Equal(t, int64(i), f.Index)
		assert.Equal(t, epoch.Add(f.PTS), f.Wall)
		assert.Len(t, f.Pix, 3*640*360)
	}
	_, err = c.Next(context.Background())
	assert.Equal(t, io.EOF, err)

	paced, err := Open(CameraOptions{Pace: true, Epoch: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = paced.Next(ctx)
	assert.ErrorIs(t, err, context.Canceled, "a cancelled wait ends at once")
}

func TestParseOptions(t *testing.T) {
	o, err := ParseOptions("street", map[string][]string{"seed": {"9"}, "minutes": {"1.5"}, "fps": {"4"}, "pace": {"false"}})
	require.NoError(t, err)
	assert.Equal(t, CameraOptions{Seed: 9, Length: 90 * time.Second, FPS: 4}, o)
	for key, v := range map[string]string{"seed": "-1", "minutes": "NaN", "fps": "x", "colour": "red"} {
		_, err := ParseOptions("street", map[string][]string{key: {v}})
		assert.ErrorContains(t, err, key)
	}
	_, err = ParseOptions("beach", nil)
	assert.ErrorContains(t, err, "beach")
	_, err = Open(CameraOptions{FPS: -1})
	assert.ErrorContains(t, err, "fps")
}

func BenchmarkRender(b *testing.B) {
	r := NewRenderer(NewScript(900_001, 10*time.Minute), 640, 360)
	buf := make([]byte, 3*640*360)
	for i := 0; b.Loop(); i++ {
		r.Render(buf, time.Duration(i%6000)*100*time.Millisecond)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
}
