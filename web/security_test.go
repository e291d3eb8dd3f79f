package web

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/qa"
)

// Each test here is named after a vulnerability of a neighbouring product that must not be ours.

// fill puts names into a route's pattern.
func fill(pattern, name, file string) (method, path string) {
	method, path, _ = strings.Cut(pattern, " ")
	for from, to := range map[string]string{"{name}": name, "{file}": file, "{model}": "afterimage", "{id}": "w1"} {
		path = strings.ReplaceAll(path, from, to)
	}
	return method, path
}

func send(t *testing.T, method, target, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequest(method, target, strings.NewReader(body))
	require.NoError(t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header, string(b)
}

// CVE-2025-63389 (Ollama): the whole management API was open to whoever reached it.
func TestCVE_2025_63389_NothingIsOpenWhereTokensAre(t *testing.T) {
	s, err := New(Config{Token: "a-secret-of-ours", FailureDelay: -1}, []Stream{newRemembering("yard", 3)})
	require.NoError(t, err)
	base := serving(t, s)
	open := []string{"GET /livez", "GET /readyz", "GET /openapi.json", "GET /schema.json"}
	for _, r := range s.api() {
		method, path := fill(r.pattern, "yard", "x")
		for _, auth := range []string{"", "Bearer wrong", "Bearer", "Basic YTpi"} {
			status, h, body := send(t, method, base+path, "", "Authorization", auth)
			if slices.Contains(open, r.pattern) {
				assert.NotEqual(t, http.StatusUnauthorized, status, r.pattern)
				continue
			}
			assert.Equal(t, http.StatusUnauthorized, status, "%s with %q", r.pattern, auth)
			assert.NotEmpty(t, h.Get("WWW-Authenticate"))
			assert.NotContains(t, body, "yard")
		}
	}
	// What is open tells nothing of what is watched.
	for _, path := range []string{"/livez", "/readyz", "/readyz?stream=yard", "/openapi.json", "/schema.json", "/"} {
		_, _, body := send(t, "GET", base+path, "")
		assert.NotContains(t, body, `"yard"`, path)
	}
	_, _, there := send(t, "GET", base+"/readyz?stream=yard", "")
	_, _, notThere := send(t, "GET", base+"/readyz?stream=nope", "")
	assert.Equal(t, notThere, there, "whether there is such a stream is not everybody's to know")
}

// CVE-2024-28224 (Ollama): a page whose name was pointed at 127.0.0.1 could use the API.
func TestCVE_2024_28224_DNSRebinding(t *testing.T) {
	s, err := New(Config{}, []Stream{newFake("yard")})
	require.NoError(t, err)
	base := serving(t, s)
	for _, r := range s.api() {
		method, path := fill(r.pattern, "yard", "x")
		for _, host := range []string{"rebound.example", "rebound.example:8765", "192.0.2.7", "127.0.0.1.rebound.example", ""} {
			if host == "" {
				continue // net/http fills an empty one in
			}
			status, _, _ := send(t, method, base+path, "", "Host", host)
			assert.Equal(t, http.StatusForbidden, status, "%s as %s", r.pattern, host)
		}
	}
}

// CVE-2024-29193 (go2rtc) and CVE-2023-45670 (Frigate): another site's page could post a configuration, which could run programs.
func TestCVE_2024_29193_CVE_2023_45670_CrossSiteRequests(t *testing.T) {
	s, err := New(Config{}, []Stream{forgettingFake{newRemembering("yard", 3)}})
	require.NoError(t, err)
	base := serving(t, s)
	for _, r := range s.api() {
		method, path := fill(r.pattern, "yard", "x")
		if method == http.MethodGet {
			continue
		}
		for _, headers := range [][]string{{"Origin", "http://evil.example"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}} {
			status, h, _ := send(t, method, base+path, `{}`, headers...)
			assert.Equal(t, http.StatusForbidden, status, "%s %v", r.pattern, headers)
			assert.Empty(t, h.Get("Access-Control-Allow-Origin"))
		}
		for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain; application/json"} {
			status, _, _ := send(t, method, base+path, `{}`, "Content-Type", kind)
			assert.Equal(t, http.StatusUnsupportedMediaType, status, "%s as %s", r.pattern, kind)
		}
		// What a browser asks first is not answered either.
		status, h, _ := send(t, http.MethodOptions, base+path, "", "Origin", "http://evil.example", "Access-Control-Request-Method", method)
		assert.GreaterOrEqual(t, status, 400, r.pattern)
		assert.Empty(t, h.Get("Access-Control-Allow-Origin"))
	}
}

// CVE-2024-29191 and 29192 (go2rtc): a stream's name became a part of the page.
func TestCVE_2024_29191_MarkupInNames(t *testing.T) {
	const markup = `<img src=x onerror=alert(1)>`
	_, err := New(Config{}, []Stream{newFake(markup)})
	require.Error(t, err)
	base, _ := serve(t, Config{}, newFake("yard"))
	for _, path := range []string{"/api/streams/" + url.PathEscape(markup), "/v1/realtime?stream=" + url.QueryEscape(markup), "/v1/models/" + url.PathEscape(markup),
		"/readyz?stream=" + url.QueryEscape(markup), "/api/evidence/" + url.PathEscape(markup), "/" + url.PathEscape(markup), "/static/" + url.PathEscape(markup)} {
		_, h, body := send(t, "GET", base+path, "")
		assert.NotContains(t, body, "<img", path)
		assert.Contains(t, h.Get("Content-Type"), "application/json", path)
		assert.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
		csp := h.Get("Content-Security-Policy")
		assert.Contains(t, csp, "default-src 'none'")
		assert.NotContains(t, csp, "unsafe")
	}
}

// CVE-2026-25643, GHSA-r57j-5jm9-hpcc and GHSA-wwww-5h25-jf98 (Frigate): a stream's address could run programs, by the API too. Here no request
// can name a source, and CVE-2026-22778 and 5497 (vLLM), which came in by a video's address, find no decoder.
func TestCVE_2026_25643_CVE_2026_22778_NoRequestNamesASource(t *testing.T) {
	fetched := make(chan struct{}, 1)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	elsewhere := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fetched <- struct{}{} })}
	var served sync.WaitGroup
	served.Go(func() { _ = elsewhere.Serve(ln) })
	defer served.Wait()
	defer elsewhere.Close()
	base, _ := serve(t, Config{}, newFake("yard"))
	there := "http://" + ln.Addr().String() + "/a.mp4"
	for _, address := range []string{there, "HTTP://" + ln.Addr().String(), "//" + ln.Addr().String(), "exec:touch /x", "ffmpeg:exec:x", "echo:rtsp://x", "expr:x", "rtsp://" + ln.Addr().String() + "/live",
		"file:///etc/passwd", "pipe:0", "concat:a|b", "data:video/mp4;base64,AAAA", "subfile,,start,0,end,0,,:/etc/passwd", "stream://yard#" + there, "stream://yard?src=" + there,
		"stream://" + ln.Addr().String(), " stream://yard", "stream:yard", "stream:///yard", "\nstream://yard"} {
		quoted, err := json.Marshal(address)
		require.NoError(t, err)
		for _, part := range []string{`{"type":"video_url","video_url":{"url":` + string(quoted) + `}}`, `{"type":"image_url","image_url":{"url":` + string(quoted) + `}}`,
			`{"type":"input_audio","input_audio":{"data":` + string(quoted) + `}}`, `{"type":"file","file":{"file_data":` + string(quoted) + `}}`} {
			status, _, body := send(t, "POST", base+"/v1/chat/completions", `{"model":"afterimage","messages":[{"role":"user","content":[`+part+`,{"type":"text","text":"What?"}]}]}`)
			assert.Contains(t, []int{400, 404}, status, "%s: %s", part, body)
		}
	}
	select {
	case <-fetched:
		t.Fatal("an address that a request named was fetched")
	default:
	}
}

// CVE-2026-33470, GHSA-hh3j-7g2f-43j2 and GHSA-74x4-gw64-2mq5 (Frigate): pictures, the socket and files were given to who may not see the camera.
func TestCVE_2026_33470_EveryWayToACameraIsChecked(t *testing.T) {
	door := newRemembering("door", 3)
	door.show(time.Second)
	tokens := []Token{token("yard", "yard-secret", RoleAdmin, "yard"), token("all", "all-secret", RoleAdmin)}
	s, err := New(Config{Tokens: func() []Token { return tokens }, FailureDelay: -1}, []Stream{door, newRemembering("yard", 3)})
	require.NoError(t, err)
	base := serving(t, s)
	all := []string{"Authorization", "Bearer all-secret"}
	_, _, body := send(t, "GET", base+"/api/streams/door/memory", "", all...)
	var memory object
	require.NoError(t, json.Unmarshal([]byte(body), &memory))
	thumb, _ := at(memory, "levels", 0, "entries", 0, "thumb").(string)
	_, _, body = send(t, "POST", base+"/api/streams/door/memory/snapshots", "", all...)
	var kept struct{ File string }
	require.NoError(t, json.Unmarshal([]byte(body), &kept))
	ways := []string{"GET " + thumb, "GET " + kept.File, "DELETE " + strings.TrimSuffix(kept.File, ".safetensors"), "GET /v1/realtime?stream=door", "GET /v1/models/stream:%2F%2Fdoor"}
	for _, r := range s.api() {
		if strings.Contains(r.pattern, "{name}") {
			method, path := fill(r.pattern, "door", "1")
			ways = append(ways, method+" "+path)
		}
	}
	for _, way := range ways {
		method, path, _ := strings.Cut(way, " ")
		for _, probe := range []string{path, strings.ReplaceAll(path, "door", "%64oor")} {
			status, _, body := send(t, method, base+probe, "", "Authorization", "Bearer yard-secret")
			assert.Equal(t, http.StatusNotFound, status, "%s: %s", way, body)
		}
	}
	status, _, _ := send(t, "GET", base+thumb, "", all...)
	assert.Equal(t, http.StatusOK, status)
	for _, path := range []string{"/api/streams", "/v1/models", "/api/sessions"} {
		_, _, body := send(t, "GET", base+path, "", "Authorization", "Bearer yard-secret")
		assert.NotContains(t, body, "door", path)
	}
}

// CVE-2024-37032 (Ollama) and MediaMTX's pull request 5602: names that climb out of a folder.
func TestCVE_2024_37032_NamesThatClimb(t *testing.T) {
	s, err := New(Config{}, []Stream{newRemembering("yard", 3)})
	require.NoError(t, err)
	base := serving(t, s)
	for _, name := range []string{"..", ".", "../yard", "..%2f..%2fetc%2fpasswd", "%2e%2e", "yard%2f..%2fyard", "yard%00", "C:%5Cx", "%252e%252e", strings.Repeat("a", 65)} {
		for _, pattern := range []string{"GET /api/streams/{name}", "GET /api/streams/{name}/frame.jpeg", "GET /api/streams/{name}/memory", "GET /api/evidence/{file}", "GET /static/{file}",
			"GET /api/streams/yard/memory/snapshots/{file}", "DELETE /api/streams/yard/memory/snapshots/{file}"} {
			method, path := fill(pattern, name, name)
			status, _, body := send(t, method, base+path, "")
			if u, err := url.Parse(path); err == nil && u.Path != "" && (name == ".." || name == "." || name == "%2e%2e" || name == "../yard") {
				assert.NotContains(t, body, "root:", path) // the client or the mux has made another path of it
				continue
			}
			assert.Equal(t, http.StatusNotFound, status, "%s: %s", path, body)
		}
	}
}

// GHSA-4vfc-hxpj-f7x7 and GHSA-c4qf-xxq4-vf55: secrets in shared caches and in logs that others read.
func TestGHSA_4vfc_hxpj_f7x7_NoSharedCacheAndNoLogs(t *testing.T) {
	var log lockedLog
	s, err := New(Config{Token: "a-secret-of-ours", FailureDelay: -1, Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, []Stream{newRemembering("yard", 3)})
	require.NoError(t, err)
	base := serving(t, s)
	for _, r := range s.api() {
		method, path := fill(r.pattern, "yard", "x")
		assert.NotContains(t, path, "log", "no route gives logs")
		_, h, body := send(t, method, base+path, "", "Authorization", "Bearer a-secret-of-ours")
		assert.NotContains(t, body, "a-secret-of-ours", r.pattern)
		if r.need > 0 {
			assert.Contains(t, []string{"no-store", "private, max-age=3600, immutable"}, h.Get("Cache-Control"), r.pattern)
			assert.Equal(t, "Authorization", h.Get("Vary"), r.pattern)
		}
		send(t, method, base+path+"?token=a-secret-of-ours", "")
	}
	dialAs(t, base, "yard", "a-secret-of-ours").until("session.created")
	assert.NotContains(t, log.String(), "a-secret-of-ours")
}

type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Sizes: headers, bodies and messages that are too large end the request, not the server.
func TestSizesAreBounded(t *testing.T) {
	standing, err := qa.NewStanding(qa.StandingOptions{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, standing.Close()) }()
	s, err := New(Config{Watches: standing}, []Stream{forgettingFake{newRemembering("yard", 3)}})
	require.NoError(t, err)
	base := serving(t, s)
	big := `{"x":"` + strings.Repeat("x", 1<<20) + `"}`
	for _, r := range s.api() {
		if method, path := fill(r.pattern, "yard", "x"); method == http.MethodPost && !strings.HasSuffix(path, "/snapshots") {
			status, _, _ := send(t, method, base+path, big)
			assert.Contains(t, []int{400, 404, 413}, status, r.pattern)
		}
	}
	status, _, _ := send(t, "GET", base+"/api/streams", "", "X-Large", strings.Repeat("x", 64<<10))
	assert.Equal(t, http.StatusRequestHeaderFieldsTooLarge, status)
	status, _, _ = send(t, "GET", base+"/api/streams", "")
	assert.Equal(t, http.StatusOK, status)
}
