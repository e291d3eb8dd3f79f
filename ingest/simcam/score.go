package simcam

import (
	"regexp"
	"slices"
	"sort"
	"strings"
)

// Result is how an answer compares with its Truth. Tau is Kendall's rank correlation for ordered narratives: concordant less
// discordant pairs of the true happenings over all their pairs, a pair with a missing member counting as neither.
type Result struct {
	Exact     bool    `json:"exact"`
	Tau       float64 `json:"tau"`
	Canonical string  `json:"canonical"` // what was read out of the answer
}

// Forms lists how an answer can be scored: a Truth's Form is one of these.
var Forms = []string{"yesno", "colour", "count", "direction", "which", "time", "none", "action", "facts", "order"}

// Score reads the canonical form out of a free sentence and compares it with the truth's. Nothing but the words of the answer
// counts: an answer that hedges between two colours, or says nothing, is wrong.
func Score(t Truth, answer string) Result {
	text := strings.ToLower(strings.TrimSpace(answer))
	var got string
	switch t.Form {
	case "yesno":
		got = yesNoOf(text)
	case "colour":
		got = only(text, "red", "blue", "green", "yellow", "white", "black", "purple", "brown")
	case "direction":
		got = only(text, "left", "right")
	case "count":
		got = countOf(text)
	case "which":
		got = whoOf(text)
	case "time":
		got = clockPattern.FindString(text)
	case "none":
		got = "something"
		if deniedPattern.MatchString(text) {
			got = "none"
		}
	case "action":
		got = actionOf(text)
	case "facts":
		got = factsOf(text)
	case "order":
		codes := codesOf(text)
		want := strings.Split(t.Short, " > ")
		return Result{Exact: slices.Equal(codes, want), Tau: tau(want, codes), Canonical: strings.Join(codes, " > ")}
	}
	return Result{Exact: got == t.Short, Canonical: got}
}

var (
	clockPattern  = regexp.MustCompile(`\b\d{2}:\d{2}\b`)
	deniedPattern = regexp.MustCompile(`\b(did not see|have not seen|didn't see|saw no|no such)\b`)
	wordPattern   = regexp.MustCompile(`[a-z]+|\d+`)
	actorPattern  = regexp.MustCompile(`person in (\w+)|(\w+) (car|van|bicycle|dog)\b`)
	kindPattern   = regexp.MustCompile(`\b(car|van)\b`)
)

func yesNoOf(text string) string {
	switch first := wordPattern.FindString(text); first {
	case "yes", "no":
		return first
	}
	return ""
}

// only returns the one of options that the text names, or nothing if it names none or several.
func only(text string, options ...string) string {
	found := ""
	for _, w := range wordPattern.FindAllString(text, -1) {
		if slices.Contains(options, w) {
			if found != "" && found != w {
				return ""
			}
			found = w
		}
	}
	return found
}

func countOf(text string) string {
	for _, w := range wordPattern.FindAllString(text, -1) {
		if i := slices.Index(numbers, w); i >= 0 {
			return string(rune('0' + i))
		}
		if len(w) == 1 && w[0] >= '0' && w[0] <= '9' {
			return w
		}
	}
	if deniedPattern.MatchString(text) {
		return "0"
	}
	return ""
}

// whoOf names the actor, or the bare kind of vehicle, that the answer names first.
func whoOf(text string) string {
	if m := actorPattern.FindStringSubmatch(text); m != nil {
		if m[1] != "" {
			return "person in " + m[1]
		}
		if m[2] != "a" && m[2] != "the" {
			return m[2] + " " + m[3]
		}
	}
	return kindPattern.FindString(text)
}

func actionOf(text string) string {
	switch {
	case strings.Contains(text, "parcel") && strings.Contains(text, "left a"):
		return "deliver"
	case strings.Contains(text, "took"):
		return "collect"
	case strings.Contains(text, "into the house"):
		return "enter"
	case strings.Contains(text, "out of the house"):
		return "exit"
	case strings.Contains(text, "drove off"):
		return "park:left"
	case strings.Contains(text, "parked"):
		return "park:stays"
	case strings.Contains(text, "past"):
		return "cross:" + only(text, "left", "right")
	}
	return ""
}

func factsOf(text string) string {
	var facts []string
	has := func(word, fact string) {
		if strings.Contains(text, word) {
			facts = append(facts, fact)
		}
	}
	if head, _, ok := strings.Cut(text, "."); ok {
		facts = append(facts, only(head, "day", "evening", "night"), only(head, "clear", "rainy", "snowy", "foggy"))
	}
	for _, sw := range switches {
		for _, on := range []bool{true, false} {
			has("the "+string(sw)+" is "+stateWord(sw, on), string(sw)+":"+stateWord(sw, on))
		}
	}
	has("parcel lies", "parcel:yes")
	has("no parcel", "parcel:no")
	for _, sentence := range strings.Split(text, ".") {
		for _, m := range actorPattern.FindAllString(sentence, -1) {
			switch {
			case strings.Contains(sentence, "parked"):
				facts = append(facts, "parked:"+m)
			case strings.Contains(sentence, "passing"):
				facts = append(facts, "view:"+m)
			}
		}
	}
	sort.Strings(facts)
	return strings.Join(facts, "; ")
}

// codesOf reads a narrative clause by clause.
func codesOf(text string) []string {
	var codes []string
	for _, clause := range strings.Split(strings.TrimSuffix(text, "."), "then") {
		if c := codeOf(clause); c != "" {
			codes = append(codes, c)
		}
	}
	return codes
}

func codeOf(clause string) string {
	who := ""
	if m := actorPattern.FindString(clause); m != "" {
		who = m
	}
	switch act := actionOf(clause); {
	case who == "":
		for _, sw := range switches {
			for _, on := range []bool{true, false} {
				if strings.Contains(clause, string(sw)+" "+turned(sw, on)) {
					return string(sw) + map[bool]string{true: ":on", false: ":off"}[on]
				}
			}
		}
		return ""
	case act == "park:left":
		return who + ":depart"
	case act == "park:stays":
		return who + ":park"
	default:
		return who + ":" + act
	}
}

func tau(want, got []string) float64 {
	at := map[string]int{}
	for i, c := range got {
		if _, twice := at[c]; !twice {
			at[c] = i
		}
	}
	if len(want) < 2 {
		if _, ok := at[want[0]]; ok {
			return 1
		}
		return 0
	}
	sum, pairs := 0, 0
	for i := range want {
		for j := i + 1; j < len(want); j++ {
			pairs++
			a, okA := at[want[i]]
			b, okB := at[want[j]]
			switch {
			case !okA || !okB || a == b:
			case a < b:
				sum++
			default:
				sum--
			}
		}
	}
	return float64(sum) / float64(pairs)
}
