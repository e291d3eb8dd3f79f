package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest/simcam"
	"afterimage/qa"
)

// A camera that is cut twice, once with its connections and once without, seen through the whole program: every answer's evidence has those
// two gaps and no other, what nobody watched is said without asking the model, and moments that were watched come with pictures and clips.
func TestCutCamera(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	clean(t)
	camera, err := simcam.ServeRTSP(simcam.NewRenderer(simcam.NewScript(900_206, time.Hour), 320, 180), simcam.RTSPOptions{
		Addr: "127.0.0.1:0", W: 320, H: 180, FPS: 10, NewEncoder: withSimEncoder,
	})
	require.NoError(t, err)
	defer camera.Close()
	file := writeConfig(t, "memory_dir: "+t.TempDir()+"\nstreams:\n  door: {source: "+camera.URL()+", fps: 4, stall_timeout: 2s}\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs lockedBuffer
	ended := make(chan int, 1)
	model := randomModel(t)
	go func() {
		ended <- run(ctx, []string{"--model", model, "serve", file, "--listen", "127.0.0.1:0"},
			&app{in: strings.NewReader(""), out: &out, err: &errs, lookup: environment()})
	}()
	serving := regexp.MustCompile(`"msg":"serving","page":"(http://[^"]+)/"`)
	require.Eventually(t, func() bool { return serving.MatchString(errs.String()) }, 30*time.Second, 20*time.Millisecond)
	base := serving.FindStringSubmatch(errs.String())[1]
	get := func(path string) (int, []byte, http.Header) {
		resp, err := http.Get(base + path)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, body, resp.Header
	}
	type stream struct {
		State     string
		LastFrame time.Time `json:"last_frame"`
	}
	look := func() (s stream) {
		_, body, _ := get("/api/streams/door")
		require.NoError(t, json.Unmarshal(body, &s))
		return s
	}
	until := func(state string) {
		t.Helper()
		// After two cuts the supervisor, which forgets failures only after half a minute of pictures, may wait up to a minute before it tries again.
		require.Eventually(t, func() bool { return look().State == state }, 75*time.Second, 20*time.Millisecond, "never %s: %s", state, errs.String())
	}
	type answer struct {
		Choices []struct{ Message struct{ Content string } }
		From    bool `json:"x_from_coverage"`
		Of      []struct {
			Stream string
			qa.EvidenceDoc
		} `json:"x_evidence"`
	}
	var models struct{ Data []struct{ ID string } }
	_, list, _ := get("/v1/models")
	require.NoError(t, json.Unmarshal(list, &models))
	require.NotEmpty(t, models.Data)
	ask := func(question string) (a answer) {
		t.Helper()
		body, err := json.Marshal(map[string]any{"model": models.Data[0].ID, "max_tokens": 4, "messages": []any{map[string]any{"role": "user", "content": []any{
			map[string]any{"type": "video_url", "video_url": map[string]string{"url": "stream://door"}}, map[string]string{"type": "text", "text": question}}}}})
		require.NoError(t, err)
		resp, err := http.Post(base+"/v1/chat/completions", "application/json", bytes.NewReader(body))
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode, "%s", text)
		require.NoError(t, json.Unmarshal(text, &a))
		require.Len(t, a.Of, 1)
		assert.Equal(t, "door", a.Of[0].Stream)
		return a
	}
	watch := func(d time.Duration) { time.Sleep(d) } // of a picture that moves at the speed of life

	until("live")
	began := look().LastFrame
	watch(4 * time.Second)
	type cut struct{ off, on, back time.Time } // the camera's, and when the program saw it again
	var cuts [2]cut
	cuts[0].off = time.Now()
	camera.Stop()
	until("offline")
	during := ask("What is happening?")
	assert.Equal(t, "offline", during.Of[0].State)
	watch(5 * time.Second)
	cuts[0].on = time.Now()
	require.NoError(t, camera.Restart())
	until("live")
	cuts[0].back = time.Now()
	watch(4 * time.Second)
	cuts[1].off = time.Now()
	camera.Stall(true)
	require.Eventually(t, func() bool { s := look().State; return s != "live" }, 30*time.Second, 20*time.Millisecond)
	watch(4 * time.Second)
	cuts[1].on = time.Now()
	camera.Stall(false)
	until("live")
	cuts[1].back = time.Now()
	watch(3 * time.Second)

	now := ask("What is happening?")
	assert.False(t, now.From)
	e := now.Of[0]
	assert.Equal(t, "live", e.State)
	assert.WithinDuration(t, time.Now(), time.Time(e.AsOf), 5*time.Second)
	require.Len(t, e.Gaps, 2, "%s", errs.String())
	require.Len(t, e.Coverage, 3)
	const slack = 1500 * time.Millisecond // a picture every quarter of a second, on a machine that may be busy
	for i, c := range cuts {
		from, to := time.Time(e.Gaps[i].From), time.Time(e.Gaps[i].To)
		assert.WithinRange(t, from, c.off.Add(-slack), c.off.Add(slack), "gap %d begins", i)
		assert.WithinRange(t, to, c.on, c.back.Add(slack), "gap %d ends", i)
		assert.Equal(t, e.Coverage[i].To, e.Gaps[i].From, "what was watched and what was not leave nothing between them")
		assert.Equal(t, e.Gaps[i].To, e.Coverage[i+1].From)
	}
	assert.WithinDuration(t, began, time.Time(e.Coverage[0].From), slack)
	require.NotEmpty(t, e.Items)
	for _, it := range e.Items {
		at := time.Time(it.At)
		watched := false
		for _, c := range e.Coverage {
			watched = watched || !at.Before(time.Time(c.From)) && !at.After(time.Time(c.To))
		}
		assert.True(t, watched, "a picture of %s, when nobody was watching", at)
		code, body, head := get(it.Thumb)
		assert.Equal(t, http.StatusOK, code)
		assert.Equal(t, "image/jpeg", head.Get("Content-Type"))
		assert.Equal(t, []byte{0xff, 0xd8}, body[:2])
	}
	newest := e.Items[len(e.Items)-1]
	require.NotEmpty(t, newest.Clip)
	code, body, head := get(newest.Clip)
	assert.Equal(t, http.StatusOK, code, "%s", body)
	assert.Equal(t, "video/mp4", head.Get("Content-Type"))
	assert.Equal(t, "ftyp", string(body[4:8]))

	// Times of the day, in the zone that the program speaks of.
	said := func(at time.Time) string { return at.Local().Format(time.TimeOnly) }
	for _, c := range cuts {
		middle := c.off.Add(c.on.Sub(c.off) / 2)
		out := ask("Was the door open at " + said(middle) + "?")
		assert.True(t, out.From)
		assert.Regexp(t, "^I was not watching at "+said(middle)+`\. I have watched from `, out.Choices[0].Message.Content)
		assert.Len(t, out.Of[0].Gaps, 2)
		assert.Empty(t, out.Of[0].Items, "the model was given nothing")
	}
	before := ask(fmt.Sprintf("Was the door open at %s?", said(began.Add(-time.Minute))))
	assert.True(t, before.From)
	assert.Contains(t, before.Choices[0].Message.Content, "I was not watching")

	in := ask("What happened between " + said(cuts[0].back) + " and " + said(cuts[1].on) + "?")
	assert.False(t, in.From, "part of it was watched")
	require.NotNil(t, in.Of[0].Focus)
	require.NotEmpty(t, in.Of[0].Gaps)
	assert.WithinDuration(t, cuts[1].off, time.Time(in.Of[0].Gaps[len(in.Of[0].Gaps)-1].From), slack, "the gaps are those of the time that was asked about")
	for _, c := range in.Of[0].Coverage {
		assert.False(t, time.Time(c.From).Before(time.Time(in.Of[0].Focus.From)))
	}

	cancel()
	assert.Zero(t, <-ended, errs.String())
}
