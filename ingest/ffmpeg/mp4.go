package ffmpeg

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/asticode/go-astiav"
)

// WriteMP4 encodes the pictures that next gives, packed RGB24 of w x h, until it returns io.EOF, and writes them to path at fps
// pictures a second. The file appears only when it is whole; an existing one is replaced.
func WriteMP4(path string, w, h int, fps float64, next func() ([]byte, error)) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".mp4-*")
	if err != nil {
		return fmt.Errorf("ffmpeg: write %s: %w", path, errors.Unwrap(err))
	}
	tmp.Close()
	defer os.Remove(tmp.Name())
	if err := writeMP4(tmp.Name(), w, h, fps, next); err != nil {
		return fmt.Errorf("ffmpeg: write %s: %w", path, err)
	}
	if err := os.Chmod(tmp.Name(), 0o644); err != nil {
		return fmt.Errorf("ffmpeg: write %s: %w", path, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("ffmpeg: write %s: %w", path, err)
	}
	return nil
}

func writeMP4(path string, w, h int, fps float64, next func() ([]byte, error)) error {
	enc, err := newH264Encoder(w, h, fps, 0)
	if err != nil {
		return err
	}
	defer enc.Close()
	m, err := newMuxer(path, "mp4", enc.cc, map[string]string{"movflags": "+faststart"})
	if err != nil {
		return err
	}
	defer m.close()
	n := 0
	for {
		rgb, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := enc.encode(rgb, time.Duration(float64(n)*float64(time.Second)/fps), m.write); err != nil {
			return fmt.Errorf("picture %d: %w", n, err)
		}
		n++
	}
	if n == 0 {
		return errors.New("no pictures")
	}
	if err := enc.encode(nil, 0, m.write); err != nil {
		return err
	}
	m.tail = int64(ticksPerSecond / fps)
	return m.finish()
}

// A muxer writes one encoder's packets into a file.
type muxer struct {
	fc   *astiav.FormatContext
	io   *astiav.IOContext
	st   *astiav.Stream
	base astiav.Rational // the packets' time base

	// Each packet waits for the next one, which tells how long it lasts; the last one lasts tail.
	held *astiav.Packet
	tail int64
}

func newMuxer(path, format string, cc *astiav.CodecContext, opts map[string]string, edit ...func(*astiav.Stream) error) (_ *muxer, err error) {
	fc, err := astiav.AllocOutputFormatContext(nil, format, "file:"+path)
	if err != nil {
		return nil, fmt.Errorf("this FFmpeg was built without a %s writer: %w", format, err)
	}
	m := &muxer{fc: fc, base: cc.TimeBase()}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.st = fc.NewStream(nil); m.st == nil {
		return nil, errors.New("out of memory")
	}
	if err := m.st.CodecParameters().FromCodecContext(cc); err != nil {
		return nil, err
	}
	m.st.SetTimeBase(cc.TimeBase())
	m.st.SetAvgFrameRate(cc.Framerate())
	for _, f := range edit {
		if err := f(m.st); err != nil {
			return nil, err
		}
	}
	if m.io, err = astiav.OpenIOContext("file:"+path, astiav.NewIOContextFlags(astiav.IOContextFlagWrite), nil, nil); err != nil {
		return nil, err
	}
	fc.SetPb(m.io)
	dict := astiav.NewDictionary()
	defer dict.Free()
	for k, v := range opts {
		if err := dict.Set(k, v, 0); err != nil {
			return nil, err
		}
	}
	return m, fc.WriteHeader(dict)
}

// write takes a packet's content; the packet stays the caller's.
func (m *muxer) write(p *astiav.Packet) error {
	next := p.Clone()
	if next == nil {
		return errors.New("out of memory")
	}
	if m.held != nil {
		if d := next.Dts() - m.held.Dts(); d > 0 {
			m.tail = d
		}
		if err := m.flush(); err != nil {
			next.Free()
			return err
		}
	}
	m.held = next
	return nil
}

func (m *muxer) flush() error {
	p := m.held
	m.held = nil
	defer p.Free()
	p.SetDuration(m.tail)
	p.SetStreamIndex(m.st.Index())
	p.RescaleTs(m.base, m.st.TimeBase())
	return m.fc.WriteFrame(p)
}

func (m *muxer) finish() error {
	if m.held != nil {
		if err := m.flush(); err != nil {
			return err
		}
	}
	if err := m.fc.WriteTrailer(); err != nil {
		return err
	}
	// Closing reports what the disk refused so far.
	err := m.io.Close()
	m.io = nil
	return err
}

func (m *muxer) close() {
	if m.held != nil {
		m.held.Free()
	}
	if m.io != nil {
		_ = m.io.Close() // an error that matters was reported already
	}
	m.fc.Free()
}
