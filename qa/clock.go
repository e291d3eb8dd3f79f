package qa

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A when is a stretch of the day that a question names: "at 14:03", "between 14:00 and 14:10", "before 9 am".
type when struct {
	from, to  time.Duration // since midnight; to is exclusive, may lie beyond 24 h, and from before 0
	ambiguous bool          // a bare "2:03" may also mean 14:03
	day       time.Time     // midnight of the day it names; zero for none
	yesterday bool
	words     string // as it is said back: "at 14:03"
}

var (
	clockTime = regexp.MustCompile(`(?i)(?:\b(\d{4}-\d{2}-\d{2})[ ,]*(?:T|\bat\b)? ?)?(?:\b(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?(?:\s*([ap])\.?m\b)?|\b(\d{1,2})\s*([ap])\.?m\b)`)
	// joins says that the two times around it are one stretch.
	joins = regexp.MustCompile(`(?i)^\s*(?:to|until|till|through|-|–|—)\s*$`)
	and   = regexp.MustCompile(`(?i)^\s*and\s*$`)
	// lead is the word before a time that says how it is meant; words that make it vaguer do not count.
	lead      = regexp.MustCompile(`(?i)\b(between|from|before|until|till|by|after|since)(?:\s+(?:about|around|approximately|exactly|the time))*\s*$`)
	yesterday = regexp.MustCompile(`(?i)\byesterday\b`)
)

// A question "after 14:03" asks about the half day that follows, one "before 14:03" about the whole day that led to it.
const (
	afterReach  = 12 * time.Hour
	beforeReach = 24 * time.Hour
)

// clockTimes finds the times that a question names. Times that a clock cannot show are no times.
func clockTimes(question string, loc *time.Location) []when {
	type point struct {
		at, width  time.Duration
		bare       bool // one digit and no am or pm
		day        time.Time
		begin, end int
		said       string
	}
	var points []point
	for _, m := range clockTime.FindAllStringSubmatchIndex(question, -1) {
		group := func(i int) string {
			if m[2*i] < 0 {
				return ""
			}
			return question[m[2*i]:m[2*i+1]]
		}
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
		p := point{width: time.Minute, bare: half == "" && len(hour) == 1, begin: m[0], end: m[1]}
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
		if p.bare {
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

	back := yesterday.MatchString(question)
	var list []when
	for i := 0; i < len(points); i++ {
		p := points[i]
		start := 0
		if i > 0 {
			start = points[i-1].end
		}
		how := ""
		if m := lead.FindStringSubmatch(question[start:p.begin]); m != nil {
			how = strings.ToLower(m[1])
		}
		w := when{from: p.at, to: p.at + p.width, ambiguous: p.bare, day: p.day, yesterday: back, words: "at " + p.said}
		if i+1 < len(points) {
			q := points[i+1]
			link := question[p.end:q.begin]
			if joins.MatchString(link) || how == "between" && and.MatchString(link) {
				w.to, w.ambiguous, w.words = q.at+q.width, p.bare && q.bare, "between "+p.said+" and "+q.said
				if w.to <= w.from {
					w.to += 24 * time.Hour
				}
				list = append(list, w)
				i++
				continue
			}
		}
		switch how {
		case "before", "until", "till", "by":
			w.from, w.to, w.words = p.at-beforeReach, p.at, how+" "+p.said
		case "after", "since", "from":
			w.to, w.words = p.at+afterReach, how+" "+p.said
		}
		list = append(list, w)
	}
	return list
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
