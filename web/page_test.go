package web

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
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
	p = p.Timeout(4 * time.Minute)      // a loaded machine draws slowly
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

// shot keeps a screenshot for people to look at, in out/page or where AFTERIMAGE_SHOTS says.
func shot(t *testing.T, p *rod.Page, name string) {
	t.Helper()
	png, err := p.Screenshot(false, nil)
	require.NoError(t, err)
	require.Greater(t, len(png), 10_000)
	dir := cmp.Or(os.Getenv("AFTERIMAGE_SHOTS"), filepath.Join("..", "out", "page"))
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
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
	t.Run("conversation", func(t *testing.T) { testConversation(t, b) })
	t.Run("memory", func(t *testing.T) { testMemory(t, b) })
	t.Run("standing questions", func(t *testing.T) { testWatches(t, b) })
	t.Run("keyboard", func(t *testing.T) { testKeyboard(t, b) })
	t.Run("older server", func(t *testing.T) { testOlderServer(t, b) })
	t.Run("for everybody", func(t *testing.T) { testAccess(t, b) })
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
	becomes(t, p, `document.querySelector("#state")?.textContent === "connecting"`)
	assert.Equal(t, "Ask what happened", text(t, p, "#welcome h2"))
	becomes(t, p, `document.querySelector("#welcome").textContent.includes("Nothing has been seen yet")`)
	f.set(ingest.Live, "")
	becomes(t, p, `document.querySelector("#state")?.textContent === "live"`)
	becomes(t, p, `Number(document.querySelector("#picture")?.dataset.pictures) >= 2`)
	becomes(t, p, `document.querySelector("#m-bytes").textContent === "3.3 MiB" && Number(document.querySelector("#m-frames").textContent) > 0`)
	becomes(t, p, `document.querySelector("#lag").textContent === "under 1 s behind"`)
	becomes(t, p, `!document.querySelector("#screen-note")`)
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
	becomes(t, p, `[...document.querySelectorAll(".strip li img")].length === 12`)
	becomes(t, p, `[...document.querySelectorAll(".strip li img")].every(i => i.complete && i.naturalWidth > 0)`)
	assert.Regexp(t, `^As of \d\d:\d\d:\d\d · 210 ms behind · asked about .* – .* · the last of what fits · without the disk · watched .* – .*, 1 gap: `, text(t, p, ".fresh"))
	assert.Equal(t, "333 tokens/s", text(t, p, `[data-chip="rate"]`))
	assert.Regexp(t, `^first word \d+ ms$`, text(t, p, `[data-chip="first"]`))
	assert.Contains(t, text(t, p, "#announce"), "A red car is parked")
	shot(t, p, "answered")
	click(t, p, ".all")
	becomes(t, p, `[...document.querySelectorAll(".strip li img")].filter(i => i.naturalWidth > 0).length === 25`)

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
	becomes(t, p, `document.querySelector("#state")?.textContent === "offline"`)
	becomes(t, p, `document.querySelector("#screen-note")?.textContent.includes("cannot be reached")`)
	assert.Contains(t, text(t, p, "#trouble"), "connection refused")
	shot(t, p, "offline")
	f.set(ingest.Live, "")
	becomes(t, p, `document.querySelector("#state")?.textContent === "live" && !document.querySelector("#trouble")`)

	// A picture that no longer changes is said to be suspect, and stays to be seen.
	f.set("frozen", "")
	becomes(t, p, `document.querySelector("#state")?.textContent === "frozen" && document.querySelector(".trouble")?.textContent.includes("may be frozen")`)
	becomes(t, p, `/^street frozen for [\d.]+ s, since /.test(document.querySelector("#state-line").textContent)`)
	becomes(t, p, `document.querySelector("#announce").textContent === "Camera street: frozen"`)
	f.set(ingest.Live, "")

	// The server goes and comes back.
	stop()
	becomes(t, p, `document.querySelector("#banner") && document.querySelector("#send").disabled`)
	becomes(t, p, `document.querySelector("#state")?.textContent === "unknown"`)
	shot(t, p, "disconnected")
	ln, err = net.Listen("tcp", ln.Addr().String())
	require.NoError(t, err)
	serveOn(t, ln, cfg, f)
	becomes(t, p, `!document.querySelector("#banner") && document.querySelector("#link").dataset.link === "open"`)
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
	}{"phone-dark": {390, 844, "dark"}, "phone-light": {390, 844, "light"}, "small-phone": {360, 640, "dark"}, "light": {1280, 800, "light"}} {
		p := open(t, b, base+"/?stream=street", size.w, size.h, size.scheme)
		becomes(t, p, `Number(document.querySelector("#picture")?.dataset.pictures) >= 1`)
		typeText(t, p, "Where is the red car?")
		click(t, p, "#send")
		becomes(t, p, `document.querySelector('.turn[data-status="completed"]')`)
		becomes(t, p, `[...document.querySelectorAll(".strip li img")].filter(i => i.naturalWidth > 0).length === 12`)
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
	becomes(t, p, `document.querySelector("#token")?.open`)
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
	becomes(t, p, `[...document.querySelectorAll(".strip li img")].filter(i => i.naturalWidth > 0).length === 12`)
}

// street is a page that watches a street, behind a front; size as in open.
func street(t *testing.T, b *rod.Browser, path string, w, h int, scheme string, others ...Stream) (*fakeStream, *front, *rod.Page) {
	t.Helper()
	f := newFake("street")
	f.ask = f.answer("A red car is parked at the gate. It arrived three minutes ago.", 0)
	f.set(ingest.Live, "")
	film(t, f)
	base, _ := serve(t, Config{Suggestions: suggestions}, append([]Stream{f}, others...)...)
	fr := newFront(t, base)
	p := open(t, b, fr.base+path, w, h, scheme)
	becomes(t, p, `document.querySelector("#link")?.dataset.link === "open"`)
	becomes(t, p, `Number(document.querySelector("#picture")?.dataset.pictures) >= 1`)
	return f, fr, p
}

func asks(t *testing.T, p *rod.Page, question string, answers int) {
	t.Helper()
	typeText(t, p, question)
	require.NoError(t, p.Keyboard.Press(input.Enter))
	becomes(t, p, fmt.Sprintf(`document.querySelectorAll('.turn[data-status="completed"]').length === %d`, answers))
}

// testConversation asks several cameras, follows up, loses the connection, starts anew.
func testConversation(t *testing.T, b *rod.Browser) {
	yard := newFake("yard")
	yard.ask = yard.answer("A bicycle leans on the fence.", 0)
	yard.set(ingest.Live, "")
	yard.show(9 * time.Second)
	f, fr, p := street(t, b, "/?stream=street", 1280, 800, "light", yard)
	var followed []string
	whole := f.ask
	f.ask = func(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error) {
		followed = append(followed, q.Text)
		return whole(ctx, q, emit)
	}
	asks(t, p, "Where is the red car?", 1)
	asks(t, p, "And what colour was it?", 2)
	assert.Equal(t, []string{"Where is the red car?", "And what colour was it?"}, followed, "both were asked in one conversation")
	becomes(t, p, `document.querySelectorAll(".others button").length === 2 && document.querySelectorAll(".others img").length === 2`)
	shot(t, p, "conversation-light")

	// The connection breaks and comes back; the page says for how long and what was watched meanwhile. What was asked stays to be read.
	fr.drop()
	becomes(t, p, `document.querySelector("#link").dataset.link !== "open"`)
	becomes(t, p, `document.querySelector("#link").dataset.link === "open"`)
	becomes(t, p, `/^Connected again after .* s\./.test(document.querySelector("#notice")?.textContent)`)
	becomes(t, p, `document.querySelectorAll(".turn").length === 2`)

	// A session with a handle is taken up where it was; here the server does not know it any more, so the answer that was on its way is lost.
	f.ask = f.answer(strings.Repeat("and one more ", 1000), 100*time.Millisecond)
	fr.tell(t, object{"type": "session.resumption", "handle": "resume_x", "valid_ms": 60000, "resumed": false})
	typeText(t, p, "Count")
	require.NoError(t, p.Keyboard.Press(input.Enter))
	becomes(t, p, `document.querySelector('.turn[data-status="streaming"]')`)
	fr.drop()
	becomes(t, p, `document.querySelector('.turn[data-status="failed"] .outcome')?.textContent.startsWith("The connection was lost")`)
	fr.mu.Lock()
	assert.Regexp(t, `[?&]resume=resume_x&after=[1-9][0-9]*$`, fr.dialled[len(fr.dialled)-1])
	fr.mu.Unlock()
	click(t, p, "#fresh")
	becomes(t, p, `document.querySelectorAll(".turn").length === 0 && document.querySelector("#link").dataset.link === "open"`)
	f.ask = whole
	asks(t, p, "Where is the red car?", 1)
	asks(t, p, "And what colour was it?", 2)

	// The other camera is another conversation, in the same place.
	click(t, p, ".others li:nth-child(2) button")
	becomes(t, p, `document.querySelector("#state-line strong").textContent === "yard" && document.querySelector("#link").dataset.link === "open"`)
	becomes(t, p, `new URLSearchParams(location.search).get("stream") === "yard"`)
	asks(t, p, "What is at the fence?", 3)
	becomes(t, p, `[...document.querySelectorAll(".answer")].at(-1).textContent === "A bicycle leans on the fence."`)

	// Several cameras in one question.
	click(t, p, ".scope button")
	becomes(t, p, `document.querySelector(".scope button").getAttribute("aria-pressed") === "true"`)
	typeText(t, p, "Is anybody there?")
	require.NoError(t, p.Keyboard.Press(input.Enter))
	becomes(t, p, `document.querySelectorAll(".turn").length === 4 && [...document.querySelectorAll(".turn")].at(-1).querySelector(".of").textContent === "yard, street"`)
	require.Eventually(t, func() bool { return at(fr.lastSent("response.create"), "response", "streams", 1) == "street" }, patience, 20*time.Millisecond)

	// A new conversation forgets this camera's turns and no others.
	click(t, p, "#fresh")
	becomes(t, p, `document.querySelectorAll(".turn").length === 2 && document.querySelector("#link").dataset.link === "open"`)

	// A server that is about to stop says so.
	fr.tell(t, object{"type": "session.going_away", "time_left_ms": 9000})
	becomes(t, p, `document.querySelector("#notice")?.textContent.startsWith("The server stops in 9.0 s")`)
}

func testMemory(t *testing.T, b *rod.Browser) {
	_, fr, p := street(t, b, "/", 1280, 800, "light")
	asks(t, p, "Where is the red car?", 1)
	becomes(t, p, `!document.querySelector(".share") && !document.querySelector(".caution")`) // nothing was measured, so nothing is said
	fr.mu.Lock()
	fr.change = func(ev object) {
		for i, it := range ev["items"].([]any) {
			it.(object)["share"] = []float64{.002, .02, .31}[min(i%12, 2)] / 3
			it.(object)["clip"] = "/api/evidence/gone.mp4"
		}
	}
	fr.mu.Unlock()
	asks(t, p, "And who drove it?", 2)
	becomes(t, p, `[...document.querySelectorAll(".turn:last-child .share")].some(s => s.textContent === "10 %")`)
	becomes(t, p, `[...document.querySelectorAll(".turn:last-child .share")].every(s => /^(under 1|1|10) %$/.test(s.textContent))`)
	becomes(t, p, `document.querySelector(".turn:last-child .caution").textContent.includes("does not prove")`)
	becomes(t, p, `document.querySelectorAll(".turn:last-child .play").length === 12`)
	shot(t, p, "attention")
	click(t, p, ".turn:last-child .strip li:last-child .thumb") // its clip is gone: the picture is shown
	becomes(t, p, `document.querySelector("#viewer").open && document.querySelector("#viewer-image")?.naturalWidth > 0`)
	require.NoError(t, p.Keyboard.Press(input.Escape))
	click(t, p, `.views a[href="#memory"]`)
	becomes(t, p, `document.querySelector(".lane-name")?.textContent.includes("Attention")`)
	becomes(t, p, `document.querySelectorAll(".entry").length > 30 && document.activeElement === document.querySelector("#memory h2")`)
	becomes(t, p, `document.querySelectorAll(".given").length > 20`) // what the answer was given
	becomes(t, p, `document.querySelector("#chart canvas")?.width > 300`)
	assert.Regexp(t, `^\d.* in 64 moments: 800 visual tokens, 3.3 MiB`, text(t, p, ".lead"))
	becomes(t, p, `document.querySelector("#memory .gap")`)

	// An entry is chosen with the mouse, the next with the keyboard.
	click(t, p, `.entry[data-level="synopsis"]`)
	becomes(t, p, `document.querySelector("#details img")?.naturalWidth > 0`)
	first := text(t, p, "#details dl")
	require.NoError(t, p.Keyboard.Press(input.ArrowRight))
	becomes(t, p, `document.activeElement.classList.contains("entry")`)
	becomes(t, p, "document.querySelector('#details dl').innerText !== "+quoted(t, first))
	shot(t, p, "memory-light")

	// A shorter stretch shows fewer of them.
	before := howMany(t, p, ".entry")
	click(t, p, ".zoom button:nth-child(3)")
	becomes(t, p, fmt.Sprintf(`document.querySelectorAll(".entry").length < %d`, before))
	click(t, p, ".zoom button:nth-child(1)")

	// Dragging across the line is a question about that stretch.
	box := p.MustElement(".lanes svg").MustShape().Box()
	require.NoError(t, p.Mouse.MoveTo(proto.Point{X: box.X + .3*box.Width, Y: box.Y + 12}))
	require.NoError(t, p.Mouse.Down(proto.InputMouseButtonLeft, 1))
	require.NoError(t, p.Mouse.MoveLinear(proto.Point{X: box.X + .5*box.Width, Y: box.Y + 14}, 4))
	require.NoError(t, p.Mouse.Up(proto.InputMouseButtonLeft, 1))
	becomes(t, p, `document.querySelector(".range a")?.textContent.startsWith("Ask about ")`)
	click(t, p, ".range a")
	becomes(t, p, `document.querySelector("#range")?.textContent.startsWith("about ")`)
	typeText(t, p, "What happened then?")
	require.NoError(t, p.Keyboard.Press(input.Enter))
	require.Eventually(t, func() bool {
		from, _ := at(fr.lastSent("response.create"), "response", "range", "from").(string)
		_, err := time.Parse(time.RFC3339, from)
		return err == nil
	}, patience, 20*time.Millisecond)
}

func testWatches(t *testing.T, b *rod.Browser) {
	_, fr, p := street(t, b, "/#watches", 1280, 800, "light")
	fr.mu.Lock()
	fr.reply = someFirings(time.Now())
	fr.mu.Unlock()
	becomes(t, p, `document.querySelector("#watches-none")`)
	click(t, p, "#watch-new")
	becomes(t, p, `document.activeElement.id === "watch-ask"`)
	becomes(t, p, `document.querySelector("#watch-enable").disabled`) // it is tried first
	require.NoError(t, p.MustElement("#watch-ask").Input("Is a parcel on the step?"))
	click(t, p, "#watch-try")
	becomes(t, p, `document.querySelector("#tried strong")?.textContent === "It would have fired 3 times"`)
	becomes(t, p, `[...document.querySelectorAll("#tried img")].filter(i => i.naturalWidth > 0).length === 3`)
	assert.Equal(t, 2, howMany(t, p, "#tried polyline"), "nothing is drawn where nobody was watching")
	spec := fr.posted(0)
	assert.Equal(t, "street", spec["stream"])
	assert.Equal(t, "parcel-on-the-step", spec["name"])
	assert.InDelta(t, .8, spec["threshold"], 1e-9)
	shot(t, p, "standing-backtest")
	click(t, p, "#watch-enable")
	becomes(t, p, `document.querySelector(".watch-card h3")?.textContent === "Is a parcel on the step?" && !document.querySelector("#watch-form")`)
	assert.Equal(t, spec, fr.posted(1), "what is enabled is what was tried")

	// It fires: the card says so, with the picture, and screen readers are told.
	now := time.Now()
	fr.mu.Lock()
	fr.watches[0]["state"], fr.watches[0]["firings"] = "fired", 1
	fr.mu.Unlock()
	fr.tell(t, object{"type": "watch.fired", "event_id": "e1", "stream": "street", "watch": object{"id": "w1", "ask": spec["ask"]},
		"event": object{"id": "f1", "kind": "fired", "at": stamp(now), "probability": .93, "thumb": "/api/evidence/fake-4.jpg"}})
	becomes(t, p, `document.querySelector('.watch-card[data-state="fired"] .strip img')?.naturalWidth > 0`)
	becomes(t, p, `document.querySelector("#announce").textContent === "Is a parcel on the step?: fired"`)
	becomes(t, p, `document.querySelector(".views .count")?.innerText.includes("1")`)
	shot(t, p, "standing-fired")

	click(t, p, ".actions button")
	becomes(t, p, `document.querySelector(".watch-card .badge").textContent === "paused"`)
	assert.Equal(t, object{"paused": true}, fr.posted(2))

	// Deleting asks once more.
	click(t, p, ".danger")
	becomes(t, p, `document.querySelector(".danger").textContent === "Delete it"`)
	click(t, p, ".danger")
	becomes(t, p, `document.querySelector("#watches-none")`)

	// What the server refuses is said, and nothing is lost.
	click(t, p, "#watch-new")
	require.NoError(t, p.MustElement("#watch-ask").Input("How is the weather?"))
	click(t, p, "#watch-try")
	becomes(t, p, `!document.querySelector("#watch-enable").disabled`)
	click(t, p, "#watch-enable")
	becomes(t, p, `document.querySelector("#watch-form .trouble")?.textContent.includes("the model cannot tell the weather")`)
	becomes(t, p, `document.querySelector("#watch-ask").value === "How is the weather?"`)
}

// testKeyboard goes through the page without a mouse.
func testKeyboard(t *testing.T, b *rod.Browser) {
	yard := newFake("yard")
	yard.set(ingest.Offline, "connection refused")
	_, _, p := street(t, b, "/?stream=street", 1100, 760, "dark", yard)
	press := func(keys ...input.Key) {
		t.Helper()
		for _, k := range keys {
			require.NoError(t, p.Keyboard.Press(k))
		}
	}
	becomes(t, p, `document.activeElement.id === "question"`)
	asks(t, p, "Where is the red car?", 1)
	press(input.ArrowUp)
	becomes(t, p, `document.querySelector("#question").value === "Where is the red car?"`)
	press(input.ArrowDown)
	becomes(t, p, `document.querySelector("#question").value === ""`)

	// Everything that can be done is reached with Tab, in the page's order, and shows where the focus is.
	_, err := p.Eval(`() => { document.activeElement.blur(); document.body.focus(); }`)
	require.NoError(t, err)
	reached := map[string]bool{}
	for range 60 {
		press(input.Tab)
		v, err := p.Eval(`() => { const e = document.activeElement, s = getComputedStyle(e);
			return [e.id || e.getAttribute("href") || e.className || e.parentElement?.className || e.tagName, e === document.body || s.outlineStyle !== "none" || e.matches(".skip")].join("|") }`)
		require.NoError(t, err)
		name, visible, _ := strings.Cut(v.Value.Str(), "|")
		assert.Equal(t, "true", visible, "%s shows that it has the focus", name)
		reached[name] = true
	}
	for _, want := range []string{"#main", "#ask", "#memory", "#watches", "theme", "help-open", "scroll", "thumb", "question", "send", "fresh"} {
		assert.True(t, reached[want], "%s is reached with Tab; reached: %v", want, reached)
	}

	// Keys outside the box: help, views, cameras, colours, the box.
	_, err = p.Eval(`() => document.activeElement.blur()`)
	require.NoError(t, err)
	press('?')
	becomes(t, p, `document.querySelector("#help").open`)
	shot(t, p, "shortcuts")
	press(input.Escape)
	becomes(t, p, `!document.querySelector("#help").open`)
	press(input.Digit2)
	becomes(t, p, `location.hash === "#memory" && document.querySelector("#memory")`)
	press(input.BracketRight)
	becomes(t, p, `document.querySelector("#state-line strong").textContent === "yard"`)
	becomes(t, p, `document.querySelector("#state")?.textContent === "offline"`)
	press(input.BracketLeft)
	becomes(t, p, `document.querySelector("#state-line strong").textContent === "street"`)
	press(input.KeyT)
	becomes(t, p, `document.documentElement.dataset.theme === "light" && getComputedStyle(document.body).backgroundColor === "rgb(245, 244, 241)"`)
	press(input.KeyT, input.KeyT)
	becomes(t, p, `document.documentElement.dataset.theme === "auto" && getComputedStyle(document.body).backgroundColor === "rgb(14, 18, 22)"`)
	press(input.Slash)
	becomes(t, p, `location.hash === "#ask" && document.activeElement.id === "question" && document.querySelector("#question").value === ""`)

	// Enter on a moment enlarges it, Escape closes it and the focus is back where it was.
	_, err = p.Eval(`() => document.querySelector(".thumb").focus()`)
	require.NoError(t, err)
	press(input.Enter)
	becomes(t, p, `document.querySelector("#viewer").open`)
	press(input.Escape)
	becomes(t, p, `!document.querySelector("#viewer").open && document.activeElement.classList.contains("thumb")`)
}

// testOlderServer has neither a list of the memory nor standing questions: those parts say so and the rest works.
func testOlderServer(t *testing.T, b *rod.Browser) {
	_, fr, p := street(t, b, "/#watches", 1100, 760, "light")
	fr.mu.Lock()
	fr.lack = true
	fr.mu.Unlock()
	require.NoError(t, p.Reload())
	becomes(t, p, `document.querySelector("#watches-problem")?.textContent === "This server does not offer standing questions." && !document.querySelector("#watch-new")`)
	_, err := p.Eval(`() => { location.hash = "ask" }`)
	require.NoError(t, err)
	becomes(t, p, `document.querySelector("#send")?.disabled === false`)
	asks(t, p, "Where is the red car?", 1)
	_, err = p.Eval(`() => { location.hash = "memory" }`)
	require.NoError(t, err)
	becomes(t, p, `document.querySelector("#memory-problem")?.textContent.includes("does not list its memory") && document.querySelectorAll(".entry").length === 25`)
}

// testAccess lets axe-core look for what keeps people out, in every view, both colour schemes, wide and narrow.
func testAccess(t *testing.T, b *rod.Browser) {
	axe, err := os.ReadFile(filepath.Join("..", ".deps", "axe-core", "axe.min.js"))
	if err != nil {
		t.Skipf("axe-core is not there, so this is not checked: scripts/axe.sh fetches it from npm (%v)", err)
	}
	yard := newFake("yard")
	yard.set(ingest.Offline, "connection refused")
	for _, look := range []struct {
		w, h   int
		scheme string
	}{{1280, 800, "light"}, {390, 844, "dark"}} {
		_, fr, p := street(t, b, "/?stream=street", look.w, look.h, look.scheme, yard)
		fr.mu.Lock()
		fr.reply = someFirings(time.Now())
		fr.watches = []object{{"id": "w1", "ask": "Is a parcel on the step?", "name": "parcel", "stream": "street", "threshold": .8, "state": "above", "probability": .84,
			"checked": stamp(time.Now()), "firings": 3, "hold": "3s", "cooldown": "1m0s", "cost": object{"check_ms": 4.2}}}
		fr.mu.Unlock()
		_, err := p.Eval("() => { const module = undefined;" + string(axe) + "; return true }")
		require.NoError(t, err)
		check := func(view string) {
			t.Helper()
			v, err := p.Eval(`async () => JSON.stringify((await axe.run(document, { resultTypes: ["violations"] })).violations
				.map(v => ({ id: v.id, impact: v.impact, help: v.help, where: v.nodes.slice(0, 4).map(n => n.target.join(" ") + ": " + n.failureSummary) })))`)
			require.NoError(t, err)
			var found []struct {
				ID, Impact, Help string
				Where            []string
			}
			require.NoError(t, json.Unmarshal([]byte(v.Value.Str()), &found))
			for _, f := range found {
				if f.Impact == "serious" || f.Impact == "critical" {
					t.Errorf("%s, %s: %s (%s): %s\n%s", view, look.scheme, f.ID, f.Impact, f.Help, strings.Join(f.Where, "\n"))
				} else {
					t.Logf("%s, %s: %s (%s): %s", view, look.scheme, f.ID, f.Impact, f.Help)
				}
			}
		}
		turn := func(view, until string) {
			t.Helper()
			_, err := p.Eval(`v => { location.hash = v }`, view)
			require.NoError(t, err)
			becomes(t, p, until)
		}
		check("first visit")
		asks(t, p, "Where is the red car?", 1)
		becomes(t, p, `[...document.querySelectorAll(".strip li img")].filter(i => i.naturalWidth > 0).length === 12`)
		check("answer")
		click(t, p, ".strip li:nth-child(2) .thumb")
		becomes(t, p, `document.querySelector("#viewer").open`)
		check("enlarged")
		require.NoError(t, p.Keyboard.Press(input.Escape))
		turn("memory", `document.querySelectorAll(".entry").length > 30`)
		_, err = p.Eval(`() => document.querySelector(".entry").focus()`)
		require.NoError(t, err)
		becomes(t, p, `document.querySelector("#details")`)
		check("memory")
		shot(t, p, fmt.Sprintf("memory-%d-%s", look.w, look.scheme))
		turn("watches", `document.querySelector(".watch-card")`)
		check("standing questions")
		shot(t, p, fmt.Sprintf("standing-%d-%s", look.w, look.scheme))
		click(t, p, "#watch-new")
		require.NoError(t, p.MustElement("#watch-ask").Input("Is a parcel on the step?"))
		click(t, p, "#watch-try")
		becomes(t, p, `document.querySelector("#tried img")`)
		check("new standing question")
		becomes(t, p, `document.documentElement.scrollWidth <= innerWidth`)
		shot(t, p, fmt.Sprintf("standing-new-%d-%s", look.w, look.scheme))
		require.NoError(t, p.Close())
	}
}

func howMany(t *testing.T, p *rod.Page, selector string) int {
	t.Helper()
	v, err := p.Eval(`s => document.querySelectorAll(s).length`, selector)
	require.NoError(t, err)
	return v.Value.Int()
}

func quoted(t *testing.T, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	require.NoError(t, err)
	return string(b)
}
