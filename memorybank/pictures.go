package memorybank

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Picture is the small JPEG of one moment.
type Picture struct {
	At   time.Duration // since the bank's epoch
	JPEG []byte        // read-only
}

// remaining is a picture that remains: in memory, or in a file.
type remaining struct {
	at    time.Duration
	jpeg  []byte // in memory
	file  *coldFile
	index int
}

// Pictures returns those of [from, to) that remain, in memory and on disk, in time order; of more than most of them, as many spread evenly.
// A picture that is erased meanwhile is left out.
func (s *Snapshot) Pictures(ctx context.Context, from, to time.Duration, most int) ([]Picture, error) {
	var list []remaining
	s.remaining(from, to, func(r remaining) bool {
		list = append(list, r)
		return true
	})
	slices.SortStableFunc(list, func(a, b remaining) int { return cmp.Compare(a.at, b.at) }) // those in memory stay first
	list = slices.CompactFunc(list, func(a, b remaining) bool { return a.at == b.at })
	if n := len(list); n > most {
		for i := range most {
			list[i] = list[i*(n-1)/max(most-1, 1)]
		}
		list = list[:most]
	}
	pictures := make([]Picture, 0, len(list))
	for _, r := range list {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		jpeg := r.jpeg
		if r.file != nil {
			var err error
			if jpeg, err = s.archive.thumb(r.file, r.index); errors.Is(err, os.ErrNotExist) {
				continue // thinned or erased meanwhile
			} else if err != nil {
				return nil, fmt.Errorf("memorybank: read a picture: %w", err)
			}
		}
		pictures = append(pictures, Picture{r.at, jpeg})
	}
	return pictures, nil
}

// HasPictures reports whether pictures of at least n different moments of [from, to) remain. It reads nothing.
func (s *Snapshot) HasPictures(from, to time.Duration, n int) bool {
	seen := make(map[time.Duration]bool, n)
	s.remaining(from, to, func(r remaining) bool {
		seen[r.at] = true
		return len(seen) < n
	})
	return len(seen) >= n
}

// remaining calls each with what remains of a stretch, those in memory first, until it returns false. A moment may come more than once.
func (s *Snapshot) remaining(from, to time.Duration, each func(remaining) bool) {
	inside := func(at time.Duration) bool { return at >= from && at < to }
	held := func(e *Entry) bool {
		return len(e.Thumb) == 0 || !inside(e.At) || each(remaining{at: e.At, jpeg: e.Thumb})
	}
	for i := range s.Entries {
		if e := &s.Entries[i]; !held(e) || e.exemplar != nil && !held(&e.exemplar.frame) {
			return
		}
	}
	if !held(&s.Newest) || s.archive == nil {
		return
	}
	s.archive.mu.Lock()
	files := s.archive.files
	onTheWay := append(slices.Clone(s.archive.writing), s.archive.waiting...)
	s.archive.mu.Unlock()
	for i := range onTheWay {
		if !held(&onTheWay[i]) {
			return
		}
	}
	first, _ := slices.BinarySearchFunc(files, from, func(f *coldFile, t time.Duration) int { return cmp.Compare(f.end(), t) })
	for _, f := range files[first:] {
		if f.start() >= to {
			return
		}
		for i := range f.items {
			it := &f.items[i]
			if it.thumb > 0 && inside(it.at) && it.end <= s.Now && !each(remaining{at: it.at, file: f, index: i}) {
				return
			}
		}
	}
}

// thumb reads the picture of an entry of a file. Its checksum is over rows and picture, so both are read. os.ErrNotExist: it is there no more.
func (s *Store) thumb(f *coldFile, i int) ([]byte, error) {
	r, err := os.Open(filepath.Join(s.dir, f.name))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	_, jpeg, err := f.raw(r, i)
	return jpeg, err
}

// raw reads an entry's rows, as they are stored, and its picture.
func (f *coldFile) raw(r io.ReaderAt, i int) (rows, jpeg []byte, err error) {
	it := &f.items[i]
	rows = make([]byte, f.rowBytes())
	at := f.header + f.indexBytes()
	if _, err := r.ReadAt(rows, at+int64(i)*f.rowBytes()); err != nil {
		return nil, nil, err
	}
	if it.thumb > 0 {
		jpeg = make([]byte, it.thumb)
		if _, err := r.ReadAt(jpeg, at+int64(f.n)*f.rowBytes()+int64(it.thumbAt)); err != nil {
			return nil, nil, err
		}
	}
	if crc32.Update(crc32.Checksum(rows, castagnoli), castagnoli, jpeg) != it.sum {
		return nil, nil, fmt.Errorf("entry %d: its checksum does not fit", i)
	}
	return rows, jpeg, nil
}
