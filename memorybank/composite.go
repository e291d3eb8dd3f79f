package memorybank

import (
	"fmt"
	"slices"
)

// Composite is what we found best: a coarse past that rarely changes, the newest frames, and what the question is about, in this
// order, so that the cached K/V of a prompt's beginning survives most frames and is the same for every question. Zero fields mean the
// defaults.
//
//   - Past: spans of time, at most Past of them, made as Flash makes its clusters: neighbours whose means are nearest merge first (Ward's
//     cost), so that a passage keeps a span of its own for a long time and an empty street is one. A question is shown those whose
//     indicators are nearest to it (adaptive selection as in VideoStreaming, arXiv 2405.16009), in time order. Each keeps one frame whole, as
//     Flash's do, for questions about that moment: with averaged rows alone, states at a time in the last hour were told right in 73 % of 44
//     questions, and in all 44 with the frame.
//   - Coarse: all time up to Recent, in spans that double towards the past: units of Unit frames; of each size at most two (an exponential
//     histogram: Datar et al., SIAM J. Comput. 31(6), 2002). The last unit grows with every frame, and what is older changes the more seldom
//     the older it is. An hour takes 16 to 18 spans, thirty days 34.
//   - Recent: the newest frame and that many before it, averaged 2x2, each by itself. A frame goes into Past and Coarse when it leaves here.
//
// Within a budget the newest frame comes first, then the recent ones, then what the question selects; a quarter of the budget is for the
// coarse past. On a view that is narrowed to a stretch of time there is no coarse past: its spans would stick out.
type Composite struct {
	Past   int // most spans remembered; 1024
	Unit   int // frames in the smallest coarse span; 16; below 0 there is no coarse past
	Recent int // frames before the newest one that are shown by themselves; 3; below 0 none
	Tokens int // visual tokens shown when a question has no budget of its own; 512
}

func (c Composite) sizes() Composite {
	return Composite{Past: max(orElse(c.Past, 1024), 1), Unit: orElse(c.Unit, 16), Recent: orElse(c.Recent, 3), Tokens: max(orElse(c.Tokens, 512), 1)}
}

// orElse is a size of a strategy that can do without: 0 means the default, below 0 none.
func orElse(v, otherwise int) int {
	if v == 0 {
		return otherwise
	}
	return max(v, 0)
}

// The lists of a Composite, in the order in which they stand in its entries; each is in time order.
const (
	coarsePart = iota
	pastPart
	recentPart
)

// IDs of what Update makes of one frame, after Flash's.
const (
	coarseID  = 3 // the last coarse unit with one more frame
	doubledID = 4 // and the coarse spans that merge because of it, one a size
)

// Update implements Strategy.
func (c Composite) Update(old []Entry, e Entry) []Entry {
	c = c.sizes()
	coarse, past, recent := parts(old)
	entries := make([]Entry, 0, len(old)+3)
	frame := clusterOf(e)
	frame.part = recentPart
	if len(recent) <= c.Recent {
		return append(append(append(append(entries, coarse...), past...), recent...), frame)
	}
	leaving := recent[0]
	leaving.part = pastPart

	entries = append(entries, coarse...)
	if c.Unit > 0 {
		entries = grow(entries, leaving, c.Unit, e.ID)
	}
	n := len(entries)
	if len(past) > 0 {
		leaving.ward = wardCost(past[len(past)-1], leaving)
	}
	entries = append(append(entries, past...), leaving)
	if len(entries)-n > c.Past {
		entries = entries[:n+len(mergeCheapest(entries[n:], e.ID+mergedID))]
	}
	return append(append(entries, recent[1:]...), frame)
}

// parts splits entries into a Composite's lists.
func parts(entries []Entry) (coarse, past, recent []Entry) {
	isIn := func(part uint8) func(Entry) bool { return func(e Entry) bool { return e.part >= part } }
	i, j := slices.IndexFunc(entries, isIn(pastPart)), slices.IndexFunc(entries, isIn(recentPart))
	if j < 0 {
		j = len(entries)
	}
	if i < 0 {
		i = j
	}
	return entries[:i:i], entries[i:j:j], entries[j:]
}

// pooled returns a frame, averaged 2x2 once, by itself.
func pooled(e Entry) Entry {
	p := e
	p.ID, p.Role, p.Level = e.ID+pooledID, Synopsis, e.Level+1
	p.Grid, p.Tokens = pool2x2(e.Grid, e.Tokens)
	return p
}

// grow adds a frame to the coarse spans, which belong to the caller. seq is a span's size: twice as many units each.
func grow(coarse []Entry, frame Entry, unit int, id uint64) []Entry {
	frame.part, frame.exemplar = coarsePart, nil
	if last := len(coarse) - 1; last < 0 || coarse[last].seq > 0 || coarse[last].Weight >= float32(unit) || !alike(coarse[last], frame) {
		frame.ID, frame.seq = id+coarseID, 0
		coarse = append(coarse, frame)
	} else {
		coarse[last] = average(coarse[last], frame, id+coarseID)
	}
	if coarse[len(coarse)-1].Weight < float32(unit) {
		return coarse
	}
	// Three of a size: the older two become one of the next.
	for i, size := len(coarse)-3, uint64(0); i >= 0 && coarse[i].seq == size; size++ {
		coarse[i] = average(coarse[i], coarse[i+1], id+doubledID+size)
		coarse[i].seq = size + 1
		coarse = slices.Delete(coarse, i+1, i+2)
		i -= 2
	}
	return coarse
}

// alike reports whether the rows of a and b can be averaged.
func alike(a, b Entry) bool { return a.Grid == b.Grid && a.Tokens.Cols == b.Tokens.Cols }

// average makes one span of two neighbours, a the earlier; where their rows cannot be averaged, the heavier one stands for both. Of the two
// pictures the heavier one's stays (ties: the earlier's).
func average(a, b Entry, id uint64) Entry {
	m := a
	if b.Weight > a.Weight {
		m.At, m.Thumb = b.At, b.Thumb
	}
	switch {
	case alike(a, b):
		m.Tokens = mean(a.Tokens, a.Weight, b.Tokens, b.Weight)
	case b.Weight > a.Weight:
		m.Grid, m.Tokens = b.Grid, b.Tokens
	}
	m.ID, m.End, m.Weight, m.merges = id, b.End, a.Weight+b.Weight, a.merges+b.merges+1
	m.Indicator = mixIndicators(a.Indicator, a.Weight, b.Indicator, b.Weight)
	return m
}

// Prefix implements prefixer: the coarse past, the recent frames, the newest frame.
func (c Composite) Prefix(s *Snapshot, budget int) []Entry {
	shown, _ := c.prefix(s, budget)
	return shown
}

func (c Composite) prefix(s *Snapshot, tokens int) ([]Entry, budget) {
	c = c.sizes()
	if tokens == 0 {
		tokens = c.Tokens
	}
	left := newBudget(tokens)
	coarse, _, recent := parts(s.Entries)
	newest := s.Newest.Tokens.Rows > 0 && left.take(s.Newest)
	if k := len(recent) - 1; newest && k >= 0 && recent[k].ID == s.Newest.ID+pooledID {
		recent = recent[:k] // it is shown whole
	}
	latest := make([]int, len(recent))
	for i := range latest {
		latest[i] = len(recent) - 1 - i
	}
	recent = take(recent, latest, &left)
	var shown []Entry
	if part := min(tokens/4, left.left); part > 0 && !s.narrowed {
		shown = append(shown, spread(coarse, &budget{left: part})...)
	}
	for _, e := range shown {
		left.left -= e.Tokens.Rows
	}
	shown = append(shown, recent...)
	if newest {
		shown = append(shown, s.Newest)
	}
	return shown, left
}

// Select implements Strategy: what Prefix gives, then the spans of the past that the question selects, in time order.
func (c Composite) Select(s *Snapshot, query []float32, budget int) []Entry {
	shown, left := c.prefix(s, budget)
	_, past, _ := parts(s.Entries)
	return append(shown, choose(s, past, query, &left)...)
}

// restored implements restorer.
func (c Composite) restored(entries []Entry) error {
	coarse, past, recent := parts(entries)
	for part, list := range [][]Entry{coarsePart: coarse, pastPart: past, recentPart: recent} {
		for i := range list {
			e := &list[i]
			if int(e.part) != part {
				return fmt.Errorf("entry of list %d among those of list %d", e.part, part)
			}
			if i > 0 && e.Start < list[i-1].End {
				return fmt.Errorf("list %d: entry %d begins before the one before it ends", part, i)
			}
			if (part != coarsePart) != (e.exemplar != nil) {
				return fmt.Errorf("list %d: entry %d: a whole frame is kept of it: %v", part, i, e.exemplar != nil)
			}
			if part == pastPart && i > 0 {
				e.ward = wardCost(list[i-1], *e)
			}
		}
	}
	return nil
}
