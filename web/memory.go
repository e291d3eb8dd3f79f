package web

import (
	"cmp"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"afterimage/memorybank"
)

// Inspected is a Stream whose memory can be looked into, entry by entry.
type Inspected interface {
	Snapshot() *memorybank.Snapshot
	// SaveSnapshot writes one of the stream's snapshots in the format that "afterimage memory" reads.
	SaveSnapshot(w io.Writer, snap *memorybank.Snapshot) error
}

// entryInfo is one remembered moment.
type entryInfo struct {
	Slot   string  `json:"slot"` // as evidence names it
	Role   string  `json:"role"`
	Level  int     `json:"level"` // times that its rows were averaged 2x2
	From   stamp   `json:"from"`
	To     stamp   `json:"to"`
	At     stamp   `json:"at"`     // of the thumbnail
	Weight float32 `json:"weight"` // frames it stands for
	Tokens int     `json:"tokens"`
	Thumb  string  `json:"thumb,omitempty"`
}

type levelInfo struct {
	Level   int         `json:"level"`
	Tokens  int         `json:"tokens"`
	Entries []entryInfo `json:"entries"` // by time
}

// inspected finds a stream whose memory can be looked into, or answers.
func (s *Server) inspected(w http.ResponseWriter, r *http.Request) (*served, Inspected) {
	st := s.find(w, r.PathValue("name"))
	if st == nil {
		return nil, nil
	}
	m, ok := st.Stream.(Inspected)
	if !ok {
		writeError(w, http.StatusNotImplemented, "memory_not_shown", "this stream's memory cannot be looked into")
		return nil, nil
	}
	return st, m
}

// memoryEntries answers GET /api/streams/{name}/memory: what is remembered, by level, finest first.
func (s *Server) memoryEntries(w http.ResponseWriter, r *http.Request) {
	st, m := s.inspected(w, r)
	if m == nil {
		return
	}
	snap := m.Snapshot()
	byLevel := map[int]*levelInfo{}
	add := func(e memorybank.Entry) {
		l := byLevel[int(e.Level)]
		if l == nil {
			l = &levelInfo{Level: int(e.Level)}
			byLevel[l.Level] = l
		}
		l.Tokens += e.Tokens.Rows
		l.Entries = append(l.Entries, entryInfo{
			Slot: itoa(e.ID), Role: e.Role.String(), Level: l.Level, From: stamp(snap.Wall(e.Start)), To: stamp(snap.Wall(e.End)), At: stamp(snap.Wall(e.At)),
			Weight: e.Weight, Tokens: e.Tokens.Rows, Thumb: s.thumbLink(st.Name(), e.Thumb),
		})
	}
	for _, e := range snap.Held() {
		add(e)
	}
	levels := make([]levelInfo, 0, len(byLevel))
	for _, l := range byLevel {
		slices.SortFunc(l.Entries, func(a, b entryInfo) int { return time.Time(a.From).Compare(time.Time(b.From)) })
		levels = append(levels, *l)
	}
	slices.SortFunc(levels, func(a, b levelInfo) int { return cmp.Compare(a.Level, b.Level) })
	var asOf stamp
	if snap.Version > 0 {
		asOf = stamp(snap.Wall(snap.Now))
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"stream": st.Name(), "version": snap.Version, "strategy": st.MemoryStats().Strategy, "as_of": asOf, "levels": levels,
	})
}

const maxSnapshots = 4 // kept a stream

// snapshots are the copies of a memory that somebody asked to keep. They share the memory's rows, so keeping one costs what the memory lets
// go of afterwards; the oldest goes when there are too many.
type snapshots struct {
	mu   sync.Mutex
	list []keptSnapshot // oldest first
}

type keptSnapshot struct {
	snap  *memorybank.Snapshot
	taken time.Time
}

type snapshotInfo struct {
	ID      string `json:"id"`
	Taken   stamp  `json:"taken"`
	AsOf    stamp  `json:"as_of"` // of the newest frame in it
	Version uint64 `json:"version"`
	Entries int    `json:"entries"`
	File    string `json:"file"` // where it can be had
}

func (s *served) snapshotInfo(k keptSnapshot) snapshotInfo {
	id := itoa(k.snap.Version)
	return snapshotInfo{id, stamp(k.taken), stamp(k.snap.Wall(k.snap.Now)), k.snap.Version, len(k.snap.Entries),
		"/api/streams/" + s.Name() + "/memory/snapshots/" + id + ".safetensors"}
}

// keepSnapshot takes a copy of the memory as it is now; ok is false while there is nothing in it.
func (s *served) keepSnapshot(m Inspected) (info snapshotInfo, ok bool) {
	snap := m.Snapshot()
	if snap.Version == 0 {
		return info, false
	}
	k := keptSnapshot{snap, time.Now()}
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	s.kept.list = slices.DeleteFunc(s.kept.list, func(o keptSnapshot) bool { return o.snap.Version == snap.Version })
	s.kept.list = append(s.kept.list, k)
	if n := len(s.kept.list) - maxSnapshots; n > 0 {
		s.kept.list = slices.Delete(s.kept.list, 0, n)
	}
	return s.snapshotInfo(k), true
}

func (k *snapshots) clear() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = nil
}

// find returns the copy of an id, and its place.
func (k *snapshots) find(id string) (keptSnapshot, bool) {
	version, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return keptSnapshot{}, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, kept := range k.list {
		if kept.snap.Version == version {
			return kept, true
		}
	}
	return keptSnapshot{}, false
}

func (s *Server) listSnapshots(w http.ResponseWriter, r *http.Request) {
	st, m := s.inspected(w, r)
	if m == nil {
		return
	}
	list := []snapshotInfo{}
	st.kept.mu.Lock()
	for _, k := range st.kept.list {
		list = append(list, st.snapshotInfo(k))
	}
	st.kept.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{"snapshots": list})
}

func (s *Server) takeSnapshot(w http.ResponseWriter, r *http.Request) {
	st, m := s.inspected(w, r)
	if m == nil {
		return
	}
	info, ok := st.keepSnapshot(m)
	if !ok {
		writeError(w, http.StatusConflict, "memory_empty", "nothing is remembered yet")
		return
	}
	writeJSON(w, http.StatusCreated, info)
}

// snapshotFile answers GET …/memory/snapshots/{file}, ID.safetensors.
func (s *Server) snapshotFile(w http.ResponseWriter, r *http.Request) {
	st, m := s.inspected(w, r)
	if m == nil {
		return
	}
	id, named := strings.CutSuffix(r.PathValue("file"), ".safetensors")
	kept, ok := st.kept.find(id)
	if !named || !ok {
		writeError(w, http.StatusNotFound, "snapshot_not_found", "this copy of the memory is not kept")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="`+st.Name()+"-"+id+`.safetensors"`)
	out := &slowWriter{w, http.NewResponseController(w), s.cfg.WriteTimeout}
	if err := m.SaveSnapshot(out, kept.snap); err != nil {
		s.log.Warn("copy of the memory", "stream", st.Name(), "err", err)
		panic(http.ErrAbortHandler) // so that half a file does not look like a whole one
	}
}

func (s *Server) dropSnapshot(w http.ResponseWriter, r *http.Request) {
	st, m := s.inspected(w, r)
	if m == nil {
		return
	}
	id := r.PathValue("file")
	kept, ok := st.kept.find(id)
	if !ok {
		writeError(w, http.StatusNotFound, "snapshot_not_found", "this copy of the memory is not kept")
		return
	}
	st.kept.mu.Lock()
	st.kept.list = slices.DeleteFunc(st.kept.list, func(o keptSnapshot) bool { return o == kept })
	st.kept.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// slowWriter gives each part of a long answer its own time: as long as the client takes some of it, it may go on.
type slowWriter struct {
	w       io.Writer
	control *http.ResponseController
	within  time.Duration
}

func (s *slowWriter) Write(b []byte) (n int, err error) {
	const part = 256 << 10
	for len(b) > 0 {
		_ = s.control.SetWriteDeadline(time.Now().Add(s.within)) // what cannot be extended ends by itself
		m, err := s.w.Write(b[:min(part, len(b))])
		if n += m; err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}
