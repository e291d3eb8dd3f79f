package simcam

import (
	"math"
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
