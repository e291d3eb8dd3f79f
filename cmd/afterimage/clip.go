package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"os"
	"path/filepath"
	"time"

	"afterimage/ingest/ffmpeg"
	"afterimage/qa"
)

// A clip runs at the speed of life where there are pictures enough for that, and else at clipRate pictures a second.
const (
	clipLeast = 1 // pictures a second, on average, that are enough
	clipRate  = 4
	clipMost  = 25
)

// clipPace is at how many pictures a second pictures of n moments over a stretch are shown.
func clipPace(n int, over time.Duration) float64 {
	if n < 2 || over <= 0 {
		return clipRate
	}
	if rate := float64(n-1) / over.Seconds(); rate >= clipLeast {
		return min(rate, clipMost)
	}
	return clipRate
}

// makeClip implements web.ClipMaker. Pictures of another size than the newest, and those that are none, are left out.
func makeClip(ctx context.Context, pictures []qa.Picture) (_ []byte, err error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("clip of %d pictures: %w", len(pictures), err) }
	var size image.Point
	for _, p := range pictures {
		if c, err := jpeg.DecodeConfig(bytes.NewReader(p.JPEG)); err == nil {
			size = image.Pt(c.Width&^1, c.Height&^1) // H.264 has even sides
		}
	}
	if size.X < 16 || size.Y < 16 || size.X > 640 || size.Y > 640 {
		return fail(fmt.Errorf("pictures of %v cannot be encoded", size))
	}
	dir, err := os.MkdirTemp("", "afterimage-clip-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "clip.mp4")
	rgb := make([]byte, 3*size.X*size.Y)
	fps := clipPace(len(pictures), pictures[len(pictures)-1].At.Sub(pictures[0].At))
	next := func() ([]byte, error) {
		for len(pictures) > 0 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			img, err := jpeg.Decode(bytes.NewReader(pictures[0].JPEG))
			pictures = pictures[1:]
			if err == nil && img.Bounds().Dx()&^1 == size.X && img.Bounds().Dy()&^1 == size.Y {
				pack(rgb, img, size)
				return rgb, nil
			}
		}
		return nil, io.EOF
	}
	if err := ffmpeg.WriteMP4(file, size.X, size.Y, fps, next); err != nil {
		if ctx.Err() != nil {
			return fail(ctx.Err())
		}
		return fail(errors.New("it could not be encoded: " + unwrapped(err)))
	}
	clip, err := os.ReadFile(file)
	if err != nil {
		return fail(err)
	}
	return clip, nil
}

// unwrapped is an error's innermost text, which names no file of ours.
func unwrapped(err error) string {
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err.Error()
}

// pack writes the upper left part of a picture as packed RGB24.
func pack(rgb []byte, img image.Image, size image.Point) {
	b := img.Bounds()
	for y := range size.Y {
		for x := range size.X {
			r, g, bl, _ := img.At(b.Min.X+x, b.Min.Y+y).RGBA()
			o := 3 * (y*size.X + x)
			rgb[o], rgb[o+1], rgb[o+2] = byte(r>>8), byte(g>>8), byte(bl>>8)
		}
	}
}
