package qa

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTurnstileScripts runs testdata/watch/*.txt: lines "set NAME VALUE ..." begin anew with those fields, lines "SECONDS PROBABILITY [gap]
// STATE [EVENT]" are checks with what must come of them. What follows # is for people.
func TestTurnstileScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/watch/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			require.NoError(t, err)
			var m turnstile
			spec := WatchSpec{}
			checks := 0
			for i, line := range strings.Split(string(raw), "\n") {
				line, _, _ = strings.Cut(line, "#")
				f := strings.Fields(line)
				where := fmt.Sprintf("line %d: %s", i+1, line)
				switch {
				case len(f) == 0:
					continue
				case f[0] == "set":
					m = turnstile{}
					json := `{"name":"n","stream":"s","ask":"a"`
					for k := 1; k < len(f); k += 2 {
						value := f[k+1]
						if _, err := strconv.ParseFloat(value, 64); err != nil {
							value = strconv.Quote(value)
						}
						json += fmt.Sprintf(",%q:%s", f[k], value)
					}
					spec = WatchSpec{}
					require.NoError(t, spec.UnmarshalJSON([]byte(json+"}")), where)
					spec, err = spec.Complete()
					require.NoError(t, err, where)
					continue
				}
				at, err := strconv.ParseFloat(f[0], 64)
				require.NoError(t, err, where)
				p, err := strconv.ParseFloat(f[1], 64)
				require.NoError(t, err, where)
				f = f[2:]
				gap := f[0] == "gap"
				if gap {
					f = f[1:]
				}
				want := ""
				if len(f) > 1 {
					want = f[1]
				}
				kind := m.step(&spec, epoch.Add(time.Duration(at*float64(time.Second))), p, gap)
				require.Equal(t, WatchKind(want), kind, where)
				require.Equal(t, WatchState(f[0]), m.State, where)
				checks++
			}
			require.Positive(t, checks)
		})
	}
}

// TestTurnstileNeverRepeats fires on random probabilities, times, gaps and settings: never twice within the cooldown, never without having held,
// never twice without clearing between.
func TestTurnstileNeverRepeats(t *testing.T) {
	fired := 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		spec := WatchSpec{Threshold: .5 + r.Float64()/2, Hold: time.Duration(r.IntN(8)-1) * time.Second, Cooldown: time.Duration(r.IntN(60)-1) * time.Second}
		spec.Hysteresis = r.Float64() * spec.Threshold
		var m turnstile
		var last, onset time.Time // of the firing before; since when it counts without a gap
		now, open, p := epoch, false, 0.0
		for range 400 {
			now = now.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
			if r.IntN(4) == 0 {
				p = r.Float64()
			}
			gap := r.IntN(40) == 0
			switch {
			case p < spec.Threshold-spec.Hysteresis:
				onset = time.Time{}
			case gap:
				onset = time.Time{}
				fallthrough
			default:
				if onset.IsZero() && p >= spec.Threshold {
					onset = now
				}
			}
			switch m.step(&spec, now, p, gap) {
			case Fired:
				fired++
				require.False(t, open, "seed %d", seed)
				require.GreaterOrEqual(t, p, spec.Threshold)
				require.False(t, onset.IsZero())
				require.GreaterOrEqual(t, now.Sub(onset), spec.hold(), "seed %d", seed)
				if !last.IsZero() {
					require.GreaterOrEqual(t, now.Sub(last), spec.cooldown(), "seed %d", seed)
				}
				last, open = now, true
			case Cleared:
				require.True(t, open)
				require.Less(t, m.Ebb, now.Add(1))
				open = false
			}
		}
	}
	require.Greater(t, fired, 1000)
}

func TestTurnstileDeadline(t *testing.T) {
	spec := WatchSpec{Threshold: .8, Deadline: time.Minute, Hold: -1}
	m := turnstile{State: WatchIdle, Armed: epoch}
	require.False(t, m.overdue(&spec, epoch.Add(59*time.Second)))
	require.True(t, m.overdue(&spec, epoch.Add(time.Minute)))
	require.False(t, m.overdue(&spec, epoch.Add(time.Hour)), "it is said once")
	require.Equal(t, Fired, m.step(&spec, epoch.Add(2*time.Hour), 1, false))
	require.False(t, m.overdue(&spec, epoch.Add(9*time.Hour)), "while it holds it is not missed")
	require.Equal(t, Cleared, m.step(&spec, epoch.Add(10*time.Hour), 0, false))
	require.True(t, m.overdue(&spec, epoch.Add(11*time.Hour)))
}

func TestSpecComplete(t *testing.T) {
	good := WatchSpec{Name: "parcel", Stream: "door", Ask: " Is there a parcel? "}
	s, err := good.Complete()
	require.NoError(t, err)
	require.Equal(t, WatchSpec{Name: "parcel", Stream: "door", Ask: "Is there a parcel?", Choices: []string{"yes", "no"}, Fire: []string{"yes"},
		Threshold: DefaultThreshold, Hysteresis: DefaultHysteresis, Every: DefaultEvery, Hold: DefaultHold, Cooldown: DefaultCooldown}, s)
	again, err := s.Complete()
	require.NoError(t, err)
	require.Equal(t, s, again)
	for field, change := range map[string]func(*WatchSpec){
		"name":       func(s *WatchSpec) { s.Name = "../x" },
		"stream":     func(s *WatchSpec) { s.Stream = "" },
		"ask":        func(s *WatchSpec) { s.Ask = "  " },
		"choices":    func(s *WatchSpec) { s.Choices = []string{"yes", "YES"} },
		"fire":       func(s *WatchSpec) { s.Fire = []string{"maybe"} },
		"threshold":  func(s *WatchSpec) { s.Threshold = .4 },
		"hysteresis": func(s *WatchSpec) { s.Hysteresis = .9 },
		"every":      func(s *WatchSpec) { s.Every = time.Millisecond },
		"hold":       func(s *WatchSpec) { s.Hold = 1000 * time.Hour },
		"cooldown":   func(s *WatchSpec) { s.Cooldown = 1000 * time.Hour },
		"deadline":   func(s *WatchSpec) { s.Deadline = -1 },
		"look":       func(s *WatchSpec) { s.Look = "around" },
		"webhook":    func(s *WatchSpec) { s.Webhook = "ftp://example.org" },
	} {
		bad := good
		change(&bad)
		_, err := bad.Complete()
		var we *WatchError
		require.ErrorAs(t, err, &we, field)
		require.Equal(t, field, we.Field)
		require.ErrorIs(t, err, ErrWatch)
	}
	for _, change := range []func(*WatchSpec){
		func(s *WatchSpec) { s.Ask = "two\nlines" }, func(s *WatchSpec) { s.Ask = strings.Repeat("x", 501) }, func(s *WatchSpec) { s.Ask = "\xff" },
		func(s *WatchSpec) { s.Choices = []string{"yes"} }, func(s *WatchSpec) { s.Choices = []string{"yes", " no"} },
		func(s *WatchSpec) { s.Fire = []string{"yes", "no"} }, func(s *WatchSpec) { s.Webhook = "https://" },
	} {
		bad := good
		change(&bad)
		_, err := bad.Complete()
		require.ErrorIs(t, err, ErrWatch)
	}
}

func TestSpecJSON(t *testing.T) {
	s := WatchSpec{Name: "n", Stream: "s", Ask: "a", Hold: -1, Cooldown: time.Hour, Webhook: "https://example.org/hook?key=1", Fire: []string{"no"}}
	raw, err := s.MarshalJSON()
	require.NoError(t, err)
	require.JSONEq(t, `{"name":"n","stream":"s","ask":"a","fire":["no"],"hold":"0s","cooldown":"1h0m0s","webhook":"https://example.org/hook?key=1"}`, string(raw))
	var back WatchSpec
	require.NoError(t, back.UnmarshalJSON(raw))
	require.Equal(t, s, back)
	require.NoError(t, back.UnmarshalJSON([]byte(`{"cooldown":"5s","paused":true}`)))
	s.Cooldown, s.Paused = 5*time.Second, true
	require.Equal(t, s, back, "what is not there stays")
	for raw, field := range map[string]string{`{"hold":"soon"}`: "hold", `{"hold":"-5s"}`: "hold", `{"hold":5}`: "hold", `{"colour":"red"}`: "colour", `{"ask":1}`: "ask", `[]`: "", `{} {}`: ""} {
		var we *WatchError
		require.ErrorAs(t, back.UnmarshalJSON([]byte(raw)), &we, raw)
		require.Equal(t, field, we.Field, raw)
		require.Equal(t, s, back, "an error changes nothing")
	}
}

func TestRedacted(t *testing.T) {
	for raw, want := range map[string]string{
		"": "", "https://example.org": "https://example.org", "https://example.org/": "https://example.org",
		"https://u:canary@example.org:8443/services/T0/canary?k=canary": "https://example.org:8443/…",
	} {
		require.Equal(t, want, Redacted(raw))
	}
}

// FuzzSpec reads any JSON as a question: what is taken is complete and survives being written and read again.
func FuzzSpec(f *testing.F) {
	f.Add([]byte(`{"name":"parcel","stream":"door","ask":"Is there a parcel?","hold":"5s","threshold":0.9}`))
	f.Add([]byte(`{"name":"n","stream":"s","ask":"a","choices":["red","blue"],"fire":["blue"],"cooldown":"0s","webhook":"https://example.org/x"}`))
	f.Add([]byte(`{"every":"9999999h"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s WatchSpec
		if s.UnmarshalJSON(raw) != nil {
			return
		}
		s, err := s.Complete()
		if err != nil {
			require.ErrorIs(t, err, ErrWatch)
			return
		}
		out, err := s.MarshalJSON()
		require.NoError(t, err)
		var back WatchSpec
		require.NoError(t, back.UnmarshalJSON(out))
		back, err = back.Complete()
		require.NoError(t, err)
		require.Equal(t, s, back)
		var m turnstile
		for i := range 20 {
			m.step(&s, epoch.Add(time.Duration(i)*s.Every), float64(i%3)/2, i == 7)
		}
	})
}
