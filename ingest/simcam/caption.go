package simcam

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

// Caption describes everything that the picture at t shows, densely: what training starts from, before any question.
// Columns 0..7 divide the picture from left to right.
func (c *Scene) Caption(t time.Duration) string {
	s := c.script
	sky := s.SkyAt(t)
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s. ", map[Light]string{Day: "day", Dusk: "evening", Night: "night"}[sky.Light],
		map[Weather]string{Clear: "clear", Rain: "rainy", Snow: "snowy", Fog: "foggy"}[sky.Weather])
	for _, sw := range switches {
		fmt.Fprintf(&b, "%s %s, ", sw, stateWord(sw, s.IsOn(sw, t)))
	}
	b.WriteString(map[bool]string{true: "a parcel.", false: "no parcel."}[s.HasParcel(t)])
	type placed struct {
		x    float32
		text string
	}
	var all []placed
	for _, e := range s.Active(t) {
		x, y, right, visible := c.place(e, t)
		if !visible || x < 8 || x > SceneW-8 {
			continue
		}
		text := fmt.Sprintf("%s facing %s at %d", e.name(), side(right), int(x/(SceneW/8)))
		if y > kerbFoot-8 && y < kerbFoot+8 {
			text += " parked"
		}
		if y < walkFoot-8 {
			text += " by the door"
		}
		if e.Action == Deliver && t < e.Mid+seconds(.6) || e.Action == Collect && t >= e.Mid+seconds(.6) {
			text += " with parcel"
		}
		all = append(all, placed{x, text})
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].x < all[j].x })
	for _, p := range all {
		b.WriteString(" " + p.text + ".")
	}
	if len(all) == 0 {
		b.WriteString(" nobody.")
	}
	return b.String()
}
