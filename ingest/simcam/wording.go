package simcam

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

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

// clock formats a stream time as the wall clock that the entries of the memory carry.
func (a *asker) clock(t time.Duration) string { return a.epoch.Add(t).Format("15:04:05") }

func (a *asker) minute(t time.Duration) string { return a.epoch.Add(t).Format("15:04") }

func (a *asker) spanText(from, to time.Duration) string {
	return a.vary(fmt.Sprintf("[between %[1]s and %[2]s|from %[1]s to %[2]s]", a.minute(from), a.minute(to)))
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

// name is how an actor is named without article.
func (a Actor) name() string {
	if a.Category == Person {
		return "person in " + a.Colour
	}
	return a.Colour + " " + string(a.Category)
}

func article(a Actor) string { return "a " + a.name() }

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

var numbers = []string{"no", "one", "two", "three", "four", "five"}

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

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func listed(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
