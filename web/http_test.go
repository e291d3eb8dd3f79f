package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image/jpeg"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
)

// get sends one request with headers ("Host" sets the host) and returns status, headers and body.
func get(t *testing.T, url string, headers ...string) (int, http.Header, []byte) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header, b
}

func TestListenAddress(t *testing.T) {
	for address, ok := range map[string]bool{
		"127.0.0.1:8765": true, "localhost:1": true, "[::1]:8765": true, "127.9.9.9:1": true, "[::ffff:127.0.0.1]:1": true,
		"0.0.0.0:8765": false, ":8765": false, "[::]:8765": false, "192.0.2.1:80": false, "example.org:80": false, "127.0.0.1": false, "": false,
	} {
		assert.Equal(t, ok, CheckListen(address, false) == nil, address)
	}
	assert.NoError(t, CheckListen("0.0.0.0:8765", true))
	err := CheckListen("0.0.0.0:8765", false)
	assert.ErrorContains(t, err, "no token is set")
}

func TestAnOpenListenerWithoutTokenIsRefused(t *testing.T) {
	s, err := New(Config{}, []Stream{newFake("street")})
	require.NoError(t, err)
	ln, err := net.Listen("tcp4", "0.0.0.0:0")
	require.NoError(t, err)
	assert.ErrorContains(t, s.Serve(context.Background(), ln), "no token is set")
	_, err = ln.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)
}

// A browser keeps connections ready on which it asks nothing: stopping cuts them, and that is no error.
func TestStopDoesNotWaitForIdleConnections(t *testing.T) {
	base, stop := serve(t, Config{}, newFake("street"))
	var idle [2]net.Conn
	for i, said := range []string{"", "GET / HT"} {
		var err error
		idle[i], err = net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		require.NoError(t, err)
		defer idle[i].Close()
		_, err = io.WriteString(idle[i], said)
		require.NoError(t, err)
	}
	code, _, _ := get(t, base+"/livez") // the server has accepted what came before
	require.Equal(t, http.StatusOK, code)
	begun := time.Now()
	stop() // which wants no error
	assert.Less(t, time.Since(begun), 4*time.Second, "the grace is a second, and net/http would wait for five")
	for _, c := range idle {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
		_, err := io.ReadAll(c)
		assert.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, streams := range map[string][]Stream{
		"none": nil, "slash": {newFake("a/b")}, "markup": {newFake("<img>")}, "empty": {newFake("")},
		"long": {newFake(strings.Repeat("a", 65))}, "twice": {newFake("a"), newFake("a")}, "dots": {newFake("..")},
	} {
		_, err := New(Config{}, streams)
		assert.Error(t, err, name)
	}
}

func TestHost(t *testing.T) {
	base, _ := serve(t, Config{AllowedHosts: []string{"Cam.Example"}}, newFake("street"))
	port := base[strings.LastIndex(base, ":"):]
	for host, status := range map[string]int{
		"127.0.0.1" + port: 200, "localhost" + port: 200, "LOCALHOST": 200, "[::1]" + port: 200, "cam.example": 200, "cam.example:99": 200,
		"evil.example": 403, "evil.example" + port: 403, "192.0.2.1": 403, "127.0.0.1.evil.example": 403, "localhost.evil.example": 403,
	} {
		for _, path := range []string{"/", "/livez", "/api/streams", "/static/app.js"} {
			got, _, _ := get(t, base+path, "Host", host)
			assert.Equal(t, status, got, "%s %s", host, path)
		}
	}
}

func TestAnOpenListenerAnswersToAddressesButNotToNames(t *testing.T) {
	ln, err := net.Listen("tcp4", "0.0.0.0:0")
	require.NoError(t, err)
	base, _ := serveOn(t, ln, Config{Token: "secret"}, newFake("street"))
	base = strings.Replace(base, "0.0.0.0", "127.0.0.1", 1)
	for host, status := range map[string]int{"192.0.2.1:8765": 200, "[2001:db8::1]": 200, "evil.example": 403} {
		got, _, _ := get(t, base+"/api/streams", "Host", host, "Authorization", "Bearer secret")
		assert.Equal(t, status, got, host)
	}
}

func TestOrigin(t *testing.T) {
	base, _ := serve(t, Config{AllowedOrigins: []string{"https://panel.example"}}, newFake("street"))
	wsURL := "ws" + strings.TrimPrefix(base, "http") + "/v1/realtime?stream=street"
	for origin, ok := range map[string]bool{
		base: true, "https://panel.example": true,
		"http://evil.example": false, "null": false, "": false, "file://": false, "http://127.0.0.1": false, base + ".evil.example": false, "https://panel.example.evil": false,
	} {
		status, h, _ := get(t, base+"/api/streams", "Origin", origin)
		assert.Equal(t, ok, status == 200, origin)
		assert.Empty(t, h.Get("Access-Control-Allow-Origin"))
		ws, resp, err := websocket.DefaultDialer.Dial(wsURL, http.Header{"Origin": {origin}})
		if ok {
			require.NoError(t, err, origin)
			ws.Close()
			continue
		}
		require.Error(t, err, origin)
		assert.Equal(t, http.StatusForbidden, resp.StatusCode, origin)
	}
	status, _, _ := get(t, base+"/api/streams", "Origin", base, "Origin", "http://evil.example")
	assert.Equal(t, http.StatusForbidden, status, "two origins")
}

func TestOriginWhereTheListenerSpeaksTLS(t *testing.T) {
	for _, tls := range []bool{false, true} {
		g := newGate(Config{TLS: tls})
		for _, scheme := range []string{"http", "https"} { // where it does not, a proxy in front of it may
			r := httptest.NewRequest(http.MethodGet, "/api/streams", nil)
			r.Host = "cam.example"
			r.Header.Set("Origin", scheme+"://cam.example")
			assert.Equal(t, !tls || scheme == "https", g.originAllowed(r), "%s, TLS %v", scheme, tls)
		}
	}
}

func TestAnotherSitesPageCannotEmbedPictures(t *testing.T) {
	base, _ := serve(t, Config{}, newFake("street"))
	for site, status := range map[string]int{"cross-site": 403, "same-origin": 200, "none": 200} {
		got, h, _ := get(t, base+"/api/streams", "Sec-Fetch-Site", site)
		assert.Equal(t, status, got, site)
		assert.Equal(t, "same-origin", h.Get("Cross-Origin-Resource-Policy"))
	}
}

func TestToken(t *testing.T) {
	var log bytes.Buffer
	const secret = "canary-0123456789"
	base, stop := serve(t, Config{Token: secret, FailureDelay: -1, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, newFake("street"))
	private := []string{"/api/version", "/api/streams", "/api/streams/street", "/api/streams/street/frame.jpeg", "/api/evidence/x.jpg", "/v1/realtime?stream=street"}
	for _, path := range private {
		for _, auth := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Basic " + secret, "Bearer " + secret + "x", secret} {
			status, h, body := get(t, base+path, "Authorization", auth)
			assert.Equal(t, http.StatusUnauthorized, status, "%s %q", path, auth)
			assert.NotEmpty(t, h.Get("WWW-Authenticate"))
			assert.NotContains(t, string(body), secret)
		}
		status, _, _ := get(t, base+path+"?token="+secret)
		assert.Equal(t, http.StatusUnauthorized, status, "a query string is no place for a token")
		status, h, _ := get(t, base+path, "Authorization", "bearer "+secret)
		assert.NotEqual(t, http.StatusUnauthorized, status, path)
		assert.Equal(t, "no-store", h.Get("Cache-Control"), path)
	}
	for _, path := range []string{"/", "/livez", "/readyz", "/static/style.css"} {
		status, _, _ := get(t, base+path)
		assert.Equal(t, 200, status, path)
	}
	c := dial(t, base, "street", protocolName, tokenProtocol+base64.RawURLEncoding.EncodeToString([]byte(secret)))
	assert.Equal(t, protocolName, c.ws.Subprotocol(), "the token is not sent back")
	c.until("session.created")
	_, resp, err := (&websocket.Dialer{Subprotocols: []string{protocolName, tokenProtocol + "d3Jvbmc"}}).Dial("ws"+strings.TrimPrefix(base, "http")+"/v1/realtime", nil)
	require.Error(t, err)
	assert.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	stop()
	assert.NotContains(t, log.String(), secret)
	assert.NotContains(t, log.String(), base64.RawURLEncoding.EncodeToString([]byte(secret)))
}

func TestResources(t *testing.T) {
	f := newFake("street")
	notReady := []string{"the model is loading"}
	base, _ := serve(t, Config{Version: Version{Version: "0.1.0", Model: "default"}, Ready: func() []string { return notReady }}, f)
	body := func(path string, status int) object {
		got, _, b := get(t, base+path)
		require.Equal(t, status, got, "%s: %s", path, b)
		var o object
		require.NoError(t, json.Unmarshal(b, &o), path)
		return o
	}
	assert.Equal(t, "alive", body("/livez", 200)["status"])
	assert.Equal(t, "the model is loading", at(body("/readyz", 503), "reasons", 0))
	assert.Equal(t, "0.1.0", body("/api/version", 200)["version"])
	assert.Equal(t, "connecting", at(body("/api/streams", 200), "streams", 0, "state"))
	assert.Equal(t, "no_picture", at(body("/api/streams/street/frame.jpeg", 404), "error", "code"))
	assert.Equal(t, "stream_not_found", at(body("/api/streams/nope", 404), "error", "code"))
	assert.Equal(t, "stream_not_found", at(body("/api/streams/nope/frame.jpeg", 404), "error", "code"))
	assert.Equal(t, "stream_not_found", at(body("/v1/realtime?stream=nope", 404), "error", "code"))
	assert.Equal(t, "evidence_not_found", at(body("/api/evidence/..%2fx.jpg", 404), "error", "code"))
	assert.Equal(t, "not_found", at(body("/nothing", 404), "error", "code"))
	assert.Equal(t, "not_found", at(body("/static/nothing.js", 404), "error", "code"))
	assert.Equal(t, "bad_handshake", at(body("/v1/realtime?stream=street", 400), "error", "code"))

	f.show(7 * time.Second)
	f.set(ingest.Live, "")
	one := body("/api/streams/street", 200)
	assert.Equal(t, "live", one["state"])
	assert.EqualValues(t, 64, at(one, "memory", "entries"))
	status, h, b := get(t, base+"/api/streams/street/frame.jpeg")
	assert.Equal(t, 200, status)
	assert.Equal(t, "image/jpeg", h.Get("Content-Type"))
	img, err := jpeg.Decode(bytes.NewReader(b))
	require.NoError(t, err)
	assert.Equal(t, 640, img.Bounds().Dx())

	notReady = nil
	assert.Equal(t, true, body("/readyz?stream=street", 200)["ready"])
	f.set(ingest.Offline, "")
	body("/readyz?stream=street", 503)
	body("/readyz?stream=nope", 503)
	body("/readyz", 200) // a dead camera does not make the server unready
	body("/livez", 200)
}

// vendoredFiles are the page's files that others wrote, with their sums; scripts/vendor-page.sh fetches them.
func vendoredFiles(t *testing.T) map[string]string {
	t.Helper()
	b, err := static.ReadFile("static/vendor.sha256")
	require.NoError(t, err)
	sums := map[string]string{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		require.Len(t, f, 2)
		sums[f[1]] = f[0]
	}
	require.NotEmpty(t, sums)
	return sums
}

func TestPageFiles(t *testing.T) {
	base, _ := serve(t, Config{}, newFake("street"))
	status, h, index := get(t, base+"/")
	require.Equal(t, 200, status)
	csp := h.Get("Content-Security-Policy")
	assert.Contains(t, csp, "script-src 'self';")
	assert.NotContains(t, csp, "unsafe")
	for _, bad := range []string{"<style", " style=", " onclick=", "javascript:"} {
		assert.NotContains(t, string(index), bad)
	}
	status, _, _ = get(t, base+"/", "If-None-Match", h.Get("ETag"))
	assert.Equal(t, http.StatusNotModified, status)
	files, err := static.ReadDir("static")
	require.NoError(t, err)
	vendored := vendoredFiles(t)
	for _, f := range files {
		b, err := static.ReadFile("static/" + f.Name())
		require.NoError(t, err)
		if sum, ok := vendored[f.Name()]; ok || f.Name() == "vendor.sha256" {
			if ok {
				assert.Equal(t, sum, fmt.Sprintf("%x", sha256.Sum256(b)), "%s is not what its makers published", f.Name())
			}
			continue
		}
		for _, bad := range []string{"innerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://"} {
			assert.NotContains(t, string(b), bad, f.Name())
		}
		_, h, served := get(t, base+"/static/"+f.Name())
		assert.Equal(t, b, served)
		assert.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
	}
}

func TestPictureColoursAndSizes(t *testing.T) {
	for _, size := range [][2]int{{640, 360}, {1, 1}, {3, 5}, {1281, 7}, {7, 2600}} {
		w, h := size[0], size[1]
		pix := bytes.Repeat([]byte{200, 40, 30}, w*h)
		img, err := planar(ingest.Frame{W: w, H: h, Pix: pix})
		require.NoError(t, err)
		assert.LessOrEqual(t, max(img.Rect.Dx(), img.Rect.Dy()), liveMaxSide)
		r, g, b, _ := img.At(img.Rect.Dx()-1, img.Rect.Dy()-1).RGBA()
		assert.InDelta(t, 200, r>>8, 3)
		assert.InDelta(t, 40, g>>8, 3)
		assert.InDelta(t, 30, b>>8, 3)
	}
	for _, f := range []ingest.Frame{{}, {W: 2, H: 2, Pix: make([]byte, 11)}, {W: -1, H: 4, Pix: make([]byte, 12)}} {
		_, err := planar(f)
		assert.Error(t, err)
	}
}

func TestThumbsAreBounded(t *testing.T) {
	c := newThumbs(100)
	a := c.put("s", bytes.Repeat([]byte{1}, 40))
	b := c.put("s", bytes.Repeat([]byte{2}, 40))
	assert.Equal(t, a, c.put("s", bytes.Repeat([]byte{1}, 40)), "the same picture, the same id; and it is now the newest")
	assert.NotEqual(t, a, c.put("other", bytes.Repeat([]byte{1}, 40)))
	_, ok := c.get(b)
	assert.False(t, ok, "the least recently used one had to go")
	_, ok = c.get(a)
	assert.True(t, ok)
	assert.Empty(t, c.put("s", nil))
	assert.Empty(t, c.put("s", make([]byte, 101)))
	assert.LessOrEqual(t, c.bytes, 100)
}
