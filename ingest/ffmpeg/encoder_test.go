package ffmpeg

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestH264Encoder(t *testing.T) {
	e, err := NewH264Encoder(64, 48, 5, 0)
	require.NoError(t, err)
	defer e.Close()
	sps, pps := e.ParameterSets()
	require.Equal(t, byte(7), sps[0]&31)
	require.Equal(t, byte(8), pps[0]&31)
	assert.Equal(t, byte(66), sps[1], "baseline profile")
	for i := range 31 {
		at := time.Duration(i) * 200 * time.Millisecond
		units, err := e.Encode(paint(64, 48, 40+i), at)
		require.NoError(t, err)
		require.Len(t, units, 1, "no delay, no frame skipped")
		u := units[0]
		assert.Equal(t, at, u.PTS)
		assert.Equal(t, i%10 == 0, u.Key, "picture %d: a key frame every two seconds", i)
		require.NotEmpty(t, u.NALs)
		if u.Key {
			assert.Equal(t, sps, u.NALs[0])
			assert.Equal(t, pps, u.NALs[1])
			assert.Equal(t, byte(5), u.NALs[2][0]&31)
		} else {
			assert.Equal(t, byte(1), u.NALs[0][0]&31)
		}
		for _, n := range u.NALs {
			assert.False(t, bytes.Contains(n, []byte{0, 0, 1}), "a start code within a NAL")
		}
	}
	_, err = e.Encode(paint(64, 48, 0), 0)
	require.ErrorContains(t, err, "not later")
	_, err = e.Encode(make([]byte, 10), time.Hour)
	require.ErrorContains(t, err, "want 9216")
	require.NoError(t, e.Close())
	require.NoError(t, e.Close())
	_, err = e.Encode(paint(64, 48, 0), time.Hour)
	require.Error(t, err)
}

func TestH264EncoderRefuses(t *testing.T) {
	for _, tt := range []struct {
		w, h    int
		fps     float64
		bitrate int
	}{{63, 48, 5, 0}, {64, 47, 5, 0}, {8, 8, 5, 0}, {-64, 48, 5, 0}, {5000, 48, 5, 0}, {64, 48, 0, 0}, {64, 48, 1e6, 0}, {64, 48, 5, -1}} {
		_, err := NewH264Encoder(tt.w, tt.h, tt.fps, tt.bitrate)
		require.Error(t, err, "%+v", tt)
	}
}

func TestSplitNALs(t *testing.T) {
	for in, want := range map[string][]string{
		"":                                    nil,
		"no start code":                       nil,
		"\x00\x00\x01":                        nil,
		"\x00\x00\x01a":                       {"a"},
		"\x00\x00\x00\x01ab":                  {"ab"},
		"\x00\x00\x00\x01ab\x00\x00\x01c":     {"ab", "c"},
		"\x00\x00\x01ab\x00\x00\x00\x01c\x00": {"ab", "c"},
		"\x00\x00\x01\x00\x00\x01x":           {"x"},
	} {
		var got []string
		for _, n := range splitNALs([]byte(in)) {
			got = append(got, string(n))
		}
		assert.Equal(t, want, got, "%q", in)
	}
}

func FuzzSplitNALs(f *testing.F) {
	f.Add([]byte("\x00\x00\x01ab\x00\x00\x00\x01c\x00\x00"))
	f.Add([]byte{0, 0, 0, 0, 1, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, n := range splitNALs(b) {
			require.NotEmpty(t, n)
			require.False(t, bytes.Contains(n, []byte{0, 0, 1}))
			require.NotZero(t, n[len(n)-1])
		}
	})
}

func TestWriteMP4(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.mp4")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))

	boom := errors.New("boom")
	n := 0
	err := WriteMP4(path, 64, 48, 2, func() ([]byte, error) {
		if n++; n > 3 {
			return nil, boom
		}
		return paint(64, 48, 50), nil
	})
	require.ErrorIs(t, err, boom)
	require.ErrorContains(t, err, path)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(b), "a failed write leaves what was there")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "and nothing beside it")

	require.ErrorContains(t, WriteMP4(path, 64, 48, 2, func() ([]byte, error) { return nil, io.EOF }), "no pictures")
	require.ErrorContains(t, WriteMP4(filepath.Join(dir, "none", "a.mp4"), 64, 48, 2, nil), "no such file")

	n = 0
	require.NoError(t, WriteMP4(path, 64, 48, 2.5, func() ([]byte, error) {
		if n++; n > 5 {
			return nil, io.EOF
		}
		return paint(64, 48, 50), nil
	}))
	fs := all(t, path, Options{FPS: -1})
	require.Equal(t, 5, len(fs))
	for i, f := range fs {
		assert.Equal(t, time.Duration(i)*400*time.Millisecond, f.PTS)
	}
}
