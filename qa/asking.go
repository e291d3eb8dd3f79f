package qa

import (
	"context"
	"sync"
)

// asking knows which questions are being answered, so that one can wait for those that began before.
type asking struct {
	mu     sync.Mutex
	next   uint64
	active map[uint64]bool
	ended  chan struct{} // closed by the next that ends; nil when nobody waits
}

// begin counts one; the function ends it.
func (a *asking) begin() (end func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.active == nil {
		a.active = map[uint64]bool{}
	}
	id := a.next
	a.next++
	a.active[id] = true
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

// older waits for those that began before it was called.
func (a *asking) older(ctx context.Context) error {
	a.mu.Lock()
	before := a.next
	a.mu.Unlock()
	for {
		a.mu.Lock()
		waits := false
		for id := range a.active {
			waits = waits || id < before
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
