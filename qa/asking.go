package qa

import (
	"context"
	"sync"
)

// asking knows which questions are being answered, so that one can wait for those that began before.
type asking struct {
	mu     sync.Mutex
	next   uint64
	active map[uint64]uint64 // the version of the snapshot that each holds, at least
	ended  chan struct{}     // closed by the next that ends; nil when nobody waits
}

// begin counts one that holds a snapshot of that version or later; the function ends it.
func (a *asking) begin(version uint64) (end func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.active == nil {
		a.active = map[uint64]uint64{}
	}
	id := a.next
	a.next++
	a.active[id] = version
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.active, id)
		if a.ended != nil {
			close(a.ended)
			a.ended = nil
		}
	}
}

// older waits for those that began before it was called and may hold a snapshot from before a version.
func (a *asking) older(ctx context.Context, version uint64) error {
	a.mu.Lock()
	before := a.next
	a.mu.Unlock()
	for {
		a.mu.Lock()
		waits := false
		for id, v := range a.active {
			waits = waits || id < before && v < version
		}
		if !waits {
			a.mu.Unlock()
			return nil
		}
		if a.ended == nil {
			a.ended = make(chan struct{})
		}
		ended := a.ended
		a.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
