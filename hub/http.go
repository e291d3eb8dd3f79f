package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	agent        = "afterimage"
	maxRedirects = 5
	maxPause     = time.Minute
)

// answer is the last response of a chain of redirects, with what the hub itself said on the way there: the host that has the bytes
// is another one, as a rule.
type answer struct {
	*http.Response
	hub    http.Header // of the configured host's responses; later ones win
	direct bool        // the configured host gave the last response
}

// statusError is an answer that is no success. Its text never holds what the server wrote.
type statusError struct {
	code  int
	host  string
	again time.Duration // after which the server wants to be asked again; 0: it did not say
	hint  string
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("%s says %d %s", e.host, e.code, strings.ToLower(http.StatusText(e.code)))
	if e.hint != "" {
		text += ": " + e.hint
	}
	return text
}

// temporary errors may go away by themselves.
type temporary struct{ error }

func (t temporary) Unwrap() error { return t.error }

var (
	errStalled   = errors.New("the connection stalled")
	errDowngrade = errors.New("redirected from https to another scheme, which is refused")
)

// mayHaveToken says whether the token may go there: to the configured host alone, encrypted unless it never leaves this machine.
func (h *Hub) mayHaveToken(u *url.URL) bool {
	if h.token() == "" || !h.sameHost(u) {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

func (h *Hub) sameHost(u *url.URL) bool {
	return strings.EqualFold(u.Host, h.endpoint.Host) && u.Scheme == h.endpoint.Scheme
}

// do makes a request of the hub and follows redirects. HEAD stops before another host: the hub's own headers are what it is for. from
// is the first byte wanted. A status that is no success is a *statusError. Errors never hold a URL: those of other hosts are signed.
func (h *Hub) do(ctx context.Context, method string, n Name, path string, from int64) (*answer, error) {
	u, err := url.Parse(h.endpoint.String() + path)
	if err != nil {
		return nil, errors.New("a URL that cannot be asked for")
	}
	a := &answer{hub: http.Header{}}
	for hop := 0; ; hop++ {
		req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
		if err != nil {
			return nil, errors.New("a URL that cannot be asked for")
		}
		req.Header.Set("User-Agent", agent)
		req.Header.Set("Accept-Encoding", "identity")
		if from > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
		}
		if h.mayHaveToken(u) {
			req.Header.Set("Authorization", "Bearer "+h.token())
		}
		resp, err := h.http.Do(req)
		if err != nil {
			return nil, unreached(u.Host, inner(ctx, err))
		}
		a.Response, a.direct = resp, h.sameHost(u)
		if a.direct {
			for k, v := range resp.Header {
				a.hub[k] = v
			}
		}
		if resp.StatusCode < 300 || resp.StatusCode > 399 || resp.StatusCode == http.StatusNotModified {
			break
		}
		to, err := resp.Location()
		resp.Body.Close()
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: a redirect that leads nowhere", u.Host)
		case to.Scheme != "https" && (to.Scheme != "http" || u.Scheme == "https" || h.endpoint.Scheme == "https"):
			return nil, fmt.Errorf("%s: %w", u.Host, errDowngrade)
		case to.User != nil:
			return nil, fmt.Errorf("%s: a redirect with a password in it is refused", u.Host)
		case hop == maxRedirects:
			return nil, fmt.Errorf("%s: more than %d redirects", u.Host, maxRedirects)
		}
		if method == http.MethodHead && !h.sameHost(to) {
			return a, nil
		}
		u = to
	}
	if code := a.StatusCode; code < 200 || code > 299 {
		a.Body.Close()
		return nil, h.status(n, u.Host, a)
	}
	return a, nil
}

// inner is an error without the URL that net/http puts before it, or why ctx ended, if it did.
func inner(ctx context.Context, err error) error {
	switch {
	case errors.Is(context.Cause(ctx), errStalled):
		return errStalled
	case ctx.Err() != nil:
		return ctx.Err()
	}
	var u *url.Error
	for errors.As(err, &u) {
		err = u.Err
	}
	return err
}

// unreached is why a host gave no answer. A name that does not exist and a certificate that is wrong stay so.
func unreached(host string, err error) error {
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Errorf("there is no host %s: check the network, and HF_ENDPOINT if it is set", host)
	case errors.As(err, &cert):
		return fmt.Errorf("%s: %w", host, err)
	}
	return temporary{fmt.Errorf("%s: %w", host, err)}
}

func (h *Hub) status(n Name, host string, a *answer) error {
	e := &statusError{code: a.StatusCode, host: host}
	if v := a.Header.Get("Retry-After"); v != "" {
		if s, err := strconv.Atoi(v); err == nil && s > 0 {
			e.again = min(time.Duration(min(s, 3600))*time.Second, maxPause)
		}
	}
	page := h.endpoint.String() + "/" + n.Repo
	switch code := a.hub.Get("X-Error-Code"); {
	case !a.direct:
	case code == "GatedRepo":
		e.hint = fmt.Sprintf("%s is gated: accept its terms at %s, then set HF_TOKEN to a token of that account", n.Repo, page)
	case code == "RepoNotFound" && h.token() == "", e.code == http.StatusUnauthorized && h.token() == "":
		e.hint = fmt.Sprintf("there is no %s, or it is private: check the name; for a private one set HF_TOKEN", n.Repo)
	case e.code == http.StatusUnauthorized:
		e.hint = fmt.Sprintf("there is no %s, or HF_TOKEN is not accepted: check the name and the token%s", n.Repo, h.unsent())
	case code == "RevisionNotFound":
		e.hint = fmt.Sprintf("%s has no revision %s", n.Repo, n.Revision)
	case e.code == http.StatusForbidden:
		e.hint = fmt.Sprintf("the account may not read %s: open %s with it%s", n.Repo, page, h.unsent())
	case e.code == http.StatusNotFound:
		e.hint = fmt.Sprintf("there is no %s at revision %s", n.Repo, n.Revision)
	}
	switch e.code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return temporary{e}
	}
	return e
}

func (h *Hub) unsent() string {
	if h.token() != "" && !h.mayHaveToken(h.endpoint) {
		return " (it was not sent: HF_ENDPOINT is not https)"
	}
	return ""
}

// watchdog cancels a context when nothing was heard for a while.
type watchdog struct {
	timer *time.Timer
	after time.Duration
	body  io.Reader
	ctx   context.Context
}

func (h *Hub) watch(ctx context.Context) (*watchdog, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	return &watchdog{timer: time.AfterFunc(h.stall, func() { cancel(errStalled) }), after: h.stall, ctx: ctx}, cancel
}

// Read implements io.Reader on the body of a response. Errors are temporary.
func (w *watchdog) Read(p []byte) (int, error) {
	n, err := w.body.Read(p)
	if n > 0 {
		w.timer.Reset(w.after)
	}
	if err != nil && err != io.EOF {
		err = temporary{inner(w.ctx, err)}
	}
	return n, err
}

// ask returns the body of an answer of the API, tried again where that may help.
func (h *Hub) ask(ctx context.Context, n Name, path string) ([]byte, error) {
	if h.Offline {
		return nil, errOffline(n)
	}
	var data []byte
	err := h.again(ctx, func() (bool, error) {
		w, cancel := h.watch(ctx)
		defer cancel(nil)
		a, err := h.do(w.ctx, http.MethodGet, n, path, 0)
		if err != nil {
			return false, err
		}
		defer a.Body.Close()
		w.body = a.Body
		if data, err = io.ReadAll(io.LimitReader(w, maxListing+1)); err == nil && len(data) > maxListing {
			err = fmt.Errorf("%s: an answer longer than %d MiB", h.endpoint.Host, maxListing>>20)
		}
		return false, err
	})
	return data, err
}

func errOffline(n Name) error {
	return fmt.Errorf("%s is not here, and --offline (or HF_HUB_OFFLINE) forbids asking for it: afterimage pull %s, with a network", n, n)
}

// again calls try until it succeeds, fails for good, or has failed too often in a row without getting on.
func (h *Hub) again(ctx context.Context, try func() (gotOn bool, err error)) error {
	for fails := 0; ; {
		gotOn, err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var t temporary
		if !errors.As(err, &t) {
			return err
		}
		if gotOn {
			fails = 0
		}
		if fails++; fails > h.retries {
			return fmt.Errorf("%w (tried %d times)", err, fails)
		}
		pause := min(h.pause<<(fails-1), maxPause)
		pause = pause/2 + rand.N(pause) // so that many who failed together do not come back together
		var s *statusError
		if errors.As(err, &s) && s.again > 0 {
			pause = s.again
		}
		if h.Trouble != nil {
			h.Trouble(err, pause)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
