package web

import (
	"context"
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
	live *live
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
