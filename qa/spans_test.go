package qa

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/ingest/simcam"
	"afterimage/internal/compute"
	"afterimage/memorybank"
)

// watchedSince is a coverage map of everything between two times, and what an answer then rests on.
func watchedSince(from, asked time.Time) (Evidence, *ingest.Coverage) {
	c := ingest.NewCoverage(2*time.Minute, 0)
	for at := from; !at.After(asked); at = at.Add(time.Minute) {
		c.Mark(at)
	}
	c.Mark(asked)
	return Evidence{Asked: asked, AsOf: asked, Coverage: c.Spans()}, c
}

// Asked on Thursday, 2026-05-07, at 15:20:00, having watched since Monday noon.
func TestTimesIn(t *testing.T) {
	asked := time.Date(2026, 5, 7, 15, 20, 0, 0, time.FixedZone("CEST", 7200))
	e, c := watchedSince(time.Date(2026, 5, 4, 12, 0, 0, 0, asked.Location()), asked)
	shown := func(at time.Time) string {
		layout := "15:04:05"
		if at.Day() != asked.Day() {
			layout = "2 " + layout
		}
		return strings.TrimSuffix(at.Format(layout), ":00")
	}
	for question, want := range map[string]string{
		// no times
		"What happened?": "", "How many cars passed?": "", "Were there between 2 and 3 people?": "", "Is it at 9 Elm Street?": "",
		"Did two or three cars come after one van?": "", "Is the number of cars between 2 and 3?": "", "Was the dog with one of the people at the gate?": "",
		"Did the rain last ten minutes?": "", "Did a car drive past two people?": "", "What were the last two things that happened?": "",
		"What did the last three people do?": "", "Is it a quarter of an apple?": "", "Who was the first to come by?": "", "Did they stay for ten minutes?": "",
		"Good morning": "", "What is on the 24/7 sign, 3.5 or 9?": "", "Is a 1-9 there?": "", "How long ago did the car come?": "", "Is this car red?": "",
		"Did a car stop at one of the houses?": "", "Did the second hound run past?": "", "Is it half open?": "", "Did anyone pass from 3 to 5 boxes on?": "",
		"Was it by two?": "", "Are there any at 5?": "at 5: 04:55..05:05:59",

		// clock times
		"Who came between 9 and 10?":                            "between 9 and 10: 09:00..10:00:59",
		"Who came between nine and ten":                         "between nine and ten: 09:00..10:00:59",
		"who came from 9 to half past?":                         "between 9 and half past: 09:00..09:30:59",
		"Who came between 9:30 and quarter to ten?":             "between 9:30 and quarter to ten: 09:30..09:45:59",
		"Who came between 9 and 10:30 this morning?":            "between 9 and 10:30: 09:00..10:30:59",
		"Who came from 9 am to 5?":                              "between 09:00 and 5: 09:00..15:20",
		"Who came from 11 to 1 pm?":                             "between 11 and 13:00: 11:00..13:00:59",
		"Who came from 11 to 1?":                                "between 11 and 1: 11:00..13:00:59",
		"Who came from 10 until noon?":                          "between 10 and noon: 10:00..12:00:59",
		"Who came between noon and two?":                        "between noon and two: 12:00..14:00:59",
		"Who came between the hours of 1 and 2?":                "any",
		"Who came between 1 and 2 in the afternoon?":            "between 1 and 2: 13:00..14:00:59",
		"Who came between 1 and 2 yesterday morning?":           "between 1 and 2: 6 01:00..6 02:00:59",
		"What happened at noon?":                                "at noon: 11:55..12:05:59",
		"What happened at midnight?":                            "at midnight: 6 23:55..00:05:59",
		"What has happened since midnight?":                     "since midnight: 00:00..11:59:59",
		"What happened before midday?":                          "before midday: 6 12:00..11:59:59",
		"What has happened since 9:40?":                         "since 9:40: 09:40..15:20",
		"What has happened since nine?":                         "since nine: 09:00..15:20",
		"What has happened since 9 o'clock this morning":        "since 9 o'clock: 09:00..15:20",
		"Was the gate open at nine o’clock?":                    "at nine o’clock: 08:55..09:05:59",
		"Was the gate open at half past nine":                   "at half past nine: 09:25..09:35:59",
		"Was the gate open at a quarter past 9":                 "at a quarter past 9: 09:10..09:20:59",
		"Was the gate open at quarter to one?":                  "any",
		"Was the gate open around 14:03?":                       "at 14:03: 13:58..14:08:59",
		"Was the gate open at 14:03:10?":                        "at 14:03:10: 14:03:10..14:03:10",
		"What happened at 9 in the evening?":                    "at 9: 6 20:55..6 21:05:59",
		"What happened at 9 yesterday evening?":                 "at 9: 6 20:55..6 21:05:59",
		"What happened last night at 11?":                       "at 11: 6 22:55..6 23:05:59",
		"What happened last night at two?":                      "at two: 01:55..02:05:59",
		"What happened yesterday at noon?":                      "at noon: 6 11:55..6 12:05:59",
		"What happened on Tuesday at 14:03?":                    "at 14:03: 5 14:03..5 14:03:59",
		"What happened on 2026-05-05 at 14:03?":                 "at 2026-05-05 14:03: 5 14:03..5 14:03:59",
		"What happened at 2?":                                   "any",
		"What happened between 2 and 3?":                        "any", // in the night and in the afternoon
		"What happened between 22:00 yesterday and 6:00 today?": "between 22:00 and 6:00: 6 22:00..06:00:59",
		"What happened at 4 pm?":                                "at 16:00: 6 16:00..6 16:00:59",
		"What happened at 4 pm today?":                          "at 16:00: not yet",
		"What happened at 9 am on Monday?":                      "at 09:00: not watched",

		// up to now
		"What happened in the last ten minutes?":              "in the last ten minutes: 15:10..15:20",
		"What happened in the last 10 minutes?":               "in the last 10 minutes: 15:10..15:20",
		"What were the last ten minutes like?":                "in the last ten minutes: 15:10..15:20",
		"Has anyone come during the past hour?":               "during the past hour: 14:20..15:20",
		"Has anyone come in the past twenty-five seconds":     "in the past twenty-five seconds: 15:19:35..15:20",
		"Has anyone come within the last hour and a half?":    "within the last hour and a half: 13:50..15:20",
		"Has anyone come over the last two and a half hours?": "over the last two and a half hours: 12:50..15:20",
		"Has anyone come in the last half an hour?":           "in the last half an hour: 14:50..15:20",
		"Has anyone come in the last half hour?":              "in the last half hour: 14:50..15:20",
		"Has anyone come in the last quarter of an hour?":     "in the last quarter of an hour: 15:05..15:20",
		"Has anyone come in the last few minutes?":            "in the last few minutes: 15:12..15:20",
		"Has anyone come in the last couple of hours?":        "in the last couple of hours: 11:20..15:20",
		"Has anyone come in the last minutes?":                "in the last minutes: 15:12..15:20",
		"Has anyone come these last two days?":                "in these last two days: 5 15:20..15:20",
		"Has anyone come throughout the last 1.5 hours?":      "throughout the last 1.5 hours: 13:50..15:20",
		"What happened in the last ten minutes of the match?": "any",
		"What happened in the last 90000 hours?":              "any",
		"What came just now?":                                 "just now: 15:19..15:20",
		"Who was there a moment ago?":                         "just now: 15:19..15:20",

		// some time ago
		"Was the door open five minutes ago?":        "five minutes ago: 15:13:20..15:16:39",
		"Was the door open a minute ago?":            "a minute ago: 15:18:40..15:19:19",
		"Was the door open about 30 seconds ago?":    "30 seconds ago: 15:19:10..15:19:49",
		"Was the door open 1 minute ago?":            "1 minute ago: 15:18:40..15:19:19",
		"Did a car drive past ten minutes ago?":      "ten minutes ago: 15:06:40..15:13:19",
		"Was the door open half an hour ago?":        "half an hour ago: 14:40..14:59:59",
		"Was the door open an hour ago?":             "an hour ago: 14:00..14:39:59",
		"Who came a few minutes ago?":                "a few minutes ago: 15:11:40..15:19:19",
		"Who came a couple of hours ago?":            "a couple of hours ago: 11:19:40..14:20:19",
		"Who came two days ago?":                     "two days ago: 5 00:00..5 23:59:59",
		"Who came 5 seconds ago?":                    "5 seconds ago: 15:19:35..15:20",
		"Who has come since ten minutes ago?":        "since ten minutes ago: 15:10..15:20",
		"Who has come less than an hour ago?":        "less than an hour ago: 14:20..15:20",
		"Who came more than an hour ago?":            "any",
		"Who came between ten and five minutes ago?": "any",
		"Who came five or six minutes ago?":          "any",
		"How many minutes ago did the car come?":     "any",
		"Who came a week ago?":                       "a week ago: not watched",

		// days
		"How many cars came today?":                    "today: 00:00..15:20",
		"What happened this morning?":                  "this morning: 00:00..11:59:59",
		"What happened this afternoon?":                "this afternoon: 12:00..15:20",
		"What happens this evening?":                   "this evening: not yet",
		"What happens tonight?":                        "tonight: not yet",
		"What happened last night?":                    "last night: 6 18:00..05:59:59",
		"What happened yesterday?":                     "yesterday: 6 00:00..6 23:59:59",
		"What happened yesterday morning?":             "yesterday morning: 6 00:00..6 11:59:59",
		"What happened yesterday evening":              "yesterday evening: 6 17:00..6 23:59:59",
		"What happened yesterday night?":               "yesterday night: 6 18:00..05:59:59",
		"What has happened since yesterday?":           "since yesterday: 6 00:00..15:20",
		"What has happened since yesterday afternoon?": "since yesterday afternoon: 6 12:00..15:20",
		"What happened the day before yesterday?":      "the day before yesterday: 5 00:00..5 23:59:59",
		"What happened on Tuesday?":                    "on Tuesday: 5 00:00..5 23:59:59",
		"What happened on Tuesday evening?":            "on Tuesday evening: 5 17:00..5 23:59:59",
		"What happened on 2026-05-05?":                 "on 2026-05-05: 5 00:00..5 23:59:59",
		"Were there more cars today than yesterday?":   "today: 00:00..15:20, yesterday: 6 00:00..6 23:59:59",
		"What happened on Sunday?":                     "on Sunday: not watched",
		"What happened on Thursday?":                   "any", // today, or a week ago
		"What happened last Tuesday?":                  "any",
		"Is it Sunday?":                                "any", "Tuesday evening?": "Tuesday evening: 5 17:00..5 23:59:59", "Who came on Tuesday or on Wednesday": "on Tuesday: 5 00:00..5 23:59:59, on Wednesday: 6 00:00..6 23:59:59",
		"What has happened since Tuesday?":              "since Tuesday: 5 00:00..15:20",
		"What happened in the last hour or so?":         "in the last hour: 14:00..15:20",
		"What happened in the last two or three hours?": "",
		"What happens every Tuesday?":                   "any",
		"What happened before yesterday?":               "any",
		"What happened until this morning?":             "any",
	} {
		var got []string
		for _, x := range namedTimes(question, e, &memorybank.Snapshot{Version: 1}, c) {
			switch {
			case x.verdict == notYet:
				got = append(got, x.words+": not yet")
			case x.verdict == notSeen:
				got = append(got, x.words+": not watched")
			case x.span.From.IsZero():
				got = append(got, "any")
			default:
				got = append(got, fmt.Sprintf("%s: %s..%s", x.words, shown(x.span.From), shown(x.span.To.Truncate(time.Second))))
			}
		}
		require.Equal(t, want, strings.Join(got, ", "), question)
	}
}

// In the small hours, tonight began yesterday, and this morning has begun.
func TestTonightAfterMidnight(t *testing.T) {
	asked := time.Date(2026, 5, 7, 2, 0, 0, 0, time.UTC)
	e, c := watchedSince(asked.Add(-24*time.Hour), asked)
	for question, from := range map[string]time.Time{
		"Who came tonight?":          asked.Add(-8 * time.Hour),
		"Who came this morning?":     asked.Add(-2 * time.Hour),
		"Who came tonight at eleven": asked.Add(-3*time.Hour - 5*time.Minute),
		"Who came at half past one?": asked.Add(-35 * time.Minute),
	} {
		times := namedTimes(question, e, &memorybank.Snapshot{Version: 1}, c)
		require.Len(t, times, 1, question)
		require.Equal(t, seen, times[0].verdict, question)
		require.Equal(t, from, times[0].span.From, question)
	}
	times := namedTimes("Who came today?", e, &memorybank.Snapshot{Version: 1}, c)
	require.True(t, times[0].doubt, "it may have begun yesterday")
}

func TestSpansNobodyWatched(t *testing.T) {
	one := []string{"14:00:00 14:05:00"}
	const watched = " I have watched from 14:00:00 to 14:05:00."
	for question, want := range map[string]string{
		"What happened in the last ten minutes?": "I was not watching in the last ten minutes." + watched,
		"What happened in the last half hour?":   "", // partly watched
		"Who was there five minutes ago?":        "I was not watching five minutes ago." + watched,
		"Who was there just now?":                "I was not watching just now." + watched,
		"Who was there this morning?":            "I was not watching this morning." + watched,
		"Who was there yesterday morning?":       "I was not watching yesterday morning." + watched,
		"Who was there yesterday or today?":      "",
		"Who will be there this evening?":        "It is 14:20:01 now, so I cannot know about what happens this evening yet." + watched,
		"Who came between 9 and 10?":             "I was not watching between 9 and 10." + watched,
		"Who came between 1 and half past?":      "I was not watching between 1 and half past." + watched,
		"Who came at noon?":                      "I was not watching at noon." + watched,
		"Who came more than an hour ago?":        "",
		"What were the last two things?":         "",
		"Who came since 14:10?":                  "I was not watching since 14:10." + watched,
		"Who came in the last 5 or 20 minutes?":  "",
	} {
		got, decided := decide(t, one, "14:20:01", question)
		require.Equal(t, want, got, question)
		require.Equal(t, want != "", decided, question)
	}
}

func TestPreference(t *testing.T) {
	for question, want := range map[string]memorybank.Order{
		"What colour was the first car?":                      memorybank.Earliest,
		"What colour was the last car":                        memorybank.Latest,
		"Where did the most recent dog go?":                   memorybank.Latest,
		"What was the earliest thing that you saw?":           memorybank.Earliest,
		"When did you first see a dog?":                       memorybank.Earliest,
		"When did the dog last appear?":                       memorybank.Latest,
		"When was the last time that the gate was open?":      memorybank.Latest,
		"Which car came first?":                               memorybank.Earliest,
		"What were the last two things that happened?":        memorybank.Latest,
		"List the first three events in order":                memorybank.Earliest,
		"What was the first car in the last ten minutes?":     memorybank.Earliest,
		"What happened in the last ten minutes?":              memorybank.AnyTime,
		"What happened in the first ten minutes?":             memorybank.AnyTime,
		"What happened last night?":                           memorybank.AnyTime,
		"Which came first, the red car or the blue van?":      memorybank.AnyTime,
		"Who or what passed last, the dog or the bike?":       memorybank.AnyTime,
		"Did the first car come before the last van?":         memorybank.AnyTime,
		"What colour was the first car after the van?":        memorybank.AnyTime,
		"How long did the last visit take?":                   memorybank.AnyTime,
		"Did the rain last?":                                  memorybank.AnyTime,
		"At first, was the door open?":                        memorybank.AnyTime,
		"Is there a light on the first floor?":                memorybank.AnyTime,
		"Compare the first and the last person":               memorybank.AnyTime,
		"What happened?":                                      memorybank.AnyTime,
		"What happened in the last ten minutes of the match?": memorybank.AnyTime,
	} {
		_, rest := timesIn(question, epoch)
		require.Equal(t, want, preference(rest), question)
	}
}

// Whatever the simulator asks, what an answer rests on stays in what is looked at, and no question is taken for one about a time that
// nobody watched.
func TestFocusKeepsTheTruth(t *testing.T) {
	focused, steered, questions := 0, map[memorybank.Order]int{}, 0
	for seed := uint64(900_000); seed < 900_008; seed++ {
		start := time.Date(2026, 5, 2, 8, 58, 31, 0, time.UTC).Add(time.Duration(seed%8) * 3 * time.Hour) // over noon, over midnight
		script := simcam.NewScript(seed, 32*time.Minute)
		bank := memorybank.New(start, memorybank.Recent{N: 10_000})
		coverage := ingest.NewCoverage(3*time.Second, 0)
		for at, asked := time.Duration(0), time.Duration(0); at <= 32*time.Minute; at += 2 * time.Second {
			bank.Add(memorybank.Entry{At: at, Grid: memorybank.Grid{H: 1, W: 1}, Tokens: compute.NewMatrix(1, 1)})
			coverage.Mark(start.Add(at))
			if at < asked+4*time.Minute {
				continue
			}
			asked = at
			snap := bank.Snapshot()
			for _, q := range script.TrainingQuestions(start, at, 40, seed) {
				questions++
				e := Evidence{Asked: start.Add(at), AsOf: start.Add(at), Coverage: coverage.Spans()}
				times := namedTimes(q.Question, e, snap, coverage)
				sentence, decided := fromCoverage(times, e, snap)
				require.False(t, decided, "%s: %s", q.Question, sentence)
				view, _ := testFocus(t, q.Question, times, &e, snap)
				steered[e.Prefer]++
				if e.Prefer != memorybank.AnyTime {
					require.Contains(t, []string{simcam.Attribute, simcam.Direction, simcam.OrderedNarrative}, q.Type, q.Question)
				}
				if e.Focus.From.IsZero() {
					require.Len(t, view.Entries, len(snap.Entries), q.Question)
					continue
				}
				focused++
				if len(view.Entries) == 0 { // as of a moment
					require.WithinDuration(t, start.Add((q.From+q.To)/2), view.Wall(view.Now), 31*time.Second, q.Question)
					continue
				}
				require.False(t, start.Add(max(q.From, 0)).Before(e.Focus.From), "%s: evidence from %s, looked at from %s", q.Question, start.Add(q.From), e.Focus.From)
				require.False(t, start.Add(q.To).After(e.Focus.To), "%s: evidence to %s, looked at to %s", q.Question, start.Add(q.To), e.Focus.To)
			}
		}
	}
	t.Log(questions, "questions,", focused, "focused, steered", steered)
	require.Greater(t, focused, questions/20)
	require.Greater(t, steered[memorybank.Earliest], 20)
	require.Greater(t, steered[memorybank.Latest], 20)
}
