package qa

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"afterimage/ingest"
)

// Numbers in words, as questions have them.
const (
	hourWord   = `\d{1,2}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve`
	tens       = `twenty|thirty|forty|fifty|sixty|ninety`
	numberWord = `\d+(?:\.\d+)?|` + units + `|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|(?:` + tens + `)(?:[ -](?:` + units + `))?`
	units      = `one|two|three|four|five|six|seven|eight|nine`
	unitWord   = `seconds?|secs?|minutes?|mins?|hours?|hrs?|days?|weeks?`
	// length is a length of time; its groups are a number, a vague number or a part, "and a half", the unit, "and a half".
	length = `(?:(?:(` + numberWord + `)|(an?|half an?|half|(?:a )?quarter of an|(?:a )?couple(?: of)?|(?:a )?few|several))(\s+and\s+a\s+half)?\s+)?(` + unitWord + `)(\s+and\s+a\s+half)?`
)

var numberValues = map[string]float64{
	"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12,
	"thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30,
	"forty": 40, "fifty": 50, "sixty": 60, "ninety": 90,
}

// number reads digits and words; NaN for neither.
func number(word string) float64 {
	if v, err := strconv.ParseFloat(word, 64); err == nil {
		return v
	}
	word = strings.ToLower(word)
	if v, ok := numberValues[word]; ok {
		return v
	}
	if ten, one, ok := strings.Cut(strings.ReplaceAll(word, "-", " "), " "); ok {
		return number(ten) + number(one)
	}
	return math.NaN()
}

// hourNumber reads a hourWord.
func hourNumber(word string) int { return int(number(word)) }

// vagueNumbers are the least and the most that a word may mean.
var vagueNumbers = map[string][2]float64{
	"": {1, 1}, "a": {1, 1}, "an": {1, 1}, "half": {.5, .5}, "half a": {.5, .5}, "half an": {.5, .5}, "quarter of an": {.25, .25},
	"couple": {1, 4}, "few": {1, 8}, "several": {2, 12},
}

// lengthOf reads the groups of length, from the first on: how long that is at least and at most. ok is false where nobody means that.
func lengthOf(g []string) (least, most time.Duration, ok bool) {
	word := g[1]
	if rest, ok := strings.CutPrefix(word, "a "); ok {
		word = rest
	}
	n := vagueNumbers[strings.TrimSuffix(word, " of")]
	if g[0] != "" {
		n = [2]float64{number(g[0]), number(g[0])}
	} else if word == "" && strings.HasSuffix(g[3], "s") { // "in the last minutes"
		n = vagueNumbers["few"]
	}
	if g[2] != "" || g[4] != "" {
		n[0], n[1] = n[0]+.5, n[1]+.5
	}
	unit := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[g[3][0]]
	if !(n[0] > 0 && n[1]*float64(unit) <= float64(longest)) {
		return 0, 0, false
	}
	return time.Duration(n[0] * float64(unit)), time.Duration(n[1] * float64(unit)), true
}

var (
	// lastSpan is "in the last ten minutes". Without "the" or a word such as "in" before it, "last" and "past" are not that.
	lastSpan = regexp.MustCompile(`(?i)\b(?:(?:in|during|over|within|for|throughout|from)\s+(?:(?:the|these|this|those)\s+)?|(?:the|these|this|those)\s+)(?:very\s+)?(?:last|past|previous)\s+` + length + `\b`)
	// agoSpan is "five minutes ago", perhaps with a word that says which side of it is meant.
	agoSpan = regexp.MustCompile(`(?i)(?:\b(since|until|till|before|by|after|from|more than|over|less than|within|up to|at most|at least)\s+)?\b` + length + `\s+ago\b`)
	justNow = regexp.MustCompile(`(?i)\bjust now\b|\b(?:a|one) (?:moment|second|sec) ago\b|\bmoments ago\b`)
	// dayWord is a day or a part of one; its groups are what leads to it, a day, its part, a part of today, and the nights.
	dayWord = regexp.MustCompile(`(?i)(?:\b(on|since|until|till|before|by|after|last|every|each|than|next)\s+)?(?:\b(the day before yesterday|yesterday|today|(?:mon|tues|wednes|thurs|fri|satur|sun)day|\d{4}-\d{2}-\d{2})(?:\s+(morning|afternoon|evening|night))?|\bthis (morning|afternoon|evening)|\b(tonight|last night|last evening))\b`)
	// notTheSpan after "the last ten minutes" makes them somebody else's.
	notTheSpan = regexp.MustCompile(`(?i)^\s*(?:ago|of|before|until|to|or)\b`)
	orSo       = regexp.MustCompile(`(?i)^\s*or so\b`)
	// oneOfTwo before "five minutes ago" says that it is not all.
	oneOfTwo = regexp.MustCompile(`(?i)(?:\b(?:and|or|to|than)|[-–—])\s*$`)
)

const (
	justNowReach = time.Minute
	// agoSlack is how far off "a second ago" may be; longer times are off by up to a third.
	agoSlack = 20 * time.Second
	// smallHours is the hour until which a night belongs to the day before.
	smallHours = 6
	// longest is what a length of time is at most, which keeps sums in range.
	longest = 400 * 24 * time.Hour
)

// timesIn finds what a question asked at a time names: times of the day, stretches up to now ("in the last ten minutes"), moments
// before now ("five minutes ago") and days. What is in doubt, as in "more than an hour ago", is any time. rest is the question without
// them, for who looks for other words in it.
func timesIn(question string, asked time.Time) (list []when, rest string) {
	rest = question
	erase := func(m []int) { rest = rest[:m[0]] + strings.Repeat(" ", m[1]-m[0]) + rest[m[1]:] }
	groups := func(m []int) []string {
		g := make([]string, len(m)/2)
		for i := range g {
			g[i] = strings.ToLower(spaced(groupOf(question, m, i)))
		}
		return g
	}
	for _, m := range lastSpan.FindAllStringSubmatchIndex(question, -1) {
		list = append(list, lastWhen(groups(m), question[m[1]:], asked))
		erase(m)
	}
	for _, m := range agoSpan.FindAllStringSubmatchIndex(rest, -1) {
		list = append(list, agoWhen(groups(m), rest[:m[0]], asked))
		erase(m)
	}
	for _, m := range justNow.FindAllStringIndex(rest, -1) {
		list = append(list, upToNow(justNowReach, "just now", asked))
		erase(m)
	}
	clock := clockTimes(rest, asked)
	for _, m := range dayWord.FindAllStringSubmatchIndex(rest, -1) {
		if g := groups(m); len(clock) == 0 { // else it says which day they are of
			list = append(list, newDay(g, asked).when(g[1], strings.TrimSpace(strings.TrimPrefix(g[0], g[1])), asked))
		}
		erase(m)
	}
	return append(clock, list...), rest
}

func spaced(s string) string { return strings.Join(strings.Fields(s), " ") }

func upToNow(d time.Duration, words string, asked time.Time) when {
	return when{span: ingest.Span{From: asked.Add(-d), To: asked.Add(1)}, words: words}
}

// lastWhen reads the groups of lastSpan.
func lastWhen(g []string, after string, asked time.Time) when {
	_, d, ok := lengthOf(g[1:])
	if orSo.MatchString(after) {
		d, after = d+d/3, ""
	}
	if !ok || notTheSpan.MatchString(after) {
		return when{doubt: true}
	}
	words := g[0]
	if first, _, _ := strings.Cut(words, " "); first == "the" || first == "these" || first == "this" || first == "those" {
		words = "in " + words
	}
	return upToNow(d, words, asked)
}

// agoWhen reads the groups of agoSpan.
func agoWhen(g []string, before string, asked time.Time) when {
	least, most, ok := lengthOf(g[2:])
	if !ok || g[2] == "" && g[3] == "" || oneOfTwo.MatchString(before) { // "how many minutes ago"; "five or six minutes ago"
		return when{doubt: true}
	}
	switch g[1] {
	case "since", "from", "after", "less than", "within", "up to", "at most":
		return upToNow(most, g[0], asked)
	case "":
	default: // no telling how long
		return when{doubt: true}
	}
	if most >= 24*time.Hour && least == most { // on that day
		days := -int(math.Round(most.Hours() / 24))
		return when{span: ingest.Span{From: midnightOf(asked, days), To: midnightOf(asked, days+1)}, words: g[0]}
	}
	slack := agoSlack
	if least == most {
		slack = max(slack, most/3)
	}
	return when{span: ingest.Span{From: asked.Add(-most - slack), To: asked.Add(slack - least)}, moment: least == most, words: g[0]}
}

// A day is one that a question names, or a part of it.
type day struct {
	midnight time.Time // that it begins at; zero where none is named
	part     string    // "morning", ... or ""
	night    bool      // the night that began on that day
}

// newDay reads the groups of dayWord.
func newDay(g []string, asked time.Time) day {
	how, name, part, night := g[1], g[2], g[3], g[5]
	switch {
	case how == "every" || how == "each" || how == "next":
		return day{}
	case g[4] != "":
		return day{midnightOf(asked, 0), g[4], false}
	case night == "tonight" && asked.Hour() < smallHours:
		return day{midnightOf(asked, -1), "", true}
	case night == "tonight":
		return day{midnightOf(asked, 0), "", true}
	case night == "last night":
		return day{midnightOf(asked, -1), "", true}
	case night == "last evening":
		return day{midnightOf(asked, -1), "evening", false}
	case how == "last": // "last Sunday" may be this week's or last week's
		return day{}
	case name == "today" && asked.Hour() < smallHours: // for who is still awake, it began yesterday
		return day{}
	case name == "today":
		return day{midnightOf(asked, 0), part, part == "night"}
	case name == "yesterday":
		return day{midnightOf(asked, -1), part, part == "night"}
	case name == "the day before yesterday":
		return day{midnightOf(asked, -2), part, part == "night"}
	case name != "" && name[0] >= '0' && name[0] <= '9':
		d, err := time.ParseInLocation(time.DateOnly, name, asked.Location())
		if err != nil {
			return day{}
		}
		return day{d, part, part == "night"}
	}
	if how == "" && part == "" {
		return day{} // "is it Sunday"
	}
	for back := 1; back < 7; back++ { // a weekday's name is not today's
		if d := midnightOf(asked, -back); strings.EqualFold(d.Weekday().String(), name) {
			return day{d, part, part == "night"}
		}
	}
	return day{}
}

// when returns the stretch that a day is, or with "since" begins. It is in doubt where nothing is named, and before or after a day.
func (d day) when(how, words string, asked time.Time) when {
	if d.midnight.IsZero() {
		return when{doubt: true}
	}
	if day := d.midnight.Weekday().String(); strings.HasPrefix(words, strings.ToLower(day)) {
		words = day + words[len(day):]
	}
	clock := func(days, hour int) time.Time {
		y, m, day := d.midnight.Date()
		return time.Date(y, m, day+days, hour, 0, 0, 0, d.midnight.Location())
	}
	w := when{words: words}
	switch {
	case d.night:
		w.span = ingest.Span{From: clock(0, 18), To: clock(1, 6)}
	case d.part == "morning":
		w.span = ingest.Span{From: clock(0, 0), To: clock(0, 12)}
	case d.part == "afternoon":
		w.span = ingest.Span{From: clock(0, 12), To: clock(0, 18)}
	case d.part == "evening":
		w.span = ingest.Span{From: clock(0, 17), To: clock(1, 0)}
	default:
		w.span = ingest.Span{From: clock(0, 0), To: clock(1, 0)}
	}
	switch how {
	case "", "than":
		return w
	case "on":
		w.words = "on " + words
		return w
	case "since":
		w.words = "since " + words
		if w.span.From.Before(asked) {
			w.span.To = asked.Add(1)
		}
		return w
	}
	return when{doubt: true}
}
