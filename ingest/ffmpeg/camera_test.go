package ffmpeg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asticode/go-astiav"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/ingest/simcam"
)

// clockFace draws the stream time as 16 black and white bars, wide enough to survive compression, in units of 10 ms.
type clockFace struct{ w, h int }

func (c clockFace) Render(dst []byte, t time.Duration) {
	n := int(t / (10 * time.Millisecond))
	for y := range c.h {
		for x := range c.w {
			level := byte(30)
			if n>>(16*x/c.w)&1 == 1 {
				level = 220
			}
			i := 3 * (y*c.w + x)
			dst[i], dst[i+1], dst[i+2] = level, level, level
		}
	}
}

// readClock is the inverse of Render.
func readClock(f ingest.Frame) time.Duration {
	n := 0
	for bit := range 16 {
		x := (2*bit + 1) * f.W / 32
		if f.Pix[3*((f.H/2)*f.W+x)] > 128 {
			n |= 1 << bit
		}
	}
	return time.Duration(n) * 10 * time.Millisecond
}

// camEncoder is the adapter that cmd uses too.
type camEncoder struct{ *H264Encoder }

func (e camEncoder) Encode(rgb []byte, pts time.Duration) ([]simcam.AccessUnit, error) {
	units, err := e.H264Encoder.Encode(rgb, pts)
	out := make([]simcam.AccessUnit, len(units))
	for i, u := range units {
		out[i] = simcam.AccessUnit(u)
	}
	return out, err
}

func serveCamera(t *testing.T, o simcam.RTSPOptions) *simcam.RTSPServer {
	t.Helper()
	o.Addr, o.W, o.H = "127.0.0.1:0", 320, 176
	o.NewEncoder = func(w, h, fps int) (simcam.H264Encoder, error) {
		e, err := NewH264Encoder(w, h, float64(fps), 0)
		return camEncoder{e}, err
	}
	s, err := simcam.ServeRTSP(clockFace{o.W, o.H}, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func parse(t *testing.T, s string) ingest.URL {
	t.Helper()
	u, err := ingest.ParseURL(s)
	require.NoError(t, err)
	return u
}

func opens(u ingest.URL, o Options) ingest.Opener {
	return func(ctx context.Context) (ingest.Source, error) {
		d, err := Open(ctx, u, o)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
}

func take(t *testing.T, s ingest.Source, n int) []ingest.Frame {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out := make([]ingest.Frame, 0, n)
	for len(out) < n {
		f, err := s.Next(ctx)
		require.NoError(t, err)
		out = append(out, f)
	}
	return out
}

// requireTimes checks that what a frame shows, when it says it was, and when it came agree.
func requireTimes(t *testing.T, start time.Time, fs []ingest.Frame) {
	t.Helper()
	for i, f := range fs {
		lag := f.Wall.Sub(start.Add(readClock(f)))
		require.GreaterOrEqual(t, lag, time.Duration(0), "frame %d came before it was filmed", i)
		require.Less(t, lag, 2*time.Second, "frame %d", i)
	}
	requireSteps(t, fs)
}

// requireSteps checks that a stream starts at zero and that its time goes on as its pictures do.
func requireSteps(t *testing.T, fs []ingest.Frame) {
	t.Helper()
	require.Zero(t, fs[0].PTS)
	for i, f := range fs[1:] {
		require.Greater(t, f.Index, fs[i].Index)
		require.True(t, f.Wall.After(fs[i].Wall))
		drawn, said := readClock(f)-readClock(fs[0]), f.PTS
		require.InDelta(t, drawn.Seconds(), said.Seconds(), 0.011, "PTS and picture of frame %d", i+1)
	}
}

func TestCameraOverRTSP(t *testing.T) {
	for _, transport := range []string{"tcp", "udp"} {
		t.Run(transport, func(t *testing.T) {
			cam := serveCamera(t, simcam.RTSPOptions{FPS: 25, User: "viewer", Password: "p@ss/w%rd"})
			u := parse(t, "rtsp://viewer:p%40ss%2Fw%25rd@"+cam.Addr()+"/street")
			d, err := Open(t.Context(), u, Options{FPS: 5, Transport: transport})
			require.NoError(t, err)
			defer d.Close()
			assert.True(t, d.Live())
			fs := take(t, d, 12)
			requireTimes(t, cam.Start, fs)
			assert.InDelta(t, 2.2, fs[11].PTS.Seconds(), 0.3, "5 frames a second")
			assert.Equal(t, 1, cam.Stats().Clients)
		})
	}
}

// FFmpeg wants seven pictures before it gives any: they come in a heap, the first one without a time. What is given must be right all
// the same, down to a camera so slow that one picture's error would be much.
func TestCameraStartsAtZero(t *testing.T) {
	cam := serveCamera(t, simcam.RTSPOptions{FPS: 2})
	d, err := Open(t.Context(), parse(t, cam.URL()), Options{FPS: -1})
	require.NoError(t, err)
	defer d.Close()
	fs := take(t, d, 8)
	requireSteps(t, fs)
	assert.Zero(t, fs[0].Index)
}

// A camera that never tells the time is watched nevertheless, by when its pictures come.
func TestTimelessCamera(t *testing.T) {
	d := &Decoder{live: true, o: Options{MaxW: 64, MaxH: 64}, clock: clock{live: true}, frame: astiav.AllocFrame()}
	defer d.frame.Free()
	defer d.scaler.free()
	d.frame.SetWidth(64)
	d.frame.SetHeight(48)
	d.frame.SetPixelFormat(astiav.PixelFormatYuv420P)
	require.NoError(t, d.frame.AllocBuffer(0))
	for i := range maxTimeless {
		_, wanted, err := d.take()
		require.NoError(t, err)
		require.False(t, wanted, "picture %d may yet be followed by one with a time", i)
	}
	var fs [2]ingest.Frame
	for i := range fs {
		f, wanted, err := d.take()
		require.NoError(t, err)
		require.True(t, wanted)
		fs[i] = f
		time.Sleep(20 * time.Millisecond)
	}
	assert.Zero(t, fs[0].PTS)
	assert.Equal(t, fs[1].Wall.Sub(fs[0].Wall), fs[1].PTS)
	assert.Equal(t, int64(1), fs[1].Index)

	// When it tells the time at last, the stream goes on from where it is.
	d.frame.SetPts(12345)
	d.timeBase = tickBase()
	f, _, err := d.take()
	require.NoError(t, err)
	assert.Equal(t, f.Wall.Sub(fs[0].Wall), f.PTS)
}

func TestCameraWrongPassword(t *testing.T) {
	cam := serveCamera(t, simcam.RTSPOptions{User: "viewer", Password: "right"})
	for _, login := range []string{"viewer:canary77@", "canary77:right@", ""} {
		u := parse(t, "rtsp://"+login+cam.Addr()+"/street?token=canary77")
		_, err := Open(t.Context(), u, Options{})
		require.ErrorIs(t, err, ingest.ErrCredentials)
		assert.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, err), "canary77")
		assert.Contains(t, err.Error(), cam.Addr())
	}
	_, err := Open(t.Context(), parse(t, "rtsp://viewer:right@"+cam.Addr()+"/elsewhere"), Options{})
	require.Error(t, err)
	require.NotErrorIs(t, err, ingest.ErrCredentials)
}

// waiter returns a function that waits for a state.
func waiter(t *testing.T, s *ingest.Supervisor) func(ingest.State) ingest.Status {
	ch, stop := s.Subscribe()
	t.Cleanup(stop)
	return func(want ingest.State) ingest.Status {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			select {
			case st := <-ch:
				if st.State == want {
					return st
				}
			case <-deadline:
				require.FailNow(t, "never "+string(want))
			}
		}
	}
}

func TestCameraKilledAndRestarted(t *testing.T) {
	cam := serveCamera(t, simcam.RTSPOptions{FPS: 25})
	s := ingest.Supervise(opens(parse(t, cam.URL()), Options{FPS: 5}), ingest.Options{
		Live: true, Queue: 1000, MinBackoff: 200 * time.Millisecond, MaxBackoff: 200 * time.Millisecond, Gap: 400 * time.Millisecond,
	})
	defer s.Close()
	wait := waiter(t, s)
	fs := take(t, s, 5)
	wait(ingest.Live)
	cam.Stop()
	assert.NotEmpty(t, wait(ingest.Offline).Err)
	time.Sleep(500 * time.Millisecond) // the camera is away for longer than coverage tolerates
	require.NoError(t, cam.Restart())
	wait(ingest.Live)
	for len(fs) < 1000 {
		fs = append(fs, take(t, s, 1)...)
		if n := len(fs); n > 10 && fs[n-1].Wall.After(s.Status().Since.Add(time.Second)) {
			break
		}
	}
	for i := 1; i < len(fs); i++ {
		require.Greater(t, fs[i].Index, fs[i-1].Index)
		require.Greater(t, fs[i].PTS, fs[i-1].PTS)
		require.True(t, fs[i].Wall.After(fs[i-1].Wall))
	}
	last := fs[len(fs)-1]
	assert.Less(t, last.Wall.Sub(cam.Start.Add(readClock(last))).Seconds(), 2.0, "it is the street of now")
	assert.InDelta(t, (readClock(last) - readClock(fs[0])).Seconds(), (last.PTS - fs[0].PTS).Seconds(), 1, "the stream's clock went on meanwhile")
	after := s.Status()
	assert.GreaterOrEqual(t, after.Reconnects, uint64(1))
	assert.Zero(t, after.Dropped)
	gaps := s.Coverage().Gaps(fs[0].Wall, last.Wall)
	require.NotEmpty(t, gaps, "and nobody watched meanwhile")
	assert.GreaterOrEqual(t, gaps[0].To.Sub(gaps[0].From), 500*time.Millisecond)
}

func TestCameraStalls(t *testing.T) {
	cam := serveCamera(t, simcam.RTSPOptions{FPS: 25})
	s := ingest.Supervise(opens(parse(t, cam.URL()), Options{FPS: 10}), ingest.Options{
		Live: true, StallTimeout: 700 * time.Millisecond, FirstTimeout: 700 * time.Millisecond, MinBackoff: 100 * time.Millisecond, MaxBackoff: 100 * time.Millisecond,
	})
	defer s.Close()
	wait := waiter(t, s)
	take(t, s, 3)
	wait(ingest.Live)
	cam.Stall(true)
	assert.Equal(t, "no frame for 700ms", wait(ingest.Stalled).Err)
	wait(ingest.Offline)
	cam.Stall(false)
	wait(ingest.Live)
	fs := take(t, s, 6)
	assert.Less(t, fs[5].Wall.Sub(cam.Start.Add(readClock(fs[5]))).Seconds(), 2.0)
}

// A consumer that sleeps loses frames, and then gets the present, not the past.
func TestCameraNeverWaits(t *testing.T) {
	cam := serveCamera(t, simcam.RTSPOptions{FPS: 25})
	s := ingest.Supervise(opens(parse(t, cam.URL()), Options{FPS: -1}), ingest.Options{Live: true, Queue: 2})
	defer s.Close()
	take(t, s, 1)
	require.Eventually(t, func() bool { return s.Status().Dropped >= 25 }, 20*time.Second, 10*time.Millisecond)
	f := take(t, s, 1)[0]
	assert.Less(t, time.Since(cam.Start.Add(readClock(f))).Seconds(), 2.0)
	assert.Greater(t, f.Index, int64(20))
}

func TestHTTPFile(t *testing.T) {
	path := mp4(t, 160, 96, 10, 30)
	var agents atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, pw, ok := r.BasicAuth(); !ok || user != "u" || pw != "right" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		agents.Add(1)
		http.ServeFile(w, r, path)
	}))
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	d, err := Open(t.Context(), parse(t, "http://u:right@"+addr+"/clip.mp4"), Options{FPS: -1})
	require.NoError(t, err)
	assert.False(t, d.Live(), "it has an end")
	s := ingest.Supervise(func(context.Context) (ingest.Source, error) { return d, nil }, ingest.Options{})
	defer s.Close()
	fs := take(t, s, 30)
	for i, f := range fs {
		assert.InDelta(t, float64(i)/10, f.PTS.Seconds(), 0.001)
		assert.InDelta(t, 20+2*i, grey(f), 8)
	}
	_, err = s.Next(t.Context())
	require.ErrorIs(t, err, io.EOF)
	assert.Positive(t, agents.Load())

	_, err = Open(t.Context(), parse(t, "http://u:canary77@"+addr+"/clip.mp4"), Options{})
	require.ErrorIs(t, err, ingest.ErrCredentials)
	assert.NotContains(t, err.Error(), "canary77")
}

// hlsSegments are n pieces of one second each, numbered through.
func hlsSegments(t *testing.T, n int) [][]byte {
	t.Helper()
	out := make([][]byte, n)
	for i := range out {
		pts := every(100*time.Millisecond, 10)
		for j := range pts {
			pts[j] += time.Duration(i) * time.Second
		}
		path := clip{format: "mpegts", codec: "libopenh264", w: 160, h: 96, gop: 10, pixels: astiav.PixelFormatYuv420P, pts: pts}.write(t)
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		out[i] = data
	}
	return out
}

func TestHLS(t *testing.T) {
	const n = 6
	segments := hlsSegments(t, n)
	for _, c := range []struct {
		name string
		live bool
	}{{"recorded", false}, {"live", true}} {
		t.Run(c.name, func(t *testing.T) {
			begin := time.Now()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var i int
				if _, err := fmt.Sscanf(r.URL.Path, "/s%d.ts", &i); err == nil && i < n {
					_, _ = w.Write(segments[i])
					return
				}
				first, last := 0, n-1
				if c.live { // a window of three that moves on
					last = min(n-1, 2+int(time.Since(begin).Seconds()*2))
					first = last - 2
				}
				w.Header().Set("Content-Type", "application/vnd.apple.mpegurl")
				_, _ = fmt.Fprintf(w, "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:%d\n", first)
				for i := first; i <= last; i++ {
					_, _ = fmt.Fprintf(w, "#EXTINF:1.0,\ns%d.ts\n", i)
				}
				if !c.live {
					_, _ = fmt.Fprint(w, "#EXT-X-ENDLIST\n")
				}
			}))
			defer srv.Close()
			d, err := Open(t.Context(), parse(t, srv.URL+"/live.m3u8"), Options{FPS: 5, ReadTimeout: 5 * time.Second})
			require.NoError(t, err)
			defer d.Close()
			assert.Equal(t, c.live, d.Live())
			want := 5 * n
			if c.live {
				want = 5 * 3
			}
			fs := take(t, d, want)
			for i := 1; i < len(fs); i++ {
				require.InDelta(t, 0.2, (fs[i].PTS - fs[i-1].PTS).Seconds(), 0.03, "no hole where segments meet")
			}
			if !c.live {
				_, err = d.Next(t.Context())
				require.ErrorIs(t, err, io.EOF)
			}
		})
	}
}

// A playlist from the network must not make us read a file of this machine.
func TestHLSCannotReadFiles(t *testing.T) {
	path := mp4(t, 160, 96, 10, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\nfile://%s\n#EXT-X-ENDLIST\n", path)
	}))
	defer srv.Close()
	d, err := Open(t.Context(), parse(t, srv.URL+"/x.m3u8"), Options{OpenTimeout: 5 * time.Second})
	if err == nil {
		_, err = d.Next(t.Context())
		require.NoError(t, d.Close())
	}
	require.Error(t, err)
}

func TestMJPEG(t *testing.T) {
	begin := time.Now()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "multipart/x-mixed-replace; boundary=frame")
		img := image.NewRGBA(image.Rect(0, 0, 320, 176))
		rgb := make([]byte, 3*320*176)
		for {
			clockFace{320, 176}.Render(rgb, time.Since(begin))
			for i := range 320 * 176 {
				img.Pix[4*i], img.Pix[4*i+1], img.Pix[4*i+2], img.Pix[4*i+3] = rgb[3*i], rgb[3*i+1], rgb[3*i+2], 255
			}
			var b bytes.Buffer
			_ = jpeg.Encode(&b, img, nil)
			if _, err := fmt.Fprintf(w, "--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n", b.Len(), b.Bytes()); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-time.After(50 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	}))
	defer srv.Close()
	d, err := Open(t.Context(), parse(t, srv.URL+"/video.mjpg"), Options{FPS: 5})
	require.NoError(t, err)
	defer d.Close()
	assert.True(t, d.Live())
	fs := take(t, d, 12)
	for i := 2; i < len(fs); i++ { // the first ones came in a heap while the stream was probed
		drawn, said := readClock(fs[i])-readClock(fs[1]), fs[i].PTS-fs[1].PTS
		require.InDelta(t, drawn.Seconds(), said.Seconds(), 0.5)
	}
	assert.Less(t, math.Abs((fs[11].PTS-fs[1].PTS).Seconds()-2), 0.6, "5 frames a second")
}

// A server that accepts and then says nothing costs the time-out, no more, and obeys its context.
func TestSilentServer(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer srv.Close()
	defer close(release)
	u := parse(t, srv.URL+"/x.mp4")
	_, err := Open(t.Context(), u, Options{OpenTimeout: 300 * time.Millisecond})
	require.ErrorContains(t, err, "within 300ms")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = Open(ctx, u, Options{})
	require.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
}
