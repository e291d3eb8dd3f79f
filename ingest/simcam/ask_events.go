package simcam

import (
	"fmt"
	"strings"
	"time"
)

// occurred asks whether somebody was seen at all; a No names a category that was seen in other colours as often as not.
func (a *asker) occurred() (Truth, bool) {
	c, want := categories[a.pick(len(categories))], a.coin()
	if a.entered[c] {
		return Truth{}, false
	}
	if a.pick(4) == 0 { // any of the category
		n, first, all := a.tally(func(e Episode) bool { return e.Category == c })
		if (n > 0) != want {
			return Truth{}, false
		}
		one := map[bool]string{true: "anyone", false: "a " + string(c)}[c == Person]
		t := Truth{Type: EventOccurrence, Form: "yesno", Closed: true, Short: yesno(want), From: first.Start, To: first.End, Evidence: all,
			Question: a.say("[Have you seen|Did you see|Has there been|Was there] %s [so far||at any time|today]?", one)}
		t.Answer = map[bool]string{true: "Yes, I saw %s.", false: "No, I did not see %s."}[want]
		t.Answer = fmt.Sprintf(t.Answer, map[bool]string{true: "a person", false: "a " + string(c)}[c == Person])
		return t, true
	}
	x := Actor{c, colours[c][a.pick(len(colours[c]))]}
	for range 8 {
		n, e, all := a.tally(func(e Episode) bool { return e.Actor == x })
		if (n > 0) == want {
			t := Truth{Type: EventOccurrence, Form: "yesno", Closed: true, Short: yesno(want), From: e.Start, To: e.End, Evidence: all,
				Question: a.say("[Have you seen|Did you see|Has there been|Was there|Did you notice|Has the camera seen] a %s [so far||at any time|on the street]?", a.called(x))}
			t.Answer = map[bool]string{true: "Yes, I saw a " + x.name() + ".", false: "No, I did not see a " + x.name() + "."}[want]
			return t, true
		}
		x.Colour = colours[c][a.pick(len(colours[c]))]
	}
	return Truth{}, false
}

// tally counts the seen episodes that fit, and returns the first and when each was.
func (a *asker) tally(fits func(Episode) bool) (n int, first Episode, all []Span) {
	first = Episode{End: a.at}
	for _, e := range a.seen {
		if fits(e) {
			if n == 0 {
				first = e
			}
			n++
			all = append(all, Span{e.Start, e.End})
		}
	}
	return n, first, all
}

// deeds that can be asked about within a window.
var deeds = []struct{ code, question, yes, no string }{
	{":deliver", "[Did [anyone|somebody] [leave|drop off|bring|deliver] a [parcel|package]|Was a [parcel|package] [delivered|dropped off|left at the door]]", "a parcel was left", "no parcel was left"},
	{":collect", "[Did [anyone|somebody] [take|pick up|collect] [the|a] [parcel|package]|Was [the|a] [parcel|package] [taken|picked up|collected]]", "the parcel was taken", "no parcel was taken"},
	{":enter", "Did [anyone|somebody] [go into|enter|walk into] the house", "somebody went into the house", "nobody went into the house"},
	{":exit", "Did [anyone|somebody] [come out of|leave|step out of] the house", "somebody came out of the house", "nobody came out of the house"},
	{"car:park", "Did a car [park|stop and park|park at the kerb]", "a car parked", "no car parked"},
	{"van:park", "Did a van [park|stop and park|park at the kerb]", "a van parked", "no van parked"},
	{"gate:on", "[Did the gate open|Was the gate opened]", "the gate opened", "the gate did not open"},
	{"lamp:on", "[Did the [lamp|light] go on|Was the [lamp|light] [switched|turned] on]", "the lamp went on", "the lamp did not go on"},
	{"dog:cross", "Did a dog [run past|come by|pass|go by]", "a dog ran past", "no dog ran past"},
	{"bicycle:cross", "Did a [bicycle|bike|cyclist] [ride past|come by|pass|go by]", "a bicycle rode past", "no bicycle rode past"},
	{"car:cross", "Did a car [drive past|come by|pass|go by]", "a car drove past", "no car drove past"},
	{"van:cross", "Did a van [drive past|come by|pass|go by]", "a van drove past", "no van drove past"},
}

// window draws a span of whole minutes that lies in what was watched, with nothing of the story near its ends.
func (a *asker) window(minutes int) (from, to time.Duration, ok bool) {
	first := a.epoch.Truncate(time.Minute).Add(time.Minute)
	last := a.epoch.Add(a.at - settle).Truncate(time.Minute)
	n := int(last.Sub(first)/time.Minute) - minutes + 1
	if n <= 0 {
		return 0, 0, false
	}
	start := first.Add(time.Duration(a.pick(n)) * time.Minute)
	from = start.Sub(a.epoch)
	to = from + time.Duration(minutes)*time.Minute
	for _, h := range a.story {
		if near(h.at, from, 4*time.Second) || near(h.at, to, 4*time.Second) {
			return 0, 0, false
		}
	}
	return from, to, true
}

func near(a, b, by time.Duration) bool { return a-b < by && b-a < by }

func (a *asker) occurredWithin() (Truth, bool) {
	d, want := deeds[a.pick(len(deeds))], a.coin()
	whole := a.pick(3) == 0
	for range 20 {
		from, to, ok := time.Duration(0), a.at, true
		if !whole {
			from, to, ok = a.window(1 + a.pick(3))
		}
		if !ok {
			continue
		}
		t := Truth{Type: EventOccurrence, Form: "yesno", Closed: true, Short: yesno(want), From: from, To: to}
		yes := false
		for _, h := range a.story {
			if strings.Contains(h.code, d.code) && h.at >= from && h.at < to {
				if !yes {
					t.From, t.To = h.at-time.Second, h.at+2*time.Second
				}
				yes = true
				t.Evidence = append(t.Evidence, h.span())
			}
		}
		if yes != want {
			if whole {
				return Truth{}, false
			}
			continue
		}
		if whole {
			for c := range a.entered { // it may just be coming
				if a.entered[c] {
					return Truth{}, false
				}
			}
			t.Question = a.say(d.question + "[ so far|| at any time| yet]?")
		} else {
			t.Question = a.say(d.question+" %s?", a.spanText(from, to))
		}
		t.Answer = map[bool]string{true: "Yes, " + d.yes + ".", false: "No, " + d.no + "."}[want]
		return t, true
	}
	return Truth{}, false
}

// lone returns the episodes whose actor appeared just once, so that "the red car" means one thing.
func (a *asker) lone() []Episode {
	n := map[Actor]int{}
	for _, e := range a.seen {
		n[e.Actor]++
	}
	var out []Episode
	for _, e := range a.seen {
		if n[e.Actor] == 1 && !a.entered[e.Category] {
			out = append(out, e)
		}
	}
	return out
}

func (a *asker) two() (x, y Episode, ok bool) {
	lone := a.lone()
	if len(lone) < 2 {
		return x, y, false
	}
	for range 10 {
		i, j := a.pick(len(lone)), a.pick(len(lone))
		if i == j || near(lone[i].Start, lone[j].Start, 4*time.Second) {
			continue
		}
		return lone[i], lone[j], true
	}
	return x, y, false
}

func (a *asker) sequence() (Truth, bool) {
	x, y, ok := a.two()
	if !ok {
		return Truth{}, false
	}
	want := a.coin()
	before := a.coin()
	first := x.Start < y.Start
	if (first == before) != want {
		x, y = y, x
	}
	word := map[bool]string{true: "before", false: "after"}[before]
	t := Truth{Type: SequenceValidation, Form: "yesno", Closed: true, Short: yesno(want), From: min(x.Start, y.Start), To: max(x.End, y.End), Evidence: appearances(x, y)}
	t.Question = a.say("[Did the %[1]s [come|appear|show up|arrive]|Was the %[1]s [seen|there]] %[3]s the %[2]s?", a.called(x.Actor), a.called(y.Actor), word)
	if want {
		t.Answer = fmt.Sprintf("Yes, the %s came %s the %s.", x.name(), word, y.name())
	} else {
		other := map[bool]string{true: "after", false: "before"}[before]
		t.Answer = fmt.Sprintf("No, the %s came %s the %s.", x.name(), other, y.name())
	}
	return t, true
}

func (a *asker) which() (Truth, bool) {
	if a.pick(4) == 0 { // what kind parked
		var kinds []Episode
		for _, e := range a.seen {
			if e.Action == Park && e.Mid < a.at-settle {
				kinds = append(kinds, e)
			}
		}
		if len(kinds) != 1 || a.entered[Car] || a.entered[Van] {
			return Truth{}, false
		}
		e := kinds[0]
		return Truth{Type: Which, Form: "which", Closed: true, Short: string(e.Category), From: e.Mid, To: e.Mid + 2*time.Second, Evidence: []Span{{e.Mid, e.Leave}},
			Question: a.say("[What kind of vehicle|Which vehicle, a car or a van,|What, a car or a van,] [parked|has parked|stopped at the kerb]?"),
			Answer:   fmt.Sprintf("A %s parked.", e.Category)}, true
	}
	x, y, ok := a.two()
	if !ok || x.Category == y.Category && x.Colour == y.Colour {
		return Truth{}, false
	}
	first := a.coin()
	winner := x
	if (x.Start < y.Start) != first {
		winner = y
	}
	word := map[bool]string{true: "first", false: "last"}[first]
	return Truth{Type: Which, Form: "which", Closed: true, Short: winner.name(), From: min(x.Start, y.Start), To: max(x.End, y.End), Evidence: appearances(x, y),
		Question: a.say("[Which|Who or what] [came|appeared|was seen|passed] %s, the %s or the %s?", map[bool]string{true: a.vary("[first|earlier]"), false: a.vary("[last|later]")}[first],
			a.called(x.Actor), a.called(y.Actor)),
		Answer: fmt.Sprintf("The %s came %s.", winner.name(), word)}, true
}

// count draws the number first, then looks for something that was seen so often.
func (a *asker) count() (Truth, bool) {
	want := a.pick(5)
	for range 24 {
		c := categories[a.pick(len(categories))]
		if a.entered[c] {
			continue
		}
		colour, how := "", ""
		fits := func(e Episode) bool { return e.Category == c }
		switch a.pick(4) {
		case 0:
			colour = colours[c][a.pick(len(colours[c]))]
			fits = func(e Episode) bool { return e.Category == c && e.Colour == colour }
		case 1:
			right := a.coin()
			how = side(right)
			fits = func(e Episode) bool { return e.Category == c && e.Action == Cross && e.Right == right }
		}
		n, first, all := a.tally(fits)
		if n != want {
			continue
		}
		what, one, what2 := plural(c), string(c), a.vary(map[Category]string{Person: "[people|people|persons|pedestrians]", Car: "[cars|cars|automobiles]", Van: "[vans|delivery vans]",
			Bicycle: "[bicycles|bikes|cyclists]", Dog: "dogs"}[c])
		if colour != "" && c == Person {
			what, one, what2 = "people in "+colour, "person in "+colour, what2+" in "+colour
		} else if colour != "" {
			what, one, what2 = colour+" "+what, colour+" "+one, colour+" "+what2
		}
		t := Truth{Type: Counting, Form: "count", Closed: true, Short: fmt.Sprint(n), From: first.Start, To: a.at, Evidence: all}
		if n == 0 {
			t.From = 0
		}
		if how != "" {
			t.Question = a.say("[How many|Count the] %s [that] [went|passed|moved] [past|by|] to the %s[ so far||]?", what2, how)
			t.Question = strings.Replace(t.Question, "that that", "that", 1)
			one, what = one+" went past to the "+how, what+" went past to the "+how
			t.Answer = numberOf(n) + " " + pluralOf(n, one, what) + "."
			return t, true
		}
		t.Question = a.say("[How many %[1]s [have you seen|did you see|came by|have there been|were there]|Count the %[1]s|What number of %[1]s did you see][ so far|| in total| today]?", what2)
		t.Answer = "I saw " + strings.ToLower(numberOf(n)) + " " + pluralOf(n, one, what) + "."
		return t, true
	}
	return Truth{}, false
}

// attribute asks the colour of something that the question names in one way only.
func (a *asker) attribute() (Truth, bool) {
	c := categories[a.pick(len(categories))]
	if a.entered[c] {
		return Truth{}, false
	}
	var of []Episode
	for _, e := range a.seen {
		if e.Category == c {
			of = append(of, e)
		}
	}
	if len(of) == 0 {
		return Truth{}, false
	}
	e, which, rank := of[0], "", ""
	switch {
	case len(of) == 1 && a.pick(3) > 0:
	case a.pick(2) == 0:
		n, first := 0, Episode{}
		act := of[a.pick(len(of))].Action
		for _, o := range of {
			if o.Action == act {
				n, first = n+1, o
			}
		}
		if n != 1 || act == Cross || (act == Park && first.Mid > a.at-settle) || (act != Park && first.End > a.at-time.Second) {
			return Truth{}, false
		}
		e, which = first, map[Action]string{Park: "that parked", Deliver: "who [left|brought|delivered] the parcel", Collect: "who [took|picked up] the parcel", Enter: "who went into the house",
			Exit: "who came out of the house"}[act]
	case a.coin():
		rank = "first"
	default:
		e, rank = of[len(of)-1], "[last|most recent]"
	}
	t := Truth{Type: Attribute, Form: "colour", Closed: true, Short: e.Colour, From: e.Start, To: e.End, Evidence: appearances(e)}
	if c == Person {
		who := map[bool]string{true: rank + " person", false: "person"}[rank != ""]
		t.Question = a.say("[What [colour|color] [was the " + who + " " + which + " wearing|were the clothes of the " + who + " " + which + "|did the " + who + " " + which + " wear]|What was the " + who + " " + which + " wearing]?")
		t.Answer = "The person was wearing " + e.Colour + "."
		return t, true
	}
	t.Question = a.say("[What|Which] [colour|color] was the " + rank + " " + a.noun(c) + " " + which + "?")
	t.Answer = fmt.Sprintf("The %s was %s.", c, e.Colour)
	return t, true
}

func (a *asker) direction() (Truth, bool) {
	var of []Episode
	for _, e := range a.lone() {
		if e.Action == Cross {
			of = append(of, e)
		}
	}
	c := categories[a.pick(len(categories))]
	var e Episode
	var who string
	if a.coin() {
		if len(of) == 0 {
			return Truth{}, false
		}
		e = of[a.pick(len(of))]
		who = a.called(e.Actor)
	} else {
		if a.entered[c] {
			return Truth{}, false
		}
		var all []Episode
		for _, x := range a.seen {
			if x.Category == c {
				all = append(all, x)
			}
		}
		if len(all) == 0 {
			return Truth{}, false
		}
		e, who = all[0], a.vary("first "+a.noun(c))
		if len(all) == 1 {
			who = a.noun(c)
			if strings.HasPrefix(who, "some") {
				who = "person"
			}
		} else if a.coin() {
			e, who = all[len(all)-1], a.vary("[last|most recent] "+a.noun(c))
		}
		if e.Action != Cross {
			return Truth{}, false
		}
		who = strings.NewReplacer("somebody", "person", "someone", "person").Replace(who)
	}
	return Truth{Type: Direction, Form: "direction", Closed: true, Short: side(e.Right), From: e.Start, To: e.End, Evidence: appearances(e),
		Question: a.say("[Which way|In which direction|In what direction|Where] did the %s [go|move|head]?", who),
		Answer:   fmt.Sprintf("The %s went to the %s.", e.name(), side(e.Right))}, true
}
