package main

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress is a bar on a terminal, and a line every ten seconds elsewhere.
type progress struct {
	bar  *progressbar.ProgressBar
	w    io.Writer
	what string
	now  int
	all  int
	said time.Time
	from time.Time // of the first step
}

func newProgress(a *app, what string, total int) *progress {
	p := &progress{w: a.err, what: what, all: max(total, 1), said: time.Now(), from: time.Now()}
	if a.errTTY {
		p.bar = progressbar.NewOptions(p.all, progressbar.OptionSetWriter(a.err), progressbar.OptionSetDescription(what),
			progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetPredictTime(true),
			progressbar.OptionClearOnFinish())
	}
	return p
}

func (p *progress) step() { p.set(p.now+1, p.what) }

func (p *progress) set(now int, what string) {
	p.now = now
	if p.bar != nil {
		p.bar.Describe(what)
		_ = p.bar.Set(now) // a bar that cannot be drawn is no reason to stop
		return
	}
	if time.Since(p.said) > 10*time.Second {
		p.said = time.Now()
		left := ""
		if now > 0 && now < p.all {
			left = fmt.Sprintf(", about %s left", time.Duration(float64(time.Since(p.from))*float64(p.all-now)/float64(now)).Round(time.Second))
		}
		fmt.Fprintf(p.w, "%s: %d of %d%s\n", what, now, p.all, left)
	}
}

func (p *progress) done() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
