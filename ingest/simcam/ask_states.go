package simcam

import (
	"fmt"
	"time"
)

// steady reports whether sw has kept its state around t for long enough to rely on it.
func (a *asker) steady(sw Switch, t time.Duration, by time.Duration) bool {
	for _, p := range a.s.On[sw] {
		if near(p.From, t, by) || near(p.To, t, by) {
			return false
		}
	}
	return true
}

// accept thins out the likelier state so that yes and no are asked equally often: share is the long-run share of on.
func (a *asker) accept(on bool, share float64) bool {
	if on {
		return a.r.Float64() < (1-share)/max(share, 1-share)
	}
	return a.r.Float64() < share/max(share, 1-share)
}

func (a *asker) askSwitch(sw Switch, on bool, then string) (question, short, answer string) {
	positive := a.coin() // "open?" or "closed?"
	word := stateWord(sw, positive)
	thing := map[Switch]string{Door: "[door|front door|house door]", Lamp: "[lamp|light|lamp by the door]", Gate: "[gate|garden gate]"}[sw]
	verb, tail := "Is", "[ now|| right now| at the moment]"
	if then != "" {
		verb, tail = "Was", then
	}
	question = a.say(verb + " the " + thing + " " + word + tail + "?")
	is := map[bool]string{true: "is", false: "was"}[then == ""]
	yes := on == positive
	return question, yesno(yes), fmt.Sprintf("%s, the %s %s %s.", map[bool]string{true: "Yes", false: "No"}[yes], sw, is, stateWord(sw, on))
}

// shares of time in which a parcel lies there, a vehicle is parked, a person is in view; measured over training seeds.
const (
	parcelShare = 0.41
	parkedShare = 0.39
	personShare = 0.18
)

func (a *asker) state() (Truth, bool) {
	t := Truth{Type: CurrentState, Form: "yesno", Closed: true, From: a.at - time.Second, To: a.at}
	switch k := a.pick(6); k {
	case 0, 1, 2:
		sw := switches[k]
		on := a.s.IsOn(sw, a.at)
		if !a.steady(sw, a.at, settle) || !a.accept(on, onShare[sw]) {
			return t, false
		}
		t.Question, t.Short, t.Answer = a.askSwitch(sw, on, "")
	case 3:
		on := a.s.HasParcel(a.at)
		for _, p := range a.s.Parcel {
			if near(p.From, a.at, settle) || near(p.To, a.at, settle) {
				return t, false
			}
		}
		if !a.accept(on, parcelShare) {
			return t, false
		}
		t.Short, t.Question = yesno(on), a.say("[Is there a [parcel|package] [at|by|in front of] the door|Does a [parcel|package] lie at the door|Is a [parcel|package] waiting at the door][ now|| right now]?")
		t.Answer = map[bool]string{true: "Yes, there is a parcel at the door.", false: "No, there is no parcel at the door."}[on]
	case 4:
		on, ok := len(a.parked()) > 0, a.calm()
		if !ok || !a.accept(on, parkedShare) {
			return t, false
		}
		t.Short, t.Question = yesno(on), a.say("[Is [a vehicle|anything|any vehicle] parked|Is there a parked vehicle|Does a vehicle stand at the kerb][ now|| right now]?")
		t.Answer = map[bool]string{true: "Yes, a vehicle is parked.", false: "No, no vehicle is parked."}[on]
	default:
		on := false
		for _, e := range a.s.Active(a.at) {
			on = on || e.Category == Person
		}
		if !a.calm() || !a.accept(on, personShare) {
			return t, false
		}
		t.Short, t.Question = yesno(on), a.say("[Is [anyone|anybody|somebody] [there|in view|on the street]|Do you see a person|Is there a person in view][ now|| right now]?")
		t.Answer = map[bool]string{true: "Yes, a person is in view.", false: "No, nobody is in view."}[on]
	}
	return t, true
}

// calm reports that nobody is just coming, going, or half hidden, so that what is in view now is plain.
func (a *asker) calm() bool {
	for _, e := range a.s.Episodes {
		if near(e.Start, a.at, settle) || near(e.End, a.at, settle) {
			return false
		}
		switch e.Action {
		case Park:
			if near(e.Mid, a.at, settle) || near(e.Leave, a.at, settle) || (a.at > e.Start && a.at < e.Mid) || (a.at > e.Leave && a.at < e.End) {
				return false
			}
		case Enter, Exit:
			if a.at > e.Start-settle && a.at < e.End+settle {
				return false
			}
		}
	}
	return true
}

func (a *asker) parked() (out []Episode) {
	for _, e := range a.s.Active(a.at) {
		if e.Action == Park && a.at >= e.Mid && a.at < e.Leave {
			out = append(out, e)
		}
	}
	return out
}

func (a *asker) stateThen() (Truth, bool) {
	sw, want := switches[a.pick(3)], a.coin()
	for range 24 {
		if a.at < 2*settle {
			break
		}
		t := time.Duration(a.r.Int64N(int64(a.at-settle))) / time.Second * time.Second
		t = t + a.epoch.Add(t).Truncate(time.Second).Sub(a.epoch.Add(t)) // whole seconds of the wall clock
		if t < settle || a.s.IsOn(sw, t) != want || !a.steady(sw, t, settle+time.Second) {
			continue
		}
		q := Truth{Type: PastState, Form: "yesno", Closed: true, From: t - time.Second, To: t + time.Second, Evidence: []Span{{t - time.Second, t + time.Second}}}
		clock := a.clock(t)
		if a.pick(3) == 0 && a.steadyMinute(sw, t) {
			clock = a.minute(t)
		}
		q.Question, q.Short, q.Answer = a.askSwitch(sw, want, " at "+clock)
		return q, true
	}
	return Truth{}, false
}

// steadyMinute reports whether sw keeps its state for the whole wall-clock minute of t.
func (a *asker) steadyMinute(sw Switch, t time.Duration) bool {
	from := a.epoch.Add(t).Truncate(time.Minute).Sub(a.epoch)
	if from < 0 || from+time.Minute > a.at {
		return false
	}
	for _, p := range a.s.On[sw] {
		if p.From > from-settle && p.From < from+time.Minute+settle || p.To > from-settle && p.To < from+time.Minute+settle {
			return false
		}
	}
	return true
}
