package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
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
	c := newSession(s, s.streams()[0])
	a := &answering{session: c, response: responseInfo{ID: newID("resp_")}, itemID: newID("item_")}
	for b.Loop() {
		require.NoError(b, a.delta("word "))
		ev, _, _, _ := c.out.next()
		_, err := c.encode(ev)
		require.NoError(b, err)
	}
}

// BenchmarkChatCompletion is what a chat completion costs beside the answer itself: 18 words, and evidence of 25 moments with thumbnails.
func BenchmarkChatCompletion(b *testing.B) {
	f := newFake("yard")
	f.ask = f.answer("A red car is parked at the gate. It arrived three minutes ago and nobody left it since.", 0)
	s, err := New(Config{RequestRate: Rate{-1, 0}, QuestionRate: Rate{-1, 0}, Token: "a-token-of-our-own"}, []Stream{f})
	require.NoError(b, err)
	handler := s.routes()
	for _, stream := range []string{"false", "true"} {
		b.Run("stream="+stream, func(b *testing.B) {
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(`{"model":"stream://yard","stream":`+stream+`,"messages":[{"role":"user","content":"What?"}]}`))
				r.Host = "127.0.0.1"
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("Authorization", "Bearer a-token-of-our-own")
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Code, w.Body)
				}
			}
		})
	}
}

// BenchmarkScrape is what a scrape of 16 streams costs.
func BenchmarkScrape(b *testing.B) {
	var streams []Stream
	for i := range 16 {
		streams = append(streams, newRemembering("cam"+string(rune('a'+i)), 200))
	}
	s, err := New(Config{RequestRate: Rate{-1, 0}}, streams)
	require.NoError(b, err)
	handler := s.routes()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Host = "127.0.0.1"
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatal(w.Code, w.Body)
		}
	}
}
