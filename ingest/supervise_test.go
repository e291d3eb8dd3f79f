package ingest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"afterimage/ingest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a Source that does as its steps say, one a call of Next.
type script struct {
	steps  []step
	pts    time.Duration
	n      int64
	closed *atomic.Int32
}

type step func(ctx context.Context, s *script) (ingest.Frame, error)

func (s *script) Next(ctx context.Context) (ingest.Frame, error) {
	if len(s.steps) == 0 {
		return ingest.Frame{}, io.EOF
	}
	do := s.steps[0]
	s.steps = s.steps[1:]
	return do(ctx, s)
}

func (s *script) Close() error {
	if s.closed != nil {
		s.closed.Add(1)
	}
	return nil
}

// frames makes n frames, one each d.
func frames(n int, d time.Duration) []step {
	out := make([]step, n)
	for i := range out {
		out[i] = func(ctx context.Context, s *script) (ingest.Frame, error) {
			select {
			case <-time.After(d):
			case <-ctx.Done():
				return ingest.Frame{}, ctx.Err()
			}
			f := ingest.Frame{Index: s.n, PTS: s.pts, Wall: time.Now(), W: 1, H: 1, Pix: make([]byte, 3)}
			s.n++
			s.pts += d
			return f, nil
		}
	}
	return out
}

func fail(err error) step {
	return func(context.Context, *script) (ingest.Frame, error) { return ingest.Frame{}, err }
}

func hang(ctx context.Context, _ *script) (ingest.Frame, error) {
	<-ctx.Done()
	time.Sleep(10 * time.Millisecond)
	return ingest.Frame{}, ctx.Err()
}

func deaf(d time.Duration) step {
	return func(context.Context, *script) (ingest.Frame, error) {
		time.Sleep(d)
		return ingest.Frame{}, errors.New("woke up")
	}
}

func steps(parts ...any) []step {
	var out []step
	for _, p := range parts {
		switch p := p.(type) {
		case []step:
			out = append(out, p...)
		case step:
			out = append(out, p)
		case func(context.Context, *script) (ingest.Frame, error):
			out = append(out, p)
		}
	}
	return out
}

// opener opens the sessions in turn; an error is a failed open, and the last one repeats.
func opener(opens, closed *atomic.Int32, sessions ...any) ingest.Opener {
	return func(ctx context.Context) (ingest.Source, error) {
		i := min(int(opens.Add(1)), len(sessions)) - 1
		switch s := sessions[i].(type) {
		case error:
			return nil, s
		case []step:
			return &script{steps: s, closed: closed}, nil
		case func(context.Context) (ingest.Source, error):
			return s(ctx)
		}
		return nil, fmt.Errorf("bad script")
	}
}

// slowly gives every state some time: a subscriber sees the newest one, so what lasts no time may go unseen.
func slowly(open ingest.Opener) ingest.Opener {
	return func(ctx context.Context) (ingest.Source, error) {
		time.Sleep(10 * time.Millisecond)
		return open(ctx)
	}
}

// watch collects every state seen, without repeats.
func watch(t *testing.T, s *ingest.Supervisor) func() []ingest.Status {
	t.Helper()
	ch, stop := s.Subscribe()
	out := make(chan []ingest.Status, 1)
	go func() {
		var all []ingest.Status
		for st := range ch {
			if n := len(all); n == 0 || all[n-1].State != st.State {
				all = append(all, st)
			}
		}
		out <- all
	}()
	return func() []ingest.Status {
		stop()
		return <-out
	}
}

func states(all []ingest.Status) string {
	var b strings.Builder
	for _, s := range all {
		b.WriteString(string(s.State) + " ")
	}
	return strings.TrimSpace(b.String())
}

// drain takes frames until an error or n frames.
func drain(ctx context.Context, s ingest.Source, n int) (out []ingest.Frame, err error) {
	for len(out) < n {
		f, err := s.Next(ctx)
		if err != nil {
			return out, err
		}
		out = append(out, f)
	}
	return out, nil
}

func requireMonotone(t *testing.T, fs []ingest.Frame) {
	t.Helper()
	for i := 1; i < len(fs); i++ {
		require.Greater(t, fs[i].Index, fs[i-1].Index, "index of frame %d", i)
		require.Greater(t, fs[i].PTS, fs[i-1].PTS, "PTS of frame %d", i)
		require.True(t, fs[i].Wall.After(fs[i-1].Wall), "wall of frame %d", i)
	}
}

func TestFileWaitsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opens, closed atomic.Int32
		s := ingest.Supervise(slowly(opener(&opens, &closed, frames(100, time.Millisecond))), ingest.Options{Queue: 2})
		seen := watch(t, s)
		time.Sleep(time.Hour) // a slow consumer loses nothing, and is no stall
		synctest.Wait()
		assert.Equal(t, ingest.Live, s.Status().State)
		fs, err := drain(t.Context(), s, 1000)
		require.ErrorIs(t, err, io.EOF)
		require.Len(t, fs, 100)
		requireMonotone(t, fs)
		_, err = s.Next(t.Context())
		require.ErrorIs(t, err, io.EOF, "again")
		synctest.Wait()
		st := s.Status()
		assert.Equal(t, ingest.Ended, st.State)
		assert.EqualValues(t, 100, st.Frames)
		assert.Zero(t, st.Dropped)
		assert.EqualValues(t, 1, opens.Load())
		assert.EqualValues(t, 1, closed.Load())
		ch, stop := s.Subscribe()
		assert.Equal(t, ingest.Ended, (<-ch).State)
		_, open := <-ch
		assert.False(t, open)
		stop()
		require.NoError(t, s.Close())
		require.NoError(t, s.Close(), "twice")
		assert.Equal(t, "connecting live ended", states(seen()))
	})
}

func TestFileErrorEnds(t *testing.T) {
	for name, session := range map[string]any{
		"open":   errors.New("no such file"),
		"middle": steps(frames(3, time.Millisecond), fail(errors.New("no such file"))),
		"bad frame": steps(func(context.Context, *script) (ingest.Frame, error) {
			return ingest.Frame{W: 2, H: 2, Pix: make([]byte, 11)}, nil
		}),
		"panic": steps(func(context.Context, *script) (ingest.Frame, error) { panic("no such file") }),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var opens, closed atomic.Int32
				s := ingest.Supervise(opener(&opens, &closed, session), ingest.Options{})
				_, err := drain(t.Context(), s, 10)
				require.Error(t, err)
				require.NotErrorIs(t, err, io.EOF)
				synctest.Wait()
				assert.Equal(t, ingest.Ended, s.Status().State)
				assert.Equal(t, err.Error(), s.Status().Err)
				assert.EqualValues(t, 1, opens.Load())
				require.NoError(t, s.Close())
			})
		})
	}
}

func TestLiveRestartsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opens, closed atomic.Int32
		refused := errors.New("connection refused")
		s := ingest.Supervise(slowly(opener(&opens, &closed,
			refused,
			steps(frames(5, time.Second/2), fail(errors.New("connection reset"))),
			steps(func(context.Context, *script) (ingest.Frame, error) { panic("decoder") }),
			refused,
			steps(frames(5, time.Second/2)), // then EOF, which a camera has no right to
			steps(frames(1e5, time.Second/2)),
		)), ingest.Options{Live: true})
		seen := watch(t, s)
		fs, err := drain(t.Context(), s, 20)
		require.NoError(t, err)
		requireMonotone(t, fs)
		for i, f := range fs {
			assert.EqualValues(t, i, f.Index)
			assert.InDelta(t, f.Wall.Sub(fs[0].Wall), f.PTS-fs[0].PTS, float64(time.Second), "the stream's clock went on over the restarts")
		}
		st := s.Status()
		assert.Equal(t, ingest.Live, st.State)
		assert.Empty(t, st.Err)
		assert.EqualValues(t, 2, st.Reconnects)
		assert.Equal(t, map[string]uint64{"failure": 1, "end": 1}, s.Reconnects())
		assert.EqualValues(t, 20, st.Frames)
		assert.EqualValues(t, 6, opens.Load())
		assert.EqualValues(t, 3, closed.Load(), "every failed source was closed")
		require.NoError(t, s.Close())
		assert.EqualValues(t, 4, closed.Load())
		_, err = s.Next(t.Context())
		require.ErrorIs(t, err, io.EOF)
		all := seen()
		assert.Equal(t, "connecting offline connecting live offline connecting offline connecting offline connecting live offline connecting live ended", states(all))
		assert.Equal(t, "connection refused", all[1].Err)
		assert.Contains(t, all[6].Err, "decoder")
		for i := 1; i < len(all); i++ {
			assert.False(t, all[i].Since.Before(all[i-1].Since))
		}
	})
}

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opens, closed atomic.Int32
		s := ingest.Supervise(slowly(opener(&opens, &closed,
			steps(frames(3, time.Second), hang),
			steps(frames(1e5, time.Second)),
		)), ingest.Options{Live: true, StallTimeout: 10 * time.Second})
		defer s.Close()
		_, err := drain(t.Context(), s, 3)
		require.NoError(t, err)
		time.Sleep(9900 * time.Millisecond)
		synctest.Wait()
		assert.Equal(t, ingest.Live, s.Status().State)
		seen := watch(t, s)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		assert.EqualValues(t, 2, opens.Load(), "opened again")
		assert.EqualValues(t, 1, closed.Load())
		_, err = drain(t.Context(), s, 1)
		require.NoError(t, err)
		assert.Equal(t, "live stalled offline connecting live", states(seen()))
		assert.Equal(t, map[string]uint64{"stall": 1}, s.Reconnects())
		assert.EqualValues(t, 1, s.Status().Stalls)
		gaps := s.Coverage().Gaps(s.Coverage().Spans()[0].From, time.Now())
		require.Len(t, gaps, 1, "nobody watched while it hung")
		assert.GreaterOrEqual(t, gaps[0].To.Sub(gaps[0].From), 10*time.Second)
	})
}

// A decoder that ignores its context is reported as stalled, and no second one is started beside it.
func TestDeafSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opens, closed atomic.Int32
		s := ingest.Supervise(opener(&opens, &closed,
			steps(frames(1, time.Second), deaf(time.Hour)),
			steps(frames(1e6, time.Second)),
		), ingest.Options{Live: true})
		defer s.Close()
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		assert.Equal(t, ingest.Stalled, s.Status().State)
		assert.Equal(t, "no frame for 10s", s.Status().Err)
		assert.EqualValues(t, 1, opens.Load())
		time.Sleep(31 * time.Minute)
		synctest.Wait()
		assert.Equal(t, ingest.Live, s.Status().State)
		assert.EqualValues(t, 2, opens.Load())
	})
}

func TestTimeouts(t *testing.T) {
	for _, c := range []struct {
		name, err string
		state     ingest.State
		after     time.Duration
		session   any
	}{
		{"open", "opening took longer than 2s", ingest.Offline, 2 * time.Second, func(ctx context.Context) (ingest.Source, error) {
			<-ctx.Done()
			time.Sleep(time.Second)
			return nil, ctx.Err()
		}},
		{"opened too late", "opening took longer than 2s", ingest.Offline, 2 * time.Second, func(context.Context) (ingest.Source, error) {
			time.Sleep(3 * time.Second)
			return &script{}, nil
		}},
		{"first frame", "no frame within 5s", ingest.Stalled, 5 * time.Second, steps(deaf(6 * time.Second))},
		{"stall", "no frame for 3s", ingest.Stalled, 4 * time.Second, steps(frames(1, time.Second), deaf(6*time.Second))},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var opens atomic.Int32
				s := ingest.Supervise(opener(&opens, nil, c.session), ingest.Options{
					Live: true, OpenTimeout: 2 * time.Second, FirstTimeout: 5 * time.Second, StallTimeout: 3 * time.Second,
				})
				defer s.Close()
				time.Sleep(c.after - time.Millisecond)
				synctest.Wait()
				assert.NotEqual(t, c.state, s.Status().State)
				time.Sleep(2 * time.Millisecond)
				synctest.Wait()
				assert.Equal(t, c.state, s.Status().State)
				assert.Equal(t, c.err, s.Status().Err)
			})
		})
	}
}

func TestBackoff(t *testing.T) {
	times := func(t *testing.T, during time.Duration, o ingest.Options, sessions ...any) []time.Duration {
		var out []time.Duration
		synctest.Test(t, func(t *testing.T) {
			var opens atomic.Int32
			next := opener(&opens, nil, sessions...)
			start := time.Now()
			s := ingest.Supervise(func(ctx context.Context) (ingest.Source, error) {
				out = append(out, time.Since(start))
				return next(ctx)
			}, o)
			time.Sleep(during)
			require.NoError(t, s.Close())
		})
		return out
	}
	waits := func(at []time.Duration) (out []time.Duration) {
		for i := 1; i < len(at); i++ {
			out = append(out, at[i]-at[i-1])
		}
		return out
	}
	refused := errors.New("connection refused")

	var first, late, lateN time.Duration
	for range 200 {
		w := waits(times(t, 2*time.Hour, ingest.Options{Live: true}, refused))
		limit := time.Second
		for _, d := range w {
			require.LessOrEqual(t, d, limit)
			require.GreaterOrEqual(t, d, 100*time.Millisecond)
			limit = min(2*limit, time.Minute)
		}
		first += w[0]
		for _, d := range w[10:] {
			late += d
			lateN++
		}
	}
	assert.InDelta(t, 0.5, (first / 200).Seconds(), 0.15, "jitter is full")
	assert.InDelta(t, 30, (late / lateN).Seconds(), 3, "and stays full")

	denied := fmt.Errorf("opening: %w", ingest.ErrCredentials)
	for _, d := range waits(times(t, 10*time.Minute, ingest.Options{Live: true}, denied)) {
		require.Equal(t, time.Minute, d, "refused credentials are not tried often")
	}

	// 31 s of good frames start the back-off over; 5 s do not.
	good, short := steps(frames(62, time.Second/2)), steps(frames(10, time.Second/2))
	for range 20 {
		w := waits(times(t, time.Hour, ingest.Options{Live: true}, denied, good, refused))
		require.LessOrEqual(t, w[1], 31*time.Second+time.Second)
		w = waits(times(t, time.Hour, ingest.Options{Live: true}, denied, short, denied))
		require.Equal(t, time.Minute, w[2])
	}
}

func TestLiveDropsTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var opens atomic.Int32
		s := ingest.Supervise(opener(&opens, nil, steps(frames(1e5, time.Second/100))), ingest.Options{
			Live: true, Queue: 3, Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		st := s.Status()
		assert.EqualValues(t, 1000, st.Frames, "a camera never waits")
		assert.EqualValues(t, 997, st.Dropped)
		assert.Equal(t, ingest.Live, st.State)
		fs, err := drain(t.Context(), s, 3)
		require.NoError(t, err)
		assert.Equal(t, []int64{997, 998, 999}, []int64{fs[0].Index, fs[1].Index, fs[2].Index})
		assert.Equal(t, []ingest.Span{{From: fs[0].Wall, To: fs[2].Wall}}, s.Coverage().Spans(), "dropped frames were not watched")
		require.NoError(t, s.Close())
		assert.Equal(t, 10, strings.Count(log.String(), "frames dropped"), "one line a second")
	})
}

// What a URL cannot tell, an opened source can: a stream over HTTP has no end.
type endless struct{ script }

func (*endless) Live() bool { return true }

func TestSourceSaysLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opens atomic.Int32
		s := ingest.Supervise(func(context.Context) (ingest.Source, error) {
			opens.Add(1)
			return &endless{script{steps: frames(10, time.Second/10)}}, nil
		}, ingest.Options{})
		time.Sleep(time.Minute)
		synctest.Wait()
		st := s.Status()
		assert.Greater(t, opens.Load(), int32(2))
		assert.Equal(t, st.Frames-4, st.Dropped)
		assert.NotEqual(t, ingest.Ended, st.State)
		require.NoError(t, s.Close())
	})
}

func TestSubscribeNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opens atomic.Int32
		flap := steps(frames(2, time.Second/2), fail(errors.New("flap")))
		s := ingest.Supervise(opener(&opens, nil, flap, flap, flap, flap, flap), ingest.Options{Live: true})
		slow, stopSlow := s.Subscribe()
		_, stop := s.Subscribe()
		stop()
		stop()
		time.Sleep(time.Hour)
		require.NoError(t, s.Close())
		st, open := <-slow
		require.True(t, open)
		assert.Equal(t, ingest.Ended, st.State, "the newest wins")
		_, open = <-slow
		assert.False(t, open)
		stopSlow()
	})
}

func TestNextHonoursContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opens atomic.Int32
		s := ingest.Supervise(opener(&opens, nil, errors.New("away")), ingest.Options{Live: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := s.Next(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		done := make(chan error)
		go func() {
			_, err := s.Next(context.Background())
			done <- err
		}()
		synctest.Wait()
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-done, io.EOF, "Close wakes Next")
	})
}

// The clocks of cameras wrap, jump and run backwards.
func TestStamps(t *testing.T) {
	give := func(pts time.Duration, wall time.Duration) step {
		return func(context.Context, *script) (ingest.Frame, error) {
			time.Sleep(time.Second)
			w := time.Time{}
			if wall >= 0 {
				w = noon.Add(wall)
			}
			return ingest.Frame{Index: 77, PTS: pts, Wall: w, W: 1, H: 1, Pix: make([]byte, 3)}, nil
		}
	}
	s := time.Second
	for _, c := range []struct {
		name      string
		live      bool
		steps     []step
		pts, wall []time.Duration // since the first frame
	}{
		{"steady", true, steps(give(0, 0), give(1*s, 1*s), give(2*s, 2*s)), []time.Duration{0, s, 2 * s}, []time.Duration{0, s, 2 * s}},
		{"PTS wraps", true, steps(give(100*s, 0), give(0, 1*s), give(1*s, 2*s)), []time.Duration{0, s, 2 * s}, []time.Duration{0, s, 2 * s}},
		{"PTS repeats", true, steps(give(1*s, 0), give(1*s, 1*s), give(2*s, 2*s)), []time.Duration{0, s, 2 * s}, []time.Duration{0, s, 2 * s}},
		{"PTS jumps ahead", true, steps(give(0, 0), give(26*time.Hour, 1*s), give(26*time.Hour+s, 2*s)), []time.Duration{0, s, 2 * s}, []time.Duration{0, s, 2 * s}},
		{"a file may jump ahead", false, steps(give(0, 0), give(60*s, 60*s)), []time.Duration{0, 60 * s}, []time.Duration{0, 60 * s}},
		{"wall steps back", true, steps(give(0, 3600*s), give(1*s, 0), give(2*s, 1*s)), []time.Duration{0, s, 2 * s}, []time.Duration{0, s, 2 * s}},
		{"no wall", true, steps(give(0, -1), give(1*s, -1)), []time.Duration{0, s}, []time.Duration{0, s}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var opens atomic.Int32
				sv := ingest.Supervise(opener(&opens, nil, c.steps), ingest.Options{Live: c.live})
				fs, err := drain(t.Context(), sv, len(c.pts))
				require.NoError(t, err)
				for i, f := range fs {
					assert.EqualValues(t, i, f.Index)
					assert.Equal(t, c.pts[i], f.PTS-fs[0].PTS, "PTS of frame %d", i)
					assert.Equal(t, c.wall[i], f.Wall.Sub(fs[0].Wall), "wall of frame %d", i)
				}
				require.NoError(t, sv.Close())
			})
		})
	}
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := ingest.Pace(&script{steps: frames(10, 0)})
		_ = src.Close()
		sc := &script{}
		for i := range 10 {
			sc.steps = append(sc.steps, func(context.Context, *script) (ingest.Frame, error) {
				return ingest.Frame{PTS: 5*time.Second + time.Duration(i)*time.Second/2, W: 1, H: 1, Pix: make([]byte, 3)}, nil
			})
		}
		src = ingest.Pace(sc)
		start := time.Now()
		fs, err := drain(t.Context(), src, 4)
		require.NoError(t, err)
		assert.Equal(t, 1500*time.Millisecond, time.Since(start))
		assert.Equal(t, time.Now(), fs[3].Wall)
		time.Sleep(time.Second) // late: two frames are due
		_, err = drain(t.Context(), src, 2)
		require.NoError(t, err)
		assert.Equal(t, 2500*time.Millisecond, time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = src.Next(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = drain(t.Context(), src, 9)
		require.ErrorIs(t, err, io.EOF)
	})
}
