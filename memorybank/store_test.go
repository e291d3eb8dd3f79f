package memorybank

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"afterimage/internal/compute"

	"github.com/maruel/safetensors"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

var storeEpoch = time.Date(2026, 7, 1, 12, 0, 0, 5e6, berlin())

func berlin() *time.Location {
	l, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		panic(err)
	}
	return l
}

// walk is a made-up stream whose rows wander; the same seed gives the same frames.
type walk struct {
	r    *rand.Rand
	rows []float32
	n    int
	fps  float64
	grid Grid
	dim  int
}

func newWalk(seed uint64) *walk {
	w := &walk{r: rand.New(rand.NewPCG(seed, 1)), fps: 1, grid: Grid{2, 4}, dim: 8}
	w.rows = make([]float32, w.grid.H*w.grid.W*w.dim)
	return w
}

func (w *walk) next() Entry {
	for i := range w.rows {
		w.rows[i] += 0.1 * float32(w.r.NormFloat64())
	}
	m := compute.NewMatrix(w.grid.H*w.grid.W, w.dim)
	copy(m.Data, w.rows)
	e := Entry{At: time.Duration(float64(w.n) / w.fps * 1e9), Grid: w.grid, Tokens: m}
	if w.n%3 > 0 {
		e.Thumb = bytes.Repeat([]byte{byte(w.n), byte(w.n >> 8)}, 40)
	}
	w.n++
	return e
}

func storeOptions(t testing.TB, s Strategy) StoreOptions {
	return StoreOptions{Origin: origin, Strategy: s, Epoch: storeEpoch, Every: time.Hour, Wait: true, NoSync: true,
		Warn: func(err error) { t.Errorf("warned: %v", err) }}
}

func openStore(t testing.TB, dir string, o StoreOptions) *Store {
	t.Helper()
	s, err := OpenStore(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// crash copies a store's directory as it lies there: what a process that ends now leaves behind.
func crash(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(to, "x"), os.DirFS(dir)))
	return filepath.Join(to, "x")
}

func dirBytes(dir string) (total int64) {
	list, _ := os.ReadDir(dir)
	for _, e := range list {
		if info, err := e.Info(); err == nil {
			total += info.Size()
		}
	}
	return total
}

func strategies() []Strategy {
	return []Strategy{Flash{Synopsis: 5, Detail: 2}, Recent{N: 4}, Composite{Past: 6, Unit: 4}}
}

// The bank of a store that was closed, or whose process ended, goes on as if nothing had happened: same rows, IDs, choices.
func TestStoreGoesOn(t *testing.T) {
	for _, strategy := range strategies() {
		for _, n := range []int{0, 1, 7, 8, 9, 100} {
			t.Run(fmt.Sprintf("%T %d", strategy, n), func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "a", "b")
				o := storeOptions(t, strategy)
				s := openStore(t, dir, o)
				whole, w := New(storeEpoch, strategy), newWalk(1)
				for range n {
					e := w.next()
					whole.Add(e)
					s.Bank().Add(e)
				}
				require.Equal(t, whole.Snapshot().Hash(), s.Bank().Snapshot().Hash())
				require.NoError(t, s.do(t.Context(), s.flush))
				left := crash(t, dir) // never a checkpoint: all is replayed
				require.NoError(t, s.Close())
				require.NoError(t, s.Close())
				for _, d := range []string{dir, left} {
					back := openStore(t, d, o)
					require.Equal(t, whole.Snapshot().Hash(), back.Bank().Snapshot().Hash())
					require.Equal(t, storeEpoch.String(), back.Bank().Snapshot().Epoch.String())
					again, on := New(storeEpoch, strategy), newWalk(1)
					for range n + 20 {
						again.Add(on.next())
					}
					on = newWalk(1)
					for range n {
						on.next()
					}
					for range 20 {
						back.Bank().Add(on.next())
					}
					require.Equal(t, again.Snapshot().Hash(), back.Bank().Snapshot().Hash())
					require.Equal(t, again.Snapshot().Select(nil, 30), back.Bank().Snapshot().Select(nil, 30))
				}
			})
		}
	}
}

// A crash between checkpoints loses a clip at most, and what is back is the bank of that moment.
func TestStoreReplaysAfterCheckpoint(t *testing.T) {
	for _, strategy := range strategies() {
		dir := t.TempDir()
		o := storeOptions(t, strategy)
		s := openStore(t, dir, o)
		w := newWalk(2)
		var hashes []string
		for i := range 300 {
			s.Bank().Add(w.next())
			hashes = append(hashes, s.Bank().Snapshot().Hash())
			if i%97 == 50 {
				require.NoError(t, s.Sync(t.Context()))
			}
			if i%29 == 0 {
				var left string
				require.NoError(t, s.do(t.Context(), func() { left = crash(t, dir) }))
				back := openStore(t, left, o)
				n := int(back.Bank().Snapshot().Version)
				require.LessOrEqual(t, i+1-n, 16)
				if n > 0 {
					require.Equal(t, hashes[n-1], back.Bank().Snapshot().Hash())
				}
				require.NoError(t, back.Close())
			}
		}
	}
}

// Whatever comes, the directory never takes more than its budget, replay works, and the past is covered back to the beginning.
func TestStoreStaysWithinItsBudget(t *testing.T) {
	const budget = MinBudget
	dir := t.TempDir()
	o := storeOptions(t, Flash{Synopsis: 5, Detail: 2})
	o.Budget = budget
	s := openStore(t, dir, o)
	var most atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				most.Store(max(most.Load(), dirBytes(dir)))
			}
		}
	}()
	w := newWalk(3)
	frames := 40_000
	if testing.Short() {
		frames = 8_000
	}
	for i := range frames {
		s.Bank().Add(w.next())
		if i%1000 == 0 {
			require.NoError(t, s.do(t.Context(), func() {
				require.LessOrEqual(t, s.used, int64(budget))
				require.Equal(t, dirBytes(dir), s.used, "the store knows what it takes")
			}))
		}
	}
	require.NoError(t, s.Sync(t.Context()))
	close(stop)
	<-done
	require.LessOrEqual(t, most.Load(), int64(budget))
	require.Greater(t, most.Load(), int64(budget/2), "and it is used")
	hash := s.Bank().Snapshot().Hash()
	st := s.Stats()
	require.Zero(t, st.Dropped)
	require.Zero(t, st.Lost)
	require.Zero(t, st.Oldest.From, "back to the beginning")
	// What is twice as old is kept about half as fine: the widest hole in each tenth of the past grows towards it.
	now := s.Bank().Snapshot().Now
	for _, f := range s.files {
		for i, it := range f.items {
			age := now - it.start
			require.LessOrEqual(t, it.end-it.start, time.Minute+age/20, "entry %d of %s at age %s", i, f.name, age)
		}
	}
	require.NoError(t, s.Close())
	back := openStore(t, dir, o)
	require.Equal(t, hash, back.Bank().Snapshot().Hash())
	var weight float64
	for _, f := range back.files {
		for _, it := range f.items {
			weight += float64(it.weight)
		}
	}
	require.EqualValues(t, frames, weight, "every frame is stood for")
}

// The number of entries is bounded as the bytes are, and so is the number of files.
func TestStoreStaysWithinItsEntries(t *testing.T) {
	o := storeOptions(t, Recent{N: 4})
	o.Entries = 500
	s := openStore(t, t.TempDir(), o)
	w := newWalk(4)
	for range 5000 {
		s.Bank().Add(w.next())
	}
	require.NoError(t, s.Sync(t.Context()))
	st := s.Stats()
	require.LessOrEqual(t, st.Entries, 500)
	require.Greater(t, st.Entries, 200)
	require.Zero(t, st.Oldest.From)
}

// An old span keeps about an entry an hour, however little room there is; then the oldest go, and what is new stays fine.
func TestStoreKeepsAnEntryAnHour(t *testing.T) {
	for entries, oldest := range map[int]time.Duration{300: 0, 100: 6 * 24 * time.Hour} {
		o := storeOptions(t, Recent{N: 4})
		o.Entries = entries
		s := openStore(t, t.TempDir(), o)
		w := newWalk(5)
		w.fps = 1.0 / 60
		for range 7 * 24 * 60 {
			s.Bank().Add(w.next())
		}
		require.NoError(t, s.Sync(t.Context()))
		st := s.Stats()
		require.LessOrEqual(t, st.Oldest.From, oldest)
		end := st.Oldest.From
		for _, f := range s.files {
			for _, it := range f.items {
				require.LessOrEqual(t, it.end-it.start, longestSpan)
				require.LessOrEqual(t, it.start-end, longestHole)
				end = it.end
			}
		}
		require.LessOrEqual(t, s.files[len(s.files)-1].Stage, stageBF16)
		t.Logf("%d entries: from %s", entries, st.Oldest.From)
	}
}

func TestStoreIsLocked(t *testing.T) {
	dir := t.TempDir()
	o := storeOptions(t, Recent{})
	s := openStore(t, dir, o)
	_, err := OpenStore(dir, o)
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorContains(t, err, fmt.Sprintf("by process %d", os.Getpid()))
	require.NoError(t, s.Close())
	openStore(t, dir, o)
}

func TestStoreRefuses(t *testing.T) {
	dir := t.TempDir()
	o := storeOptions(t, Recent{})
	s := openStore(t, dir, o)
	s.Bank().Add(newWalk(1).next())
	require.NoError(t, s.Close())
	for _, c := range []struct {
		change func(*StoreOptions)
		want   string
	}{
		{func(o *StoreOptions) { o.Origin.Encoder = "e2" }, `it was made with encoder "e1", this is "e2"; move it away`},
		{func(o *StoreOptions) { o.Origin.Config = "c2" }, `it was made with configuration "c1", this is "c2"`},
		{func(o *StoreOptions) { o.Budget = 17 }, `a budget of 17 bytes`},
	} {
		p := o
		c.change(&p)
		_, err := OpenStore(dir, p)
		require.ErrorContains(t, err, c.want)
	}
	other := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(other, "thesis.doc"), nil, 0o600))
	_, err := OpenStore(other, o)
	require.ErrorContains(t, err, "not a memory's directory: it has thesis.doc")
	o.Epoch = time.Time{}
	_, err = OpenStore(t.TempDir(), o)
	require.ErrorIs(t, err, fs.ErrNotExist)
	manifest := filepath.Join(dir, manifestName)
	raw, err := os.ReadFile(manifest)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(manifest, bytes.Replace(raw, []byte(`"version":2`), []byte(`"version":9`), 1), 0o600))
	_, err = OpenStore(dir, o)
	require.ErrorContains(t, err, "format version 9, this program reads 2")
}

// Files that are torn, broken or somebody else's are set aside, and the rest is used.
func TestStoreSetsAside(t *testing.T) {
	make_ := func(t *testing.T, dir string, epoch time.Time) {
		o := storeOptions(t, Flash{Synopsis: 5, Detail: 2})
		o.Epoch = epoch
		s, w := openStore(t, dir, o), newWalk(1)
		for range 64 {
			s.Bank().Add(w.next())
		}
		require.NoError(t, s.Close())
	}
	whole := t.TempDir()
	make_(t, whole, storeEpoch)
	segments := func(dir string) []string {
		list, err := filepath.Glob(filepath.Join(dir, "0*"+segmentSuffix))
		require.NoError(t, err)
		return list
	}
	// On a busy machine a segment may be written before it is full.
	var from, to int
	_, err := fmt.Sscanf(filepath.Base(segments(whole)[1]), "%x-%x-", &from, &to)
	require.NoError(t, err)
	second := to - from + 1
	for name, c := range map[string]struct {
		change func(t *testing.T, dir string)
		want   string // "" is silence
		lost   int    // frames on disk
	}{
		"torn":  {func(t *testing.T, dir string) { require.NoError(t, os.Truncate(segments(dir)[1], 1500)) }, "bytes where its header says", second},
		"empty": {func(t *testing.T, dir string) { require.NoError(t, os.Truncate(segments(dir)[1], 0)) }, "too short", second},
		"a bit": {func(t *testing.T, dir string) {
			raw, err := os.ReadFile(segments(dir)[1])
			require.NoError(t, err)
			raw[len(raw)*5/6/4] ^= 4
			require.NoError(t, os.WriteFile(segments(dir)[1], raw, 0o600))
		}, "is set aside", second},
		"another memory's": {func(t *testing.T, dir string) {
			other := t.TempDir()
			make_(t, other, storeEpoch.Add(time.Hour))
			raw, err := os.ReadFile(segments(other)[1])
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(segments(dir)[1], raw, 0o600))
		}, "another memory's, that began at", second},
		"another name": {func(t *testing.T, dir string) {
			require.NoError(t, os.Rename(segments(dir)[1], filepath.Join(dir, "0000.safetensors")))
		}, "its name should be", second},
		"checkpoint torn": {func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, checkpointName), 300))
		}, checkpointName + " is set aside", 0},
		"checkpoint gone": {func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, checkpointName))) }, "", 0},
		"a write that ended": {func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, tempPrefix+"x"), []byte("half"), 0o600))
		}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := crash(t, whole)
			c.change(t, dir)
			var warned []error
			o := storeOptions(t, Flash{Synopsis: 5, Detail: 2})
			o.Warn = func(err error) { warned = append(warned, err) }
			s := openStore(t, dir, o)
			if c.want == "" {
				require.Empty(t, warned)
			} else {
				require.Len(t, warned, 1)
				require.ErrorContains(t, warned[0], c.want)
				list, err := filepath.Glob(filepath.Join(dir, "*"+asideSuffix))
				require.NoError(t, err)
				require.Len(t, list, 1)
			}
			require.Equal(t, 64-c.lost, s.Stats().Entries)
			require.EqualValues(t, 64, s.Bank().Snapshot().Version)
			list, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
			require.NoError(t, err)
			require.Empty(t, list)
			s.Bank().Add(Entry{At: time.Hour, Grid: Grid{2, 4}, Tokens: compute.NewMatrix(8, 8)})
			require.NoError(t, s.Sync(t.Context()))
			require.Equal(t, 65-c.lost, s.Stats().Entries)
		})
	}
}

// Another strategy starts from the frames that are on disk.
func TestStoreChangesStrategy(t *testing.T) {
	dir := t.TempDir()
	s, w := openStore(t, dir, storeOptions(t, Flash{Synopsis: 5, Detail: 2})), newWalk(1)
	for range 50 {
		s.Bank().Add(w.next())
	}
	require.NoError(t, s.Close())
	o := storeOptions(t, Composite{Past: 20, Unit: 4})
	var warned error
	o.Warn = func(err error) { warned = errors.Join(warned, err) }
	back := openStore(t, dir, o)
	require.ErrorContains(t, warned, "it was made with strategy")
	want, w := New(storeEpoch, o.Strategy), newWalk(1)
	for range 50 {
		want.Add(w.next())
	}
	require.Equal(t, want.Snapshot().Hash(), back.Bank().Snapshot().Hash())
}

// A segment is a safetensors file that others can read.
func TestSegmentIsSafetensors(t *testing.T) {
	dir := t.TempDir()
	o := storeOptions(t, Recent{})
	o.Clip = time.Hour // one segment, however slow the machine is
	s, w := openStore(t, dir, o), newWalk(1)
	first := w.next()
	s.Bank().Add(first)
	for range 7 {
		s.Bank().Add(w.next())
	}
	require.NoError(t, s.Close())
	list, err := filepath.Glob(filepath.Join(dir, "0*"+segmentSuffix))
	require.NoError(t, err)
	require.Len(t, list, 1)
	raw, err := os.ReadFile(list[0])
	require.NoError(t, err)
	f, err := safetensors.Parse(raw)
	require.NoError(t, err)
	var names []string
	for _, tensor := range f.Tensors {
		names = append(names, fmt.Sprint(tensor.Name, " ", tensor.DType, " ", tensor.Shape))
	}
	slices.Sort(names)
	require.Equal(t, []string{"averaged U32 [8]", "frames U64 [8]", "indicators U8 [8 8]", "rows F32 [8 8 8]", "sums U32 [8]", "thumb_sizes U32 [8]",
		"thumbs U8 [400]", "times I64 [8 3]", "weights F32 [8]"}, names)
}

func TestStoreLeavesFramesOutWhereTheDiskIsSlow(t *testing.T) {
	o := storeOptions(t, Recent{N: 4})
	o.Wait = false
	dir := t.TempDir()
	s, w := openStore(t, dir, o), newWalk(1)
	hold, held := make(chan struct{}), make(chan struct{})
	go s.do(t.Context(), func() { close(held); <-hold })
	<-held
	for range 200 {
		s.Bank().Add(w.next()) // does not wait
	}
	close(hold)
	require.NoError(t, s.Sync(t.Context()))
	require.EqualValues(t, 200-mostParts*s.half(), s.Stats().Dropped)
	require.Equal(t, mostParts*s.half(), s.Stats().Entries)
	hash := s.Bank().Snapshot().Hash()
	require.NoError(t, s.Close())
	require.Equal(t, hash, openStore(t, dir, o).Bank().Snapshot().Hash(), "the checkpoint has them all")
}

func TestStoreWatched(t *testing.T) {
	dir := t.TempDir()
	o := storeOptions(t, Recent{N: 4})
	s, w := openStore(t, dir, o), newWalk(1)
	for range 100 {
		e := w.next()
		if s := int(e.At.Seconds()); s >= 40 && s < 60 {
			continue
		}
		s.Bank().Add(e)
	}
	want := []Stretch{{0, 39 * time.Second}, {60 * time.Second, 99 * time.Second}}
	got, err := s.Watched(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, got)
	left := crash(t, dir)
	require.NoError(t, s.Close())
	for _, d := range []string{dir, left} {
		got, err = openStore(t, d, o).Watched(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestRecall(t *testing.T) {
	dir := t.TempDir()
	s, w := openStore(t, dir, storeOptions(t, Flash{Synopsis: 5, Detail: 2})), newWalk(1)
	var frames []Entry
	for range 600 {
		frames = append(frames, w.next())
		s.Bank().Add(frames[len(frames)-1])
	}
	snap := s.Bank().Snapshot()
	from, to := 100*time.Second, 160*time.Second
	part, err := snap.Recall(t.Context(), from, to, nil, 10_000)
	require.NoError(t, err)
	require.Len(t, part.Entries, 60)
	for i, e := range part.Entries {
		require.Equal(t, frames[100+i].Tokens, e.Tokens)
		require.EqualValues(t, (101+i)*idStep, e.ID)
		require.Equal(t, Detail, e.Role)
	}
	at := part.At(130*time.Second + 400*time.Millisecond)
	require.Equal(t, frames[130].Tokens, at.Newest.Tokens)

	// A budget: whole frames that the query is nearest to, averages all over.
	query := NewIndicator(gist(frames[137].Tokens)).Vector()
	part, err = snap.Recall(t.Context(), from, to, query, 60)
	require.NoError(t, err)
	rows, found, ids := 0, false, map[uint64]bool{}
	for _, e := range part.Entries {
		rows += e.Tokens.Rows
		found = found || e.Role == Detail && e.At == frames[137].At
		require.False(t, ids[e.ID])
		ids[e.ID] = true
		require.True(t, e.Start >= from && e.End < to)
	}
	require.True(t, found)
	require.LessOrEqual(t, rows, 60)
	require.Greater(t, rows, 50)
	for _, budget := range []int{0, 1, 2, 9, 17, 59, 60, 1000} {
		rows = 0
		for _, e := range part.Select(query, budget) {
			rows += e.Tokens.Rows
		}
		if budget > 0 {
			require.LessOrEqual(t, rows, budget)
		}
	}
	again, err := snap.Recall(t.Context(), from, to, query, 60)
	require.NoError(t, err)
	require.Equal(t, part.Entries, again.Entries)

	// Without a query it is spread; the newest frame is in what reaches it; nothing is nothing.
	part, err = snap.Recall(t.Context(), 500*time.Second, 601*time.Second, nil, 100)
	require.NoError(t, err)
	shown := part.Select(nil, 0)
	require.Equal(t, Newest, shown[len(shown)-1].Role)
	part, err = snap.Recall(t.Context(), time.Hour, 2*time.Hour, nil, 100)
	require.NoError(t, err)
	require.Nil(t, part)
	// An older snapshot does not see what came after it.
	part, err = snap.Recall(t.Context(), 590*time.Second, time.Hour, nil, 0)
	require.NoError(t, err)
	s.Bank().Add(w.next())
	later, err := snap.Recall(t.Context(), 590*time.Second, time.Hour, nil, 0)
	require.NoError(t, err)
	require.Equal(t, part.Entries, later.Entries)
}

// What was thinned is recalled under other IDs than what it was, and equal IDs mean equal rows for good.
func TestRecallOfWhatWasThinned(t *testing.T) {
	o := storeOptions(t, Flash{Synopsis: 5, Detail: 2})
	o.Entries = 400
	s, w := openStore(t, t.TempDir(), o), newWalk(1)
	seen := map[uint64]compute.Matrix{}
	for i := range 4000 {
		s.Bank().Add(w.next())
		if i%200 > 0 {
			continue
		}
		snap := s.Bank().Snapshot()
		part, err := snap.Recall(t.Context(), 0, snap.Now+1, nil, 1<<20)
		require.NoError(t, err)
		for _, e := range append(part.Entries, snap.Select(nil, 0)...) {
			if m, ok := seen[e.ID]; ok {
				require.Equal(t, m, e.Tokens)
			}
			seen[e.ID] = e.Tokens
		}
	}
}

func FuzzSegment(f *testing.F) {
	dir := f.TempDir()
	s, w := openStore(f, dir, storeOptions(f, Recent{})), newWalk(1)
	for range 9 {
		s.Bank().Add(w.next())
	}
	s.Close()
	list, _ := filepath.Glob(filepath.Join(dir, "0*"+segmentSuffix))
	for _, name := range list {
		raw, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(raw)
	}
	f.Add([]byte(strings.Repeat("\xff", 20)))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := readCold(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for i := range c.items {
			e, err := c.read(bytes.NewReader(data), i)
			if err == nil {
				coarsen([]coldEntry{e, e}, stageHalf)
			}
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version":2,"encoder":"e1","config":"c1","epoch":"2026-07-01T12:00:00+02:00","zone":"CEST"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := parseManifest(data); err == nil {
			_ = m.Epoch.String()
		}
	})
}

func TestMain(m *testing.M) {
	if child := os.Getenv(killEnv); child != "" {
		writeUntilKilled(child)
	}
	goleak.VerifyTestMain(m)
}

// A disk that fails costs what would have been written, with a word, and nothing else.
func TestStoreOutlivesItsDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	o := storeOptions(t, Flash{Synopsis: 5, Detail: 2})
	warned := 0
	o.Warn = func(error) { warned++ }
	s, w := openStore(t, dir, o), newWalk(1)
	whole, again := New(storeEpoch, o.Strategy), newWalk(1)
	for i := range 100 {
		if i == 50 {
			require.NoError(t, s.do(t.Context(), func() { require.NoError(t, os.RemoveAll(dir)) }))
		}
		s.Bank().Add(w.next())
		whole.Add(again.next())
	}
	require.NoError(t, s.Sync(t.Context()))
	require.Equal(t, whole.Snapshot().Hash(), s.Bank().Snapshot().Hash())
	require.Positive(t, s.Stats().Lost)
	require.Positive(t, warned)
	_, err := s.Bank().Forget(t.Context(), 0, time.Minute)
	require.Error(t, err, "it cannot be said to be erased")
	_, err = s.Bank().Snapshot().Recall(t.Context(), 0, time.Minute, nil, 100)
	require.NoError(t, err)
	require.NoError(t, s.Close())
}
