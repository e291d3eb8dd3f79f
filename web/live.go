package web

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"sync"
	"time"

	"afterimage/ingest"
)

// liveHeader is the length of what precedes the JPEG in a binary message, big endian: stream uint32 (the index of the stream
// in session.created), pts uint64 (microseconds on the stream's clock), seq uint32 (1, 2, 3 … a stream; a jump means that
// pictures in between were left out).
const liveHeader = 16

const (
	livePoll    = 200 * time.Millisecond // at most 5 pictures a second
	liveQuality = 78
	liveMaxSide = 1280
)

// picture is one encoded frame: the binary message as it goes out, and what it was made from. Immutable.
type picture struct {
	message []byte // header + JPEG
	wall    time.Time
	index   int64
}

func (p *picture) jpeg() []byte { return p.message[liveHeader:] }

// live encodes a stream's newest frame, once a frame, only while someone watches.
type live struct {
	stream Stream
	id     uint32
	start  func(func(context.Context)) bool // runs a goroutine that the server waits for; false once it is stopping

	mu       sync.Mutex
	seq      uint32
	last     *picture
	watchers map[*outbox]struct{}
	running  bool // a poll goroutine exists
}

// watch adds a watcher; the first one starts the poller.
func (l *live) watch(o *outbox) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers[o] = struct{}{}
	if !l.running {
		l.running = l.start(l.poll)
	}
}

// leave removes a watcher; the poller ends itself when it finds none left.
func (l *live) leave(o *outbox) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.watchers, o)
}

func (l *live) poll(ctx context.Context) {
	tick := time.NewTicker(livePoll)
	defer tick.Stop()
	for {
		p, err := l.latest()
		l.mu.Lock()
		if len(l.watchers) == 0 || ctx.Err() != nil {
			l.running = false
			l.mu.Unlock()
			return
		}
		if err == nil {
			for o := range l.watchers {
				o.setPicture(p)
			}
		}
		l.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

var errNoPicture = errors.New("web: no picture yet")

// latest returns the newest frame encoded, encoding it only if nobody did yet.
func (l *live) latest() (*picture, error) {
	f, ok := l.stream.LatestFrame()
	if !ok {
		return nil, errNoPicture
	}
	l.mu.Lock()
	defer l.mu.Unlock() // held while encoding: a second caller for the same frame must wait for it rather than encode it again
	if l.last != nil && l.last.index == f.Index && l.last.wall.Equal(f.Wall) {
		return l.last, nil
	}
	img, err := planar(f)
	if err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(make([]byte, liveHeader, 64<<10))
	if err := jpeg.Encode(b, img, &jpeg.Options{Quality: liveQuality}); err != nil {
		return nil, fmt.Errorf("web: encode picture of %s: %w", l.stream.Name(), err)
	}
	l.seq++
	m := b.Bytes()
	binary.BigEndian.PutUint32(m, l.id)
	binary.BigEndian.PutUint64(m[4:], uint64(max(0, f.PTS.Microseconds())))
	binary.BigEndian.PutUint32(m[12:], l.seq)
	l.last = &picture{message: m, wall: f.Wall, index: f.Index}
	return l.last, nil
}

// planar converts RGB24 to the 4:2:0 picture that image/jpeg encodes without going through color.Color for every pixel,
// skipping pixels of pictures larger than liveMaxSide.
func planar(f ingest.Frame) (*image.YCbCr, error) {
	if f.W <= 0 || f.H <= 0 || len(f.Pix) < 3*f.W*f.H {
		return nil, fmt.Errorf("web: frame of %d x %d has %d bytes", f.W, f.H, len(f.Pix))
	}
	step := (max(f.W, f.H) + liveMaxSide - 1) / liveMaxSide
	w, h := (f.W+step-1)/step, (f.H+step-1)/step
	img := image.NewYCbCr(image.Rect(0, 0, w, h), image.YCbCrSubsampleRatio420)
	for cy := range (h + 1) / 2 {
		for cx := range (w + 1) / 2 {
			var r, g, b, n int32
			for y := 2 * cy; y < min(2*cy+2, h); y++ {
				for x := 2 * cx; x < min(2*cx+2, w); x++ {
					p := f.Pix[3*(y*step*f.W+x*step):]
					pr, pg, pb := int32(p[0]), int32(p[1]), int32(p[2])
					img.Y[y*img.YStride+x] = uint8((19595*pr + 38470*pg + 7471*pb + 1<<15) >> 16)
					r, g, b, n = r+pr, g+pg, b+pb, n+1
				}
			}
			r, g, b = r/n, g/n, b/n
			i := cy*img.CStride + cx
			img.Cb[i] = clamp8((-11056*r - 21712*g + 32768*b + 257<<15) >> 16)
			img.Cr[i] = clamp8((32768*r - 27440*g - 5328*b + 257<<15) >> 16)
		}
	}
	return img, nil
}

func clamp8(v int32) uint8 { return uint8(min(max(v, 0), 255)) }
