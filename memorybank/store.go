package memorybank

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// StoreOptions say how a stream's memory is kept on disk. Zero fields mean the defaults.
type StoreOptions struct {
	Origin   Origin    // what makes the rows; a directory of another one is refused
	Strategy Strategy  // of the bank; nil: nothing will be added, only looked at, copied or forgotten
	Epoch    time.Time // of a new store; one that is there keeps its own

	Budget  int64         // most bytes in the directory, temporary files included; 2 GiB; at least MinBudget
	Clip    time.Duration // most of the stream that a crash may lose; 8 s
	Frames  int           // or so many frames, whichever is less; 16
	Gap     time.Duration // a longer hole between frames is one that was not watched; 3 s
	Every   time.Duration // between two checkpoints of the bank, if it changed; 1 min
	Entries int           // most entries on disk, since each has its span and indicator in memory; 200,000
	Wait    bool          // Add waits for a slow disk instead of leaving frames out, for sources that can wait
	NoSync  bool          // leaves it to the operating system when files reach the disk: a power cut may then lose more than a clip

	Warn func(error) // told of what was set aside, lost or not written; called from one goroutine at a time. nil: nobody is
}

// MinBudget is the least that a store can be kept in: a checkpoint of the default model's bank is 5 MB.
const MinBudget = 1 << 20

func (o StoreOptions) withDefaults() StoreOptions {
	o.Budget = cmp.Or(o.Budget, 2<<30)
	o.Clip = cmp.Or(o.Clip, 8*time.Second)
	o.Frames = max(cmp.Or(o.Frames, 16), 2)
	o.Gap = cmp.Or(o.Gap, 3*time.Second)
	o.Every = cmp.Or(o.Every, time.Minute)
	o.Entries = cmp.Or(o.Entries, 200_000)
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	return o
}

// ErrInUse is wrapped by the error about a directory that another store holds open.
var ErrInUse = errors.New("the memory is in use")

// The files of a store, beside its segments.
const (
	lockName       = "lock"
	manifestName   = "store.json"
	checkpointName = "bank.safetensors"
	intentName     = "forget.json"
	segmentSuffix  = ".safetensors"
)

const (
	maxFiles  = 8192 // segments; more are joined, unthinned
	mostParts = 8    // half clips that wait for the disk before frames are left out
)

// manifest says what a store's directory is. It is written once.
type manifest struct {
	Version int `json:"version"`
	Origin
	Epoch time.Time `json:"epoch"`
	Zone  string    `json:"zone"`
}

// Store keeps a bank in a directory: every frame that is added to the bank is written there too, so that it outlives the process and the
// past can be looked up more finely than the bank holds it. Of the three tiers that makes two:
//
//   - warm: the bank, in memory, as its Strategy keeps it. A checkpoint (Snapshot.Save) is written at most once a minute.
//   - cold: all frames, in segments on disk, thinned with age so that the directory never takes more than its budget; see coldfile.go
//     and thin.go. Their spans and indicators are in memory.
//
// (The hot tier is the engine's: the K/V of what was shown.)
//
// After a crash, opening the directory gives the bank that was: its checkpoint, and the frames since then added again. At most one clip is lost:
// a segment is half a clip, and so at most two of them are under way. Files are written beside their names and renamed, and carry checksums; one
// that is torn or foreign is set aside under another name. Writing never holds the watcher up: where the disk is slower than the source,
// frames are left out of it, and counted; the bank has them all the same (StoreOptions.Wait turns that around).
//
// One goroutine owns the directory, from OpenStore to Close. All methods may be called from any goroutine.
type Store struct {
	dir  string
	o    StoreOptions
	bank *Bank
	lock *os.File

	wake     chan struct{}
	requests chan func()
	stop     chan struct{}
	done     chan struct{}

	// Frames on their way to the disk. mu also guards files, which is replaced and never changed.
	mu      sync.Mutex
	room    *sync.Cond
	waiting []Entry
	since   time.Time // when the first of waiting came
	writing []Entry
	closed  bool
	files   []*coldFile // in time order
	forgot  []Stretch   // the latest that were: a frame on its way from the bank may lie in one
	dropped uint64      // frames left out because the disk was slow
	lost    uint64      // frames that could not be written

	// The goroutine's own; OpenStore's before it runs.
	used     int64 // bytes in the directory
	asides   []string
	sizes    map[string]int64
	saved    uint64 // the checkpoint's Version: later frames are needed to replay
	savedAt  time.Time
	scrub    bool // what files held that are replaced or removed is overwritten with zeros: while forgetting
	tooLarge bool // the bank does not fit into the budget: there is no checkpoint
	watched  watched
	thinned  atomic.Uint64 // segments rewritten
	bytes    atomic.Int64  // used, for others
}

// OpenStore opens a directory, or makes a new one, and gives its bank the state that it had. It refuses, with the reason, what another
// process has open (ErrInUse) and what another encoder or configuration made. A bank that another strategy made is filled anew from the frames
// on disk. The caller closes the store.
func OpenStore(dir string, o StoreOptions) (_ *Store, err error) {
	fail := func(err error) error { return fmt.Errorf("memorybank: open %s: %w", dir, err) }
	o = o.withDefaults()
	if o.Budget < MinBudget {
		return nil, fail(fmt.Errorf("a budget of %d bytes, want at least %d", o.Budget, MinBudget))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fail(err)
	}
	s := &Store{dir: dir, o: o, wake: make(chan struct{}, 1), requests: make(chan func()), stop: make(chan struct{}), done: make(chan struct{}),
		sizes: map[string]int64{}, watched: watched{gap: o.Gap}, savedAt: time.Now()}
	s.room = sync.NewCond(&s.mu)
	if s.lock, err = lockFile(filepath.Join(dir, lockName)); err != nil {
		return nil, fail(err)
	}
	defer func() {
		if err != nil {
			s.lock.Close()
		}
	}()
	m, err := s.identify()
	if err != nil {
		return nil, fail(err)
	}
	if err := s.scan(m); err != nil {
		return nil, fail(err)
	}
	if err := s.restore(m); err != nil {
		return nil, fail(err)
	}
	s.bank.store = s
	now := *s.bank.Snapshot()
	now.archive = s
	s.bank.current.Store(&now)
	if err := s.finishForgetting(); err != nil {
		return nil, fail(err)
	}
	go s.run()
	return s, nil
}

// Bank is the store's bank. Adding to it writes to the disk too.
func (s *Store) Bank() *Bank { return s.bank }

// identify reads the manifest, or writes one.
func (s *Store) identify() (manifest, error) {
	raw, err := os.ReadFile(filepath.Join(s.dir, manifestName))
	if errors.Is(err, os.ErrNotExist) {
		others, err := os.ReadDir(s.dir)
		if err != nil {
			return manifest{}, err
		}
		for _, f := range others {
			if f.Name() != lockName && !strings.HasPrefix(f.Name(), tempPrefix) {
				return manifest{}, fmt.Errorf("not a memory's directory: it has %s and no %s; name an empty one", f.Name(), manifestName)
			}
		}
		if s.o.Epoch.IsZero() {
			return manifest{}, fmt.Errorf("there is no memory here: %w", os.ErrNotExist)
		}
		m := manifest{storeVersion, s.o.Origin, s.o.Epoch, s.o.Epoch.Location().String()}
		if raw, err = json.Marshal(m); err != nil {
			return m, err
		}
		return m, writeFile(s.dir, manifestName, append(raw, '\n'), !s.o.NoSync, false)
	}
	if err != nil {
		return manifest{}, err
	}
	m, err := parseManifest(raw)
	if err != nil {
		return m, err
	}
	if err := s.o.Origin.differ(m.Origin); err != nil {
		return m, fmt.Errorf("%w; move it away, or name another directory", err)
	}
	return m, nil
}

func parseManifest(raw []byte) (manifest, error) {
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("%s: %w", manifestName, err)
	}
	if m.Version != storeVersion {
		return m, fmt.Errorf("format version %d, this program reads %d; move it away, or name another directory", m.Version, storeVersion)
	}
	m.Epoch = (&storeHeader{Epoch: m.Epoch, Zone: m.Zone}).epoch()
	return m, nil
}

// scan reads what is in the directory.
func (s *Store) scan(m manifest) error {
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, entry := range list {
		name := entry.Name()
		if strings.HasPrefix(name, tempPrefix) { // of a write that a crash ended
			if err := removeFile(s.dir, name, false); err != nil {
				return err
			}
			continue
		}
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		s.account(name, info.Size())
		switch {
		case isAside(name):
			s.asides = append(s.asides, name)
		case name == checkpointName || !strings.HasSuffix(name, segmentSuffix):
		default:
			f, err := openCold(s.dir, name)
			if err == nil {
				err = f.belongs(m)
			}
			if err != nil {
				s.aside(name, err)
				continue
			}
			s.files = append(s.files, f)
		}
	}
	slices.SortFunc(s.files, func(a, b *coldFile) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(b.Last, a.Last), cmp.Compare(b.Stage, a.Stage), cmp.Compare(a.name, b.name))
	})
	// A crash between writing a thinned segment and removing what it was made of leaves both.
	var files []*coldFile
	for _, f := range s.files {
		if n := len(files); n > 0 && f.First <= files[n-1].Last {
			if f.Last > files[n-1].Last {
				s.aside(f.name, errors.New("it overlaps another segment"))
			} else if err := s.remove(f.name); err != nil {
				return err
			}
			continue
		}
		files = append(files, f)
	}
	s.files = files
	return nil
}

func openCold(dir, name string) (*coldFile, error) {
	r, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return nil, err
	}
	f, err := readCold(r, info.Size())
	if err != nil {
		return nil, err
	}
	f.name = name
	return f, nil
}

// belongs says why a segment is not one of this memory's.
func (f *coldFile) belongs(m manifest) error {
	if err := m.Origin.differ(f.Origin); err != nil {
		return err
	}
	if !f.Epoch.Equal(m.Epoch) {
		return fmt.Errorf("it is another memory's, that began at %s", f.Epoch.Format(time.RFC3339))
	}
	if want := segmentName(f.First, f.Last, f.Stage); f.name != want {
		return fmt.Errorf("its name should be %s", want)
	}
	return nil
}

func segmentName(first, last uint64, stage int) string {
	return fmt.Sprintf("%010x-%010x-%02d%s", first, last, stage, segmentSuffix)
}

// account notes the size of a file; below 0: it is gone.
func (s *Store) account(name string, size int64) {
	s.used -= s.sizes[name]
	delete(s.sizes, name)
	if size >= 0 {
		s.sizes[name] = size
		s.used += size
	}
	s.bytes.Store(s.used)
}

// write writes a file whole or not at all; the caller has made room.
func (s *Store) write(name string, data []byte) error {
	if err := writeFile(s.dir, name, data, !s.o.NoSync, s.scrub); err != nil {
		return err
	}
	s.account(name, int64(len(data)))
	return nil
}

func (s *Store) remove(name string) error {
	if err := removeFile(s.dir, name, s.scrub); err != nil {
		return err
	}
	s.account(name, -1)
	return nil
}

// aside takes a file that cannot be used out of the way.
func (s *Store) aside(name string, why error) {
	s.o.Warn(fmt.Errorf("memorybank: %s is set aside: %w", filepath.Join(s.dir, name), why))
	to, err := setAside(s.dir, name)
	if err != nil {
		s.o.Warn(fmt.Errorf("memorybank: %w", err))
		return
	}
	s.account(to, s.sizes[name])
	s.account(name, -1)
	s.asides = append(s.asides, to)
}

// restore makes the bank: the checkpoint's, with the later frames added again.
func (s *Store) restore(m manifest) error {
	var saved *savedBank
	raw, err := os.ReadFile(filepath.Join(s.dir, checkpointName))
	switch {
	case err == nil:
		if saved, err = readSaved(bytes.NewReader(raw)); err == nil {
			if !saved.storeHeader.Epoch.Equal(m.Epoch) {
				err = errors.New("it is another memory's")
			} else {
				s.bank, err = saved.bank(s.o.Strategy, s.o.Origin)
			}
		}
		if errors.Is(err, errStrategy) {
			s.o.Warn(fmt.Errorf("memorybank: %s: %w; the memory is filled anew from what is on disk", s.dir, err))
		} else if err != nil {
			saved = nil
			s.aside(checkpointName, err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if saved != nil {
		if text := saved.file.Metadata["watched"]; text != "" {
			if err := json.Unmarshal([]byte(text), &s.watched.spans); err != nil {
				s.watched.spans = nil
				s.o.Warn(fmt.Errorf("memorybank: %s: when it was watched: %w", s.dir, err))
			}
		}
	}
	if s.bank == nil {
		strategy := s.o.Strategy
		if strategy == nil {
			strategy = unknown{}
			if saved != nil {
				strategy = unknown{saved.Strategy, saved.Carries}
			}
		}
		s.bank = New(m.Epoch, strategy)
	} else {
		s.saved = s.bank.Snapshot().Version
	}
	for _, f := range slices.Clone(s.files) {
		s.markAll(f)
		if s.o.Strategy == nil || f.Last <= s.saved || f.Level > 0 || f.Stage > stageBF16 {
			continue
		}
		if err := s.replay(f); err != nil {
			s.discard(f, err)
		}
	}
	if snap := s.bank.Snapshot(); saved != nil && saved.Frames > snap.Version { // IDs that were given are not given again
		next := *snap
		next.Version = saved.Frames
		s.bank.current.Store(&next)
	}
	return nil
}

// markAll notes when a segment's frames came, as far as that is not known.
func (s *Store) markAll(f *coldFile) {
	for _, it := range f.items {
		if n := len(s.watched.spans); n == 0 || it.start > s.watched.spans[n-1].To {
			s.watched.mark(it.start)
			s.watched.mark(it.end)
		}
	}
}

// replay adds the frames of a segment that the bank has not seen.
func (s *Store) replay(f *coldFile) error {
	r, err := os.Open(filepath.Join(s.dir, f.name))
	if err != nil {
		return err
	}
	defer r.Close()
	for i, it := range f.items {
		if it.frame <= s.bank.Snapshot().Version {
			continue
		}
		c, err := f.read(r, i)
		if err != nil {
			return err
		}
		e := c.entry(true)
		s.bank.writing.Lock()
		s.bank.put(e, it.frame)
		s.bank.writing.Unlock()
	}
	return nil
}

// discard sets a segment aside that turned out to be broken.
func (s *Store) discard(f *coldFile, why error) {
	s.aside(f.name, why)
	s.publish([]*coldFile{f}, nil)
}

// publish replaces segments, neighbours in files, by another; nil: by none. Without old ones it is the newest.
func (s *Store) publish(old []*coldFile, f *coldFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	files := make([]*coldFile, 0, len(s.files)+1)
	for _, have := range s.files {
		if !slices.Contains(old, have) {
			files = append(files, have)
		} else if f != nil {
			files, f = append(files, f), nil
		}
	}
	if f != nil {
		files = append(files, f)
	}
	s.files = files
}

// half is how many frames a segment begins with: half a clip, since one may be written while the next one fills.
func (s *Store) half() int { return max(s.o.Frames/2, 1) }

// keep takes a frame to be written, in the order of the bank.
func (s *Store) keep(e Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.o.Wait && len(s.waiting) >= s.half() && !s.closed {
		s.room.Wait()
	}
	if s.closed || slices.ContainsFunc(s.forgot, func(f Stretch) bool { return e.At >= f.From && e.At < f.To }) {
		return
	}
	if len(s.waiting) >= mostParts*s.half() {
		s.dropped++
		return
	}
	if len(s.waiting) == 0 {
		s.since = time.Now()
	}
	s.waiting = append(s.waiting, e)
	if s.isFull() {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// isFull reports whether what waits is a segment. The caller holds mu.
func (s *Store) isFull() bool {
	n := len(s.waiting)
	return n >= s.half() || n > 0 && (s.waiting[n-1].At-s.waiting[0].At >= s.o.Clip/2 || time.Since(s.since) >= s.o.Clip/2)
}

// run is the goroutine.
func (s *Store) run() {
	defer close(s.done)
	tick := time.NewTicker(min(max(s.o.Clip/8, 10*time.Millisecond), max(s.o.Every/4, 10*time.Millisecond)))
	defer tick.Stop()
	for {
		select {
		case <-s.wake:
		case <-tick.C:
		case f := <-s.requests:
			f()
		case <-s.stop:
			s.flush()
			s.checkpoint()
			return
		}
		s.mu.Lock()
		full := s.isFull()
		s.mu.Unlock()
		if full {
			s.flush()
		}
		if time.Since(s.savedAt) >= s.o.Every {
			s.checkpoint()
		}
	}
}

// do runs f on the goroutine and waits for it.
func (s *Store) do(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	select {
	case s.requests <- func() { f(); close(ran) }:
		<-ran
		return nil
	case <-s.done:
		return errors.New("memorybank: the store is closed")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Sync writes what waits, and a checkpoint, now.
func (s *Store) Sync(ctx context.Context) error {
	return s.do(ctx, func() {
		s.flush()
		s.checkpoint()
	})
}

// Close writes what waits and a last checkpoint, and lets go of the directory. The bank stays as it is, in memory. A second Close does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.room.Broadcast()
	s.mu.Unlock()
	if again {
		<-s.done
		return nil
	}
	close(s.stop)
	<-s.done
	if err := s.lock.Close(); err != nil {
		return fmt.Errorf("memorybank: close %s: %w", s.dir, err)
	}
	return nil
}

// flush writes the frames that wait.
func (s *Store) flush() {
	s.mu.Lock()
	s.writing, s.waiting = s.waiting, nil
	s.room.Broadcast()
	rest := s.writing
	s.mu.Unlock()
	if len(rest) == 0 {
		return
	}
	if bytes, entries := s.pinned(); bytes > s.o.Budget/8 || entries > s.o.Entries/8 { // so that there is always something to thin
		s.checkpoint()
	}
	for len(rest) > 0 {
		n := 1
		for n < len(rest) && n < s.half() && sameShape(rest[0], rest[n]) {
			n++
		}
		if err := s.append(rest[:n]); err != nil {
			s.o.Warn(fmt.Errorf("memorybank: %s: %d frames are not kept: %w", s.dir, n, err))
			s.mu.Lock()
			s.lost += uint64(n)
			s.mu.Unlock()
		}
		for _, e := range rest[:n] {
			s.watched.mark(e.At)
		}
		rest = rest[n:]
	}
	s.mu.Lock()
	s.writing = nil
	s.mu.Unlock()
}

func sameShape(a, b Entry) bool {
	return a.Grid == b.Grid && a.Tokens.Cols == b.Tokens.Cols && a.Indicator.Dim() == b.Indicator.Dim()
}

// append writes frames as one segment.
func (s *Store) append(frames []Entry) error {
	entries := make([]coldEntry, len(frames))
	for i, e := range frames {
		entries[i] = coldEntry{
			coldItem: coldItem{frame: e.ID / idStep, start: e.Start, end: e.End, at: e.At, weight: e.Weight, averaged: 1, indicator: e.Indicator},
			grid:     e.Grid, rows: e.Tokens, jpeg: e.Thumb,
		}
	}
	f, data := encodeCold(s.meta(entries[0].frame, entries[len(entries)-1].frame, 0), entries, false)
	if !s.makeRoom(f.size, f.n) {
		return fmt.Errorf("there is no room for %d bytes within the budget of %d", f.size, s.o.Budget)
	}
	return s.add(f, data, nil)
}

func (s *Store) meta(first, last uint64, stage int) coldMeta {
	return coldMeta{Origin: s.o.Origin, Epoch: s.bank.Snapshot().Epoch, Stage: stage, First: first, Last: last}
}

// add writes a segment in place of others.
func (s *Store) add(f *coldFile, data []byte, old []*coldFile) error {
	f.name = segmentName(f.First, f.Last, f.Stage)
	if err := s.write(f.name, data); err != nil {
		return err
	}
	s.publish(old, f)
	for _, o := range old {
		if o.name == f.name {
			continue
		}
		if err := s.remove(o.name); err != nil {
			return err
		}
	}
	return nil
}

// pinned is what segments hold that a replay needs: they are not thinned.
func (s *Store) pinned() (bytes int64, entries int) {
	for i := len(s.files) - 1; i >= 0 && s.isPinned(s.files[i]); i-- {
		bytes, entries = bytes+s.files[i].size, entries+s.files[i].n
	}
	return bytes, entries
}

func (s *Store) isPinned(f *coldFile) bool { return f.Last > s.saved && !s.tooLarge }

// checkpoint writes the bank, if it changed.
func (s *Store) checkpoint() {
	s.savedAt = time.Now()
	snap := s.bank.Snapshot()
	if snap.Version == s.saved {
		return
	}
	if err := s.save(snap); err != nil {
		s.o.Warn(fmt.Errorf("memorybank: %s: no checkpoint: %w", s.dir, err))
	}
}

func (s *Store) save(snap *Snapshot) error {
	text, err := json.Marshal(s.watched.spans)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := snap.save(&out, s.o.Origin, map[string]string{"watched": string(text)}); err != nil {
		return err
	}
	// The old one is there until the new one is whole.
	if size := int64(out.Len()); size > s.o.Budget/4 || !s.makeRoom(size, 0) {
		s.tooLarge = true
		return fmt.Errorf("the bank takes %d bytes and may take a quarter of the budget of %d: raise disk_budget", size, s.o.Budget)
	}
	if err := s.write(checkpointName, out.Bytes()); err != nil {
		return err
	}
	s.saved, s.tooLarge = snap.Version, false
	return nil
}

// group is how many bytes of segments are thinned into one at a time, and what is left free for that.
func (s *Store) group() int64 { return min(s.o.Budget/32, 2<<20) }

// makeRoom thins, joins and drops segments until n more bytes fit.
func (s *Store) makeRoom(n int64, entries int) bool {
	for s.used+n > s.o.Budget-s.group() || s.entries()+entries > s.o.Entries || len(s.files) >= maxFiles {
		if !s.shrink(s.entries()+entries > s.o.Entries) {
			return s.used+n <= s.o.Budget
		}
	}
	return true
}

func (s *Store) entries() (n int) {
	for _, f := range s.files {
		n += f.n
	}
	return n
}

// shrink makes what is on disk a little less. It reports false when nothing can go.
func (s *Store) shrink(byEntries bool) bool {
	if len(s.asides) > 0 {
		name := s.asides[0]
		s.asides = s.asides[1:]
		if err := s.remove(name); err != nil {
			s.o.Warn(fmt.Errorf("memorybank: %w", err))
		}
		return true
	}
	if len(s.files) >= maxFiles {
		if from, to := s.smallest(); to-from > 1 {
			return s.rewrite(s.files[from:to], s.files[from].Stage)
		}
	}
	now := s.bank.Snapshot().Now
	best, score := -1, 0.0
	for i, f := range s.files {
		if s.isPinned(f) {
			break
		}
		if d := density(f, now, byEntries); f.Stage < lastStage && (best < 0 || d > score) {
			best, score = i, d
		}
	}
	if len(s.files) == 0 || s.isPinned(s.files[0]) {
		return false
	}
	// The oldest goes when all are as thin as they get, or what would be thinned in its place is many times as coarse for its age.
	if oldest := s.files[0]; best < 0 || oldest.Stage == lastStage && density(oldest, now, byEntries) > mostUneven*score {
		s.drop(oldest)
		return true
	}
	return s.rewrite(s.files[best:s.alike(best)], s.files[best].Stage+1)
}

// alike returns where the segments end that can be thinned together with the one at from.
func (s *Store) alike(from int) int {
	first, size := s.files[from], int64(0)
	for i := from; i < len(s.files); i++ {
		f := s.files[i]
		same := f.Stage == first.Stage && f.Level == first.Level && f.Grid == first.Grid && f.d == first.d && f.k == first.k && !s.isPinned(f)
		if size += f.size; i > from && (!same || size > s.group() || i-from >= 64) {
			return i
		}
	}
	return len(s.files)
}

// smallest finds the neighbours whose joining saves the most files.
func (s *Store) smallest() (from, to int) {
	for i := 0; i < len(s.files) && !s.isPinned(s.files[i]); {
		end := s.alike(i)
		if end-i > to-from {
			from, to = i, end
		}
		i = end
	}
	return from, to
}

func (s *Store) drop(f *coldFile) {
	s.publish([]*coldFile{f}, nil)
	if err := s.remove(f.name); err != nil {
		s.o.Warn(fmt.Errorf("memorybank: %w", err))
	}
}

// rewrite makes one segment of neighbours, thinned to a stage. It reports whether that changed anything.
func (s *Store) rewrite(old []*coldFile, stage int) bool {
	old = slices.Clone(old)
	var entries []coldEntry
	for _, f := range old {
		more, err := s.load(f)
		if err != nil {
			s.discard(f, err)
			return true
		}
		entries = append(entries, more...)
	}
	if stage > old[0].Stage {
		entries = coarsen(entries, stage)
	}
	f, data := encodeCold(s.meta(old[0].First, old[len(old)-1].Last, stage), entries, stage >= stageBF16)
	if s.used+f.size > s.o.Budget { // not even room for what would be less
		s.drop(old[0])
		return true
	}
	if err := s.add(f, data, old); err != nil {
		s.o.Warn(fmt.Errorf("memorybank: %s: thinning: %w", s.dir, err))
		return false
	}
	s.thinned.Add(1)
	return true
}

// load reads a whole segment.
func (s *Store) load(f *coldFile) ([]coldEntry, error) {
	r, err := os.Open(filepath.Join(s.dir, f.name))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw := make([]byte, f.size)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, err
	}
	entries := make([]coldEntry, f.n)
	for i := range entries {
		if entries[i], err = f.read(bytes.NewReader(raw), i); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// Watched is when frames came, in time order; what was forgotten is not in it.
func (s *Store) Watched(ctx context.Context) (list []Stretch, err error) {
	err = s.do(ctx, func() {
		s.flush()
		list = slices.Clone(s.watched.spans)
	})
	return list, err
}

// Backlog is how many frames are on their way to the disk.
func (s *Store) Backlog() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting) + len(s.writing)
}

// StoreStats say what a store holds.
type StoreStats struct {
	Budget   int64      `json:"budget"`
	Bytes    int64      `json:"bytes"`   // in the directory
	Entries  int        `json:"entries"` // on disk
	Segments int        `json:"segments"`
	Waiting  int        `json:"waiting"`         // frames on their way to the disk
	Dropped  uint64     `json:"dropped"`         // frames left out because the disk was slow
	Lost     uint64     `json:"lost"`            // frames that could not be written
	Thinned  uint64     `json:"thinned"`         // segments rewritten since it was opened
	Index    int64      `json:"index_bytes"`     // of memory that spans and indicators take, about
	Tiers    []ColdTier `json:"tiers,omitempty"` // from fine to coarse
	Oldest   Stretch    `json:"cold"`            // from the oldest to the newest moment on disk
	Aside    int        `json:"aside,omitempty"` // files set aside
}

// ColdTier is what there is of one stage of thinning.
type ColdTier struct {
	Stage    int           `json:"stage"`
	Level    uint8         `json:"level"`
	Segments int           `json:"segments"`
	Entries  int           `json:"entries"`
	Bytes    int64         `json:"bytes"`
	From     time.Duration `json:"from"`
	To       time.Duration `json:"to"`
}

// Stats are those of this moment.
func (s *Store) Stats() StoreStats {
	s.mu.Lock()
	files := s.files
	st := StoreStats{Budget: s.o.Budget, Bytes: s.bytes.Load(), Waiting: len(s.waiting) + len(s.writing), Dropped: s.dropped, Lost: s.lost,
		Thinned: s.thinned.Load()}
	s.mu.Unlock()
	st.sum(files)
	return st
}

// sum adds the segments up.
func (st *StoreStats) sum(files []*coldFile) {
	tiers := map[int]ColdTier{}
	for i, f := range files {
		st.Segments++
		st.Entries += f.n
		st.Index += int64(f.n) * int64(80+f.k)
		t, ok := tiers[f.Stage]
		if !ok {
			t = ColdTier{Stage: f.Stage, Level: f.Level, From: f.start(), To: f.end()}
		}
		t.Segments, t.Entries, t.Bytes = t.Segments+1, t.Entries+f.n, t.Bytes+f.size
		t.From, t.To = min(t.From, f.start()), max(t.To, f.end())
		tiers[f.Stage] = t
		if i == 0 {
			st.Oldest.From = f.start()
		}
		st.Oldest.To = max(st.Oldest.To, f.end())
	}
	for _, stage := range slices.Sorted(maps.Keys(tiers)) {
		st.Tiers = append(st.Tiers, tiers[stage])
	}
}
