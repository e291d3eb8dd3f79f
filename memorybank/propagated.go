package memorybank

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"afterimage/internal/compute"
)

// ClipEncoder sums clips up, each with the summary of the clip before; an llm.Recall is one. Frames and summaries have the same shape: a
// frame of the encoder's grid averaged 2x2. prev is empty for the first clip; since and start are times of day in six digits (HHMMSS), of
// the first frame that prev sums up and of the clip's first. The indicator is a unit vector in the space of Select's query.
type ClipEncoder interface {
	Clip(prev compute.Matrix, since, start string, frames []compute.Matrix) (summary compute.Matrix, indicator []float32, err error)
}

// Propagated is the memory of VideoStreaming (Qian et al., "Streaming Long Video Understanding with Large Language Models", arXiv 2405.16009,
// 2024): clips of Frames frames are summed up as they fill, each with the summary of the clip before, which so carries the past on
// (memory-propagated streaming encoding), and a question is shown the clips whose indicators are nearest to it (adaptive memory
// selection), each with its time. Encoder must be set; other zero fields mean the defaults.
//
// Frames wait, averaged 2x2, until a clip is full. Select shows the clips that the question selects, the waiting frames and the
// newest frame, all in time order. Within a budget the newest frame comes first, then waiting frames, the latest first, in at most half
// of what is left unless the clips need less, then clips.
//
// Where it departs from the paper, and why:
//   - A clip is 8 frames and its summary 8 rows; the paper has 16 frames and 64 rows of a 7B model. An encoder is trained for its sizes.
//   - Show is 8, the paper's V is 4 (for a total of 256 tokens); with a budget, as many clips are shown as fit.
//   - Clips is a bound. The paper keeps every clip. When there are more, the two neighbours whose indicators are most alike become one (ties:
//     the earliest pair; the newest clip is left alone, since the next one begins with it): spans join, weights add, and summary,
//     indicator and picture are those of the heavier one (ties: the earlier), so that a question finds what it is then shown.
//   - A question's indicator is of its words alone. In the paper it is of the newest summary and the words, so that every question depends on
//     the moment it is asked at, and needs a pass of its own for every stream.
//   - Selection takes the nearest; the paper's Gumbel-Softmax is for training.
//   - When the encoder fails, the clip is the mean of its frames and has their mean indicator, Failed is told, and the stream goes on.
type Propagated struct {
	Encoder ClipEncoder
	Frames  int         // in a clip; 8, at most what Encoder takes
	Clips   int         // most clips kept; 1024, at least 2
	Show    int         // clips shown when a question has no budget of its own; 8
	Failed  func(error) // called by Update with Encoder's errors; nil: nobody is told

	epoch time.Time // of the bank
}

func (p Propagated) sizes() Propagated {
	p.Frames, p.Clips, p.Show = orDefault(p.Frames, 8), max(orDefault(p.Clips, 1024), 2), orDefault(p.Show, 8)
	return p
}

// orDefault is a size of a strategy that cannot do without: 0 and below mean the default.
func orDefault(n, otherwise int) int {
	if n <= 0 {
		return otherwise
	}
	return n
}

// GoString names the strategy with its sizes, which a saved bank is held against: an encoder has no name.
func (p Propagated) GoString() string {
	p = p.sizes()
	return fmt.Sprintf("memorybank.Propagated{Frames:%d, Clips:%d, Show:%d}", p.Frames, p.Clips, p.Show)
}

// carries implements carrier.
func (p Propagated) carries() bool { return true }

// on implements clocked.
func (p Propagated) on(epoch time.Time) Strategy {
	p.epoch = epoch
	return p
}

// The lists of a Propagated, in the order in which they stand in its entries.
const (
	clipPart    = iota
	waitingPart // frames of the clip that is not full yet
)

// Update implements Strategy.
func (p Propagated) Update(old []Entry, e Entry) []Entry {
	p = p.sizes()
	clips, waiting := cutParts(old, waitingPart)
	frame := pooled(e)
	frame.part = waitingPart
	id := e.ID + pooledID
	entries := append(make([]Entry, 0, len(old)+1), clips...)
	if len(waiting) > 0 && !alike(waiting[0], frame) { // a clip's frames are of one shape
		entries = p.sum(entries, waiting, &id)
		waiting = nil
	}
	waiting = append(slices.Clip(waiting), frame)
	if len(waiting) >= p.Frames {
		entries = p.sum(entries, waiting, &id)
		waiting = nil
	}
	return append(entries, waiting...)
}

// cutParts splits entries where their part reaches the given one.
func cutParts(entries []Entry, part uint8) (before, from []Entry) {
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.part >= part })
	if i < 0 {
		i = len(entries)
	}
	return entries[:i:i], entries[i:]
}

// sum adds a clip of frames to clips, which belong to the caller, and keeps their number. id is the last one used.
func (p Propagated) sum(clips, frames []Entry, id *uint64) []Entry {
	var prev compute.Matrix
	since := frames[0].Start
	if n := len(clips); n > 0 && alike(clips[n-1], frames[0]) {
		prev, since = clips[n-1].Tokens, clips[0].Start
	}
	clip := spanOf(frames, id)
	summary, indicator, err := p.Encoder.Clip(prev, p.clock(since), p.clock(frames[0].Start), tokensOf(frames))
	if err == nil && (summary.Rows != clip.Tokens.Rows || summary.Cols != clip.Tokens.Cols) {
		err = fmt.Errorf("memorybank: the summary of a clip of rows %s is %s", clip.Tokens.Shape(), summary.Shape())
	}
	if err == nil {
		clip.Tokens, clip.Indicator = summary, NewIndicator(indicator)
	} else if p.Failed != nil {
		p.Failed(err)
	}
	return keepMost(append(clips, clip), p.Clips, id)
}

func (p Propagated) clock(d time.Duration) string { return p.epoch.Add(d).Format("150405") }

func tokensOf(frames []Entry) []compute.Matrix {
	tokens := make([]compute.Matrix, len(frames))
	for i, f := range frames {
		tokens[i] = f.Tokens
	}
	return tokens
}

// spanOf returns frames as one entry: their mean and their indicators' mean, and the picture of the middle one.
func spanOf(frames []Entry, id *uint64) Entry {
	*id++
	span, middle := frames[0], frames[len(frames)/2]
	for _, f := range frames[1:] {
		span = average(span, f, *id)
	}
	span.ID, span.part, span.merges = *id, 0, 0
	span.At, span.Thumb = middle.At, middle.Thumb
	return span
}

// keepMost works out what merging the last entry of list would cost, and while there are more than most, merges the two neighbours, the last
// entry aside, whose indicators are most alike. list belongs to the caller. id is the last one used.
func keepMost(list []Entry, most int, id *uint64) []Entry {
	if n := len(list); n > 1 {
		list[n-1].ward = unlike(list[n-2], list[n-1])
	}
	for len(list) > max(most, 2) {
		best := 1
		for i := 2; i < len(list)-1; i++ {
			if list[i].ward < list[best].ward {
				best = i
			}
		}
		*id++
		list[best-1] = heavier(list[best-1], list[best], *id)
		list = slices.Delete(list, best, best+1)
		for i := max(best-1, 1); i <= best; i++ {
			list[i].ward = unlike(list[i-1], list[i])
		}
	}
	return list
}

// unlike is 0 for entries with the same indicator and grows up to 2.
func unlike(a, b Entry) float64 { return 1 - a.Indicator.Cosine(b.Indicator.Vector()) }

// heavier makes one entry of two neighbours, a the earlier: it covers both and shows the heavier one (ties: the earlier).
func heavier(a, b Entry, id uint64) Entry {
	m := a
	if b.Weight > a.Weight {
		m = b
	}
	m.ID, m.Start, m.End, m.Weight, m.merges = id, a.Start, b.End, a.Weight+b.Weight, a.merges+b.merges+1
	return m
}

// Select implements Strategy.
func (p Propagated) Select(s *Snapshot, query []float32, budget int) []Entry {
	clips, waiting := cutParts(s.Entries, waitingPart)
	shown, _ := chosenThenLatest(s, clips, waiting, query, budget, p.sizes().Show)
	return shown
}

// Prefix implements prefixer: where all clips fit, everything; else a prompt begins with what the question selects.
func (p Propagated) Prefix(s *Snapshot, budget int) []Entry {
	clips, waiting := cutParts(s.Entries, waitingPart)
	shown, all := chosenThenLatest(s, clips, waiting, nil, budget, p.sizes().Show)
	if !all {
		return nil
	}
	return shown
}

// chosenThenLatest returns those of past that query selects, then the latest entries, then the newest frame, and whether that is all of past.
// Without a budget, show entries of past are chosen. latest gets at most half of what the newest frame leaves, and what past cannot use.
func chosenThenLatest(s *Snapshot, past, latest []Entry, query []float32, tokens, show int) ([]Entry, bool) {
	left := newBudget(tokens)
	newest := s.Newest.Tokens.Rows > 0 && left.take(s.Newest)
	if n := len(latest); newest && n > 0 && latest[n-1].ID == s.Newest.ID+pooledID {
		latest = latest[:n-1] // it is shown whole
	}
	backwards := make([]int, len(latest))
	for i := range backwards {
		backwards[i] = len(latest) - 1 - i
	}
	part := budget{left: left.left - min(left.left/2, rowsOf(past)), unlimited: left.unlimited}
	latest = take(latest, backwards, &part)
	left.left -= rowsOf(latest)
	if left.unlimited && len(past) > 0 {
		left = budget{left: show * past[len(past)-1].Tokens.Rows}
	}
	chosen := choose(s, past, query, &left)
	shown := append(slices.Clip(chosen), latest...)
	if newest {
		shown = append(shown, s.Newest)
	}
	return shown, len(chosen) == len(past)
}

func rowsOf(entries []Entry) (rows int) {
	for _, e := range entries {
		rows += e.Tokens.Rows
	}
	return rows
}

// restored implements restorer.
func (p Propagated) restored(entries []Entry) error {
	clips, waiting := cutParts(entries, waitingPart)
	if most := p.sizes(); len(clips) > most.Clips || len(waiting) >= most.Frames {
		return fmt.Errorf("%d clips and %d frames waiting, want at most %d and %d", len(clips), len(waiting), most.Clips, most.Frames-1)
	}
	return restoredParts(clips, waiting)
}

// restoredParts checks that each list is in time order and of its own part, and works out again what merging entries of the first one costs.
func restoredParts(lists ...[]Entry) error {
	for part, list := range lists {
		for i := range list {
			switch e := &list[i]; {
			case int(e.part) != part:
				return errors.New("its lists are mixed up")
			case i > 0 && e.Start < list[i-1].End:
				return fmt.Errorf("list %d: entry %d begins before the one before it ends", part, i)
			case i > 0 && part == 0:
				e.ward = unlike(list[i-1], *e)
			}
		}
	}
	return nil
}
