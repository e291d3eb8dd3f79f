package ffmpeg

import (
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/asticode/go-astiav"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
)

// paint gives a picture whose grey level tells its number: steps are wide enough to survive compression. A white square marks
// the top left corner, so that turns and flips show.
func paint(w, h, level int) []byte {
	rgb := make([]byte, 3*w*h)
	for i := range rgb {
		rgb[i] = byte(level)
	}
	for y := range h / 4 {
		for x := range w / 4 {
			for c := range 3 {
				rgb[3*(y*w+x)+c] = 255
			}
		}
	}
	return rgb
}

// grey is the picture's level away from the marked corners.
func grey(f ingest.Frame) int {
	return int(f.Pix[3*((f.H/2)*f.W+f.W/2)])
}

func mp4(t testing.TB, w, h int, fps float64, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clip.mp4")
	i := 0
	require.NoError(t, WriteMP4(path, w, h, fps, func() ([]byte, error) {
		if i == n {
			return nil, io.EOF
		}
		i++
		return paint(w, h, 20+(i-1)*2%160), nil
	}))
	return path
}

func fileURL(t testing.TB, path string) ingest.URL {
	t.Helper()
	u, err := ingest.ParseURL(path)
	require.NoError(t, err)
	return u
}

// all reads a file to its end.
func all(t testing.TB, path string, o Options) []ingest.Frame {
	t.Helper()
	fs, err := readAll(t, path, o)
	require.NoError(t, err)
	return fs
}

func readAll(t testing.TB, path string, o Options) ([]ingest.Frame, error) {
	t.Helper()
	d, err := Open(t.Context(), fileURL(t, path), o)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var fs []ingest.Frame
	for {
		f, err := d.Next(t.Context())
		if err == io.EOF {
			return fs, nil
		}
		if err != nil {
			return fs, err
		}
		require.Equal(t, 3*f.W*f.H, len(f.Pix))
		fs = append(fs, f)
	}
}

// A clip is a file made by hand, for what WriteMP4 cannot do.
type clip struct {
	format, codec string
	w, h          int
	bFrames       int
	gop           int
	matrix        *astiav.DisplayMatrix
	aspect        astiav.Rational
	pixels        astiav.PixelFormat
	opts          map[string]string
	pts           []time.Duration // one picture each, level 20+2n
}

func (c clip) write(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clip."+c.format)
	codec := astiav.FindEncoderByName(c.codec)
	require.NotNil(t, codec, c.codec)
	cc := astiav.AllocCodecContext(codec)
	defer cc.Free()
	cc.SetWidth(c.w)
	cc.SetHeight(c.h)
	cc.SetPixelFormat(c.pixels)
	cc.SetTimeBase(astiav.NewRational(1, 1000))
	cc.SetFramerate(astiav.NewRational(25, 1))
	cc.SetMaxBFrames(c.bFrames)
	cc.SetGopSize(c.gop)
	cc.SetBitRate(2_000_000)
	if c.aspect.Num() != 0 {
		cc.SetSampleAspectRatio(c.aspect)
	}
	if c.format == "mp4" || c.format == "matroska" {
		cc.SetFlags(cc.Flags().Add(astiav.CodecContextFlagGlobalHeader))
	}
	if c.pixels == astiav.PixelFormatYuvj420P {
		cc.SetColorRange(astiav.ColorRangeJpeg)
	}
	require.NoError(t, cc.Open(codec, nil))
	m, err := newMuxer(path, c.format, cc, c.opts, func(st *astiav.Stream) error {
		if c.aspect.Num() != 0 {
			st.SetSampleAspectRatio(c.aspect)
		}
		if c.matrix == nil {
			return nil
		}
		return st.CodecParameters().SideData().DisplayMatrix().Add(c.matrix)
	})
	require.NoError(t, err)
	defer m.close()
	m.tail = 40
	frame, pkt := astiav.AllocFrame(), astiav.AllocPacket()
	defer frame.Free()
	defer pkt.Free()
	frame.SetWidth(c.w)
	frame.SetHeight(c.h)
	frame.SetPixelFormat(c.pixels)
	require.NoError(t, frame.AllocBuffer(0))
	var conv converter
	defer conv.free()
	drain := func() {
		for cc.ReceivePacket(pkt) == nil {
			require.NoError(t, m.write(pkt))
			pkt.Unref()
		}
	}
	for i, at := range c.pts {
		require.NoError(t, frame.MakeWritable())
		require.NoError(t, conv.fill(frame, paint(c.w, c.h, 20+2*i%160)))
		frame.SetPts(at.Milliseconds())
		require.NoError(t, cc.SendFrame(frame))
		drain()
	}
	require.NoError(t, cc.SendFrame(nil))
	drain()
	require.NoError(t, m.finish())
	return path
}

// every is n times d apart, from zero.
func every(d time.Duration, n int) []time.Duration {
	ts := make([]time.Duration, n)
	for i := range ts {
		ts[i] = time.Duration(i) * d
	}
	return ts
}
