package web

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/llm"
	"afterimage/qa"
)

// TestOpenAIClient drives the server with OpenAI's own JavaScript client, as it comes from npm.
func TestOpenAIClient(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed, so OpenAI's client is not tried")
	}
	home, err := filepath.Abs(filepath.Join("..", ".deps", "openai"))
	require.NoError(t, err)
	if _, err := os.Stat(filepath.Join(home, "node_modules", "openai", "package.json")); err != nil {
		t.Skipf("OpenAI's client is not there, so it is not tried: scripts/openai.sh fetches it from npm (%v)", err)
	}
	f := newFake("front_door")
	var asked []qa.Question
	left := make(chan struct{})
	say, slowly := f.answer("A red car. It is parked.", 0), f.answer(strings.Repeat("still ", 1000), 5*time.Millisecond)
	f.ask = func(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
		asked = append(asked, q)
		switch q.Text {
		case "busy":
			return qa.Answer{}, llm.ErrBusy
		case "break":
			_ = emit("A red")
			return qa.Answer{}, errors.New("the device is lost")
		case "slow":
			defer close(left)
			return slowly(ctx, q, emit)
		}
		return say(ctx, q, emit)
	}
	base, _ := serve(t, Config{Token: "a-token-of-our-own", FailureDelay: -1}, f, newFake("yard"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, filepath.Join("testdata", "openai_client.mjs"), home, base, "a-token-of-our-own")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NO_PROXY=127.0.0.1"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	raw, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	type failure struct {
		Class      string
		Status     int
		Code       string
		Param      string
		RetryAfter string
	}
	var out struct {
		Models              []string
		Model, Text, Finish string
		Usage, StreamUsage  struct {
			Prompt     int `json:"prompt_tokens"`
			Completion int `json:"completion_tokens"`
		}
		Evidence, Deltas []string
		Gathered         string
		Errors           map[string]*failure
	}
	require.NoError(t, json.Unmarshal(raw, &out), string(raw))
	assert.Equal(t, []string{"afterimage", "stream://front_door", "stream://yard"}, out.Models)
	assert.Equal(t, "stream://front_door", out.Model)
	const text = "A red car. It is parked."
	assert.Equal(t, text, out.Text)
	assert.Equal(t, "stop", out.Finish)
	assert.Equal(t, []string{"front_door"}, out.Evidence)
	assert.Equal(t, text, strings.Join(out.Deltas, ""))
	assert.Len(t, out.Deltas, 6, "as it comes, not at once")
	assert.Equal(t, text, out.Gathered)
	assert.Equal(t, 840, out.Usage.Prompt)
	assert.Equal(t, 6, out.StreamUsage.Completion)
	for name, want := range map[string]failure{
		"tools": {"BadRequestError", 400, "unsupported_parameter", "tools", ""}, "model": {"NotFoundError", 404, "model_not_found", "model", ""},
		"url":   {"BadRequestError", 400, "url_not_allowed", "messages[0].content[0].video_url.url", ""},
		"busy":  {"RateLimitError", 429, "server_busy", "", "1"},
		"token": {"AuthenticationError", 401, "token_required", "", ""},
		"late":  {"APIError", 0, "answer_failed", "", ""},
	} {
		if assert.NotNil(t, out.Errors[name], name) {
			assert.Equal(t, want, *out.Errors[name], name)
		}
	}
	require.GreaterOrEqual(t, len(asked), 2)
	assert.Equal(t, []qa.Exchange{{Question: "Is there a car?", Answer: text}}, asked[1].History)
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Fatal("an answer went on that the client had left")
	}
}

// TestOpenAIPythonClient does the same in short with the Python client, where "scripts/openai.sh python" put it.
func TestOpenAIPythonClient(t *testing.T) {
	python := filepath.Join("..", ".deps", "openai-python", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		t.Skipf(`OpenAI's Python client is not there, so it is not tried: "scripts/openai.sh python" fetches it (%v)`, err)
	}
	var asked []qa.Question
	base, _ := serve(t, Config{Token: "a-token-of-our-own"}, capturing("front_door", &asked), newFake("yard"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, filepath.Join("testdata", "openai_client.py"), base, "a-token-of-our-own")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NO_PROXY=127.0.0.1"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	raw, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	const text = "A red car. It is parked."
	var out struct {
		Models, Evidence, Deltas []string
		Text, Error              string
	}
	require.NoError(t, json.Unmarshal(raw, &out), string(raw))
	assert.Equal(t, []string{"afterimage", "stream://front_door", "stream://yard"}, out.Models)
	assert.Equal(t, text, out.Text)
	assert.Equal(t, text, strings.Join(out.Deltas, ""))
	assert.Equal(t, []string{"front_door"}, out.Evidence)
	assert.Equal(t, "model_not_found", out.Error)
	require.Len(t, asked, 2)
	assert.Equal(t, 500, asked[0].MaxVisualTokens)
	assert.Equal(t, []qa.Exchange{{Question: "Is there a car?", Answer: text}}, asked[1].History)
}
