package simcam

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

var numbers = []string{"no", "one", "two", "three", "four", "five"}

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
		n, first := a.tally(fits)
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
		t := Truth{Type: Counting, Form: "count", Closed: true, Short: fmt.Sprint(n), From: first.Start, To: a.at}
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

func numberOf(n int) string {
	s := numbers[n]
	return strings.ToUpper(s[:1]) + s[1:]
}

func pluralOf(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
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
	t := Truth{Type: Attribute, Form: "colour", Closed: true, Short: e.Colour, From: e.Start, To: e.End}
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
	return Truth{Type: Direction, Form: "direction", Closed: true, Short: side(e.Right), From: e.Start, To: e.End,
		Question: a.say("[Which way|In which direction|In what direction|Where] did the %s [go|move|head]?", who),
		Answer:   fmt.Sprintf("The %s went to the %s.", e.name(), side(e.Right))}, true
}

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
		q := Truth{Type: PastState, Form: "yesno", Closed: true, From: t - time.Second, To: t + time.Second}
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

func (a *asker) when() (Truth, bool) {
	count := map[string]int{}
	for _, h := range a.story {
		count[h.code]++
	}
	for range 10 {
		if len(a.story) == 0 {
			break
		}
		h := a.story[a.pick(len(a.story))]
		if count[h.code] != 1 || a.entered[h.a.Category] || a.minute(h.at-4*time.Second) != a.minute(h.at+4*time.Second) {
			continue
		}
		return Truth{Type: When, Form: "time", Short: a.minute(h.at), From: h.at - time.Second, To: h.at + 2*time.Second,
			Question: a.say("[When|At what time] did %s?", didWhat(h.phrase)),
			Answer:   fmt.Sprintf("%s at %s.", strings.ToUpper(h.phrase[:1])+h.phrase[1:], a.minute(h.at))}, true
	}
	return Truth{}, false
}

var baseForm = map[string]string{"walked": "walk", "drove": "drive", "rode": "ride", "ran": "run", "parked": "park", "left": "leave", "took": "take", "went": "go",
	"came": "come", "opened": "open", "closed": "close"}

// didWhat turns a past clause into what follows "did": "a red car parked" becomes "the red car park".
func didWhat(phrase string) string {
	words := strings.Fields(phrase)
	if words[0] == "a" {
		words[0] = "the"
	}
	for i, w := range words {
		if b := baseForm[w]; b != "" {
			words[i] = b
			break // the first verb only: "to the left" is none
		}
	}
	return strings.Join(words, " ")
}

func (a *asker) never() (Truth, bool) {
	c := categories[a.pick(len(categories))]
	if a.entered[c] {
		return Truth{}, false
	}
	n, _ := a.tally(func(e Episode) bool { return e.Category == c })
	who, one := a.noun(c), string(c)
	if n > 0 {
		x := Actor{c, colours[c][a.pick(len(colours[c]))]}
		if k, _ := a.tally(func(e Episode) bool { return e.Actor == x }); k > 0 {
			return Truth{}, false
		}
		who, one = a.called(x), x.name()
	}
	who = strings.NewReplacer("somebody", "person", "someone", "person").Replace(who)
	t := Truth{Type: DidNotHappen, Form: "none", Short: "none", From: 0, To: a.at, Answer: "I did not see a " + one + "."}
	templates := []string{"[Which way|In which direction|Where] did the %s [go|move|head]?", "What did the %s do?", "[When|At what time] did the %s [come|pass|appear]?"}
	if n == 0 && c != Person {
		templates = append(templates, "[What|Which] [colour|color] was the %s?")
	}
	t.Question = a.say(templates[a.pick(len(templates))], who)
	return t, true
}

var offTopics = []string{"[What is|Tell me] the capital of [France|Spain|Peru|Japan]?", "Who [is the president|won the match|wrote this book|are you]?", "What is [two plus two|the meaning of life|your name|the weather in Rome|my bank balance]?",
	"[Write|Sing|Tell] me a [poem|song|joke|story]", "How [old are you|do I cook rice|far is the moon|tall is the tower]?", "[Translate|Spell|Explain] [hello|this|relativity|the news]", "[asdf|hello|hi|test|good morning|thank you]",
	"[Can you|Will you|Please] [buy milk|call my mother|open a file|play music|book a flight]?", "What [stock|phone|laptop|film] should I [buy|see|sell]?", "Is there a [cat|horse|truck|bus|plane|ship|bear|robot] [in view|on the street|there]?",
	"Did a [cat|horse|truck|bus|plane|train|tractor|bird] [come by|pass|appear]?"}

// offTopic asks what the street cannot answer; things outside the cast get an honest sentence.
func (a *asker) offTopic() (Truth, bool) {
	return Truth{Type: OffTopic, Form: "none", Short: "none", Question: a.say(offTopics[a.pick(len(offTopics))]),
		Answer: "I can only tell what I see on this street, and I did not see that."}, true
}

func (a *asker) action() (Truth, bool) {
	lone := a.lone()
	if len(lone) == 0 {
		return Truth{}, false
	}
	e := lone[a.pick(len(lone))]
	t := Truth{Type: ActionDescription, Form: "action", From: e.Start, To: min(e.End, a.at)}
	deed, code := "", string(e.Action)
	switch {
	case e.Action == Park && e.Mid < a.at-settle && e.Leave > a.at+time.Second:
		deed, code = "parked and is still there", "park:stays"
	case e.End > a.at-2*time.Second:
		return t, false
	case e.Action == Park:
		deed, code = "parked and later drove off", "park:left"
	case e.Action == Cross:
		deed, code = past(e.Category)+" past to the "+side(e.Right), "cross:"+side(e.Right)
	default:
		deed = map[Action]string{Deliver: "left a parcel at the door", Collect: "took the parcel away", Enter: "went into the house", Exit: "came out of the house"}[e.Action]
	}
	t.Short = code
	t.Question = a.say("[What did the %[1]s do|What happened with the %[1]s|Tell me what the %[1]s did|What was the %[1]s doing|Describe what the %[1]s did]?", a.called(e.Actor))
	t.Answer = fmt.Sprintf("The %s %s.", e.name(), deed)
	return t, true
}

// scene describes what is in view now.
func (a *asker) scene() (Truth, bool) {
	if !a.calm() {
		return Truth{}, false
	}
	for _, sw := range switches {
		if !a.steady(sw, a.at, settle) {
			return Truth{}, false
		}
	}
	for _, p := range a.s.Parcel {
		if near(p.From, a.at, settle) || near(p.To, a.at, settle) {
			return Truth{}, false
		}
	}
	sky := a.s.SkyAt(a.at)
	if a.at-sky.From < settle && sky.From > 0 {
		return Truth{}, false
	}
	kind := map[Light]string{Day: "day", Dusk: "evening", Night: "night"}[sky.Light]
	weather := map[Weather]string{Clear: "clear", Rain: "rainy", Snow: "snowy", Fog: "foggy"}[sky.Weather]
	facts := []string{kind, weather}
	var b strings.Builder
	fmt.Fprintf(&b, "It is a %s %s. ", weather, kind)
	var words []string
	for _, sw := range switches {
		w := stateWord(sw, a.s.IsOn(sw, a.at))
		words = append(words, fmt.Sprintf("the %s is %s", sw, w))
		facts = append(facts, string(sw)+":"+w)
	}
	words[0] = "The" + words[0][3:]
	fmt.Fprintf(&b, "%s, %s and %s. ", words[0], words[1], words[2])
	facts = append(facts, "parcel:"+yesno(a.s.HasParcel(a.at)))
	b.WriteString(map[bool]string{true: "A parcel lies at the door.", false: "There is no parcel."}[a.s.HasParcel(a.at)])
	parked := a.parked()
	sort.SliceStable(parked, func(i, j int) bool { return spotX[parked[i].Spot] < spotX[parked[j].Spot] })
	var names []string
	for _, e := range parked {
		names = append(names, article(e.Actor))
		facts = append(facts, "parked:"+e.name())
	}
	if len(names) > 0 {
		verb := " is parked."
		if len(names) > 1 {
			verb = " are parked."
		}
		b.WriteString(" " + upper(listed(names)) + verb)
	}
	names = names[:0]
	for _, e := range a.s.Active(a.at) {
		if e.Action == Park {
			continue
		}
		names = append(names, article(e.Actor))
		facts = append(facts, "view:"+e.name())
	}
	sort.Strings(names)
	if len(names) > 0 {
		b.WriteString(" " + upper(listed(names)) + map[bool]string{true: " are passing.", false: " is passing."}[len(names) > 1])
	}
	sort.Strings(facts)
	return Truth{Type: SceneSummary, Form: "facts", Short: strings.Join(facts, "; "), Answer: b.String(), From: a.at - time.Second, To: a.at,
		Question: a.say("[Describe [the scene|what you see|the street][ now|| right now]|What [do you see|is to be seen|does it look like][ now| right now|]|Give me a summary of the scene|What is going on[ now|| right now]]?")}, true
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func listed(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// narrative asks for two to four happenings in order.
func (a *asker) narrative() (Truth, bool) {
	for c := range a.entered {
		if a.entered[c] {
			return Truth{}, false
		}
	}
	n := 2 + a.pick(3)
	var part []happening
	var question string
	word := []string{"", "", "two", "three", "four"}[n]
	switch k := a.pick(3); {
	case k == 0 && len(a.story) >= n:
		part = a.story[len(a.story)-n:]
		if len(a.story) > n && part[0].at-a.story[len(a.story)-n-1].at < 2*time.Second {
			return Truth{}, false
		}
		question = a.say("[What were the last %[1]s things that happened|List the last %[1]s [things that happened|events|happenings][ in order|]|Tell me the last %[1]s [events|happenings]]?", word)
	case k == 1 && len(a.story) >= n:
		part = a.story[:n]
		if len(a.story) > n && a.story[n].at-part[n-1].at < 2*time.Second {
			return Truth{}, false
		}
		question = a.say("[What were the first %[1]s things that happened|List the first %[1]s [things that happened|events|happenings][ in order|]|Tell me the first %[1]s [events|happenings]]?", word)
	default:
		from, to, ok := a.window(1 + a.pick(2))
		if !ok {
			return Truth{}, false
		}
		for _, h := range a.story {
			if h.at >= from && h.at < to {
				part = append(part, h)
			}
		}
		if len(part) < 2 || len(part) > 4 {
			return Truth{}, false
		}
		question = a.say("[What happened %[1]s[, in order| in order|]|List what happened %[1]s[ in order|]|Tell me in order what happened %[1]s]?", a.spanText(from, to))
	}
	var clauses, codes []string
	for i, h := range part {
		if i > 0 && h.at-part[i-1].at < 2*time.Second {
			return Truth{}, false
		}
		clauses, codes = append(clauses, h.phrase), append(codes, h.code)
	}
	return Truth{Type: OrderedNarrative, Form: "order", Short: strings.Join(codes, " > "), Question: question,
		Answer: "First " + strings.Join(clauses, ", then ") + ".", From: part[0].at - time.Second, To: part[len(part)-1].at + 2*time.Second}, true
}
