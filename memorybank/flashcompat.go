package memorybank

import (
	"cmp"
	"math"
	"slices"
)

// flashCompat is one step of the released code's streaming synopsis; see Flash. rows, which belong to the caller, are the clusters and the
// new frame. seq of an entry is its time: the mean of its members' row numbers, rounded (half to even).
func flashCompat(rows []Entry, most int, id uint64) []Entry {
	for i := range rows {
		rows[i].seq = uint64(i)
	}
	if len(rows) <= most {
		return rows
	}
	if !clusterable(rows) {
		return flashCompat(rows[1:], most, id)
	}
	x := wide(rows)
	different := make([]int, len(x))
	for i := range different {
		different[i] = i
	}
	slices.SortStableFunc(different, func(i, j int) int { return slices.Compare(x[i], x[j]) })
	different = slices.CompactFunc(different, func(i, j int) bool { return slices.Equal(x[i], x[j]) })
	apart := max(most-len(different), 0) // rows that stay by themselves
	start := different
	if apart == 0 {
		start = nil
		for _, p := range permutation(len(different), id)[:most] {
			start = append(start, different[p])
		}
	}
	weights := make([]float64, len(rows))
	for i, r := range rows {
		weights[i] = float64(r.Weight)
	}
	centroids, labels := kmeans(x, weights, start, spares(len(rows), id))

	type timed struct {
		Entry
		time float64
	}
	var next []timed
	for i, r := range rows[:apart] {
		next = append(next, timed{r, float64(i)})
	}
	for j, c := range centroids {
		var members []Entry
		sum := 0.0
		for i, l := range labels {
			if l == j && i >= apart {
				members = append(members, rows[i])
				sum += float64(i)
			}
		}
		if len(members) == 0 {
			continue
		}
		slices.SortFunc(members, func(a, b Entry) int { return cmp.Compare(a.Start, b.Start) })
		m := cluster(members, c, id+mergedID+uint64(j))
		if m.ID == id+mergedID+uint64(j) {
			near := members[0]
			for _, b := range members[1:] {
				// Two single frames are equally far from their mean, whatever rounding says: a tie, so the earlier stays.
				if single := len(members) == 2 && m.Weight == 2; !single && distance(b.exemplar.own, m.Tokens) < distance(near.exemplar.own, m.Tokens) {
					near = b
				}
			}
			m.exemplar, m.At, m.Thumb = near.exemplar, near.At, near.Thumb
		}
		next = append(next, timed{m, sum / float64(len(members))})
	}
	slices.SortStableFunc(next, func(a, b timed) int { return cmp.Compare(a.time, b.time) })
	out := make([]Entry, len(next))
	for i, n := range next {
		out[i] = n.Entry
		out[i].seq = uint64(math.RoundToEven(n.time))
	}
	return out
}

// nearestFrames returns for each of the heaviest entries, the heaviest first, the frame kept by any entry whose averaged rows are nearest
// to it (ties: that of the first entry); as many of most as fit.
func nearestFrames(entries []Entry, most int, left *budget) []Entry {
	var frames []Entry
	for _, i := range heaviest(entries, most) {
		best, least := i, math.Inf(1)
		if len(entries) <= most {
			least = math.Inf(-1) // all are shown, each by its own
		} else if alike(entries[i], Entry{Grid: entries[i].Grid, Tokens: entries[i].exemplar.own}) {
			least = distance(entries[i].exemplar.own, entries[i].Tokens)
		}
		for k, e := range entries {
			if e.Grid != entries[i].Grid || e.exemplar.own.Cols != entries[i].Tokens.Cols || k == best {
				continue
			}
			if d := distanceBelow(e.exemplar.own.Data, entries[i].Tokens.Data, least); d < least || d == least && k < best {
				best, least = k, d
			}
		}
		frame := entries[best].exemplar.frame
		if !left.take(frame) {
			break
		}
		frames = append(frames, frame)
	}
	return frames
}

// distanceBelow is distance; once it is above least it may be any number above that.
func distanceBelow(a, b []float32, least float64) float64 {
	sum := 0.0
	for len(a) > 0 && sum <= least {
		n := min(64, len(a))
		for i, v := range a[:n] {
			d := float64(v) - float64(b[i])
			sum += d * d
		}
		a, b = a[n:], b[n:]
	}
	return sum
}

// Positions returns where AM-RoPE puts the rows of what Select showed, for a decoder with M-RoPE (Qwen2-VL's: time, height, width), in
// the order shown, and where text goes on. start is the position of the first visual token, s the snapshot that was asked, shown what
// it gave, grids how the rows of each lie as the model reads them (nil: as in memory). S is the number of rows at full resolution. A row of
// those, of frame number p and in cell (y, x), is at (start+p, start+y, start+x); one of a cluster, whose time is q, at (start+S+q, start+S+y,
// start+S+x), on all three axes. q is the mean of its frames' numbers, halves to even.
//
// Text begins behind the greatest position of all. The released code trains with start+S+max(T-1, h-1, w-1)+1, where T is the number of
// clusters and h, w their grid, worked out before times take the place of cluster numbers, so that clusters may come to lie behind the
// beginning of the text. With Compat, both are as in the released code's streaming: q is the mean of row numbers (Q1), and text begins at
// start + all rows (Q3).
func (f Flash) Positions(s *Snapshot, shown []Entry, grids []Grid, start int) (rows [][3]int, text int) {
	times := make(map[uint64]int, len(s.Entries))
	seen := 0.0
	for _, e := range s.Entries {
		q := int(math.RoundToEven(seen + (float64(e.Weight)-1)/2))
		if f.Compat {
			q = int(e.seq)
		}
		times[e.ID] = q
		seen += float64(e.Weight)
	}
	grids = asRead(shown, grids)
	details, all := 0, 0
	for i, e := range shown {
		n := grids[i].H * grids[i].W
		all += n
		if e.Role != Synopsis {
			details += n
		}
	}
	rows = make([][3]int, 0, all)
	text = start
	for i, e := range shown {
		at, time := start, int(e.Frame())
		if e.Role == Synopsis {
			at, time = start+details, times[e.ID]
		}
		rows = append(rows, cells(grids[i], at, time)...)
		text = max(text, at+time+1, at+grids[i].H, at+grids[i].W)
	}
	if f.Compat {
		text = start + all
	}
	return rows, text
}

// Positions returns where a decoder with positions of three axes (time, height, width) puts the rows of what Select gave, in that order,
// counted from the first, and where text goes on. grids are how the rows of each lie as the model reads them; nil: as in memory. Flash has
// AM-RoPE's; with any other strategy every entry is the next moment, as the frames of a video are to Qwen2-VL.
func (s *Snapshot) Positions(shown []Entry, grids []Grid) (rows [][3]int, text int) {
	if f, ok := s.strategy.(Flash); ok {
		return f.Positions(s, shown, grids, 0)
	}
	grids = asRead(shown, grids)
	for i := range shown {
		for _, c := range cells(grids[i], 0, i) {
			rows = append(rows, c)
			text = max(text, c[0]+1, c[1]+1, c[2]+1)
		}
	}
	return rows, text
}

// asRead is grids, or those that entries have in memory.
func asRead(shown []Entry, grids []Grid) []Grid {
	if grids != nil {
		return grids
	}
	for _, e := range shown {
		grids = append(grids, e.Grid)
	}
	return grids
}

// cells are the positions of a grid at a time, all counted from at.
func cells(g Grid, at, time int) [][3]int {
	rows := make([][3]int, 0, g.H*g.W)
	for i := range g.H * g.W {
		rows = append(rows, [3]int{at + time, at + i/g.W, at + i%g.W})
	}
	return rows
}
