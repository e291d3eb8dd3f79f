package simcam

import (
	"math"
	"math/rand/v2"
	"time"
)

// Scene coordinates: the picture is SceneW x SceneH units whatever its size in pixels.
const (
	SceneW = 640
	SceneH = 360
)

// Shape is what a Prim draws.
type Shape uint8

// The shapes. A Triangle is isosceles and points up.
const (
	Box Shape = iota
	Ellipse
	Triangle
)

// Prim is one painted shape in scene units: centre, half size, rotation, corner radius (Box), colour and opacity 0..1. An
// Emissive prim shines: it is painted after the light has been applied. Soft blurs the edge by that many units.
type Prim struct {
	Shape          Shape
	CX, CY, HX, HY float32
	Cos, Sin       float32
	Radius         float32
	R, G, B, A     float32
	Emissive       bool
	Soft           float32
}

// Atmosphere is what light and weather do to a whole picture: c*Gain, then a blend towards Fog, then streaks and noise.
type Atmosphere struct {
	Gain      [3]float32
	FogAmount float32
	Fog       [3]float32
	Noise     float32 // standard deviation, 0..1
	Streaks   int     // rain or snow
	Length    float32 // of a streak, scene units
	Snow      bool
}

type rgb struct{ r, g, b float32 }

func (c rgb) scale(k float32) rgb { return rgb{c.r * k, c.g * k, c.b * k} }

var palette = map[string]rgb{
	"red": {.80, .10, .10}, "blue": {.12, .24, .80}, "green": {.10, .55, .16}, "yellow": {.93, .80, .10}, "white": {.94, .94, .94},
	"black": {.07, .07, .08}, "purple": {.52, .12, .62}, "brown": {.45, .26, .12},
}

// Scene is the fixed street of a seed and the way its cast is drawn. Not safe for concurrent use (it reuses its buffer).
type Scene struct {
	script *Script
	static []Prim

	houseX, doorX, lampX, gateX, parcelX float32
	noise                                float32
	buf                                  []Prim
}

// Lines of the street in scene units.
const (
	doorFoot = 206 // where the house stands
	walkFoot = 238 // feet on the pavement
	kerbFoot = 274 // wheels of the parked
	farFoot  = 306 // wheels in the far lane, driven left to right
	nearFoot = 342 // wheels in the near lane, driven right to left
)

var spotX = [kerbSpots]float32{120, 320, 520}

// NewScene lays out the street of s.
func NewScene(s *Script) *Scene {
	r := source(s.Seed, "scene")
	f := func(lo, hi float32) float32 { return lo + r.Float32()*(hi-lo) }
	c := &Scene{script: s}
	c.noise = f(0.008, 0.03)
	c.houseX = []float32{160, 320, 480}[r.IntN(3)] + f(-20, 20)
	side := float32(1)
	if c.houseX > 320 || (c.houseX > 250 && r.IntN(2) == 0) {
		side = -1
	}
	c.doorX = c.houseX - side*f(18, 45)
	c.lampX = c.doorX - 32
	c.parcelX = c.doorX + 30
	c.gateX = c.houseX + side*f(140, 165)

	add := func(ps ...Prim) { c.static = append(c.static, ps...) }
	tone := func(c rgb, d float32) rgb {
		k := 1 + f(-d, d)
		return rgb{min(1, c.r*k), min(1, c.g*k), min(1, c.b*k)} // above 1 a byte would wrap round
	}
	add(box(320, 90, 320, 90, tone(rgb{.55, .70, .90}, .12)))  // sky
	add(box(320, 205, 320, 62, tone(rgb{.38, .58, .28}, .15))) // lawn
	for x := float32(-20); x < 660; x += f(40, 110) {          // skyline
		h := f(14, 48)
		col := tone(rgb{.50, .52, .58}, .2)
		if r.IntN(2) == 0 {
			add(box(x, 145-h/2, f(18, 42), h, col))
		} else {
			add(ellipse(x, 146, f(24, 60), h*.8, tone(rgb{.28, .45, .25}, .2)))
		}
	}
	for range 2 + r.IntN(3) { // clouds
		add(ellipse(f(0, 640), f(12, 60), f(30, 70), f(6, 13), rgb{.92, .93, .95}))
	}
	add(box(320, 232, 320, 14, tone(rgb{.66, .65, .62}, .08))) // pavement
	add(box(320, 306, 320, 60, tone(rgb{.30, .30, .32}, .12))) // road
	add(box(320, 248, 320, 2, rgb{.78, .78, .76}))             // kerb
	for x := float32(20); x < 640; x += 80 {
		add(box(x, 312, 18, 1.6, rgb{.85, .85, .82}))
	}
	add(box(320, 356, 320, 6, tone(rgb{.35, .52, .26}, .15)))
	// trees keep clear of door, lamp and gate
	for range 2 + r.IntN(3) {
		x := f(10, 630)
		if abs(x-c.houseX) < 120 || abs(x-c.gateX) < 55 {
			continue
		}
		add(box(x, 185, 4, 24, rgb{.36, .25, .15}), ellipse(x, 150, f(18, 28), f(20, 30), tone(rgb{.20, .42, .18}, .25)))
	}
	// house
	wall := []rgb{{.80, .72, .58}, {.70, .68, .66}, {.62, .36, .28}, {.86, .84, .78}, {.56, .64, .70}}[r.IntN(5)]
	roof := []rgb{{.45, .20, .16}, {.28, .28, .32}, {.36, .26, .20}}[r.IntN(3)]
	add(box(c.houseX, 160, 88, 46, tone(wall, .08)), Prim{Shape: Triangle, CX: c.houseX, CY: 90, HX: 102, HY: 27, Cos: 1,
		R: roof.r, G: roof.g, B: roof.b, A: 1})
	for _, dx := range []float32{-62, 0, 62} {
		if x := c.houseX + dx; abs(x-c.doorX) > 48 {
			add(box(x, 152, 13, 14, rgb{.92, .92, .90}), box(x, 152, 11, 12, rgb{.30, .38, .48}))
		}
	}
	add(box(c.doorX, doorFoot+12, 13, 20, rgb{.60, .58, .55})) // path
	add(box(c.doorX, 178, 17, 30, rgb{.93, .92, .90}))         // door frame
	add(box(c.lampX, 160, 2.5, 5, rgb{.2, .2, .2}))
	// fence on both sides of the gate
	for _, dx := range []float32{-44, 44} {
		add(box(c.gateX+dx, 206, 20, 2, rgb{.88, .88, .86}), box(c.gateX+dx, 216, 20, 2, rgb{.88, .88, .86}))
		for k := float32(-16); k <= 16; k += 11 {
			add(box(c.gateX+dx+k, 210, 2, 14, rgb{.90, .90, .88}))
		}
	}
	return c
}

// Static returns the prims that never move; shared, not to be written.
func (c *Scene) Static() []Prim { return c.static }

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

// Moving returns what is drawn over Static at t, in painter's order. The slice is valid until the next call.
func (c *Scene) Moving(t time.Duration) []Prim {
	c.buf = c.buf[:0]
	s := c.script
	c.door(s.IsOn(Door, t))
	c.lamp(s.IsOn(Lamp, t))
	c.gate(s.IsOn(Gate, t))
	if s.HasParcel(t) {
		c.add(box(c.parcelX, doorFoot-8, 11, 9, rgb{.72, .52, .30}), box(c.parcelX, doorFoot-8, 11, 1.5, rgb{.90, .82, .60}))
	}
	// painter's order: whoever stands further down the picture is nearer
	active := s.Active(t)
	for foot := range 5 {
		for _, e := range active {
			x, y, right, visible := c.place(e, t)
			if visible && layer(y) == foot {
				c.draw(e, x, y, right, t)
			}
		}
	}
	return c.buf
}

func layer(y float32) int {
	switch {
	case y < walkFoot-8:
		return 0
	case y < kerbFoot-8:
		return 1
	case y < farFoot-8:
		return 2
	case y < nearFoot-8:
		return 3
	}
	return 4
}

func (c *Scene) add(ps ...Prim) { c.buf = append(c.buf, ps...) }

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

func lerp(a, b, k float32) float32 {
	k = min(1, max(0, k))
	return a + (b-a)*k
}

// smooth eases a 0..1 ramp in and out.
func smooth(k float32) float32 {
	k = min(1, max(0, k))
	return k * k * (3 - 2*k)
}

// part is how far t is from a to b, 0..1.
func part(t, a, b time.Duration) float32 {
	if b <= a {
		return 1
	}
	return min(1, max(0, float32(t-a)/float32(b-a)))
}

// place says where e stands at t: the middle of its feet or wheels, and which way it faces.
func (c *Scene) place(e Episode, t time.Duration) (x, y float32, right, visible bool) {
	if t < e.Start || t >= e.End {
		return 0, 0, false, false
	}
	const margin = 60
	edge := func(right bool) float32 { // where one who moves right comes in
		if right {
			return -margin
		}
		return SceneW + margin
	}
	lane := func(right bool) float32 {
		if right {
			return farFoot
		}
		return nearFoot
	}
	switch e.Action {
	case Cross:
		k := part(t, e.Start, e.End)
		y = walkFoot
		if e.Category == Car || e.Category == Van || e.Category == Bicycle {
			y = lane(e.Right)
		}
		if e.Category == Dog {
			y += 4
		}
		return lerp(edge(e.Right), edge(!e.Right), k), y, e.Right, true
	case Park:
		if t < e.Leave {
			k := part(t, e.Start, e.Mid)
			return lerp(edge(e.Right), spotX[e.Spot], 1-(1-k)*(1-k)), lerp(lane(e.Right), kerbFoot, smooth((k-.6)/.4)), e.Right, true
		}
		k := part(t, e.Leave, e.End)
		return lerp(spotX[e.Spot], edge(!e.LeaveRight), k*k), lerp(kerbFoot, lane(e.LeaveRight), smooth(k/.4)), e.LeaveRight, true
	}
	// people at the door: along the pavement, then up the path, and back
	in := func(k float32, right bool) (float32, float32) {
		if k < .8 {
			return lerp(edge(right), c.doorX, k/.8), walkFoot
		}
		return c.doorX, lerp(walkFoot, doorFoot+2, (k-.8)/.2)
	}
	switch {
	case e.Action == Exit && t < e.Mid:
		if t < e.Start+400*time.Millisecond {
			return 0, 0, false, false
		}
		return c.doorX, doorFoot, e.Right, true
	case e.Action == Exit:
		x, y = in(1-part(t, e.Mid, e.End), !e.Right)
		return x, y, e.Right, true
	case t < e.Mid:
		x, y = in(part(t, e.Start, e.Mid), e.Right)
		return x, y, e.Right, true
	case t < e.Leave:
		if e.Action == Enter && t > e.Mid+600*time.Millisecond {
			return 0, 0, false, false
		}
		return c.doorX, doorFoot + 2, e.Right, true
	}
	x, y = in(1-part(t, e.Leave, e.End), !e.LeaveRight)
	return x, y, e.LeaveRight, true
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

// Atmosphere returns the light and the weather at t.
func (c *Scene) Atmosphere(t time.Duration) Atmosphere {
	sky := c.script.SkyAt(t)
	a := Atmosphere{Gain: [3]float32{1, 1, 1}, Noise: c.noise}
	switch sky.Light {
	case Dusk:
		a.Gain = [3]float32{.86, .66, .55}
	case Night:
		a.Gain, a.Noise = [3]float32{.42, .45, .60}, c.noise*1.4
	}
	drift := float32(1 + .05*math.Sin(t.Seconds()/47+float64(c.script.Seed%97)))
	for i := range a.Gain {
		a.Gain[i] *= drift
	}
	grey := (a.Gain[0] + a.Gain[1] + a.Gain[2]) / 3
	switch sky.Weather {
	case Rain:
		a.Streaks, a.Length, a.FogAmount, a.Fog = 70, 16, .12, [3]float32{.5 * grey, .52 * grey, .56 * grey}
	case Snow:
		a.Streaks, a.Length, a.Snow, a.FogAmount, a.Fog = 90, 2.5, true, .12, [3]float32{.8 * grey, .8 * grey, .82 * grey}
	case Fog:
		a.FogAmount, a.Fog = .42, [3]float32{.72 * grey, .73 * grey, .75 * grey}
	}
	return a
}
