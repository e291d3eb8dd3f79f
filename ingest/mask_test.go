package ingest_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
)

// still is a source of one white picture for ever, one every second, until changed says otherwise.
type still struct {
	pix     []byte
	n       int64
	changed func(n int64) bool
}

func (s *still) Next(ctx context.Context) (ingest.Frame, error) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return ingest.Frame{}, ctx.Err()
	}
	f := ingest.Frame{Index: s.n, PTS: time.Duration(s.n) * time.Second, Wall: time.Now(), W: 10, H: 4, Pix: s.pix}
	if s.changed != nil && s.changed(s.n) {
		f.Pix = bytes.Clone(s.pix)
		f.Pix[0] = byte(s.n)
	}
	s.n++
	return f, nil
}

func (s *still) Close() error { return nil }
func (s *still) Live() bool   { return true }

func TestMasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		white := bytes.Repeat([]byte{255}, 3*10*4)
		src := &still{pix: white}
		open := ingest.Masked(func(context.Context) (ingest.Source, error) { return src, nil },
			[]ingest.Mask{{Left: 0.05, Top: 0, Right: 0.25, Bottom: 0.5}, {Left: 0.9, Top: 0.9, Right: 1, Bottom: 1}})
		m, err := open(t.Context())
		require.NoError(t, err)
		assert.True(t, m.(interface{ Live() bool }).Live())
		f, err := m.Next(t.Context())
		require.NoError(t, err)
		for y := range f.H {
			for x := range f.W {
				want := byte(255)
				if x < 3 && y < 2 || x == 9 && y == 3 { // pixels that a mask cuts are black too
					want = 0
				}
				assert.Equal(t, []byte{want, want, want}, f.Pix[3*(y*f.W+x):][:3], "%d,%d", x, y)
			}
		}
		assert.NotContains(t, white, byte(0), "the source's own picture stays as it is")
		src.pix = white[:3]
		_, err = m.Next(t.Context())
		require.ErrorContains(t, err, "a frame of 10x4 with 3 bytes")
	})
}

func TestFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The picture stands still from the 5th second to the 40th.
		src := &still{pix: bytes.Repeat([]byte{9}, 3*10*4), changed: func(n int64) bool { return n < 5 || n > 40 }}
		s := ingest.Supervise(func(context.Context) (ingest.Source, error) { return src, nil }, ingest.Options{FreezeTimeout: 10 * time.Second, Queue: 100})
		defer s.Close()
		time.Sleep(12*time.Second + 500*time.Millisecond)
		assert.Equal(t, ingest.Live, s.Status().State)
		time.Sleep(8 * time.Second)
		st := s.Status()
		assert.Equal(t, ingest.Frozen, st.State)
		assert.Equal(t, "the picture has not changed for 10s", st.Err)
		assert.Equal(t, uint64(20), st.Frames)
		time.Sleep(25 * time.Second)
		assert.Equal(t, ingest.Live, s.Status().State)
		assert.Zero(t, s.Status().Reconnects)
		assert.InDelta(t, 27*time.Second, s.Status().FrozenFor, float64(2*time.Second))

		var walls []time.Time
		for range 18 {
			f, err := s.Next(t.Context())
			require.NoError(t, err)
			walls = append(walls, f.Wall)
		}
		longest := time.Duration(0)
		for i := range walls[1:] {
			longest = max(longest, walls[i+1].Sub(walls[i]))
		}
		assert.Equal(t, 27*time.Second, longest, "what stood still is not passed on")
		assert.Len(t, s.Coverage().Spans(), 2, "and was not watched")
	})
}

// A picture that hangs behind an encoder goes round with its key frames; one new picture among them is life.
func TestFrozenGoesRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &round{until: 40}
		s := ingest.Supervise(func(context.Context) (ingest.Source, error) { return src, nil }, ingest.Options{FreezeTimeout: 10 * time.Second, Queue: 100})
		defer s.Close()
		time.Sleep(12*time.Second + 500*time.Millisecond)
		assert.Equal(t, ingest.Live, s.Status().State, "the last new picture came 8 seconds ago")
		time.Sleep(8 * time.Second)
		st := s.Status()
		assert.Equal(t, ingest.Frozen, st.State)
		assert.Equal(t, 16*time.Second+500*time.Millisecond, time.Since(st.Changed), "the fourth picture was the last new one")
		time.Sleep(25 * time.Second)
		assert.Equal(t, ingest.Live, s.Status().State)
	})
}

// round shows the same four pictures again and again, one every second, and new ones from a time on.
type round struct{ n, until int64 }

func (r *round) Next(ctx context.Context) (ingest.Frame, error) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return ingest.Frame{}, ctx.Err()
	}
	f := ingest.Frame{Index: r.n, PTS: time.Duration(r.n) * time.Second, Wall: time.Now(), W: 1, H: 1, Pix: []byte{byte(r.n % 4), 0, 0}}
	if r.n >= r.until {
		f.Pix[1] = byte(r.n)
	}
	r.n++
	return f, nil
}

func (r *round) Close() error { return nil }
func (r *round) Live() bool   { return true }
