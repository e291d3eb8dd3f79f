package web

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-rod/rod"
	"github.com/go-rod/rod/lib/input"
	"github.com/go-rod/rod/lib/launcher"
	"github.com/go-rod/rod/lib/proto"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/qa"
)

// browser starts the installed Chromium, never a downloaded one.
func browser(t *testing.T) *rod.Browser {
	t.Helper()
	bin, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("chromium is missing: `make test` installs it")
		}
		t.Skip("chromium is not installed, so the page is not tested: apt-get install chromium")
	}
	l := launcher.New().Bin(bin).Leakless(false).UserDataDir(t.TempDir()).Headless(true).NoSandbox(true).
		Set("disable-gpu").Set("disable-quic").Set("no-first-run").Set("disable-background-networking").
		Set("disable-component-update").Set("disable-sync").Set("hide-scrollbars").Set("disable-dev-shm-usage")
	url, err := l.Launch()
	require.NoError(t, err)
	b := rod.New().ControlURL(url)
	require.NoError(t, b.Connect())
	t.Cleanup(func() {
		_ = b.Close() // the process is ended next in any case
		l.Kill()
		l.Cleanup()
	})
	return b
}

// open shows a page of the given size and fails the test when anything is logged as an error there, a broken policy included.
func open(t *testing.T, b *rod.Browser, url string, w, h int, scheme string) *rod.Page {
	t.Helper()
	p, err := b.Page(proto.TargetCreateTarget{})
	require.NoError(t, err)
	p = p.Timeout(90 * time.Second)
	t.Cleanup(func() { _ = p.Close() }) // it may be closed already
	go p.EachEvent(func(e *proto.RuntimeExceptionThrown) {
		t.Errorf("the page threw: %s %s", e.ExceptionDetails.Text, e.ExceptionDetails.Exception.Description)
	}, func(e *proto.LogEntryAdded) {
		if e.Entry.Source == proto.LogLogEntrySourceSecurity {
			t.Errorf("the page broke its policy: %s", e.Entry.Text)
		}
	})()
	require.NoError(t, proto.EmulationSetDeviceMetricsOverride{Width: w, Height: h, DeviceScaleFactor: 1, Mobile: w < 600}.Call(p))
	require.NoError(t, proto.EmulationSetEmulatedMedia{Features: []*proto.EmulationMediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}.Call(p))
	require.NoError(t, p.Navigate(url))
	require.NoError(t, p.WaitLoad())
	return p
}

// shot keeps a screenshot where AFTERIMAGE_SHOTS says, for people to look at.
func shot(t *testing.T, p *rod.Page, name string) {
	t.Helper()
	png, err := p.Screenshot(false, nil)
	require.NoError(t, err)
	require.Greater(t, len(png), 10_000)
	if dir := os.Getenv("AFTERIMAGE_SHOTS"); dir != "" {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
	}
}

// becomes waits until a JavaScript condition holds.
func becomes(t *testing.T, p *rod.Page, js string) {
	t.Helper()
	err := p.Timeout(patience).Wait(rod.Eval("() => !!(" + js + ")"))
	if err != nil {
		shot(t, p, "failed")
	}
	require.NoError(t, err, js)
}

const patience = 20 * time.Second

func text(t *testing.T, p *rod.Page, selector string) string {
	t.Helper()
	el, err := p.Element(selector)
	require.NoError(t, err)
	s, err := el.Text()
	require.NoError(t, err)
	return s
}

func click(t *testing.T, p *rod.Page, selector string) {
	t.Helper()
	el, err := p.Element(selector)
	require.NoError(t, err)
	require.NoError(t, el.Click(proto.InputMouseButtonLeft, 1))
}

func typeText(t *testing.T, p *rod.Page, s string) {
	t.Helper()
	el, err := p.Element("#question")
	require.NoError(t, err)
	require.NoError(t, el.Input(s))
}

// film shows a new frame twice a second until the test ends.
func film(t *testing.T, f *fakeStream) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for at := 6 * time.Second; ; at += 500 * time.Millisecond {
			if f.Status().State == ingest.Live {
				f.show(at)
			}
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-stopped })
}

var suggestions = []string{"What is happening now?", "What happened in the last ten minutes?", "Is a parcel at the door?", "How many cars are parked?"}

// TestPage shares one browser: starting it is the slow part.
func TestPage(t *testing.T) {
	b := browser(t)
	t.Run("desk", func(t *testing.T) { testDesk(t, b) })
	t.Run("phone and light", func(t *testing.T) { testSizes(t, b) })
	t.Run("token", func(t *testing.T) { testToken(t, b) })
}

func testDesk(t *testing.T, b *rod.Browser) {
	f := newFake("street")
	whole, seen := f.answer("It arrived three minutes ago and nobody has left it since.", 0), make(chan struct{})
	f.ask = func(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
		if err := emit("A red car is parked at the gate. "); err != nil {
			return qa.Answer{}, err
		}
		<-seen // the rest comes when the beginning is on the page
		return whole(ctx, q, emit)
	}
	film(t, f)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cfg := Config{Suggestions: suggestions}
	base, stop := serveOn(t, ln, cfg, f)
	p := open(t, b, base, 1280, 800, "dark")

	// A first visit, before the camera is there.
	becomes(t, p, `document.querySelector("#link").dataset.link === "open"`)
	becomes(t, p, `document.querySelector("#state").textContent === "connecting"`)
	assert.Equal(t, "Ask what happened", text(t, p, "#welcome h2"))
	f.set(ingest.Live, "")
	becomes(t, p, `document.querySelector("#state").textContent === "live"`)
	becomes(t, p, `Number(document.querySelector("#picture").dataset.pictures) >= 2`)
	becomes(t, p, `document.querySelector("#m-tokens").textContent === "800" && Number(document.querySelector("#m-frames").textContent) > 0`)
	becomes(t, p, `document.querySelector("#lag").textContent === "under 1 s behind"`)
	becomes(t, p, `document.querySelector("#screen-note").hidden`)
	painted, err := p.Eval(`() => { const c = document.querySelector("#picture"); const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data; return new Set(d).size }`)
	require.NoError(t, err)
	assert.Greater(t, painted.Value.Int(), 50, "the picture shows something")
	shot(t, p, "first-visit")

	// Enter asks; the answer streams in and brings its evidence.
	typeText(t, p, "Where is the red car?")
	require.NoError(t, p.Keyboard.Press(input.Enter))
	becomes(t, p, `document.querySelector('.turn[data-status="streaming"] .answer')?.textContent === "A red car is parked at the gate. "`)
	close(seen)
	becomes(t, p, `document.querySelector('.turn[data-status="completed"]')`)
	assert.Equal(t, "A red car is parked at the gate. It arrived three minutes ago and nobody has left it since.", text(t, p, ".answer"))
	becomes(t, p, `[...document.querySelectorAll(".strip li:not([hidden]) img")].length === 12`)
	becomes(t, p, `[...document.querySelectorAll(".strip li:not([hidden]) img")].every(i => i.complete && i.naturalWidth > 0)`)
	assert.Regexp(t, `^As of \d\d:\d\d:\d\d · 210 ms behind · asked about .* – .* · the last of what fits · without the disk · watched .* – .*, 1 gap: `, text(t, p, ".fresh"))
	assert.Equal(t, "333 tokens/s", text(t, p, `[data-chip="rate"]`))
	assert.Regexp(t, `^first word \d+ ms$`, text(t, p, `[data-chip="first"]`))
	assert.Contains(t, text(t, p, "#announce"), "A red car is parked")
	shot(t, p, "answered")
	click(t, p, ".all")
	becomes(t, p, `[...document.querySelectorAll(".strip li:not([hidden]) img")].filter(i => i.naturalWidth > 0).length === 25`)

	// A thumbnail is enlarged, the arrows walk, Escape closes.
	click(t, p, ".strip li:nth-child(4) .thumb")
	becomes(t, p, `document.querySelector("#viewer").open && document.querySelector("#viewer-image").naturalWidth > 0`)
	before := text(t, p, "#viewer-text")
	require.NoError(t, p.Keyboard.Press(input.ArrowRight))
	assert.NotEqual(t, before, text(t, p, "#viewer-text"))
	shot(t, p, "enlarged")
	require.NoError(t, p.Keyboard.Press(input.Escape))
	becomes(t, p, `!document.querySelector("#viewer").open`)

	// Escape stops an answer.
	f.ask = f.answer(strings.Repeat("and one more ", 1000), 100*time.Millisecond)
	typeText(t, p, "Count")
	require.NoError(t, p.Keyboard.Press(input.Enter))
	becomes(t, p, `document.querySelector('.turn[data-status="streaming"]')`)
	require.NoError(t, p.Keyboard.Press(input.Escape))
	becomes(t, p, `document.querySelector('.turn[data-status="cancelled"] .outcome')?.textContent.startsWith("Stopped.")`)

	// The camera goes and comes back.
	f.set(ingest.Offline, "connection refused")
	becomes(t, p, `document.querySelector("#state").textContent === "offline"`)
	becomes(t, p, `document.querySelector("#screen-note").textContent.includes("offline")`)
	assert.Contains(t, text(t, p, "#trouble"), "connection refused")
	shot(t, p, "offline")
	f.set(ingest.Live, "")
	becomes(t, p, `document.querySelector("#state").textContent === "live" && document.querySelector("#trouble").hidden`)

	// The server goes and comes back.
	stop()
	becomes(t, p, `!document.querySelector("#banner").hidden && document.querySelector("#send").disabled`)
	becomes(t, p, `document.querySelector("#state").textContent === "unknown"`)
	shot(t, p, "disconnected")
	ln, err = net.Listen("tcp", ln.Addr().String())
	require.NoError(t, err)
	serveOn(t, ln, cfg, f)
	becomes(t, p, `document.querySelector("#banner").hidden && document.querySelector("#link").dataset.link === "open"`)
	f.ask = f.answer("Yes.", 0)
	click(t, p, "#suggestions button")
	becomes(t, p, `[...document.querySelectorAll('.turn[data-status="completed"] .answer')].at(-1).textContent === "Yes."`)
}

func testSizes(t *testing.T, b *rod.Browser) {
	f := newFake("street")
	f.ask = f.answer("A red car is parked at the gate. It arrived three minutes ago.", 0)
	f.set(ingest.Live, "")
	film(t, f)
	base, _ := serve(t, Config{Suggestions: suggestions}, f, newFake("yard"))
	for name, size := range map[string]struct {
		w, h   int
		scheme string
	}{"phone-dark": {390, 844, "dark"}, "phone-light": {390, 844, "light"}, "small-phone": {320, 568, "dark"}, "light": {1280, 800, "light"}} {
		p := open(t, b, base+"/?stream=street", size.w, size.h, size.scheme)
		becomes(t, p, `Number(document.querySelector("#picture").dataset.pictures) >= 1`)
		typeText(t, p, "Where is the red car?")
		click(t, p, "#send")
		becomes(t, p, `document.querySelector('.turn[data-status="completed"]')`)
		becomes(t, p, `[...document.querySelectorAll(".strip li:not([hidden]) img")].filter(i => i.naturalWidth > 0).length === 12`)
		becomes(t, p, `document.documentElement.scrollWidth <= innerWidth`) // nothing sticks out sideways
		becomes(t, p, `document.querySelector("#question").getBoundingClientRect().bottom <= innerHeight`)
		shot(t, p, name)
		require.NoError(t, p.Close())
	}
}

func testToken(t *testing.T, b *rod.Browser) {
	f := newFake("street")
	f.set(ingest.Live, "")
	f.show(4 * time.Second)
	base, _ := serve(t, Config{Token: "tok/+=~1"}, f)
	p := open(t, b, base, 1000, 700, "dark")
	becomes(t, p, `document.querySelector("#token").open`)
	el, err := p.Element("#token-value")
	require.NoError(t, err)
	require.NoError(t, el.Input("wrong"))
	require.NoError(t, p.Keyboard.Press(input.Enter))
	becomes(t, p, `document.querySelector("#token")?.open && document.querySelector("#token-value").value === ""`)

	// A token in the fragment is used and taken out of the address.
	p = open(t, b, base+"/#token=tok/%2B%3D~1", 1000, 700, "dark")
	becomes(t, p, `document.querySelector("#link").dataset.link === "open"`)
	info, err := p.Info()
	require.NoError(t, err)
	assert.Equal(t, base+"/", info.URL)
	typeText(t, p, "Where is the red car?")
	require.NoError(t, p.Keyboard.Press(input.Enter))
	becomes(t, p, `[...document.querySelectorAll(".strip li:not([hidden]) img")].filter(i => i.naturalWidth > 0).length === 12`)
}
