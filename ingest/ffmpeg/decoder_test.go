package ffmpeg

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/asticode/go-astiav"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
)

var _ ingest.Source = (*Decoder)(nil)

func TestDecodeSampled(t *testing.T) {
	path := mp4(t, 320, 180, 25, 90) // the last one at 3.56 s
	for _, tt := range []struct {
		fps  float64
		want int
	}{{0, 8}, {2, 8}, {1, 4}, {25, 90}, {-1, 90}, {100, 90}, {0.5, 2}, {7, 26}} {
		fs := all(t, path, Options{FPS: tt.fps})
		require.Equal(t, tt.want, len(fs), "fps %v", tt.fps)
		assert.Zero(t, fs[0].PTS)
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
	}
}

func TestDecodeColour(t *testing.T) {
	want := [][3]int{{200, 30, 30}, {30, 160, 40}, {40, 60, 210}, {230, 200, 40}}
	path := filepath.Join(t.TempDir(), "c.mp4")
	i := 0
	require.NoError(t, WriteMP4(path, 64, 48, 2, func() ([]byte, error) {
		if i == len(want) {
			return nil, io.EOF
		}
		rgb := make([]byte, 0, 3*64*48)
		for range 64 * 48 {
			rgb = append(rgb, byte(want[i][0]), byte(want[i][1]), byte(want[i][2]))
		}
		i++
		return rgb, nil
	}))
	fs := all(t, path, Options{})
	require.Equal(t, len(want), len(fs))
	for i, f := range fs {
		for c := range 3 {
			assert.InDelta(t, want[i][c], int(f.Pix[3*(24*64+32)+c]), 8, "picture %d channel %d", i, c)
		}
	}
}

func TestDecodeEpochAndPace(t *testing.T) {
	path := mp4(t, 64, 48, 10, 8)
	epoch := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	start := time.Now()
	fs := all(t, path, Options{FPS: 10, Pace: true, Epoch: epoch})
	require.Equal(t, 8, len(fs))
	assert.GreaterOrEqual(t, time.Since(start), 700*time.Millisecond)
	assert.Equal(t, epoch.Add(700*time.Millisecond), fs[7].Wall)

	// A cancelled pause loses no frame.
	d, err := Open(t.Context(), fileURL(t, path), Options{FPS: 10, Pace: true})
	require.NoError(t, err)
	defer d.Close()
	_, err = d.Next(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = d.Next(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	f, err := d.Next(t.Context())
	require.NoError(t, err)
	assert.Equal(t, int64(1), f.Index)
}

// Containers and codecs, with B-frames (MPEG-4; OpenH264 makes none), odd sizes and the full-range and 4:2:2 pixel formats.
func TestDecodeFormats(t *testing.T) {
	for name, c := range map[string]clip{
		"mp4 mpeg4 B-frames":      {format: "mp4", codec: "mpeg4", w: 96, h: 64, bFrames: 2, gop: 30},
		"matroska mpeg4 B-frames": {format: "matroska", codec: "mpeg4", w: 96, h: 64, bFrames: 3, gop: 30},
		"mpegts mpeg4":            {format: "mpegts", codec: "mpeg4", w: 96, h: 64, gop: 12},
		"odd size":                {format: "matroska", codec: "mjpeg", w: 97, h: 61, pixels: astiav.PixelFormatYuvj420P},
		"tiny":                    {format: "matroska", codec: "mpeg4", w: 17, h: 5, gop: 5},
		"4:2:2":                   {format: "matroska", codec: "mjpeg", w: 97, h: 61, pixels: astiav.PixelFormatYuvj422P},
		"4:4:4":                   {format: "matroska", codec: "mjpeg", w: 32, h: 32, pixels: astiav.PixelFormatYuvj444P},
		"mjpeg":                   {format: "mjpeg", codec: "mjpeg", w: 64, h: 64, pixels: astiav.PixelFormatYuvj420P},
	} {
		t.Run(name, func(t *testing.T) {
			c.pts = every(40*time.Millisecond, 46)
			path := c.write(t)
			for _, tt := range []struct {
				fps  float64
				want int
			}{{-1, 46}, {2, 4}, {10, 19}} {
				fs := all(t, path, Options{FPS: tt.fps})
				require.Equal(t, tt.want, len(fs), "fps %v", tt.fps)
				for i, f := range fs {
					assert.Equal(t, [2]int{c.w, c.h}, [2]int{f.W, f.H})
					n := int(f.PTS.Seconds()*25 + 0.5)
					assert.InDelta(t, 20+2*n%160, grey(f), 8, "fps %v frame %d at %v", tt.fps, i, f.PTS)
				}
			}
		})
	}
}

func TestDecodeVariableRate(t *testing.T) {
	var at []time.Duration
	for ms := 0; ms < 20000; { // bursts of 20 ms steps between pauses of seconds
		for range 5 {
			at = append(at, time.Duration(ms)*time.Millisecond)
			ms += 20
		}
		ms += 3000
	}
	path := clip{format: "matroska", codec: "mpeg4", w: 64, h: 64, gop: 4, pts: at}.write(t)
	fs := all(t, path, Options{FPS: -1})
	require.Equal(t, len(at), len(fs))
	for i, f := range fs {
		assert.Equal(t, at[i], f.PTS)
	}
	sampled := all(t, path, Options{FPS: 2})
	require.Equal(t, 7, len(sampled), "one a burst")
	for i, f := range sampled {
		assert.Equal(t, time.Duration(i)*3100*time.Millisecond, f.PTS)
	}
}

func TestDecodeSparseStart(t *testing.T) {
	at := every(500*time.Millisecond, 6)
	for i := range at {
		at[i] += 90 * time.Minute
	}
	fs := all(t, clip{format: "mpegts", codec: "mpeg4", w: 64, h: 64, gop: 1, pts: at}.write(t), Options{})
	require.Equal(t, 6, len(fs))
	assert.Zero(t, fs[0].PTS)
	assert.Equal(t, 2500*time.Millisecond, fs[5].PTS)
}

func TestDecodeSizes(t *testing.T) {
	big := clip{format: "matroska", codec: "mpeg4", w: 1000, h: 300, gop: 1, pts: every(time.Second, 2)}
	path := big.write(t)
	for _, tt := range []struct{ mw, mh, w, h int }{
		{0, 0, 1000, 300}, {500, 500, 500, 150}, {5000, 75, 250, 75}, {1, 1, 1, 1}, {333, 333, 333, 100},
	} {
		for _, f := range all(t, path, Options{MaxW: tt.mw, MaxH: tt.mh}) {
			assert.Equal(t, [2]int{tt.w, tt.h}, [2]int{f.W, f.H})
		}
	}
	_, err := Open(t.Context(), fileURL(t, path), Options{MaxPixels: 1000})
	require.ErrorContains(t, err, "1000x300")

	squeezed := clip{format: "matroska", codec: "mpeg4", w: 100, h: 100, gop: 1, aspect: astiav.NewRational(2, 1), pts: every(time.Second, 2)}
	f := all(t, squeezed.write(t), Options{})[0]
	assert.Equal(t, [2]int{200, 100}, [2]int{f.W, f.H}, "pixels are made square")
}

func TestDecodeRotation(t *testing.T) {
	for angle, corner := range map[float64]string{0: "top left", 90: "top right", 180: "bottom right", -90: "bottom left"} {
		c := clip{format: "mp4", codec: "mpeg4", w: 80, h: 40, gop: 1, matrix: astiav.NewDisplayMatrixFromRotation(angle), pts: every(time.Second, 2)}
		f := all(t, c.write(t), Options{})[0]
		w, h := 80, 40
		if angle == 90 || angle == -90 {
			w, h = h, w
		}
		require.Equal(t, [2]int{w, h}, [2]int{f.W, f.H}, "%v degrees", angle)
		assert.Equal(t, corner, brightCorner(f), "%v degrees", angle)
	}
}

func brightCorner(f ingest.Frame) string {
	at := func(x, y int) byte { return f.Pix[3*(y*f.W+x)] }
	for name, v := range map[string]byte{
		"top left": at(2, 2), "top right": at(f.W-3, 2), "bottom left": at(2, f.H-3), "bottom right": at(f.W-3, f.H-3),
	} {
		if v > 200 {
			return name
		}
	}
	return "none"
}

func TestDecodeResolutionChange(t *testing.T) {
	// Two transport streams one after the other are one that changes its size and jumps back in time.
	a := clip{format: "mpegts", codec: "mpeg4", w: 96, h: 64, gop: 5, pts: every(100*time.Millisecond, 20)}.write(t)
	b := clip{format: "mpegts", codec: "mpeg4", w: 160, h: 80, gop: 5, pts: every(100*time.Millisecond, 20)}.write(t)
	path := filepath.Join(t.TempDir(), "both.ts")
	x, err := os.ReadFile(a)
	require.NoError(t, err)
	y, err := os.ReadFile(b)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(x, y...), 0o600))
	fs := all(t, path, Options{FPS: -1})
	require.GreaterOrEqual(t, len(fs), 38)
	assert.Equal(t, [2]int{96, 64}, [2]int{fs[0].W, fs[0].H})
	last := fs[len(fs)-1]
	assert.Equal(t, [2]int{160, 80}, [2]int{last.W, last.H})
	for i := 1; i < len(fs); i++ {
		assert.Greater(t, fs[i].PTS, fs[i-1].PTS)
	}
	assert.Less(t, last.PTS, 5*time.Second)
}

func TestOpenHostile(t *testing.T) {
	dir := t.TempDir()
	whole, err := os.ReadFile(mp4(t, 64, 48, 10, 30))
	require.NoError(t, err)
	put := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(p, b, 0o600))
		return p
	}
	playlist := "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
	for name, tt := range map[string]struct{ path, want string }{
		"zero bytes":       {put("zero.mp4", nil), "the file is empty"},
		"garbage":          {put("garbage.mp4", []byte(strings.Repeat("no video \x00\x01\xff", 4000))), "not a video"},
		"truncated header": {put("head.mp4", whole[:200]), "no video track"},
		"local playlist":   {put("list.m3u8", []byte(playlist)), "not a format"},
		"sdp":              {put("x.sdp", []byte("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n")), "not a format"},
		"missing":          {filepath.Join(dir, "none.mp4"), "no such file"},
		"directory":        {dir, "not a regular file"},
		"device":           {"/dev/zero", "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), fileURL(t, tt.path), Options{})
			require.ErrorContains(t, err, tt.want)
			assert.ErrorContains(t, err, tt.path)
		})
	}
	u, err := ingest.ParseURL("v4l2:/dev/null")
	require.NoError(t, err)
	_, err = Open(t.Context(), u, Options{})
	require.ErrorContains(t, err, "v4l2:/dev/null: ")
	_, err = Open(t.Context(), fileURL(t, filepath.Join(dir, "none")), Options{})
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

func TestDecodeNoVideoTrack(t *testing.T) {
	// A RIFF file that says it has one stream of audio.
	fc, err := astiav.AllocOutputFormatContext(nil, "matroska", "")
	require.NoError(t, err)
	defer fc.Free()
	path := filepath.Join(t.TempDir(), "sound.mkv")
	st := fc.NewStream(nil)
	par := st.CodecParameters()
	par.SetMediaType(astiav.MediaTypeAudio)
	par.SetCodecID(astiav.CodecIDPcmS16Le)
	par.SetSampleRate(8000)
	par.SetChannelLayout(astiav.ChannelLayoutMono)
	par.SetSampleFormat(astiav.SampleFormatS16)
	st.SetTimeBase(astiav.NewRational(1, 8000))
	io, err := astiav.OpenIOContext("file:"+path, astiav.NewIOContextFlags(astiav.IOContextFlagWrite), nil, nil)
	require.NoError(t, err)
	fc.SetPb(io)
	require.NoError(t, fc.WriteHeader(nil))
	pkt := astiav.AllocPacket()
	defer pkt.Free()
	require.NoError(t, pkt.FromData(make([]byte, 1600)))
	pkt.SetPts(0)
	pkt.SetDts(0)
	pkt.SetDuration(800)
	require.NoError(t, fc.WriteFrame(pkt))
	require.NoError(t, fc.WriteTrailer())
	require.NoError(t, io.Close())
	_, err = Open(t.Context(), fileURL(t, path), Options{})
	require.ErrorContains(t, err, "no video track")
	assert.ErrorContains(t, err, path)
}

// What a cut or damaged file still holds is given; then it ends, or says what is wrong.
func TestDecodeDamaged(t *testing.T) {
	mkv := clip{format: "matroska", codec: "mpeg4", w: 64, h: 64, gop: 5, pts: every(100*time.Millisecond, 100)}.write(t)
	whole, err := os.ReadFile(mkv)
	require.NoError(t, err)
	write := func(b []byte) string {
		p := filepath.Join(t.TempDir(), "cut.mkv")
		require.NoError(t, os.WriteFile(p, b, 0o600))
		return p
	}
	fs, err := readAll(t, write(whole[:len(whole)/2]), Options{FPS: -1})
	if err != nil {
		assert.ErrorContains(t, err, "cut.mkv")
	}
	assert.InDelta(t, 50, len(fs), 10)

	torn := append([]byte(nil), whole...)
	for i := len(torn) / 3; i < len(torn)/2; i++ {
		torn[i] = byte(i * 7)
	}
	fs, err = readAll(t, write(torn), Options{FPS: -1})
	if err != nil {
		assert.ErrorContains(t, err, "cut.mkv")
	}
	assert.GreaterOrEqual(t, len(fs), 30)
	for i := 1; i < len(fs); i++ {
		assert.GreaterOrEqual(t, fs[i].PTS, fs[i-1].PTS)
	}
}

func TestDecoderLife(t *testing.T) {
	u := fileURL(t, mp4(t, 64, 48, 10, 5))
	d, err := Open(t.Context(), u, Options{})
	require.NoError(t, err)
	assert.False(t, d.Live())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = d.Next(ctx)
	require.ErrorIs(t, err, context.Canceled)
	_, err = d.Next(t.Context())
	require.NoError(t, err)
	_, err = d.Next(t.Context())
	require.ErrorIs(t, err, io.EOF)
	_, err = d.Next(t.Context())
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())

	_, err = Open(ctx, u, Options{})
	require.ErrorIs(t, err, context.Canceled)

	for _, o := range []Options{{FPS: 1e9}, {FPS: 1e-9}, {Transport: "pigeon"}, {MaxW: -1}} {
		_, err := Open(t.Context(), u, o)
		require.Error(t, err)
	}
	sim, err := ingest.ParseURL("sim://street?seed=1")
	require.NoError(t, err)
	_, err = Open(t.Context(), sim, Options{})
	require.Error(t, err)
}

func TestExplainKeepsIdentity(t *testing.T) {
	u, err := ingest.ParseURL("rtsp://user:s3cret%21word@camera.invalid/stream")
	require.NoError(t, err)
	assert.ErrorIs(t, explain(u, astiav.ErrHttpUnauthorized), ingest.ErrCredentials)
	assert.NotContains(t, explain(u, errors.New("dial "+u.Raw())).Error(), "s3cret")
	assert.ErrorIs(t, explain(u, context.DeadlineExceeded), context.DeadlineExceeded)
}

// Whatever bytes a file holds, opening and reading it ends, with frames of the size they claim.
func FuzzDecode(f *testing.F) {
	for _, c := range []clip{
		{format: "matroska", codec: "mpeg4", w: 32, h: 32, bFrames: 1, gop: 3},
		{format: "mpegts", codec: "mpeg4", w: 32, h: 32, gop: 3},
		{format: "mp4", codec: "mjpeg", w: 17, h: 9, pixels: astiav.PixelFormatYuvj420P},
	} {
		c.pts = every(100*time.Millisecond, 6)
		b, err := os.ReadFile(c.write(f))
		require.NoError(f, err)
		f.Add(b)
		f.Add(b[:len(b)/2])
		torn := bytes.Clone(b)
		torn[len(torn)/2] ^= 0x55
		f.Add(torn)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "x")
		require.NoError(t, os.WriteFile(path, b, 0o600))
		d, err := Open(t.Context(), fileURL(t, path), Options{FPS: -1, OpenTimeout: 5 * time.Second, MaxW: 64, MaxH: 64})
		if err != nil {
			require.ErrorContains(t, err, path)
			return
		}
		defer d.Close()
		last := time.Duration(-1)
		for range 100 {
			fr, err := d.Next(t.Context())
			if err != nil {
				return
			}
			require.Equal(t, 3*fr.W*fr.H, len(fr.Pix))
			require.LessOrEqual(t, max(fr.W, fr.H), 64)
			require.GreaterOrEqual(t, fr.PTS, last)
			last = fr.PTS
		}
	})
}
