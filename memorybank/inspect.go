package memorybank

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Inspection is what a saved bank, or a store's directory, holds, without the strategy or the models that made it.
type Inspection struct {
	Origin   Origin
	Strategy string    // as the file names it; "" of a store without a checkpoint
	Snapshot *Snapshot // the bank as it was saved: of a store, its checkpoint, or empty. It can be saved, compared and looked at
	Saved    int64     // bytes of that
	Watched  []Stretch // when frames came, as of the checkpoint
	Cold     StoreStats
	Tail     int      // frames on disk that the checkpoint does not have yet: they are added when the store is opened to watch
	Broken   []string // files that cannot be used, and why
	IsStore  bool
}

// Inspect reads a file that Save wrote or a store's directory, also one that is in use: then it is what was there at some moment. A snapshot of
// another version is refused with the reason.
func Inspect(path string) (*Inspection, error) {
	in, err := inspect(path)
	if err != nil {
		return nil, fmt.Errorf("memorybank: %s: %w", path, err)
	}
	return in, nil
}

func inspect(path string) (*Inspection, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		in := &Inspection{Saved: info.Size()}
		return in, in.read(path, nil)
	}
	raw, err := os.ReadFile(filepath.Join(path, manifestName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("not a memory's directory: it has no %s", manifestName)
	}
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(raw)
	if err != nil {
		return nil, err
	}
	in := &Inspection{Origin: m.Origin, IsStore: true, Snapshot: &Snapshot{Epoch: m.Epoch, strategy: unknown{}}}
	if err := in.read(filepath.Join(path, checkpointName), &m); err != nil && !errors.Is(err, os.ErrNotExist) {
		in.Broken = append(in.Broken, fmt.Sprintf("%s: %v", checkpointName, err))
	}
	list, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []*coldFile
	for _, entry := range list {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // thinned meanwhile
		}
		in.Cold.Bytes += info.Size()
		name := entry.Name()
		switch {
		case isAside(name):
			in.Cold.Aside++
			in.Broken = append(in.Broken, name+": set aside")
		case name == checkpointName:
			in.Saved = info.Size()
		case strings.HasSuffix(name, segmentSuffix) && !strings.HasPrefix(name, tempPrefix):
			f, err := openCold(path, name)
			if err == nil {
				err = f.belongs(m)
			}
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				in.Broken = append(in.Broken, fmt.Sprintf("%s: %v", name, err))
				continue
			}
			files = append(files, f)
			for _, it := range f.items {
				if it.frame > in.Snapshot.Version {
					in.Tail++
				}
			}
		}
	}
	slices.SortFunc(files, func(a, b *coldFile) int { return int(a.start() - b.start()) })
	in.Cold.sum(files)
	return in, nil
}

// read reads a saved bank; m is that of the store that it must belong to, nil for none.
func (in *Inspection) read(name string, m *manifest) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	saved, err := readSaved(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	if m != nil && !saved.Epoch.Equal(m.Epoch) {
		return errors.New("it is another memory's")
	}
	origin := saved.Origin
	if m != nil {
		origin = m.Origin
	}
	b, err := saved.bank(nil, origin)
	if err != nil {
		return err
	}
	in.Origin, in.Strategy, in.Snapshot = origin, saved.Strategy, b.Snapshot()
	if text := saved.file.Metadata["watched"]; text != "" {
		if err := json.Unmarshal([]byte(text), &in.Watched); err != nil {
			return fmt.Errorf("when it was watched: %w", err)
		}
	}
	return nil
}

// Levels counts a snapshot's entries by how often their rows were averaged 2x2, the frames that they keep beside their rows as level 0.
func (s *Snapshot) Levels() map[uint8]int {
	levels := map[uint8]int{}
	for i := range s.Entries {
		levels[s.Entries[i].Level]++
		if x := s.Entries[i].exemplar; x != nil {
			levels[x.frame.Level]++
		}
	}
	return levels
}

// Held lists all that is remembered, in no order: the entries, the frames that some keep beside their rows, and the newest frame. They are read-only.
func (s *Snapshot) Held() []Entry {
	list := make([]Entry, 0, len(s.Entries)+1)
	newest := s.Newest.Tokens.Rows > 0
	for i := range s.Entries {
		e := &s.Entries[i]
		list = append(list, *e)
		newest = newest && e.ID != s.Newest.ID
		if x := e.exemplar; x != nil {
			list = append(list, x.frame)
			newest = newest && x.frame.ID != s.Newest.ID
		}
	}
	if newest {
		list = append(list, s.Newest)
	}
	return list
}

// Difference is what two snapshots do not have in common.
type Difference struct {
	OnlyA, OnlyB []Entry // entries that the other has not, by ID
	Changed      []Entry // of A, where B has something else under the same ID: two memories that parted
	Common       int
}

// Diff compares the entries of two snapshots, and their newest frames.
func Diff(a, b *Snapshot) Difference {
	var d Difference
	entries := func(s *Snapshot) []Entry {
		if s.Newest.Tokens.Rows == 0 {
			return s.Entries
		}
		newest := s.Newest
		if slices.ContainsFunc(s.Entries, func(e Entry) bool { return e.ID == newest.ID }) {
			return s.Entries
		}
		return append(slices.Clone(s.Entries), newest)
	}
	others := map[uint64]string{}
	for _, e := range entries(b) {
		others[e.ID] = e.hash()
	}
	for _, e := range entries(a) {
		hash, ok := others[e.ID]
		switch {
		case !ok:
			d.OnlyA = append(d.OnlyA, e)
		case hash != e.hash():
			d.Changed = append(d.Changed, e)
		default:
			d.Common++
		}
		delete(others, e.ID)
	}
	for _, e := range entries(b) {
		if _, left := others[e.ID]; left {
			d.OnlyB = append(d.OnlyB, e)
		}
	}
	return d
}

// CopyStore copies a store that nobody has open into a new directory, with all its tiers, so that two memories can go on from there.
func CopyStore(from, to string) (err error) {
	fail := func(err error) error { return fmt.Errorf("memorybank: copy %s: %w", from, err) }
	if _, err := os.Stat(filepath.Join(from, manifestName)); err != nil {
		return fail(fmt.Errorf("not a memory's directory: %w", err))
	}
	lock, err := lockFile(filepath.Join(from, lockName))
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := emptyDir(to); err != nil {
		return fail(err)
	}
	list, err := os.ReadDir(from)
	if err != nil {
		return fail(err)
	}
	// The manifest comes last: without it the directory is no memory.
	slices.SortFunc(list, func(a, b os.DirEntry) int {
		last := func(e os.DirEntry) int {
			if e.Name() == manifestName {
				return 1
			}
			return 0
		}
		return last(a) - last(b)
	})
	for _, e := range list {
		name := e.Name()
		if name == lockName || isAside(name) || strings.HasPrefix(name, tempPrefix) || !e.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return fail(err)
		}
		if err := writeFile(to, name, data, true, false); err != nil {
			return fail(err)
		}
	}
	return nil
}

// LoadStore makes a new store of a bank that Save wrote. What another encoder, configuration or version made is refused with the reason.
func LoadStore(file, to string, o Origin) error {
	fail := func(err error) error { return fmt.Errorf("memorybank: load %s: %w", file, err) }
	raw, err := os.ReadFile(file)
	if err != nil {
		return fail(err)
	}
	saved, err := readSaved(bytes.NewReader(raw))
	if err != nil {
		return fail(err)
	}
	if _, err := saved.bank(nil, o); err != nil {
		return fail(err)
	}
	if err := emptyDir(to); err != nil {
		return fail(err)
	}
	m, err := json.Marshal(manifest{storeVersion, o, saved.Epoch, saved.Zone})
	if err != nil {
		return fail(err)
	}
	if err := writeFile(to, checkpointName, raw, true, false); err != nil {
		return fail(err)
	}
	if err := writeFile(to, manifestName, append(m, '\n'), true, false); err != nil {
		return fail(err)
	}
	return nil
}

// emptyDir makes a directory, or makes sure that it is empty.
func emptyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(list) > 0 {
		return fmt.Errorf("%s is not empty: name a new directory", dir)
	}
	return nil
}

// Wall returns the stretch in wall-clock times of a bank that began at epoch.
func (s Stretch) Wall(epoch time.Time) (from, to time.Time) {
	return epoch.Add(s.From), epoch.Add(s.To)
}
