package memorybank

import (
	"cmp"
	"container/heap"
	"math"
	"slices"
)

// Order is which of several fitting moments a question means.
type Order int8

// What questions mean: any moment, "the first car", "the last car".
const (
	AnyTime Order = iota
	Earliest
	Latest
)

// String is "first" or "last"; "" for any moment.
func (o Order) String() string {
	switch o {
	case Earliest:
		return "first"
	case Latest:
		return "last"
	}
	return ""
}

// choose is how every strategy fits entries into what is left of a budget; what it takes is subtracted. Without a limit it
// returns them all. With a query it takes those whose indicators lie nearest to it (top-V by cosine; ties: the earlier in
// entries), and where the question means the first or the last of them (Snapshot.Prefer), the earliest or latest among the
// nearest twice as many as fit. Without a query, or where no entry has an indicator, it spreads over entries evenly. The result
// keeps entries' order and IDs.
func choose(s *Snapshot, entries []Entry, query []float32, left *budget) []Entry {
	return chooseBut(s, entries, -1, query, left)
}

// chooseBut is choose; where there is a query to choose by, it leaves out the entry at place but (-1: none).
func chooseBut(s *Snapshot, entries []Entry, but int, query []float32, left *budget) []Entry {
	switch {
	case left.unlimited || len(entries) == 0:
		return entries
	case !answerable(entries, query):
		return spread(entries, left)
	}
	near := nearest(entries, but, query)
	var taken []int
	if s.Prefer != AnyTime {
		var among []int
		for rows := 0; rows < 2*left.left && len(*near) > 0; {
			i := near.pop()
			among = append(among, i)
			rows += entries[i].Tokens.Rows
		}
		slices.SortStableFunc(among, func(i, j int) int {
			c := cmp.Compare(entries[i].Start, entries[j].Start)
			if s.Prefer == Latest {
				return -c
			}
			return c
		})
		for _, i := range among {
			if left.take(entries[i]) {
				taken = append(taken, i)
			}
		}
	}
	for len(*near) > 0 {
		if i := near.pop(); left.take(entries[i]) {
			taken = append(taken, i)
		} else { // it never will, and neither will those as large
			near.drop(func(i int) bool { return entries[i].Tokens.Rows > left.left })
		}
	}
	return inOrder(entries, taken)
}

// answerable reports whether some of entries can be compared with query.
func answerable(entries []Entry, query []float32) bool {
	for i := range entries {
		if len(query) > 0 && entries[i].Indicator.Dim() == len(query) {
			return true
		}
	}
	return false
}

// byNearness is entries' places as a heap, the nearest to a question first (ties: the earlier in entries).
type byNearness []nearness

type nearness struct {
	cosine float64
	i      int
}

func (h byNearness) Len() int { return len(h) }
func (h byNearness) Less(a, b int) bool {
	return h[a].cosine > h[b].cosine || h[a].cosine == h[b].cosine && h[a].i < h[b].i
}
func (h byNearness) Swap(a, b int) { h[a], h[b] = h[b], h[a] }
func (h *byNearness) Push(any)     {}
func (h *byNearness) Pop() any     { *h = (*h)[:len(*h)-1]; return nil }

// pop takes the nearest place out.
func (h *byNearness) pop() int {
	i := (*h)[0].i
	heap.Pop(h)
	return i
}

// drop takes out all places of which out is true.
func (h *byNearness) drop(out func(i int) bool) {
	*h = slices.DeleteFunc(*h, func(n nearness) bool { return out(n.i) })
	heap.Init(h)
}

// nearest orders entries' places, except but, by their cosine to query.
func nearest(entries []Entry, but int, query []float32) *byNearness {
	h := make(byNearness, 0, len(entries))
	for i := range entries {
		if i != but {
			h = append(h, nearness{entries[i].Indicator.Cosine(query), i})
		}
	}
	heap.Init(&h)
	return &h
}

// take spends left on entries in the order of places, passes over those that do not fit, and returns what it took in entries' order.
func take(entries []Entry, places []int, left *budget) []Entry {
	var taken []int
	for _, i := range places {
		if left.left == 0 && !left.unlimited {
			break
		}
		if left.take(entries[i]) {
			taken = append(taken, i)
		}
	}
	return inOrder(entries, taken)
}

// inOrder returns the entries at places, in entries' order.
func inOrder(entries []Entry, places []int) []Entry {
	slices.Sort(places)
	out := make([]Entry, len(places))
	for k, i := range places {
		out[k] = entries[i]
	}
	return out
}

// leastRows is the number of rows of the smallest of entries.
func leastRows(entries []Entry) int {
	least := math.MaxInt
	for i := range entries {
		least = min(least, entries[i].Tokens.Rows)
	}
	return least
}

// spread takes as many entries as fit, spread evenly. It keeps IDs, so cached work stays valid, and never claims a span it does not
// show.
func spread(entries []Entry, left *budget) []Entry { return thin(entries, len(entries), left) }

// thin is spread, of at most most entries. Where entries have different numbers of rows, what is left over goes to the latest of the others
// that fit.
func thin(entries []Entry, most int, left *budget) []Entry {
	most = max(min(most, len(entries)), 0)
	n, least := most, leastRows(entries)
	if !left.unlimited {
		n = min(n, left.left/max(least, 1))
	}
	for n > 0 {
		rows := 0
		for i := range n {
			rows += entries[(2*i+1)*len(entries)/(2*n)].Tokens.Rows
		}
		if left.unlimited || rows <= left.left {
			left.left -= rows
			break
		}
		n = min(n-1, max(n*left.left/rows, 1))
	}
	if n == len(entries) {
		return entries
	}
	places := make([]int, n, most)
	for i := range places {
		places[i] = (2*i + 1) * len(entries) / (2 * n)
	}
	for i, k := len(entries)-1, n-1; i >= 0 && len(places) < most && !left.unlimited && left.left >= least; i-- {
		if k >= 0 && places[k] == i {
			k--
		} else if left.take(entries[i]) {
			places = append(places, i)
		}
	}
	return inOrder(entries, places)
}

// budget counts visual tokens down.
type budget struct {
	left      int
	unlimited bool
}

func newBudget(tokens int) budget { return budget{left: tokens, unlimited: tokens == 0} }

// take reports whether e still fits, and if so spends its rows.
func (b *budget) take(e Entry) bool {
	if b.unlimited {
		return true
	}
	if e.Tokens.Rows > b.left {
		return false
	}
	b.left -= e.Tokens.Rows
	return true
}
