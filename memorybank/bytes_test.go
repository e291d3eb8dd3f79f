package memorybank

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"afterimage/internal/compute"
)

func TestBytesCountsWhatIsSharedOnce(t *testing.T) {
	b := New(time.Now(), Recent{N: 3})
	assert.Zero(t, b.Snapshot().Bytes())
	rows, thumb := 4*8*4*4, 100 // a frame's rows of 4 values of 4 bytes
	add := func() {
		m := compute.NewMatrix(32, 4)
		m.Data[0] = 1
		b.Add(Entry{Grid: Grid{4, 8}, Tokens: m, Thumb: make([]byte, thumb)})
	}
	add()
	one := b.Snapshot().Bytes()
	assert.Greater(t, one, int64(rows+thumb))
	assert.Less(t, one, int64(2*rows+2*thumb), "the newest frame is an entry too, and was counted twice")
	for range 5 {
		add()
	}
	assert.Equal(t, 3*one, b.Snapshot().Bytes())

	f := New(time.Now(), Flash{Synopsis: 1})
	for range 5 {
		m := compute.NewMatrix(32, 4)
		f.Add(Entry{Grid: Grid{4, 8}, Tokens: m})
	}
	assert.Greater(t, f.Snapshot().Bytes(), int64(2*rows+2*rows/4), "the cluster, its exemplar, the exemplar's coarse rows and the newest frame")
}
