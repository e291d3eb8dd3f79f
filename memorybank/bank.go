package memorybank

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Strategy decides which entries stay and which are shown. Implementations are values without state of their own: what they
// know of the past is in the entries, so a snapshot needs no copy and a saved bank needs nothing else.
type Strategy interface {
	// Update returns the entries after frame e, oldest first. old is read-only and stays valid: snapshots hold it. e.ID has
	// its low 8 bits zero; the 255 IDs after it are the strategy's, for entries that it makes in this update.
	Update(old []Entry, e Entry) []Entry
	// Select returns what a prompt shows, in prompt order, in at most budget visual tokens; 0 or less means as many as
	// the strategy likes. query is the question's embedding, nil when there is none. It must not change s.
	Select(s *Snapshot, query []float32, budget int) []Entry
}

// clocked is a Strategy that needs to know the time of day. on returns it for entries whose times count from epoch.
type clocked interface {
	on(epoch time.Time) Strategy
}

// idStep is the distance between two frames' IDs; see Strategy.Update.
const idStep = 1 << 8

// Bank holds the entries of one stream. One goroutine adds, any number take snapshots.
type Bank struct {
	strategy Strategy
	store    *Store     // nil: in memory only
	adding   sync.Mutex // only to catch a second writer
	writing  sync.Mutex // held while current changes: by Add and Forget
	current  atomic.Pointer[Snapshot]
	evicted  atomic.Uint64

	mu      sync.Mutex
	changed chan struct{} // closed by the next Add; nil when nobody waits
}

// New returns an empty bank. Entries' times count from epoch, which is a time on the wall clock; its Location is the one that
// prompts speak in.
func New(epoch time.Time, s Strategy) *Bank {
	if c, ok := s.(clocked); ok {
		s = c.on(epoch)
	}
	b := &Bank{strategy: s}
	b.current.Store(&Snapshot{Epoch: epoch, strategy: s})
	return b
}

// Add takes one frame: Tokens on the encoder's own grid, At, and Thumb and Indicator if there are. Without an Indicator, the mean
// of its rows becomes it. Start, End, Weight, Role, Level and ID are set here. Time never runs backwards in a bank: a frame that claims to be older than the newest one counts as just as old.
// The bank owns Tokens and Thumb from here on; nobody may write to them. Add panics when called concurrently, and when the
// number of rows is not that of the grid: both are errors of the program, not of its input.
func (b *Bank) Add(e Entry) {
	if !b.adding.TryLock() {
		panic("memorybank: Bank.Add called concurrently")
	}
	defer b.adding.Unlock()
	if n := e.Grid.H * e.Grid.W; n != e.Tokens.Rows || n == 0 || len(e.Tokens.Data) != n*e.Tokens.Cols {
		panic(fmt.Sprintf("memorybank: Bank.Add: grid %dx%d with %d rows of %d, %d values",
			e.Grid.H, e.Grid.W, e.Tokens.Rows, e.Tokens.Cols, len(e.Tokens.Data)))
	}
	if e.Indicator.None() {
		e.Indicator = NewIndicator(gist(e.Tokens))
	}
	b.writing.Lock()
	old := b.current.Load()
	e.At = max(e.At, old.Now)
	e = b.put(e, old.Version+1)
	b.writing.Unlock()
	if b.store != nil {
		b.store.keep(e) // may wait for the disk, and whoever forgets must not wait for that
	}
}

// put makes e the bank's frame of that number, and returns it as it was remembered. The caller holds writing.
func (b *Bank) put(e Entry, number uint64) Entry {
	old := b.current.Load()
	e.Start, e.End, e.Weight, e.Role = e.At, e.At, 1, Detail
	e.ID, e.Level = number*idStep, 0
	e.part, e.seq, e.merges, e.exemplar, e.ward, e.near = 0, 0, 0, nil, 0, 0
	next := *old
	next.Version, next.Now = number, e.At
	next.Entries, next.Newest = b.strategy.Update(old.Entries, e), e
	b.evicted.Add(uint64(max(0, len(old.Entries)+1-len(next.Entries))))
	next.Newest.Role = Newest
	b.publish(&next)
	return e
}

// publish makes next the newest snapshot.
func (b *Bank) publish(next *Snapshot) {
	b.current.Store(next)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// Next returns the newest snapshot as soon as its Version is above after, or ctx's error.
func (b *Bank) Next(ctx context.Context, after uint64) (*Snapshot, error) {
	for {
		b.mu.Lock()
		if s := b.Snapshot(); s.Version > after {
			b.mu.Unlock()
			return s, nil
		}
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Evicted counts the entries that the strategy let go of, merged into others or dropped, to stay within its bounds.
func (b *Bank) Evicted() uint64 { return b.evicted.Load() }

// Snapshot returns the bank as it is now. It costs one atomic load, whatever the bank holds.
func (b *Bank) Snapshot() *Snapshot { return b.current.Load() }
