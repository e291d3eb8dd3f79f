package qa

import (
	"time"

	"afterimage/ingest"
	"afterimage/memorybank"
)

// Evidence is what an answer rests on: how fresh it is, when anyone was watching, and exactly what the model was given.
type Evidence struct {
	Asked    time.Time        // when the snapshot was taken
	AsOf     time.Time        // wall time of the newest frame in it; zero when there was none
	Lag      time.Duration    // from AsOf to Asked
	State    ingest.State     // of the source at Asked
	Coverage []ingest.Span    // what was watched, in time order; the newest 64 stretches
	Gaps     []ingest.Span    // what was not, from the first of those to Asked
	Focus    ingest.Span      // what the times in the question narrowed the memory to; zero when all of it was looked at
	Prefer   memorybank.Order // which moments came first where not all fit, as the question's "first" or "last" says
	Note     string           // what the answer had to do without, in words; "" for nothing
	Items    []EvidenceItem
}

// EvidenceItem is one entry as the model was given it, in prompt order. All times are wall time.
type EvidenceItem struct {
	ID       uint64
	Role     memorybank.Role
	From, To time.Time // the span it covers
	At       time.Time // the picture in Thumb
	Weight   float32   // frames averaged
	Tokens   int       // visual tokens it took
	Thumb    []byte    // JPEG, may be nil; shared, not to be written to
}

// maxSpans bounds an answer about a camera that came and went for days.
const maxSpans = 64

// gather fills in everything but Items.
func gather(asked time.Time, snap *memorybank.Snapshot, w Watched) Evidence {
	e := Evidence{Asked: asked.In(snap.Epoch.Location()), State: w.Status().State}
	if snap.Version > 0 {
		e.AsOf = snap.Wall(snap.Now)
		e.Lag = max(asked.Sub(e.AsOf), 0)
	}
	coverage := w.Coverage()
	e.Coverage = coverage.Spans()
	if n := len(e.Coverage); n > maxSpans {
		e.Coverage = e.Coverage[n-maxSpans:]
	}
	if len(e.Coverage) > 0 {
		e.Gaps = coverage.Gaps(e.Coverage[0].From, asked)
	}
	return e
}

func items(entries []memorybank.Entry, snap *memorybank.Snapshot) []EvidenceItem {
	list := make([]EvidenceItem, len(entries))
	for i, e := range entries {
		list[i] = EvidenceItem{
			ID: e.ID, Role: e.Role, From: snap.Wall(e.Start), To: snap.Wall(e.End), At: snap.Wall(e.At),
			Weight: e.Weight, Tokens: e.Tokens.Rows, Thumb: e.Thumb,
		}
	}
	return list
}
