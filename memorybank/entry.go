// Package memorybank keeps what was seen, bounded. There are only a few types: an Entry is one remembered moment, with an Indicator that
// questions find it by, a Strategy decides which entries stay and which are shown, a Bank has one writer that adds entries, a Snapshot is
// the bank at one instant, immutable, taken by anyone at any time, and a Store keeps a bank and its frames on disk.
package memorybank

import (
	"time"

	"afterimage/internal/compute"
)

// Role says which part of the memory an entry plays in a prompt; the prompt marks each role with its own control token.
type Role uint8

const (
	Synopsis Role = iota // coarse rows: of one frame, or the mean over a span of time; shown with the time it starts at
	Detail               // one frame on the encoder's grid
	Newest               // the newest frame on the encoder's grid
)

func (r Role) String() string { return [...]string{"synopsis", "detail", "newest"}[r] }

// Grid is the layout of an entry's tokens, row-major.
type Grid struct{ H, W int }

// Entry is one remembered moment. It is immutable: a merge makes a new Entry with a new ID, so equal IDs mean equal rows.
type Entry struct {
	ID         uint64         // unique within a Bank's life; a pooled view of an entry has its own ID
	Start, End time.Duration  // span covered, since the Bank's epoch (wall clock)
	At         time.Duration  // the exemplar's time, Start <= At <= End; what Thumb and a Detail's Tokens show
	Weight     float32        // frames that Tokens stand for
	Role       Role           //
	Level      uint8          // times that Tokens were averaged 2x2, from the encoder's grid down to Grid
	Grid       Grid           // layout of Tokens
	Tokens     compute.Matrix // [Grid.H*Grid.W, dim], encoder output
	Thumb      []byte         // JPEG of the frame at At; nil when the source had none
	Indicator  Indicator      // what it shows, for questions to find it by

	// What strategies note on their entries. part, seq and merges are saved with a bank; the rest is worked out again.
	part     uint8     // which of the strategy's own lists it is in
	seq      uint64    // when it was put in that list, for lists that are not in time order
	merges   uint32    // merges that made it
	exemplar *exemplar // the frame that stands for a span; set by strategies that average; saved
	ward     float64   // what merging this entry with the one before it (or with near) would cost
	near     uint64    // the entry that ward is about, where lists are not only compared with their neighbours
}

// Frame is the number, from 0, of the stream's frame that made e: its own, or of a merge the one with which that happened.
func (e Entry) Frame() uint64 { return e.ID/idStep - 1 }
