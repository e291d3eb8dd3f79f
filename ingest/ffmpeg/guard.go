package ffmpeg

import (
	"context"
	"fmt"
	"time"

	"github.com/asticode/go-astiav"
)

// A guard ends FFmpeg's blocking calls when a context is done or when nothing moved for too long. It is used by one goroutine.
type guard struct {
	intr  *astiav.IOInterrupter
	limit time.Duration
	what  string // what takes too long, for the error

	ctx       context.Context
	stop      func() bool
	timer     *time.Timer
	cancelled chan struct{}
	expired   chan struct{}
}

// begin arms the guard; end must follow.
func (g *guard) begin(ctx context.Context, limit time.Duration, what string) {
	g.ctx, g.limit, g.what = ctx, limit, what
	cancelled, expired := make(chan struct{}), make(chan struct{})
	g.cancelled, g.expired = cancelled, expired
	g.intr.Resume()
	g.stop = context.AfterFunc(ctx, func() {
		g.intr.Interrupt()
		close(cancelled)
	})
	g.timer = time.AfterFunc(limit, func() {
		g.intr.Interrupt()
		close(expired)
	})
}

// progress starts the time-out anew. It does nothing once it ran out.
func (g *guard) progress() {
	if g.timer.Stop() {
		g.timer.Reset(g.limit)
	}
}

// end disarms the guard and waits for what was already under way, so that nothing late can interrupt the next call. It returns
// why the call was ended, or nil.
func (g *guard) end() error {
	if !g.stop() {
		<-g.cancelled
	}
	if !g.timer.Stop() {
		<-g.expired
	}
	return g.cause()
}

// cause is why the guard interrupts, or nil.
func (g *guard) cause() error {
	if err := g.ctx.Err(); err != nil {
		return err
	}
	select {
	case <-g.expired:
		return &timeoutError{g.what, g.limit}
	default:
		return nil
	}
}

type timeoutError struct {
	what  string
	limit time.Duration
}

func (e *timeoutError) Error() string { return fmt.Sprintf("%s within %v", e.what, e.limit) }

// Timeout makes os.IsTimeout and net.Error users see what it is.
func (e *timeoutError) Timeout() bool { return true }
