// Package simcam is a simulated fixed camera over a street: a Script says what happens and when, a Scene draws it, a Renderer
// makes pictures of it, a Camera is an ingest.Source of those pictures, and Questions writes what may be asked about it, with
// the truth. Everything is deterministic from a seed. Seeds below HeldOut are for training, all others are held out for ever.
package simcam

import (
	"math"
	"math/rand/v2"
	"sort"
	"time"
)

// HeldOut is the first seed that training never sees.
const HeldOut = 100_000

// Category is what kind of thing an Actor is.
type Category string

// The cast.
const (
	Person  Category = "person"
	Car     Category = "car"
	Van     Category = "van"
	Bicycle Category = "bicycle"
	Dog     Category = "dog"
)

var categories = []Category{Person, Car, Van, Bicycle, Dog}

// colours each category may have; they are drawn evenly, so that a colour cannot be guessed.
var colours = map[Category][]string{
	Person:  {"red", "blue", "green", "yellow", "white", "black", "purple"},
	Car:     {"red", "blue", "green", "yellow", "white", "black", "purple"},
	Van:     {"red", "blue", "green", "yellow", "white", "black", "purple"},
	Bicycle: {"red", "blue", "green", "yellow", "purple"},
	Dog:     {"brown", "black", "white"},
}

// Action is what an episode's actor does.
type Action string

// What can happen on the street. Cross is for every category, Park for vehicles, the rest for people.
const (
	Cross   Action = "cross"
	Park    Action = "park"    // arrives, stands at the kerb, leaves
	Deliver Action = "deliver" // leaves a parcel at the door
	Collect Action = "collect" // takes the parcel away
	Enter   Action = "enter"   // goes into the house
	Exit    Action = "exit"    // comes out of the house
)

// Actor is somebody or something with the attributes a viewer can name.
type Actor struct {
	Category Category
	Colour   string
}

// Episode is one actor's appearance. Times are since stream start; Start is when the first pixel shows, End when the last is
// gone. Mid and Leave split it: for Park, standing lasts from Mid to Leave; for the others Mid is the deed at the door.
type Episode struct {
	Actor
	Action     Action
	Right      bool // moves (or comes in, or for Exit leaves) from left to right
	LeaveRight bool // for those who come and go: leaves to the right
	Spot       int  // kerb place of Park
	Start, End time.Duration
	Mid, Leave time.Duration
}

// Switch is something with two states.
type Switch string

// The switches of the street.
const (
	Door Switch = "door"
	Lamp Switch = "lamp"
	Gate Switch = "gate"
)

var switches = []Switch{Door, Lamp, Gate}

// onShare is the long-run share of time each switch is on (open, lit); questions are balanced with it.
var onShare = map[Switch]float64{Door: 0.3, Lamp: 0.4, Gate: 0.3}

// Period is a time a Switch is on. ByActor marks a door that opened for somebody passing through it.
type Period struct {
	From, To time.Duration
	ByActor  bool
}

// Light and Weather of a Sky.
type (
	Light   string
	Weather string
)

// What the sky can be.
const (
	Day   Light   = "day"
	Dusk  Light   = "dusk"
	Night Light   = "night"
	Clear Weather = "clear"
	Rain  Weather = "rain"
	Snow  Weather = "snow"
	Fog   Weather = "fog"
)

// Sky holds from From until the next Sky.
type Sky struct {
	From    time.Duration
	Light   Light
	Weather Weather
}

// Script is all that happens in front of the camera.
type Script struct {
	Seed     uint64
	Length   time.Duration
	Episodes []Episode // by Start
	On       map[Switch][]Period
	Parcel   []Period // when a parcel lies at the door
	Skies    []Sky
}

// source returns a generator for one purpose of a seed, so that adding a purpose changes no other.
func source(seed uint64, purpose string) *rand.Rand {
	h := uint64(14695981039346656037)
	for _, b := range []byte(purpose) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, h))
}

func between(r *rand.Rand, lo, hi float64) float64 { return lo + r.Float64()*(hi-lo) }

// seconds rounds to a frame of the 25 per second that the camera renders, so that times print and compare cleanly.
func seconds(s float64) time.Duration { return time.Duration(math.Round(s*25)) * 40 * time.Millisecond }

// crossing times in seconds for the whole picture's width.
var crossTime = map[Category][2]float64{Person: {10, 16}, Car: {4, 7}, Van: {4.5, 7.5}, Bicycle: {6, 9}, Dog: {7, 11}}

const kerbSpots = 3

// NewScript makes the script of a seed; length 0 means a day. The same seed and length give the same script everywhere.
func NewScript(seed uint64, length time.Duration) *Script {
	if length <= 0 {
		length = 24 * time.Hour
	}
	s := &Script{Seed: seed, Length: length, On: map[Switch][]Period{}}
	s.skies()
	s.switches()
	s.episodes()
	return s
}

func (s *Script) skies() {
	r := source(s.Seed, "sky")
	lights, weathers := []Light{Day, Dusk, Night}, []Weather{Clear, Clear, Rain, Snow, Fog}
	for t := time.Duration(0); t < s.Length; t += seconds(between(r, 300, 1200)) {
		s.Skies = append(s.Skies, Sky{t, lights[r.IntN(3)], weathers[r.IntN(len(weathers))]})
	}
}

// switches lets each switch alternate by itself, starting in its long-run state distribution.
func (s *Script) switches() {
	for _, sw := range switches {
		r := source(s.Seed, string(sw))
		on := map[Switch][2]float64{Door: {8, 70}, Lamp: {20, 180}, Gate: {8, 80}}[sw]
		share := onShare[sw]
		off := [2]float64{on[0] * (1 - share) / share, on[1] * (1 - share) / share}
		t, lit := 0.0, r.Float64() < share
		for first := true; t < s.Length.Seconds(); first = false {
			span := off
			if lit {
				span = on
			}
			d := between(r, span[0], span[1])
			if first { // the camera starts somewhere inside a period
				d = max(4, d*r.Float64())
			}
			if lit {
				s.On[sw] = append(s.On[sw], Period{From: seconds(t), To: seconds(t + d)})
			}
			t, lit = t+d, !lit
		}
	}
}

// episodes fills the street. The pavement holds one walker at a time and each road lane one vehicle, so nothing hides behind
// another for long; the door moves only for its user while somebody uses it.
func (s *Script) episodes() {
	r := source(s.Seed, "episodes")
	gap := between(r, 14, 40) // mean seconds between starts: quiet and busy streets
	var pavement, lanes [2]time.Duration
	var spots [kerbSpots]time.Duration
	parcel := time.Duration(-1) // since when one lies there
	for t := between(r, 1, gap); ; t += between(r, 0.35*gap, 1.65*gap) {
		at := seconds(t)
		if at >= s.Length {
			break
		}
		e := Episode{Start: at, Right: r.IntN(2) == 0, LeaveRight: r.IntN(2) == 0}
		e.Category = []Category{Person, Person, Person, Car, Car, Van, Bicycle, Dog}[r.IntN(8)]
		e.Colour = colours[e.Category][r.IntN(len(colours[e.Category]))]
		full := between(r, crossTime[e.Category][0], crossTime[e.Category][1])
		choice, spot := r.Float64(), r.IntN(kerbSpots)
		stay, wait := between(r, 10, 200), between(r, 1.5, 3)
		switch e.Category {
		case Car, Van:
			lane := 0
			if e.Right {
				lane = 1
			}
			if lanes[lane] > at {
				continue
			}
			if choice < 0.4 && spots[spot] <= at {
				e.Action, e.Spot, e.LeaveRight = Park, spot, e.Right
				e.Mid = at + seconds(full*0.75)
				e.Leave = e.Mid + seconds(stay)
				e.End = e.Leave + seconds(full*0.75)
				spots[spot] = e.End + seconds(3)
				lanes[lane] = e.Mid
			} else {
				e.Action, e.End = Cross, at+seconds(full)
				lanes[lane] = e.End
			}
		case Bicycle:
			lane := 0
			if e.Right {
				lane = 1
			}
			if lanes[lane] > at {
				continue
			}
			e.Action, e.End = Cross, at+seconds(full)
			lanes[lane] = e.End
		case Dog:
			if pavement[0] > at {
				continue
			}
			e.Action, e.End = Cross, at+seconds(full)
			pavement[0] = e.End + seconds(1)
		case Person:
			if pavement[0] > at {
				continue
			}
			half := seconds(full * 0.6)
			e.Mid = at + half
			e.Leave = e.Mid + seconds(wait)
			e.End = e.Leave + half
			switch {
			case choice < 0.45:
				e.Action, e.End, e.Mid, e.Leave = Cross, at+seconds(full), 0, 0
			case choice < 0.75 && parcel < 0:
				e.Action, parcel = Deliver, e.Mid+seconds(0.6)
			case choice < 0.75:
				if e.Mid < parcel+seconds(8) {
					continue
				}
				e.Action = Collect
				s.Parcel = append(s.Parcel, Period{From: parcel, To: e.Mid + seconds(0.6)})
				parcel = -1
			case choice < 0.88:
				e.Action = Enter
				e.Leave = e.Mid + seconds(1.2)
				e.End = e.Leave
				s.openFor(e.Mid-seconds(0.8), e.End+seconds(1.2))
			default:
				e.Action = Exit
				e.Mid = at + seconds(1.2) // steps out after the door opened
				e.Leave = e.Mid
				e.End = e.Mid + half
				s.openFor(at, e.Mid+seconds(1.2))
			}
			pavement[0] = e.End + seconds(1.5)
		}
		s.Episodes = append(s.Episodes, e)
	}
	if parcel >= 0 {
		s.Parcel = append(s.Parcel, Period{From: parcel, To: s.Length + time.Hour})
	}
	sort.SliceStable(s.Episodes, func(i, j int) bool { return s.Episodes[i].Start < s.Episodes[j].Start })
}

// openFor opens the door from..to for an actor and drops the door's own periods that come within a few seconds of it, so that
// an opening has one plain reason.
func (s *Script) openFor(from, to time.Duration) {
	kept := s.On[Door][:0:0]
	for _, p := range s.On[Door] {
		if p.ByActor || p.To < from-seconds(4) || p.From > to+seconds(4) {
			kept = append(kept, p)
		}
	}
	kept = append(kept, Period{From: from, To: to, ByActor: true})
	sort.Slice(kept, func(i, j int) bool { return kept[i].From < kept[j].From })
	s.On[Door] = kept
}

// IsOn reports whether sw is on at t.
func (s *Script) IsOn(sw Switch, t time.Duration) bool { return within(s.On[sw], t) }

// HasParcel reports whether a parcel lies at the door at t.
func (s *Script) HasParcel(t time.Duration) bool { return within(s.Parcel, t) }

func within(ps []Period, t time.Duration) bool {
	i := sort.Search(len(ps), func(i int) bool { return ps[i].To > t })
	return i < len(ps) && ps[i].From <= t
}

// SkyAt returns the sky at t.
func (s *Script) SkyAt(t time.Duration) Sky {
	i := sort.Search(len(s.Skies), func(i int) bool { return s.Skies[i].From > t })
	return s.Skies[max(0, i-1)]
}

// Active returns the episodes with a visible part at t, by start.
func (s *Script) Active(t time.Duration) []Episode {
	var out []Episode
	hi := sort.Search(len(s.Episodes), func(i int) bool { return s.Episodes[i].Start > t })
	for i := hi - 1; i >= 0 && s.Episodes[i].Start > t-5*time.Minute; i-- { // no episode is longer: see stay
		if s.Episodes[i].End > t {
			out = append(out, s.Episodes[i])
		}
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}
