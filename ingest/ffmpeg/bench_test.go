package ffmpeg

import (
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"
)

// scene is a moving gradient with noise, so that an encoder has something to do.
func scene(w, h, i int, r *rand.Rand) []byte {
	rgb := make([]byte, 3*w*h)
	for y := range h {
		for x := range w {
			p := rgb[3*(y*w+x):]
			n := byte(r.IntN(6))
			p[0], p[1], p[2] = byte(x+2*i)/2+n, byte(y+i)/2+n, byte(x+y)/2+n
		}
	}
	return rgb
}

func BenchmarkDecode(b *testing.B) {
	const w, h, n = 640, 360, 250
	r := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(b.TempDir(), "bench.mp4")
	i := 0
	if err := WriteMP4(path, w, h, 25, func() ([]byte, error) {
		if i == n {
			return nil, io.EOF
		}
		i++
		return scene(w, h, i, r), nil
	}); err != nil {
		b.Fatal(err)
	}
	u := fileURL(b, path)
	for name, fps := range map[string]float64{"every": -1, "2fps": 2} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				d, err := Open(b.Context(), u, Options{FPS: fps})
				if err != nil {
					b.Fatal(err)
				}
				for {
					if _, err := d.Next(b.Context()); err == io.EOF {
						break
					} else if err != nil {
						b.Fatal(err)
					}
				}
				d.Close()
			}
			// Frames of the stream passed a second, decoded or skipped.
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "streamframes/s")
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	const w, h = 640, 360
	r := rand.New(rand.NewPCG(1, 2))
	var pics [][]byte
	for i := range 16 {
		pics = append(pics, scene(w, h, i, r))
	}
	e, err := NewH264Encoder(w, h, 10, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	i := 0
	for b.Loop() {
		if _, err := e.Encode(pics[i%len(pics)], time.Duration(i+1)*100*time.Millisecond); err != nil {
			b.Fatal(err)
		}
		i++
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
}
