package memorybank

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// What Recall reads when it is not told how much: as many coarse moments and as many whole frames as Flash shows of a whole memory.
const (
	recallMoments = 64
	recallDetails = 8
)

// Recall returns the part of s that is about [from, to), as finely as it is known: entries that the bank's store has on disk stand in
// place of coarse ones in memory, as many as take at most most visual tokens; 0 or less is what Flash shows of a whole memory. Where
// not all fit, those nearest to query are read (nil: spread evenly over the stretch). The snapshot is nil when nothing is known of the
// stretch. Without a store, and where the disk knows no more, it is Between's. At of what is returned is the finest picture of a moment:
// recall a few seconds around it.
//
// A stretch that fits whole is shown as whole frames. Of a longer one, up to a third of the tokens are whole frames (those that the query is
// nearest to), and the rest are averaged 2x2 and cover it. Select of what is returned shows that order: whole frames, averages, newest
// frame, each in time order. IDs follow from the rows, so the same stretch recalled again finds its K/V.
func (s *Snapshot) Recall(ctx context.Context, from, to time.Duration, query []float32, most int) (*Snapshot, error) {
	part := s.Between(from, to)
	if s.archive == nil || from >= to {
		return part, ctx.Err()
	}
	found := s.archive.find(s, from, to, query)
	inMemory := 0
	if part != nil {
		inMemory = len(part.Entries)
		for i := range part.Entries { // single frames that are finer in memory than on disk
			f := part.Entries[i].frame()
			if f.Weight == 1 && f.At >= from && f.At < to {
				found = append(found, recollection{item: coldItem{start: f.Start, end: f.End, at: f.At, weight: 1, averaged: 1, indicator: f.Indicator},
					level: f.Level, grid: f.Grid, rows: f.Tokens.Rows, entry: &f})
			}
		}
	}
	found = distinct(found)
	if len(found) <= inMemory || len(found) == 0 {
		return part, ctx.Err()
	}
	chosen := plan(found, s.Prefer, query, most)
	view := &Snapshot{Version: s.Version, Epoch: s.Epoch, Now: s.Now, Prefer: s.Prefer, strategy: recalled{}, archive: s.archive, narrowed: true}
	if part != nil {
		view.Newest = part.Newest
	}
	for i := range chosen {
		e, err := s.archive.entry(ctx, &chosen[i])
		if err != nil {
			return nil, err
		}
		if e != nil {
			view.Entries = append(view.Entries, *e)
		}
	}
	if len(view.Entries) == 0 { // all of it was thinned or erased meanwhile
		return part, ctx.Err()
	}
	return view, ctx.Err()
}

// recollection is something that can be recalled.
type recollection struct {
	item   coldItem
	level  uint8
	grid   Grid
	rows   int
	entry  *Entry    // in memory
	file   *coldFile // or on disk
	index  int
	pooled bool // to be shown averaged 2x2
}

// mostFound is how many moments Recall weighs against each other; there may be hundreds of thousands in a store.
const mostFound = 4096

// find lists what the store has of a stretch, up to a snapshot's newest frame, in time order. Of more than mostFound it takes the nearest to the
// query, or without one every so many.
func (s *Store) find(snap *Snapshot, from, to time.Duration, query []float32) []recollection {
	s.mu.Lock()
	files := s.files
	onTheWay := append(slices.Clone(s.writing), s.waiting...)
	s.mu.Unlock()
	within := func(it *coldItem) bool { return it.start < to && it.end >= from && it.end <= snap.Now }
	type place struct {
		cosine  float32
		file, i int32
	}
	var places []place
	compared := false
	first, _ := slices.BinarySearchFunc(files, from, func(f *coldFile, t time.Duration) int { return cmp.Compare(f.end(), t) })
	for k := first; k < len(files) && files[k].start() < to; k++ {
		items := files[k].items
		for i := range items {
			it := &items[i]
			if !within(it) {
				continue
			}
			p := place{file: int32(k), i: int32(i)}
			if len(query) > 0 {
				p.cosine = float32(it.indicator.Cosine(query))
				compared = compared || it.indicator.Dim() == len(query)
			}
			places = append(places, p)
		}
	}
	if n := len(places); n > mostFound {
		if compared {
			slices.SortFunc(places, func(a, b place) int {
				return cmp.Or(cmp.Compare(b.cosine, a.cosine), cmp.Compare(a.file, b.file), cmp.Compare(a.i, b.i))
			})
		} else {
			for k := range mostFound {
				places[k] = places[(2*k+1)*n/(2*mostFound)]
			}
		}
		places = places[:mostFound]
		slices.SortFunc(places, func(a, b place) int { return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.i, b.i)) })
	}
	list := make([]recollection, 0, len(places)+len(onTheWay))
	for _, p := range places {
		f := files[p.file]
		list = append(list, recollection{item: f.items[p.i], level: f.Level, grid: f.grid(), rows: f.r, file: f, index: int(p.i)})
	}
	for i := range onTheWay {
		e := &onTheWay[i]
		it := coldItem{frame: e.ID / idStep, start: e.Start, end: e.End, at: e.At, weight: 1, averaged: 1, indicator: e.Indicator}
		if within(&it) {
			list = append(list, recollection{item: it, level: e.Level, grid: e.Grid, rows: e.Tokens.Rows, entry: e})
		}
	}
	return list
}

// distinct sorts by time and leaves one of several that show the same frame: the finest, those in memory before those on disk.
func distinct(list []recollection) []recollection {
	slices.SortStableFunc(list, func(a, b recollection) int {
		inMemory := func(m recollection) int {
			if m.entry != nil {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.item.at, b.item.at), cmp.Compare(a.level, b.level), cmp.Compare(inMemory(a), inMemory(b)))
	})
	return slices.CompactFunc(list, func(a, b recollection) bool { return a.item.at == b.item.at })
}

// plan chooses what is read, in time order.
func plan(found []recollection, prefer Order, query []float32, most int) []recollection {
	// choose works on entries; these have what it looks at.
	stand := make([]Entry, len(found))
	whole := 0
	for i, m := range found {
		stand[i] = Entry{ID: uint64(i), Start: m.item.start, End: m.item.end, At: m.item.at, Indicator: m.item.indicator}
		stand[i].Tokens.Rows = m.rows
		whole += m.rows
	}
	coarse := func(m recollection) int {
		if m.level == 0 && m.item.averaged == 1 {
			return (m.grid.H + 1) / 2 * ((m.grid.W + 1) / 2)
		}
		return m.rows
	}
	if most <= 0 {
		for _, m := range found {
			most = max(most, recallMoments*coarse(m)+recallDetails*m.rows)
		}
	}
	if whole <= most {
		return found
	}
	s := &Snapshot{Prefer: prefer}
	var fine []Entry
	for i, m := range found {
		if m.level == 0 {
			fine = append(fine, stand[i])
		}
	}
	details := budget{left: most / 3}
	chosen := map[int]bool{}
	var out []recollection
	for _, e := range choose(s, fine, query, &details) {
		chosen[int(e.ID)] = true
	}
	var rest []Entry
	for i, m := range found {
		if !chosen[i] {
			e := stand[i]
			e.Tokens.Rows = coarse(m)
			rest = append(rest, e)
		}
	}
	left := budget{left: most - most/3 + details.left}
	cover := map[int]bool{}
	for _, e := range choose(s, rest, query, &left) {
		cover[int(e.ID)] = true
	}
	for i, m := range found {
		m.pooled = cover[i] && coarse(m) < m.rows
		if chosen[i] || cover[i] {
			out = append(out, m)
		}
	}
	return out
}

// entry reads what was chosen; nil when it is not there any more.
func (s *Store) entry(ctx context.Context, m *recollection) (*Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e := m.entry
	if e == nil {
		r, err := os.Open(filepath.Join(s.dir, m.file.name))
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil // thinned or erased meanwhile
		}
		if err != nil {
			return nil, err
		}
		defer r.Close()
		c, err := m.file.read(r, m.index)
		if err != nil {
			return nil, nil // erased under us, or broken: thinning will find out and say so
		}
		if m.pooled {
			c.grid, c.rows = pool2x2(c.grid, c.rows)
			c.level++
		}
		out := c.entry(m.file.exact() && !m.pooled)
		return &out, nil
	}
	out := *e
	out.Role = Detail
	if out.Level > 0 {
		out.Role = Synopsis
	}
	if m.pooled {
		c := coldEntry{coldItem: m.item, level: e.Level + 1, jpeg: e.Thumb}
		c.frame = e.ID / idStep
		c.grid, c.rows = pool2x2(e.Grid, e.Tokens)
		out = c.entry(false)
	}
	return &out, nil
}

// recalled shows what Recall took: whole frames, then what is averaged, then the newest frame.
type recalled struct{}

// Update is never called: nothing is added to what was recalled.
func (recalled) Update(old []Entry, _ Entry) []Entry { return old }

// Select implements Strategy.
func (recalled) Select(s *Snapshot, query []float32, tokens int) []Entry {
	left := newBudget(tokens)
	newest := s.Newest.Tokens.Rows > 0 && left.take(s.Newest)
	var fine, coarse []Entry
	for _, e := range s.Entries {
		switch {
		case newest && e.At == s.Newest.At:
		case e.Role == Detail:
			fine = append(fine, e)
		default:
			coarse = append(coarse, e)
		}
	}
	details := left
	if !left.unlimited && len(coarse) > 0 {
		details.left = left.left / 3
	}
	shown := choose(s, fine, query, &details)
	if !left.unlimited {
		for _, e := range shown {
			left.left -= e.Tokens.Rows
		}
	}
	shown = append(slices.Clone(shown), choose(s, coarse, query, &left)...)
	if newest {
		shown = append(shown, s.Newest)
	}
	return shown
}
