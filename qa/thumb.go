package qa

import (
	"bytes"
	"image"
	"image/jpeg"

	"afterimage/ingest"
)

// A thumbnail is evidence for people and travels with every answer: small enough for eighty of them in one message.
const (
	thumbW, thumbH = 160, 90
	thumbQuality   = 70
)

// thumbnail returns the frame as a JPEG that fits 160x90 with its proportions kept, or nil when the frame is not a picture.
func thumbnail(f ingest.Frame) []byte {
	if f.W <= 0 || f.H <= 0 || len(f.Pix) != 3*f.W*f.H {
		return nil
	}
	w, h := f.W, f.H
	if w > thumbW {
		w, h = thumbW, max(h*thumbW/w, 1)
	}
	if h > thumbH {
		w, h = max(w*thumbH/h, 1), thumbH
	}
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		y0, y1 := y*f.H/h, (y+1)*f.H/h
		for x := range w {
			x0, x1 := x*f.W/w, (x+1)*f.W/w
			var r, g, b int
			for sy := y0; sy < y1; sy++ {
				for p := f.Pix[3*(sy*f.W+x0) : 3*(sy*f.W+x1)]; len(p) > 0; p = p[3:] {
					r, g, b = r+int(p[0]), g+int(p[1]), b+int(p[2])
				}
			}
			n := (y1 - y0) * (x1 - x0)
			o := img.PixOffset(x, y)
			img.Pix[o], img.Pix[o+1], img.Pix[o+2], img.Pix[o+3] = uint8(r/n), uint8(g/n), uint8(b/n), 255
		}
	}
	var out bytes.Buffer
	if err := jpeg.Encode(&out, img, &jpeg.Options{Quality: thumbQuality}); err != nil {
		return nil // only a picture beyond 65535 pixels, which this is not
	}
	return out.Bytes()
}
