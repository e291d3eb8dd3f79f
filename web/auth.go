package web

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// protocolName is the WebSocket subprotocol we answer with. A browser cannot set headers on a WebSocket, so it offers its
// token as a second subprotocol, tokenProtocol + base64url(token); a query string would end up in logs and histories.
const (
	protocolName  = "afterimage.v1"
	tokenProtocol = "afterimage.bearer."
)

// CheckListen says whether address may be served: anything that other machines can reach needs tokens. The address is "host:port"; an
// empty host means every interface.
func CheckListen(address string, tokens bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("web: listen address %q: %w", address, err)
	}
	if !tokens && !loopbackName(host) {
		return fmt.Errorf("web: %s can be reached from other machines and no token is set: set a token, or listen on 127.0.0.1", address)
	}
	return nil
}

// Role is what a token may do on its streams; each role includes those before it. The zero Role may do nothing.
type Role uint8

// The roles.
const (
	RoleRead  Role = iota + 1 // see: pictures, states, memory, metrics
	RoleAsk                   // and ask
	RoleAdmin                 // and change: forget, standing questions, copies of the memory
)

var roleNames = [...]string{"none", "read", "ask", "admin"}

func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return fmt.Sprintf("Role(%d)", uint8(r))
}

// UnmarshalText reads "read", "ask" or "admin".
func (r *Role) UnmarshalText(text []byte) error {
	i := slices.Index(roleNames[:], string(text))
	if i < 1 {
		return fmt.Errorf("a role is read, ask or admin, not %q", text)
	}
	*r = Role(i)
	return nil
}

// Token is one bearer token, of which only the digest is kept.
type Token struct {
	Name    string            // for people: in logs and lists
	Hash    [sha256.Size]byte // SHA-256 of the token
	Role    Role
	Streams []string // those that it is for; nil: all
}

// covers reports whether t may see a stream; allStreams needs a token for all.
func (t *Token) covers(stream string) bool {
	return t.Streams == nil || stream == "" || slices.Contains(t.Streams, stream)
}

// caller is who sends a request or a message. What it may do is looked up anew each time, so that a token that was taken away stops
// working on open connections too.
type caller struct {
	hash  [sha256.Size]byte
	token bool // one was presented that is known; else whoever can reach this machine's loopback
	name  string
	*budget
}

type callerKey struct{}

// callerOf is who sent r, which passed private.
func callerOf(r *http.Request) *caller {
	c, _ := r.Context().Value(callerKey{}).(*caller)
	return c
}

// allStreams is no stream's name: what concerns all of them.
const allStreams = "*"

// denied is why a request or a message is not carried out.
type denied struct {
	status        int
	code, message string
	retry         time.Duration // when another try may succeed; 0: it says nothing of that
}

func (d *denied) Error() string { return d.message }

var errNoToken = &denied{status: http.StatusUnauthorized, code: "token_required", message: "this server needs a token: Authorization: Bearer …"}

// authorize is the one place that decides whether c may do what needs a role, on a stream ("": on none in particular, allStreams: on all).
// Every request, every message, every picture and clip passes it. A stream that c may not see is as one that does not exist.
func (s *Server) authorize(c *caller, stream string, need Role) error {
	t, guarded := s.holder(c)
	switch {
	case !guarded:
		return nil
	case t == nil:
		return errNoToken
	case t.covers(stream) && t.Role >= need:
		return nil
	case stream != "" && stream != allStreams && (!t.covers(stream) || t.Role < RoleRead):
		return &denied{status: http.StatusNotFound, code: "stream_not_found", message: "there is no such stream"}
	case !t.covers(stream):
		return &denied{status: http.StatusForbidden, code: "permission_denied", message: "this needs a token for all streams"}
	}
	return &denied{status: http.StatusForbidden, code: "permission_denied", message: "this token's role is " + t.Role.String() + "; this needs " + need.String()}
}

// admit decides whether a message of a kind may be acted on.
func (c *session) admit(kind string) error {
	need := RoleRead
	switch {
	case strings.HasPrefix(kind, "watch."):
		need = RoleAdmin
	case strings.HasPrefix(kind, "response."), strings.HasPrefix(kind, "conversation."):
		need = RoleAsk
	}
	if err := c.srv.authorize(c.caller, c.stream.Name(), need); err != nil || c.caller == nil {
		return err
	}
	if err := c.caller.request(); err != nil || kind != "response.create" {
		return err
	}
	return c.caller.question()
}

// holder is the token that c presented, as it is now. guarded is false while none is needed.
func (s *Server) holder(c *caller) (t *Token, guarded bool) {
	tokens, guarded := s.tokens()
	if c == nil || !c.token {
		return nil, guarded
	}
	return lookUp(tokens, c.hash), guarded
}

// lookUp finds a token by its digest, in a time that does not tell how much of one was right.
func lookUp(tokens []Token, hash [sha256.Size]byte) (found *Token) {
	for i := range tokens {
		if subtle.ConstantTimeCompare(tokens[i].Hash[:], hash[:]) == 1 && found == nil {
			found = &tokens[i]
		}
	}
	return found
}

// tokens are those of this moment. guarded: one is needed, as it is from when there was one, and always where other machines reach us:
// a token file that was emptied by mistake must lock the door rather than open it.
func (s *Server) tokens() (list []Token, guarded bool) {
	if s.cfg.Tokens != nil {
		list = slices.Clone(s.cfg.Tokens())
	}
	if s.cfg.Token != "" {
		list = append(list, Token{Name: "admin", Hash: sha256.Sum256([]byte(s.cfg.Token)), Role: RoleAdmin})
	}
	if len(list) > 0 {
		s.guarded.Store(true)
	}
	return list, s.guarded.Load() || s.gate.open
}

// identify finds who sent r. The error says why the request ends here.
func (s *Server) identify(r *http.Request) (*caller, error) {
	tokens, guarded := s.tokens()
	presented := presentedTokens(r)
	for _, p := range presented {
		hash := sha256.Sum256([]byte(p))
		if t := lookUp(tokens, hash); t != nil {
			return &caller{hash: hash, token: true, name: t.Name, budget: s.budgets.of(hash, tokens)}, nil
		}
	}
	if !guarded {
		return &caller{budget: s.budgets.of([sha256.Size]byte{}, nil)}, nil
	}
	if len(presented) > 0 {
		s.delay(r.Context())
	}
	return nil, errNoToken
}

// delay makes guessing slow: a wrong token is answered after a random while. Only so many wait at once, so that guessing costs us nothing.
func (s *Server) delay(ctx context.Context) {
	select {
	case s.failing <- struct{}{}:
		defer func() { <-s.failing }()
	default:
		return
	}
	if s.cfg.FailureDelay <= 0 {
		return
	}
	t := time.NewTimer(rand.N(s.cfg.FailureDelay))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
}

// errorType is the type of an error of an HTTP status, as OpenAI names them.
func errorType(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "authentication_error"
	case status == http.StatusForbidden:
		return "permission_error"
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		return "rate_limit_error"
	case status >= 500:
		return "server_error"
	}
	return "invalid_request_error"
}

// deny answers a request that an authorize, an identify or a budget refused.
func deny(w http.ResponseWriter, err error) {
	var d *denied
	if !errors.As(err, &d) {
		writeError(w, http.StatusInternalServerError, "internal", "this request could not be checked")
		return
	}
	switch {
	case d.status == http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="afterimage"`)
	case d.retry > 0:
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(d.retry.Seconds())))))
	}
	writeError(w, d.status, d.code, d.message)
}

func loopbackName(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

// gate checks where a request comes from before anything else is looked at: Host first (DNS rebinding), then Origin (another site's page
// in the user's browser).
type gate struct {
	open    bool // bound to more than loopback: then an IP literal is a legitimate Host
	tls     bool // the page is https, so its own http twin, which anybody on the way can write, is another site
	hosts   []string
	origins []string
}

func newGate(c Config) gate {
	g := gate{origins: c.AllowedOrigins, tls: c.TLS}
	for _, h := range c.AllowedHosts {
		g.hosts = append(g.hosts, strings.ToLower(h))
	}
	return g
}

// hostAllowed reports whether the Host header names this server. A page of another site that re-pointed its own name at
// this address still sends that name, so only names we know pass; an IP literal cannot be re-pointed.
func (g gate) hostAllowed(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if host == "" {
		return false
	}
	if loopbackName(host) || slices.Contains(g.hosts, host) {
		return true
	}
	_, err := netip.ParseAddr(host)
	return g.open && err == nil
}

// originAllowed reports whether the request may come from where it says it does. Programs send no Origin; a browser's must be
// the page's own host or a listed one.
func (g gate) originAllowed(r *http.Request) bool {
	origin, sent := r.Header["Origin"]
	if !sent {
		return r.Header.Get("Sec-Fetch-Site") != "cross-site" // an <img src> of another site carries no Origin
	}
	if len(origin) != 1 {
		return false
	}
	if slices.Contains(g.origins, origin[0]) {
		return true
	}
	u, err := url.Parse(origin[0])
	return err == nil && (u.Scheme == "https" || u.Scheme == "http" && !g.tls) && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// presentedTokens are those that a request carries: in its Authorization header, or as a WebSocket subprotocol. A query string is no place for one.
func presentedTokens(r *http.Request) []string {
	var tokens []string
	if scheme, value, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		tokens = append(tokens, strings.TrimSpace(value))
	}
	for _, header := range r.Header.Values("Sec-Websocket-Protocol") {
		for p := range strings.SplitSeq(header, ",") {
			if enc, ok := strings.CutPrefix(strings.TrimSpace(p), tokenProtocol); ok {
				if b, err := base64.RawURLEncoding.DecodeString(enc); err == nil {
					tokens = append(tokens, string(b))
				}
			}
		}
	}
	return tokens
}

// guard wraps every route with the Host check and the fixed response headers.
func (g gate) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
		if !g.hostAllowed(r.Host) {
			writeError(w, http.StatusForbidden, "host_not_allowed",
				"this server does not answer to that host name; add it to the allowed hosts if it is meant to")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// private wraps a route that shows or does anything: Origin, token, rate and role are checked, and no shared cache may keep the answer.
// need is the role that it takes, on the stream that the path names if it does; a handler that learns the stream elsewhere calls
// authorize itself.
func (s *Server) private(need Role, next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Vary", "Authorization")
		if !s.gate.originAllowed(r) {
			writeError(w, http.StatusForbidden, "origin_not_allowed", "pages of other sites may not use this server")
			return
		}
		c, err := s.identify(r)
		if err == nil {
			err = c.request()
		}
		if err == nil {
			err = s.authorize(c, r.PathValue("name"), need)
		}
		if err != nil {
			deny(w, err)
			return
		}
		// A form of another site's page can send other types, without asking first.
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); r.ContentLength != 0 && (err != nil || kind != "application/json") {
			writeError(w, http.StatusUnsupportedMediaType, "unsupported_media_type", "the body is JSON: Content-Type: application/json")
			return
		}
		next(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// contentPolicy: nothing inline, nothing from elsewhere; blob: is for pictures and clips that came over the socket or with a token.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
