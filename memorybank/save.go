package memorybank

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"time"

	"afterimage/internal/compute"

	"github.com/maruel/safetensors"
)

// storeVersion is that of the layout below; another one is refused.
const storeVersion = 2

// maxStore bounds what Restore reads. The default model's full bank is 5 MB, a large model's a few hundred.
const maxStore = 4 << 30

// Origin says what made a bank's rows. Rows of another encoder mean nothing to a model, so they are refused.
type Origin struct {
	Encoder string `json:"encoder"` // hash of the encoder's weights
	Config  string `json:"config"`  // hash of what else changes rows: sizes, pooling, projector
}

// storeHeader is the JSON text under "afterimage" in the file's safetensors metadata. Durations are nanoseconds.
type storeHeader struct {
	Version int `json:"version"`
	Origin
	Strategy string       `json:"strategy"`
	Epoch    time.Time    `json:"epoch"`
	Zone     string       `json:"zone"`
	Frames   uint64       `json:"frames"`
	Now      int64        `json:"now"`
	Entries  []storeEntry `json:"entries"`
	Newest   *storeEntry  `json:"newest"`
	Forgot   bool         `json:"forgot,omitempty"`  // the newest frame was, or all entries were
	Carries  bool         `json:"carries,omitempty"` // see carrier
}

type storeEntry struct {
	ID       uint64      `json:"id"`
	Start    int64       `json:"start"`
	End      int64       `json:"end"`
	At       int64       `json:"at"`
	Weight   float32     `json:"weight"`
	Role     Role        `json:"role"`
	Level    uint8       `json:"level,omitempty"`
	Grid     [2]int      `json:"grid"`
	Point    []byte      `json:"indicator,omitempty"` // FP8 E4M3
	Part     uint8       `json:"part,omitempty"`
	Seq      uint64      `json:"seq,omitempty"`
	Merges   uint32      `json:"merges,omitempty"`
	Exemplar *storeEntry `json:"exemplar,omitempty"`
}

// Save writes the snapshot as one safetensors file: rows as F32, thumbnails as U8, the rest as JSON in the metadata. It holds
// nobody up: the bank goes on meanwhile.
func (s *Snapshot) Save(w io.Writer, o Origin) error { return s.save(w, o, nil) }

// save is Save with more metadata, which restore gives back.
func (s *Snapshot) save(w io.Writer, o Origin, more map[string]string) error {
	h := storeHeader{
		Version: storeVersion, Origin: o, Strategy: fmt.Sprintf("%#v", s.strategy), Epoch: s.Epoch, Zone: s.Epoch.Location().String(),
		Frames: s.Version, Now: int64(s.Now), Entries: []storeEntry{}, Carries: carries(s.strategy),
	}
	var f safetensors.File
	var thumbs []safetensors.Tensor // after the rows, which so stay aligned
	add := func(name string, e Entry) storeEntry {
		data := make([]byte, 0, 4*len(e.Tokens.Data))
		for _, v := range e.Tokens.Data {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
		}
		f.Tensors = append(f.Tensors, safetensors.Tensor{
			Name: name + ".rows", DType: safetensors.F32, Shape: []uint64{uint64(e.Tokens.Rows), uint64(e.Tokens.Cols)}, Data: data,
		})
		if e.Thumb != nil {
			thumbs = append(thumbs, safetensors.Tensor{Name: name + ".thumb", DType: safetensors.U8, Shape: []uint64{uint64(len(e.Thumb))}, Data: e.Thumb})
		}
		return storeEntry{
			ID: e.ID, Start: int64(e.Start), End: int64(e.End), At: int64(e.At), Weight: e.Weight, Role: e.Role, Level: e.Level,
			Grid: [2]int{e.Grid.H, e.Grid.W}, Point: []byte(e.Indicator.codes), Part: e.part, Seq: e.seq, Merges: e.merges,
		}
	}
	for i, e := range s.Entries {
		name := fmt.Sprintf("entry.%d", i)
		if e.exemplar == nil {
			h.Entries = append(h.Entries, add(name, e))
			continue
		}
		e.Thumb = nil // it is the exemplar's
		se, ex := add(name, e), add(name+".exemplar", e.exemplar.frame)
		se.Exemplar = &ex
		h.Entries = append(h.Entries, se)
	}
	if s.Newest.Tokens.Rows > 0 {
		e := add("newest", s.Newest)
		h.Newest = &e
	}
	h.Forgot = s.Version > 0 && (h.Newest == nil || len(h.Entries) == 0)
	if len(f.Tensors) == 0 { // readers refuse a file without any
		thumbs = append(thumbs, safetensors.Tensor{Name: "empty", DType: safetensors.U8, Shape: []uint64{1}, Data: []byte{0}})
	}
	text, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("memorybank: save: %w", err)
	}
	f.Tensors = append(f.Tensors, thumbs...)
	f.Metadata = map[string]string{"afterimage": string(text)}
	maps.Copy(f.Metadata, more)
	if err := f.Serialize(w); err != nil {
		return fmt.Errorf("memorybank: save: %w", err)
	}
	return nil
}

// Restore reads a bank that Save wrote; it goes on exactly where that one was, IDs included. What another encoder, configuration or
// strategy made, and what is not whole, is refused with the reason.
func Restore(r io.Reader, s Strategy, o Origin) (*Bank, error) {
	f, err := readSaved(r)
	var b *Bank
	if err == nil {
		b, err = f.bank(s, o)
	}
	if err != nil {
		return nil, fmt.Errorf("memorybank: restore: %w", err)
	}
	return b, nil
}

// savedBank is a file that Save wrote, before anything is made of it.
type savedBank struct {
	storeHeader
	file *safetensors.File
}

func readSaved(r io.Reader) (*savedBank, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxStore+1))
	switch {
	case err != nil:
		return nil, err
	case len(raw) > maxStore:
		return nil, fmt.Errorf("larger than %d bytes", int64(maxStore))
	}
	f, err := safetensors.Parse(raw)
	if err != nil {
		return nil, err
	}
	text, ok := f.Metadata["afterimage"]
	if !ok {
		return nil, errors.New("not a saved bank: no afterimage metadata")
	}
	s := &savedBank{file: f}
	if err := json.Unmarshal([]byte(text), &s.storeHeader); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	if s.Version != storeVersion {
		return nil, fmt.Errorf("format version %d, this program reads %d", s.Version, storeVersion)
	}
	return s, nil
}

// errStrategy is wrapped where nothing but the strategy differs.
var errStrategy = errors.New("it was made with strategy")

// bank makes the bank. Without a strategy it is one to look at and to erase from, not to add to.
func (h *savedBank) bank(s Strategy, o Origin) (*Bank, error) {
	if s == nil {
		s = unknown{h.Strategy, h.Carries}
	}
	if err := o.differ(h.Origin); err != nil {
		return nil, err
	}
	if strategy := fmt.Sprintf("%#v", s); h.Strategy != strategy {
		return nil, fmt.Errorf("%w %q, this is %q", errStrategy, h.Strategy, strategy)
	}
	f := h.file
	rd := storeReader{tensors: make(map[string]safetensors.Tensor, len(f.Tensors))}
	for _, t := range f.Tensors {
		rd.tensors[t.Name] = t
	}
	snap := &Snapshot{Version: h.Frames, Epoch: h.epoch(), Now: time.Duration(h.Now), strategy: s}
	for i, se := range h.Entries {
		snap.Entries = append(snap.Entries, rd.cluster(fmt.Sprintf("entry.%d", i), se))
	}
	if h.Newest != nil {
		snap.Newest = rd.entry("newest", *h.Newest)
	}
	if rd.err != nil {
		return nil, rd.err
	}
	if err := snap.check(h.Forgot); err != nil {
		return nil, err
	}
	if w, ok := s.(restorer); ok {
		if err := w.restored(snap.Entries); err != nil {
			return nil, err
		}
	}
	b := New(snap.Epoch, s)
	b.current.Store(snap)
	return b, nil
}

// differ says why what an Origin made means nothing to o; nil where it does.
func (o Origin) differ(made Origin) error {
	switch {
	case made.Encoder != o.Encoder:
		return fmt.Errorf("it was made with encoder %q, this is %q", made.Encoder, o.Encoder)
	case made.Config != o.Config:
		return fmt.Errorf("it was made with configuration %q, this is %q", made.Config, o.Config)
	}
	return nil
}

// unknown stands for a strategy that made a saved bank, where nobody is going to add to it.
type unknown struct {
	text    string
	carried bool
}

// GoString is what the strategy is called in files.
func (u unknown) GoString() string { return u.text }

// Update is never called: such a bank is not added to.
func (u unknown) Update(old []Entry, _ Entry) []Entry { return old }

// Select implements Strategy: what is there, spread evenly.
func (u unknown) Select(s *Snapshot, query []float32, budget int) []Entry {
	left := newBudget(budget)
	return choose(s, s.Entries, query, &left)
}

func (u unknown) carries() bool { return u.carried }

// epoch gives the time its place's name back, where this machine knows that place and agrees on the hour.
func (h *storeHeader) epoch() time.Time {
	if loc, err := time.LoadLocation(h.Zone); err == nil {
		_, there := h.Epoch.In(loc).Zone()
		if _, here := h.Epoch.Zone(); here == there {
			return h.Epoch.In(loc)
		}
	}
	return h.Epoch
}

// restorer is a Strategy that checks what it is given back, and works out again what is not saved. The entries are its own.
type restorer interface{ restored([]Entry) error }

// check is what holds of every snapshot.
func (s *Snapshot) check(forgot bool) error {
	bare, none := s.Newest.Tokens.Rows == 0, len(s.Entries) == 0
	if !forgot && ((s.Version == 0) != none || (s.Version == 0) != bare) || forgot && s.Version == 0 {
		return fmt.Errorf("%d frames, but %d entries and a newest frame of %d rows", s.Version, len(s.Entries), s.Newest.Tokens.Rows)
	}
	if s.Version > maxFrame || s.Now < 0 {
		return errors.New("frame count or time out of range")
	}
	ids := map[uint64]bool{}
	for i, e := range s.Entries {
		switch {
		case e.ID/idStep > s.Version || e.exemplar != nil && e.exemplar.frame.ID/idStep > s.Version || ids[e.ID]:
			return fmt.Errorf("entry.%d: ID %d is taken or not given yet", i, e.ID)
		case e.End > s.Now:
			return fmt.Errorf("entry.%d: ends after the newest frame", i)
		}
		ids[e.ID] = true
	}
	return nil
}

// storeReader reads entries; its first error sticks.
type storeReader struct {
	tensors map[string]safetensors.Tensor
	err     error
}

func (r *storeReader) fail(name, format string, args ...any) Entry {
	if r.err == nil {
		r.err = fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...))
	}
	return Entry{}
}

func (r *storeReader) entry(name string, se storeEntry) Entry {
	t, ok := r.tensors[name+".rows"]
	const most = 1 << 20 // rows or values a row; keeps the products below in range
	switch {
	case !ok:
		return r.fail(name, "rows are missing")
	case t.DType != safetensors.F32 || len(t.Shape) != 2 || t.Shape[0] == 0 || t.Shape[1] == 0 || t.Shape[0] > most || t.Shape[1] > most:
		return r.fail(name, "rows are %s %v, want a matrix of F32", t.DType, t.Shape)
	case se.Grid[0] <= 0 || se.Grid[1] <= 0 || se.Grid[0] > most || se.Grid[1] > most || uint64(se.Grid[0])*uint64(se.Grid[1]) != t.Shape[0]:
		return r.fail(name, "grid %v with %d rows", se.Grid, t.Shape[0])
	case se.Start < 0 || se.Start > se.At || se.At > se.End:
		return r.fail(name, "times %d <= %d <= %d do not hold", se.Start, se.At, se.End)
	case !(se.Weight >= 1) || math.IsInf(float64(se.Weight), 0):
		return r.fail(name, "weight %v", se.Weight)
	case se.Role > Newest:
		return r.fail(name, "role %d", se.Role)
	}
	e := Entry{
		ID: se.ID, Start: time.Duration(se.Start), End: time.Duration(se.End), At: time.Duration(se.At), Weight: se.Weight, Role: se.Role,
		Level: se.Level, Grid: Grid{H: se.Grid[0], W: se.Grid[1]}, Tokens: compute.NewMatrix(int(t.Shape[0]), int(t.Shape[1])),
		Indicator: indicatorOf(se.Point), part: se.Part, seq: se.Seq, merges: se.Merges,
	}
	for i := range e.Tokens.Data {
		v := math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:]))
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return r.fail(name, "value %d is not a number", i)
		}
		e.Tokens.Data[i] = v
	}
	if th, ok := r.tensors[name+".thumb"]; ok {
		if th.DType != safetensors.U8 {
			return r.fail(name, "thumbnail is %s, want U8", th.DType)
		}
		e.Thumb = append([]byte{}, th.Data...) // a copy, so that the file's bytes can go
	}
	return e
}

func (r *storeReader) cluster(name string, se storeEntry) Entry {
	e := r.entry(name, se)
	if se.Exemplar == nil || r.err != nil {
		return e
	}
	frame := r.entry(name+".exemplar", *se.Exemplar)
	if r.err != nil {
		return e
	}
	grid, own := pool2x2(frame.Grid, frame.Tokens)
	if grid != e.Grid || own.Cols != e.Tokens.Cols {
		return r.fail(name, "exemplar of %dx%d for a synopsis of %dx%d", frame.Grid.H, frame.Grid.W, e.Grid.H, e.Grid.W)
	}
	if frame.At != e.At {
		return r.fail(name, "exemplar's time is not the entry's")
	}
	if e.Weight == 1 {
		own = e.Tokens // the very rows, as they were before
	}
	e.Thumb, e.exemplar = frame.Thumb, &exemplar{frame: frame, own: own}
	return e
}
