package ffmpeg

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// resident is this process's memory in KiB.
func resident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(b), "VmRSS:")
	require.True(t, ok)
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return n
}

// A camera that fails for weeks is opened again and again: nothing of FFmpeg's may stay behind.
func TestNothingStaysBehind(t *testing.T) {
	good := mp4(t, 640, 360, 10, 10)
	bad := filepath.Join(t.TempDir(), "bad.mp4")
	require.NoError(t, os.WriteFile(bad, []byte(strings.Repeat("bad", 1000)), 0o600))
	round := func() {
		require.Equal(t, 2, len(all(t, good, Options{})))
		_, err := Open(t.Context(), fileURL(t, bad), Options{})
		require.Error(t, err)
		d, err := Open(t.Context(), fileURL(t, good), Options{}) // closed half-way
		require.NoError(t, err)
		_, err = d.Next(t.Context())
		require.NoError(t, err)
		require.NoError(t, d.Close())
		e, err := NewH264Encoder(640, 360, 10, 0)
		require.NoError(t, err)
		_, err = e.Encode(make([]byte, 3*640*360), time.Second)
		require.NoError(t, err)
		require.NoError(t, e.Close())
	}
	for range 10 {
		round()
	}
	before := resident(t)
	for range 40 {
		round()
	}
	// A decoder or an encoder of this size holds more than a MiB, so one left behind in each round would show.
	require.Less(t, resident(t)-before, 24<<10)
}
