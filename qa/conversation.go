package qa

import (
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Exchange is a question and its answer, earlier in a conversation.
type Exchange struct {
	Question, Answer string
	At               time.Time // when it was asked, by the clock of the stream's frames; zero: not known
}

// What of a conversation is shown to a model that reads it: the newest exchanges, so many at most and so many bytes of words in all. A token is
// a byte at least, so that is a bound of tokens too.
const (
	mostExchanges    = 8
	mostHistoryBytes = 1200
	mostAnswerBytes  = 400 // of one answer; what follows is cut off
)

// recent is what of a conversation is shown to a model, oldest first, and how many bytes its words have.
func recent(history []Exchange) (list []Exchange, bytes int) {
	for i := len(history) - 1; i >= 0 && len(history)-i <= mostExchanges; i-- {
		x := Exchange{Question: strings.TrimSpace(history[i].Question), Answer: shorten(strings.TrimSpace(history[i].Answer), mostAnswerBytes)}
		if x.Question == "" || x.Answer == "" {
			continue
		}
		size := len(x.Question) + len(x.Answer)
		if bytes+size > mostHistoryBytes {
			break
		}
		bytes += size
		list = append([]Exchange{x}, list...)
	}
	return list, bytes
}

// shorten cuts s to n bytes at a character's edge.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// The rules by which a follow-up becomes a whole question, for models that were trained on single ones (whole applies them):
//
//  1. "And", "but", "so", "then", "ok" before a question say nothing.
//  2. A question of a time only, as "and in the last five minutes?" or "what about 9:40?", is the one before with that time in place of its own.
//  3. "What about the van?" is the one before with "the van" in place of the one thing that it is about.
//  4. A question word only, as "when?" or "what colour?", asks that of the one before: "when did the van leave?", "what colour was the van?"
//  5. "It", "he", "they", "that one" are the one thing that the question before is about, or where that names none (or asks for it, as
//     "who came last?") the first thing of its answer; with the answer's colour unless a colour is asked for. "Another one" is another of them.
//
// Things are the nouns below: what cameras see. Where the rule's one thing is none or several, the question stays as it was asked.
const (
	thingNoun = `(?:cars?|automobiles?|vans?|trucks?|lorr(?:y|ies)|bus(?:es)?|taxis?|vehicles?|bicycles?|bikes?|cyclists?|motorbikes?|motorcycles?|scooters?|` +
		`persons?|people|man|men|woman|women|child|children|boys?|girls?|pedestrians?|visitors?|strangers?|postman|couriers?|drivers?|` +
		`dogs?|hounds?|cats?|birds?|animals?|horses?|parcels?|packages?|box(?:es)?|bags?|suitcases?|umbrellas?|balls?|` +
		`doors?|gates?|garage doors?|garage|windows?|lamps?|lights?|fire|smoke|ladder|pram|stroller)`
	colourWord = `(?:red|green|blue|yellow|white|black|gr[ae]y|orange|brown|purple|pink|silver|beige|dark|light|bright)`
	thingWord  = `(?:` + colourWord + `|first|second|third|last|next|other|parked|delivery|small|big|large|little|old|young|tall|front|back|garden)`
	clothes    = `(?:\s+(?:in|wearing|dressed in)\s+(?:an?\s+)?` + colourWord + `)`
)

var (
	leadIn    = regexp.MustCompile(`(?i)^\s*(?:(?:and|but|so|then|ok(?:ay)?|also|well|now)\b[\s,]*)+`)
	thing     = regexp.MustCompile(`(?i)\b(?:(the|an?|any|that|this|some|another|which|what)\s+)?((?:` + thingWord + `\s+)*` + thingNoun + `)\b(` + clothes + `)?`)
	anyColour = regexp.MustCompile(`(?i)\b` + colourWord + `\s+`)
	about     = regexp.MustCompile(`(?i)^(?:(?:what|how) about|and)\s+(.+?)\s*[?.!]*$`)
	aboutThat = regexp.MustCompile(`(?i)^(?:what|how) about\s+`)
	timeOnly  = regexp.MustCompile(`(?i)^(?:and|at|on|in|around|about|the|[\s?.!,])*$`)
	whWord    = regexp.MustCompile(`(?i)^(when|at what time|what time|where|why|how|how long|how often|(?:in )?(?:which|what) (?:colou?r|way|direction)|where to)\s*(?:exactly|was (?:that|it)|did (?:that|it) happen)?\s*[?.!]*$`)
	auxiliary = regexp.MustCompile(`(?i)^(?:did|was|were|is|are|has|have|had|does|do|can|could|will)\b`)
	asksWhich = regexp.MustCompile(`(?i)^\s*(?:who|what|which|how many|list|describe|tell|is (?:there|any)|are there)\b`)
	asksHue   = regexp.MustCompile(`(?i)\bcolou?rs?\b`)
	pronoun   = regexp.MustCompile(`(?i)\b(?:(are|were|do|have)\s+)?(it|he|she|they|him|her|them|that one|this one|the same one|its|his|their)\b`)
	anotherIt = regexp.MustCompile(`(?i)\b(another|a second|the other|the first|the last|the next|a different|the same|an?\s+` + colourWord + `|the\s+` + colourWord + `)\s+one\b`)
	// expletive is an "it" that stands for nothing.
	expletive = regexp.MustCompile(`(?i)\b(?:is|was|does|did|has|will) it (?:rain|snow|dark|light|day|night|sunny|cloudy|wet|morning|evening|quiet|late|early|\d)|\bwhat time is it\b|\bis it (?:now|still) (?:dark|light|day|night)`)
	plural    = regexp.MustCompile(`(?i)^(?:people|men|women|children|.*[^s]s)$`)
)

// whole is a follow-up as a question that stands alone, by the rules above; the question itself where they do not apply.
func whole(question string, history []Exchange, asked time.Time) string {
	if len(history) == 0 {
		return question
	}
	history = history[max(0, len(history)-2*mostExchanges):]
	// Earlier follow-ups stand for what they were understood as.
	before, answer := history[0].Question, history[0].Answer
	for _, x := range history[1:] {
		before, answer = follow(x.Question, before, answer, asked), x.Answer
	}
	return follow(question, before, answer, asked)
}

// follow is whole for the one exchange before, whose question stands alone.
func follow(question, before, answer string, asked time.Time) string {
	led := leadIn.FindString(question)
	text := strings.TrimSpace(question[len(led):])
	if text == "" {
		return question
	}
	bareTime := aboutThat.ReplaceAllString(text, "")
	if times, rest := timesIn(bareTime, asked); len(times) > 0 && timeOnly.MatchString(withoutClock(rest, asked)) {
		if bareTime != text && len(clockPoints(bareTime, asked.Location())) > 0 && clockPoints(bareTime, asked.Location())[0].begin == 0 {
			bareTime = "at " + bareTime // "what about 14:10"
		}
		return retimed(bareTime, before, asked)
	}
	other := strings.TrimRight(text, "?!. ")
	if m := about.FindStringSubmatch(text); m != nil || led != "" && (thing.FindString(text) == other || anotherIt.FindString(text) == other) {
		if m != nil {
			other = m[1]
		}
		other = anotherIt.ReplaceAllStringFunc(other, func(s string) string { return oneOf(s, antecedent(before, answer, true)) })
		if i := theThing(before); i != nil && thing.MatchString(other) {
			if text, ok := sameAsked(before, i, other); ok {
				return text
			}
		}
		return question
	}
	if m := whWord.FindStringSubmatch(text); m != nil {
		return asksOfIt(strings.ToLower(m[1]), before, answer, question)
	}
	if thing.MatchString(pronounless(text)) && !anotherIt.MatchString(text) {
		if led != "" && !pronoun.MatchString(text) {
			return upper(text)
		}
		// It may well mean the thing in this question: "did the car stop before it left?"
		return question
	}
	if expletive.MatchString(text) {
		return question
	}
	bare := asksHue.MatchString(text)
	it := antecedent(before, answer, bare)
	if it == "" {
		return question
	}
	done := anotherIt.ReplaceAllStringFunc(text, func(s string) string { return oneOf(s, it) })
	done = pronoun.ReplaceAllStringFunc(done, func(s string) string {
		verb, word := "", s
		if i := strings.LastIndexByte(s, ' '); i >= 0 && !strings.HasSuffix(strings.ToLower(s), " one") {
			verb, word = s[:i+1], s[i+1:]
		}
		switch strings.ToLower(word) {
		case "its", "his", "their":
			return verb + "the " + it + "'s"
		}
		if one := singular[strings.ToLower(strings.TrimSpace(verb))]; one != "" && strings.EqualFold(word, "they") && !plural.MatchString(lastWord(it)) {
			verb = one + " "
			if unicode.IsUpper(rune(s[0])) {
				verb = upper(verb)
			}
		}
		return verb + "the " + it
	})
	if done == text {
		if led != "" {
			return upper(text)
		}
		return question
	}
	return upper(done)
}

// singular is what "are they" becomes when they are one.
var singular = map[string]string{"are": "is", "were": "was", "do": "does", "have": "has"}

// pronounless is text without the words that a thing could be mistaken in.
func pronounless(text string) string { return anotherIt.ReplaceAllString(text, "") }

// withoutClock blanks the times of the day in text, which timesIn leaves there.
func withoutClock(text string, asked time.Time) string {
	points := hours(text, clockPoints(text, asked.Location()))
	b := []byte(text)
	for _, p := range points {
		for i := p.begin; i < p.end; i++ {
			b[i] = ' '
		}
	}
	text = string(b)
	if len(points) > 0 {
		text = clockLeads.ReplaceAllString(text, " ")
	}
	return text
}

var clockLeads = regexp.MustCompile(`(?i)\b(?:between|from|before|until|till|by|after|since|at|around|about|to|and)\b|[-–—]`)

// retimed is before with the time in text instead of its own.
func retimed(text, before string, asked time.Time) string {
	_, rest := timesIn(before, asked)
	points := hours(rest, clockPoints(rest, asked.Location()))
	for i := len(points) - 1; i >= 0; i-- {
		from := len(strings.TrimRight(rest[:points[i].begin], " "))
		if m := lead.FindStringIndex(rest[:points[i].begin]); m != nil {
			from = m[0]
		}
		rest = rest[:from] + rest[points[i].end:]
	}
	rest = hangingWord.ReplaceAllString(strings.TrimRight(spaced(rest), "?!. ,"), "")
	return withMark(strings.TrimRight(rest, " ") + " " + strings.TrimRight(text, "?!. "))
}

var hangingWord = regexp.MustCompile(`(?i)(?:\s+(?:at|in|on|between|and|from|to|since|before|after|around|about|of))+$`)

var (
	isLight     = regexp.MustCompile(`(?i)\b(?:lamps?|lights?)\b`)
	canBeShut   = regexp.MustCompile(`(?i)\b(?:doors?|gates?|windows?|garage|box(?:es)?|bags?|suitcases?|umbrellas?)\b`)
	opened      = regexp.MustCompile(`(?i)\b(open(?:ed)?|closed)\b()`)
	turned      = regexp.MustCompile(`(?i)\b(on|off)((?:\s+(?:right\s+)?now)?\s*[?.!]*)$`) // "on the street" is no state
	toLight     = map[string]string{"open": "on", "opened": "turned on", "closed": "off"}
	fromLight   = map[string]string{"on": "open", "off": "closed"}
	hasHappened = regexp.MustCompile(`(?i)^what has happened\b`)
)

// sameAsked is a question about one thing, which is at place in it, asked about another: doors are open and closed, lamps on and off, and others
// neither. ok is false where the other cannot be asked that.
func sameAsked(question string, place []int, other string) (text string, ok bool) {
	head, one, tail := question[:place[0]], question[place[0]:place[1]], question[place[1]:]
	switch light := isLight.MatchString(other); {
	case light && !isLight.MatchString(one):
		head, tail = reworded(head, opened, toLight), reworded(tail, opened, toLight)
	case canBeShut.MatchString(other) && isLight.MatchString(one):
		tail = reworded(tail, turned, fromLight)
	case !light && !canBeShut.MatchString(other) && (opened.MatchString(tail) || turned.MatchString(tail)):
		return "", false
	}
	return withMark(head + other + tail), true
}

// reworded puts words for those that pattern's first group finds.
func reworded(text string, pattern *regexp.Regexp, words map[string]string) string {
	m := pattern.FindStringSubmatchIndex(text)
	if m == nil {
		return text
	}
	if said := words[strings.ToLower(groupOf(text, m, 1))]; said != "" {
		return text[:m[2]] + said + text[m[3]:]
	}
	return text
}

// asksOfIt is a bare question word asked of the question before.
func asksOfIt(word, before, answer, question string) string {
	if asksHue.MatchString(word) {
		if it := antecedent(before, answer, true); it != "" {
			verb := " was the "
			if plural.MatchString(lastWord(it)) {
				verb = " were the "
			}
			return withMark("What colour" + verb + it)
		}
		return question
	}
	if auxiliary.MatchString(before) {
		first, size := utf8.DecodeRuneInString(before)
		return withMark(upper(word) + " " + string(unicode.ToLower(first)) + before[size:])
	}
	it := antecedent(before, answer, false)
	switch {
	case it == "":
		return question
	case strings.Contains(word, "way"), strings.Contains(word, "direction"), word == "where to":
		return withMark("Which way did the " + it + " go")
	case strings.HasSuffix(word, "when"), strings.HasSuffix(word, "time"):
		return withMark("When did the " + it + " come")
	case word == "where":
		return withMark("Where is the " + it)
	}
	return question
}

// theThing is where the one thing is that a question is about; nil for none or several.
func theThing(question string) []int {
	if all := thing.FindAllStringIndex(question, -1); len(all) == 1 {
		return all[0]
	}
	return nil
}

// antecedent is what "it" means after an exchange, without its article: "" where that is not plain. bare leaves colours out.
func antecedent(before, answer string, bare bool) string {
	name := func(text string, several bool) string {
		all := thing.FindAllStringSubmatch(text, -1)
		if len(all) == 0 || len(all) > 1 && !several {
			return ""
		}
		return strings.ToLower(spaced(all[0][2] + all[0][3]))
	}
	asked, told := name(before, false), name(answer, true)
	it := asked
	switch {
	case asked == "" && thing.MatchString(before): // it is about several
		return ""
	case asked == "":
		it = told
	case told != "" && noun(asked) == noun(told) && len(told) > len(asked):
		it = told
	case told != "" && asksWhich.MatchString(before) && noun(asked) != noun(told) && kindOf(asked):
		it = told
	}
	if bare {
		it = strings.TrimSpace(anyColour.ReplaceAllString(it+" ", ""))
		for _, tail := range []string{" in", " wearing", " dressed in"} {
			it = strings.TrimSuffix(it, tail)
		}
	}
	return it
}

// kindOf reports whether a thing is asked for by its kind, so that the answer names it.
func kindOf(thing string) bool {
	switch noun(thing) {
	case "vehicle", "vehicles", "animal", "animals", "person", "people":
		return true
	}
	return false
}

// noun is the word that says what a thing is.
func noun(thing string) string {
	words, _, _ := strings.Cut(thing, " in ")
	words, _, _ = strings.Cut(words, " wearing ")
	words, _, _ = strings.Cut(words, " dressed ")
	return lastWord(words)
}

func lastWord(s string) string { return s[strings.LastIndexByte(s, ' ')+1:] }

// oneOf is "another one" said of it.
func oneOf(another, it string) string {
	if it == "" {
		return another
	}
	return another[:len(another)-len("one")] + noun(it)
}

func upper(s string) string {
	first, size := utf8.DecodeRuneInString(s)
	if size == 0 {
		return s
	}
	return string(unicode.ToUpper(first)) + s[size:]
}

// withMark is a sentence that ends as a question does.
func withMark(s string) string { return upper(strings.TrimRight(strings.TrimSpace(s), "?!. ")) + "?" }

var (
	sinceAskedWords = regexp.MustCompile(`(?i)[\s,]*\b(?:since|after)\s+(?:i|we)(?:\s+have|'ve)?\s+(?:last\s+asked|asked\s+(?:you\s+)?(?:last|before|the last time))(?:\s+you)?(?:\s+something|\s+that)?\b|[\s,]*\bsince\s+(?:my|our)\s+(?:last|previous)\s+(?:question|visit)\b|[\s,]*\bsince\s+(?:the\s+)?last\s+time(?:\s+(?:i|we)\s+asked)?\b`)
	nothingElse     = regexp.MustCompile(`(?i)^[\s?.!,]*(?:(?:and|so|then|anything|what|what about|what's|what is)\s*(?:new|changed|happened|else)?)?[\s?.!,]*$`)
)

// sinceAsked takes "since I last asked" out of a question.
func sinceAsked(question string) (rest string, found bool) {
	m := sinceAskedWords.FindStringIndex(question)
	if m == nil {
		return question, false
	}
	rest = hasHappened.ReplaceAllString(strings.Trim(question[:m[0]]+question[m[1]:], " ,"), "What happened")
	if nothingElse.MatchString(rest) {
		rest = "What happened?"
	}
	return rest, true
}
