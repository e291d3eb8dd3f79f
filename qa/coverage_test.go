package qa

import (
	"testing"
	"time"

	"afterimage/ingest"
	"afterimage/memorybank"

	"github.com/stretchr/testify/require"
)

// decide asks at a wall time, having watched the spans, each "HH:MM:SS HH:MM:SS" of the epoch's day (a leading "-" is the day before).
func decide(t *testing.T, spans []string, asked, question string) (string, bool) {
	t.Helper()
	clock := func(s string) time.Time {
		day := 1
		if s[0] == '-' {
			day, s = 0, s[1:]
		}
		at, err := time.Parse("15:04:05", s)
		require.NoError(t, err)
		return time.Date(2026, 3, day, at.Hour(), at.Minute(), at.Second(), 0, epoch.Location())
	}
	w := &fakeWatched{state: ingest.Live}
	for _, s := range spans {
		from, to := clock(s[:len(s)/2]), clock(s[len(s)/2+1:])
		for at := from; !at.After(to); at = at.Add(time.Second) {
			w.coverage.Mark(at)
		}
	}
	snap := filledBank(memorybank.Recent{}, 1).Snapshot()
	return beforeModel(question, gather(clock(asked), snap, w), snap, &w.coverage)
}

func TestFromCoverage(t *testing.T) {
	one := []string{"14:00:00 14:20:00"}
	two := []string{"14:00:00 14:05:00", "14:10:00 14:20:00"}
	night := []string{"-22:00:00 -23:30:00", "00:30:00 09:00:00"}
	const watchedTwo = " I have watched from 14:00:00 to 14:05:00 and from 14:10:00 until now (14:20:01)."
	for _, c := range []struct {
		spans                 []string
		asked, question, want string // "" leaves it to the model
	}{
		{one, "14:20:01", "What happened at 14:03?", ""},
		{one, "14:20:01", "What happened?", ""},
		{one, "14:20:01", "Is there a 16:9 screen, a 1:2:3:4 ratio, 25:10, 12:75 or 1.10:30 anywhere?", ""},
		{two, "14:20:01", "What happened at 14:07?", "I was not watching at 14:07." + watchedTwo},
		{two, "14:20:01", "What happened at 14:07:30?", "I was not watching at 14:07:30." + watchedTwo},
		{two, "14:20:01", "Who was there at 2:07 pm?", "I was not watching at 14:07." + watchedTwo},
		{two, "14:20:01", "Who was there at 2:07 P.M.?", "I was not watching at 14:07." + watchedTwo},
		{two, "14:20:01", "Who was there at 2:07?", "I was not watching at 2:07." + watchedTwo},
		{two, "14:20:01", "Who was there at 2:12?", ""}, // may mean the afternoon
		{two, "14:20:01", "Who was there at 02:12?", "I was not watching at 02:12." + watchedTwo},
		{two, "14:20:01", "Who came between 14:06 and 14:08?", "I was not watching between 14:06 and 14:08." + watchedTwo},
		{two, "14:20:01", "Who came from 14:06:00 to 14:08:30?", "I was not watching between 14:06:00 and 14:08:30." + watchedTwo},
		{two, "14:20:01", "Who came 14:06-14:08?", "I was not watching between 14:06 and 14:08." + watchedTwo},
		{two, "14:20:01", "Who came between 14:04 and 14:08?", ""},
		{two, "14:20:01", "Who came between about 14:06 and 14:12?", ""},
		{two, "14:20:01", "Was it at 14:07 or at 14:08?", "I was not watching at 14:07 or at 14:08." + watchedTwo},
		{two, "14:20:01", "Was it at 14:07 or at 14:12?", ""},
		{two, "14:20:01", "What happened before 14:00?", "I was not watching before 14:00." + watchedTwo},
		{two, "14:20:01", "What happened before 14:07?", ""},
		{two, "14:20:01", "What has happened since 14:07?", ""},
		{two, "14:20:01", "What happened until 9 am?", "I was not watching until 09:00." + watchedTwo},
		{two, "14:20:01", "What was there at 12 am?", "I was not watching at 00:00." + watchedTwo},
		{two, "14:20:01", "What will be there at 16:00?", "It is 14:20:01 now, so I cannot know about what happens at 16:00 yet." + watchedTwo},
		{two, "14:20:01", "What happens after 16:00?", "It is 14:20:01 now, so I cannot know about what happens after 16:00 yet." + watchedTwo},
		{two, "14:20:01", "What happened between 16:00 and 17:00?", "It is 14:20:01 now, so I cannot know about what happens between 16:00 and 17:00 yet." + watchedTwo},
		{two, "14:20:01", "What happened at 14:07, and at 16:00?", "I was not watching at 14:07 or at 16:00." + watchedTwo},
		{two, "14:20:01", "What is there at 14:20:01?", ""},
		{two, "14:20:01", "What was there yesterday at 14:15?", "I was not watching at 14:15." + watchedTwo},
		{two, "14:20:01", "What was there on 2026-03-01 at 14:15?", ""},
		{two, "14:20:01", "And on 2026-02-27 14:15?", "I was not watching at 2026-02-27 14:15." + watchedTwo},
		{two, "14:20:01", "And on 2026-02-31 14:15?", ""}, // no such day: the model may say so
		{one, "14:40:00", "Who is there at 14:30?", "I was not watching at 14:30. I have watched from 14:00:00 to 14:20:00."},

		{night, "09:00:02", "What happened at 23:00?", ""}, // last night
		{night, "09:00:02", "What happened after 23:00?", ""},
		{night, "09:00:02", "What happened at 23:45?", "I was not watching at 23:45. I have watched from 2026-02-28 22:00:00 to 2026-02-28 23:30:00 and from 00:30:00 until now (09:00:02)."},
		{night, "09:00:02", "What happened between 23:40 and 00:20?", "I was not watching between 23:40 and 00:20. I have watched from 2026-02-28 22:00:00 to 2026-02-28 23:30:00 and from 00:30:00 until now (09:00:02)."},
		{night, "09:00:02", "What happened between 23:40 and 00:40?", ""},
		{night, "09:00:02", "What happened yesterday at 22:10?", ""},
		{night, "09:00:02", "What happens at 10:00?", "It is 09:00:02 now, so I cannot know about what happens at 10:00 yet. I have watched from 2026-02-28 22:00:00 to 2026-02-28 23:30:00 and from 00:30:00 until now (09:00:02)."},
		{
			[]string{"14:00:00 14:00:05", "14:01:00 14:01:05", "14:02:00 14:02:05", "14:03:00 14:03:05", "14:04:00 14:04:05"}, "14:05:00", "At 13:00?",
			"I was not watching at 13:00. I have watched during 2 earlier stretches, from 14:02:00 to 14:02:05, from 14:03:00 to 14:03:05 and from 14:04:00 to 14:04:05.",
		},
	} {
		t.Run(c.question, func(t *testing.T) {
			got, decided := decide(t, c.spans, c.asked, c.question)
			require.Equal(t, c.want, got)
			require.Equal(t, c.want != "", decided)
		})
	}
}

// A bank that was filled without a coverage map is no reason to claim that nothing was watched.
func TestNoCoverageMap(t *testing.T) {
	snap := filledBank(memorybank.Recent{}, 3).Snapshot()
	w := &fakeWatched{}
	_, decided := beforeModel("What was there at 03:00?", gather(epoch, snap, w), snap, &w.coverage)
	require.False(t, decided)
}

func TestEvidenceIsBounded(t *testing.T) {
	w := &fakeWatched{state: ingest.Live}
	for i := range 500 {
		w.mark(i*100, i*100)
	}
	e := gather(epoch.Add(50_000*time.Second), filledBank(memorybank.Recent{}, 1).Snapshot(), w)
	require.Len(t, e.Coverage, maxSpans)
	require.Equal(t, epoch.Add(49_900*time.Second), e.Coverage[maxSpans-1].To)
	require.Len(t, e.Gaps, maxSpans)
}

func FuzzClockTimes(f *testing.F) {
	for _, s := range []string{"at 14:03", "between 23:10 and 1:00", "2026-03-01T14:03:10.5 pm", "12 am-12 pm", "from 9:00 until", "::1:11:", "é14:03ü", "yesterday before 0:00", "between 9 and 10",
		"from 9 to half past", "in the last ten and a half minutes", "two days ago", "a couple of minutes ago or so", "since yesterday morning at nine", "12 to 12", "quarter to one, noon",
		"the day before yesterday evening", "last night between ten and two", "half past 23 to half past", "just now, the last car", "in the last 1e9 hours", "0 to 24", "since İ 9"} {
		f.Add(s)
	}
	w := &fakeWatched{}
	w.mark(0, 10)
	w.mark(100, 110)
	snap := filledBank(memorybank.Recent{}, 3).Snapshot()
	f.Fuzz(func(t *testing.T, question string) {
		asked := epoch.Add(2 * time.Minute)
		list, rest := timesIn(question, asked)
		require.Len(t, rest, len(question))
		for _, x := range list {
			switch {
			case x.doubt:
				continue
			case !x.span.From.IsZero():
				require.True(t, x.span.From.Before(x.span.To), x)
			default:
				require.Less(t, x.from, x.to)
				require.LessOrEqual(t, x.to, 49*time.Hour)
				from, to := x.on(epoch, 0)
				require.True(t, from.Before(to))
			}
			require.NotEmpty(t, x.words)
		}
		e := gather(asked, snap, w)
		sentence, decided := beforeModel(question, e, snap, &w.coverage)
		require.Equal(t, decided, sentence != "")
		view, text := testFocus(t, question, namedTimes(question, e, snap, &w.coverage), &e, snap)
		require.NotEmpty(t, view.Select(nil, 0))
		require.True(t, text == question || text != "" && !e.Focus.From.IsZero())
		require.False(t, e.Focus.To.Before(e.Focus.From))
	})
}

// beforeModel is what Ask does with a question before the model is asked.
func beforeModel(question string, e Evidence, snap *memorybank.Snapshot, c *ingest.Coverage) (string, bool) {
	return fromCoverage(namedTimes(question, e, snap, c), e, snap)
}
