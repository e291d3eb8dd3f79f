package memorybank

import "time"

// Snapshot is the bank at one instant. It never changes and may be kept as long as anyone likes.
type Snapshot struct {
	Version uint64        // frames added so far; 0 is the empty bank
	Epoch   time.Time     // what entries' times count from
	Now     time.Duration // the newest frame's time
	Entries []Entry       // the strategy's, oldest first, spans ordered and disjoint; read-only
	Newest  Entry         // the newest frame, Role Newest; the zero Entry when the bank is empty

	strategy Strategy
}

// Select returns what a prompt about this snapshot shows, in prompt order: never more than budget visual tokens (rows of Tokens);
// 0 means as many as the strategy likes. query is the question's embedding, nil when there is none. An empty bank gives nothing.
func (s *Snapshot) Select(query []float32, budget int) []Entry {
	if s.Version == 0 {
		return nil
	}
	return s.strategy.Select(s, query, max(budget, 0))
}

// Wall returns the wall-clock time of an entry's time.
func (s *Snapshot) Wall(d time.Duration) time.Time { return s.Epoch.Add(d) }
