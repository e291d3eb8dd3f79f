package weights

import (
	"bytes"
	"hash/fnv"
	"io/fs"
	"math"
	"math/rand/v2"
	"time"
)

// Random is a model directory of a config.json alone, whose tensors are drawn by chance when they are asked for, whatever their names
// and shapes: for timing a model without its weights. The same seed and name give the same numbers.
type Random struct {
	Config []byte
	Seed   uint64
}

// Open implements fs.FS.
func (r Random) Open(name string) (fs.File, error) {
	if name != "config.json" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &configFile{bytes.NewReader(r.Config), int64(len(r.Config))}, nil
}

// filler writes numbers that are uniform, with a deviation that keeps the size of what is multiplied by them: ones and zeros would let
// a kernel look better than it is. A vector is ones, as the scale of a norm should be.
func (r Random) filler(name string, shape []int) func(dst []float32) {
	if len(shape) == 1 {
		return func(dst []float32) {
			for i := range dst {
				dst[i] = 1
			}
		}
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	rng := rand.New(rand.NewPCG(r.Seed, h.Sum64()))
	width := float32(2 * math.Sqrt(3/float64(shape[len(shape)-1])))
	return func(dst []float32) {
		for i := range dst {
			dst[i] = (rng.Float32() - 0.5) * width
		}
	}
}

type configFile struct {
	*bytes.Reader
	size int64
}

func (f *configFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *configFile) Close() error               { return nil }
func (f *configFile) Name() string               { return "config.json" }
func (f *configFile) Size() int64                { return f.size }
func (f *configFile) Mode() fs.FileMode          { return 0o444 }
func (f *configFile) ModTime() time.Time         { return time.Time{} }
func (f *configFile) IsDir() bool                { return false }
func (f *configFile) Sys() any                   { return nil }
