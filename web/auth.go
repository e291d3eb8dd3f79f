package web

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// protocolName is the WebSocket subprotocol we answer with. A browser cannot set headers on a WebSocket, so it offers its
// token as a second subprotocol, tokenProtocol + base64url(token); a query string would end up in logs and histories.
const (
	protocolName  = "afterimage.v1"
	tokenProtocol = "afterimage.bearer."
)

// CheckListen says whether address may be served with token: anything that other machines can reach needs a token.
// The address is "host:port"; an empty host means every interface.
func CheckListen(address, token string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("web: listen address %q: %w", address, err)
	}
	if token == "" && !loopbackName(host) {
		return fmt.Errorf("web: %s can be reached from other machines and no token is set: set a token, or listen on 127.0.0.1", address)
	}
	return nil
}

func loopbackName(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

// gate checks every request before it reaches a handler: Host first (DNS rebinding), then Origin (another site's page in the
// user's browser), then the token.
type gate struct {
	tokenSum [sha256.Size]byte // compared in constant time, so equal-length digests rather than the token itself
	token    bool
	open     bool // bound to more than loopback: then an IP literal is a legitimate Host
	hosts    []string
	origins  []string
}

func newGate(c Config) gate {
	g := gate{token: c.Token != "", tokenSum: sha256.Sum256([]byte(c.Token)), origins: c.AllowedOrigins}
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
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// tokenAllowed reports whether the request carries the token, if one is needed.
func (g gate) tokenAllowed(r *http.Request) bool {
	if !g.token {
		return true
	}
	for _, got := range presentedTokens(r) {
		sum := sha256.Sum256([]byte(got))
		if subtle.ConstantTimeCompare(sum[:], g.tokenSum[:]) == 1 {
			return true
		}
	}
	return false
}

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

// private wraps the routes that show or ask anything: Origin and token are checked, and no shared cache may keep the answer.
func (g gate) private(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Vary", "Authorization")
		if !g.originAllowed(r) {
			writeError(w, http.StatusForbidden, "origin_not_allowed", "pages of other sites may not use this server")
			return
		}
		if !g.tokenAllowed(r) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="afterimage"`)
			writeError(w, http.StatusUnauthorized, "token_required", "this server needs a token: Authorization: Bearer …")
			return
		}
		next(w, r)
	})
}

// contentPolicy: nothing inline, nothing from elsewhere; blob: is for pictures that came over the socket.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
