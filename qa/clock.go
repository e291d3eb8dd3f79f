package qa

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"afterimage/ingest"
)

// A when is a stretch of time that a question names. By the clock ("at 14:03", "between 14:00 and 14:10", "before 9 am") it is a
// stretch of a day, of which day the coverage map has to say; any other ("in the last ten minutes", "yesterday") is a span.
type when struct {
	from, to  time.Duration // since midnight; to is exclusive, may lie beyond 24 h, and from before 0
	ambiguous bool          // it may also mean 12 hours later, as a bare "2:03" does
	day       time.Time     // midnight of the day it names; zero for none

	span   ingest.Span // both zero in a stretch of the day; To is exclusive
	moment bool        // it names one moment, which lies in the middle of the stretch
	doubt  bool        // it may be any time, and nothing else here counts
	words  string      // as it is said back: "at 14:03"
}

var (
	clockTime = regexp.MustCompile(`(?i)(?:\b(\d{4}-\d{2}-\d{2})[ ,]*(?:T|\bat\b)? ?)?(?:\b(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?(?:\s*([ap])\.?m\b)?|\b(\d{1,2})\s*([ap])\.?m\b)`)
	// spokenTime is a time in words; one of its groups is there: noon or midnight, half or quarter past or to, o'clock. "half past"
	// without an hour takes that of the time before it.
	spokenTime = regexp.MustCompile(`(?i)\b(?:(noon|midday|midnight)|(half past|(?:a )?quarter past|(?:a )?quarter to)(?:\s+(` + hourWord + `))?|(` + hourWord + `)\s*o\W?clock)\b`)
	// bareHour may be an hour, if what is around it says so.
	bareHour = regexp.MustCompile(`(?i)\b(` + hourWord + `)\b`)
	// joins says that the two times around it are one stretch.
	joins = regexp.MustCompile(`(?i)^\s*(?:(?:to|until|till|through)(?:\s+(?:about|around|approximately|exactly))*|-|–|—)\s*$`)
	and   = regexp.MustCompile(`(?i)^\s*and(?:\s+(?:about|around|approximately|exactly))*\s*$`)
	// lead is the word before a time that says how it is meant; words that make it vaguer do not count, except at a single moment.
	lead = regexp.MustCompile(`(?i)(?:\b(between|from|before|until|till|by|after|since|at))?((?:\s*\b(?:about|around|approximately|roughly|exactly|the time|the hours of))*)\s*$`)
	// afterHour is what follows a bare hour that is one: the sentence's end, or how it goes on. Anything else is something counted.
	afterHour = regexp.MustCompile(`(?i)^\s*(?:$|[?.!,;)]|(?:in the (?:morning|afternoon|evening)|at night|this (?:morning|afternoon|evening)|tonight|last night|today|yesterday|sharp|on(?:wards?)?|did|was|were|has|have|had|is|are|do|does)\b)`)
	// countWord before a pair of numbers makes them a number of something.
	countWord = regexp.MustCompile(`(?i)\b(?:number|count|score|amount|total|sum|age|level|floor|size)\b`)
	vague     = regexp.MustCompile(`(?i)about|around|approximately|roughly`)
	partOfDay = regexp.MustCompile(`(?i)\b(?:in the (morning|afternoon|evening)|(?:this|yesterday|today) (morning|afternoon|evening)|at (night)|(tonight)|(last night))\b`)
)

// A question "after 14:03" asks about the half day that follows, one "before 14:03" about the whole day that led to it. "About
// 14:03" is up to five minutes off, and an hour without minutes ("at nine") is meant less exactly than one with.
const (
	afterReach  = 12 * time.Hour
	beforeReach = 24 * time.Hour
	vagueReach  = 5 * time.Minute
)

const halfDay = 12 * time.Hour

// A point is one time of the day in a question.
type point struct {
	at, width  time.Duration
	ambiguous  bool // am and pm are both possible
	explicit   bool // am or pm was said
	spoken     bool // an hour, or a half or a quarter of one
	relative   bool // at is what to add to the hour of the time before it
	candidate  bool // a bare number that still has to prove itself an hour
	day        time.Time
	begin, end int
	said       string
}

// clockTimes finds the times of the day that a question asked at a time names. Times that a clock cannot show are no times.
func clockTimes(question string, asked time.Time) []when {
	points := hours(question, clockPoints(question, asked.Location()))
	day := dayNamed(question, asked)
	settleHalf(question, points)
	var list []when
	for i := 0; i < len(points); i++ {
		p := points[i]
		start := 0
		if i > 0 {
			start = points[i-1].end
		}
		how, roughly := leadOf(question[start:p.begin])
		w := when{from: p.at, to: p.at + p.width, ambiguous: p.ambiguous, day: p.day, moment: true, words: "at " + p.said}
		if w.day.IsZero() {
			w.day = day(p)
		}
		if i+1 < len(points) {
			q := points[i+1]
			link := linkOf(question, p, q)
			if joins.MatchString(link) || how == "between" && and.MatchString(link) {
				p, q := together(p, q)
				w.from, w.to, w.ambiguous, w.words = p.at, q.at+q.width, p.ambiguous && q.ambiguous, "between "+p.said+" and "+q.said
				if w.to <= w.from {
					w.to += 24 * time.Hour
				}
				w.moment = false
				list = append(list, w)
				i++
				continue
			}
		}
		switch how {
		case "before", "until", "till", "by":
			w.from, w.to, w.words, w.moment = p.at-beforeReach, p.at, how+" "+p.said, false
		case "after", "since", "from":
			w.to, w.words, w.moment = p.at+afterReach, how+" "+p.said, false
		default:
			if roughly || p.spoken {
				w.from, w.to = w.from-vagueReach, w.to+vagueReach
			}
		}
		list = append(list, w)
	}
	return list
}

// leadOf returns the word that leads to a time, and whether the time is meant roughly.
func leadOf(before string) (how string, roughly bool) {
	m := lead.FindStringSubmatch(before)
	if m == nil {
		return "", false
	}
	return strings.ToLower(m[1]), vague.MatchString(m[2])
}

// clockPoints finds the times that are certainly times.
func clockPoints(question string, loc *time.Location) []point {
	var points []point
	for _, m := range clockTime.FindAllStringSubmatchIndex(question, -1) {
		group := func(i int) string { return groupOf(question, m, i) }
		if before := question[:m[0]]; before != "" && strings.ContainsAny(before[len(before)-1:], ":.") {
			continue // part of a longer number
		}
		if after := question[m[1]:]; len(after) > 1 && after[0] == ':' && after[1] >= '0' && after[1] <= '9' {
			continue
		}
		hour, minute, second := group(2), group(3), group(4)
		half := strings.ToLower(group(5))
		if hour == "" {
			hour, half = group(6), strings.ToLower(group(7))
		}
		h, _ := strconv.Atoi(hour) // digits, by the pattern; empty ones are 0
		mi, _ := strconv.Atoi(minute)
		s, _ := strconv.Atoi(second)
		if mi > 59 || s > 59 || h > 23 || half != "" && (h < 1 || h > 12) {
			continue
		}
		p := point{width: time.Minute, ambiguous: half == "" && len(hour) == 1 && h > 0, explicit: half != "", begin: m[0], end: m[1]}
		switch {
		case half == "p" && h < 12:
			h += 12
		case half == "a" && h == 12:
			h = 0
		}
		p.at = time.Duration(h)*time.Hour + time.Duration(mi)*time.Minute + time.Duration(s)*time.Second
		layout := "15:04"
		if second != "" {
			p.width, layout = time.Second, "15:04:05"
		}
		p.said = time.Unix(0, int64(p.at)).UTC().Format(layout)
		if p.ambiguous {
			p.said = group(0)
		}
		if date := group(1); date != "" {
			day, err := time.ParseInLocation(time.DateOnly, date, loc)
			if err != nil {
				continue
			}
			p.day, p.said = day, date+" "+p.said
		}
		points = append(points, p)
	}
	for _, m := range spokenTime.FindAllStringSubmatchIndex(question, -1) {
		group := func(i int) string { return strings.ToLower(groupOf(question, m, i)) }
		p := point{width: time.Minute, spoken: true, begin: m[0], end: m[1], said: group(0)}
		hour := ""
		switch name := group(1); {
		case name == "midnight":
			p.explicit = true
		case name != "":
			p.at, p.explicit = halfDay, true
		case group(2) != "":
			p.at, p.said = past[strings.TrimPrefix(group(2), "a ")], group(2)
			if p.relative = group(3) == ""; !p.relative {
				p.said, p.ambiguous = group(0), true
			}
			hour = group(3)
		default:
			p.ambiguous, hour = true, group(4)
		}
		if hour != "" {
			h := hourNumber(hour)
			if h > 24 {
				continue
			}
			p.ambiguous = h >= 1 && h <= 12
			p.at = (p.at + time.Duration(h)*time.Hour + 24*time.Hour) % (24 * time.Hour)
			if p.ambiguous {
				p.at %= halfDay // 12 is the first hour of either half
			}
		}
		if !overlaps(points, p) {
			points = append(points, p)
		}
	}
	slices.SortFunc(points, func(a, b point) int { return cmp.Compare(a.begin, b.begin) })
	return points
}

// past is what is added to an hour.
var past = map[string]time.Duration{"half past": 30 * time.Minute, "quarter past": 15 * time.Minute, "quarter to": -15 * time.Minute}

func overlaps(points []point, p point) bool {
	return slices.ContainsFunc(points, func(q point) bool { return p.begin < q.end && q.begin < p.end })
}

// hours adds the bare numbers that are hours by what is around them: "between 9 and 10", "since nine", "from 9 to half past".
func hours(question string, points []point) []point {
	all := slices.Clone(points)
	for _, m := range bareHour.FindAllStringSubmatchIndex(question, -1) {
		word := groupOf(question, m, 1)
		p := point{begin: m[0], end: m[1], width: time.Minute, ambiguous: true, spoken: true, candidate: true, said: strings.ToLower(word)}
		h := hourNumber(word)
		// Where it is part of a longer number, of a word such as "one-way", or of a date, it is no hour.
		if h > 24 || overlaps(points, p) || p.begin > 0 && strings.ContainsAny(question[p.begin-1:p.begin], ":.,-/#$€£+") ||
			p.end+1 < len(question) && strings.ContainsAny(question[p.end:p.end+1], ":.,/%°'") && question[p.end+1] != ' ' {
			continue
		}
		if h > 12 || h == 0 {
			p.ambiguous = false
		}
		p.at = time.Duration(h%24) * time.Hour
		if h == 12 {
			p.at = 0
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b point) int { return cmp.Compare(a.begin, b.begin) })
	kept := points[:0:0]
	for i := 0; i < len(all); i++ {
		p := all[i]
		start := 0
		if n := len(kept); n > 0 {
			start = kept[n-1].end
		}
		how, _ := leadOf(question[start:p.begin])
		if i+1 < len(all) && (how == "between" || how == "from" || !p.candidate) {
			q := all[i+1]
			link := linkOf(question, p, q)
			pair := joins.MatchString(link) || how == "between" && and.MatchString(link)
			// One of the two at least must be surely a time, or nothing is counted after the second.
			if pair && !p.relative && (!q.candidate || afterHour.MatchString(question[q.end:])) && !(p.candidate && q.candidate && countWord.MatchString(question[:p.begin])) {
				if q.relative {
					q.at, q.ambiguous = p.at.Truncate(time.Hour)+q.at, p.ambiguous
					if q.at <= p.at {
						q.at += time.Hour
					}
				}
				p.candidate, q.candidate = false, false
				kept = append(kept, p, q)
				i++
				continue
			}
		}
		alone := how != "" && how != "between" && afterHour.MatchString(question[p.end:]) && !(how == "by" && p.said[0] > '9')
		if !p.relative && (!p.candidate || alone) {
			p.candidate = false
			kept = append(kept, p)
		}
	}
	return kept
}

// linkOf is what stands between two times, without the days that they are said to be of.
func linkOf(question string, p, q point) string {
	return dayWord.ReplaceAllString(question[p.end:q.begin], "")
}

// together settles which halves of the day two times mean that are one stretch: the shortest that they can.
func together(p, q point) (point, point) {
	twelve := func(x point) bool {
		return x.ambiguous || !x.explicit && p.spoken && x.at >= time.Hour && x.at < halfDay+time.Hour
	}
	until := func(a, b time.Duration) time.Duration { return (b - a + 48*time.Hour) % (24 * time.Hour) }
	switch {
	case p.ambiguous && twelve(q): // both may lie in either half
		d := (q.at - p.at + 24*time.Hour) % halfDay
		if d == 0 {
			d = halfDay
		}
		q.at, q.ambiguous = p.at+d, true
	case p.ambiguous:
		if d := until(p.at+halfDay, q.at); d > 0 && d < until(p.at, q.at) || until(p.at, q.at) == 0 {
			p.at += halfDay
		}
	case q.ambiguous:
		if d := until(p.at, q.at+halfDay); d > 0 && d < until(p.at, q.at) || until(p.at, q.at) == 0 {
			q.at += halfDay
		}
	}
	return p, q
}

// settleHalf settles am or pm where the question has one part of the day in words: "at nine in the evening".
func settleHalf(question string, points []point) {
	parts := partOfDay.FindAllStringSubmatch(question, -1)
	if len(parts) != 1 {
		return
	}
	part := strings.ToLower(parts[0][1] + parts[0][2] + parts[0][3] + parts[0][4] + parts[0][5])
	for i := range points {
		p := &points[i]
		if !p.ambiguous {
			continue
		}
		switch h := p.at % halfDay; {
		case part == "morning", h < 5*time.Hour && part != "afternoon" && part != "evening":
			p.at, p.ambiguous = h, false
		case part == "afternoon", h >= 4*time.Hour:
			p.at, p.ambiguous = h+halfDay, false
		}
	}
}

// dayNamed returns which day a question's times of the day are of, as far as it says so; zero for any.
func dayNamed(question string, asked time.Time) func(point) time.Time {
	named := map[day]bool{}
	var d day
	for _, m := range dayWord.FindAllStringSubmatch(strings.ToLower(question), -1) {
		if x := newDay(m, asked); !x.midnight.IsZero() {
			d = day{x.midnight, "", x.night}
			named[d] = true
		}
	}
	return func(p point) time.Time {
		switch {
		case len(named) != 1:
			return time.Time{}
		case !d.night:
			return d.midnight
		case p.ambiguous:
			return time.Time{}
		case p.at < halfDay: // "last night at 2" was today
			return midnightOf(d.midnight, 1)
		}
		return d.midnight
	}
}

// length is how long the stretch is.
func (w when) length() time.Duration {
	if !w.span.From.IsZero() {
		return w.span.To.Sub(w.span.From)
	}
	return w.to - w.from
}

// on returns the stretch on the day that begins at midnight.
func (w when) on(midnight time.Time, shift time.Duration) (from, to time.Time) {
	y, m, d := midnight.Date()
	clock := func(t time.Duration) time.Time { // by the wall clock, so that a change to summer time moves nothing
		t += shift
		return time.Date(y, m, d, 0, 0, int(t/time.Second), int(t%time.Second), midnight.Location())
	}
	return clock(w.from), clock(w.to)
}

func midnightOf(t time.Time, days int) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d+days, 0, 0, 0, 0, t.Location())
}

func groupOf(s string, m []int, i int) string {
	if m[2*i] < 0 {
		return ""
	}
	return s[m[2*i]:m[2*i+1]]
}
