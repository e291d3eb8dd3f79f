package memorybank

import (
	"fmt"
	"slices"

	"afterimage/internal/compute"
)

// SegmentEncoder carries memory from segment to segment; an llm.Recall is one. past are the memories of the segments before, the newest
// last. memory is the segment's own, rows are its frames as they are shown, the zero Matrix for those that the encoder did not look at;
// all have the shape of a frame of the encoder's grid averaged 2x2. Indicate says what rows show, as a unit vector in the space
// of Select's query.
type SegmentEncoder interface {
	Segment(past, frames []compute.Matrix) (memory compute.Matrix, rows []compute.Matrix, err error)
	Indicate(rows compute.Matrix) ([]float32, error)
}

// Bridge is the memory of VideoLLaMB (Wang et al., "VideoLLaMB: Long Streaming Video Understanding with Recurrent Memory Bridges", arXiv
// 2409.01071, 2024): the stream falls into segments by what it shows, a bridge layer passes memory tokens from one to the next, what they
// begin with is retrieved from the cache of all memories before, and the newest segment is shown through the bridge. Encoder must be set;
// other zero fields mean the defaults.
//
// Frames wait, averaged 2x2, until Segmenter finds that a segment has ended. Select shows the memories of the segments that the
// question selects, the frames of the last ended segment as the bridge changed them (at most those that it looked at, 8 for llm.Recall), up to
// 8 waiting frames, spread evenly, and the newest frame, all in time order. The frames are entries beside their segment's memory: both stand
// for the same moments. Within a budget the newest frame comes first, then frames, the latest first, in at most half of what is left
// unless the memories need less, then memories.
//
// Where it departs from the paper and its released code, and why:
//   - Memories of segments are shown. The released code shows the model the last segment alone, and the past lives in what the bridge took
//     over from it; with a small bridge too little does.
//   - Waiting frames are shown as they are. The released code segments the whole video again for every frame, so that nothing waits.
//   - A memory is 8 rows and so is a frame; the paper has 32 rows and 144.
//   - Segments is a bound. The code caches every segment's memory for ever. When there are more, neighbours merge as in Propagated.
//   - When the encoder fails, the memory is the mean of the frames and has their mean indicator, the frames are shown as they were (8, spread
//     evenly), Failed is told, and the stream goes on.
type Bridge struct {
	Encoder   SegmentEncoder
	Segmenter Segmenter   // SceneTilling{}
	Segments  int         // most memories kept; 1024, at least 2
	Show      int         // memories shown when a question has no budget of its own; 8
	Failed    func(error) // called by Update with Encoder's errors; nil: nobody is told
}

// bridgeFrames is how many waiting frames are shown.
const bridgeFrames = 8

func (b Bridge) sizes() Bridge {
	if b.Segmenter == nil {
		b.Segmenter = SceneTilling{}
	}
	b.Segments, b.Show = max(orDefault(b.Segments, 1024), 2), orDefault(b.Show, 8)
	return b
}

// carries implements carrier.
func (b Bridge) carries() bool { return true }

// GoString names the strategy with its sizes, which a saved bank is held against: an encoder has no name.
func (b Bridge) GoString() string {
	b = b.sizes()
	return fmt.Sprintf("memorybank.Bridge{Segmenter:%#v, Segments:%d, Show:%d}", b.Segmenter, b.Segments, b.Show)
}

// The lists of a Bridge, in the order in which they stand in its entries.
const (
	memoryPart  = iota
	bridgedPart // frames of the last ended segment
	openPart    // frames after it
)

// Most segments that one frame may end, and frames of one that are shown: both use up IDs.
const (
	maxCuts    = 64
	maxBridged = 64
)

// Update implements Strategy.
func (b Bridge) Update(old []Entry, e Entry) []Entry {
	b = b.sizes()
	memories, rest := cutParts(old, bridgedPart)
	bridged, open := cutParts(rest, openPart)
	frame := pooled(e)
	frame.part = openPart
	id := e.ID + pooledID
	entries := append(make([]Entry, 0, len(old)+1), memories...)
	var ended []Entry // the last segment
	var rows []compute.Matrix
	end := func(n int) {
		ended, open = open[:n], open[n:]
		entries, rows = b.end(entries, ended, &id)
	}
	if len(open) > 0 && !alike(open[0], frame) { // a segment's frames are of one shape
		end(len(open))
	}
	open = append(slices.Clip(open), frame)
	for range maxCuts {
		n := min(b.Segmenter.Cut(open), len(open))
		if n <= 0 {
			break
		}
		end(n)
	}
	if ended != nil {
		bridged = through(ended, rows, &id)
	}
	return append(append(entries, bridged...), open...)
}

// end adds the memory of a segment to memories, which belong to the caller, and keeps their number. It returns the frames' rows, nil when the
// encoder failed. id is the last one used.
func (b Bridge) end(memories, segment []Entry, id *uint64) ([]Entry, []compute.Matrix) {
	var past []compute.Matrix
	for _, m := range memories {
		if alike(m, segment[0]) {
			past = append(past, m.Tokens)
		}
	}
	own := spanOf(segment, id)
	memory, rows, err := b.Encoder.Segment(past, tokensOf(segment))
	if err == nil && (memory.Rows != own.Tokens.Rows || memory.Cols != own.Tokens.Cols || len(rows) != len(segment)) {
		err = fmt.Errorf("memorybank: the memory of a segment of rows %s is %s, with %d frames of %d", own.Tokens.Shape(), memory.Shape(),
			len(rows), len(segment))
	}
	var indicator []float32
	if err == nil {
		indicator, err = b.Encoder.Indicate(memory)
	}
	if err == nil {
		own.Tokens, own.Indicator = memory, NewIndicator(indicator)
	} else {
		rows = nil
		if b.Failed != nil {
			b.Failed(err)
		}
	}
	return keepMost(append(memories, own), b.Segments, id), rows
}

// through returns a segment's frames as they are shown.
func through(segment []Entry, rows []compute.Matrix, id *uint64) []Entry {
	if rows == nil {
		shown := slices.Clone(thin(segment, bridgeFrames, &budget{unlimited: true}))
		for i := range shown {
			shown[i].part = bridgedPart
		}
		return shown
	}
	var shown []Entry
	for i, m := range rows {
		f := segment[i]
		if m.Rows != f.Tokens.Rows || m.Cols != f.Tokens.Cols || len(shown) == maxBridged {
			continue
		}
		*id++
		f.ID, f.Tokens, f.part = *id, m, bridgedPart
		shown = append(shown, f)
	}
	return shown
}

// lists returns the memories and the frames that may be shown.
func (b Bridge) lists(s *Snapshot) (memories, frames []Entry) {
	memories, rest := cutParts(s.Entries, bridgedPart)
	bridged, open := cutParts(rest, openPart)
	if n := len(open); n > 0 && open[n-1].ID == s.Newest.ID+pooledID {
		open = open[:n-1] // it is the newest frame
	}
	return memories, append(slices.Clip(bridged), thin(open, bridgeFrames, &budget{unlimited: true})...)
}

// Select implements Strategy.
func (b Bridge) Select(s *Snapshot, query []float32, budget int) []Entry {
	memories, frames := b.lists(s)
	shown, _ := chosenThenLatest(s, memories, frames, query, budget, b.sizes().Show)
	return shown
}

// Prefix implements prefixer: where all memories fit, everything; else a prompt begins with what the question selects.
func (b Bridge) Prefix(s *Snapshot, budget int) []Entry {
	memories, frames := b.lists(s)
	shown, all := chosenThenLatest(s, memories, frames, nil, budget, b.sizes().Show)
	if !all {
		return nil
	}
	return shown
}

// restored implements restorer.
func (b Bridge) restored(entries []Entry) error {
	memories, rest := cutParts(entries, bridgedPart)
	bridged, open := cutParts(rest, openPart)
	if most := b.sizes().Segments; len(memories) > most {
		return fmt.Errorf("%d memories, want at most %d", len(memories), most)
	}
	return restoredParts(memories, bridged, open)
}
