package bench

import "afterimage/memorybank"

// Blind remembers nothing and shows nothing: the baseline that answers from the question alone.
type Blind struct{}

// Update keeps e, which a bank needs to know what time it is.
func (Blind) Update(_ []memorybank.Entry, e memorybank.Entry) []memorybank.Entry {
	return []memorybank.Entry{e}
}

// Select shows nothing.
func (Blind) Select(*memorybank.Snapshot, []float32, int) []memorybank.Entry { return nil }

// NewestOnly shows the newest frame: the baseline that sees the present and has no past.
type NewestOnly struct{}

// Update keeps e alone.
func (NewestOnly) Update(_ []memorybank.Entry, e memorybank.Entry) []memorybank.Entry {
	return []memorybank.Entry{e}
}

// Select shows the newest frame where the budget allows.
func (NewestOnly) Select(s *memorybank.Snapshot, _ []float32, budget int) []memorybank.Entry {
	if len(s.Entries) == 0 || budget > 0 && s.Newest.Tokens.Rows > budget {
		return nil
	}
	e := s.Newest
	e.Role = memorybank.Newest
	return []memorybank.Entry{e}
}
