package qa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/memorybank"
)

// chooser is a model that is asked about pictures whose first value says how probable yes is.
type chooser struct {
	fakeModel
	fail func() error // nil: it does not

	mu      sync.Mutex
	asked   []string // the questions, with the number of pictures before each
	choices [][]string
	active  int
	most    int
	hold    chan struct{} // when set, all but the first of a round wait for it
}

func (m *chooser) Choose(ctx context.Context, p llm.Prompt, choices []string) ([]float64, llm.Stats, error) {
	m.mu.Lock()
	m.active++
	m.most = max(m.most, m.active)
	hold := m.hold
	m.mu.Unlock()
	defer func() { m.mu.Lock(); m.active--; m.mu.Unlock() }()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, llm.Stats{}, ctx.Err()
		}
	}
	yes, pictures, text := 0.0, 0, ""
	for _, part := range p {
		if part.Visual.Rows > 0 {
			yes = float64(part.Visual.Data[0])
			pictures++
		}
		if part.Text != "" {
			text = part.Text
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked, m.choices = append(m.asked, fmt.Sprintf("%s %d", text, pictures)), append(m.choices, choices)
	if m.fail != nil {
		if err := m.fail(); err != nil {
			return nil, llm.Stats{}, err
		}
	}
	out := make([]float64, len(choices))
	for i, c := range choices { // small and capital letters share
		out[i] = (1 - yes) / float64(len(choices)-2)
		if strings.EqualFold(c, "yes") {
			out[i] = yes / 2
		}
	}
	return out, llm.Stats{PromptTokens: 40, CachedTokens: 30}, nil
}

// stand is a stream that standing questions are put to, second by second.
type stand struct {
	t        *testing.T
	bank     *memorybank.Bank
	watched  *fakeWatched
	model    *chooser
	session  *Session
	standing *Standing
	round    func(context.Context) error
	events   <-chan WatchEvent
	at       int // seconds
}

func newStand(t *testing.T, o StandingOptions) *stand {
	s := &stand{t: t, watched: &fakeWatched{state: ingest.Live}, model: &chooser{}}
	s.bank = memorybank.New(epoch, memorybank.Recent{N: 1000})
	now := func() time.Time { return epoch.Add(time.Duration(s.at) * time.Second) }
	s.session = NewSession(s.bank, Shared(s.model, 1), s.watched, now)
	o.Now = now
	var err error
	s.standing, err = NewStanding(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.standing.Close()) })
	s.round = s.standing.AttachManually("street", s.session)
	var end func()
	s.events, end = s.standing.Subscribe("street")
	t.Cleanup(end)
	return s
}

// show is one second of the stream, whose picture says how probable yes is.
func (s *stand) show(p float64) {
	m := compute.NewMatrix(4, 3)
	for i := range m.Data {
		m.Data[i] = float32(i%3) + 1
	}
	m.Data[0] = float32(p)
	s.watched.coverage.Mark(epoch.Add(time.Duration(s.at) * time.Second))
	s.bank.Add(memorybank.Entry{At: time.Duration(s.at) * time.Second, Grid: memorybank.Grid{H: 2, W: 2}, Tokens: m, Thumb: fmt.Appendf(nil, "thumb %d", s.at)})
	require.NoError(s.t, s.round(s.t.Context()))
	s.at++
}

// told are the events since, as "kind second".
func (s *stand) told() (list []string) {
	for len(s.events) > 0 {
		e := <-s.events
		list = append(list, fmt.Sprintf("%s %s %.0f", e.Watch.Spec.Name, e.Kind, e.At.Sub(epoch).Seconds()))
	}
	return list
}

func (s *stand) create(spec WatchSpec) WatchInfo {
	s.t.Helper()
	if spec.Stream == "" {
		spec.Stream = "street"
	}
	if spec.Ask == "" {
		spec.Ask = "Is there a parcel?"
	}
	w, err := s.standing.Create(s.t.Context(), spec)
	require.NoError(s.t, err)
	return w
}

func TestStandingFires(t *testing.T) {
	s := newStand(t, StandingOptions{})
	w := s.create(WatchSpec{Name: "parcel", Hold: 2 * time.Second, Cooldown: 30 * time.Second})
	other := s.create(WatchSpec{Name: "none", Fire: []string{"no"}, Hold: -1, Every: 5 * time.Second})
	for range 3 {
		s.show(.1)
	}
	require.Equal(t, []string{"none fired 0"}, s.told())
	for range 3 {
		s.show(.9)
	}
	s.show(.1) // second 6
	require.Equal(t, []string{"none cleared 5", "parcel fired 5"}, s.told(), "who waits longest comes first")
	s.show(.1)
	s.show(.1)
	require.Equal(t, []string{"parcel cleared 8"}, s.told())
	info, err := s.standing.Get(w.ID)
	require.NoError(t, err)
	require.Equal(t, WatchCooling, info.State)
	require.EqualValues(t, 1, info.Firings)
	require.EqualValues(t, 9, info.Cost.Checks)
	require.EqualValues(t, 9*30, info.Cost.CachedTokens)
	require.Equal(t, "no", info.Choice)
	require.InDelta(t, .1, info.Probability, 1e-6)
	info, err = s.standing.Get(other.ID)
	require.NoError(t, err)
	require.EqualValues(t, 2, info.Cost.Checks, "every five seconds")
	events := s.standing.Events(w.ID)
	require.Len(t, events, 2)
	require.Equal(t, []byte("thumb 5"), events[0].Evidence.Items[0].Thumb)
	require.Equal(t, epoch.Add(5*time.Second), events[0].Evidence.AsOf)
	require.Equal(t, "yes", events[0].Choice)
	for i, asked := range s.model.asked {
		require.Equal(t, "Is there a parcel? 1", asked, "one picture each")
		require.Equal(t, []string{"yes", "Yes", "no", "No"}, s.model.choices[i])
	}

	s.standing.Forget("street", epoch, epoch.Add(time.Hour))
	for _, e := range s.standing.Events(w.ID) {
		require.Empty(t, e.Evidence.Items)
	}
}

// TestStandingLost: a gap in the coverage neither fires nor clears.
func TestStandingLost(t *testing.T) {
	s := newStand(t, StandingOptions{})
	s.create(WatchSpec{Name: "parcel", Hold: 5 * time.Second, Cooldown: -1})
	s.show(.9)
	s.show(.9)
	s.at += 100 // nobody watched
	for range 5 {
		s.show(.9)
	}
	require.Empty(t, s.told(), "what it was meanwhile is not known")
	s.show(.9)
	require.Equal(t, []string{"parcel fired 107"}, s.told())
	s.show(0)
	s.at += 100
	for range 5 {
		s.show(0)
	}
	require.Empty(t, s.told())
	s.show(0)
	require.Equal(t, []string{"parcel cleared 214"}, s.told())
}

func TestStandingOnChange(t *testing.T) {
	s := newStand(t, StandingOptions{})
	w := s.create(WatchSpec{Name: "parcel", OnChange: true, Hold: 2 * time.Second})
	for range 12 {
		s.show(.1)
	}
	s.show(.95)
	for range 12 {
		s.show(.9501) // hardly another picture
	}
	require.Equal(t, []string{"parcel fired 14"}, s.told())
	info, err := s.standing.Get(w.ID)
	require.NoError(t, err)
	require.EqualValues(t, 6, info.Cost.Checks, "0, 10 (every tenth), 12 to 14 (until it is settled), 24")
	require.EqualValues(t, 25-6, info.Cost.Unchanged)
}

func TestStandingLooksBack(t *testing.T) {
	s := newStand(t, StandingOptions{})
	s.create(WatchSpec{Name: "minute", Ask: "Did anyone come in the last five seconds?"})
	s.create(WatchSpec{Name: "all", Ask: "Did anyone come?", Look: LookMemory})
	for range 20 {
		s.show(0)
	}
	last := s.model.asked[len(s.model.asked)-2:]
	require.ElementsMatch(t, []string{"Did anyone come in the last five seconds? 7", "Did anyone come? 20"}, last)
}

func TestStandingErrors(t *testing.T) {
	s := newStand(t, StandingOptions{})
	s.create(WatchSpec{Name: "parcel", Hold: -1, Deadline: 10 * time.Second})
	var fail error
	s.model.fail = func() error { return fail }
	s.show(0)
	fail = fmt.Errorf("queue: %w", llm.ErrBusy)
	s.show(1)
	require.Empty(t, s.told(), "the next picture will do")
	fail = errors.New("the device is on fire")
	s.show(1)
	s.show(1)
	e := <-s.events
	require.Equal(t, Failed, e.Kind)
	require.Contains(t, e.Error, "on fire")
	require.Empty(t, s.told(), "it is said once")
	fail = nil
	for range 8 {
		s.show(0)
	}
	e = <-s.events
	require.Equal(t, Failed, e.Kind)
	require.Contains(t, e.Error, "not fired for 10s")
	require.Empty(t, s.told())
}

func TestStandingRefuses(t *testing.T) {
	s := newStand(t, StandingOptions{Most: 2})
	ctx := t.Context()
	w := s.create(WatchSpec{Name: "one"})
	_, err := s.standing.Create(ctx, WatchSpec{Stream: "street", Name: "one", Ask: "?"})
	require.ErrorIs(t, err, ErrTaken)
	_, err = s.standing.Create(ctx, WatchSpec{Stream: "nowhere", Ask: "?"})
	require.ErrorIs(t, err, ErrNoStream)
	two := s.create(WatchSpec{})
	require.Equal(t, two.ID, two.Spec.Name, "a name is made up")
	_, err = s.standing.Create(ctx, WatchSpec{Stream: "street", Ask: "?"})
	require.ErrorIs(t, err, ErrTooMany)
	_, err = s.standing.Update(ctx, "nobody", WatchSpec{})
	require.ErrorIs(t, err, ErrNoWatch)
	_, err = s.standing.Update(ctx, w.ID, WatchSpec{Name: "one", Stream: "street"})
	require.ErrorIs(t, err, ErrWatch)
	require.NoError(t, s.standing.Delete(ctx, two.ID))
	require.ErrorIs(t, s.standing.Delete(ctx, two.ID), ErrNoWatch)
	_, err = s.standing.Get(two.ID)
	require.ErrorIs(t, err, ErrNoWatch)

	fixed := []WatchSpec{{Name: "f", Stream: "street", Ask: "?"}, {Name: "g", Stream: "later", Ask: "?"}}
	require.NoError(t, s.standing.SetFixed(fixed))
	require.ErrorIs(t, s.standing.Delete(ctx, "street.f"), ErrFixedWatch)
	_, err = s.standing.Update(ctx, "street.f", fixed[0])
	require.ErrorIs(t, err, ErrFixedWatch)
	require.ErrorIs(t, s.standing.SetFixed([]WatchSpec{{Name: "one", Stream: "street", Ask: "?"}}), ErrTaken)
	require.ErrorIs(t, s.standing.SetFixed([]WatchSpec{fixed[0], {Name: "bad"}}), ErrWatch)
	require.Len(t, s.standing.List(), 3, "nothing changed")
	require.NoError(t, s.standing.SetFixed(fixed[1:]))
	require.Len(t, s.standing.List(), 2)
}

// TestStandingRestart: what fired does not fire again because the program was started again, and what cools goes on cooling.
func TestStandingRestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "watches.json")
	s := newStand(t, StandingOptions{File: file})
	w := s.create(WatchSpec{Name: "parcel", Hold: -1, Cooldown: 20 * time.Second, Webhook: "https://example.org/hook"})
	require.NoError(t, s.standing.SetFixed([]WatchSpec{{Name: "fixed", Stream: "street", Ask: "?", Hold: -1}}))
	s.show(1)
	require.ElementsMatch(t, []string{"parcel fired 0", "fixed fired 0"}, s.told())
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	require.True(t, json.Valid(raw))

	again := func(change func(*stand)) *stand { // a crash: nothing is closed
		r := newStand(t, StandingOptions{File: file})
		r.at = s.at
		change(r)
		return r
	}
	r := again(func(r *stand) { r.show(1); r.show(0) })
	require.Equal(t, []string{"parcel cleared 2", "fixed cleared 2"}, sorted(r.told()))
	have, err := r.standing.Get(w.ID)
	require.NoError(t, err)
	require.EqualValues(t, 1, have.Firings)
	require.Equal(t, w.Spec, have.Spec)
	require.Equal(t, w.Created.UTC(), have.Created.UTC())
	s.at = 3
	r = again(func(r *stand) {
		for range 17 {
			r.show(1)
		}
	})
	require.Empty(t, r.told(), "it cools")
	r.show(1)
	require.Equal(t, []string{"parcel fired 20"}, r.told())

	require.NoError(t, os.WriteFile(file, []byte(`{"version":1,"watches":[{"id":"x","spec":{"name":"x"}}]}`), 0o600))
	_, err = NewStanding(StandingOptions{File: file})
	require.ErrorIs(t, err, ErrWatch)
	require.ErrorContains(t, err, file)
	for _, bad := range []string{"", "[", `{"version":9}`} {
		require.NoError(t, os.WriteFile(file, []byte(bad), 0o600))
		_, err = NewStanding(StandingOptions{File: file})
		require.Error(t, err)
	}
}

func sorted(list []string) []string {
	if len(list) == 2 && strings.HasPrefix(list[0], "fixed") {
		list[0], list[1] = list[1], list[0]
	}
	return list
}

func TestStandingUpdateGoesOn(t *testing.T) {
	s := newStand(t, StandingOptions{})
	w := s.create(WatchSpec{Name: "parcel", Hold: -1, Cooldown: -1})
	s.show(1)
	require.Len(t, s.told(), 1)
	w.Spec.Cooldown = time.Hour
	_, err := s.standing.Update(t.Context(), w.ID, w.Spec)
	require.NoError(t, err)
	s.show(1)
	require.Empty(t, s.told(), "it fired already")
	w.Spec.Ask = "Is there a van?"
	_, err = s.standing.Update(t.Context(), w.ID, w.Spec)
	require.NoError(t, err)
	s.show(1)
	require.Equal(t, []string{"parcel fired 2"}, s.told(), "it is another question")
	w.Spec.Paused = true
	_, err = s.standing.Update(t.Context(), w.ID, w.Spec)
	require.NoError(t, err)
	n := len(s.model.asked)
	s.show(0)
	require.Len(t, s.model.asked, n)
}

// TestStandingNeverSlowsWatching has the model hang: pictures go on being added, and questions being listed and removed; a slow subscriber loses the
// oldest events only.
func TestStandingNeverSlowsWatching(t *testing.T) {
	s := newStand(t, StandingOptions{Rest: 1e-9})
	s.standing.Detach("street")
	s.model.hold = make(chan struct{})
	s.standing.Attach("street", s.session)
	w := s.create(WatchSpec{Name: "parcel", Hold: -1, Cooldown: -1, Every: 100 * time.Millisecond, Threshold: .6, Hysteresis: .1})
	s.round = func(context.Context) error { return nil }
	begin := time.Now()
	for range 200 {
		s.show(1)
	}
	require.Less(t, time.Since(begin), 20*time.Second)
	require.Len(t, s.standing.List(), 1)
	require.Eventually(t, func() bool { s.model.mu.Lock(); defer s.model.mu.Unlock(); return s.model.active == 1 }, 10*time.Second, time.Millisecond)
	close(s.model.hold)
	require.Eventually(t, func() bool {
		i, err := s.standing.Get(w.ID)
		return err == nil && i.Checked.Equal(epoch.Add(199*time.Second))
	}, 10*time.Second, time.Millisecond)
	info, err := s.standing.Get(w.ID)
	require.NoError(t, err)
	require.LessOrEqual(t, info.Cost.Checks, uint64(3), "it takes the newest")
}

func TestStandingTogether(t *testing.T) {
	s := newStand(t, StandingOptions{})
	for i := range 40 {
		s.create(WatchSpec{Name: fmt.Sprint("w", i), Hold: -1})
	}
	s.model.hold = make(chan struct{})
	go func() {
		s.model.hold <- struct{}{} // the first, which is alone
		for open := true; open; time.Sleep(time.Millisecond) {
			s.model.mu.Lock()
			open = s.model.active < checksTogether
			s.model.mu.Unlock()
		}
		close(s.model.hold)
	}()
	s.show(1)
	require.Len(t, s.told(), 40)
	require.Equal(t, checksTogether, s.model.most)
}

func TestBacktest(t *testing.T) {
	for _, disk := range []bool{false, true} {
		t.Run(fmt.Sprint("disk ", disk), func(t *testing.T) {
			s := newStand(t, StandingOptions{})
			if disk { // the bank keeps little of it
				store, err := memorybank.OpenStore(t.TempDir(), memorybank.StoreOptions{Strategy: memorybank.Recent{N: 4}, Epoch: epoch, Wait: true})
				require.NoError(t, err)
				defer store.Close()
				s.bank = store.Bank()
				s.session = NewSession(s.bank, Shared(s.model, 1), s.watched, s.standing.o.Now)
				s.round = s.standing.AttachManually("street", s.session)
			}
			spec := WatchSpec{Stream: "street", Ask: "Is there a parcel?", Hold: 2 * time.Second, Cooldown: 20 * time.Second}
			live := s.create(spec)
			for i := range 120 {
				if i == 70 {
					s.at += 60 // nobody watched
				}
				p := .05
				if i%40 >= 20 && i%40 < 30 {
					p = .95
				}
				s.show(p)
			}
			var want []string
			for len(s.events) > 0 {
				e := <-s.events
				want = append(want, fmt.Sprintf("%s %.0f", e.Kind, e.At.Sub(epoch).Seconds()))
			}
			s.model.asked = nil
			last := 0
			b, err := s.standing.Backtest(t.Context(), spec, time.Time{}, time.Time{}, func(done, total int) {
				require.LessOrEqual(t, done, total)
				last = done
			})
			require.NoError(t, err)
			var have []string
			for _, e := range b.Events {
				have = append(have, fmt.Sprintf("%s %.0f", e.Kind, e.At.Sub(epoch).Seconds()))
				require.Equal(t, fmt.Sprintf("thumb %.0f", e.At.Sub(epoch).Seconds()), string(e.Evidence.Items[0].Thumb))
			}
			require.Equal(t, want, have, "the past fires as the present did")
			require.Equal(t, 3, b.Firings)
			require.Equal(t, 120, b.Checks)
			require.Equal(t, 120, len(b.Samples))
			require.Len(t, b.Gaps, 1)
			require.Zero(t, b.Coarse)
			require.Equal(t, time.Second, b.Sparse)
			require.Positive(t, last)
			require.Equal(t, "It would have fired 3 times from 14:00:00 to 14:02:59: at 14:00:22, 14:01:02, 14:02:42.", b.Sentence())

			b, err = s.standing.Backtest(t.Context(), live.Spec, epoch.Add(50*time.Second), epoch.Add(66*time.Second))
			require.NoError(t, err)
			require.Equal(t, 1, b.Firings)
			require.Equal(t, 16, b.Checks)
			_, err = s.standing.Backtest(t.Context(), spec, epoch.Add(time.Hour), epoch.Add(2*time.Hour))
			require.ErrorIs(t, err, ErrBacktest)
			spec.Look = LookMemory
			_, err = s.standing.Backtest(t.Context(), spec, time.Time{}, time.Time{})
			require.ErrorIs(t, err, ErrBacktest)
			spec.Look = LookNow
			ctx, cancel := context.WithCancel(t.Context())
			_, err = s.standing.Backtest(ctx, spec, time.Time{}, time.Time{}, func(done, total int) { cancel() })
			require.ErrorIs(t, err, context.Canceled)
			spec.Stream = "nowhere"
			_, err = s.standing.Backtest(t.Context(), spec, time.Time{}, time.Time{})
			require.ErrorIs(t, err, ErrNoStream)
		})
	}
}
