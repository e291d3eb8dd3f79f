package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tests here run whole verbs on a small model with random weights: what it answers is nonsense, that it answers is not.

func TestClipIsWrittenAndAsked(t *testing.T) {
	clean(t)
	dir, model := t.TempDir(), randomModel(t)
	clip, questions := filepath.Join(dir, "street.mp4"), filepath.Join(dir, "street.json")
	code, _, errs := command(t, t.Context(), "simcam", "--out", clip, "--questions", questions, "--length", "40s", "--fps", "4", "--seed", "900200")
	require.Zero(t, code, errs)
	var doc struct {
		Epoch     time.Time
		Questions []struct{ Question, Answer, Type string }
	}
	text, err := os.ReadFile(questions)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &doc))
	require.NotEmpty(t, doc.Questions)
	assert.False(t, doc.Epoch.IsZero())

	code, out, errs := command(t, t.Context(), "--model", model, "ask", clip, doc.Questions[0].Question, "And now?", "--json", "--max-tokens", "8",
		"--starts", doc.Epoch.Format(time.RFC3339))
	require.Zero(t, code, errs)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 2)
	var answer answerDoc
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &answer))
	assert.Equal(t, doc.Questions[0].Question, answer.Question)
	assert.NotEmpty(t, answer.Answer)
	assert.Equal(t, 8, answer.Tokens)
	// The first question may name a time, and is then shown that time's memory only.
	require.NoError(t, json.Unmarshal([]byte(lines[1]), &answer))
	require.NotEmpty(t, answer.Evidence.Items)
	newest := answer.Evidence.Items[len(answer.Evidence.Items)-1]
	assert.Equal(t, "newest", newest.Role)
	assert.Equal(t, answer.Evidence.AsOf, newest.At)
	oldest, asOf := time.Time(answer.Evidence.Items[0].From), time.Time(answer.Evidence.AsOf)
	assert.WithinDuration(t, doc.Epoch, oldest, time.Second)
	assert.InDelta(t, 39.5, asOf.Sub(oldest).Seconds(), 1, "40 s of film are 40 s of memory, however fast they were read")

	code, out, _ = command(t, t.Context(), "--model", model, "ask", clip, "What happened?", "--max-tokens", "8", "--strategy", "recent")
	require.Zero(t, code)
	assert.Contains(t, out, "as of ")
	assert.Contains(t, out, "from 16 moments")
	assert.Contains(t, out, "first token")

	code, out, errs = command(t, t.Context(), "--model", model, "ask", clip, "What came in the last ten seconds?", "What was the first car?", "--json", "--max-tokens", "8",
		"--strategy", "composite:past=20,unit=4", "--max-visual-tokens", "100")
	require.Zero(t, code, errs)
	lines = strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 2)
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &answer))
	require.NotNil(t, answer.Evidence.Focus)
	assert.Equal(t, answer.Evidence.AsOf, answer.Evidence.Focus.To)
	require.Len(t, answer.Evidence.Coverage, 1, "of the ten seconds that are asked about")
	assert.Equal(t, "fine", answer.Evidence.Coverage[0].Level)
	assert.InDelta(t, 10, time.Time(answer.Evidence.Coverage[0].To).Sub(time.Time(answer.Evidence.Coverage[0].From)).Seconds(), 0.6)
	assert.LessOrEqual(t, answer.VisualTokens, 100)
	require.NoError(t, json.Unmarshal([]byte(lines[1]), &answer))
	assert.Equal(t, "first", answer.Evidence.Prefer)
	assert.LessOrEqual(t, answer.VisualTokens, 100)

	for _, strategy := range []string{"propagated", "bridge"} {
		code, _, errs = command(t, t.Context(), "--model", model, "ask", clip, "What happened?", "--strategy", strategy)
		assert.Equal(t, 1, code)
		assert.Contains(t, errs, "the memory strategy "+strategy+" needs a model with a learned memory, and the model "+model+" has none (no memory.safetensors)")
	}

	empty := filepath.Join(dir, "empty.mp4")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	code, _, errs = command(t, t.Context(), "--model", model, "ask", empty, "What happened?")
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "empty.mp4")
}

func TestAskWatchesALiveSource(t *testing.T) {
	clean(t)
	code, out, errs := command(t, t.Context(), "--model", randomModel(t), "ask", "sim://street?seed=900201", "Is the door open?", "--for", "2s", "--max-tokens", "4")
	require.Zero(t, code, errs)
	assert.Contains(t, out, "as of ")

	// A camera that is not there: no answer is made up, and its password stays secret.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())
	code, out, errs = command(t, t.Context(), "--log-level", "debug", "--model", randomModel(t), "ask",
		"rtsp://viewer:"+canary+"@"+addr+"/x?token="+canary, "Is the door open?", "--for", "1s")
	assert.Equal(t, 1, code)
	assert.Empty(t, out)
	assert.Contains(t, errs, "no picture within 1s")
	assert.Contains(t, errs, addr)
	assert.NotContains(t, errs, canary)
}

func TestBenchSim(t *testing.T) {
	clean(t)
	file := filepath.Join(t.TempDir(), "out.json")
	for _, codec := range []string{"none", "h264"} {
		code, out, errs := command(t, t.Context(), "--model", randomModel(t), "bench", "sim", "--seeds", "900202", "--minutes", "1",
			"--questions-per-minute", "3", "--codec", codec, "--json", file)
		require.Zero(t, code, errs)
		assert.Contains(t, out, "| **all closed** |")
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var report struct {
			Questions    int
			VisualTokens int `json:"visual_tokens"`
			Machine      struct{ Level string }
		}
		require.NoError(t, json.Unmarshal(text, &report))
		assert.Equal(t, 3, report.Questions)
		assert.Greater(t, report.VisualTokens, 8*32)
		assert.NotEmpty(t, report.Machine.Level)
	}
}

func TestDoctor(t *testing.T) {
	clean(t)
	code, out, errs := command(t, t.Context(), "--model", randomModel(t), "doctor", "--listen", "127.0.0.1:0")
	assert.Zero(t, code, out+errs)
	for _, what := range []string{"FFmpeg", "cores", "kernels", "port", "files", "model", "encoding", "answers"} {
		assert.Regexp(t, `(?m)^(ok|warn) +`+what+` `, out)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	code, out, _ = command(t, t.Context(), "doctor", "--quick", "--listen", ln.Addr().String())
	assert.Equal(t, 1, code)
	assert.Regexp(t, `(?m)^fail +port .*\n +-> `, out)
}

// The demonstration, all of it: a camera over RTSP in H.264, three questions at three moments of the live stream.
func TestDemoOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	clean(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	start := time.Now()
	var out watchedBuffer
	firstAnswer := time.Duration(0)
	out.seen = func(text string) {
		if firstAnswer == 0 && strings.Contains(text, "  answer ") {
			firstAnswer = time.Since(start)
		}
	}
	code := run(ctx, []string{"--model", randomModel(t), "demo", "--once"}, &app{in: strings.NewReader(""), out: &out, err: io.Discard, lookup: environment()})
	text := out.String()
	assert.Zero(t, code, text)
	for _, line := range []string{"question", "answer", "truth", "verdict", "evidence", "speed"} {
		assert.Len(t, regexp.MustCompile(`(?m)^  `+line+` +\S`).FindAllString(text, -1), 3, text)
	}
	kinds := map[string]bool{}
	for _, m := range regexp.MustCompile(`into the stream \((\w+)\)`).FindAllStringSubmatch(text, -1) {
		kinds[m[1]] = true
	}
	assert.Len(t, kinds, 3, "three types of question")
	assert.Contains(t, text, "3 of 3 questions answered")
	t.Logf("first answer after %s", firstAnswer)
}

type watchedBuffer struct {
	lockedBuffer
	seen func(string)
}

func (w *watchedBuffer) Write(p []byte) (int, error) {
	n, err := w.lockedBuffer.Write(p)
	w.seen(string(p))
	return n, err
}

// The demonstration as it is left running: the page is served, and the terminal takes questions.
func TestDemoServesAndConverses(t *testing.T) {
	clean(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in, typed := io.Pipe()
	var out, errs lockedBuffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"--model", randomModel(t), "demo", "--listen", "127.0.0.1:0", "--seed", "900203"},
			&app{in: in, out: &out, err: &errs, lookup: environment()})
	}()
	says := func(what *regexp.Regexp) []string {
		t.Helper()
		var m []string
		require.Eventually(t, func() bool { m = what.FindStringSubmatch(out.String()); return m != nil }, 20*time.Second, 20*time.Millisecond,
			"%s", bytes.NewBufferString(errs.String()))
		return m
	}
	page := says(regexp.MustCompile(`page +(http://127\.0\.0\.1:\d+/)`))[1]
	var streams []byte
	remembers := regexp.MustCompile(`"entries":[1-9]`) // a stream is live before its first picture is: no model would be asked
	require.Eventually(t, func() bool {
		resp, err := http.Get(page + "api/streams/street")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		streams, err = io.ReadAll(resp.Body)
		return err == nil && resp.StatusCode == http.StatusOK && bytes.Contains(streams, []byte(`"live"`)) && remembers.Match(streams)
	}, 20*time.Second, 50*time.Millisecond)
	assert.Contains(t, string(streams), "rtsp://127.0.0.1:")
	_, err := io.WriteString(typed, "\nIs the door open?\n")
	require.NoError(t, err)
	says(regexp.MustCompile(`as of 20\d\d-.*\n.*first token`))
	cancel()
	select {
	case code := <-ended:
		assert.Zero(t, code, errs.String())
	case <-time.After(20 * time.Second):
		t.Fatal("it did not stop")
	}
	require.NoError(t, typed.Close())
}

// A server whose cameras cannot be reached serves all the same, and neither its logs nor its answers give a password away.
func TestServeHidesCredentials(t *testing.T) {
	clean(t)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := dead.Addr().String()
	require.NoError(t, dead.Close())
	file := writeConfig(t, "streams:\n  door: rtsp://viewer:"+canary+"@"+addr+"/x?token="+canary+"\n  yard: http://u:"+canary+"@"+addr+"/live.m3u8\n  sim: sim://street?seed=900204\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs lockedBuffer
	ended := make(chan int, 1)
	model := randomModel(t)
	go func() {
		ended <- run(ctx, []string{"--log-level", "debug", "--model", model, "serve", file, "--listen", "127.0.0.1:0"},
			&app{in: strings.NewReader(""), out: &out, err: &errs, lookup: environment()})
	}()
	serving := regexp.MustCompile(`"msg":"serving","page":"(http://[^"]+/)"`)
	require.Eventually(t, func() bool { return serving.MatchString(errs.String()) }, 20*time.Second, 20*time.Millisecond)
	page := serving.FindStringSubmatch(errs.String())[1]
	var body []byte
	require.Eventually(t, func() bool {
		resp, err := http.Get(page + "api/streams")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, err = io.ReadAll(resp.Body)
		return err == nil && bytes.Contains(body, []byte(`"live"`)) && bytes.Count(body, []byte(`"offline"`)) == 2
	}, 20*time.Second, 50*time.Millisecond)
	cancel()
	assert.Zero(t, <-ended, errs.String())
	assert.Contains(t, errs.String(), addr, "the logs should say which camera")
	assert.NotContains(t, string(body)+errs.String()+out.String(), canary)
	assert.Regexp(t, `"time":"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`, errs.String())
}
