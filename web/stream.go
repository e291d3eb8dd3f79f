package web

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"afterimage/ingest"
	"afterimage/qa"
)

// Stream is one watched source as this package needs it. All methods may be called from many goroutines at once.
type Stream interface {
	// Name is what addresses call it; it matches ^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$ and never changes.
	Name() string
	// Source says what is watched, for people: an ingest.URL's String, so without credentials.
	Source() string
	Status() ingest.Status
	// Subscribe gives every later change of Status. The channel may skip values for a slow receiver, but not the last one; the
	// function ends the subscription.
	Subscribe() (<-chan ingest.Status, func())
	// Ask answers from the memory as it is when Ask is called. emit gets the text as it comes, in order and never after Ask
	// returned; its error ends the answer. Ask returns soon after ctx is done, with what it has in Answer.
	Ask(ctx context.Context, q qa.Question, emit func(string) error) (qa.Answer, error)
	// LatestFrame is the newest frame, or false before the first. Nobody writes its pixels.
	LatestFrame() (ingest.Frame, bool)
	MemoryStats() MemoryStats
}

// MemoryStats is what a memory holds at one instant.
type MemoryStats struct {
	Strategy       string
	Version        uint64    // grows with every change
	Entries        int       // remembered moments
	Tokens         int       // visual tokens in them
	Bytes          int64     // host memory of tokens and thumbnails
	Oldest, Newest time.Time // wall clock of what is remembered; zero when empty
}

var streamName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// served is a Stream with what the server keeps beside it.
type served struct {
	Stream
	srv  *Server
	live *live
	ctx  context.Context // of what goes on about it; done when it is no longer served, or the server stops
	end  context.CancelCauseFunc
	kept *snapshots
}

// table is what is served at one moment, in the order shown. It never changes: SetStreams makes another.
type table struct {
	list   []*served
	byName map[string]*served
}

var errRemoved = errors.New("this stream is no longer served")

// SetStreams replaces what is served, in the order shown, while serving or before. A Stream that was there already (==) goes on with its
// sockets and answers. Those of one that is gone, or that another of the same name replaces, are ended: sockets are told why and closed.
// With an error nothing has changed.
func (s *Server) SetStreams(streams []Stream) error {
	if len(streams) == 0 {
		return errors.New("web: there is no stream to serve")
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	old := s.table.Load()
	next := &table{byName: make(map[string]*served, len(streams))}
	for _, st := range streams {
		name := st.Name()
		if !streamName.MatchString(name) {
			return fmt.Errorf("web: stream name %q: use letters, digits, - and _, at most 64", name)
		}
		if next.byName[name] != nil {
			return fmt.Errorf("web: two streams are named %q", name)
		}
		sv := old.byName[name]
		if sv == nil || sv.Stream != st {
			sv = &served{Stream: st, srv: s, kept: &snapshots{}, live: &live{stream: st, id: s.pictured, start: s.spawn, watchers: map[*outbox]struct{}{}}}
			sv.ctx, sv.end = context.WithCancelCause(s.ctx)
			s.pictured++
		}
		next.list, next.byName[name] = append(next.list, sv), sv
	}
	s.table.Store(next)
	for _, sv := range old.list {
		if next.byName[sv.Name()] != sv {
			sv.end(errRemoved)
			if next.byName[sv.Name()] == nil {
				s.metrics.forget(sv.Name())
			}
		}
	}
	return nil
}

// streams are those that are served now, in the order shown.
func (s *Server) streams() []*served { return s.table.Load().list }

// stream returns the stream of that name, nil when there is none.
func (s *Server) stream(name string) *served { return s.table.Load().byName[name] }

// visible are the streams on which c has a role, in the order shown.
func (s *Server) visible(c *caller, need Role) []*served {
	var list []*served
	for _, st := range s.streams() {
		if s.authorize(c, st.Name(), need) == nil {
			list = append(list, st)
		}
	}
	return list
}

func (s *served) info(st ingest.Status) streamInfo {
	return streamInfo{
		Stream: s.Name(), Source: s.Source(), State: string(st.State), Since: stamp(st.Since), Error: st.Err,
		LastFrame: stamp(st.LastFrame), LagMS: lag(st.LastFrame), Frames: st.Frames, Dropped: st.Dropped, Reconnects: st.Reconnects,
	}
}

func (s *served) memory() *memoryEvent {
	m, st := s.MemoryStats(), s.Status()
	return &memoryEvent{
		header: header{Type: "memory.stats"}, Stream: s.Name(), LagMS: lag(st.LastFrame), Last: stamp(st.LastFrame), Frames: st.Frames, Drop: st.Dropped,
		Memory: memoryInfo{
			Strategy: m.Strategy, Version: m.Version, Entries: m.Entries, Tokens: m.Tokens, Bytes: m.Bytes,
			Oldest: stamp(m.Oldest), Newest: stamp(m.Newest),
		},
	}
}

// lag is how old the newest frame is, in milliseconds; nil when there is none.
func lag(last time.Time) *int64 {
	if last.IsZero() {
		return nil
	}
	ms := max(0, time.Since(last).Milliseconds())
	return &ms
}
