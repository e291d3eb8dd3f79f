package memorybank

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Pyramid is the Pyramid Memory Bank of VideoChat-Online (Huang et al., "Online Video Understanding: OVBench and VideoChat-Online", arXiv
// 2501.00584, CVPR 2025): three lists of single frames, each list averaged 2x2 once more than the one before it. Frame number i goes to
// the first list whose Every divides i. A list that is over its Capacity gives up a frame, the earlier of the two neighbours
// that are most alike (the cosine of their mean rows; ties: the earliest pair), and that frame, averaged 2x2 again, goes to
// the next list; what the last list gives up is gone. Everything is shown, in time order. Zero fields mean the defaults.
//
// Capacity is 4, 16 and 64 frames, for a grid of 4x8: 4 of 32 rows, 16 of 8 and 64 of 2, with the newest frame 416 at most. The paper's
// grids have 256, 64 and 16 rows, its capacities are 2/2/12 (832 rows) online and 24/24/144 offline. Every is the paper's 8, 4, 1.
//
// Where it departs from the released code, which Compat reproduces, and why:
//   - Neighbours are neighbours in time. The code appends a demoted frame at the end of the next list, and compares it with what happened to
//     come there before it.
//   - The frame that is put in is compared too, before one goes. The code compares only what was there, so that a list of two has one pair
//     and always gives up its first: in the released online setting two of the three levels are plain queues. As the earlier
//     of a pair goes, a frame survives at least its own arrival in both.
//   - A demoted frame that finds the next list full makes that one demote a frame too. The code deletes that list's victim,
//     though the level below it may have room.
//   - A list of capacity 0 passes frames on to the next one. In the code 0 is "without limit"; with Compat it is 1024 frames, as nothing
//     here grows for ever. A list of capacity 1 gives up what it has; the code fails (the greatest of no pairs).
//   - The newest frame is always shown whole, instead of its averaged rows. In the code it has the rows of its list, mostly the coarsest.
//
// The cosine of neighbours is worked out once, when they become neighbours. The code's offline evaluation encodes all frames again for
// every question, restarts its schedule every 1000 frames (a multiple of 8, so nothing changes) and gives the last question of a
// video frames from after its time; that is of its runner, and not reproduced. Averages of 2x2 are exactly the code's bilinear
// halving. Rows are the encoder's output; the paper's are from before the projector.
//
// With a budget below the bank's size, the newest frame comes first, then frames at the levels they have: those nearest to the question, or
// spread evenly where there is no query. The paper has neither.
type Pyramid struct {
	Capacity [3]int // frames in each list, finest first; all zero: 4, 16, 64, or 2, 2, 12 with Compat; below 0 is 0
	Every    [3]int // which frames go to which list; all zero: 8, 4, 1; 0 or below: none
	Evict    Evict  // how a full list chooses; MostAlike
	Compat   bool   // the released code's rules
}

// Evict is how a list of a Pyramid chooses the frame that it gives up. Ties go to the earliest.
type Evict uint8

const (
	// MostAlike is the paper's: the earlier of the two neighbours with the highest cosine.
	MostAlike Evict = iota
	// Oldest is first in, first out.
	Oldest
	// Evenly is the frame whose two neighbours are nearest in time, so that what stays is spread evenly; never the first or the last.
	Evenly
	// LeastPenalty is StreamForest's choice (arXiv 2509.24871): the earlier of the two neighbours with the least
	// 0.4*(1-cosine) + 0.2*time + 0.4*merges, where time is the mean of their frame numbers over the number of frames so far, and merges the
	// mean of how many frames each has outlived as the later of a pair, itself included, over the greatest such mean in the list. So of
	// equally like pairs the older goes, and what stands for many already is spared.
	LeastPenalty
)

func (e Evict) String() string {
	names := [...]string{"similarity", "fifo", "uniform", "penalty"}
	if int(e) < len(names) {
		return names[e]
	}
	return fmt.Sprintf("Evict(%d)", uint8(e))
}

const pyramidLevels = 3

// compatMost stands for the unbounded lists of the released code.
const compatMost = 1024

func (p Pyramid) sizes() (capacity, every [pyramidLevels]int) {
	capacity, every = p.Capacity, p.Every
	if capacity == [pyramidLevels]int{} {
		capacity = [...]int{4, 16, 64}
		if p.Compat {
			capacity = [...]int{2, 2, 12}
		}
	}
	if every == [pyramidLevels]int{} {
		every = [...]int{8, 4, 1}
	}
	for l, c := range capacity {
		switch {
		case p.Compat && c <= 0:
			capacity[l] = compatMost
		case c < 0:
			capacity[l] = 0
		}
	}
	if capacity == [pyramidLevels]int{} {
		capacity[pyramidLevels-1] = 1 // a bank that has seen something holds something
	}
	return capacity, every
}

// pyramidLists are a Pyramid's lists while they change; each has room for one frame more.
type pyramidLists struct {
	Pyramid
	capacity [pyramidLevels]int
	lists    [pyramidLevels][]Entry
	frames   float64 // so far
}

// Update implements Strategy. Entries are the lists, the finest first.
func (p Pyramid) Update(old []Entry, e Entry) []Entry {
	capacity, every := p.sizes()
	s := pyramidLists{Pyramid: p, capacity: capacity, frames: float64(e.Frame() + 1)}
	entries := make([]Entry, len(old)+pyramidLevels)
	for l, at := 0, 0; l < pyramidLevels; l++ {
		n := listLength(old, l)
		copy(entries[at:], old[:n])
		s.lists[l] = entries[at : at+n : at+n+1]
		old, at = old[n:], at+n+1
	}
	for l := range every {
		if every[l] <= 0 || e.Frame()%uint64(every[l]) != 0 {
			continue
		}
		frame := e
		frame.part = 0
		for range l {
			frame = demoted(frame)
		}
		if p.Compat {
			s.putCompat(frame, true)
		} else {
			s.put(frame)
		}
		break
	}
	n := 0
	for _, list := range s.lists {
		n += copy(entries[n:], list)
	}
	clear(entries[n:]) // what was moved up is not held twice
	return entries[:n:n]
}

// listLength counts the entries at the beginning that are of list l.
func listLength(entries []Entry, l int) int {
	n := 0
	for n < len(entries) && int(entries[n].part) == l {
		n++
	}
	return n
}

// demoted returns a frame as the next list holds it.
func demoted(e Entry) Entry {
	d := pooled(e)
	d.part, d.merges = e.part+1, 0
	return d
}

// put puts a frame where it belongs in time.
func (s *pyramidLists) put(e Entry) {
	l := e.part
	list := s.lists[l]
	at := len(list)
	for at > 0 && before(e, list[at-1]) {
		at--
	}
	list = slices.Insert(list, at, e)
	link(list, at)
	link(list, at+1)
	if len(list) <= s.capacity[l] {
		s.lists[l] = list
		return
	}
	i := s.victim(list)
	victim := list[i]
	s.lists[l] = without(list, i)
	if l+1 < pyramidLevels {
		s.put(demoted(victim))
	}
}

// before reports whether frame a came before frame b.
func before(a, b Entry) bool { return a.ID/idStep < b.ID/idStep }

// putCompat is what the released code does.
func (s *pyramidLists) putCompat(e Entry, cascade bool) {
	l := e.part
	if list := s.lists[l]; len(list) >= s.capacity[l] {
		i := s.victim(list)
		if cascade && l+1 < pyramidLevels {
			s.putCompat(demoted(list[i]), false)
		}
		s.lists[l] = without(list, i)
	}
	s.lists[l] = append(s.lists[l], e)
	link(s.lists[l], len(s.lists[l])-1)
}

// without deletes entry i in place; the next one has outlived it.
func without(list []Entry, i int) []Entry {
	outlived := list[i].merges + 1
	list = slices.Delete(list, i, i+1)
	if i < len(list) {
		list[i].merges += outlived
	}
	link(list, i)
	return list
}

// link works out what merging entry i with the one before it would cost: 1 - cosine, whatever kinds of trouble there are.
func link(list []Entry, i int) {
	if i > 0 && i < len(list) {
		list[i].ward = 1 - similarity(list[i-1], list[i])
	} else if i == 0 && len(list) > 0 {
		list[0].ward = 0
	}
}

// victim returns the place of the frame that list gives up.
func (s *pyramidLists) victim(list []Entry) int {
	best, least := 0, math.Inf(1)
	offer := func(i int, cost float64) {
		if cost < least {
			best, least = i, cost
		}
	}
	switch s.Evict {
	case Oldest:
	case Evenly:
		for i := 1; i+1 < len(list); i++ {
			offer(i, float64(list[i+1].At-list[i-1].At))
		}
	case LeastPenalty:
		pairs := make([]struct{ frames, merges float64 }, max(len(list)-1, 0))
		most := 0.0
		for i := range pairs {
			a, b := &list[i], &list[i+1]
			pairs[i].frames = (float64(a.ID/idStep-1) + float64(b.ID/idStep-1)) / 2
			pairs[i].merges = merges(a, b)
			most = max(most, pairs[i].merges)
		}
		for i, p := range pairs {
			offer(i, penalty(list[i+1].ward, p.frames/s.frames, p.merges/most))
		}
	default:
		for i := range len(list) - 1 {
			offer(i, list[i+1].ward)
		}
	}
	return best
}

// penalty is StreamForest's, of merging two neighbours: how unlike they are, how late in the stream, how often merged already.
func penalty(unlike, time, merges float64) float64 { return 0.4*unlike + 0.2*time + 0.4*merges }

// merges is the mean of how many entries a and b are made of, or stand for.
func merges(a, b *Entry) float64 { return (float64(a.merges) + float64(b.merges) + 2) / 2 }

// Select implements Strategy: everything in time order, Detail what is on the encoder's grid; the newest frame last as Newest.
func (p Pyramid) Select(s *Snapshot, query []float32, budget int) []Entry {
	left := newBudget(budget)
	newest, at := s.Newest, -1 // where the bank holds the newest frame
	for i := range s.Entries {
		if newest.Tokens.Rows > 0 && s.Entries[i].ID/idStep == newest.ID/idStep {
			at = i
		}
	}
	if p.Compat && at >= 0 {
		newest = s.Entries[at]
	}
	show := newest.Tokens.Rows > 0 && !(p.Compat && at < 0) && left.take(newest)
	if !show {
		at = -1
	}
	entries := s.Entries
	if left.unlimited || !answerable(entries, query) { // to spread evenly over it, or to show it all
		entries = p.inTime(entries, at)
		at = -1
	}
	shown := slices.Clone(chooseBut(s, entries, at, query, &left))
	slices.SortFunc(shown, func(a, b Entry) int { return cmp.Compare(a.ID, b.ID) })
	if show {
		shown = append(shown, newest)
	}
	return shown
}

// inTime merges the lists, but for the entry at place but.
func (p Pyramid) inTime(entries []Entry, but int) []Entry {
	var id uint64
	if but >= 0 {
		id = entries[but].ID
	}
	var lists [pyramidLevels][]Entry
	rest := entries
	for l := range lists {
		n := listLength(rest, l)
		lists[l], rest = rest[:n], rest[n:]
		if p.Compat {
			lists[l] = slices.Clone(lists[l])
			slices.SortFunc(lists[l], func(a, b Entry) int { return cmp.Compare(a.ID, b.ID) })
		}
	}
	out := make([]Entry, 0, len(entries)+1)
	for {
		first := -1
		for l, list := range lists {
			if len(list) > 0 && (first < 0 || list[0].ID < lists[first][0].ID) {
				first = l
			}
		}
		if first < 0 {
			return out
		}
		if lists[first][0].ID != id {
			out = append(out, lists[first][0])
		}
		lists[first] = lists[first][1:]
	}
}

// restored implements restorer.
func (p Pyramid) restored(entries []Entry) error {
	capacity, _ := p.sizes()
	for l := range capacity {
		n := listLength(entries, l)
		if n > capacity[l] {
			return fmt.Errorf("list %d has %d entries, at most %d can be held", l, n, capacity[l])
		}
		list := entries[:n]
		for i, e := range list {
			switch {
			case e.Start != e.At || e.End != e.At || int(e.Level) != l || e.Weight != 1:
				return fmt.Errorf("list %d: entry %d is not a single frame averaged %d times", l, i, l)
			case i > 0 && !p.Compat && !before(list[i-1], e):
				return fmt.Errorf("list %d: entry %d is not after the one before it", l, i)
			}
			link(list, i)
		}
		entries = entries[n:]
	}
	if len(entries) > 0 {
		return fmt.Errorf("an entry of list %d stands among others", entries[0].part)
	}
	return nil
}
