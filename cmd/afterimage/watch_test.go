package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/webhook"
)

// Standing questions from the command line to the webhook, over a restart, and on the memory that is left on disk. The model is random: whichever of
// yes and no it thinks likelier fires at once.
func TestWatchFromEndToEnd(t *testing.T) {
	clean(t)
	dir, model := t.TempDir(), randomModel(t)
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("a secret for webhooks\n"), 0o600))
	file := writeConfig(t, "memory_dir: "+dir+"\nwebhooks: {secret_file: "+secret+"}\nstreams:\n  sim: sim://street?seed=900204\n"+
		"watches: {fixed: {stream: sim, ask: Is the lamp on?, every: 1h}}\n")

	type told struct {
		Type, ID, Stream string
		Watch            struct{ ID, Name string }
		Picture          []byte
	}
	var mu sync.Mutex
	var got []told
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		var e told
		assert.NoError(t, json.Unmarshal(raw, &e))
		at, err := time.Parse(time.DateTime, "1970-01-01 00:00:00")
		assert.NoError(t, err)
		var seconds int64
		assert.NoError(t, json.Unmarshal([]byte(r.Header.Get("webhook-timestamp")), &seconds))
		assert.Equal(t, webhook.Sign([]byte("a secret for webhooks"), e.ID, at.Add(time.Duration(seconds)*time.Second), raw), r.Header.Get("webhook-signature"))
		mu.Lock()
		defer mu.Unlock()
		got = append(got, e)
	}))
	defer hook.Close()
	fired := func() (list []told) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range got {
			if e.Type == "watch.fired" {
				list = append(list, e)
			}
		}
		return list
	}

	serve := func(body func(server string)) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var errs lockedBuffer
		ended := make(chan int, 1)
		go func() {
			ended <- run(ctx, []string{"--model", model, "serve", file, "--listen", "127.0.0.1:0"},
				&app{in: strings.NewReader(""), out: io.Discard, err: &errs, lookup: environment()})
		}()
		serving := regexp.MustCompile(`"msg":"serving","page":"(http://[^"]+)/"`)
		require.Eventually(t, func() bool { return serving.MatchString(errs.String()) }, 60*time.Second, 20*time.Millisecond)
		body(serving.FindStringSubmatch(errs.String())[1])
		cancel()
		require.Zero(t, <-ended, errs.String())
		assert.NotContains(t, errs.String(), canary)
	}
	watch := func(args ...string) string {
		t.Helper()
		code, out, errs := command(t, t.Context(), append([]string{"watch"}, args...)...)
		require.Zero(t, code, errs)
		assert.NotContains(t, out, canary)
		return out
	}
	serve(func(server string) {
		for _, answer := range []string{"yes", "no"} {
			out := watch("add", "sim", "Is the door open?", "--server", server, "--name", answer, "--fire", answer, "--choices", "yes,no", "--threshold", "0.5",
				"--hold", "0s", "--webhook", hook.URL+"/"+canary)
			assert.Regexp(t, `^watch_\w+  sim/`+answer+` stands\n$`, out)
		}
		code, _, errs := command(t, t.Context(), "watch", "add", "sim", "Is the door open?", "--server", server, "--name", "yes")
		assert.Equal(t, 1, code)
		assert.Contains(t, errs, "has a standing question of that name")
		code, _, errs = command(t, t.Context(), "watch", "add", "sim", "Is the door open?", "--server", server, "--webhook", "http://192.0.2.1/"+canary)
		assert.Equal(t, 1, code)
		assert.Contains(t, errs, "webhook: this address is not allowed for a webhook: http is for this machine only")
		assert.NotContains(t, errs, canary)
		require.Eventually(t, func() bool { return len(fired()) > 0 }, 30*time.Second, 20*time.Millisecond)
		e := fired()[0]
		assert.Equal(t, "sim", e.Stream)
		assert.NotEmpty(t, e.Picture)
		out := watch("list", "--server", server)
		assert.Contains(t, out, e.Watch.ID+"  sim/"+e.Watch.Name+`  "Is the door open?"  fired`)
		assert.Contains(t, out, "sim.fixed")
		assert.Contains(t, watch("backtest", e.Watch.Name, "--server", server), "It would have fired once")
		assert.Contains(t, watch("backtest", "sim", "Is the door open?", "--server", server, "--json"), `"samples"`)
		code, _, errs = command(t, t.Context(), "watch", "rm", "fixed", "--server", server)
		assert.Equal(t, 1, code)
		assert.Contains(t, errs, "configuration file")
	})
	name := fired()[0].Watch.Name
	serve(func(server string) {
		time.Sleep(2 * time.Second)
		assert.Contains(t, watch("list", "--server", server), "fired 1 times", "it is known")
		watch("rm", name, "--server", server)
		assert.NotContains(t, watch("list", "--server", server), "sim/"+name)
	})
	n := 0
	for _, e := range fired() {
		if e.Watch.Name == name {
			n++
		}
	}
	assert.Equal(t, 1, n, "it does not fire again because the server was started again")

	code, out, errs := command(t, t.Context(), "--model", model, "watch", "backtest", "sim", "Is the door open?", "--memory", "--memory-dir", dir, "--fire", name,
		"--choices", "yes,no", "--threshold", "0.5", "--hold", "0s")
	require.Zero(t, code, errs)
	assert.Contains(t, out, "It would have fired")
	assert.Regexp(t, `\n[1-9]\d* checks in `, out)
	code, _, errs = command(t, t.Context(), "watch", "list", "--server", "http://127.0.0.1:1")
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "no server at 127.0.0.1:1")
}
