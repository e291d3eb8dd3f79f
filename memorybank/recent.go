package memorybank

// Recent keeps the newest N frames (16 when N is 0) and shows them all: what a model without a memory sees. It is the
// baseline that every memory has to beat on questions about the past. A smaller budget shows fewer, the newest first.
type Recent struct{ N int }

func (r Recent) size() int {
	if r.N <= 0 {
		return 16
	}
	return r.N
}

// Update implements Strategy.
func (r Recent) Update(old []Entry, e Entry) []Entry {
	if drop := len(old) + 1 - r.size(); drop > 0 {
		old = old[drop:]
	}
	return append(append(make([]Entry, 0, len(old)+1), old...), e)
}

// Select implements Strategy: Detail entries in time order, the newest frame last as Newest.
func (r Recent) Select(s *Snapshot, _ []float32, budget int) []Entry {
	left := newBudget(budget)
	first := len(s.Entries)
	for first > 0 && left.take(s.Entries[first-1]) {
		first--
	}
	if first == len(s.Entries) {
		return nil
	}
	shown := append([]Entry(nil), s.Entries[first:]...)
	if last := &shown[len(shown)-1]; last.ID == s.Newest.ID {
		last.Role = Newest
	}
	return shown
}
