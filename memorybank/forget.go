package memorybank

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// carrier is a Strategy whose entries hold something of every frame before them, not only of their own span (a recurrent memory). What
// follows a stretch that is forgotten is then forgotten too, and made again of the whole frames that are left on disk.
type carrier interface{ carries() bool }

func carries(s Strategy) bool {
	c, ok := s.(carrier)
	return ok && c.carries()
}

// Forgotten says what Forget did.
type Forgotten struct {
	Entries  int `json:"entries"`  // of the bank that held something of the stretch
	Rebuilt  int `json:"rebuilt"`  // entries made in their place, of frames outside the stretch
	Cold     int `json:"cold"`     // entries on disk that held something of it
	Segments int `json:"segments"` // files that were rewritten or removed because of it
}

// Forget erases [from, to), cut at the newest frame, from every tier and from every merge that was made of it. An entry of the bank that
// reaches into the stretch is made again of the frames outside it where the disk still has all that it was made of, and goes otherwise. On disk,
// segments are rewritten without the stretch's entries, an average goes whole, the checkpoint is written anew, files set aside are removed, and
// the old files are overwritten with zeros before their blocks are given back. A crash on the way does not undo it: the next OpenStore goes on.
//
// What that is worth below the file system is up to it and to the disk: a copy-on-write file system, a snapshot, a backup or a flash disk's
// spare blocks may keep older bytes. Snapshots taken before keep what they hold as long as somebody holds them, and an engine its K/V:
// qa.Session.Forget sees to both. Adding waits until the bank is done, not for the disk.
func (b *Bank) Forget(ctx context.Context, from, to time.Duration) (Forgotten, error) {
	var did Forgotten
	fail := func(err error) (Forgotten, error) { return did, fmt.Errorf("memorybank: forget: %w", err) }
	if from >= to {
		return fail(fmt.Errorf("from %s to %s is no stretch of time", from, to))
	}
	to = min(to, b.Snapshot().Now+1)
	if b.store == nil {
		did.Entries, did.Rebuilt = b.erase(from, to, nil)
		return did, ctx.Err()
	}
	var err error
	if e := b.store.do(ctx, func() { err = b.store.forget(from, to, &did) }); e != nil {
		return fail(e)
	}
	if err != nil {
		return fail(err)
	}
	return did, nil
}

// forget is Forget on the store's goroutine.
func (s *Store) forget(from, to time.Duration, did *Forgotten) error {
	text, err := json.Marshal(Stretch{from, to})
	if err != nil {
		return err
	}
	if err := s.write(intentName, text); err != nil {
		return err
	}
	return s.forgetNow(from, to, did)
}

func (s *Store) forgetNow(from, to time.Duration, did *Forgotten) error {
	s.scrub = true
	defer func() { s.scrub = false }()
	s.flush() // so that all of the stretch is in segments
	did.Entries, did.Rebuilt = s.bank.erase(from, to, s.framesWithin)
	s.watched.cut(from, to)
	// The checkpoint goes first: were the segments gone and it were not, a crash would bring entries back that cannot be made again.
	if err := s.save(s.bank.Snapshot()); err != nil {
		if e := s.remove(checkpointName); e != nil {
			return errors.Join(err, e)
		}
		s.o.Warn(fmt.Errorf("memorybank: %s: no checkpoint: %w", s.dir, err))
	}
	for _, f := range slices.Clone(s.files) {
		if f.end() < from || f.start() >= to {
			continue
		}
		if err := s.cut(f, from, to, did); err != nil {
			return err
		}
	}
	for _, name := range s.asides { // nobody knows what is in them
		if err := s.remove(name); err != nil {
			return err
		}
		did.Segments++
	}
	s.asides = nil
	return s.remove(intentName)
}

// finishForgetting does what a crash left undone.
func (s *Store) finishForgetting() error {
	raw, err := os.ReadFile(filepath.Join(s.dir, intentName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var stretch Stretch
	if err := json.Unmarshal(raw, &stretch); err != nil {
		return fmt.Errorf("%s: %w: forget the stretch again and remove this file", intentName, err)
	}
	var did Forgotten
	if err := s.forgetNow(stretch.From, stretch.To, &did); err != nil {
		return fmt.Errorf("a stretch was about to be forgotten: %w", err)
	}
	return nil
}

// cut rewrites a segment without what it holds of [from, to).
func (s *Store) cut(f *coldFile, from, to time.Duration, did *Forgotten) error {
	left, changed := make([]coldEntry, 0, f.n), 0
	entries, err := s.load(f)
	if err != nil { // it cannot be read, so nothing of it can be kept
		s.o.Warn(fmt.Errorf("memorybank: %s: %s is removed: %w", s.dir, f.name, err))
		entries = nil
		changed = f.n
	}
	for _, e := range entries {
		kept, ok := e.without(from, to)
		if ok {
			left = append(left, kept)
		}
		if !ok || kept.start != e.start || kept.end != e.end {
			changed++
		}
	}
	if changed == 0 {
		return nil
	}
	did.Cold += changed
	did.Segments++
	if len(left) == 0 {
		s.publish([]*coldFile{f}, nil)
		return s.remove(f.name)
	}
	cut, data := encodeCold(f.coldMeta, left, f.bf16)
	if s.used+cut.size > s.o.Budget {
		s.publish([]*coldFile{f}, nil)
		return s.remove(f.name)
	}
	return s.add(cut, data, []*coldFile{f})
}

// without returns e less [from, to): one frame that stands for a longer span keeps what is outside, an average cannot.
func (e coldEntry) without(from, to time.Duration) (coldEntry, bool) {
	switch {
	case e.start >= to || e.end < from:
		return e, true
	case e.averaged > 1 || e.at >= from && e.at < to:
		return e, false
	}
	span := float32(e.end - e.start)
	if e.at < from {
		e.end = from - 1
	} else {
		e.start = to
	}
	e.weight = max(1, e.weight*float32(e.end-e.start)/span) // frames came evenly, as far as is known
	return e, true
}

// framesWithin reads what is on disk within a span of time, in time order, a segment at a time.
func (s *Store) framesWithin(from, to time.Duration) iter.Seq[coldEntry] {
	return func(yield func(coldEntry) bool) {
		for _, f := range s.files {
			if f.end() < from || f.start() > to {
				continue
			}
			entries, err := s.load(f)
			if err != nil {
				continue // that it is broken is found out, and said, when it is cut or thinned
			}
			for _, e := range entries {
				if e.start >= from && e.end <= to && !yield(e) {
					return
				}
			}
		}
	}
}

// framesOf is framesWithin, or the like.
type framesOf func(from, to time.Duration) iter.Seq[coldEntry]

// erase takes [from, to) out of the bank and returns how many entries held something of it and how many were made in their place. frames
// reads what is on disk within a span; nil: nothing is.
func (b *Bank) erase(from, to time.Duration, frames framesOf) (held, rebuilt int) {
	b.writing.Lock()
	defer b.writing.Unlock()
	old := b.current.Load()
	next := *old
	r := eraser{from: from, to: to, id: (old.Version + 1) * idStep, frames: frames}
	if carries(b.strategy) {
		next.Entries = slices.DeleteFunc(slices.Clone(old.Entries), func(e Entry) bool { return e.End >= from })
		held = len(old.Entries) - len(next.Entries)
		next.Version = old.Version + 1
		if _, opaque := b.strategy.(unknown); frames != nil && !opaque && held > 0 {
			next.Entries, next.Version, rebuilt = r.again(b.strategy, next.Entries, old.Now, old.Version)
		}
	} else {
		next.Entries = r.entries(old.Entries)
		held, rebuilt = r.held, r.rebuilt
		next.Version = max(r.id/idStep-1, old.Version+1)
	}
	if !valid(b.strategy, next.Entries) { // what was made does not suit the strategy: without it
		r.frames, r.held = nil, 0
		next.Entries, held, rebuilt = r.entries(old.Entries), r.held, 0
		if !valid(b.strategy, next.Entries) {
			next.Entries = nil
		}
	}
	if n := old.Newest; n.Tokens.Rows > 0 && n.At >= from && n.At < to {
		next.Newest = Entry{}
	}
	b.publish(&next)
	return held, rebuilt
}

// valid reports whether entries are a strategy's, and has it work out again what depends on their neighbours.
func valid(s Strategy, entries []Entry) bool {
	r, ok := s.(restorer)
	return !ok || r.restored(entries) == nil
}

// eraser makes entries without a stretch of time.
type eraser struct {
	from, to      time.Duration
	id            uint64   // the next that was not given yet
	frames        framesOf // nil: nothing is on disk
	held, rebuilt int
}

// entries returns a new list; as many as there were at most, since a strategy has room for so many.
func (r *eraser) entries(old []Entry) []Entry {
	out := make([]Entry, 0, len(old))
	for i, e := range old {
		if e.End < r.from || e.Start >= r.to {
			out = append(out, e)
			continue
		}
		r.held++
		parts := r.parts(e)
		if len(parts) == 2 && len(out)+2+len(old)-i-1 > len(old) { // no room for both: the one that stands for more
			if parts[1].Weight > parts[0].Weight {
				parts = parts[1:]
			}
			parts = parts[:1]
		}
		r.rebuilt += len(parts)
		out = append(out, parts...)
	}
	return out
}

// parts makes what is left of an entry on either side of the stretch, where the disk has all frames that it was made of.
func (r *eraser) parts(e Entry) []Entry {
	if r.frames == nil || e.Start >= r.from && e.End < r.to {
		return nil
	}
	before, after, weight := remake{like: &e}, remake{like: &e}, float32(0)
	for f := range r.frames(e.Start, e.End) {
		weight += f.weight
		switch {
		case f.end < r.from:
			before.add(&f)
		case f.start >= r.to:
			after.add(&f)
		}
	}
	if weight != e.Weight { // it was made of others too, or of some that are gone
		return nil
	}
	var out []Entry
	for _, side := range []*remake{&before, &after} {
		if e.exemplar != nil && side.n > 0 {
			for f := range r.frames(side.Start, side.End) {
				side.stand(&f)
			}
		}
		if side.n == 0 || side.unlike || e.exemplar != nil && side.exemplar == nil {
			continue
		}
		side.ID = r.id + mergedID // as if it had been made when a frame came
		if x := side.exemplar; x != nil {
			x.frame.ID = r.id
		}
		r.id += idStep
		out = append(out, side.Entry)
	}
	return out
}

// remake is an entry like another one, made of other frames.
type remake struct {
	Entry
	like    *Entry
	n       int
	unlike  bool // rows that cannot be averaged
	nearest float64
}

func (m *remake) add(f *coldEntry) {
	own := *f
	for own.level < m.like.Level && own.rows.Rows > 1 {
		own.grid, own.rows = pool2x2(own.grid, own.rows)
		own.level++
	}
	if own.level != m.like.Level || own.grid != m.like.Grid || own.rows.Cols != m.like.Tokens.Cols {
		m.unlike = true
		return
	}
	if m.n++; m.n == 1 {
		l := m.like
		m.Entry = Entry{Start: f.start, At: f.at, Weight: f.weight, Role: l.Role, Level: l.Level, Grid: l.Grid, Tokens: own.rows, Thumb: f.jpeg,
			Indicator: f.indicator, part: l.part, seq: l.seq, End: f.end}
		return
	}
	if f.weight > m.Weight/float32(m.n-1) || len(m.Thumb) == 0 {
		m.At, m.Thumb = f.at, f.jpeg
	}
	m.Tokens = mean(m.Tokens, m.Weight, own.rows, f.weight)
	m.Indicator = mixIndicators(m.Indicator, m.Weight, f.indicator, f.weight)
	m.Weight += f.weight
	m.End = f.end
	m.merges++
}

// stand makes f the frame that stands for the entry, if it is whole and nearer than the one that does.
func (m *remake) stand(f *coldEntry) {
	if f.level > 0 || f.averaged > 1 {
		return
	}
	grid, own := pool2x2(f.grid, f.rows)
	if grid != m.Grid || own.Cols != m.Tokens.Cols {
		return
	}
	d := distance(own, m.Tokens)
	if m.exemplar != nil && d >= m.nearest {
		return
	}
	m.nearest = d
	frame := f.entry(false)
	frame.Start, frame.End, frame.Weight = f.at, f.at, 1
	m.exemplar, m.At, m.Thumb = &exemplar{frame: frame, own: own}, f.at, f.jpeg
	if m.Weight == 1 {
		m.exemplar.own = m.Tokens
	}
}

// again adds the whole frames after the stretch to what a strategy that carries on kept from before it.
func (r *eraser) again(s Strategy, entries []Entry, now time.Duration, version uint64) ([]Entry, uint64, int) {
	before := len(entries)
	version++
	for f := range r.frames(r.to, now) {
		if f.level > 0 || f.averaged > 1 {
			continue
		}
		version++
		e := f.entry(false)
		e.ID, e.At, e.Start, e.End, e.Weight, e.Role = version*idStep, f.at, f.at, f.at, 1, Detail
		entries = s.Update(entries, e)
	}
	return entries, version, max(len(entries)-before, 0)
}
