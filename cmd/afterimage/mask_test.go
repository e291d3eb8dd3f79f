package main

import (
	"bytes"
	"context"
	"image/jpeg"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/web"
)

// spy is an encoder that keeps what it was given.
type spy struct {
	loadedEncoder
	mu     sync.Mutex
	frames []ingest.Frame
}

func (s *spy) Encode(ctx context.Context, frames ...ingest.Frame) ([]compute.Matrix, error) {
	s.mu.Lock()
	s.frames = append(s.frames, frames...)
	s.mu.Unlock()
	return s.loadedEncoder.Encode(ctx, frames...)
}

// What a mask covers reaches neither the encoder nor a thumbnail nor the live picture.
func TestMasksHide(t *testing.T) {
	clean(t)
	cfg, err := LoadConfig(writeConfig(t, "memory_dir: off\nstreams: {a: {source: \"sim://street?seed=900500\", masks: [[0, 0, 0.5, 1]]}}\n"), nil)
	require.NoError(t, err)
	a := &app{log: newLogger(t.Output(), false, "warn", "text"), err: t.Output(), lookup: environment(), Settings: Settings{Device: "cpu", Model: randomModel(t)}}
	f, err := openFleet(a, 1)
	require.NoError(t, err)
	defer f.close(a.log)
	m := f.machines[0]
	watched := &spy{loadedEncoder: m.encoder}
	m.encoder = watched
	s, err := openStream(t.Context(), a, m, cfg.Streams[0])
	require.NoError(t, err)
	defer s.close()
	s.watchInBackground(t.Context())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, waitFor(ctx, 10*time.Millisecond, func() bool { return s.frames() >= 2 }))

	hidden := func(what string, f ingest.Frame) {
		t.Helper()
		right := 0
		for i, v := range f.Pix {
			if x := i / 3 % f.W; x < f.W/2 {
				require.Zero(t, v, what)
			} else {
				right += int(v)
			}
		}
		assert.NotZero(t, right, "%s: the rest is there", what)
	}
	watched.mu.Lock()
	require.NotEmpty(t, watched.frames)
	for _, f := range watched.frames {
		hidden("encoder", f)
	}
	watched.mu.Unlock()
	latest, ok := s.LatestFrame()
	require.True(t, ok)
	hidden("latest", latest)

	// JPEG smears over a few pixels: what is farther than a block from the edge is black.
	black := func(what string, text []byte) {
		t.Helper()
		img, err := jpeg.Decode(bytes.NewReader(text))
		require.NoError(t, err)
		size, light := img.Bounds(), uint32(0)
		for y := range size.Dy() {
			for x := range size.Dx() {
				r, g, b, _ := img.At(x, y).RGBA()
				if x < size.Dx()/2-16 {
					require.Less(t, max(r, g, b)>>8, uint32(8), "%s at %d,%d", what, x, y)
				}
				light = max(light, r)
			}
		}
		assert.Greater(t, light>>8, uint32(64), what)
	}
	for _, e := range s.bank.Snapshot().Entries {
		black("thumbnail", e.Thumb)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server, err := newServer(a, f, ln, []web.Stream{s}, web.Config{})
	require.NoError(t, err)
	serving, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(serving, server, ln) }()
	resp, err := http.Get("http://" + ln.Addr().String() + "/api/streams/a/frame.jpeg")
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	black("live picture", text)
	stop()
	require.NoError(t, <-ended)
}
