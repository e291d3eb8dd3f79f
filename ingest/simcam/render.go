package simcam

import (
	"math"
	"math/rand/v2"
	"time"
)

// Renderer draws a script's pictures at one size. Not safe for concurrent use.
type Renderer struct {
	scene  *Scene
	w, h   int
	sx, sy float32 // pixels per scene unit
	blur   float32 // width of an edge in scene units: one pixel
	base   []byte  // the static prims, unlit
	noise  []int16 // gaussian, standard deviation 256
}

// noiseSize is a prime so that rows of any width start at ever different places of the noise.
const noiseSize = 262_147

// NewRenderer prepares to draw s at w x h pixels.
func NewRenderer(s *Script, w, h int) *Renderer {
	r := &Renderer{scene: NewScene(s), w: w, h: h, sx: float32(w) / SceneW, sy: float32(h) / SceneH}
	r.blur = max(1/r.sx, 1/r.sy)
	r.base = make([]byte, 3*w*h)
	for _, p := range r.scene.Static() {
		r.paint(r.base, p)
	}
	r.noise = make([]int16, noiseSize)
	g := source(s.Seed, "noise")
	for i := range r.noise {
		r.noise[i] = int16(min(1023, max(-1023, g.NormFloat64()*256)))
	}
	return r
}

// Size returns the picture's width and height in pixels.
func (r *Renderer) Size() (w, h int) { return r.w, r.h }

// Render draws the picture at stream time t into dst, RGB24, len 3*w*h. The same t gives the same picture.
func (r *Renderer) Render(dst []byte, t time.Duration) {
	copy(dst, r.base)
	moving := r.scene.Moving(t)
	for _, p := range moving {
		if !p.Emissive {
			r.paint(dst, p)
		}
	}
	air := r.scene.Atmosphere(t)
	g := rand.New(rand.NewPCG(r.scene.script.Seed^0x5eed, uint64(t)))
	r.light(dst, air, g)
	for _, p := range moving {
		if p.Emissive {
			r.paint(dst, p)
		}
	}
	r.streaks(dst, air, g)
}

// light applies gain, fog and camera noise in one pass through a table per channel.
func (r *Renderer) light(dst []byte, air Atmosphere, g *rand.Rand) {
	var table [3][256]int32 // value << 8
	for ch := range 3 {
		for v := range 256 {
			x := float32(v) * air.Gain[ch]
			x = x*(1-air.FogAmount) + 255*air.Fog[ch]*air.FogAmount
			table[ch][v] = int32(x*256 + 128)
		}
	}
	scale := int32(air.Noise * 255) // sigma in levels; noise is sigma 256 so the product is level << 8
	if air.Noise > 0 && scale == 0 {
		scale = 1
	}
	at := g.IntN(noiseSize)
	for i := 0; i < len(dst); {
		n := min(len(dst)-i, noiseSize-at) / 3 * 3
		if n == 0 {
			at = 0
			continue
		}
		px, ns := dst[i:i+n], r.noise[at:at+n]
		for j := 0; j+2 < len(px) && j+2 < len(ns); j += 3 {
			px[j] = level(table[0][px[j]] + int32(ns[j])*scale)
			px[j+1] = level(table[1][px[j+1]] + int32(ns[j+1])*scale)
			px[j+2] = level(table[2][px[j+2]] + int32(ns[j+2])*scale)
		}
		i, at = i+n, 0
	}
}

func level(v int32) byte {
	v >>= 8
	if uint32(v) > 255 {
		if v < 0 {
			return 0
		}
		return 255
	}
	return byte(v)
}

func (r *Renderer) streaks(dst []byte, air Atmosphere, g *rand.Rand) {
	for range air.Streaks {
		p := box(g.Float32()*SceneW, g.Float32()*SceneH, .6, air.Length/2, rgb{.8, .8, .8})
		p.A = .35
		if air.Snow {
			p.HX, p.HY, p.Shape = 1.6, 1.6, Ellipse
		} else {
			p = leaning(p, .15)
		}
		r.paint(dst, p)
	}
}

// paint lays p over dst with an anti-aliased edge.
func (r *Renderer) paint(dst []byte, p Prim) {
	edge := max(r.blur, p.Soft)
	// bounding box in pixels; a rotated shape uses its diagonal
	ex, ey := p.HX, p.HY
	if p.Sin != 0 {
		c, s := abs(p.Cos), abs(p.Sin)
		ex, ey = p.HX*c+p.HY*s, p.HX*s+p.HY*c
	}
	x0, x1 := clampInt(int(math.Floor(float64((p.CX-ex-edge)*r.sx))), r.w), clampInt(int(math.Ceil(float64((p.CX+ex+edge)*r.sx))), r.w)
	y0, y1 := clampInt(int(math.Floor(float64((p.CY-ey-edge)*r.sy))), r.h), clampInt(int(math.Ceil(float64((p.CY+ey+edge)*r.sy))), r.h)
	inv := 1 / edge
	cr, cg, cb := p.R*255, p.G*255, p.B*255
	for y := y0; y < y1; y++ {
		row := dst[3*y*r.w : 3*(y+1)*r.w]
		dy := (float32(y)+.5)/r.sy - p.CY
		for x := x0; x < x1; x++ {
			dx := (float32(x)+.5)/r.sx - p.CX
			cov := .5 - p.distance(dx*p.Cos+dy*p.Sin, dy*p.Cos-dx*p.Sin)*inv
			if cov <= 0 {
				continue
			}
			k := min(1, cov) * p.A
			px := row[3*x : 3*x+3 : 3*x+3]
			px[0] = byte(float32(px[0])*(1-k) + cr*k + .5)
			px[1] = byte(float32(px[1])*(1-k) + cg*k + .5)
			px[2] = byte(float32(px[2])*(1-k) + cb*k + .5)
		}
	}
}

// distance is the signed distance in scene units from (x, y), relative to the centre and unrotated, to the outline.
func (p *Prim) distance(x, y float32) float32 {
	switch p.Shape {
	case Ellipse:
		u, v := x/p.HX, y/p.HY
		return (float32(math.Sqrt(float64(u*u+v*v))) - 1) * min(p.HX, p.HY)
	case Triangle:
		n := float32(math.Sqrt(float64(4*p.HY*p.HY + p.HX*p.HX)))
		return max(y-p.HY, (abs(x)*2*p.HY-p.HX*(y+p.HY))/n)
	}
	qx, qy := abs(x)-p.HX+p.Radius, abs(y)-p.HY+p.Radius
	d := min(max(qx, qy), 0) - p.Radius
	if qx > 0 || qy > 0 {
		ox, oy := max(qx, 0), max(qy, 0)
		if ox == 0 {
			d += oy
		} else if oy == 0 {
			d += ox
		} else {
			d += float32(math.Sqrt(float64(ox*ox + oy*oy)))
		}
	}
	return d
}

func clampInt(v, hi int) int { return min(hi, max(0, v)) }
