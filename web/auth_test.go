package web

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
)

func token(name, secret string, role Role, streams ...string) Token {
	return Token{Name: name, Hash: sha256.Sum256([]byte(secret)), Role: role, Streams: streams}
}

// dialAs opens a socket with a token, as a browser does.
func dialAs(t *testing.T, base, stream, secret string) *client {
	t.Helper()
	return dial(t, base, stream, protocolName, tokenProtocol+base64.RawURLEncoding.EncodeToString([]byte(secret)))
}

func TestRoles(t *testing.T) {
	tokens := []Token{token("tv", "tv-secret", RoleRead, "yard"), token("phone", "phone-secret", RoleAsk, "yard"),
		token("admin", "admin-secret", RoleAdmin), token("gardener", "gardener-secret", RoleAdmin, "yard"), token("wall", "wall-secret", RoleRead)}
	door, yard := newFake("door"), newFake("yard")
	door.show(time.Second)
	yard.show(time.Second)
	base, _ := serve(t, Config{Tokens: func() []Token { return tokens }, FailureDelay: -1}, door, yard)
	ask := func(stream string) string {
		return `{"model":"afterimage","messages":[{"role":"user","content":[{"type":"video_url","video_url":{"url":"stream://` + stream + `"}},{"type":"text","text":"What?"}]}]}`
	}
	// An answer about the door leaves thumbnails that only those may see who may see the door.
	resp, b := post(t, base+"/v1/chat/completions", ask("door"), "Authorization", "Bearer admin-secret")
	require.Equal(t, 200, resp.StatusCode, string(b))
	var o object
	require.NoError(t, json.Unmarshal(b, &o))
	thumb, _ := at(o, "x_evidence", 0, "items", 0, "thumb").(string)
	require.NotEmpty(t, thumb)

	for _, c := range []struct {
		method, path, body                       string
		tv, phone, gardener, wall, admin, nobody int
	}{
		{"GET", "/api/version", "", 200, 200, 200, 200, 200, 401},
		{"GET", "/api/streams", "", 200, 200, 200, 200, 200, 401},
		{"GET", "/api/streams/yard", "", 200, 200, 200, 200, 200, 401},
		{"GET", "/api/streams/door", "", 404, 404, 404, 200, 200, 401},
		{"GET", "/api/streams/nope", "", 404, 404, 404, 404, 404, 401},
		{"GET", "/api/streams/yard/frame.jpeg", "", 200, 200, 200, 200, 200, 401},
		{"GET", "/api/streams/door/frame.jpeg", "", 404, 404, 404, 200, 200, 401},
		{"GET", thumb, "", 404, 404, 404, 200, 200, 401},
		{"GET", "/v1/realtime?stream=door", "", 404, 404, 404, 400, 400, 401}, // 400: no upgrade was asked for
		{"GET", "/v1/models", "", 200, 200, 200, 200, 200, 401},
		{"POST", "/v1/chat/completions", ask("yard"), 403, 200, 200, 403, 200, 401},
		{"POST", "/v1/chat/completions", ask("door"), 403, 404, 404, 403, 200, 401},
		{"POST", "/api/streams/yard/forget", "{}", 403, 403, 501, 403, 501, 401}, // 501: fakes cannot forget
		{"POST", "/api/streams/door/forget", "{}", 404, 404, 404, 403, 501, 401},
		{"GET", "/api/sessions", "", 403, 403, 200, 403, 200, 401},
		{"GET", "/livez", "", 200, 200, 200, 200, 200, 200},
		{"GET", "/readyz", "", 200, 200, 200, 200, 200, 200},
	} {
		for secret, want := range map[string]int{"tv-secret": c.tv, "phone-secret": c.phone, "gardener-secret": c.gardener, "wall-secret": c.wall, "admin-secret": c.admin, "guess": c.nobody} {
			r, err := http.NewRequest(c.method, base+c.path, strings.NewReader(c.body))
			require.NoError(t, err)
			r.Header.Set("Authorization", "Bearer "+secret)
			r.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(r)
			require.NoError(t, err)
			resp.Body.Close()
			assert.Equal(t, want, resp.StatusCode, "%s %s as %s", c.method, c.path, secret)
		}
	}
	for secret, names := range map[string][]any{"tv-secret": {"yard"}, "wall-secret": {"door", "yard"}} {
		_, _, b := get(t, base+"/api/streams", "Authorization", "Bearer "+secret)
		require.NoError(t, json.Unmarshal(b, &o))
		var got []any
		for _, st := range o["streams"].([]any) {
			got = append(got, at(st, "stream"))
		}
		assert.Equal(t, names, got, secret)
	}
}

// Frigate's GHSA-r5fm-h944-8chq: the socket was let in, and then did whatever it was told.
func TestEveryMessageIsAuthorised(t *testing.T) {
	var tokens atomic.Pointer[[]Token]
	set := func(list ...Token) { tokens.Store(&list) }
	set(token("tv", "tv-secret", RoleRead), token("phone", "phone-secret", RoleAsk))
	base, _ := serve(t, Config{Tokens: func() []Token { return *tokens.Load() }, FailureDelay: -1, StatsEvery: 20 * time.Millisecond}, newFake("yard"))
	tv, phone := dialAs(t, base, "yard", "tv-secret"), dialAs(t, base, "yard", "phone-secret")
	tv.until("session.created")
	phone.until("session.created")
	for _, message := range []string{
		`{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[{"type":"input_text","text":"What?"}]}}`,
		`{"type":"response.create","response":{"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"What?"}]}]}}`,
		`{"type":"response.cancel"}`, `{"type":"watch.create"}`, `{"type":"watch.delete"}`,
	} {
		tv.send(message)
		ev := tv.until("error")
		assert.Equal(t, "permission_denied", at(ev, "error", "code"), message)
		assert.Equal(t, "permission_error", at(ev, "error", "type"))
	}
	tv.send(`{"type":"session.update","session":{}}`)
	tv.until("session.updated")
	phone.ask("What?")
	assert.Equal(t, "completed", at(phone.until("response.done"), "response", "status"))

	// A role that is taken away is gone at once, and with the token goes the connection.
	set(token("tv", "tv-secret", RoleRead), token("phone", "phone-secret", RoleRead))
	phone.ask("What?")
	assert.Equal(t, "permission_denied", at(phone.until("error"), "error", "code"))
	set(token("tv", "tv-secret", RoleRead))
	requireClosed(t, phone, websocket.ClosePolicyViolation)
	set() // an emptied list opens nothing
	requireClosed(t, tv, websocket.ClosePolicyViolation)
	status, _, _ := get(t, base+"/api/streams")
	assert.Equal(t, http.StatusUnauthorized, status)
}

func requireClosed(t *testing.T, c *client, code int) {
	t.Helper()
	require.NoError(t, c.ws.SetReadDeadline(time.Now().Add(10*time.Second)))
	for {
		if _, _, err := c.ws.ReadMessage(); err != nil {
			require.True(t, websocket.IsCloseError(err, code), err)
			return
		}
	}
}

func TestWrongTokensWait(t *testing.T) {
	base, _ := serve(t, Config{Token: "right-right-right", FailureDelay: 400 * time.Millisecond}, newFake("yard"))
	begun := time.Now()
	for range 8 {
		status, _, _ := get(t, base+"/api/streams", "Authorization", "Bearer wrong")
		assert.Equal(t, http.StatusUnauthorized, status)
	}
	assert.Greater(t, time.Since(begun), 100*time.Millisecond, "eight random waits of up to 400 ms")
	begun = time.Now()
	status, _, _ := get(t, base+"/api/streams")
	assert.Equal(t, http.StatusUnauthorized, status)
	status, _, _ = get(t, base+"/api/streams", "Authorization", "Bearer right-right-right")
	assert.Equal(t, http.StatusOK, status)
	assert.Less(t, time.Since(begun), 400*time.Millisecond*8, "nobody else waits")
}

func TestRatesAndSocketsAreEachTokensOwn(t *testing.T) {
	tokens := []Token{token("a", "a-secret", RoleAdmin), token("b", "b-secret", RoleAdmin)}
	base, _ := serve(t, Config{Tokens: func() []Token { return tokens }, RequestRate: Rate{0.001, 6}, QuestionRate: Rate{0.001, 2}, MaxSockets: 1}, newFake("yard"))
	const body = `{"model":"afterimage","messages":[{"role":"user","content":"What?"}]}`
	chat := func(secret string) *http.Response {
		resp, _ := post(t, base+"/v1/chat/completions", body, "Authorization", "Bearer "+secret)
		return resp
	}
	assert.Equal(t, 200, chat("a-secret").StatusCode)
	assert.Equal(t, 200, chat("a-secret").StatusCode)
	limited := chat("a-secret")
	assert.Equal(t, http.StatusTooManyRequests, limited.StatusCode)
	assert.NotEmpty(t, limited.Header.Get("Retry-After"))
	assert.Equal(t, 200, chat("b-secret").StatusCode)

	c := dialAs(t, base, "yard", "a-secret") // the fourth request; messages count too
	c.until("session.created")
	_, resp, err := (&websocket.Dialer{}).Dial("ws"+strings.TrimPrefix(base, "http")+"/v1/realtime", http.Header{"Authorization": {"Bearer a-secret"}})
	require.Error(t, err)
	assert.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
	c.send(`{"type":"response.create","response":{"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"What?"}]}]}}`)
	ev := c.until("error")
	assert.Equal(t, "too_many_questions", at(ev, "error", "code"))
	assert.Equal(t, "rate_limit_error", at(ev, "error", "type"))
	c.send(`{"type":"session.update","session":{}}`)
	assert.Equal(t, "too_many_requests", at(c.until("error"), "error", "code"))
}

func TestRoleNames(t *testing.T) {
	for _, r := range []Role{RoleRead, RoleAsk, RoleAdmin} {
		var got Role
		require.NoError(t, got.UnmarshalText([]byte(r.String())))
		assert.Equal(t, r, got)
	}
	for _, bad := range []string{"", "none", "Admin", "root"} {
		assert.Error(t, new(Role).UnmarshalText([]byte(bad)), bad)
	}
	assert.Equal(t, "Role(9)", Role(9).String())
}

func TestSetStreams(t *testing.T) {
	door, yard := newFake("door"), newFake("yard")
	s, err := New(Config{StatsEvery: 20 * time.Millisecond}, []Stream{door, yard})
	require.NoError(t, err)
	base := serving(t, s)
	atDoor, atYard := dial(t, base, "door"), dial(t, base, "yard")
	atDoor.until("session.created")
	atYard.until("session.created")
	require.Error(t, s.SetStreams(nil))
	require.Error(t, s.SetStreams([]Stream{newFake("a/b")}))
	require.Error(t, s.SetStreams([]Stream{door, newFake("door")}))

	// The door goes on with its socket; the yard is another camera now, so its socket is told and closed.
	require.NoError(t, s.SetStreams([]Stream{newFake("yard"), newFake("attic"), door}))
	for {
		if ev := atYard.next(); ev["type"] == "error" {
			assert.Equal(t, "stream_removed", at(ev, "error", "code"))
			break
		}
	}
	requireClosed(t, atYard, websocket.CloseGoingAway)
	atDoor.ask("What?")
	assert.Equal(t, "completed", at(atDoor.until("response.done"), "response", "status"))
	door.set(ingest.Live, "")
	atDoor.until("stream.state")
	_, _, b := get(t, base+"/api/streams")
	var o object
	require.NoError(t, json.Unmarshal(b, &o))
	assert.Equal(t, []any{"yard", "attic", "door"}, []any{at(o, "streams", 0, "stream"), at(o, "streams", 1, "stream"), at(o, "streams", 2, "stream")})
	dial(t, base, "yard").until("session.created")
	status, _, _ := get(t, base+"/api/streams/attic")
	assert.Equal(t, 200, status)

	require.Eventually(t, func() bool { // the closed one goes a moment after its client has seen that
		_, _, b = get(t, base+"/api/sessions")
		o = nil
		require.NoError(t, json.Unmarshal(b, &o))
		sessions, _ := o["sessions"].([]any)
		return len(sessions) == 2
	}, 10*time.Second, 10*time.Millisecond)
	assert.Equal(t, "door", at(o, "sessions", 0, "stream"))
	assert.EqualValues(t, 2, at(o, "sessions", 0, "items"), "a question and its answer")
}
