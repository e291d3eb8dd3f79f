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

// reach is how far outside its span an entry still answers for a moment: frames come every half second or so, and a live
// camera loses some.
const reach = 2 * time.Second

// Between returns the part of s that is about [from, to): the entries that hold anything of it, and the newest frame if it lies
// there. nil when there is nothing.
func (s *Snapshot) Between(from, to time.Duration) *Snapshot {
	part := &Snapshot{Version: s.Version, Epoch: s.Epoch, Now: s.Now, strategy: s.strategy}
	for _, e := range s.Entries {
		if e.Start < to && e.End+reach > from {
			part.Entries = append(part.Entries, e)
		}
	}
	if s.Newest.At >= from && s.Newest.At < to {
		part.Newest = s.Newest
	}
	if len(part.Entries) == 0 {
		return nil
	}
	return part
}

// At returns s as of t, as far as one picture tells: the exemplar of the entry that covers t is its newest frame. nil when no
// entry does.
func (s *Snapshot) At(t time.Duration) *Snapshot {
	for i, e := range s.Entries {
		later := i+1 < len(s.Entries) && s.Entries[i+1].Start <= t
		if later || t < e.Start-reach || t > e.End+reach {
			continue
		}
		frame := e
		if e.exemplar != nil {
			frame = e.exemplar.frame
		}
		newest := frame
		newest.Role = Newest
		return &Snapshot{Version: s.Version, Epoch: s.Epoch, Now: newest.At, Newest: newest, strategy: moment{newest}}
	}
	return nil
}

// moment shows one frame, whatever strategy remembered it.
type moment struct{ frame Entry }

// Update is never called: nothing is added to a moment.
func (m moment) Update(old []Entry, _ Entry) []Entry { return old }

// Select implements Strategy.
func (m moment) Select(_ *Snapshot, _ []float32, budget int) []Entry {
	if left := newBudget(budget); !left.take(m.frame) {
		return nil
	}
	return []Entry{m.frame}
}
