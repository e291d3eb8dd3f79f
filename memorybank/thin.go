package memorybank

import (
	"slices"
	"time"
)

// A segment is thinned a stage at a time, each about half of the one before:
//
//	0  frames as they were added, F32
//	1  the same as BF16
//	2  rows averaged 2x2
//	3  of every two frames the one that differs more from the one kept before it; it stands for both
//	4  the same again
//	5  thumbnails at least a minute apart
//	6… neighbours averaged two by two, as long as the two together are no longer than an hour
//	15 what is left after that: about an entry an hour. It is only ever dropped whole.
const (
	stageBF16 = 1 + iota
	stagePooled
	stageHalf
	stageQuarter
	stageThumbs
	lastStage = 15
)

const (
	longestSpan = time.Hour       // of an entry
	longestHole = 5 * time.Minute // between two that become one
	thumbEvery  = time.Minute     // from stageThumbs on
)

// coarsen returns entries, which are in time order and of stage-1, as they are at a stage. It leaves the old ones as they are. Of merges at
// least one entry an hour is left.
func coarsen(entries []coldEntry, stage int) []coldEntry {
	switch {
	case stage < stagePooled:
		return entries
	case stage == stagePooled:
		out := slices.Clone(entries)
		for i := range out {
			if e := &out[i]; e.rows.Rows > 1 {
				e.grid, e.rows = pool2x2(e.grid, e.rows)
				e.level++
			}
		}
		return out
	case stage <= stageQuarter:
		return inPairs(entries, func(kept *coldEntry, a, b coldEntry) coldEntry {
			// Two frames that differ from what is there by as much: the earlier.
			if kept != nil && alikeRows(*kept, a) && alikeRows(*kept, b) && gistDistance(kept.rows, b.rows) > gistDistance(kept.rows, a.rows) {
				frame := b.frame
				b.start, b.weight = a.start, a.weight+b.weight
				b.frame = frame
				return b
			}
			a.end, a.weight = b.end, a.weight+b.weight
			return a
		})
	case stage == stageThumbs:
		out := slices.Clone(entries)
		next := time.Duration(0)
		for i := range out {
			e := &out[i]
			if len(e.jpeg) == 0 {
				continue
			}
			if e.at < next {
				e.jpeg = nil
				continue
			}
			next = e.at + thumbEvery
		}
		return out
	}
	return inPairs(entries, func(_ *coldEntry, a, b coldEntry) coldEntry {
		m := a
		if len(a.jpeg) == 0 && len(b.jpeg) > 0 || b.weight > a.weight && len(b.jpeg) > 0 {
			m.at, m.jpeg = b.at, b.jpeg
		}
		m.rows = mean(a.rows, a.weight, b.rows, b.weight)
		m.end, m.weight, m.averaged = b.end, a.weight+b.weight, a.averaged+b.averaged
		m.indicator = mixIndicators(a.indicator, a.weight, b.indicator, b.weight)
		return m
	})
}

// inPairs joins entries two by two, where they are near and the two are not too long. join is given what is kept so far's last.
func inPairs(entries []coldEntry, join func(kept *coldEntry, a, b coldEntry) coldEntry) []coldEntry {
	var out []coldEntry
	for i := 0; i < len(entries); i++ {
		a := entries[i]
		if i+1 == len(entries) {
			out = append(out, a)
			break
		}
		b := entries[i+1]
		if b.end-a.start > longestSpan || b.start-a.end > longestHole || !alikeRows(a, b) {
			out = append(out, a)
			continue
		}
		var kept *coldEntry
		if len(out) > 0 {
			kept = &out[len(out)-1]
		}
		out = append(out, join(kept, a, b))
		i++
	}
	return out
}

func alikeRows(a, b coldEntry) bool { return a.grid == b.grid && a.rows.Cols == b.rows.Cols }

// The disk and the index are spent so that what is twice as old is kept half as fine: the segment with the most bytes (or entries) a second,
// times its age, is thinned next. What is held then grows with the logarithm of time.
func density(f *coldFile, now time.Duration, entries bool) float64 {
	amount := float64(f.size)
	if entries {
		amount = float64(f.n)
	}
	age := (now - f.start() + time.Minute).Seconds()
	return amount / ((f.end() - f.start()).Seconds() + 1) * age
}
