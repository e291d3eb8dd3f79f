package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A password in a camera's address, a secret in a webhook's and a token are planted, and then nothing that the program says has any of them:
// no log at its most talkative, no error, no metric, no body, no event, nothing on disk that it writes.
func TestNoSecretIsEverSaid(t *testing.T) {
	clean(t)
	const password, hook, query = "canary-pass-7731", "canary-hook-7732", "canary-query-7733"
	// A camera that refuses, saying back what it was asked for.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var camera sync.WaitGroup
	camera.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			camera.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
				b := make([]byte, 4096)
				n, _ := conn.Read(b)
				_, _ = conn.Write([]byte("RTSP/1.0 401 Unauthorized " + password + "\r\nCSeq: 1\r\nWWW-Authenticate: Basic realm=\"" + strings.ReplaceAll(string(b[:n]), "\r\n", " ") + "\"\r\n\r\n"))
			})
		}
	})
	defer camera.Wait()
	defer ln.Close()

	dir := t.TempDir()
	tokens := filepath.Join(dir, "tokens")
	_, out, _ := command(t, t.Context(), "token", "new", "phone", "--role", "admin", "--file", tokens)
	token := strings.TrimSpace(out)
	require.NotEmpty(t, token)
	source := "rtsp://viewer:" + password + "@" + ln.Addr().String() + "/live?key=" + query
	file := writeConfig(t, "memory_dir: "+filepath.Join(dir, "memory")+"\nauth: {tokens_file: "+tokens+"}\nstreams:\n  door: "+source+"\n  sim: sim://street?seed=900206\n"+
		"watches:\n  parcel: {stream: sim, ask: \"Is a parcel on the step?\", webhook: \"https://user:"+hook+"@127.0.0.1:9/"+hook+"?x="+hook+"\"}\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var said, errs lockedBuffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"--model", randomModel(t), "--log-level", "debug", "serve", file, "--listen", "127.0.0.1:0"},
			&app{in: strings.NewReader(""), out: &said, err: &errs, lookup: environment()})
	}()
	serving := regexp.MustCompile(`"msg":"serving","page":"(http://[^"]+/)"`)
	require.Eventually(t, func() bool { return serving.MatchString(errs.String()) }, 60*time.Second, 50*time.Millisecond, errs.String())
	page := serving.FindStringSubmatch(errs.String())[1]
	ask := func(method, path, body, with string) string {
		r, err := http.NewRequest(method, page+strings.TrimPrefix(path, "/"), strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+with)
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		resp, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		for name, values := range resp.Header {
			b = append(b, (name + ": " + strings.Join(values, " ") + "\n")...)
		}
		_, _ = said.Write(b)
		return string(b)
	}
	require.Eventually(t, func() bool { return strings.Contains(ask("GET", "/api/streams/door", "", token), `"offline"`) }, 30*time.Second, 100*time.Millisecond)
	require.Eventually(t, func() bool { return strings.Contains(ask("GET", "/readyz?stream=sim", "", token), "true") }, 30*time.Second, 100*time.Millisecond)

	var doc struct {
		Paths map[string]map[string]json.RawMessage
	}
	resp, err := http.Get(page + "openapi.json")
	require.NoError(t, err)
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&doc))
	resp.Body.Close()
	require.Greater(t, len(doc.Paths), 15)
	called := 0
	for pattern, methods := range doc.Paths {
		for method := range methods {
			method = strings.ToUpper(method)
			if method == "PARAMETERS" {
				continue
			}
			for _, name := range []string{"door", "sim", "nope"} {
				path := strings.NewReplacer("{name}", name, "{file}", "1.jpg", "{id}", "parcel", "{model}", "embedded").Replace(pattern)
				for _, with := range []string{token, "wrong"} {
					if with == "wrong" && name != "door" {
						continue // each waits
					}
					body := ""
					if method == "POST" || method == "PATCH" {
						body = `{"stream":"` + name + `","ask":"?","webhook":"https://u:` + hook + `@127.0.0.1:9/` + hook + `"}`
					}
					ask(method, path, body, with)
					called++
				}
			}
		}
	}
	require.Greater(t, called, 60)
	for _, address := range []string{"stream://door", "stream://sim?last=1m", source, "stream://viewer:" + password + "@door"} {
		quoted, err := json.Marshal(address)
		require.NoError(t, err)
		for _, stream := range []string{"true", "false"} {
			ask("POST", "/v1/chat/completions", `{"model":"`+url.PathEscape("x")+`","messages":[]}`, token)
			models := ask("GET", "/v1/models", "", token)
			model := regexp.MustCompile(`"id":"([^"]+)"`).FindStringSubmatch(models)[1]
			ask("POST", "/v1/chat/completions", `{"model":"`+model+`","max_tokens":4,"stream":`+stream+`,"messages":[{"role":"user","content":[{"type":"video_url","video_url":{"url":`+string(quoted)+`}},{"type":"text","text":"What is there?"}]}]}`, token)
		}
	}
	for _, name := range []string{"door", "sim"} {
		ws, resp, err := (&websocket.Dialer{Subprotocols: []string{"afterimage.v1", "afterimage.bearer." + base64.RawURLEncoding.EncodeToString([]byte(token))}}).Dial(
			"ws"+strings.TrimPrefix(page, "http")+"v1/realtime?stream="+name, nil)
		require.NoError(t, err)
		resp.Body.Close()
		for _, message := range []string{`{"type":"session.update","session":{}}`, `{"type":"memory.snapshot"}`, `{"type":"nothing"}`, `{`,
			`{"type":"watch.create","watch":{"stream":"` + name + `","name":"p2","ask":"?","webhook":"https://127.0.0.1:9/` + hook + `"}}`,
			`{"type":"response.create","response":{"max_output_tokens":3,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"What is there?"}]}]}}`} {
			require.NoError(t, ws.WriteMessage(websocket.TextMessage, []byte(message)))
		}
		for done := false; !done; {
			require.NoError(t, ws.SetReadDeadline(time.Now().Add(30*time.Second)))
			_, b, err := ws.ReadMessage()
			require.NoError(t, err)
			_, _ = said.Write(b)
			done = strings.Contains(string(b), `"response.done"`)
		}
		ws.Close()
	}
	code, out2, errs2 := command(t, t.Context(), "check-config", file)
	require.Zero(t, code, errs2)
	_, _ = said.Write([]byte(out2 + errs2))
	cancel()
	require.Zero(t, <-ended, errs.String())

	all := said.String() + errs.String()
	require.Greater(t, len(all), 20_000, "a search of nothing finds nothing")
	require.Contains(t, errs.String(), "source offline")
	require.Contains(t, all, "afterimage_stream_up")
	secrets := []string{password, hook, query, token, base64.RawURLEncoding.EncodeToString([]byte(token)), base64.StdEncoding.EncodeToString([]byte("viewer:" + password))}
	for _, secret := range secrets {
		if i := strings.Index(all, secret); i >= 0 {
			assert.Fail(t, "said", "%s in …%s…", secret, all[max(0, i-300):min(len(all), i+100)])
		}
	}
	require.NoError(t, filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(name)
		for _, secret := range []string{password, query, token} { // a standing question's own file has its webhook, which is how it is kept
			assert.NotContains(t, string(b), secret, name)
		}
		return err
	}))
}
