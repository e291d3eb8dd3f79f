package webhook

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick is a Sender that does not wait long.
func quick(t *testing.T, o Options) *Sender {
	o.First, o.Longest = time.Millisecond, 5*time.Millisecond
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	s, err := New(o)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

type end struct {
	tries int
	err   error
}

// deliver sends and waits for the end.
func deliver(t *testing.T, s *Sender, url string) end {
	t.Helper()
	done := make(chan end, 2)
	require.NoError(t, s.Send(Message{ID: "event_1", URL: url, Body: []byte(`{"a":1}`), Done: func(n int, err error) { done <- end{n, err} }}))
	select {
	case e := <-done:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("it never ended")
		return end{}
	}
}

func TestSigned(t *testing.T) {
	got := make(chan *http.Request, 1)
	body := make(chan []byte, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- r
		body <- b
	}))
	defer srv.Close()
	at := time.Unix(1674087231, 0)
	s := quick(t, Options{Secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", Now: func() time.Time { return at }, UserAgent: "test"})
	require.Equal(t, end{1, nil}, deliver(t, s, srv.URL+"/hook"))
	r := <-got
	assert.Equal(t, http.MethodPost, r.Method)
	assert.Equal(t, "application/json", r.Header.Get("Content-Type"))
	assert.Equal(t, "event_1", r.Header.Get("webhook-id"))
	assert.Equal(t, "1674087231", r.Header.Get("webhook-timestamp"))
	secret, err := key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	require.NoError(t, err)
	raw := <-body
	assert.Equal(t, Sign(secret, "event_1", at, raw), r.Header.Get("webhook-signature"))
	assert.True(t, json.Valid(raw))
	assert.NotEqual(t, Sign(secret, "event_2", at, raw), r.Header.Get("webhook-signature"))

	// The example that the Standard Webhooks specification gives.
	assert.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		Sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`)))
	_, err = New(Options{Secret: "whsec_%%%"})
	require.Error(t, err)
}

func TestRetried(t *testing.T) {
	for name, tt := range map[string]struct {
		codes []int // then 204
		tries int
		err   string
	}{
		"at once":      {nil, 1, ""},
		"later":        {[]int{500, 503, 429, 408}, 5, ""},
		"never":        {[]int{500, 500, 500, 500, 500, 500, 500}, 6, "answered with 500"},
		"not welcome":  {[]int{403}, 1, "answered with 403"},
		"not there":    {[]int{500, 404}, 2, "answered with 404"},
		"gone":         {[]int{410}, 1, "answered with 410"},
		"a redirect":   {[]int{307}, 1, "redirect (307)"},
		"another one":  {[]int{301}, 1, "redirect (301)"},
		"only a proxy": {[]int{304}, 1, "redirect (304)"},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				i := int(n.Add(1)) - 1
				if i < len(tt.codes) {
					w.Header().Set("Location", "/elsewhere")
					w.WriteHeader(tt.codes[i])
					return
				}
				assert.Equal(t, "/hook", r.URL.Path, "a redirect is not followed")
				w.WriteHeader(http.StatusNoContent)
			}))
			defer srv.Close()
			e := deliver(t, quick(t, Options{}), srv.URL+"/hook")
			assert.Equal(t, tt.tries, e.tries)
			assert.EqualValues(t, tt.tries, n.Load())
			if tt.err == "" {
				assert.NoError(t, e.err)
			} else {
				assert.ErrorContains(t, e.err, tt.err)
			}
		})
	}
}

// TestHangs: a receiver that takes connections and says nothing, one that never ends its answer, and one that is not there.
func TestHangs(t *testing.T) {
	leave := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/endless" {
			for {
				if _, err := w.Write([]byte(strings.Repeat("x", 1<<10))); err != nil {
					return
				}
			}
		}
		<-leave
	}))
	defer srv.Close()
	defer close(leave)
	s := quick(t, Options{Timeout: 50 * time.Millisecond, Tries: 2})
	e := deliver(t, s, srv.URL)
	assert.Equal(t, 2, e.tries)
	require.Error(t, e.err)
	assert.Equal(t, end{1, nil}, deliver(t, s, srv.URL+"/endless"), "what it says does not matter")

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	e = deliver(t, s, "http://"+ln.Addr().String()+"/canary?key=canary")
	assert.Equal(t, 2, e.tries)
	require.Error(t, e.err)
	assert.NotContains(t, e.err.Error(), "canary")
}

func TestBoundedAndClosed(t *testing.T) {
	leave := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-leave:
		case <-r.Context().Done():
		}
	}))
	defer srv.Close()
	s := quick(t, Options{Queue: 5, Workers: 2})
	var ended sync.WaitGroup
	var failed atomic.Int64
	m := Message{ID: "e", URL: srv.URL, Done: func(_ int, err error) {
		if err != nil {
			failed.Add(1)
		}
		ended.Done()
	}}
	for range 5 {
		ended.Add(1)
		require.NoError(t, s.Send(m))
	}
	require.ErrorIs(t, s.Send(m), ErrFull)
	s.Close()
	ended.Wait()
	require.EqualValues(t, 5, failed.Load())
	require.ErrorIs(t, s.Send(m), ErrClosed)
	close(leave)
}

func TestAllowed(t *testing.T) {
	for text, want := range map[string]bool{
		"93.184.216.34": true, "192.168.1.20": true, "10.0.0.1": true, "2606:4700::1111": true, "fd12::1": true,
		"169.254.169.254": false, "169.254.1.1": false, "fe80::1": false, "fd00:ec2::254": false, "100.100.100.200": false, "192.0.0.192": false,
		"0.0.0.0": false, "::": false, "224.0.0.1": false, "ff02::1": false,
		"127.0.0.1": false, "::1": false, "127.9.9.9": false,
		"::ffff:169.254.169.254": false, "::ffff:127.0.0.1": false, "64:ff9b::a9fe:a9fe": false, "2002:a9fe:a9fe::": false, "64:ff9b::5db8:d822": true,
	} {
		err := allowed(netip.MustParseAddr(text), false)
		assert.Equal(t, want, err == nil, text)
		if err != nil {
			assert.ErrorIs(t, err, ErrRefused)
		}
	}
	assert.NoError(t, allowed(netip.MustParseAddr("127.0.0.1"), true))
	assert.Error(t, allowed(netip.MustParseAddr("169.254.169.254"), true))
}

func TestCheck(t *testing.T) {
	s := quick(t, Options{})
	for url, want := range map[string]bool{
		"https://example.org/hook": true, "http://127.0.0.1:9/hook": true, "http://localhost/hook": true, "http://[::1]/": true, "https://192.168.1.5/": true,
		"http://example.org/hook": false, "http://192.168.1.5/": false, "ftp://example.org": false, "file:///etc/passwd": false, "https://": false, "": false,
		"https://169.254.169.254/latest/meta-data": false, "https://[fe80::1%25eth0]/": false, "http://127.0.0.1.example.org/": false, "https://\x7f": false,
	} {
		assert.Equal(t, want, s.Check(url) == nil, url)
		if !want {
			assert.ErrorIs(t, s.Send(Message{URL: url}), ErrRefused)
		}
	}
	assert.NoError(t, quick(t, Options{AllowHTTP: true}).Check("http://example.org/hook"))
}

// TestRebinding: a name that leads to this machine, though the URL does not say so, is refused when it is dialled, and not tried again.
func TestRebinding(t *testing.T) {
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer srv.Close()
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	require.NoError(t, err)
	s := quick(t, Options{AllowHTTP: true})
	// 127.1 is a name to net/url and netip, and an address to the system's resolver: what a name that was pointed elsewhere looks like.
	c, err := s.dial(t.Context(), "tcp", net.JoinHostPort("127.1", port))
	if err == nil {
		c.Close()
	}
	require.Error(t, err)
	require.Zero(t, asked.Load())
	// A name that the resolver leads to loopback.
	for _, name := range []string{"ip6-localhost", "localhost.localdomain"} {
		if ips, err := net.LookupHost(name); err != nil || len(ips) == 0 {
			continue
		}
		e := deliver(t, s, "http://"+net.JoinHostPort(name, port)+"/")
		assert.ErrorIs(t, e.err, ErrRefused, name)
		assert.Equal(t, 1, e.tries)
	}
	require.Zero(t, asked.Load())
}

func FuzzCheck(f *testing.F) {
	s, err := New(Options{})
	require.NoError(f, err)
	defer s.Close()
	for _, u := range []string{"https://example.org/", "http://localhost", "https://[::ffff:169.254.169.254]/", "https://u:p@h:1/?q#f"} {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if err := s.Check(raw); err != nil {
			assert.ErrorIs(t, err, ErrRefused)
			if raw != "" && len(raw) > 12 {
				assert.NotContains(t, err.Error(), raw)
			}
		}
	})
}
