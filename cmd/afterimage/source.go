package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"afterimage/ingest"
	"afterimage/ingest/ffmpeg"
	"afterimage/ingest/simcam"
	"afterimage/web"
)

// sourceOptions say how a source is read.
type sourceOptions struct {
	FPS       float64
	Transport string
	Stall     time.Duration // silence that the supervisor takes for a stall; zero means its default
	Pace      bool          // a file and a simulated camera: at the speed of life
	Measure   web.StreamMetrics
	Epoch     time.Time // a file or an unpaced simulated camera: the wall clock of its first picture; zero means now
}

// sourceOpener returns how to open u, and whether it is live.
func sourceOpener(ctx context.Context, u ingest.URL, o sourceOptions) (ingest.Opener, bool, error) {
	if u.Scheme() == ingest.SimScheme {
		c, err := simOptions(u)
		if err != nil {
			return nil, false, err
		}
		if c.FPS == 0 {
			c.FPS = o.FPS
		}
		if !c.Pace {
			c.Epoch = o.Epoch
		}
		return func(context.Context) (ingest.Source, error) { return simcam.Open(c) }, c.Pace && c.Length == 0, nil
	}
	open := func(ctx context.Context) (*ffmpeg.Decoder, error) {
		f := ffmpeg.Options{FPS: o.FPS, Transport: o.Transport, Pace: o.Pace, Epoch: o.Epoch}
		if m := o.Measure.Decode; m != nil {
			f.Decoded = func(took time.Duration) { m.Observe(took.Seconds()) }
		}
		if o.Stall > 0 {
			f.ReadTimeout = o.Stall + 5*time.Second // the supervisor notices first, and says so
		}
		return ffmpeg.Open(ctx, u, f)
	}
	live, early := u.Live(), (*ffmpeg.Decoder)(nil)
	if u.Scheme() == ingest.HTTPScheme || u.Scheme() == ingest.HTTPSScheme {
		// Only opening tells whether this is a file or a broadcast. One that cannot be reached now is taken for a broadcast.
		d, err := open(ctx)
		if live = err != nil || d.Live(); err == nil {
			early = d
		}
	}
	return func(ctx context.Context) (ingest.Source, error) {
		if d := early; d != nil {
			early = nil // the supervisor opens from one goroutine
			return d, nil
		}
		d, err := open(ctx)
		if err != nil {
			return nil, err // not d: a nil *Decoder in an interface is not nil
		}
		return d, nil
	}, live, nil
}

// simOptions reads sim://street?seed=1&minutes=10&fps=2&pace=false.
func simOptions(u ingest.URL) (simcam.CameraOptions, error) {
	raw, err := url.Parse(u.Raw())
	if err != nil {
		return simcam.CameraOptions{}, fmt.Errorf("source %s: malformed", u)
	}
	return simcam.ParseOptions(u.Host(), raw.Query())
}

// checkSource fails early, and in plain words, for what will never work: a file that is not there, an unknown scene.
func checkSource(u ingest.URL) error {
	switch u.Scheme() {
	case ingest.SimScheme:
		_, err := simOptions(u)
		return err
	case ingest.FileScheme, ingest.V4L2Scheme:
		f, err := os.Open(u.Path())
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		return f.Close()
	}
	return nil
}

// withSimEncoder adapts FFmpeg's H.264 encoder to what the simulated camera's RTSP server takes.
func withSimEncoder(w, h, fps int) (simcam.H264Encoder, error) {
	e, err := ffmpeg.NewH264Encoder(w, h, float64(fps), 0)
	if err != nil {
		return nil, err
	}
	return simEncoder{e}, nil
}

type simEncoder struct{ *ffmpeg.H264Encoder }

// Encode implements simcam.H264Encoder.
func (e simEncoder) Encode(rgb []byte, pts time.Duration) ([]simcam.AccessUnit, error) {
	units, err := e.H264Encoder.Encode(rgb, pts)
	if err != nil {
		return nil, err
	}
	out := make([]simcam.AccessUnit, len(units))
	for i, u := range units {
		out[i] = simcam.AccessUnit(u)
	}
	return out, nil
}

// h264Camera opens a simulated stream as a camera's recording would show it: drawn at recordFPS, coded as H.264 and decoded.
func h264Camera(ctx context.Context, seed uint64, length time.Duration, epoch time.Time) (_ ingest.Source, err error) {
	const recordFPS = 10
	dir, err := os.MkdirTemp("", "afterimage-bench-")
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	file := filepath.Join(dir, "clip.mp4")
	if err := writeClip(ctx, file, simcam.NewScript(seed, length), length, recordFPS, nil); err != nil {
		return nil, err
	}
	u, err := ingest.ParseURL(file)
	if err != nil {
		return nil, err
	}
	d, err := ffmpeg.Open(ctx, u, ffmpeg.Options{FPS: 2, Epoch: epoch})
	if err != nil {
		return nil, err
	}
	return removeAfter{d, dir}, nil
}

// removeAfter removes a directory once its source is closed.
type removeAfter struct {
	ingest.Source
	dir string
}

// Close implements ingest.Source.
func (r removeAfter) Close() error {
	err := r.Source.Close()
	if e := os.RemoveAll(r.dir); err == nil {
		err = e
	}
	return err
}

// nameOf makes a stream's name from its source, for verbs that have no configuration.
func nameOf(u ingest.URL) string {
	s := first(u.Host(), filepath.Base(u.Path()), "stream")
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, s)
	if s = strings.TrimLeft(s, "-_0123456789"); s == "" {
		return "stream"
	}
	return s[:min(len(s), 64)]
}
