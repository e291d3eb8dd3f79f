package simcam

import (
	"math"
	"math/rand/v2"
	"time"
)

type rgb struct{ r, g, b float32 }

func (c rgb) scale(k float32) rgb { return rgb{c.r * k, c.g * k, c.b * k} }

var palette = map[string]rgb{
	"red": {.80, .10, .10}, "blue": {.12, .24, .80}, "green": {.10, .55, .16}, "yellow": {.93, .80, .10}, "white": {.94, .94, .94},
	"black": {.07, .07, .08}, "purple": {.52, .12, .62}, "brown": {.45, .26, .12},
}

func abs(x float32) float32 { return float32(math.Abs(float64(x))) }

func box(cx, cy, hx, hy float32, c rgb) Prim {
	return Prim{Shape: Box, CX: cx, CY: cy, HX: hx, HY: hy, Cos: 1, R: c.r, G: c.g, B: c.b, A: 1}
}

func ellipse(cx, cy, hx, hy float32, c rgb) Prim {
	p := box(cx, cy, hx, hy, c)
	p.Shape = Ellipse
	return p
}

func glow(cx, cy, h, a float32, c rgb) Prim {
	p := ellipse(cx, cy, h, h, c)
	p.A, p.Emissive, p.Soft = a, true, h
	return p
}

func emissive(p Prim) Prim { p.Emissive = true; return p }

func leaning(p Prim, angle float64) Prim {
	s, co := math.Sincos(angle)
	p.Sin, p.Cos = float32(s), float32(co)
	return p
}

func (c *Scene) door(open bool) {
	if open {
		c.add(box(c.doorX, 178, 14, 28, rgb{.10, .08, .06}), box(c.doorX-11, 178, 3, 28, rgb{.40, .18, .10}))
		return
	}
	c.add(box(c.doorX, 178, 14, 28, rgb{.48, .20, .12}), box(c.doorX, 166, 8, 9, rgb{.56, .27, .17}), ellipse(c.doorX+9, 181, 2, 2, rgb{.9, .8, .3}))
}

func (c *Scene) lamp(lit bool) {
	if lit {
		c.add(glow(c.lampX, 150, 24, .45, rgb{1, .85, .45}), emissive(ellipse(c.lampX, 150, 8, 8, rgb{1, .96, .70})))
		return
	}
	c.add(ellipse(c.lampX, 150, 8, 8, rgb{.34, .34, .36}))
}

func (c *Scene) gate(open bool) {
	if open {
		c.add(box(c.gateX-20, 208, 4, 20, rgb{.50, .32, .16}))
		return
	}
	c.add(box(c.gateX, 208, 23, 18, rgb{.50, .32, .16}), box(c.gateX, 200, 23, 2, rgb{.32, .20, .10}), box(c.gateX, 216, 23, 2, rgb{.32, .20, .10}))
}

func (c *Scene) draw(e Episode, x, y float32, right bool, t time.Duration) {
	d := float32(1) // multiplies every offset along the direction of travel
	if !right {
		d = -1
	}
	col := palette[e.Colour]
	switch e.Category {
	case Person:
		c.person(e, x, y, d, col, t)
	case Car:
		dark := col.scale(.8)
		c.add(box(x, y-13, 44, 10, col), round(box(x-d*6, y-26, 24, 9, dark), 5), box(x-d*6, y-26, 19, 6, rgb{.22, .28, .34}),
			box(x-d*6, y-26, 1.5, 7, dark), box(x+d*30, y-20, 12, 4, dark))
		c.wheels(x, y, 27, 8)
		c.lights(x+d*42, x-d*42, y-15)
	case Van:
		dark := col.scale(.8)
		c.add(box(x-d*6, y-28, 44, 22, col), round(box(x+d*38, y-18, 12, 12, col), 4), box(x+d*33, y-34, 8, 9, rgb{.22, .28, .34}), box(x-d*14, y-28, 26, 1.5, dark))
		c.wheels(x, y, 30, 9)
		c.lights(x+d*48, x-d*49, y-16)
	case Bicycle:
		leg := float32(math.Sin(t.Seconds() * 9))
		c.add(ring(x-20, y-11, 11), ellipse(x-20, y-11, 8, 8, rgb{.42, .42, .44}), ring(x+20, y-11, 11), ellipse(x+20, y-11, 8, 8, rgb{.42, .42, .44}))
		c.add(leaning(box(x-d*4, y-18, 16, 1.8, col), float64(-d)*.5), leaning(box(x+d*14, y-22, 2, 11, col), float64(-d)*.25))
		c.add(leaning(box(x-d*2, y-22+leg*2, 3, 10, rgb{.2, .2, .26}), float64(d)*.3))
		c.add(leaning(box(x+d*1, y-38, 6, 12, col), float64(d)*.5), ellipse(x+d*9, y-54, 5.5, 6, rgb{.86, .68, .55}), ellipse(x+d*8, y-57, 6, 4, rgb{.15, .15, .18}))
	case Dog:
		leg := float32(math.Sin(t.Seconds() * 11))
		for k, dx := range []float32{-12, -8, 8, 12} {
			s := float32(1)
			if k%2 == 1 {
				s = -1
			}
			c.add(leaning(box(x+dx, y-5, 2, 6, col.scale(.85)), float64(leg*s)*.4))
		}
		c.add(round(box(x, y-15, 16, 6, col), 4), ellipse(x+d*18, y-22, 7, 6, col), box(x+d*25, y-20, 4, 2.5, col), box(x+d*15, y-27, 2, 5, col.scale(.6)),
			leaning(box(x-d*18, y-22, 1.8, 7, col), float64(-d)*.6))
	}
}

func (c *Scene) person(e Episode, x, y, d float32, col rgb, t time.Duration) {
	moving := e.Action == Cross || t < e.Mid || t > e.Leave
	swing := 0.0
	if moving {
		swing = math.Sin(t.Seconds() * 7)
	}
	// skin and hair vary with the episode, so that only the clothes name somebody
	r := rand.New(rand.NewPCG(uint64(e.Start), c.script.Seed))
	skin := []rgb{{.93, .76, .62}, {.78, .56, .40}, {.48, .32, .22}}[r.IntN(3)]
	hair := []rgb{{.12, .09, .07}, {.45, .30, .14}, {.70, .60, .40}}[r.IntN(3)]
	c.add(leaning(box(x-d*2, y-12, 3.4, 13, rgb{.20, .20, .28}), swing*.35), leaning(box(x+d*2, y-12, 3.4, 13, rgb{.26, .26, .34}), -swing*.35))
	c.add(round(box(x, y-35, 9, 14, col), 4), leaning(box(x+d*3, y-34, 2.6, 12, col.scale(.78)), -swing*.5-float64(d)*.15))
	c.add(ellipse(x+d*1.5, y-55, 6.5, 7, skin), ellipse(x-d*2, y-58, 6, 5.5, hair), ellipse(x+d*8, y-54, 2, 1.6, skin))
	carries := e.Action == Deliver && t < e.Mid+seconds(.6) || e.Action == Collect && t >= e.Mid+seconds(.6)
	if carries {
		c.add(box(x+d*13, y-32, 10, 8, rgb{.72, .52, .30}), box(x+d*13, y-32, 10, 1.4, rgb{.90, .82, .60}))
	}
}

func round(p Prim, radius float32) Prim { p.Radius = radius; return p }

func ring(x, y, r float32) Prim { return ellipse(x, y, r, r, rgb{.10, .10, .11}) }

func (c *Scene) wheels(x, y, dx, r float32) {
	for _, s := range []float32{-1, 1} {
		c.add(ellipse(x+s*dx, y-r, r, r, rgb{.06, .06, .07}), ellipse(x+s*dx, y-r, r*.45, r*.45, rgb{.55, .55, .58}))
	}
}

func (c *Scene) lights(front, back, y float32) {
	c.add(emissive(ellipse(front, y, 4, 3.2, rgb{1, 1, .85})), emissive(ellipse(back, y, 3.2, 3.2, rgb{.85, .08, .05})))
}
