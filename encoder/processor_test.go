package encoder

import (
	"math/rand/v2"

	"afterimage/ingest"
)

func randomFrame(w, h int) ingest.Frame {
	f := ingest.Frame{W: w, H: h, Pix: make([]byte, 3*w*h)}
	rng := rand.New(rand.NewPCG(uint64(w), uint64(h)))
	for i := range f.Pix {
		f.Pix[i] = byte(rng.Uint32())
	}
	return f
}
