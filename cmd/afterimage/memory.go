package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"afterimage/memorybank"
)

type memoryCmd struct {
	Show   memoryShowCmd   `cmd:"" help:"Print what a memory holds: spans, entries, bytes on disk, when it was watching."`
	Save   memorySaveCmd   `cmd:"" help:"Write a memory's bank to one file."`
	Load   memoryLoadCmd   `cmd:"" help:"Make a memory of a file that \"memory save\" wrote."`
	Fork   memoryForkCmd   `cmd:"" help:"Copy a memory, with all that is on disk, so that two can go on from there."`
	Diff   memoryDiffCmd   `cmd:"" help:"Compare two memories, or files of them."`
	Forget memoryForgetCmd `cmd:"" help:"Erase a stretch of time from a memory."`
}

func (c *memoryCmd) Help() string {
	return `A memory is named by its stream (as in the configuration file of "serve"), by its directory, or where that makes sense by a file that
"memory save" wrote. Streams are looked for where "serve" keeps them; say --memory-dir where the configuration has another memory_dir.

Examples:
  afterimage memory show front_door
  afterimage memory save front_door monday.safetensors
  afterimage memory forget front_door --from "2026-05-04 14:00" --to "2026-05-04 14:05"`
}

// memoryPlace is how the verbs find memories.
type memoryPlace struct {
	MemoryDir string `name:"memory-dir" placeholder:"DIR" type:"path" env:"AFTERIMAGE_MEMORY_DIR" help:"Where streams' memories are; by default where serve keeps them."`
}

// find returns a path: what is there by that name, or the stream's directory.
func (p memoryPlace) find(a *app, name string) (string, error) {
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	root := memoryRoot(p.MemoryDir, a.lookup)
	dir := filepath.Join(root, name)
	if _, err := os.Stat(dir); err == nil && root != "" && streamName.MatchString(name) {
		return dir, nil
	}
	msg := fmt.Sprintf("memory: there is no file, directory or stream %s", name)
	if root != "" {
		msg += "; streams are looked for in " + root
		if list, err := os.ReadDir(root); err == nil && len(list) > 0 {
			names := make([]string, 0, len(list))
			for _, e := range list {
				names = append(names, e.Name())
			}
			msg += ", which has " + strings.Join(names, ", ")
		}
	}
	return "", fmt.Errorf("%s: %w", msg, fs.ErrNotExist)
}

type memoryShowCmd struct {
	memoryPlace `embed:""`

	Memory string `arg:"" help:"A stream, a directory or a file."`
	JSON   bool   `name:"json" help:"Print one JSON object instead."`
}

func (c *memoryShowCmd) Help() string {
	return `Also of a memory that is in use: then it is what lies on disk at this moment.

Example:
  afterimage memory show front_door --json`
}

// memoryDoc is what a memory holds, for programs.
type memoryDoc struct {
	Path     string         `json:"path"`
	Encoder  string         `json:"encoder"`
	Config   string         `json:"config"`
	Strategy string         `json:"strategy"`
	Epoch    string         `json:"epoch"`
	AsOf     string         `json:"as_of,omitempty"`
	Frames   uint64         `json:"frames"`
	Hash     string         `json:"hash"`
	Warm     warmDoc        `json:"warm"`
	Cold     *coldDoc       `json:"cold,omitempty"`
	Watched  []spanDoc      `json:"watched"`
	Broken   []string       `json:"broken,omitempty"`
	Entries  []memoryMoment `json:"entries"`
}

type warmDoc struct {
	Entries int         `json:"entries"`
	Levels  map[int]int `json:"levels"` // moments by how often their rows were averaged 2x2
	Bytes   int64       `json:"bytes"`
	Saved   int64       `json:"saved_bytes"`
}

type coldDoc struct {
	memorybank.StoreStats
	Tail int `json:"not_in_bank_yet"`
}

type memoryMoment struct {
	spanDoc
	ID     uint64  `json:"id"`
	Weight float32 `json:"frames"`
	Level  uint8   `json:"level"`
	Tokens int     `json:"tokens"`
}

func (c *memoryShowCmd) Run(a *app) error {
	path, err := c.find(a, c.Memory)
	if err != nil {
		return err
	}
	in, err := memorybank.Inspect(path)
	if err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(a.out, describeMemory(path, in))
	}
	w := bufio.NewWriter(a.out)
	showMemory(w, path, in)
	return w.Flush()
}

func describeMemory(path string, in *memorybank.Inspection) memoryDoc {
	s := in.Snapshot
	d := memoryDoc{
		Path: path, Encoder: in.Origin.Encoder, Config: in.Origin.Config, Strategy: in.Strategy, Epoch: stamp(s.Epoch), Frames: s.Version, Hash: s.Hash(),
		Watched: []spanDoc{}, Entries: []memoryMoment{}, Broken: in.Broken,
	}
	d.Warm = warmDoc{Entries: len(s.Entries), Levels: map[int]int{}, Bytes: s.Bytes(), Saved: in.Saved}
	for level, n := range s.Levels() {
		d.Warm.Levels[int(level)] = n
	}
	if s.Version > 0 {
		d.AsOf = stamp(s.Wall(s.Now))
	}
	span := func(from, to time.Duration) spanDoc { return spanDoc{stamp(s.Wall(from)), stamp(s.Wall(to))} }
	for _, w := range in.Watched {
		d.Watched = append(d.Watched, span(w.From, w.To))
	}
	for _, e := range s.Entries {
		d.Entries = append(d.Entries, memoryMoment{span(e.Start, e.End), e.ID, e.Weight, e.Level, e.Tokens.Rows})
	}
	if in.IsStore {
		d.Cold = &coldDoc{in.Cold, in.Tail}
	}
	return d
}

func showMemory(w *bufio.Writer, path string, in *memorybank.Inspection) {
	s := in.Snapshot
	day := func(d time.Duration) string { return s.Wall(d).Format("2006-01-02 15:04:05") }
	fmt.Fprintf(w, "%s\nmade by  encoder %s, configuration %s, %s\n",
		path, in.Origin.Encoder, in.Origin.Config, first(in.Strategy, "no bank yet"))
	if s.Version == 0 {
		fmt.Fprintln(w, "warm     nothing")
	} else {
		fmt.Fprintf(w, "warm     %d entries as of %s, %s in memory, %s saved, hash %.16s\n",
			len(s.Entries), day(s.Now), size(s.Bytes()), size(in.Saved), s.Hash())
		levels := s.Levels()
		for _, level := range slices.Sorted(maps.Keys(levels)) {
			fmt.Fprintf(w, "         %s: %d\n", levelWords(level), levels[level])
		}
	}
	if in.IsStore {
		fmt.Fprintf(w, "cold     %d entries in %d segments, %s", in.Cold.Entries, in.Cold.Segments, size(in.Cold.Bytes))
		if in.Cold.Entries > 0 {
			fmt.Fprintf(w, ", %s to %s", day(in.Cold.Oldest.From), day(in.Cold.Oldest.To))
		}
		fmt.Fprintln(w)
		for _, t := range in.Cold.Tiers {
			fmt.Fprintf(w, "         thinned %d times, %s: %d entries, %s, %s to %s\n",
				t.Stage, levelWords(t.Level), t.Entries, size(t.Bytes), day(t.From), day(t.To))
		}
		if in.Tail > 0 {
			fmt.Fprintf(w, "         %d frames are not in the bank's file yet; they are added when the stream is watched again\n", in.Tail)
		}
	}
	const most = 10
	watched := in.Watched
	if n := len(watched) - most; n > 0 {
		fmt.Fprintf(w, "watched  %d earlier stretches\n", n)
		watched = watched[n:]
	}
	for _, sp := range watched {
		fmt.Fprintf(w, "watched  %s to %s\n", day(sp.From), day(sp.To))
	}
	for _, b := range in.Broken {
		fmt.Fprintf(w, "broken   %s\n", b)
	}
}

func levelWords(level uint8) string {
	switch level {
	case 0:
		return "whole frames"
	case 1:
		return "averaged 2x2"
	}
	return fmt.Sprintf("averaged 2x2 %d times", level)
}

type memorySaveCmd struct {
	memoryPlace `embed:""`

	Memory string `arg:"" help:"A stream or a directory."`
	File   string `arg:"" type:"path" help:"The file to write: a safetensors file."`
	Force  bool   `help:"Replace the file if it is there."`
	JSON   bool   `name:"json" help:"Print one JSON object instead of a line."`
}

func (c *memorySaveCmd) Help() string {
	return `The bank is saved as its last checkpoint has it: at most a minute old while the stream is watched, complete when it was stopped. What is
on disk beside it stays there; "memory fork" copies all.

Example:
  afterimage memory save front_door monday.safetensors`
}

func (c *memorySaveCmd) Run(a *app) error {
	path, err := c.find(a, c.Memory)
	if err != nil {
		return err
	}
	in, err := memorybank.Inspect(path)
	if err != nil {
		return err
	}
	if in.Snapshot.Version == 0 {
		return fmt.Errorf("memory: %s has no bank to save%s", path, because(strings.Join(in.Broken, "; ")))
	}
	if _, err := os.Stat(c.File); err == nil && !c.Force {
		return fmt.Errorf("memory: %s is there already; --force replaces it", c.File)
	}
	part := c.File + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	err = in.Snapshot.Save(f, in.Origin)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(part, c.File)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("memory: %w", err), os.Remove(part))
	}
	return c.said(a, in)
}

func (c *memorySaveCmd) said(a *app, in *memorybank.Inspection) error {
	s := in.Snapshot
	if c.JSON {
		return writeJSON(a.out, map[string]any{"file": c.File, "as_of": stamp(s.Wall(s.Now)), "entries": len(s.Entries), "hash": s.Hash()})
	}
	_, err := fmt.Fprintf(a.out, "wrote %s: %d entries as of %s\n", c.File, len(s.Entries), stamp(s.Wall(s.Now)))
	return err
}

type memoryLoadCmd struct {
	memoryPlace `embed:""`

	File string `arg:"" type:"existingfile" help:"A file that \"memory save\" wrote."`
	To   string `arg:"" help:"A new directory, or the name of a stream that has no memory yet."`
	JSON bool   `name:"json" help:"Print one JSON object instead of a line."`
}

func (c *memoryLoadCmd) Help() string {
	return `The file must have been made with the same model (--model), since other models cannot read it, and for "serve" to go on with it by the
strategy that the stream has in its configuration.

Example:
  afterimage memory load monday.safetensors front_door`
}

func (c *memoryLoadCmd) Run(a *app) error {
	files, err := modelFiles(a.Model)
	if err != nil {
		return err
	}
	origin, err := modelOrigin(files)
	if err != nil {
		return err
	}
	to := c.target(a, c.To)
	if err := memorybank.LoadStore(c.File, to, origin); err != nil {
		return err
	}
	return madeMemory(a, to, c.JSON)
}

// target is the directory of a memory that is not there yet.
func (p memoryPlace) target(a *app, name string) string {
	if root := memoryRoot(p.MemoryDir, a.lookup); root != "" && streamName.MatchString(name) {
		if _, err := os.Stat(name); err != nil {
			return filepath.Join(root, name)
		}
	}
	return name
}

func madeMemory(a *app, dir string, asJSON bool) error {
	in, err := memorybank.Inspect(dir)
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSON(a.out, map[string]any{"directory": dir, "frames": in.Snapshot.Version, "entries": len(in.Snapshot.Entries),
			"cold_entries": in.Cold.Entries, "hash": in.Snapshot.Hash()})
	}
	_, err = fmt.Fprintf(a.out, "made %s: %d entries, %d on disk\n", dir, len(in.Snapshot.Entries), in.Cold.Entries)
	return err
}

type memoryForkCmd struct {
	memoryPlace `embed:""`

	Memory string `arg:"" help:"A stream or a directory, not in use."`
	To     string `arg:"" help:"A new directory, or the name of a stream that has no memory yet."`
	JSON   bool   `name:"json" help:"Print one JSON object instead of a line."`
}

func (c *memoryForkCmd) Help() string {
	return `Everything is copied, nothing is shared: what one forgets, the other still knows.

Example:
  afterimage memory fork front_door front_door_experiment`
}

func (c *memoryForkCmd) Run(a *app) error {
	path, err := c.find(a, c.Memory)
	if err != nil {
		return err
	}
	to := c.target(a, c.To)
	if err := memorybank.CopyStore(path, to); err != nil {
		return err
	}
	return madeMemory(a, to, c.JSON)
}

type memoryDiffCmd struct {
	memoryPlace `embed:""`

	A    string `arg:"" help:"A stream, a directory or a file."`
	B    string `arg:"" help:"Another one."`
	JSON bool   `name:"json" help:"Print one JSON object instead."`
}

func (c *memoryDiffCmd) Help() string {
	return `Prints what the first has and the second has not (-), the other way round (+), and what has the same ID and is not the same (!). The exit
status is 0 either way.

Example:
  afterimage memory diff monday.safetensors front_door`
}

func (c *memoryDiffCmd) Run(a *app) error {
	var in [2]*memorybank.Inspection
	for i, name := range []string{c.A, c.B} {
		path, err := c.find(a, name)
		if err == nil {
			in[i], err = memorybank.Inspect(path)
		}
		if err != nil {
			return err
		}
	}
	one, two := in[0].Snapshot, in[1].Snapshot
	d := memorybank.Diff(one, two)
	list := func(s *memorybank.Snapshot, entries []memorybank.Entry) []memoryMoment {
		out := make([]memoryMoment, 0, len(entries))
		for _, e := range entries {
			out = append(out, memoryMoment{spanDoc{stamp(s.Wall(e.Start)), stamp(s.Wall(e.End))}, e.ID, e.Weight, e.Level, e.Tokens.Rows})
		}
		return out
	}
	same := one.Hash() == two.Hash() && one.Epoch.Equal(two.Epoch)
	if c.JSON {
		return writeJSON(a.out, map[string]any{"same": same, "origins_differ": in[0].Origin != in[1].Origin,
			"strategies_differ": in[0].Strategy != in[1].Strategy, "common": d.Common, "only_a": list(one, d.OnlyA), "only_b": list(two, d.OnlyB), "changed": list(one, d.Changed)})
	}
	w := bufio.NewWriter(a.out)
	if same {
		fmt.Fprintf(w, "the same: %d entries\n", len(one.Entries))
		return w.Flush()
	}
	if in[0].Origin != in[1].Origin {
		fmt.Fprintf(w, "! made by other models: encoder %s and %s, configuration %s and %s\n",
			in[0].Origin.Encoder, in[1].Origin.Encoder, in[0].Origin.Config, in[1].Origin.Config)
	}
	if in[0].Strategy != in[1].Strategy {
		fmt.Fprintf(w, "! other strategies: %s and %s\n", in[0].Strategy, in[1].Strategy)
	}
	lines := func(sign string, s *memorybank.Snapshot, entries []memorybank.Entry) {
		for _, e := range entries {
			fmt.Fprintf(w, "%s %s to %s, %g frames, %d rows\n", sign, stamp(s.Wall(e.Start)), stamp(s.Wall(e.End)), e.Weight, e.Tokens.Rows)
		}
	}
	lines("-", one, d.OnlyA)
	lines("+", two, d.OnlyB)
	lines("!", one, d.Changed)
	fmt.Fprintf(w, "%d in both\n", d.Common)
	return w.Flush()
}

type memoryForgetCmd struct {
	memoryPlace `embed:""`

	Memory string `arg:"" help:"A stream or a directory, not in use."`
	From   string `required:"" placeholder:"TIME" help:"Where it begins: 2026-05-04T14:00:00Z, \"2026-05-04 14:00\" or 14:00 (today), in the memory's time zone."`
	To     string `required:"" placeholder:"TIME" help:"Where it ends; that moment itself is kept."`
	JSON   bool   `name:"json" help:"Print one JSON object instead of a line."`
}

func (c *memoryForgetCmd) Help() string {
	return `Erases what was seen then from the bank, from the segments on disk and from every average that was made of it, and overwrites the old
files with zeros. There is no undo. What a file system, a backup, a flash disk's spare blocks or a file of "memory save" still has is not reached.

A memory that is in use is told through its server:
  curl -X POST http://127.0.0.1:8765/api/streams/front_door/forget -d '{"from": "2026-05-04T14:00:00Z", "to": "2026-05-04T14:05:00Z"}'

Example:
  afterimage memory forget front_door --from "2026-05-04 14:00" --to "2026-05-04 14:05"`
}

func (c *memoryForgetCmd) Run(ctx context.Context, a *app) (err error) {
	path, err := c.find(a, c.Memory)
	if err != nil {
		return err
	}
	in, err := memorybank.Inspect(path)
	if err != nil {
		return err
	}
	if !in.IsStore {
		return fmt.Errorf("memory: %s is a file: remove it, or load it into a directory and forget there", path)
	}
	epoch := in.Snapshot.Epoch
	var at [2]time.Time
	for i, text := range []string{c.From, c.To} {
		if at[i], err = parseMoment(text, time.Now().In(epoch.Location())); err != nil {
			return fmt.Errorf("memory: --%s: %w", []string{"from", "to"}[i], err)
		}
	}
	if !at[0].Before(at[1]) {
		return errors.New("memory: --from must be before --to")
	}
	store, err := memorybank.OpenStore(path, memorybank.StoreOptions{
		Origin: in.Origin, Budget: max(2<<30, 2*in.Cold.Bytes), Warn: func(err error) { a.log.Warn("memory on disk", "err", err) },
	})
	if errors.Is(err, memorybank.ErrInUse) {
		return fmt.Errorf("%w; or tell its server: see \"afterimage memory forget --help\"", err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	did, err := store.Bank().Forget(ctx, at[0].Sub(epoch), at[1].Sub(epoch))
	if err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(a.out, map[string]any{"directory": path, "from": stamp(at[0]), "to": stamp(at[1]), "forgotten": did})
	}
	_, err = fmt.Fprintf(a.out, "forgotten from %s to %s: %d entries of the bank (%d made anew of what is left), %d entries on disk\n",
		stamp(at[0]), stamp(at[1]), did.Entries, did.Rebuilt, did.Cold)
	return err
}

// parseMoment reads a time as people write it; what it leaves open is now's.
func parseMoment(text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			y, m, d := now.Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, now.Location()), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q: want a time such as 2026-05-04T14:00:00Z, \"2026-05-04 14:00\" or 14:00", text)
}
