package memorybank

import (
	"fmt"
	"math"
	"slices"
)

// Forest is StreamForest's event memory (Zeng et al., "StreamForest: Efficient Online Video Understanding with Persistent Event Memory",
// arXiv 2509.24871, NeurIPS 2025): the current frame whole, the frames of the last seconds averaged 2x2 (short-term memory), and the past
// as events that merge under a quota (long-term memory). Zero fields mean the defaults.
//
// Segment says when the oldest short-term frames are an event: by default once 26 are there, up to the lowest cosine among the first 8
// pairs, so that 18 to 25 remain. An event of n frames becomes ceil(n/2) pictures, each the mean of a stretch of neighbouring frames. While
// there are more than Events pictures, the two neighbouring events with the least penalty (as of LeastPenalty; ties: the earliest) become
// one, of ceil((n1+n2)/2) pictures: 0.4*(1-cosine of their mean rows) + 0.2*time + 0.4*merges, where time is the mean of the two events'
// middles, in frames, over all frames so far, and merges the mean of how many events each was made of over the greatest such mean. To
// become fewer, the two neighbouring pictures of an event whose merging costs least (Ward's cost of their mean rows, as in Flash; ties: the
// earliest) are averaged, weighted by their frames, until there are as few as wanted. So pictures are spans of time, disjoint and in order,
// and together with the short-term frames their weights count every frame.
//
// Sizes are for a grid of 4x8: 32 rows of the newest frame, up to 25*8 of short-term frames and 35*8 of events make 512 at most. The paper
// has 729 + 18*128 + 5120 (80 pictures of 64), in frames at 1 a second.
//
// Where it departs from the released code, and why:
//   - A picture is 2x2 averaged rows; the paper's short-term frames are 128 tokens and its events 64 a frame, each merged from the finer ones
//     by likeness (ToMe), so that rows lose their place in the picture. An event has half the rows of its frames in both.
//   - Events are compared by the cosine of their mean rows. The code takes the mean of the best matches of tokens, which costs more and
//     needs ToMe. Consecutive frames likewise; the code compares all rows place by place.
//   - The code does not merge a single event, however much over the quota; here it becomes half as many pictures.
//   - A segment of more than 64 frames gives off 64 of them.
//
// With a budget below the bank's size, the newest frame comes first, then short-term frames, the newest first, in at most half of what
// is left, then events' pictures: those nearest to the question, or spread evenly where there is no query; then more short-term frames.
type Forest struct {
	Events  int       // most pictures of events; 35; below 0 is 1
	Segment Segmenter // what an event is; nil: Dips{}
}

func (f Forest) size() int {
	if f.Events == 0 {
		return 35
	}
	return max(f.Events, 1)
}

func (f Forest) segmenter() Segmenter {
	if f.Segment == nil {
		return Dips{}
	}
	return f.Segment
}

// The lists of a Forest, in the order in which they stand in its entries.
const (
	eventPart = iota // pictures; seq tells events apart, merges is their event's, and ward of an event's first is 1 - cosine with the event before
	shortPart
)

// longestEvent keeps what one update merges, and so the IDs that it needs, below 255.
const longestEvent = 64

// Update implements Strategy. Entries are in time order.
func (f Forest) Update(old []Entry, e Entry) []Entry {
	id := e.ID + mergedID
	n := listLength(old, eventPart)
	frame := pooled(e)
	frame.part = shortPart
	short := append(append(make([]Entry, 0, len(old)-n+1), old[n:]...), frame)
	cut := min(f.segmenter().Cut(short), len(short), longestEvent)
	pictures := make([]Entry, n, len(old)+1+longestEvent)
	copy(pictures, old)
	if cut > 0 {
		event := condense(slices.Clone(short[:cut]), (cut+1)/2, &id)
		markEvent(event, e.ID, 0)
		pictures = append(pictures, event...)
		linkEvent(pictures, n)
		pictures = f.grow(pictures, e.Frame()+1, &id)
	}
	return append(pictures, short[max(cut, 0):]...)
}

// markEvent makes pictures an event.
func markEvent(event []Entry, seq uint64, merges uint32) {
	for i := range event {
		event[i].part, event[i].seq, event[i].merges, event[i].ward = eventPart, seq, merges, 0
	}
}

// grow merges events, in place, until there are as few pictures as may be. frames is how many there were so far.
func (f Forest) grow(pictures []Entry, frames uint64, id *uint64) []Entry {
	for len(pictures) > f.size() {
		from, middle, to := leastPenalty(pictures, float64(frames))
		event := slices.Clone(pictures[from:to])
		seq, merged := event[0].seq, event[0].merges
		if middle < to {
			merged += pictures[middle].merges + 1
		}
		event = condense(event, (to-from+1)/2, id)
		markEvent(event, seq, merged)
		pictures = slices.Replace(pictures, from, to, event...)
		linkEvent(pictures, from)
		linkEvent(pictures, from+len(event))
	}
	return pictures
}

// leastPenalty returns the two events that merge: pictures[from:middle] and pictures[middle:to]. A single event has no second: middle is to.
func leastPenalty(pictures []Entry, frames float64) (from, middle, to int) {
	type event struct {
		at     int
		middle float64 // in frames
	}
	var events []event
	for i, seen := 0, 0.0; i < len(pictures); {
		n, weight := eventLength(pictures[i:]), 0.0
		for k := range n {
			weight += float64(pictures[i+k].Weight)
		}
		events = append(events, event{i, seen + weight/2})
		seen, i = seen+weight, i+n
	}
	events = append(events, event{at: len(pictures)}) // where the last one ends
	if len(events) == 2 {
		return 0, len(pictures), len(pictures)
	}
	most := 0.0
	for k := range len(events) - 2 {
		most = max(most, merges(&pictures[events[k].at], &pictures[events[k+1].at]))
	}
	best, least := 0, math.Inf(1)
	for k := range len(events) - 2 {
		a, b := events[k], events[k+1]
		p := penalty(pictures[b.at].ward, (a.middle+b.middle)/2/frames, merges(&pictures[a.at], &pictures[b.at])/most)
		if p < least {
			best, least = k, p
		}
	}
	return events[best].at, events[best+1].at, events[best+2].at
}

// eventLength counts the pictures of the first event.
func eventLength(pictures []Entry) int {
	n := 0
	for n < len(pictures) && pictures[n].seq == pictures[0].seq {
		n++
	}
	return n
}

// linkEvent works out how unlike the event that begins at i is to the one before it.
func linkEvent(pictures []Entry, i int) {
	if i >= len(pictures) {
		return
	}
	if i == 0 {
		pictures[0].ward = 0
		return
	}
	from := i - 1
	for from > 0 && pictures[from-1].seq == pictures[i-1].seq {
		from--
	}
	pictures[i].ward = 1 - cosine(eventMean(pictures[from:i]), eventMean(pictures[i:i+eventLength(pictures[i:])]))
}

// eventMean is the mean row of an event's frames. Pictures of another width than its first are left out.
func eventMean(event []Entry) []float64 {
	sum := make([]float64, event[0].Tokens.Cols)
	for _, p := range event {
		if p.Tokens.Cols != len(sum) {
			continue
		}
		for c, v := range gist(p.Tokens) {
			sum[c] += float64(p.Weight) * float64(v)
		}
	}
	return sum // its length does not matter to a cosine
}

// condense merges neighbours, in place, until there are most or fewer.
func condense(pictures []Entry, most int, id *uint64) []Entry {
	for i := 1; i < len(pictures); i++ {
		pictures[i].ward = wardCost(pictures[i-1], pictures[i])
	}
	for len(pictures) > most {
		pictures = mergeCheapest(pictures, *id)
		*id++
	}
	return pictures
}

// Select implements Strategy: the events' pictures, the short-term frames, the newest frame, in time order.
func (f Forest) Select(s *Snapshot, query []float32, budget int) []Entry {
	left := newBudget(budget)
	entries, newest := s.Entries, s.Newest.Tokens.Rows > 0 && left.take(s.Newest)
	if k := len(entries) - 1; newest && k >= 0 && entries[k].ID == s.Newest.ID+pooledID {
		entries = entries[:k] // it is shown whole
	}
	n := listLength(entries, eventPart)
	pictures, short := entries[:n], entries[n:]
	half := left
	half.left /= 2
	first := len(short)
	for first > 0 && half.take(short[first-1]) {
		first--
		left.take(short[first])
	}
	pictures = choose(s, pictures, query, &left)
	for first > 0 && left.take(short[first-1]) {
		first--
	}
	shown := append(append(make([]Entry, 0, len(pictures)+len(short)+1), pictures...), short[first:]...)
	if newest {
		shown = append(shown, s.Newest)
	}
	return shown
}

// restored implements restorer.
func (f Forest) restored(entries []Entry) error {
	n := listLength(entries, eventPart)
	if n > f.size() {
		return fmt.Errorf("events of %d pictures, at most %d can be held", n, f.size())
	}
	for i, e := range entries {
		switch {
		case i >= n && e.part != shortPart:
			return fmt.Errorf("entry.%d is not in the list it stands in", i)
		case i > 0 && e.Start < entries[i-1].End:
			return fmt.Errorf("entry.%d begins before the one before it ends", i)
		case i > 0 && i < n && e.seq < entries[i-1].seq:
			return fmt.Errorf("entry.%d is of an event before that of the one before it", i)
		}
	}
	for i := 0; i < n; i += eventLength(entries[i:n]) {
		linkEvent(entries[:n], i)
	}
	return nil
}
