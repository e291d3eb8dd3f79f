// Package webhook delivers events to URLs that users name: signed, retried, bounded, and to nowhere that a request should not lead. There are
// only two types: a Message is what is delivered, a Sender delivers.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options say how a Sender delivers. The zero value is safe and signs nothing.
type Options struct {
	// Secret signs deliveries as the Standard Webhooks specification has it, see Sign: any text, or "whsec_" and base64. "": they are not signed.
	Secret string
	// AllowHTTP lets http URLs lead beyond this machine; then anyone on the way can read and change what is sent.
	AllowHTTP bool

	Tries   int           // deliveries of one message; 6
	First   time.Duration // before the second try, about; doubled before each further one; 2 s
	Longest time.Duration // between two tries; 5 min
	Timeout time.Duration // of one try; 10 s
	Queue   int           // messages that wait, retries included; 256. More are refused
	Workers int           // deliveries at once; 4

	Log       *slog.Logger     // nil logs nothing
	Now       func() time.Time // nil is time.Now
	UserAgent string
}

// Message is what is delivered. ID is the same at every try, so that a receiver can leave out what it has.
type Message struct {
	ID   string
	URL  string
	Body []byte                     // JSON
	Done func(tries int, err error) // called once, from a goroutine of the Sender: nil when it was taken. May be nil
}

// ErrFull, ErrRefused and ErrClosed say why nothing was, or will be, delivered.
var (
	ErrFull    = errors.New("too many webhooks are waiting to be delivered")
	ErrRefused = errors.New("this address is not allowed for a webhook")
	ErrClosed  = errors.New("webhooks are delivered no more")
)

// Sender delivers messages in the background until it is closed.
type Sender struct {
	o      Options
	secret []byte
	client *http.Client
	ctx    context.Context
	stop   context.CancelFunc
	work   chan *delivery
	all    sync.WaitGroup // workers and waits

	mu      sync.Mutex
	waiting int
	closed  bool
}

// delivery is a message on its way.
type delivery struct {
	Message
	tries int
}

// New returns a Sender; its maker closes it.
func New(o Options) (*Sender, error) {
	def := func(v *int, to int) {
		if *v <= 0 {
			*v = to
		}
	}
	def(&o.Tries, 6)
	def(&o.Queue, 256)
	def(&o.Workers, 4)
	wait := func(v *time.Duration, to time.Duration) {
		if *v <= 0 {
			*v = to
		}
	}
	wait(&o.First, 2*time.Second)
	wait(&o.Longest, 5*time.Minute)
	wait(&o.Timeout, 10*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sender{o: o, work: make(chan *delivery, o.Queue)}
	var err error
	if s.secret, err = key(o.Secret); err != nil {
		return nil, err
	}
	s.client = &http.Client{
		Timeout: o.Timeout,
		// A redirect would lead where nobody has looked.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:         s.dial,
			Proxy:               nil, // it would choose the address instead of dial
			TLSHandshakeTimeout: o.Timeout, ResponseHeaderTimeout: o.Timeout, MaxResponseHeaderBytes: 16 << 10,
			MaxIdleConns: 8, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	for range o.Workers {
		s.all.Go(s.run)
	}
	return s, nil
}

// key reads a secret.
func key(secret string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(secret, "whsec_")
	if !ok {
		return []byte(secret), nil
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) == 0 {
		return nil, errors.New("webhook: the secret begins with whsec_, but what follows is not base64")
	}
	return raw, nil
}

// Sign is the value of the webhook-signature header of a delivery: "v1," and, in base64, the HMAC-SHA256 of its webhook-id, its webhook-timestamp
// (seconds since 1970) and its body, with dots between.
func Sign(secret []byte, id string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%d.", id, at.Unix())
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Check says whether a URL may be delivered to, as far as can be seen without asking for its address: https, or http on this machine. Its error wraps
// ErrRefused and does not name the URL.
func (s *Sender) Check(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Hostname() == "" {
		return fmt.Errorf("%w: it is not a URL", ErrRefused)
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%w: it is not https", ErrRefused)
	case u.Scheme == "http" && !s.o.AllowHTTP && !localName(u.Hostname()):
		return fmt.Errorf("%w: http is for this machine only", ErrRefused)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		return allowed(ip, true)
	}
	return nil
}

// Send takes a message for delivery. It never waits; its error says why nothing will be delivered, and Done is not called then.
func (s *Sender) Send(m Message) error {
	if err := s.Check(m.URL); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrClosed
	case s.waiting >= s.o.Queue:
		return ErrFull
	}
	s.waiting++
	s.work <- &delivery{Message: m} // has room: waiting counts what is in it
	return nil
}

// Close gives up what is not delivered yet, telling its Done, and waits.
func (s *Sender) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.all.Wait()
	for {
		select {
		case d := <-s.work:
			s.end(d, ErrClosed)
		default:
			s.client.CloseIdleConnections()
			return
		}
	}
}

func (s *Sender) run() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case d := <-s.work:
			s.attempt(d)
		}
	}
}

// attempt tries once, and again later where that may help.
func (s *Sender) attempt(d *delivery) {
	d.tries++
	after, err := s.post(d)
	if err == nil {
		s.end(d, nil)
		return
	}
	if s.ctx.Err() != nil {
		s.end(d, ErrClosed)
		return
	}
	s.o.Log.Debug("webhook", "event", d.ID, "try", d.tries, "err", err)
	if after < 0 || d.tries >= s.o.Tries {
		s.end(d, err)
		return
	}
	// The back-off has full jitter, so that many which failed together do not come back together; what a receiver asks for is kept.
	wait := min(s.o.First<<min(d.tries-1, 20), s.o.Longest)
	wait = max(wait/2+rand.N(wait/2+1), min(after, s.o.Longest))
	s.all.Go(func() {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
			s.work <- d
		case <-s.ctx.Done():
			s.end(d, ErrClosed)
		}
	})
}

func (s *Sender) end(d *delivery, err error) {
	s.mu.Lock()
	s.waiting--
	s.mu.Unlock()
	if d.Done != nil {
		d.Done(d.tries, err)
	}
}

// post delivers once. Where trying again is of no use, after is negative; else it is how long the receiver wants to be left alone. The error never
// names the URL, which may hold a secret.
func (s *Sender) post(d *delivery) (after time.Duration, err error) {
	r, err := http.NewRequestWithContext(s.ctx, http.MethodPost, d.URL, bytes.NewReader(d.Body))
	if err != nil {
		return -1, errors.New("it is not a URL that can be asked")
	}
	now := s.o.Now()
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", s.o.UserAgent)
	r.Header.Set("Webhook-Id", d.ID)
	r.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	if len(s.secret) > 0 {
		r.Header.Set("Webhook-Signature", Sign(s.secret, d.ID, now, d.Body))
	}
	resp, err := s.client.Do(r)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		if errors.Is(err, ErrRefused) {
			return -1, err
		}
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again; what it says does not matter
	switch c := resp.StatusCode; {
	case c >= 200 && c < 300:
		return 0, nil
	case c >= 300 && c < 400:
		return -1, fmt.Errorf("it was answered with a redirect (%d), which is not followed", c)
	case c == http.StatusTooManyRequests || c == http.StatusRequestTimeout || c >= 500:
		return retryAfter(resp.Header.Get("Retry-After"), now), fmt.Errorf("it was answered with %d", c)
	default:
		return -1, fmt.Errorf("it was answered with %d", c)
	}
}

// retryAfter reads the header; 0 where it says nothing.
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n < 1<<20 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(text); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}

// dial connects to an address that was looked at after it was looked up: what a name leads to the next time does not matter.
func (s *Sender) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	local := localName(host)
	d := net.Dialer{Timeout: s.o.Timeout, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return allowed(at.Addr(), local)
	}}
	c, err := d.DialContext(ctx, network, address)
	var op *net.OpError
	if errors.As(err, &op) && errors.Is(err, ErrRefused) {
		return nil, op.Err
	}
	return c, err
}

// localName reports whether a URL's host means this machine by itself.
func localName(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().WithZone("").IsLoopback()
}

// Where cloud machines find their own credentials, beside the link-local 169.254.169.254.
var metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192")}

// translated are networks whose addresses hold another one in their last four bytes (NAT64, SIIT).
var translated = []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("::ffff:0:0:0/96")}

// allowed refuses the addresses that no webhook has a use for. local says that the URL names this machine: a name from elsewhere must not lead to it.
func allowed(ip netip.Addr, local bool) error {
	ip = ip.WithZone("").Unmap()
	for _, p := range translated {
		if p.Contains(ip) {
			b := ip.As16()
			return allowed(netip.AddrFrom4([4]byte(b[12:])), local)
		}
	}
	if b := ip.As16(); ip.Is6() && b[0] == 0x20 && b[1] == 0x02 { // 6to4
		return allowed(netip.AddrFrom4([4]byte(b[2:6])), local)
	}
	bad := ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() || ip.IsInterfaceLocalMulticast() || ip.IsLoopback() && !local
	for _, m := range metadata {
		bad = bad || ip == m
	}
	if bad {
		return fmt.Errorf("%w: %s", ErrRefused, ip)
	}
	return nil
}
