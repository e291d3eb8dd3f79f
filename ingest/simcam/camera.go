package simcam

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"afterimage/ingest"
)

// CameraOptions describe a Camera; zero values take the defaults named.
type CameraOptions struct {
	Seed   uint64
	Length time.Duration // of the stream; 0 means a day
	FPS    float64       // sampled frames a second, 2
	W, H   int           // pixels, 640 x 360
	Pace   bool          // deliver as a live camera would; otherwise as fast as asked
	Epoch  time.Time     // the wall clock at stream time 0; zero means the moment of Open
}

// Camera is an ingest.Source of a script's pictures, without a codec between.
type Camera struct {
	Script *Script
	o      CameraOptions
	r      *Renderer
	next   int64
}

// Open returns a camera at the start of its stream.
func Open(o CameraOptions) (*Camera, error) {
	if o.FPS == 0 {
		o.FPS = 2
	}
	if o.W == 0 && o.H == 0 {
		o.W, o.H = SceneW, SceneH
	}
	if o.Length == 0 {
		o.Length = 24 * time.Hour
	}
	if o.Epoch.IsZero() {
		o.Epoch = time.Now()
	}
	switch {
	case !(o.FPS > 0 && o.FPS <= 60):
		return nil, fmt.Errorf("simcam: fps %v: want more than 0 and at most 60", o.FPS)
	case o.W < 16 || o.H < 16 || o.W > 4096 || o.H > 4096:
		return nil, fmt.Errorf("simcam: size %dx%d: want 16x16 to 4096x4096", o.W, o.H)
	case o.Length < 0 || o.Length > 31*24*time.Hour:
		return nil, fmt.Errorf("simcam: length %v: want up to 31 days", o.Length)
	}
	s := NewScript(o.Seed, o.Length)
	return &Camera{Script: s, o: o, r: NewRenderer(s, o.W, o.H)}, nil
}

// Epoch is the wall clock at stream time 0.
func (c *Camera) Epoch() time.Time { return c.o.Epoch }

// Next returns the next sampled frame; a paced camera waits until it is due. io.EOF ends the stream. One caller at a time.
func (c *Camera) Next(ctx context.Context) (ingest.Frame, error) {
	at := time.Duration(float64(c.next) / c.o.FPS * float64(time.Second))
	if at >= c.o.Length {
		return ingest.Frame{}, io.EOF
	}
	if wait := time.Until(c.o.Epoch.Add(at)); c.o.Pace && wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	if err := ctx.Err(); err != nil {
		return ingest.Frame{}, err
	}
	f := ingest.Frame{Index: c.next, PTS: at, Wall: c.o.Epoch.Add(at), W: c.o.W, H: c.o.H, Pix: make([]byte, 3*c.o.W*c.o.H)}
	c.r.Render(f.Pix, at)
	c.next++
	return f, nil
}

// Close releases nothing; it is there for ingest.Source.
func (c *Camera) Close() error { return nil }

// ParseOptions reads what follows sim:// in a source URL, such as street?seed=1&minutes=10&fps=2: the host must be "street".
func ParseOptions(host string, query map[string][]string) (CameraOptions, error) {
	o := CameraOptions{Pace: true}
	if host != "street" {
		return o, fmt.Errorf("simcam: unknown scene %q: the one scene is sim://street", host)
	}
	for key, values := range query {
		v := values[len(values)-1]
		var err error
		switch key {
		case "seed":
			o.Seed, err = strconv.ParseUint(v, 10, 64)
		case "minutes":
			var m float64
			m, err = strconv.ParseFloat(v, 64)
			if m < 0 || m > 31*24*60 || m != m {
				err = fmt.Errorf("want 0 to 44640")
			}
			o.Length = time.Duration(m * float64(time.Minute))
		case "fps":
			o.FPS, err = strconv.ParseFloat(v, 64)
		case "pace":
			o.Pace, err = strconv.ParseBool(v)
		default:
			err = fmt.Errorf("unknown option: known are seed, minutes, fps, pace")
		}
		if err != nil {
			return o, fmt.Errorf("simcam: sim://street?%s=%s: %w", key, v, err)
		}
	}
	return o, nil
}
