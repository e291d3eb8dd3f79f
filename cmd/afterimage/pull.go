package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"afterimage/hub"
)

type pullCmd struct {
	Name    string `arg:"" help:"A short name (afterimage list models), or ORG/NAME[@revision]."`
	Offline bool   `help:"Ask nothing of the network: only check that the model is here." env:"AFTERIMAGE_OFFLINE"`
	Verify  bool   `help:"Read what is here already, too, and pull again what does not have its hash."`
}

func (c *pullCmd) Help() string {
	return `Only what a model needs is pulled: its configuration, tokenizer and safetensors, a few files at once, into the cache that Hugging Face's own
libraries use (HF_HUB_CACHE, else hub in HF_HOME, else ~/.cache/huggingface/hub), so what one program pulled the others find. Every file's
hash is checked. Ctrl-C keeps what has come; the same command goes on from there.

HF_TOKEN (or the file token in HF_HOME) opens private and gated models; it is sent to the hub alone. HF_ENDPOINT names another hub.
Weights as Python pickles (.bin, .pth) are refused: reading them would run code.

Examples:
  afterimage pull smolvlm2-256m
  afterimage pull flash-vstream-7b
  afterimage pull llava-hf/llava-1.5-7b-hf@main`
}

func (c *pullCmd) Run(ctx context.Context, a *app) error {
	h, err := hub.FromEnv(a.lookup)
	if err != nil {
		return err
	}
	n, err := hub.ParseName(c.Name)
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	h.Offline = h.Offline || c.Offline
	bar := newDownload(a.err, a.errTTY)
	h.Trouble = bar.trouble
	p, err := h.Pull(ctx, n, hub.PullOptions{Verify: c.Verify, Progress: bar.show})
	bar.end()
	if err != nil {
		if ctx.Err() != nil {
			fmt.Fprintf(a.err, "what has come is kept: afterimage pull %s goes on from there\n", n)
		}
		return err
	}
	licence := p.Licence
	if e, ok := n.Entry(); ok && licence == "" {
		licence = e.Licence
	}
	fmt.Fprintf(a.out, "%s is in %s\n", n, p.Dir)
	fmt.Fprintf(a.out, "commit %s, %s in %d files, licence: %s\n", p.Commit, size(p.Bytes), len(p.Files), first(licence, "see its page"))
	_, err = fmt.Fprintf(a.out, "use it:  afterimage serve --model %s config.yaml\n", n)
	return err
}

// download shows how far a pull has come: one line that is drawn again on a terminal, a new one every ten seconds elsewhere.
type download struct {
	w     io.Writer
	tty   bool
	now   func() time.Time
	drawn time.Time
	past  []downloadAt  // of the last seconds, for the rate
	said  string        // of a file that is waited for
	every time.Duration // between two lines
}

type downloadAt struct {
	at    time.Time
	bytes int64
}

func newDownload(w io.Writer, tty bool) *download {
	d := &download{w: w, tty: tty, now: time.Now, every: 10 * time.Second}
	if tty {
		d.every = 200 * time.Millisecond
	}
	return d
}

const eraseLine = "\r\x1b[K"

// rateWindow is the time over which the rate is taken: long enough to be steady, short enough to tell when a network changes.
const rateWindow = 15 * time.Second

func (d *download) show(p hub.Progress) {
	now := d.now()
	if p.Waiting != "" && p.Waiting != d.said {
		d.line("another process is pulling " + p.Waiting + "; waiting for it")
	}
	d.said = p.Waiting
	fresh := p.BytesDone - p.BytesHere
	if n := len(d.past); n == 0 || now.Sub(d.past[n-1].at) >= 100*time.Millisecond || fresh < d.past[n-1].bytes {
		d.past = append(d.past, downloadAt{now, fresh})
	}
	for len(d.past) > 2 && now.Sub(d.past[1].at) > rateWindow {
		d.past = d.past[1:]
	}
	if d.drawn.IsZero() {
		d.drawn = now
		if !d.tty {
			return
		}
	}
	if now.Sub(d.drawn) < d.every {
		return
	}
	d.drawn = now
	text := d.text(p)
	if !d.tty {
		fmt.Fprintln(d.w, text)
		return
	}
	fmt.Fprint(d.w, eraseLine+text)
}

// text is what is shown of p.
func (d *download) text(p hub.Progress) string {
	text := fmt.Sprintf("%d of %d files, %s of %s", p.FilesDone, p.Files, size(p.BytesDone), size(p.Bytes))
	first, last := d.past[0], d.past[len(d.past)-1]
	seconds := last.at.Sub(first.at).Seconds()
	if rate := float64(last.bytes-first.bytes) / seconds; seconds >= 0.5 && rate > 0 {
		left := time.Duration(float64(p.Bytes-p.BytesDone) / rate * float64(time.Second))
		text += fmt.Sprintf(", %s/s, %s left", size(rate), left.Round(time.Second))
	}
	return text
}

// line says something beside the progress.
func (d *download) line(text string) {
	d.end()
	fmt.Fprintln(d.w, text)
}

// trouble may be called from several goroutines: it writes one line at once and touches nothing else.
func (d *download) trouble(err error, pause time.Duration) {
	start := ""
	if d.tty {
		start = eraseLine
	}
	fmt.Fprintf(d.w, "%s%v; again in %s\n", start, err, pause.Round(100*time.Millisecond))
}

func (d *download) end() {
	if d.tty {
		fmt.Fprint(d.w, eraseLine)
	}
}
