package main

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/ingest/ffmpeg"
	"afterimage/ingest/simcam"
	"afterimage/qa"
)

// grey is a JPEG of one level.
func grey(t *testing.T, w, h int, level uint8) []byte {
	img := image.NewGray(image.Rect(0, 0, w, h))
	for i := range img.Pix {
		img.Pix[i] = level
	}
	var b bytes.Buffer
	require.NoError(t, jpeg.Encode(&b, img, nil))
	return b.Bytes()
}

// A clip shows the pictures in order, one after the other, whatever lies between that is none or of another size.
func TestMakeClip(t *testing.T) {
	start := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	var pictures []qa.Picture
	for i := range 20 {
		pictures = append(pictures, qa.Picture{At: start.Add(time.Duration(i) * 500 * time.Millisecond), JPEG: grey(t, 161, 91, uint8(20+10*i))})
	}
	pictures[3].JPEG = []byte("no picture")
	pictures[7].JPEG = grey(t, 80, 45, 99)
	clip, err := makeClip(t.Context(), pictures)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "clip.mp4")
	require.NoError(t, os.WriteFile(file, clip, 0o600))
	u, err := ingest.ParseURL(file)
	require.NoError(t, err)
	d, err := ffmpeg.Open(t.Context(), u, ffmpeg.Options{FPS: 2})
	require.NoError(t, err)
	defer d.Close()
	var levels []int
	for {
		f, err := d.Next(t.Context())
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		assert.Equal(t, [2]int{160, 90}, [2]int{f.W, f.H})
		c := color.GrayModel.Convert(color.RGBA{f.Pix[0], f.Pix[1], f.Pix[2], 255}).(color.Gray)
		levels = append(levels, int(c.Y))
	}
	require.Len(t, levels, 18, "two a second, as they were taken")
	n := 0
	for i := range 20 {
		if i != 3 && i != 7 {
			assert.InDelta(t, 20+10*i, levels[n], 6)
			n++
		}
	}

	_, err = makeClip(t.Context(), []qa.Picture{{At: start, JPEG: []byte("no picture")}})
	require.ErrorContains(t, err, "clip of 1 pictures: ")
	done, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = makeClip(done, pictures)
	require.ErrorIs(t, err, context.Canceled)
}

func TestClipPace(t *testing.T) {
	assert.Equal(t, 2.0, clipPace(21, 10*time.Second), "the speed of life")
	assert.Equal(t, 4.0, clipPace(80, time.Hour), "faster")
	assert.Equal(t, 25.0, clipPace(80, time.Second))
	assert.Equal(t, 4.0, clipPace(1, 0))
}

// As many pictures as a clip has at most, of the simulated street.
func BenchmarkMakeClip(b *testing.B) {
	const n = 80
	r := simcam.NewRenderer(simcam.NewScript(900_207, time.Hour), 160, 90)
	var pictures []qa.Picture
	for i := range n {
		at := time.Minute + time.Duration(i)*500*time.Millisecond
		pix := make([]byte, 3*160*90)
		r.Render(pix, at)
		img := image.NewRGBA(image.Rect(0, 0, 160, 90))
		for p := range 160 * 90 {
			copy(img.Pix[4*p:], []byte{pix[3*p], pix[3*p+1], pix[3*p+2], 255})
		}
		var text bytes.Buffer
		require.NoError(b, jpeg.Encode(&text, img, &jpeg.Options{Quality: 70}))
		pictures = append(pictures, qa.Picture{At: time.Unix(0, 0).Add(at), JPEG: text.Bytes()})
	}
	size := 0
	for b.Loop() {
		clip, err := makeClip(b.Context(), pictures)
		require.NoError(b, err)
		size = len(clip)
	}
	b.ReportMetric(float64(size), "bytes")
}
