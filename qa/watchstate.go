package qa

import "time"

// WatchState is where a standing question stands.
type WatchState string

// The states. A question that is put for the first time is Idle.
const (
	WatchIdle    WatchState = "idle"    // the answer does not count
	WatchAbove   WatchState = "above"   // it counts, not yet for long enough
	WatchFired   WatchState = "fired"   // it fired and has not cleared
	WatchCooling WatchState = "cooling" // it has cleared, and may not fire yet
)

// WatchKind is what a WatchEvent tells.
type WatchKind string

// The kinds of events.
const (
	Fired   WatchKind = "fired"
	Cleared WatchKind = "cleared"
	Failed  WatchKind = "error" // a check, a delivery or a deadline
)

// turnstile is the state machine of one standing question. It knows probabilities and times of pictures and nothing else, so that a question
// fires on the past as it does on the present. The zero turnstile is idle. It is saved as it is.
type turnstile struct {
	State WatchState `json:"state"`
	Since time.Time  `json:"since"`          // when State began
	Onset time.Time  `json:"onset,omitzero"` // since when the answer counts, without a gap; zero: it does not
	Ebb   time.Time  `json:"ebb,omitzero"`   // since when it does not, once it fired; zero: it does
	Last  time.Time  `json:"fired,omitzero"` // the last firing; zero: none
	Armed time.Time  `json:"armed"`          // since when the deadline counts
	Late  bool       `json:"late,omitempty"` // that the deadline passed has been said
}

func (m *turnstile) enter(s WatchState, t time.Time) { m.State, m.Since = s, t }

// step takes a check of the picture at t; what it returns is "", Fired or Cleared. gap says that somewhere between the check before and this one
// nobody was watching: what the answer was then is not known, so what began before does not count towards holding. t does not run backwards, unless
// somebody set the clock; then a cooldown begins anew.
func (m *turnstile) step(s *WatchSpec, t time.Time, p float64, gap bool) WatchKind {
	if m.State == "" {
		m.enter(WatchIdle, t)
	}
	if gap {
		m.Onset, m.Ebb = time.Time{}, time.Time{}
		if m.State == WatchAbove {
			m.enter(WatchIdle, t)
		}
	}
	if t.Before(m.Last) {
		m.Last = t
	}
	switch {
	case p >= s.Threshold:
		if m.Ebb = (time.Time{}); m.Onset.IsZero() || t.Before(m.Onset) {
			m.Onset = t
		}
	case p < s.Threshold-s.Hysteresis:
		if m.Onset = (time.Time{}); m.Ebb.IsZero() || t.Before(m.Ebb) {
			m.Ebb = t
		}
	} // between the two nothing begins and nothing ends
	if m.State == WatchFired {
		if m.Ebb.IsZero() || t.Sub(m.Ebb) < s.hold() {
			return ""
		}
		m.enter(WatchCooling, t)
		m.cool(s, t)
		return Cleared
	}
	m.cool(s, t)
	switch {
	case m.State == WatchCooling:
	case m.Onset.IsZero():
		if m.State == WatchAbove {
			m.enter(WatchIdle, t)
		}
	default:
		if m.State == WatchIdle {
			m.enter(WatchAbove, t)
		}
		if p >= s.Threshold && t.Sub(m.Onset) >= s.hold() {
			m.enter(WatchFired, t)
			m.Last, m.Late, m.Ebb = t, false, time.Time{}
			return Fired
		}
	}
	return ""
}

// cool ends the cooldown when it is over.
func (m *turnstile) cool(s *WatchSpec, t time.Time) {
	if m.State == WatchCooling && t.Sub(m.Last) >= s.cooldown() {
		m.enter(WatchIdle, t)
	}
}

// settled reports that nothing is on its way: the next check will change nothing unless the answer does.
func (m *turnstile) settled() bool {
	switch m.State {
	case WatchAbove:
		return false
	case WatchFired:
		return m.Ebb.IsZero()
	}
	return m.Onset.IsZero()
}

// overdue reports, once, that the deadline passed without a firing.
func (m *turnstile) overdue(s *WatchSpec, now time.Time) bool {
	if s.Deadline <= 0 || m.Late || m.Armed.IsZero() || m.State == WatchFired || now.Sub(laterOf(m.Armed, m.Last)) < s.Deadline {
		return false
	}
	m.Late = true
	return true
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
