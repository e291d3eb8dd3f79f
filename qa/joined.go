package qa

import (
	"context"
	"fmt"
	"sync"

	"afterimage/internal/compute"
	"afterimage/memorybank"
)

// joined keeps the joined rows of the newest prompt's entries: the next prompt shows most of them again, and an entry never changes.
type joined struct {
	mu   sync.Mutex
	kept map[uint64]compute.Matrix // by Entry.ID
}

// rows returns the entries' rows in the language model's space; without a join that is what they are in already.
func (j *joined) rows(ctx context.Context, join Joiner, entries []memorybank.Entry) ([]compute.Matrix, error) {
	rows := make([]compute.Matrix, len(entries))
	if join == nil {
		for i, e := range entries {
			rows[i] = e.Tokens
		}
		return rows, nil
	}
	j.mu.Lock()
	kept := j.kept
	j.mu.Unlock()
	var fresh []memorybank.Entry
	for _, e := range entries {
		if _, ok := kept[e.ID]; !ok {
			fresh = append(fresh, e)
		}
	}
	var made []compute.Matrix
	if len(fresh) > 0 { // else the device is not asked at all
		var err error
		if made, err = join(ctx, fresh); err != nil {
			return nil, err
		}
	}
	if len(made) != len(fresh) {
		return nil, fmt.Errorf("the join gave %d matrices for %d entries", len(made), len(fresh))
	}
	next := make(map[uint64]compute.Matrix, len(entries))
	for i, e := range fresh {
		next[e.ID] = made[i]
	}
	for i, e := range entries {
		m, ok := next[e.ID]
		if !ok {
			m = kept[e.ID]
		}
		next[e.ID], rows[i] = m, m
	}
	j.mu.Lock()
	j.kept = next
	j.mu.Unlock()
	return rows, nil
}

// drop forgets them all.
func (j *joined) drop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.kept = nil
}
