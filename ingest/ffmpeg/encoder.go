package ffmpeg

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/asticode/go-astiav"
)

// An AccessUnit is one encoded picture.
type AccessUnit struct {
	PTS  time.Duration
	Key  bool     // decodable without what came before; SPS and PPS are its first NALs then
	NALs [][]byte // H.264 NAL units without start codes or lengths; the caller owns them
}

// An H264Encoder turns RGB pictures into H.264 constrained baseline (OpenH264): no B-frames, so one picture in is one access
// unit out, and a key frame every two seconds. One goroutine at a time may call it; Close frees it.
type H264Encoder struct {
	w, h     int
	cc       *astiav.CodecContext
	frame    *astiav.Frame
	pkt      *astiav.Packet
	conv     converter
	sps, pps []byte
	last     int64
}

// NewH264Encoder makes an encoder for pictures of w x h (even, 16 to 3840 and 16 to 2160) at about fps a second. A bitrate of 0, in
// bits a second, gives a good camera's quality.
func NewH264Encoder(w, h int, fps float64, bitrate int) (*H264Encoder, error) {
	e, err := newH264Encoder(w, h, fps, bitrate)
	if err != nil {
		return nil, fmt.Errorf("ffmpeg: H.264 encoder %dx%d at %v fps: %w", w, h, fps, err)
	}
	return e, nil
}

func newH264Encoder(w, h int, fps float64, bitrate int) (_ *H264Encoder, err error) {
	switch {
	case w < 16 || h < 16 || w > 3840 || h > 2160 || w%2 != 0 || h%2 != 0:
		return nil, errors.New("want an even size from 16x16 to 3840x2160")
	case !(fps >= 0.1 && fps <= 120):
		return nil, errors.New("want 0.1 to 120 fps")
	case bitrate < 0 || bitrate > 100_000_000:
		return nil, errors.New("want a bitrate of at most 100 Mbit/s")
	}
	if bitrate == 0 {
		// Motion-compensated pictures cost fewer bits the closer they are in time, hence the square root.
		bitrate = max(200_000, int(0.35*float64(w*h)*math.Sqrt(fps)))
	}
	astiav.SetLogLevel(astiav.LogLevelQuiet)
	codec := astiav.FindEncoderByName("libopenh264")
	if codec == nil {
		return nil, errors.New("this FFmpeg was built without OpenH264")
	}
	e := &H264Encoder{w: w, h: h, cc: astiav.AllocCodecContext(codec), frame: astiav.AllocFrame(), pkt: astiav.AllocPacket(), last: -1}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	cc := e.cc
	cc.SetWidth(w)
	cc.SetHeight(h)
	cc.SetPixelFormat(astiav.PixelFormatYuv420P)
	cc.SetColorRange(astiav.ColorRangeMpeg)
	cc.SetTimeBase(tickBase())
	cc.SetFramerate(astiav.NewRational(int(math.Round(fps*1000)), 1000))
	cc.SetGopSize(max(1, int(math.Round(2*fps))))
	cc.SetBitRate(int64(bitrate))
	cc.SetThreadCount(1)
	// Parameter sets go into the extradata, where both an SDP and an MP4 want them.
	cc.SetFlags(cc.Flags().Add(astiav.CodecContextFlagGlobalHeader))
	dict := astiav.NewDictionary()
	defer dict.Free()
	for k, v := range map[string]string{"profile": "constrained_baseline", "rc_mode": "bitrate", "allow_skip_frames": "0"} {
		if err := dict.Set(k, v, 0); err != nil {
			return nil, err
		}
	}
	if err := cc.Open(codec, dict); err != nil {
		return nil, err
	}
	for _, n := range splitNALs(cc.ExtraData()) {
		switch n[0] & 31 {
		case 7:
			e.sps = n
		case 8:
			e.pps = n
		}
	}
	if e.sps == nil || e.pps == nil {
		return nil, errors.New("the encoder gave no parameter sets")
	}
	e.frame.SetWidth(w)
	e.frame.SetHeight(h)
	e.frame.SetPixelFormat(astiav.PixelFormatYuv420P)
	return e, e.frame.AllocBuffer(0)
}

// ParameterSets are the SPS and the PPS, for an SDP. The caller must not change them.
func (e *H264Encoder) ParameterSets() (sps, pps []byte) { return e.sps, e.pps }

// Encode encodes one picture of packed RGB24, 3*w*h bytes. pts must grow from call to call; it is kept to 1/90000 s.
func (e *H264Encoder) Encode(rgb []byte, pts time.Duration) ([]AccessUnit, error) {
	var units []AccessUnit
	err := e.encode(rgb, pts, func(p *astiav.Packet) error {
		u := AccessUnit{PTS: duration(p.Pts(), tickBase()), Key: p.Flags().Has(astiav.PacketFlagKey)}
		if u.Key {
			u.NALs = append(u.NALs, e.sps, e.pps)
		}
		u.NALs = append(u.NALs, splitNALs(p.Data())...)
		units = append(units, u)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ffmpeg: encode H.264 at %v: %w", pts, err)
	}
	return units, nil
}

// encode hands every packet that comes out to emit; a nil picture drains the encoder.
func (e *H264Encoder) encode(rgb []byte, pts time.Duration, emit func(*astiav.Packet) error) error {
	if e.cc == nil {
		return errors.New("closed")
	}
	if rgb == nil {
		if err := e.cc.SendFrame(nil); err != nil {
			return err
		}
	} else {
		if len(rgb) != 3*e.w*e.h {
			return fmt.Errorf("picture of %d bytes, want %d", len(rgb), 3*e.w*e.h)
		}
		ts := ticks(pts)
		if ts <= e.last {
			return errors.New("not later than the picture before")
		}
		if err := e.frame.MakeWritable(); err != nil {
			return err
		}
		if err := e.conv.fill(e.frame, rgb); err != nil {
			return err
		}
		e.frame.SetPts(ts)
		if err := e.cc.SendFrame(e.frame); err != nil {
			return err
		}
		e.last = ts
	}
	for {
		err := e.cc.ReceivePacket(e.pkt)
		if errors.Is(err, astiav.ErrEagain) || errors.Is(err, astiav.ErrEof) {
			return nil
		}
		if err != nil {
			return err
		}
		err = emit(e.pkt)
		e.pkt.Unref()
		if err != nil {
			return err
		}
	}
}

// Close frees the encoder. It may be called again.
func (e *H264Encoder) Close() error {
	if e.cc == nil {
		return nil
	}
	e.cc.Free()
	e.cc = nil
	e.frame.Free()
	e.pkt.Free()
	e.conv.free()
	return nil
}

// splitNALs cuts an Annex B stream at its start codes and drops them. The results share b.
func splitNALs(b []byte) [][]byte {
	var nals [][]byte
	start := -1
	cut := func(end int) {
		// A four-byte start code's first zero, and trailing zeros in general, belong to no NAL.
		for end > start && b[end-1] == 0 {
			end--
		}
		if start >= 0 && end > start {
			nals = append(nals, b[start:end:end])
		}
	}
	for i := 0; i+3 <= len(b); {
		if b[i] == 0 && b[i+1] == 0 && b[i+2] == 1 {
			if start >= 0 {
				cut(i)
			}
			i += 3
			start = i
			continue
		}
		i++
	}
	if start >= 0 {
		cut(len(b))
	}
	return nals
}
