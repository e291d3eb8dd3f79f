package web

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"afterimage/ingest"
)

// BenchmarkPicture is what one frame costs while someone watches: RGB24 to JPEG.
func BenchmarkPicture(b *testing.B) {
	f := newFake("street")
	f.frame = ingest.Frame{W: 640, H: 360, Pix: scene(640, 360, time.Second)}
	l := &live{stream: f}
	for b.Loop() {
		f.frame.Index++
		_, err := l.latest()
		require.NoError(b, err)
	}
	b.ReportMetric(float64(len(l.last.jpeg())), "JPEG_bytes")
}

// BenchmarkDelta is what one streamed token costs between the model and the socket.
func BenchmarkDelta(b *testing.B) {
	s, err := New(Config{}, []Stream{newFake("street")})
	require.NoError(b, err)
	c := newSession(s, s.streams[0])
	a := &answering{session: c, response: responseInfo{ID: newID("resp_")}, itemID: newID("item_")}
	for b.Loop() {
		require.NoError(b, a.delta("word "))
		ev, _, _, _ := c.out.next()
		_, err := c.encode(ev)
		require.NoError(b, err)
	}
}
