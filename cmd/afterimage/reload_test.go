package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/web"
)

func TestTokens(t *testing.T) {
	clean(t)
	file := filepath.Join(t.TempDir(), "tokens")
	code, out, errs := command(t, t.Context(), "token", "new", "tablet", "--role", "read", "--streams", "door,yard", "--file", file)
	require.Zero(t, code, errs)
	secret := strings.TrimSpace(out)
	assert.Regexp(t, `^ai_[a-z0-9]{26}$`, secret)
	assert.NotContains(t, errs, secret)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.NotContains(t, string(text), secret)
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	code, _, errs = command(t, t.Context(), "token", "new", "tablet", "--file", file)
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "has a token named tablet already")
	code, _, _ = command(t, t.Context(), "token", "new", "boss", "--role", "admin", "--file", file)
	assert.Zero(t, code)
	_, out, _ = command(t, t.Context(), "token", "list", "--file", file)
	assert.Regexp(t, `tablet +read +door,yard +[0-9a-f]{12}…\nboss +admin +all streams`, out)

	tokens, err := loadTokens(AuthConfig{TokensFile: file})
	require.NoError(t, err)
	require.Len(t, tokens, 2)
	assert.Equal(t, web.RoleRead, tokens[0].Role)
	assert.Equal(t, []string{"door", "yard"}, tokens[0].Streams)
	assert.Nil(t, tokens[1].Streams)
	code, _, _ = command(t, t.Context(), "token", "rm", "tablet", "--file", file)
	assert.Zero(t, code)
	code, _, _ = command(t, t.Context(), "token", "rm", "boss", "--file", file)
	assert.Zero(t, code)
	_, err = loadTokens(AuthConfig{TokensFile: file})
	require.ErrorContains(t, err, "has no token; make one with: afterimage token new")

	sum := strings.Repeat("ab", 32)
	for text, want := range map[string]string{
		canary: "want four words", "a b c " + canary: "a role is", "a read c/d " + sum: "want names of streams", "a read * " + canary: "64 hexadecimal",
		"a read * " + sum + "\na ask * " + sum: ":2: a second token",
	} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		_, err := readTokens(file)
		require.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), canary)
	}
	require.NoError(t, os.Chmod(file, 0o666))
	_, err = readTokens(file)
	require.ErrorContains(t, err, "can be written by others")
}

func FuzzTokens(f *testing.F) {
	f.Add("a read * " + strings.Repeat("ab", 32))
	f.Add("b admin x,y " + strings.Repeat("00", 32))
	f.Add("a read")
	f.Fuzz(func(t *testing.T, line string) {
		tok, err := parseToken(line)
		if err != nil {
			return
		}
		assert.Regexp(t, tokenName, tok.Name)
		assert.NotZero(t, tok.Role)
		if tok.Streams != nil {
			assert.NotEmpty(t, tok.Streams)
		}
	})
}

func TestSelfSigned(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	hosts := []string{"127.0.0.1", "cam.example", "localhost"}
	one, err := selfSigned(dir, hosts, now)
	require.NoError(t, err)
	info, err := os.Stat(filepath.Join(dir, selfSignedFile))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	for _, h := range hosts {
		require.NoError(t, one.Leaf.VerifyHostname(h))
	}
	same, err := selfSigned(dir, hosts[:2], now)
	require.NoError(t, err)
	assert.Equal(t, one.Certificate, same.Certificate, "kept from one run to the next")
	other, err := selfSigned(dir, append(hosts, "more.example"), now)
	require.NoError(t, err)
	assert.NotEqual(t, one.Certificate, other.Certificate)
	later, err := selfSigned(dir, hosts, now.Add(selfSignedFor-renewBefore))
	require.NoError(t, err)
	assert.NotEqual(t, other.Certificate, later.Certificate, "renewed before it ends")
}

func TestFileWatch(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	w := fileWatches{}
	assert.False(t, w.changed(file, ""))
	require.NoError(t, os.WriteFile(file, []byte("half"), 0o600))
	assert.False(t, w.changed(file, ""), "it may still be written")
	require.NoError(t, os.WriteFile(file, []byte("all of it"), 0o600))
	assert.False(t, w.changed(file, ""))
	assert.True(t, w.changed(file, ""))
	assert.False(t, w.changed(file, ""))
	assert.False(t, w.changed(file, file+"2"), "another file is no change")
	require.NoError(t, os.Remove(file))
	assert.False(t, w.changed(file))
	assert.True(t, w.changed(file))
}

func TestCompareConfigs(t *testing.T) {
	load := func(text string) *Config {
		c, err := LoadConfig(writeConfig(t, text), nil)
		require.NoError(t, err)
		return c
	}
	old := load("streams: {a: sim://street, b: sim://street?seed=2, c: sim://street?seed=3}\n")
	next := load("model: acme/street\nstreams: {d: sim://street, b: {source: sim://street?seed=2, fps: 1}, a: sim://street}\nwatches: {w: {stream: a, ask: What?}}\n")
	assert.Equal(t, changes{Added: []string{"d"}, Removed: []string{"c"}, Changed: []string{"b"}, Kept: []string{"a"}, Watches: true, Restart: []string{"model"}},
		compareConfigs(old, next))
	assert.Equal(t, changes{Kept: []string{"a", "b", "c"}}, compareConfigs(old, old))
	// What a stream inherits counts.
	assert.Equal(t, []string{"a"}, compareConfigs(load("streams: {a: sim://street}\n"), load("stream_defaults: {fps: 1}\nstreams: {a: sim://street}\n")).Changed)
	assert.Equal(t, []string{"a"}, compareConfigs(load("streams: {a: \"rtsp://u:1@h/\"}\n"), load("streams: {a: \"rtsp://u:2@h/\"}\n")).Changed, "a password")
}

func TestCheckConfigSaysWhatWouldChange(t *testing.T) {
	clean(t)
	now := writeConfig(t, "streams: {a: sim://street, b: sim://street?seed=2}\n")
	next := writeConfig(t, "tls: self-signed\nstreams: {a: sim://street, c: {source: sim://street, masks: [[0, 0, 1, 0.5]]}}\n"+
		"watches: {parcel: {stream: a, ask: Is a parcel there?, webhook: \"https://hooks.example/"+canary+"\"}}\n")
	code, out, errs := command(t, t.Context(), "check-config", next, "--running", now)
	require.Zero(t, code, errs)
	for _, want := range []string{
		"connections are encrypted with a certificate of our own", "parts of the picture that are masked: 1",
		`watch parcel on a: "Is a parcel there?", fires from probability`, "https://hooks.example/…",
		"streams that begin: c\nstreams that end: b\nstreams that go on: a\nstanding questions change\nonly after a restart of the server: tls\n",
	} {
		assert.Contains(t, out, want)
	}
	assert.NotContains(t, out+errs, canary)
	code, _, errs = command(t, t.Context(), "check-config", writeConfig(t, "listen: 0.0.0.0:1\nstreams: {a: sim://street}\n"))
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "no token is set")
}

// A served configuration changes: what it does not touch goes on, and what is wrong is refused whole.
func TestReload(t *testing.T) {
	clean(t)
	file := writeConfig(t, "")
	dir := filepath.Dir(file)
	tokens := filepath.Join(dir, "tokens")
	_, secret, _ := command(t, t.Context(), "token", "new", "boss", "--role", "admin", "--file", tokens)
	secret = strings.TrimSpace(secret)
	const head = "auth: {tokens_file: tokens}\ntls: self-signed\nmemory_dir: memory\n"
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(head+text), 0o600)) }
	write("streams:\n  kept: sim://street?seed=900300\n  changed: sim://street?seed=900301\n  gone: sim://street?seed=900302\n" +
		"watches: {car: {stream: kept, ask: Is there a car?, every: 1h}}\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var errs lockedBuffer
	ended := make(chan int, 1)
	model := randomModel(t)
	go func() {
		ended <- run(ctx, []string{"--model", model, "serve", file, "--listen", "127.0.0.1:0"},
			&app{in: strings.NewReader(""), out: io.Discard, err: &errs, lookup: environment(), environ: nil})
	}()
	logged := func(what string) []string {
		t.Helper()
		var m []string
		pattern := regexp.MustCompile(what)
		require.Eventually(t, func() bool { m = pattern.FindStringSubmatch(errs.String()); return m != nil }, 60*time.Second, 20*time.Millisecond, "%s in %s", what, &errs)
		return m
	}
	address := logged(`"msg":"serving","page":"https://([^"/]+)/"`)[1]
	assert.Regexp(t, `"sha256_fingerprint":"([0-9A-F]{2}:){31}[0-9A-F]{2}"`, errs.String())
	pem, err := os.ReadFile(filepath.Join(dir, "memory", selfSignedFile))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(pem))
	trust := &tls.Config{RootCAs: pool}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trust, DisableKeepAlives: true}}
	get := func(path, token string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+path, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	dial := func(stream string) *websocket.Conn {
		d := websocket.Dialer{TLSClientConfig: trust}
		ws, resp, err := d.DialContext(t.Context(), "wss://"+address+"/v1/realtime?stream="+stream, http.Header{"Authorization": {"Bearer " + secret}})
		require.NoError(t, err)
		resp.Body.Close()
		t.Cleanup(func() { ws.Close() })
		return ws
	}
	kept, gone := dial("kept"), dial("gone")
	names := func() (list []string) {
		status, body := get("/api/streams", secret)
		require.Equal(t, http.StatusOK, status, body)
		var got struct{ Streams []struct{ Stream string } }
		require.NoError(t, json.Unmarshal([]byte(body), &got))
		for _, s := range got.Streams {
			list = append(list, s.Stream)
		}
		return list
	}
	assert.Equal(t, []string{"kept", "changed", "gone"}, names())

	// A wrong file changes nothing.
	write("streams: {kept: sim://street?seed=900300, broken: {source: sim://street, fps: 99}}\n")
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	logged(`"msg":"the configuration was not taken, the old one stays".*want 0.05 to 30`)
	assert.Equal(t, []string{"kept", "changed", "gone"}, names())
	write("streams: {kept: sim://street?seed=900300, changed: {source: sim://street?seed=900301, memory: propagated}, more: sim://street}\n")
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	logged(`"msg":"the configuration was not taken, the old one stays".*stream changed: .*propagated`) // this model has no learned memory
	assert.Equal(t, []string{"kept", "changed", "gone"}, names())

	// A right one is taken by itself.
	write("streams:\n  new: sim://street?seed=900303\n  changed: {source: sim://street?seed=900301, fps: 1, memory: recent}\n  kept: sim://street?seed=900300\n")
	m := logged(`"msg":"the configuration was read again","added":\["new"\],"removed":\["gone"\],"restarted":\["changed"\],"kept":1,"watches":(\d)`)
	assert.Equal(t, "0", m[1])
	assert.Equal(t, []string{"new", "changed", "kept"}, names())
	require.NoError(t, gone.SetReadDeadline(time.Now().Add(30*time.Second)))
	for err = nil; err == nil; {
		_, _, err = gone.ReadMessage()
	}
	assert.True(t, websocket.IsCloseError(err, websocket.CloseGoingAway), "%v", err)
	require.NoError(t, kept.WriteJSON(map[string]any{"type": "session.update", "session": map[string]any{"video": false}}))
	require.NoError(t, kept.SetReadDeadline(time.Now().Add(30*time.Second)))
	for {
		var event struct{ Type string }
		require.NoError(t, kept.ReadJSON(&event), "the socket of what was kept goes on")
		if event.Type == "session.updated" {
			break
		}
	}

	// A token that is taken away ceases to work, and a new one begins to.
	_, second, _ := command(t, t.Context(), "token", "new", "second", "--role", "read", "--streams", "kept", "--file", tokens)
	command(t, t.Context(), "token", "rm", "boss", "--file", tokens)
	require.Eventually(t, func() bool { status, _ := get("/api/streams", secret); return status == http.StatusUnauthorized }, 30*time.Second, 100*time.Millisecond)
	status, body := get("/api/streams", strings.TrimSpace(second))
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, body, `"kept"`)
	assert.NotContains(t, body, `"changed"`)
	cancel()
	assert.Zero(t, <-ended, errs.String())
}
