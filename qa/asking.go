package qa

import (
	"context"
	"sync"
)

// asking counts the questions that are being answered, so that one can wait for those that began before.
type asking struct {
	mu      sync.Mutex
	current *sync.WaitGroup
}

// begin counts one; the function ends it.
func (a *asking) begin() (done func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current == nil {
		a.current = new(sync.WaitGroup)
	}
	a.current.Add(1)
	return a.current.Done
}

// older waits for those that began before it was called.
func (a *asking) older(ctx context.Context) error {
	a.mu.Lock()
	group := a.current
	a.current = nil // later ones are counted anew
	a.mu.Unlock()
	if group == nil {
		return nil
	}
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.current == nil { // so that the next call waits for them too
			a.current = group
		} else {
			a.current.Add(1)
			go func(next *sync.WaitGroup) { <-done; next.Done() }(a.current)
		}
		return ctx.Err()
	}
}
