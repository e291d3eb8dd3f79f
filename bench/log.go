package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// simLog is a file of one JSON object a line: a head that says what was run, then for each seed its questions and a line that
// says it is complete. A seed without that line is asked again.
type simLog struct {
	f        *os.File // nil: nothing is kept
	finished map[uint64][]Record
}

type logHead struct {
	Benchmark string  `json:"benchmark"`
	Strategy  string  `json:"strategy"`
	Baseline  string  `json:"baseline"`
	Codec     string  `json:"codec"`
	Minutes   float64 `json:"minutes"`
	PerMinute int     `json:"questions_per_minute"`
	Model     string  `json:"model"`
}

type seedDone struct {
	Done      *uint64 `json:"seed_done"`
	Questions int     `json:"questions"`
}

// openLog starts the log over, or with o.Resume reads it and goes on.
func openLog(o SimOptions, model string) (*simLog, error) {
	l := &simLog{finished: map[uint64][]Record{}}
	if o.Log == "" {
		return l, nil
	}
	head := logHead{"sim", o.Strategy, o.Baseline, o.Codec, o.Length.Minutes(), o.PerMinute, model}
	if o.Resume {
		if err := l.read(o.Log, head); err != nil {
			return nil, err
		}
	}
	// What was not complete is not carried over, so the file is written anew.
	part := o.Log + ".part"
	f, err := os.Create(part)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	l.f = f
	if err := json.NewEncoder(f).Encode(head); err != nil {
		return nil, errors.Join(fmt.Errorf("bench: %w", err), f.Close())
	}
	for seed, records := range l.finished {
		if err := l.add(seed, records); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if err := os.Rename(part, o.Log); err != nil {
		return nil, errors.Join(fmt.Errorf("bench: %w", err), f.Close())
	}
	return l, nil
}

func (l *simLog) read(file string, want logHead) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	var head logHead
	if !lines.Scan() {
		return nil
	}
	if err := json.Unmarshal(lines.Bytes(), &head); err != nil {
		return fmt.Errorf("bench: %s:1: %w", file, err)
	}
	if head != want {
		return fmt.Errorf("bench: %s is of another run (%+v, now %+v); leave --resume out to start over", file, head, want)
	}
	var records []Record
	for lines.Scan() {
		var done seedDone
		if json.Unmarshal(lines.Bytes(), &done) == nil && done.Done != nil {
			if done.Questions == len(records) {
				l.finished[*done.Done] = records
			}
			records = nil
			continue
		}
		var r Record
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			break // the line that was being written when it stopped
		}
		records = append(records, r)
	}
	return lines.Err()
}

// add writes one finished seed.
func (l *simLog) add(seed uint64, records []Record) error {
	if l.f == nil {
		return nil
	}
	w := bufio.NewWriter(l.f)
	enc := json.NewEncoder(w)
	for _, r := range records {
		if err := enc.Encode(r); err != nil {
			return fmt.Errorf("bench: log: %w", err)
		}
	}
	if err := enc.Encode(seedDone{&seed, len(records)}); err != nil {
		return fmt.Errorf("bench: log: %w", err)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("bench: log: %w", err)
	}
	return nil
}

func (l *simLog) close() {
	if l.f != nil {
		_ = l.f.Close() // every line has been written and checked
	}
}
