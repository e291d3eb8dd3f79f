package main

import (
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/ingest/simcam"
	"afterimage/qa"
)

// A camera that dies while a question is answered and comes back: the answer arrives, the state says offline and then live, and
// the memory goes on with what it held.
func TestCameraDiesDuringAQuestion(t *testing.T) {
	camera, s := watchedDoor(t, 900_205)
	state := func(want ingest.State) {
		t.Helper()
		require.Eventually(t, func() bool { return s.Status().State == want }, 15*time.Second, 10*time.Millisecond, "never %s", want)
	}
	state(ingest.Live)
	require.Eventually(t, func() bool { return s.frames() >= 3 }, 15*time.Second, 10*time.Millisecond)

	pieces := 0
	answer, err := s.Ask(t.Context(), qa.Question{Text: "What is happening?", MaxTokens: 64}, func(string) error {
		if pieces++; pieces == 1 {
			camera.Stop()
			state(ingest.Offline) // in the middle of the answer
		}
		return nil
	})
	require.NoError(t, err)
	assert.Greater(t, pieces, 1)
	assert.Equal(t, ingest.Live, answer.Evidence.State, "the evidence is of the moment of asking")
	held := s.frames()

	during, err := s.Ask(t.Context(), qa.Question{Text: "And now?", MaxTokens: 4}, nil)
	require.NoError(t, err)
	assert.Equal(t, ingest.Offline, during.Evidence.State)
	assert.NotEmpty(t, during.Text)

	require.NoError(t, camera.Restart())
	state(ingest.Live)
	require.Eventually(t, func() bool { return s.frames() > held }, 15*time.Second, 10*time.Millisecond, "the memory did not go on")
	assert.Equal(t, uint64(1), s.Status().Reconnects)
}

// watchedDoor is a camera over RTSP, and the stream of a model drawn by chance that watches it. Both end with the test.
func watchedDoor(t *testing.T, seed uint64) (*simcam.RTSPServer, *stream) {
	t.Helper()
	camera, err := simcam.ServeRTSP(simcam.NewRenderer(simcam.NewScript(seed, time.Hour), 320, 180), simcam.RTSPOptions{
		Addr: "127.0.0.1:0", W: 320, H: 180, FPS: 10, NewEncoder: withSimEncoder,
	})
	require.NoError(t, err)
	t.Cleanup(func() { camera.Close() })
	a := &app{Settings: Settings{Model: randomModel(t)}, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	m, err := openMachine(a)
	require.NoError(t, err)
	t.Cleanup(func() { m.close(a.log) })
	u, err := ingest.ParseURL(camera.URL())
	require.NoError(t, err)
	sc := StreamConfig{Name: "door", URL: u, FPS: 5, StallTimeout: duration(2 * time.Second)}
	sc.inherit(StreamConfig{})
	s, err := openStream(t.Context(), a, m, sc)
	require.NoError(t, err)
	t.Cleanup(s.close)
	s.watchInBackground(t.Context())
	return camera, s
}
