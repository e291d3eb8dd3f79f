package simcam

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Painter draws the picture of stream time t into dst, RGB24. A Renderer is one. Only one goroutine calls it.
type Painter interface {
	Render(dst []byte, t time.Duration)
}

// AccessUnit is one coded picture. Its fields are those of ffmpeg.AccessUnit, so that a conversion turns one into the other.
type AccessUnit struct {
	PTS  time.Duration
	Key  bool     // decodable without what came before
	NALs [][]byte // H.264 NAL units without start codes; SPS and PPS come first in a key frame
}

// H264Encoder turns pictures into access units, in order and without B frames. Only one goroutine calls it.
type H264Encoder interface {
	Encode(rgb []byte, pts time.Duration) ([]AccessUnit, error)
	Close() error
}

// RTSPOptions say how a simulated camera is served. The zero value of a field means its default.
type RTSPOptions struct {
	Addr           string // 127.0.0.1:8554; port 0 takes a free one
	AnyInterface   bool   // allow an Addr that other machines can reach
	Path           string // street
	W, H           int    // 640 x 360
	FPS            int    // 25
	User, Password string // asked of clients when User is set
	// NewEncoder makes an encoder whose first picture is a key frame with its SPS and PPS. It is called again whenever a
	// client joins, so that nobody waits for the next key frame.
	NewEncoder func(w, h, fps int) (H264Encoder, error)
	Log        *slog.Logger // nil logs nothing
}

// RTSPStats count what the camera did. Pictures are drawn only while somebody watches.
type RTSPStats struct {
	Frames  uint64 // sent
	Skipped uint64 // left out because drawing and coding took too long
	Clients int    // watching now
}

// RTSPServer is a network camera: it serves a Painter's pictures as H.264 over RTSP, to any number of clients, by TCP or UDP.
// The picture sent at wall time w shows stream time w-Start, whatever happened before; a camera that falls behind leaves
// pictures out.
type RTSPServer struct {
	// Start is the wall time of stream time 0. It never changes, not even by Restart: the street goes on without the camera.
	Start time.Time

	paint   Painter
	o       RTSPOptions
	frames  atomic.Uint64
	skipped atomic.Uint64
	stalled atomic.Bool

	mu      sync.Mutex // held by Stop, Restart and Close
	running *serving
}

// ServeRTSP starts a camera; the caller must Close it.
func ServeRTSP(paint Painter, o RTSPOptions) (*RTSPServer, error) {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:8554"
	}
	if o.Path = strings.Trim(o.Path, "/"); o.Path == "" {
		o.Path = "street"
	}
	if o.W == 0 && o.H == 0 {
		o.W, o.H = 640, 360
	}
	if o.FPS == 0 {
		o.FPS = 25
	}
	if o.W <= 0 || o.H <= 0 || o.FPS < 0 || o.FPS > 1000 {
		return nil, fmt.Errorf("simcam: serve RTSP: cannot do %dx%d at %d pictures a second", o.W, o.H, o.FPS)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.NewEncoder == nil {
		return nil, errors.New("simcam: serve RTSP: no H.264 encoder")
	}
	if !o.AnyInterface && !loopback(o.Addr) {
		return nil, fmt.Errorf("simcam: serve RTSP: %s can be reached from other machines; allow that first", o.Addr)
	}
	s := &RTSPServer{Start: time.Now(), paint: paint, o: o}
	if err := s.Restart(); err != nil {
		return nil, err
	}
	return s, nil
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Addr is the address served, with the real port.
func (s *RTSPServer) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.o.Addr
}

// URL is where clients find the camera, without credentials.
func (s *RTSPServer) URL() string { return "rtsp://" + s.Addr() + "/" + s.o.Path }

// Stats returns the present counts.
func (s *RTSPServer) Stats() RTSPStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := RTSPStats{Frames: s.frames.Load(), Skipped: s.skipped.Load()}
	if s.running != nil {
		st.Clients, _ = s.running.watching()
	}
	return st
}

// Stall makes the camera keep its connections but send nothing, or go on. It is for tests of those who watch.
func (s *RTSPServer) Stall(on bool) { s.stalled.Store(on) }

// Stop cuts every client off and stops listening, as a camera that lost its power. Restart brings it back.
func (s *RTSPServer) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		s.running.stop()
		s.running = nil
	}
}

// Close is Stop.
func (s *RTSPServer) Close() error {
	s.Stop()
	return nil
}

// Restart listens again, on the same port. On a camera that runs it does nothing.
func (s *RTSPServer) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		return nil
	}
	r, err := s.listen()
	if err != nil {
		return fmt.Errorf("simcam: serve RTSP on %s: %w", s.o.Addr, err)
	}
	s.running = r
	s.o.Addr = r.server.NetListener().Addr().String()
	return nil
}
