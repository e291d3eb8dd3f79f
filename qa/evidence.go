package qa

import (
	"context"
	"fmt"
	"slices"
	"time"

	"afterimage/ingest"
	"afterimage/llm"
	"afterimage/memorybank"
)

// Evidence is what an answer rests on: how fresh it is, when anyone was watching, and exactly what the model was given.
type Evidence struct {
	Asked    time.Time        // when the snapshot was taken
	AsOf     time.Time        // wall time of the newest frame in it; zero when there was none
	Lag      time.Duration    // from AsOf to Asked
	State    ingest.State     // of the source at Asked
	Since    time.Time        // when State began; for a frozen one, when its picture last changed
	Coverage []ingest.Span    // what was watched, in time order; the newest 64 stretches
	Gaps     []ingest.Span    // what was not, from the first of those to Asked
	Focus    ingest.Span      // what the times in the question narrowed the memory to; zero when all of it was looked at
	Prefer   memorybank.Order // which moments came first where not all fit, as the question's "first" or "last" says
	Note     string           // what the answer had to do without, in words; "" for nothing
	Cut      []string         // what budgets and deadlines cut off, in words
	Items    []EvidenceItem
	Cameras  []CameraEvidence // of a question about several: each camera's own; see Several
}

// EvidenceItem is one entry as the model was given it, in prompt order. All times are wall time.
type EvidenceItem struct {
	Stream   string // whose it is, in a question about several; "" else
	ID       uint64
	Role     memorybank.Role
	From, To time.Time // the span it covers
	At       time.Time // the picture in Thumb
	Weight   float32   // frames averaged
	Level    uint8     // times that its rows were averaged 2x2, from the encoder's grid down
	Tokens   int       // visual tokens it took
	Match    *float32  // how near what it shows is to the question, -1 to 1, as selection ranks moments; nil without a learned memory
	Share    *float32  // of the model's attention as it began to answer (see llm.Options.Shares); nil when that was not measured
	Thumb    []byte    // JPEG, may be nil; shared, not to be written to

	// Clip is the stretch that pictures of at least two moments remain of, for Session.Pictures; zero when they do not.
	Clip ingest.Span
}

// Level says how finely an answer was given a stretch: "fine" where a whole frame of it was among the items, "coarse" where only averages
// were, "none" where nothing was.
func (e Evidence) Level(s ingest.Span) string {
	level := "none"
	for _, it := range e.Items {
		if it.From.After(s.To) || it.To.Before(s.From) {
			continue
		}
		if it.Role != memorybank.Synopsis {
			return "fine"
		}
		level = "coarse"
	}
	return level
}

// CameraEvidence is one camera's part of a question about several.
type CameraEvidence struct {
	Stream string
	Evidence
}

// maxSpans bounds an answer about a camera that came and went for days.
const maxSpans = 64

// gather fills in everything but Items.
func gather(asked time.Time, snap *memorybank.Snapshot, w Watched) Evidence {
	status := w.Status()
	e := Evidence{Asked: asked.In(snap.Epoch.Location()), State: status.State, Since: status.Since}
	if snap.Version > 0 {
		e.AsOf = snap.Wall(snap.Now)
		e.Lag = max(asked.Sub(e.AsOf), 0)
	}
	if status.State == ingest.Frozen {
		e.Since = status.Changed
		e.Note = "the picture has not changed since " + timeWords(status.Changed, e.Asked) + ": the camera may be frozen"
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

// of leaves the coverage and the gaps of one stretch only.
func (e *Evidence) of(s ingest.Span, c *ingest.Coverage) {
	e.Coverage, e.Gaps = c.Within(s.From, s.To), c.Gaps(s.From, s.To)
	if n := len(e.Coverage); n > maxSpans {
		e.Coverage = e.Coverage[n-maxSpans:]
	}
	if n := len(e.Gaps); n > maxSpans {
		e.Gaps = e.Gaps[n-maxSpans:]
	}
}

// clipAround is how much is shown before and after the picture of an entry that is shorter than that.
const clipAround = 5 * time.Second

// items describes entries; snap is the whole memory that they were taken from, query the question in the space of their indicators.
func items(entries []memorybank.Entry, snap *memorybank.Snapshot, query []float32) []EvidenceItem {
	list := make([]EvidenceItem, len(entries))
	for i, e := range entries {
		list[i] = EvidenceItem{
			ID: e.ID, Role: e.Role, From: snap.Wall(e.Start), To: snap.Wall(e.End), At: snap.Wall(e.At),
			Weight: e.Weight, Level: e.Level, Tokens: e.Tokens.Rows, Thumb: e.Thumb,
		}
		if len(query) > 0 && e.Indicator.Dim() == len(query) {
			match := float32(e.Indicator.Cosine(query))
			list[i].Match = &match
		}
		from, to := min(e.Start, e.At-clipAround), max(e.End, e.At+clipAround)
		if snap.HasPictures(from, to, 2) {
			list[i].Clip = ingest.Span{From: snap.Wall(from), To: snap.Wall(to)}
		}
	}
	return list
}

// shared notes the items' shares of the attention. shares are those of the prompt's parts, nil when they were not measured; id is the part's
// that shows an item.
func (e *Evidence) shared(p llm.Prompt, shares []float32, id func(EvidenceItem) uint64) {
	if len(shares) != len(p) {
		return
	}
	of := make(map[uint64]float32, len(e.Items))
	for i, part := range p {
		if part.Visual.Rows > 0 {
			of[part.ID] += shares[i]
		}
	}
	for i := range e.Items {
		if share, ok := of[id(e.Items[i])]; ok {
			e.Items[i].Share = &share
		}
	}
}

// Picture is a small JPEG of one moment.
type Picture struct {
	At   time.Time
	JPEG []byte // shared, not to be written to
}

// Pictures returns the pictures of a stretch that remain now, in memory and on disk, in time order; of more than most of them, as many spread
// evenly. What was forgotten is not among them.
func (s *Session) Pictures(ctx context.Context, span ingest.Span, most int) ([]Picture, error) {
	snap := s.bank.Snapshot()
	list, err := snap.Pictures(ctx, span.From.Sub(snap.Epoch), span.To.Sub(snap.Epoch), most)
	if err != nil {
		return nil, fmt.Errorf("qa: pictures: %w", err)
	}
	pictures := make([]Picture, len(list))
	for i, p := range list {
		pictures[i] = Picture{At: snap.Wall(p.At), JPEG: p.JPEG}
	}
	return pictures, nil
}

// Remembered is what the memory holds at this moment, in the strategy's order, the newest frame last.
func (s *Session) Remembered() []EvidenceItem {
	snap := s.bank.Snapshot()
	entries := slices.Clone(snap.Entries)
	if snap.Newest.Tokens.Rows > 0 {
		entries = append(entries, snap.Newest)
	}
	return items(entries, snap, nil)
}
