package qa

import (
	"testing"

	"afterimage/ingest"
	"afterimage/memorybank"
)

// BenchmarkThumbnail is what a frame costs beside decoding and encoding.
func BenchmarkThumbnail(b *testing.B) {
	f := ingest.Frame{W: 640, H: 360, Pix: make([]byte, 3*640*360)}
	for i := range f.Pix {
		f.Pix[i] = byte(i * i >> 7)
	}
	b.SetBytes(int64(len(f.Pix)))
	for b.Loop() {
		thumbnail(f)
	}
}

// BenchmarkFromCoverage is what every question costs before the model.
func BenchmarkFromCoverage(b *testing.B) {
	w := &fakeWatched{}
	for i := range 4000 {
		w.mark(i*100, i*100)
	}
	snap := filledBank(memorybank.Recent{}, 3).Snapshot()
	for b.Loop() {
		e := gather(epoch.Add(400_000_000_000_000), snap, w)
		beforeModel("Did the van leave between 03:00:10 and 03:00:20?", e, snap, &w.coverage)
	}
}
