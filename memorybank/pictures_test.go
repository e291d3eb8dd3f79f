package memorybank

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Pictures come from memory and from the disk, each moment once and in order, spread where there are too many, and never of what was forgotten.
func TestPictures(t *testing.T) {
	s, w := openStore(t, t.TempDir(), storeOptions(t, Flash{Synopsis: 5, Detail: 2})), newWalk(1)
	var frames []Entry // every third has no picture
	for range 600 {
		frames = append(frames, w.next())
		s.Bank().Add(frames[len(frames)-1])
	}
	snap := s.Bank().Snapshot()
	from, to := 570*time.Second, 630*time.Second // on disk, on its way there, and in memory
	require.NoError(t, s.Sync(t.Context()))
	s.Bank().Add(w.next())
	got, err := snap.Pictures(t.Context(), from, to, 100)
	require.NoError(t, err)
	require.Len(t, got, 20)
	i := 0
	for _, f := range frames[570:] {
		if f.Thumb != nil {
			require.Equal(t, Picture{f.At, f.Thumb}, got[i])
			i++
		}
	}
	few, err := snap.Pictures(t.Context(), from, to, 5)
	require.NoError(t, err)
	require.Equal(t, []Picture{got[0], got[4], got[9], got[14], got[19]}, few)
	one, err := snap.Pictures(t.Context(), from, to, 1)
	require.NoError(t, err)
	require.Equal(t, got[:1], one)

	require.True(t, snap.HasPictures(from, to, 20))
	require.False(t, snap.HasPictures(from, to, 21), "a moment that is in memory and on disk is one")
	require.True(t, snap.HasPictures(100*time.Second, 103*time.Second, 2))
	require.False(t, snap.HasPictures(101*time.Second, 103*time.Second, 2), "the second of these has none")
	require.False(t, snap.HasPictures(time.Hour, 2*time.Hour, 1))

	done, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = snap.Pictures(done, from, to, 100)
	require.ErrorIs(t, err, context.Canceled)

	_, err = s.Bank().Forget(t.Context(), 580*time.Second, 590*time.Second)
	require.NoError(t, err)
	left, err := s.Bank().Snapshot().Pictures(t.Context(), from, to, 100)
	require.NoError(t, err)
	for _, p := range left {
		require.False(t, p.At >= 580*time.Second && p.At < 590*time.Second, "%v was forgotten", p.At)
	}
	require.False(t, s.Bank().Snapshot().HasPictures(580*time.Second, 590*time.Second, 1))
	require.Greater(t, len(left), 10)
}

// A bank without a disk has the pictures of what it remembers.
func TestPicturesInMemory(t *testing.T) {
	b, w := New(storeEpoch, Recent{N: 4}), newWalk(2)
	require.False(t, b.Snapshot().HasPictures(0, time.Hour, 1))
	for range 10 {
		b.Add(w.next())
	}
	got, err := b.Snapshot().Pictures(t.Context(), 0, time.Hour, 100)
	require.NoError(t, err)
	var at []time.Duration
	for _, p := range got {
		at = append(at, p.At)
	}
	require.Equal(t, []time.Duration{7 * time.Second, 8 * time.Second}, at) // 6 and 9 have none
}
