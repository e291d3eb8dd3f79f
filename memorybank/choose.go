package memorybank

import (
	"cmp"
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
	switch {
	case left.unlimited || len(entries) == 0:
		return entries
	case len(query) == 0 || !slices.ContainsFunc(entries, func(e Entry) bool { return e.Indicator.Dim() == len(query) }):
		return spread(entries, left)
	}
	near := nearest(entries, query)
	if s.Prefer != AnyTime {
		rows, n := 0, 0
		for n < len(near) && rows < 2*left.left {
			rows += entries[near[n]].Tokens.Rows
			n++
		}
		slices.SortStableFunc(near[:n], func(i, j int) int {
			c := cmp.Compare(entries[i].Start, entries[j].Start)
			if s.Prefer == Latest {
				return -c
			}
			return c
		})
	}
	return take(entries, near, left)
}

// nearest returns entries' places, the nearest to query first.
func nearest(entries []Entry, query []float32) []int {
	type place struct {
		cosine float64
		i      int
	}
	ranked := make([]place, len(entries))
	for i, e := range entries {
		ranked[i] = place{e.Indicator.Cosine(query), i}
	}
	slices.SortFunc(ranked, func(a, b place) int {
		if c := cmp.Compare(b.cosine, a.cosine); c != 0 {
			return c
		}
		return cmp.Compare(a.i, b.i)
	})
	order := make([]int, len(ranked))
	for k, r := range ranked {
		order[k] = r.i
	}
	return order
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
	slices.Sort(taken)
	out := make([]Entry, len(taken))
	for k, i := range taken {
		out[k] = entries[i]
	}
	return out
}

// spread takes as many entries as fit, spread evenly. It keeps IDs, so cached work stays valid, and never claims a span it does not
// show.
func spread(entries []Entry, left *budget) []Entry { return thin(entries, len(entries), left) }

// thin is spread, of at most most entries. Where entries have different numbers of rows, what is left over goes to the latest of the others
// that fit.
func thin(entries []Entry, most int, left *budget) []Entry {
	most = max(min(most, len(entries)), 0)
	n, least := most, math.MaxInt
	if !left.unlimited {
		for _, e := range entries {
			least = min(least, e.Tokens.Rows)
		}
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
	slices.Sort(places)
	picked := make([]Entry, len(places))
	for i, p := range places {
		picked[i] = entries[p]
	}
	return picked
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
