package simcam

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var epoch = time.Date(2026, 5, 2, 9, 58, 31, 0, time.UTC)

// Every true answer must read back as itself, or the score would punish a perfect model.
func TestTrueAnswersScoreExact(t *testing.T) {
	types := map[string]int{}
	for seed := range uint64(60) {
		s := NewScript(seed, 12*time.Minute)
		for _, at := range []time.Duration{40 * time.Second, 5 * time.Minute, 10*time.Minute + 7*time.Second} {
			for _, q := range s.Questions(epoch, at, 20, seed) {
				r := Score(q, q.Answer)
				require.Truef(t, r.Exact, "%s %q: %q reads as %q, want %q", q.Type, q.Question, q.Answer, r.Canonical, q.Short)
				require.LessOrEqual(t, q.To, at, q.Question)
				types[q.Type]++
				if q.Form == "order" {
					require.Equal(t, 1.0, r.Tau)
				}
			}
		}
	}
	for _, kind := range Types {
		assert.Greaterf(t, types[kind], 30, "type %s is hardly ever asked: %v", kind, types)
	}
}

func TestQuestionsAreBalanced(t *testing.T) {
	short := map[string]map[string]int{}
	for seed := range uint64(150) {
		s := NewScript(seed, 10*time.Minute)
		for at := 90 * time.Second; at < 10*time.Minute; at += 97 * time.Second {
			for _, q := range s.Questions(epoch, at, 16, seed) {
				if short[q.Form] == nil {
					short[q.Form] = map[string]int{}
				}
				if q.Form == "yesno" {
					if short[q.Type] == nil {
						short[q.Type] = map[string]int{}
					}
					short[q.Type][q.Short]++
				}
				short[q.Form][q.Short]++
			}
		}
	}
	for _, kind := range []string{EventOccurrence, SequenceValidation, CurrentState, PastState, "direction"} {
		n := 0
		for _, c := range short[kind] {
			n += c
		}
		for word, c := range short[kind] {
			assert.InDeltaf(t, .5, float64(c)/float64(n), .08, "%s %s: %v", kind, word, short[kind])
		}
	}
	n, most := 0, 0
	for _, c := range short["count"] {
		n, most = n+c, max(most, c)
	}
	assert.Lessf(t, float64(most)/float64(n), .45, "counts: %v", short["count"])
	t.Log(short["count"], short["colour"], short["which"]["car"], short["which"]["van"])
}

func TestScoreRejects(t *testing.T) {
	for _, c := range []struct{ form, short, answer string }{
		{"colour", "red", "It was red or blue."},
		{"colour", "red", ""},
		{"yesno", "yes", "No, the door is closed."},
		{"yesno", "yes", "Perhaps."},
		{"count", "2", "I saw three cars."},
		{"direction", "left", "The dog went to the right."},
		{"which", "red car", "The blue car came first."},
		{"none", "none", "The dog went to the left."},
		{"order", "red car:park > door:on", "First the door opened, then a red car parked."},
		{"time", "10:04", "A red car parked at 10:05."},
	} {
		assert.False(t, Score(Truth{Form: c.form, Short: c.short}, c.answer).Exact, fmt.Sprint(c))
	}
	r := Score(Truth{Form: "order", Short: "red car:park > door:on > door:off"}, "First a red car parked, then the door closed, then the door opened.")
	assert.InDelta(t, 1.0/3, r.Tau, 1e-9)
}

func TestScriptIsDeterministic(t *testing.T) {
	a, b := NewScript(900_000, time.Hour), NewScript(900_000, time.Hour)
	assert.Equal(t, a, b)
	assert.Equal(t, a.Questions(epoch, 50*time.Minute, 30, 1), b.Questions(epoch, 50*time.Minute, 30, 1))
	assert.NotEqual(t, a.Episodes, NewScript(900_001, time.Hour).Episodes)
}

// What earlier versions asked of a seed is asked for ever: figures are only comparable on the same questions.
func TestQuestionsNeverChange(t *testing.T) {
	h := sha256.New()
	for _, seed := range []uint64{7, 900_000} {
		s := NewScript(seed, 40*time.Minute)
		for at := 30 * time.Second; at < 40*time.Minute; at += 111 * time.Second {
			for _, q := range append(s.Questions(epoch, at, 20, seed), s.TrainingQuestions(epoch, at, 20, seed+1)...) {
				fmt.Fprintln(h, q.ID, q.Type, q.Form, q.Question, q.Answer, q.Short, q.At, q.From, q.To, q.Closed)
			}
		}
	}
	assert.Equal(t, "7f1d0b69da9523a2e6cb421ec00523d8eb28319a6ed508f749ae8a717c157052", fmt.Sprintf("%x", h.Sum(nil)))
}

func TestEvidence(t *testing.T) {
	none := map[string]bool{SceneSummary: true, CurrentState: true, DidNotHappen: true, OffTopic: true}
	several := 0
	for seed := range uint64(20) {
		s := NewScript(seed, 30*time.Minute)
		for _, at := range []time.Duration{5 * time.Minute, 29 * time.Minute} {
			for _, q := range s.TrainingQuestions(epoch, at, 60, seed) {
				for i, e := range q.Evidence {
					require.Less(t, e.From, e.To, q.Question)
					require.LessOrEqual(t, e.To, at, q.Question)
					require.True(t, i == 0 || q.Evidence[i-1].From <= e.From, q.Question)
				}
				n := len(q.Evidence)
				switch {
				case none[q.Type] || q.Form == "yesno" && q.Type == EventOccurrence && q.Short == "no":
					assert.Zero(t, n, q.Question)
				case q.Form == "count":
					assert.Equal(t, q.Short, fmt.Sprint(n), q.Question)
				case q.Form == "order":
					assert.Len(t, strings.Split(q.Short, " > "), n, q.Question)
				case q.Type == SequenceValidation:
					assert.Equal(t, 2, n, q.Question)
				case q.Type != Which && q.Type != EventOccurrence:
					assert.Equal(t, 1, n, q.Question)
				default:
					assert.Positive(t, n, q.Question)
				}
				if n > 1 {
					several++
				}
			}
		}
	}
	assert.Greater(t, several, 100)
}
