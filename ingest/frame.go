// Package ingest turns a source of video into sampled pictures. There are only a few types: a Frame is one sampled picture, a
// URL names where it comes from without ever printing a credential, a Source yields Frames, and a Supervisor keeps a Source
// alive, publishes its State and records in a Coverage when anything was watched.
package ingest

import "time"

// Frame is one sampled picture. Nothing writes Pix after Next returned it, so it may be shared freely.
type Frame struct {
	Index int64         // 0, 1, 2 … within one Source
	PTS   time.Duration // the stream's clock, from its first frame
	Wall  time.Time     // the world's clock: arrival for a live source, start+PTS for a file
	W, H  int           // pixels
	Pix   []byte        // RGB24, row-major, len 3*W*H
}
