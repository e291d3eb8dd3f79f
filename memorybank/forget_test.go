package memorybank

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// Marked frames have a value where all others have 0, so every average that one of them is in has something there; and a thumbnail that no
// other has.
const mark = 1000

var markThumb = []byte("THE MARKED PICTURE")

type marking struct {
	*walk
	from, to int
}

func newMarking(from, to int) *marking {
	m := &marking{newWalk(9), from, to}
	m.dim = 9
	m.rows = make([]float32, 8*9)
	return m
}

func (m *marking) next() Entry {
	n := m.n
	e := m.walk.next()
	marked := n >= m.from && n < m.to
	for r := range e.Tokens.Rows {
		row := e.Tokens.Row(r)
		row[8] = 0
		if marked {
			row[8] = mark
		}
	}
	if marked {
		e.Thumb = markThumb
	}
	return e
}

// marked says where in an entry the mark is; "" for nowhere.
func marked(e *Entry) string {
	rows := func(m compute.Matrix) bool {
		for r := range m.Rows {
			if m.Row(r)[8] != 0 {
				return true
			}
		}
		return false
	}
	switch v := e.Indicator.Vector(); {
	case rows(e.Tokens):
		return "rows"
	case len(v) > 8 && v[8] != 0:
		return "indicator"
	case bytes.Contains(e.Thumb, markThumb):
		return "thumbnail"
	case e.exemplar == nil:
		return ""
	case rows(e.exemplar.own):
		return "exemplar's own"
	default:
		return marked(&e.exemplar.frame)
	}
}

func requireUnmarked(t *testing.T, entries []Entry) {
	t.Helper()
	for i := range entries {
		require.Empty(t, marked(&entries[i]), "entry %d of %d, %s to %s", i, len(entries), entries[i].Start, entries[i].End)
	}
}

// patterns are the mark as files spell it.
func patterns() [][]byte {
	f32 := binary.LittleEndian.AppendUint32(nil, math.Float32bits(mark))
	return [][]byte{f32, markThumb}
}

func requireNowhere(t *testing.T, what string, raw []byte) {
	t.Helper()
	for _, p := range patterns() {
		require.False(t, bytes.Contains(raw, p), "%s holds %q", what, p)
	}
}

func requireUnmarkedStore(t *testing.T, s *Store) {
	t.Helper()
	require.NoError(t, s.do(t.Context(), func() {
		for _, f := range s.files {
			entries, err := s.load(f)
			require.NoError(t, err)
			for _, c := range entries {
				e := c.entry(f.exact())
				require.Empty(t, marked(&e), "%s", f.name)
			}
		}
	}))
	list, err := os.ReadDir(s.dir)
	require.NoError(t, err)
	for _, e := range list {
		require.NotEqual(t, intentName, e.Name())
		raw, err := os.ReadFile(filepath.Join(s.dir, e.Name()))
		require.NoError(t, err)
		requireNowhere(t, e.Name(), raw)
	}
}

// recurrent is a strategy whose every entry has something of all before it, as a propagated memory has.
type recurrent struct{ N int }

func (r recurrent) carries() bool { return true }

func (r recurrent) Update(old []Entry, e Entry) []Entry {
	e.ID += pooledID
	if n := len(old); n > 0 {
		e.Tokens = mean(old[n-1].Tokens, 1, e.Tokens, 1)
		e.Indicator = mixIndicators(old[n-1].Indicator, 1, e.Indicator, 1)
	}
	return Recent(r).Update(old, e)
}

func (r recurrent) Select(s *Snapshot, _ []float32, budget int) []Entry {
	return Recent(r).Select(s, nil, budget)
}

// linear is a fakeEncoder whose bridge adds half of the memory before to the frames: nothing comes of nothing.
type linear struct{ fakeEncoder }

func (linear) Segment(past, frames []compute.Matrix) (compute.Matrix, []compute.Matrix, error) {
	memory, rows := meanRows(frames), make([]compute.Matrix, len(frames))
	for i, f := range frames {
		rows[i] = compute.Matrix{Rows: f.Rows, Cols: f.Cols, Data: slices.Clone(f.Data)}
	}
	if len(past) > 0 {
		memory = halfOf(memory, past[len(past)-1])
		rows[0] = halfOf(rows[0], past[len(past)-1])
	}
	return memory, rows, nil
}

// After Forget no tier, no merge and no file holds anything of the stretch; the rest is there, and goes on.
func TestForget(t *testing.T) {
	const frames = 320
	for _, strategy := range []Strategy{
		Flash{}, Flash{Synopsis: 5, Detail: 2}, Flash{Synopsis: 1}, Flash{Synopsis: 6, Detail: 3, Compat: true}, Recent{N: 4}, Uniform{N: 4}, Reservoir{N: 5, Seed: 3},
		Pyramid{Capacity: [3]int{2, 3, 4}, Every: [3]int{3, 2, 1}, Evict: Evenly}, Pyramid{Capacity: [3]int{2, 2, 3}, Compat: true},
		Forest{Events: 5, Segment: Dips{Frames: 4, Within: 3}}, Star{Temporal: 4, Abstract: 3, Retrieved: 2}, Star{Temporal: 4, Abstract: 3, Rate: 1, Compat: true},
		Composite{Past: 6, Unit: 4}, Composite{}, recurrent{N: 40}, Propagated{Encoder: fakeEncoder{}, Frames: 4, Clips: 5},
		Bridge{Encoder: linear{}, Segmenter: Clips{N: 5}, Segments: 5},
	} {
		for _, c := range []struct {
			name     string
			from, to int // marked
			entries  int // budget on disk: thinned or not
		}{
			{"old", 100, 160, 0}, {"old and thinned", 100, 160, 80}, {"the newest", 290, frames, 0}, {"the newest clip", frames - 3, frames, 0},
			{"the first", 0, 37, 0}, {"one frame", 273, 274, 0}, {"all", 0, frames, 80}, {"most", 10, frames - 10, 80},
		} {
			if testing.Short() && !slices.Contains([]string{"old", "old and thinned", "the newest", "all"}, c.name) {
				continue
			}
			t.Run(fmt.Sprintf("%#v %s", strategy, c.name), func(t *testing.T) {
				dir := t.TempDir()
				o := storeOptions(t, strategy)
				o.Entries = c.entries
				s, w := openStore(t, dir, o), newMarking(c.from, c.to)
				for i := range frames {
					s.Bank().Add(w.next())
					if i == c.to+1 {
						require.NoError(t, s.Sync(t.Context()), "a checkpoint with the mark")
					}
				}
				require.NoError(t, os.WriteFile(filepath.Join(dir, "broken"+asideSuffix), markThumb, 0o600))
				require.NoError(t, s.do(t.Context(), func() {
					s.asides = append(s.asides, "broken"+asideSuffix)
					s.account("broken"+asideSuffix, int64(len(markThumb)))
				}))
				var before []*os.File // what was there before, to look at what becomes of its bytes
				require.NoError(t, s.do(t.Context(), func() {
					list, err := os.ReadDir(dir)
					require.NoError(t, err)
					for _, e := range list {
						f, err := os.Open(filepath.Join(dir, e.Name()))
						require.NoError(t, err)
						before = append(before, f)
					}
				}))
				defer func() {
					for _, f := range before {
						f.Close()
					}
				}()
				old := s.Bank().Snapshot()
				from, to := time.Duration(c.from)*time.Second, time.Duration(c.to)*time.Second
				did, err := s.Bank().Forget(t.Context(), from, to)
				require.NoError(t, err)
				require.Positive(t, did.Cold)
				snap := s.Bank().Snapshot()
				require.Greater(t, snap.Version, old.Version)
				requireUnmarked(t, snap.Entries)
				requireUnmarked(t, []Entry{snap.Newest})
				requireUnmarked(t, snap.Select(nil, 0))
				part, err := snap.Recall(t.Context(), 0, snap.Now+1, nil, 1<<20)
				require.NoError(t, err)
				if part != nil {
					requireUnmarked(t, part.Entries)
				}
				if inside, err := snap.Recall(t.Context(), from+reach, to-reach, nil, 1<<20); c.to-c.from > 4 {
					require.NoError(t, err)
					require.Nil(t, inside, "nothing of the stretch is known")
				}
				requireUnmarkedStore(t, s)
				for _, f := range before {
					raw, err := io.ReadAll(f)
					require.NoError(t, err)
					requireNowhere(t, "what was "+f.Name(), raw)
				}
				spans, err := s.Watched(t.Context())
				require.NoError(t, err)
				for _, sp := range spans {
					require.True(t, sp.To < from || sp.From >= to)
				}
				left := 0
				require.NoError(t, s.do(t.Context(), func() { left = s.entries() }))
				if c.to-c.from < frames {
					require.Positive(t, left)
				}

				// It goes on, over a crash too.
				for range 100 {
					s.Bank().Add(w.next())
				}
				require.NoError(t, s.do(t.Context(), s.flush))
				hash := s.Bank().Snapshot().Hash()
				var copied string
				require.NoError(t, s.do(t.Context(), func() { copied = crash(t, dir) }))
				back := openStore(t, copied, o)
				require.Equal(t, hash, back.Bank().Snapshot().Hash())
				requireUnmarked(t, back.Bank().Snapshot().Entries)
				ids := map[uint64]bool{}
				for _, e := range back.Bank().Snapshot().Entries {
					require.False(t, ids[e.ID])
					ids[e.ID] = true
				}
				fresh := map[uint64]string{}
				for i := range old.Entries {
					fresh[old.Entries[i].ID] = old.Entries[i].hash()
				}
				for i := range snap.Entries {
					if h, ok := fresh[snap.Entries[i].ID]; ok {
						require.Equal(t, h, snap.Entries[i].hash(), "an ID that meant something else")
					}
				}
			})
		}
	}
}

// What lies on both sides of the stretch is made again of the frames on disk, exactly as averages of those.
func TestForgetRebuilds(t *testing.T) {
	s, w := openStore(t, t.TempDir(), storeOptions(t, Flash{Synopsis: 2, Detail: 1})), newMarking(50, 60)
	var frames []Entry
	for range 100 {
		frames = append(frames, w.next())
		s.Bank().Add(frames[len(frames)-1])
	}
	before := s.Bank().Snapshot()
	did, err := s.Bank().Forget(t.Context(), 50*time.Second, 60*time.Second)
	require.NoError(t, err)
	require.Positive(t, did.Rebuilt)
	weight := float32(0)
	for _, e := range s.Bank().Snapshot().Entries {
		weight += e.Weight
		sum := compute.NewMatrix(2, 9)
		n := 0
		for i, f := range frames {
			if at := time.Duration(i) * time.Second; at >= e.Start && at <= e.End {
				_, p := pool2x2(f.Grid, f.Tokens)
				for j, v := range p.Data {
					sum.Data[j] += v
				}
				n++
			}
		}
		require.EqualValues(t, n, e.Weight)
		for j, v := range e.Tokens.Data {
			require.InDelta(t, sum.Data[j]/float32(n), v, 1e-4)
		}
	}
	require.Greater(t, weight, float32(30), "of %v", before.Entries[0].Weight)
}

// A crash in the middle of forgetting does not undo it.
func TestForgetIsFinishedAfterACrash(t *testing.T) {
	dir := t.TempDir()
	o := storeOptions(t, Flash{Synopsis: 5, Detail: 2})
	s, w := openStore(t, dir, o), newMarking(50, 150)
	for range 200 {
		s.Bank().Add(w.next())
	}
	require.NoError(t, s.Sync(t.Context()))
	text, err := json.Marshal(Stretch{50 * time.Second, 150 * time.Second})
	require.NoError(t, err)
	left := crash(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(left, intentName), text, 0o600))
	back := openStore(t, left, o)
	requireUnmarked(t, back.Bank().Snapshot().Entries)
	requireUnmarkedStore(t, back)
	// One that was torn is an error that says what to do: nobody knows what was to be forgotten.
	left = crash(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(left, intentName), text[:5], 0o600))
	_, err = OpenStore(left, o)
	require.ErrorContains(t, err, "forget the stretch again and remove this file")
}

func TestForgetWithoutAStore(t *testing.T) {
	for _, strategy := range append(strategies(), recurrent{N: 10}) {
		b, w := New(storeEpoch, strategy), newMarking(80, 90)
		for range 100 {
			b.Add(w.next())
		}
		did, err := b.Forget(t.Context(), 80*time.Second, 90*time.Second)
		require.NoError(t, err)
		requireUnmarked(t, b.Snapshot().Entries)
		require.Zero(t, did.Rebuilt)
		_, err = b.Forget(t.Context(), time.Second, time.Second)
		require.ErrorContains(t, err, "is no stretch of time")
		for range 100 {
			b.Add(w.next())
		}
		requireUnmarked(t, b.Snapshot().Entries)
	}
}

// A store that is opened without a strategy forgets too.
func TestForgetOffline(t *testing.T) {
	for _, strategy := range append(strategies(), recurrent{N: 30}) {
		dir := t.TempDir()
		o := storeOptions(t, strategy)
		s, w := openStore(t, dir, o), newMarking(150, 180)
		for i := range 300 {
			s.Bank().Add(w.next())
			if i == 200 {
				require.NoError(t, s.Sync(t.Context()))
			}
		}
		require.NoError(t, s.do(t.Context(), s.flush))
		left := crash(t, dir)
		bare := o
		bare.Strategy, bare.Epoch = nil, time.Time{}
		off := openStore(t, left, bare)
		_, err := off.Bank().Forget(t.Context(), 150*time.Second, 180*time.Second)
		require.NoError(t, err)
		requireUnmarkedStore(t, off)
		require.NoError(t, off.Close())
		back := openStore(t, left, o)
		requireUnmarked(t, back.Bank().Snapshot().Entries)
		requireUnmarkedStore(t, back)
		snap := back.Bank().Snapshot()
		require.EqualValues(t, 300, snap.Version, "what came after the checkpoint was added again")
		require.Equal(t, 299*time.Second, snap.Now)
	}
}

func TestWatchedCut(t *testing.T) {
	w := watched{gap: 3}
	for _, at := range []time.Duration{0, 1, 2, 3, 10, 11, 12, 20} {
		w.mark(at)
	}
	require.Equal(t, []Stretch{{0, 3}, {10, 12}, {20, 20}}, w.spans)
	w.cut(2, 11)
	require.Equal(t, []Stretch{{0, 1}, {11, 12}, {20, 20}}, w.spans)
	w.cut(20, 21)
	require.Equal(t, []Stretch{{0, 1}, {11, 12}}, w.spans)
	full := watched{gap: 1}
	for i := range maxStretches + 10 {
		full.mark(time.Duration(10 * i))
	}
	require.Len(t, full.spans, maxStretches)
	require.True(t, slices.IsSortedFunc(full.spans, func(a, b Stretch) int { return int(a.From - b.From) }))
}

// Forgetting goes on beside a writer that waits for the disk, and a frame on its way there is not written any more.
func TestForgetWhileAdding(t *testing.T) {
	s, w := openStore(t, t.TempDir(), storeOptions(t, Flash{Synopsis: 5, Detail: 2})), newMarking(0, 0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				s.Bank().Add(w.next())
			}
		}
	}()
	for range 20 {
		for s.Bank().Snapshot().Version < 100 {
			time.Sleep(time.Millisecond)
		}
		to := s.Bank().Snapshot().Now + 1
		_, err := s.Bank().Forget(t.Context(), to-20*time.Second, to)
		require.NoError(t, err)
		require.Empty(t, s.find(s.Bank().Snapshot(), to-20*time.Second, to, nil), "nothing on disk or on its way there")
	}
	close(stop)
	<-done
}
