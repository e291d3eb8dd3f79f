package web

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/qa"
)

// pictured is a stream with pictures of every second of its last minute.
type pictured struct {
	*fakeStream
	mu   sync.Mutex
	gone bool
	err  error
}

func (p *pictured) Pictures(ctx context.Context, span ingest.Span, most int) (list []qa.Picture, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at := span.From; !p.gone && at.Before(span.To) && len(list) < most; at = at.Add(time.Second) {
		list = append(list, qa.Picture{At: at, JPEG: thumbOf(at.Second())})
	}
	return list, errors.Join(p.err, ctx.Err())
}

// clipped serves two streams whose answers have clips, and returns how to get files of them and the addresses of one answer's clips.
func clipped(t *testing.T, cfg Config, door *pictured) (get func(path, token, part string) (*http.Response, string), clips []string) {
	now := time.Now()
	door.ask = func(_ context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
		e := someEvidence(now)
		share := float32(0.25)
		e.Items[0].Share = &share
		e.Items[1].Clip = ingest.Span{From: now.Add(-20 * time.Second), To: now.Add(-10 * time.Second)}
		e.Items[2].Clip = ingest.Span{From: now.Add(-200 * time.Second), To: now.Add(-10 * time.Second)}
		return qa.Answer{Text: "Yes.", Evidence: e}, emit("Yes.")
	}
	cfg.Tokens = func() []Token {
		return []Token{token("door", "door-door-door-door", RoleAsk, "door"), token("yard", "yard-yard-yard-yard", RoleAdmin, "yard")}
	}
	cfg.FailureDelay = -1
	base, stop := serve(t, cfg, door, newFake("yard"))
	t.Cleanup(stop)
	c := dialAs(t, base, "door", "door-door-door-door")
	defer c.ws.Close()
	c.ask("Was the door open?")
	ev := c.until("response.evidence")
	assert.Equal(t, 0.25, at(ev, "items", 0, "share"))
	assert.Nil(t, at(ev, "items", 1, "share"), "not measured is null")
	assert.Contains(t, at(ev, "items", 1), "share")
	for i := range 3 {
		if s, ok := at(ev, "items", i).(map[string]any)["clip"].(string); ok {
			clips = append(clips, s)
		}
	}
	return func(path, secret, part string) (*http.Response, string) {
		r, err := http.NewRequest(http.MethodGet, base+path, nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+secret)
		if part != "" {
			r.Header.Set("Range", part)
		}
		resp, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp, string(body)
	}, clips
}

const doorToken, yardToken = "door-door-door-door", "yard-yard-yard-yard"

func TestClips(t *testing.T) {
	var made atomic.Int32
	var mu sync.Mutex
	var shown []qa.Picture
	var failing error
	door := &pictured{fakeStream: newFake("door")}
	get, clips := clipped(t, Config{Clips: func(_ context.Context, pictures []qa.Picture) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		made.Add(1)
		shown = pictures
		return []byte("0123456789"), failing
	}}, door)
	require.Len(t, clips, 2)
	assert.NotEqual(t, clips[0], clips[1])

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			resp, body := get(clips[0], doorToken, "")
			assert.Equal(t, http.StatusOK, resp.StatusCode, body)
			assert.Equal(t, "video/mp4", resp.Header.Get("Content-Type"))
			assert.Contains(t, resp.Header.Get("Cache-Control"), "private")
			assert.Equal(t, "0123456789", body)
		})
	}
	wg.Wait()
	assert.EqualValues(t, 1, made.Load(), "a clip is made once, however many ask for it at once")
	assert.Len(t, shown, 10)
	resp, body := get(clips[0], doorToken, "bytes=2-4")
	assert.Equal(t, http.StatusPartialContent, resp.StatusCode)
	assert.Equal(t, "234", body)

	// CVE-2026-33470: another stream's token sees nothing, not even that there is something, and nothing is made for it.
	for _, path := range []string{clips[0], clips[1]} {
		resp, body = get(path, yardToken, "")
		assert.Equal(t, http.StatusNotFound, resp.StatusCode)
		assert.Contains(t, body, "evidence_not_found")
	}
	resp, _ = get(clips[0][:len(clips[0])-3]+"jpg", doorToken, "")
	assert.Equal(t, http.StatusNotFound, resp.StatusCode, "a clip is no thumbnail")
	assert.EqualValues(t, 1, made.Load())

	failing = errors.New("no encoder at /secret")
	resp, body = get(clips[1], doorToken, "")
	assert.Equal(t, http.StatusInternalServerError, resp.StatusCode)
	assert.Contains(t, body, "clip_failed")
	assert.NotContains(t, body, "/secret")
	assert.Len(t, shown, clipPictures, "of a long stretch as many as a clip may have")
	failing = nil
	door.mu.Lock()
	door.gone = true
	door.mu.Unlock()
	resp, body = get(clips[1], doorToken, "")
	assert.Equal(t, http.StatusNotFound, resp.StatusCode, "a failure is not kept, and the pictures are gone by now")
	assert.Contains(t, body, "evidence_not_found")
	resp, _ = get(clips[0], doorToken, "")
	assert.Equal(t, http.StatusOK, resp.StatusCode, "what was made is kept")
}

func TestNoClipsWithoutAMaker(t *testing.T) {
	_, clips := clipped(t, Config{}, &pictured{fakeStream: newFake("door")})
	assert.Empty(t, clips)
}

// A maker that panics, as one over foreign code might, costs its clip and nothing else.
func TestClipMakerPanics(t *testing.T) {
	get, clips := clipped(t, Config{Clips: func(context.Context, []qa.Picture) ([]byte, error) { panic("boom") }}, &pictured{fakeStream: newFake("door")})
	for range 2 {
		resp, body := get(clips[0], doorToken, "")
		assert.Equal(t, http.StatusInternalServerError, resp.StatusCode)
		assert.NotContains(t, body, "boom")
	}
}

func TestClipsAreBounded(t *testing.T) {
	c := newThumbs(1000)
	now := time.Now()
	span := func(i int) ingest.Span { return ingest.Span{From: now, To: now.Add(time.Duration(i+1) * time.Second)} }
	a := c.putClip("s", span(0))
	assert.Equal(t, a, c.putClip("s", span(0)))
	assert.NotEqual(t, a, c.putClip("other", span(0)))
	assert.NotEqual(t, a, newThumbs(1000).putClip("s", span(0)), "an id cannot be made up by who knows the stretch")
	c.fill(a, make([]byte, 1000), c.clears())
	th, ok := c.get(a)
	assert.True(t, ok)
	assert.Nil(t, th.body, "one that fits nowhere is not kept")
	c.fill(a, make([]byte, 400), c.clears())
	th, _ = c.get(a)
	assert.Len(t, th.body, 400)
	for i := range 10 {
		c.putClip("s", span(i+1))
		assert.LessOrEqual(t, c.bytes, 1000)
	}
	_, ok = c.get(a)
	assert.False(t, ok)
	b := c.putClip("s", span(50))
	before := c.clears()
	c.clear()
	assert.Equal(t, b, c.putClip("s", span(50)))
	c.fill(b, make([]byte, 10), before)
	th, _ = c.get(b)
	assert.Nil(t, th.body, "it was made of pictures from before all was let go of")
	assert.Empty(t, newThumbs(100).putClip("s", span(0)))
}
