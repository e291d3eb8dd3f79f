package simcam

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"sort"
	"strings"
	"time"
)

// Truth is a question with its answer. Times are since stream start: At is when to ask, From..To is where the evidence lies.
// Answer is a full sentence, Short its canonical form as Score reads it out of any sentence.
type Truth struct {
	ID       string        `json:"id"`
	Type     string        `json:"type"`
	Form     string        `json:"form"` // how it is scored: yesno colour count direction which time none action facts order
	Question string        `json:"question"`
	Answer   string        `json:"answer"`
	Short    string        `json:"short"`
	At       time.Duration `json:"at_ns"`
	From     time.Duration `json:"from_ns"`
	To       time.Duration `json:"to_ns"`
	Closed   bool          `json:"closed"` // the answer is one of a few: yes/no, colour, count, direction, which
}

// The question types: VStream-QA's five, and what else people ask of a camera.
const (
	SceneSummary       = "scene_summary"
	ActionDescription  = "action_description"
	EventOccurrence    = "event_occurrence"
	OrderedNarrative   = "ordered_narrative"
	SequenceValidation = "sequence_validation"
	Counting           = "counting"
	Attribute          = "attribute"
	Direction          = "direction"
	Which              = "which"
	CurrentState       = "current_state"
	PastState          = "past_state"
	When               = "when"
	DidNotHappen       = "did_not_happen"
	OffTopic           = "off_topic"
)

// Types lists the types that Questions draws from.
var Types = []string{SceneSummary, ActionDescription, EventOccurrence, OrderedNarrative, SequenceValidation, Counting, Attribute,
	Direction, Which, CurrentState, PastState, When, DidNotHappen}

// settle is how long something must be in view, or a state have lasted, before a question relies on it: a frame or two of the
// stream may be lost, and a thing half out of the picture cannot be named.
const settle = 3 * time.Second

// happening is one moment worth telling.
type happening struct {
	at     time.Duration
	phrase string // a past clause without its time
	code   string // canonical, as codeOf reads the phrase
	a      Actor
}

// asker draws questions about one script at one moment.
type asker struct {
	s       *Script
	r       *rand.Rand
	epoch   time.Time
	at      time.Duration
	seen    []Episode // in view for long enough
	entered map[Category]bool
	story   []happening // all that certainly happened, by time
}

// Questions returns up to n questions to be asked at stream time at by a viewer who has watched from the start, drawn with
// seed, the types in turn. Clock times in the text are epoch+t. Fewer come back when too little has happened yet. Answers are
// balanced per form: yes and no, colours, counts and orders are drawn first and a fitting question is looked for then.
func (s *Script) Questions(epoch time.Time, at time.Duration, n int, seed uint64) []Truth {
	return s.questions(epoch, at, n, seed, Types)
}

// TrainingQuestions is Questions with the off-topic type, which has no place in a score.
func (s *Script) TrainingQuestions(epoch time.Time, at time.Duration, n int, seed uint64) []Truth {
	return s.questions(epoch, at, n, seed, append([]string{OffTopic}, append(Types, Types...)...))
}

func (s *Script) questions(epoch time.Time, at time.Duration, n int, seed uint64, types []string) []Truth {
	a := &asker{s: s, r: source(seed^s.Seed*0x9e3779b97f4a7c15, fmt.Sprint("questions", at)), epoch: epoch, at: at}
	a.look()
	var out []Truth
	asked := map[string]bool{}
	order := a.r.Perm(len(types))
	for try := 0; len(out) < n && try < 6*n+2*len(types); try++ {
		q, ok := a.one(types[order[try%len(types)]])
		if !ok || asked[q.Question] {
			continue
		}
		asked[q.Question] = true
		q.ID, q.At = fmt.Sprintf("%d-%d-%d", s.Seed, at.Milliseconds(), len(out)), at
		q.To = min(q.To, at)
		out = append(out, q)
	}
	return out
}

// look gathers what can be relied on at the moment of asking.
func (a *asker) look() {
	a.entered = map[Category]bool{}
	add := func(t time.Duration, actor Actor, code, phrase string) {
		if t > 0 && t <= a.at-settle {
			a.story = append(a.story, happening{t, phrase, code, actor})
		}
	}
	for _, e := range a.s.Episodes {
		if e.Start > a.at {
			break
		}
		if e.Start > a.at-settle {
			a.entered[e.Category] = true
			continue
		}
		a.seen = append(a.seen, e)
		who := article(e.Actor)
		switch e.Action {
		case Cross:
			add(e.Start, e.Actor, e.name()+":cross:"+side(e.Right), fmt.Sprintf("%s %s past to the %s", who, past(e.Category), side(e.Right)))
		case Park:
			add(e.Mid, e.Actor, e.name()+":park", who+" parked")
			add(e.Leave+time.Second, e.Actor, e.name()+":depart", who+" drove off")
		case Deliver:
			add(e.Mid+time.Second, e.Actor, e.name()+":deliver", who+" left a parcel")
		case Collect:
			add(e.Mid+time.Second, e.Actor, e.name()+":collect", who+" took the parcel")
		case Enter:
			add(e.Mid, e.Actor, e.name()+":enter", who+" went into the house")
		case Exit:
			add(e.Mid, e.Actor, e.name()+":exit", who+" came out of the house")
		}
	}
	for _, sw := range switches {
		for _, p := range a.s.On[sw] {
			if p.ByActor {
				continue
			}
			add(p.From, Actor{}, string(sw)+":on", "the "+string(sw)+" "+turned(sw, true))
			add(p.To, Actor{}, string(sw)+":off", "the "+string(sw)+" "+turned(sw, false))
		}
	}
	sort.SliceStable(a.story, func(i, j int) bool { return a.story[i].at < a.story[j].at })
}

func (a *asker) one(kind string) (Truth, bool) {
	switch kind {
	case SceneSummary:
		return a.scene()
	case ActionDescription:
		return a.action()
	case EventOccurrence:
		if a.r.IntN(2) == 0 {
			return a.occurredWithin()
		}
		return a.occurred()
	case OrderedNarrative:
		return a.narrative()
	case SequenceValidation:
		return a.sequence()
	case Counting:
		return a.count()
	case Attribute:
		return a.attribute()
	case Direction:
		return a.direction()
	case Which:
		return a.which()
	case CurrentState:
		return a.state()
	case PastState:
		return a.stateThen()
	case When:
		return a.when()
	case DidNotHappen:
		return a.never()
	case OffTopic:
		return a.offTopic()
	}
	return Truth{}, false
}

// say varies a template, fills it in, and types it as carelessly as people do.
func (a *asker) say(template string, args ...any) string {
	s := fmt.Sprintf(a.vary(template), args...)
	s = strings.Join(strings.Fields(s), " ")
	s = strings.NewReplacer(" ?", "?", " ,", ",").Replace(s)
	s = strings.ToUpper(s[:1]) + s[1:]
	switch a.r.IntN(12) { // people do not type carefully
	case 0:
		s = strings.TrimSuffix(s, "?")
	case 1:
		s = strings.ToLower(s[:1]) + s[1:]
	case 2:
		s = strings.ToLower(strings.TrimRight(s, "?."))
	}
	return s
}

func (a *asker) coin() bool { return a.r.IntN(2) == 0 }

func (a *asker) pick(n int) int { return a.r.IntN(n) }

// clock formats a stream time as the wall clock that the entries of the memory carry.
func (a *asker) clock(t time.Duration) string { return a.epoch.Add(t).Format("15:04:05") }

func yesno(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func side(right bool) string {
	if right {
		return "right"
	}
	return "left"
}

func past(c Category) string {
	return map[Category]string{Person: "walked", Car: "drove", Van: "drove", Bicycle: "rode", Dog: "ran"}[c]
}

func plural(c Category) string {
	return map[Category]string{Person: "people", Car: "cars", Van: "vans", Bicycle: "bicycles", Dog: "dogs"}[c]
}

// name is how an actor is named without article.
func (a Actor) name() string {
	if a.Category == Person {
		return "person in " + a.Colour
	}
	return a.Colour + " " + string(a.Category)
}

func article(a Actor) string { return "a " + a.name() }

func turned(sw Switch, on bool) string {
	if sw == Lamp {
		return map[bool]string{true: "went on", false: "went off"}[on]
	}
	return map[bool]string{true: "opened", false: "closed"}[on]
}

func stateWord(sw Switch, on bool) string {
	if sw == Lamp {
		return map[bool]string{true: "on", false: "off"}[on]
	}
	return map[bool]string{true: "open", false: "closed"}[on]
}

// synonyms of a category and of an actor in a question; the answer keeps to one name.
func (a *asker) noun(c Category) string {
	return a.vary(map[Category]string{Person: "[person|person|somebody|someone]", Car: "[car|car|automobile]", Van: "[van|van|delivery van]",
		Bicycle: "[bicycle|bike|cyclist]", Dog: "[dog|dog|hound]"}[c])
}

func (a *asker) called(x Actor) string {
	if x.Category == Person {
		return a.vary("[person in|person in|person dressed in|person wearing|pedestrian in] " + x.Colour)
	}
	return x.Colour + " " + a.noun(x.Category)
}

// vary expands [a|b|c] alternatives, innermost first; brackets of a format verb such as %[1]s are left alone.
func (a *asker) vary(s string) string {
	s = verbPattern.ReplaceAllString(s, "%\x01$1\x02")
	for {
		hi := strings.IndexByte(s, ']')
		if hi < 0 {
			return strings.NewReplacer("\x01", "[", "\x02", "]").Replace(s)
		}
		lo := strings.LastIndexByte(s[:hi], '[')
		o := strings.Split(s[lo+1:hi], "|")
		s = s[:lo] + o[a.r.IntN(len(o))] + s[hi+1:]
	}
}

var verbPattern = regexp.MustCompile(`%\[(\d)\]`)

// occurred asks whether somebody was seen at all; a No names a category that was seen in other colours as often as not.
func (a *asker) occurred() (Truth, bool) {
	c, want := categories[a.pick(len(categories))], a.coin()
	if a.entered[c] {
		return Truth{}, false
	}
	if a.pick(4) == 0 { // any of the category
		n, first := a.tally(func(e Episode) bool { return e.Category == c })
		if (n > 0) != want {
			return Truth{}, false
		}
		one := map[bool]string{true: "anyone", false: "a " + string(c)}[c == Person]
		t := Truth{Type: EventOccurrence, Form: "yesno", Closed: true, Short: yesno(want), From: first.Start, To: first.End,
			Question: a.say("[Have you seen|Did you see|Has there been|Was there] %s [so far||at any time|today]?", one)}
		t.Answer = map[bool]string{true: "Yes, I saw %s.", false: "No, I did not see %s."}[want]
		t.Answer = fmt.Sprintf(t.Answer, map[bool]string{true: "a person", false: "a " + string(c)}[c == Person])
		return t, true
	}
	x := Actor{c, colours[c][a.pick(len(colours[c]))]}
	for range 8 {
		n, e := a.tally(func(e Episode) bool { return e.Actor == x })
		if (n > 0) == want {
			t := Truth{Type: EventOccurrence, Form: "yesno", Closed: true, Short: yesno(want), From: e.Start, To: e.End,
				Question: a.say("[Have you seen|Did you see|Has there been|Was there|Did you notice|Has the camera seen] a %s [so far||at any time|on the street]?", a.called(x))}
			t.Answer = map[bool]string{true: "Yes, I saw a " + x.name() + ".", false: "No, I did not see a " + x.name() + "."}[want]
			return t, true
		}
		x.Colour = colours[c][a.pick(len(colours[c]))]
	}
	return Truth{}, false
}

// tally counts the seen episodes that fit and returns the first.
func (a *asker) tally(fits func(Episode) bool) (n int, first Episode) {
	first = Episode{End: a.at}
	for _, e := range a.seen {
		if fits(e) {
			if n == 0 {
				first = e
			}
			n++
		}
	}
	return n, first
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

func (a *asker) minute(t time.Duration) string { return a.epoch.Add(t).Format("15:04") }

func (a *asker) spanText(from, to time.Duration) string {
	return a.vary(fmt.Sprintf("[between %[1]s and %[2]s|from %[1]s to %[2]s]", a.minute(from), a.minute(to)))
}

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
				yes = true
				t.From, t.To = h.at-time.Second, h.at+2*time.Second
				break
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
	t := Truth{Type: SequenceValidation, Form: "yesno", Closed: true, Short: yesno(want), From: min(x.Start, y.Start), To: max(x.End, y.End)}
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
		return Truth{Type: Which, Form: "which", Closed: true, Short: string(e.Category), From: e.Mid, To: e.Mid + 2*time.Second,
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
	return Truth{Type: Which, Form: "which", Closed: true, Short: winner.name(), From: min(x.Start, y.Start), To: max(x.End, y.End),
		Question: a.say("[Which|Who or what] [came|appeared|was seen|passed] %s, the %s or the %s?", map[bool]string{true: a.vary("[first|earlier]"), false: a.vary("[last|later]")}[first],
			a.called(x.Actor), a.called(y.Actor)),
		Answer: fmt.Sprintf("The %s came %s.", winner.name(), word)}, true
}
