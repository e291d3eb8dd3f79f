package simcam_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v5"
	"github.com/bluenviron/gortsplib/v5/pkg/base"
	"github.com/bluenviron/gortsplib/v5/pkg/description"
	"github.com/bluenviron/gortsplib/v5/pkg/format"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"afterimage/ingest/simcam"
)

var (
	sps = []byte{0x67, 0x64, 0x00, 0x0c, 0xac, 0x3b, 0x50, 0xb0, 0x4b, 0x42, 0x00, 0x00, 0x03, 0x00, 0x02, 0x00, 0x00, 0x03, 0x00, 0x3d, 0x08}
	pps = []byte{0x68, 0xee, 0x3c, 0x80}
)

// stamped paints the stream time into the picture, and codes a picture as a NAL that repeats it: what a client receives tells
// what was drawn.
type stamped struct{ took time.Duration }

func (p stamped) Render(dst []byte, t time.Duration) {
	time.Sleep(p.took)
	copy(dst, fmt.Sprintf("%020d", t.Microseconds()))
}

type fakeEncoder struct {
	n      int
	key    int
	closed *atomic.Int32
}

func (e *fakeEncoder) Encode(rgb []byte, pts time.Duration) ([]simcam.AccessUnit, error) {
	u := simcam.AccessUnit{PTS: pts, Key: e.n%e.key == 0}
	kind := byte(0x41)
	if u.Key {
		kind = 0x65
		u.NALs = [][]byte{sps, pps}
	}
	u.NALs = append(u.NALs, append(append([]byte{kind}, rgb[:20]...), bytes.Repeat([]byte{0xaa}, 3000)...))
	e.n++
	return []simcam.AccessUnit{u}, nil
}

func (e *fakeEncoder) Close() error { e.closed.Add(1); return nil }

type camera struct {
	*simcam.RTSPServer
	opened, closed atomic.Int32
}

func serve(t *testing.T, p simcam.Painter, o simcam.RTSPOptions) *camera {
	t.Helper()
	c := &camera{}
	o.Addr, o.W, o.H = "127.0.0.1:0", 16, 16
	o.NewEncoder = func(w, h, fps int) (simcam.H264Encoder, error) {
		c.opened.Add(1)
		return &fakeEncoder{key: 50, closed: &c.closed}, nil
	}
	s, err := simcam.ServeRTSP(p, o)
	require.NoError(t, err)
	c.RTSPServer = s
	t.Cleanup(func() {
		_ = s.Close()
		assert.Equal(t, c.opened.Load(), c.closed.Load(), "every encoder was closed")
	})
	return c
}

// seen is one access unit as a client got it.
type seen struct {
	key     bool
	sps     bool
	drawn   time.Duration // stream time that was painted
	rtp     uint32
	arrived time.Time
}

// client plays url and passes every access unit to fn.
func client(t *testing.T, url string, proto gortsplib.Protocol, fn func(seen)) (*gortsplib.Client, error) {
	t.Helper()
	u, err := base.ParseURL(url)
	require.NoError(t, err)
	c := &gortsplib.Client{Scheme: u.Scheme, Host: u.Host, Protocol: &proto}
	if err := c.Start(); err != nil {
		return nil, err
	}
	t.Cleanup(c.Close)
	desc, _, err := c.Describe(u)
	if err != nil {
		return nil, err
	}
	var forma *format.H264
	medi := desc.FindFormat(&forma)
	require.NotNil(t, medi)
	require.Equal(t, sps, forma.SPS)
	require.Equal(t, pps, forma.PPS)
	dec, err := forma.CreateDecoder()
	require.NoError(t, err)
	if err := c.SetupAll(desc.BaseURL, []*description.Media{medi}); err != nil {
		return nil, err
	}
	c.OnPacketRTP(medi, forma, func(p *rtp.Packet) {
		nals, err := dec.Decode(p)
		if err != nil {
			return
		}
		s := seen{rtp: p.Timestamp, arrived: time.Now()}
		for _, n := range nals {
			switch n[0] & 0x1f {
			case 7:
				s.sps = true
			case 5, 1:
				s.key = n[0]&0x1f == 5
				var us int64
				_, err := fmt.Sscanf(string(n[1:21]), "%d", &us)
				assert.NoError(t, err)
				s.drawn = time.Duration(us) * time.Microsecond
			}
		}
		fn(s)
	})
	_, err = c.Play(nil)
	return c, err
}

// collect plays until n access units came.
func collect(t *testing.T, url string, proto gortsplib.Protocol, n int) []seen {
	t.Helper()
	ch := make(chan seen, 1000)
	c, err := client(t, url, proto, func(s seen) { ch <- s })
	require.NoError(t, err)
	defer c.Close()
	out := make([]seen, 0, n)
	for len(out) < n {
		select {
		case s := <-ch:
			out = append(out, s)
		case <-time.After(10 * time.Second):
			t.Fatalf("only %d access units came", len(out))
		}
	}
	return out
}

func requireStream(t *testing.T, c *camera, fs []seen, fps int) {
	t.Helper()
	require.True(t, fs[0].key && fs[0].sps, "a client begins with a key frame")
	for i, f := range fs {
		require.Zero(t, f.drawn%(time.Second/time.Duration(fps)), "pictures are of whole ticks")
		require.False(t, f.arrived.Before(c.Start.Add(f.drawn)), "nobody sees the future")
		require.Equal(t, f.key, f.sps, "SPS and PPS come with every key frame")
		if i > 0 {
			require.Greater(t, f.drawn, fs[i-1].drawn)
			require.InDelta(t, (f.drawn-fs[i-1].drawn).Seconds()*90000, float64(f.rtp-fs[i-1].rtp), 1, "RTP time is stream time")
		}
	}
}

func TestRTSPServes(t *testing.T) {
	for name, proto := range map[string]gortsplib.Protocol{"tcp": gortsplib.ProtocolTCP, "udp": gortsplib.ProtocolUDP} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			c := serve(t, stamped{}, simcam.RTSPOptions{FPS: 100})
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					fs := collect(t, c.URL(), proto, 120)
					requireStream(t, c, fs, 100)
				})
			}
			wg.Wait()
			assert.GreaterOrEqual(t, c.Stats().Frames, uint64(100))
			require.NoError(t, c.Close())
			require.NoError(t, c.Close(), "twice")
		})
	}
}

func TestRTSPDrawsOnlyForSomebody(t *testing.T) {
	c := serve(t, stamped{}, simcam.RTSPOptions{FPS: 200})
	require.Zero(t, c.Stats().Clients)
	first := collect(t, c.URL(), gortsplib.ProtocolTCP, 10)
	require.Eventually(t, func() bool { return c.Stats().Clients == 0 }, 5*time.Second, time.Millisecond)
	before := c.Stats()
	last := first[len(first)-1]
	require.Eventually(t, func() bool { return time.Since(last.arrived) > 300*time.Millisecond }, 5*time.Second, 10*time.Millisecond)
	assert.LessOrEqual(t, c.Stats().Frames, before.Frames+1)
	again := collect(t, c.URL(), gortsplib.ProtocolTCP, 10)
	requireStream(t, c, again, 200)
	assert.GreaterOrEqual(t, again[0].drawn, last.drawn+300*time.Millisecond, "the street went on")
	assert.LessOrEqual(t, c.Stats().Skipped, before.Skipped+50, "the 60 pictures that nobody could see were not skipped")
}

func TestRTSPSkipsRatherThanLags(t *testing.T) {
	c := serve(t, stamped{took: 25 * time.Millisecond}, simcam.RTSPOptions{FPS: 100})
	fs := collect(t, c.URL(), gortsplib.ProtocolTCP, 20)
	requireStream(t, c, fs, 100)
	end := fs[len(fs)-1]
	assert.Less(t, end.arrived.Sub(c.Start.Add(end.drawn)), time.Second, "it does not fall behind")
	assert.GreaterOrEqual(t, c.Stats().Skipped, uint64(15))
}

func TestRTSPRefuses(t *testing.T) {
	c := serve(t, stamped{}, simcam.RTSPOptions{FPS: 100, User: "viewer", Password: "right"})
	for url, want := range map[string]string{
		"rtsp://" + c.Addr() + "/street":              "401",
		"rtsp://viewer:wrong@" + c.Addr() + "/street": "401",
		"rtsp://viewer:right@" + c.Addr() + "/road":   "404",
	} {
		_, err := client(t, url, gortsplib.ProtocolTCP, func(seen) {})
		require.ErrorContains(t, err, want)
	}
	requireStream(t, c, collect(t, "rtsp://viewer:right@"+c.Addr()+"/street", gortsplib.ProtocolTCP, 5), 100)
}

func TestRTSPStopRestartStall(t *testing.T) {
	c := serve(t, stamped{}, simcam.RTSPOptions{FPS: 100})
	start, addr := c.Start, c.Addr()
	got := make(chan seen, 10000)
	cl, err := client(t, c.URL(), gortsplib.ProtocolTCP, func(s seen) { got <- s })
	require.NoError(t, err)
	<-got
	c.Stall(true)
	require.Eventually(t, func() bool {
		for {
			select {
			case <-got:
				return false
			case <-time.After(200 * time.Millisecond):
				return true
			}
		}
	}, 10*time.Second, time.Millisecond)
	c.Stall(false)
	<-got
	c.Stop()
	require.Error(t, cl.Wait(), "clients are cut off")
	_, err = net.DialTimeout("tcp", addr, time.Second)
	require.Error(t, err)
	require.NoError(t, c.Restart())
	require.NoError(t, c.Restart(), "twice")
	assert.Equal(t, addr, c.Addr())
	assert.Equal(t, start, c.Start)
	requireStream(t, c, collect(t, c.URL(), gortsplib.ProtocolTCP, 5), 100)
}

func TestRTSPBadOptions(t *testing.T) {
	enc := func(int, int, int) (simcam.H264Encoder, error) {
		return &fakeEncoder{key: 1, closed: new(atomic.Int32)}, nil
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	for want, o := range map[string]simcam.RTSPOptions{
		"reached from other machines": {Addr: "0.0.0.0:0", NewEncoder: enc},
		"address already in use":      {Addr: busy.Addr().String(), NewEncoder: enc},
		"no H.264 encoder":            {Addr: "127.0.0.1:0"},
		"cannot do":                   {Addr: "127.0.0.1:0", W: -1, H: 5, NewEncoder: enc},
		"no such encoder": {Addr: "127.0.0.1:0", NewEncoder: func(int, int, int) (simcam.H264Encoder, error) {
			return nil, errors.New("no such encoder")
		}},
	} {
		_, err := simcam.ServeRTSP(stamped{}, o)
		require.ErrorContains(t, err, want)
	}
	s, err := simcam.ServeRTSP(stamped{}, simcam.RTSPOptions{Addr: "0.0.0.0:0", AnyInterface: true, NewEncoder: enc})
	require.NoError(t, err)
	require.NoError(t, s.Close())
}
