package simcam

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/bluenviron/gortsplib/v5"
	"github.com/bluenviron/gortsplib/v5/pkg/base"
	"github.com/bluenviron/gortsplib/v5/pkg/description"
	"github.com/bluenviron/gortsplib/v5/pkg/format"
	"github.com/bluenviron/gortsplib/v5/pkg/format/rtph264"
	"github.com/bluenviron/gortsplib/v5/pkg/liberrors"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h264"
)

// serving is one life of the camera, from a Restart to the Stop. It is the handler of its gortsplib server.
type serving struct {
	*RTSPServer
	server *gortsplib.Server
	stream *gortsplib.ServerStream
	media  *description.Media
	format *format.H264
	cancel context.CancelFunc
	done   chan struct{}

	// Owned by film.
	encoder H264Encoder
	packets *rtph264.Encoder
	epoch   uint32 // RTP time of stream time 0
	picture []byte

	clientMu sync.Mutex
	clients  map[*gortsplib.ServerSession]bool // true once a key frame was made for it
	arrived  chan struct{}
	setup    sync.Mutex // see OnRequest
}

func (s *RTSPServer) listen() (*serving, error) {
	r := &serving{
		RTSPServer: s,
		format:     &format.H264{PayloadTyp: 96, PacketizationMode: 1},
		done:       make(chan struct{}),
		epoch:      rand.Uint32(),
		picture:    make([]byte, 3*s.o.W*s.o.H),
		clients:    make(map[*gortsplib.ServerSession]bool),
		arrived:    make(chan struct{}, 1),
	}
	// The description carries SPS and PPS, so a first picture is coded before anybody asks.
	if err := r.renewEncoder(); err != nil {
		return nil, err
	}
	if _, err := r.shoot(time.Since(s.Start)); err != nil {
		return nil, errors.Join(err, r.encoder.Close())
	}
	if r.format.SPS == nil {
		return nil, errors.Join(errors.New("the encoder's first picture came without SPS and PPS"), r.encoder.Close())
	}
	var err error
	if r.packets, err = r.format.CreateEncoder(); err != nil {
		return nil, errors.Join(err, r.encoder.Close())
	}
	r.media = &description.Media{Type: description.MediaTypeVideo, Formats: []format.Format{r.format}}
	if err := r.startServer(); err != nil {
		return nil, errors.Join(err, r.encoder.Close())
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	go r.film(ctx)
	return r, nil
}

// startServer opens the sockets itself: gortsplib wants two adjacent UDP ports by number, and any free pair will do.
func (r *serving) startServer() error {
	ln, err := net.Listen("tcp", r.o.Addr)
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	rtp, rtcp, err := udpPair(host)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	taken := 0
	r.server = &gortsplib.Server{
		Handler:        r,
		RTSPAddress:    ln.Addr().String(),
		UDPRTPAddress:  rtp.LocalAddr().String(),
		UDPRTCPAddress: rtcp.LocalAddr().String(),
		WriteQueueSize: 1024, // a key frame of 1080p
		Listen:         func(string, string) (net.Listener, error) { return ln, nil },
		ListenPacket: func(string, string) (net.PacketConn, error) {
			taken++
			return []net.PacketConn{rtp, rtcp}[taken-1], nil
		},
	}
	// Clients that connect meanwhile wait for the lock, then find the stream.
	r.clientMu.Lock()
	defer r.clientMu.Unlock()
	if err := r.server.Start(); err != nil {
		return errors.Join(err, ln.Close(), rtp.Close(), rtcp.Close())
	}
	r.stream = &gortsplib.ServerStream{Server: r.server, Desc: &description.Session{Title: "simulated camera", Medias: []*description.Media{r.media}}}
	if err := r.stream.Initialize(); err != nil {
		r.server.Close()
		return err
	}
	return nil
}

// udpPair opens an even UDP port and the next one.
func udpPair(host string) (even, odd net.PacketConn, err error) {
	for range 50 {
		even, err = net.ListenPacket("udp", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, nil, err
		}
		port := even.LocalAddr().(*net.UDPAddr).Port
		if port%2 == 0 {
			odd, err = net.ListenPacket("udp", net.JoinHostPort(host, fmt.Sprint(port+1)))
			if err == nil {
				return even, odd, nil
			}
		}
		_ = even.Close()
	}
	return nil, nil, errors.New("no free pair of UDP ports")
}

func (r *serving) stop() {
	r.cancel()
	<-r.done
	r.stream.Close()
	r.server.Close()
}

// film is the camera's clockwork: at each tick one picture, the newest that is due.
func (r *serving) film(ctx context.Context) {
	defer close(r.done)
	defer func() { _ = r.encoder.Close() }()
	period := time.Second / time.Duration(r.o.FPS)
	last, idle := int64(-1), true
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		known, fresh := r.watching()
		if known == 0 {
			idle = true
			select {
			case <-r.arrived: // it still has to finish its PLAY, which the next ticks will see
			case <-ctx.Done():
				return
			}
		}
		now := time.Since(r.Start)
		tick := int64(now / period)
		if !idle && tick > last+1 {
			r.skipped.Add(uint64(tick - last - 1))
		}
		if tick > last && known > 0 && !r.stalled.Load() {
			if err := r.send(time.Duration(tick)*period, fresh); err != nil {
				r.o.Log.Error("simulated camera", "err", err)
			}
			idle = false
		} else {
			idle = true
		}
		last = max(tick, last)
		timer.Reset(max(0, time.Duration(last+1)*period-time.Since(r.Start)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// watching counts the clients that play, and says whether one of them has not been given a key frame.
func (r *serving) watching() (n int, fresh bool) {
	r.clientMu.Lock()
	defer r.clientMu.Unlock()
	for ss, served := range r.clients {
		if ss.State() == gortsplib.ServerSessionStatePlay {
			n++
			fresh = fresh || !served
			r.clients[ss] = true
		}
	}
	return n, fresh
}

func (r *serving) renewEncoder() error {
	e, err := r.o.NewEncoder(r.o.W, r.o.H, r.o.FPS)
	if err != nil {
		return err
	}
	if r.encoder != nil {
		_ = r.encoder.Close()
	}
	r.encoder = e
	return nil
}

// shoot draws and codes the picture of stream time t, and keeps the description's SPS and PPS up to date.
func (r *serving) shoot(t time.Duration) ([]AccessUnit, error) {
	r.paint.Render(r.picture, t)
	units, err := r.encoder.Encode(r.picture, t)
	if err != nil {
		return nil, err
	}
	for _, u := range units {
		var sps, pps []byte
		for _, nal := range u.NALs {
			if len(nal) == 0 {
				return nil, errors.New("the encoder gave an empty NAL unit")
			}
			switch h264.NALUType(nal[0] & 0x1f) {
			case h264.NALUTypeSPS:
				sps = nal
			case h264.NALUTypePPS:
				pps = nal
			}
		}
		if sps != nil && pps != nil && !(bytes.Equal(sps, r.format.SPS) && bytes.Equal(pps, r.format.PPS)) {
			r.format.SafeSetParams(bytes.Clone(sps), bytes.Clone(pps))
		}
	}
	return units, nil
}

// send shows everybody the picture of stream time t.
func (r *serving) send(t time.Duration, keyFrame bool) error {
	if keyFrame {
		if err := r.renewEncoder(); err != nil {
			return err
		}
	}
	units, err := r.shoot(t)
	if err != nil {
		return err
	}
	for _, u := range units {
		packets, err := r.packets.Encode(u.NALs)
		if err != nil {
			return err
		}
		for _, p := range packets {
			p.Timestamp = r.epoch + uint32((u.PTS*9+50_000)/100_000) // 90 kHz, wrapping as RTP does
			if err := r.stream.WritePacketRTPWithNTP(r.media, p, r.Start.Add(u.PTS)); err != nil {
				return err
			}
		}
	}
	r.frames.Add(1)
	return nil
}

// allow checks a request's path and credentials; nil means that it may go on.
func (r *serving) allow(conn *gortsplib.ServerConn, req *base.Request, path string) (*base.Response, error) {
	if r.o.User != "" && !conn.VerifyCredentials(req, r.o.User, r.o.Password) {
		return &base.Response{StatusCode: base.StatusUnauthorized}, liberrors.ErrServerAuth{}
	}
	if strings.Trim(path, "/") != r.o.Path {
		return &base.Response{StatusCode: base.StatusNotFound}, nil
	}
	return nil, nil
}

// OnRequest implements gortsplib's handler. One SETUP at a time: gortsplib 5.3.1 compares a new client's UDP ports with those
// of other clients while these may still be writing theirs.
func (r *serving) OnRequest(conn *gortsplib.ServerConn, req *base.Request) {
	if req.Method == base.Setup {
		r.setup.Lock()
		conn.SetUserData(req)
	}
}

// OnResponse implements gortsplib's handler.
func (r *serving) OnResponse(conn *gortsplib.ServerConn, _ *base.Response) {
	if conn.UserData() != nil {
		conn.SetUserData(nil)
		r.setup.Unlock()
	}
}

// OnDescribe implements gortsplib's handler.
func (r *serving) OnDescribe(c *gortsplib.ServerHandlerOnDescribeCtx) (*base.Response, *gortsplib.ServerStream, error) {
	return r.give(r.allow(c.Conn, c.Request, c.Path))
}

// OnSetup implements gortsplib's handler. Clients may skip DESCRIBE, so the credentials are asked for here too.
func (r *serving) OnSetup(c *gortsplib.ServerHandlerOnSetupCtx) (*base.Response, *gortsplib.ServerStream, error) {
	return r.give(r.allow(c.Conn, c.Request, c.Path))
}

func (r *serving) give(refusal *base.Response, err error) (*base.Response, *gortsplib.ServerStream, error) {
	if refusal != nil || err != nil {
		return refusal, nil, err
	}
	r.clientMu.Lock()
	defer r.clientMu.Unlock()
	return &base.Response{StatusCode: base.StatusOK}, r.stream, nil
}

// OnPlay implements gortsplib's handler.
func (r *serving) OnPlay(c *gortsplib.ServerHandlerOnPlayCtx) (*base.Response, error) {
	r.clientMu.Lock()
	r.clients[c.Session] = false
	r.clientMu.Unlock()
	select {
	case r.arrived <- struct{}{}:
	default:
	}
	return &base.Response{StatusCode: base.StatusOK}, nil
}

// OnPause implements gortsplib's handler.
func (r *serving) OnPause(c *gortsplib.ServerHandlerOnPauseCtx) (*base.Response, error) {
	r.forget(c.Session)
	return &base.Response{StatusCode: base.StatusOK}, nil
}

// OnSessionClose implements gortsplib's handler.
func (r *serving) OnSessionClose(c *gortsplib.ServerHandlerOnSessionCloseCtx) { r.forget(c.Session) }

func (r *serving) forget(ss *gortsplib.ServerSession) {
	r.clientMu.Lock()
	delete(r.clients, ss)
	r.clientMu.Unlock()
}
