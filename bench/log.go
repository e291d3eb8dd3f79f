package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// runLog is a file of one JSON object a line: a head H that says what was run, then for each piece of work its questions R and a
// line that says which piece K it was, that it is complete, and what else was measured, X. A piece without that line is done again.
type runLog[H, K comparable, R, X any] struct {
	f        *os.File // nil: nothing is kept
	finished map[K]piece[R, X]
	order    []K // of finished, as they came
}

// piece is a finished piece of work.
type piece[R, X any] struct {
	records []R
	extra   X
}

type pieceDone[K, X any] struct {
	Done      *K  `json:"done"`
	Questions int `json:"questions"`
	Extra     X   `json:"extra,omitzero"`
}

// openLog starts the log in file over, or with resume reads it and goes on. Without a file nothing is kept.
func openLog[H, K comparable, R, X any](file string, resume bool, head H) (*runLog[H, K, R, X], error) {
	l := &runLog[H, K, R, X]{finished: map[K]piece[R, X]{}}
	if file == "" {
		return l, nil
	}
	if resume {
		if err := l.read(file, head); err != nil {
			return nil, err
		}
	}
	// What was not complete is not carried over, so the file is written anew.
	part := file + ".part"
	f, err := os.Create(part)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	l.f = f
	if err := json.NewEncoder(f).Encode(head); err != nil {
		return nil, errors.Join(fmt.Errorf("bench: %w", err), f.Close())
	}
	for _, key := range l.order {
		if err := l.write(key, l.finished[key]); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if err := os.Rename(part, file); err != nil {
		return nil, errors.Join(fmt.Errorf("bench: %w", err), f.Close())
	}
	return l, nil
}

func (l *runLog[H, K, R, X]) read(file string, want H) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	var head H
	if !lines.Scan() {
		return nil
	}
	if err := json.Unmarshal(lines.Bytes(), &head); err != nil {
		return fmt.Errorf("bench: %s:1: %w", file, err)
	}
	if head != want {
		return fmt.Errorf("bench: %s is of another run (%+v, now %+v); leave --resume out to start over", file, head, want)
	}
	var records []R
	for lines.Scan() {
		var done pieceDone[K, X]
		if json.Unmarshal(lines.Bytes(), &done) == nil && done.Done != nil {
			if _, twice := l.finished[*done.Done]; done.Questions == len(records) && !twice {
				l.finished[*done.Done] = piece[R, X]{records, done.Extra}
				l.order = append(l.order, *done.Done)
			}
			records = nil
			continue
		}
		var r R
		strict := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		strict.DisallowUnknownFields()
		if strict.Decode(&r) != nil {
			break // the line that was being written when it stopped
		}
		records = append(records, r)
	}
	return lines.Err()
}

// add writes one finished piece.
func (l *runLog[H, K, R, X]) add(key K, records []R, extra X) error {
	if l.f == nil {
		return nil
	}
	return l.write(key, piece[R, X]{records, extra})
}

func (l *runLog[H, K, R, X]) write(key K, p piece[R, X]) error {
	w := bufio.NewWriter(l.f)
	enc := json.NewEncoder(w)
	for _, r := range p.records {
		if err := enc.Encode(r); err != nil {
			return fmt.Errorf("bench: log: %w", err)
		}
	}
	if err := enc.Encode(pieceDone[K, X]{&key, len(p.records), p.extra}); err != nil {
		return fmt.Errorf("bench: log: %w", err)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("bench: log: %w", err)
	}
	return nil
}

func (l *runLog[H, K, R, X]) close() {
	if l.f != nil {
		_ = l.f.Close() // every line has been written and checked
	}
}
