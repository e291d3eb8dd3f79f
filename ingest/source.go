package ingest

import (
	"context"
	"errors"
	"time"
)

// Source yields sampled pictures in time order. Next and Close are called by one goroutine, unless the implementation says
// otherwise; Next honours ctx. io.EOF ends a source that has an end; any other error means the source must be closed and, if
// it is live, opened again. Close releases everything and may follow any error.
type Source interface {
	Next(context.Context) (Frame, error)
	Close() error
}

// Opener opens one fresh Source. It must return soon after ctx is done, and its errors must not carry credentials
// (URL.Redact helps). It wraps ErrCredentials when the other side refused the user or the password.
type Opener func(ctx context.Context) (Source, error)

// ErrCredentials marks an opener's or a source's error as "the other side refused the credentials" (401, 403). The supervisor
// then waits its longest back-off at once: cameras lock accounts out that are tried too often.
var ErrCredentials = errors.New("the source refused the credentials")

// State says how a source is doing, in one word that users see.
type State string

// The states of a source. Only Ended is final.
const (
	Connecting State = "connecting" // being opened, no frame yet
	Live       State = "live"       // frames arrive
	Stalled    State = "stalled"    // open, but no frame for longer than the stall time-out
	Frozen     State = "frozen"     // frames arrive, but the picture has not changed for longer than the freeze time-out
	Offline    State = "offline"    // failed; waiting before the next attempt
	Ended      State = "ended"      // a file's end, or closed; nothing will follow
)

// Status is a source's condition at one moment. Times are wall clock.
type Status struct {
	State      State
	Since      time.Time     // when State began
	Err        string        // why it is stalled, frozen or offline; empty when live
	LastFrame  time.Time     // arrival of the newest frame; zero before the first
	Changed    time.Time     // while frozen: arrival of the first frame that shows what all later ones do
	Frames     uint64        // frames received, the dropped ones included
	Dropped    uint64        // frames thrown away because the consumer was slower than a live source
	Reconnects uint64        // times the source came back after a failure
	FrozenFor  time.Duration // that it has been frozen in all, before the present time if it is
	Stalls     uint64        // times an open source gave no frame for longer than the stall time-out
}
