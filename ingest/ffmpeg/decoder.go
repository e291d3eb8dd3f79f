package ffmpeg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/asticode/go-astiav"

	"afterimage/ingest"
)

// A Decoder is an ingest.Source over one URL, opened by Open. One goroutine at a time may call it. Close must be called, and
// frees FFmpeg's memory.
type Decoder struct {
	url ingest.URL
	o   Options

	guard  guard
	fc     *astiav.FormatContext
	cc     *astiav.CodecContext
	pkt    *astiav.Packet
	frame  *astiav.Frame
	scaler scaler

	live      bool
	byArrival bool // the stream's own times mean nothing
	polls     bool // a device: reading does not wait
	stream    int
	timeBase  astiav.Rational

	clock    clock
	sampler  sampler
	gate     keyGate
	waitKey  bool          // packets were left out: only a key frame can be decoded next
	keysLost int           // key packets sent alone that gave no frame
	draining bool          // the input ended; the decoder is being emptied
	damaged  int           // errors in a row while draining
	spent    time.Duration // decoding and converting, since the last frame given
	timeless int           // pictures without a time before a live stream's clock started
	held     *ingest.Frame

	index int64
	epoch time.Time // Wall of PTS 0, for files
	began time.Time // when the first frame was given, for pacing
	err   error     // what ended it; Next repeats it
}

// Live reports whether the source has no end of its own: a camera, or a stream over HTTP without a duration. The end of a live
// source is an error, not io.EOF.
func (d *Decoder) Live() bool { return d.live }

// Length is how long the source says it is; 0 when it does not say.
func (d *Decoder) Length() time.Duration {
	if d.live || d.fc == nil {
		return 0
	}
	return time.Duration(max(d.fc.Duration(), 0)) * time.Microsecond
}

// Next returns the next sampled frame; see ingest.Source. It fails when the source is silent for Options.ReadTimeout. After an
// error other than the context's, it returns that error again. A read that a context cuts short may cost the source its place:
// a caller that gives up should close it.
func (d *Decoder) Next(ctx context.Context) (ingest.Frame, error) {
	if d.err != nil {
		return ingest.Frame{}, d.err
	}
	if err := ctx.Err(); err != nil {
		return ingest.Frame{}, err
	}
	f, err := d.hold(ctx)
	if err == nil {
		err = d.pace(ctx, f.PTS)
	}
	switch {
	case err == nil:
		d.held = nil
		return f, nil
	case ctx.Err() != nil:
		return ingest.Frame{}, ctx.Err()
	case errors.Is(err, io.EOF):
		d.err = io.EOF
	default:
		d.err = fmt.Errorf("ffmpeg: read %v: %w", d.url, explain(d.url, err))
	}
	return ingest.Frame{}, d.err
}

// hold returns the frame that a cancelled pause kept back, or the next one.
func (d *Decoder) hold(ctx context.Context) (ingest.Frame, error) {
	if d.held != nil {
		return *d.held, nil
	}
	d.guard.begin(ctx, d.o.ReadTimeout, "nothing received")
	f, err := d.next()
	if cause := d.guard.end(); cause != nil && err != nil {
		return f, cause
	}
	if err == nil {
		d.held = &f
	}
	return f, err
}

// next runs until the decoder gives a frame that is wanted.
func (d *Decoder) next() (ingest.Frame, error) {
	for {
		begun := time.Now()
		err := d.cc.ReceiveFrame(d.frame)
		if err == nil {
			d.keysLost = 0
			f, wanted, err := d.take()
			d.frame.Unref()
			d.spent += time.Since(begun)
			if err != nil || wanted {
				if err == nil && d.o.Decoded != nil {
					d.o.Decoded(d.spent)
				}
				d.spent = 0
				return f, err
			}
			continue
		}
		d.spent += time.Since(begun)
		switch {
		case errors.Is(err, astiav.ErrEof) && d.draining:
			return ingest.Frame{}, d.ended()
		case errors.Is(err, astiav.ErrEof):
			flushDecoder(d.cc) // a key frame was decoded alone
			continue
		case d.draining:
			if d.damaged++; d.damaged > 64 { // more than any decoder holds back
				return ingest.Frame{}, d.ended()
			}
			continue // a damaged last picture; the decoder moves on to its end
		}
		// Anything else is a damaged picture: the decoder goes on with the next packet.
		if err := d.feed(); err != nil {
			return ingest.Frame{}, err
		}
	}
}

func (d *Decoder) ended() error {
	switch {
	case d.live:
		return errors.New("the stream ended")
	case d.index == 0:
		return errors.New("no picture could be decoded")
	}
	return io.EOF
}

// feed gives the decoder the next packet that is worth decoding.
func (d *Decoder) feed() error {
	for {
		err := d.fc.ReadFrame(d.pkt)
		switch {
		case err == nil:
		case errors.Is(err, astiav.ErrEof) && d.guard.cause() == nil:
			d.draining = true
			setSkipNonRef(d.cc, false)
			return d.cc.SendPacket(nil)
		case errors.Is(err, astiav.ErrEagain):
			if cause := d.guard.cause(); cause != nil {
				return cause
			}
			time.Sleep(5 * time.Millisecond)
			continue
		default:
			return err
		}
		sent, err := d.offer()
		d.pkt.Unref()
		if err != nil || sent {
			return err
		}
	}
}

// offer sends the packet in d.pkt unless it is of no use.
func (d *Decoder) offer() (sent bool, err error) {
	if d.pkt.StreamIndex() != d.stream {
		return false, nil
	}
	d.guard.progress()
	key := d.pkt.Flags().Has(astiav.PacketFlagKey)
	t, known := d.packetTime()
	due := !known || d.sampler.every == 0 || t >= d.sampler.due
	if key {
		d.gate.key(t)
	}
	only := known && d.gate.only(t)
	if !key && (only || d.waitKey) || only && !due {
		d.waitKey = true
		return false, nil
	}
	d.waitKey = false
	setSkipNonRef(d.cc, !due)
	begun := time.Now()
	defer func() { d.spent += time.Since(begun) }()
	switch err := d.cc.SendPacket(d.pkt); {
	case err == nil:
	case errors.Is(err, astiav.ErrInvaliddata), errors.Is(err, astiav.ErrEagain):
		return false, nil // damaged; what follows may be whole
	default:
		return false, err
	}
	if only {
		if d.keysLost++; d.keysLost > 3 {
			d.gate.banned, d.waitKey = true, true
		}
		// Nothing follows that the decoder would have to wait for: have the picture now.
		return true, d.cc.SendPacket(nil)
	}
	return true, nil
}

// packetTime is the stream's time of d.pkt as the clock sees it, and whether that can be relied on.
func (d *Decoder) packetTime() (time.Duration, bool) {
	now := time.Now()
	pts := d.pkt.Pts()
	switch {
	case d.byArrival:
		return d.clock.peek(d.arrival(now), now)
	case pts == astiav.NoPtsValue:
		if pts = d.pkt.Dts(); pts == astiav.NoPtsValue {
			return d.clock.out, false
		}
	}
	return d.clock.peek(duration(pts, d.timeBase), now)
}

// arrival is a timestamp for streams without any. Its zero does not matter.
func (d *Decoder) arrival(now time.Time) time.Duration {
	if d.began.IsZero() {
		d.began = now
	}
	return now.Sub(d.began)
}

// FFmpeg gives an RTSP stream's first picture no time. Pictures that were buffered while the stream was probed come in a heap, so
// that their arrival says nothing about the time between them: a live stream's clock rather starts with the first picture that
// has a time, unless this many come without.
const maxTimeless = 4

// take turns d.frame into a Frame, if it is one to sample.
func (d *Decoder) take() (ingest.Frame, bool, error) {
	now := time.Now()
	pts := bestEffortPTS(d.frame)
	var raw time.Duration
	switch {
	case d.byArrival:
		raw = d.arrival(now)
	case pts != astiav.NoPtsValue:
		raw = duration(pts, d.timeBase)
	case d.live && d.clock.started:
		raw = d.clock.raw + now.Sub(d.clock.at)
	case d.live:
		if d.timeless++; d.timeless <= maxTimeless {
			return ingest.Frame{}, false, nil
		}
		// It never tells the time: the clock starts here, at any raw time, and goes on by arrival.
	default:
		raw = d.clock.raw + d.clock.step
	}
	t := d.clock.advance(raw, now)
	if !d.sampler.take(t) {
		return ingest.Frame{}, false, nil
	}
	f := ingest.Frame{Index: d.index, PTS: t, Wall: now}
	o := upright
	if m, ok := displayMatrix(d.frame); ok {
		o = newOrientation(m)
	}
	w, h := d.fit(o)
	var err error
	if f.Pix, f.W, f.H, err = d.scaler.rgb(d.frame, w, h, o); err != nil {
		return ingest.Frame{}, false, fmt.Errorf("convert a %dx%d %s picture: %w", d.frame.Width(), d.frame.Height(), d.frame.PixelFormat(), err)
	}
	if !d.live {
		if d.epoch.IsZero() {
			if d.epoch = d.o.Epoch; d.epoch.IsZero() {
				d.epoch = now.Add(-t)
			}
		}
		f.Wall = d.epoch.Add(t)
	}
	d.index++
	return f, true, nil
}

// fit is the size to convert d.frame to, before turning: square pixels, at most MaxW x MaxH when shown, never enlarged beyond
// what square pixels need.
func (d *Decoder) fit(o orientation) (w, h int) {
	fw, fh := float64(d.frame.Width()), float64(d.frame.Height())
	if r := d.frame.SampleAspectRatio(); r.Num() > 0 && r.Den() > 0 {
		if s := float64(r.Num()) / float64(r.Den()); s > 0.1 && s < 10 {
			fw *= s
		}
	}
	mw, mh := o.size(d.o.MaxW, d.o.MaxH)
	scale := min(1, float64(mw)/fw, float64(mh)/fh)
	return max(1, int(math.Round(fw*scale))), max(1, int(math.Round(fh*scale)))
}

// pace waits until a frame of a file played as if it were live is due.
func (d *Decoder) pace(ctx context.Context, pts time.Duration) error {
	if !d.o.Pace || d.live {
		return nil
	}
	if d.began.IsZero() {
		d.began = time.Now().Add(-pts)
	}
	wait := time.Until(d.began.Add(pts))
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close frees everything. It may be called again.
func (d *Decoder) Close() error {
	d.release()
	if d.err == nil {
		d.err = errors.New("ffmpeg: the decoder is closed")
	}
	return nil
}

func (d *Decoder) release() {
	if d.guard.intr == nil {
		return
	}
	d.scaler.free()
	if d.frame != nil {
		d.frame.Free()
	}
	if d.pkt != nil {
		d.pkt.Free()
	}
	if d.cc != nil {
		d.cc.Free()
	}
	if d.fc != nil {
		// Saying good-bye to a camera that went away must not wait for it.
		stop := time.AfterFunc(time.Second, d.guard.intr.Interrupt)
		d.guard.intr.Resume()
		d.fc.CloseInput()
		stop.Stop()
	}
	d.guard.intr.Free()
	d.guard.intr = nil
}
