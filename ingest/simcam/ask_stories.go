package simcam

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

func (a *asker) action() (Truth, bool) {
	lone := a.lone()
	if len(lone) == 0 {
		return Truth{}, false
	}
	e := lone[a.pick(len(lone))]
	t := Truth{Type: ActionDescription, Form: "action", From: e.Start, To: min(e.End, a.at), Evidence: appearances(e)}
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
	var evidence []Span
	for i, h := range part {
		if i > 0 && h.at-part[i-1].at < 2*time.Second {
			return Truth{}, false
		}
		clauses, codes = append(clauses, h.phrase), append(codes, h.code)
		evidence = append(evidence, h.span())
	}
	return Truth{Type: OrderedNarrative, Form: "order", Short: strings.Join(codes, " > "), Question: question,
		Answer: "First " + strings.Join(clauses, ", then ") + ".", From: part[0].at - time.Second, To: part[len(part)-1].at + 2*time.Second, Evidence: evidence}, true
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
		return Truth{Type: When, Form: "time", Short: a.minute(h.at), From: h.at - time.Second, To: h.at + 2*time.Second, Evidence: []Span{h.span()},
			Question: a.say("[When|At what time] did %s?", didWhat(h.phrase)),
			Answer:   fmt.Sprintf("%s at %s.", strings.ToUpper(h.phrase[:1])+h.phrase[1:], a.minute(h.at))}, true
	}
	return Truth{}, false
}

func (a *asker) never() (Truth, bool) {
	c := categories[a.pick(len(categories))]
	if a.entered[c] {
		return Truth{}, false
	}
	n, _, _ := a.tally(func(e Episode) bool { return e.Category == c })
	who, one := a.noun(c), string(c)
	if n > 0 {
		x := Actor{c, colours[c][a.pick(len(colours[c]))]}
		if k, _, _ := a.tally(func(e Episode) bool { return e.Actor == x }); k > 0 {
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
