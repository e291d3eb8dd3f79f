// Package memorybank keeps what was seen, bounded. There are only a few types: an Entry is one remembered moment, a Strategy
// decides which entries stay and which are shown, a Bank has one writer that adds entries, and a Snapshot is the bank at one
// instant, immutable, taken by anyone at any time.
package memorybank

import (
	"time"

	"afterimage/internal/compute"
)

// Role says which part of the memory an entry plays in a prompt; the prompt marks each role with its own control token.
type Role uint8

const (
	Synopsis Role = iota // a span of time, averaged, on the coarse grid
	Detail               // one exemplar frame on the fine grid
	Newest               // the newest frame on the fine grid
)

func (r Role) String() string { return [...]string{"synopsis", "detail", "newest"}[r] }

// Grid is the layout of an entry's tokens, row-major.
type Grid struct{ H, W int }

// Entry is one remembered moment. It is immutable: a merge makes a new Entry with a new ID, so equal IDs mean equal rows.
type Entry struct {
	ID         uint64         // unique within a Bank's life; a pooled view of an entry has its own ID
	Start, End time.Duration  // span covered, since the Bank's epoch (wall clock)
	At         time.Duration  // the exemplar's time, Start <= At <= End; what Thumb and a Detail's Tokens show
	Weight     float32        // frames averaged into Tokens
	Role       Role           //
	Grid       Grid           // layout of Tokens
	Tokens     compute.Matrix // [Grid.H*Grid.W, dim], encoder output
	Thumb      []byte         // JPEG of the frame at At; nil when the source had none

	exemplar *exemplar // the frame that stands for a span; set by strategies that average
	ward     float64   // what merging this entry with the one before it would cost; set by Flash
}
