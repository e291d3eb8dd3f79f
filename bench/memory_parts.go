package bench

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"afterimage/ingest"
	"afterimage/ingest/simcam"
	"afterimage/llm"
	"afterimage/memorybank"
	"afterimage/qa"
)

// Ages are the bins of a question's age: the time from the end of its evidence to the moment of asking. "whole" are questions that
// all of the past is the evidence for: how many there were, and what did not happen.
var Ages = []string{"now", "up to 1 min", "1-10 min", "over 10 min", "whole"}

type age struct {
	name  string
	since time.Duration
}

// nowAge is how old what is going on may look, with frames that come every half second.
const nowAge = 2 * time.Second

func ageOf(t simcam.Truth) age {
	end := min(t.To, t.At)
	if len(t.Evidence) > 0 {
		end = 0
		for _, e := range t.Evidence {
			end = max(end, min(e.To, t.At))
		}
	}
	since := t.At - end
	whole := t.Type == simcam.Counting || t.Type == simcam.DidNotHappen || len(t.Evidence) == 0 && t.From <= 0 && since <= 0 && t.At > nowAge
	switch {
	case whole:
		return age{Ages[4], since}
	case since <= nowAge:
		return age{Ages[0], since}
	case since <= time.Minute:
		return age{Ages[1], since}
	case since <= 10*time.Minute:
		return age{Ages[2], since}
	}
	return age{Ages[3], since}
}

// shows reports whether a question's evidence is among items: every stretch of it, or any where one will do.
func shows(items []qa.EvidenceItem, t simcam.Truth, epoch time.Time) bool {
	n := 0
	for _, span := range t.Evidence {
		for _, item := range items {
			if shown(item.From.Sub(epoch), item.To.Sub(epoch), span) {
				n++
				break
			}
		}
	}
	if t.Type == simcam.EventOccurrence {
		return n > 0
	}
	return n == len(t.Evidence)
}

// leastShare is how much of what an entry covers must be of a stretch for the entry to show it: in the mean of an hour, ten seconds are
// nothing to see.
const leastShare = 0.25

func shown(from, to time.Duration, span simcam.Span) bool {
	overlap := min(to, span.To) - max(from, span.From)
	return overlap >= 0 && float64(overlap) >= leastShare*float64(to-from)
}

// feed is where Watch puts the frames that it has encoded. It is qa.Memory.
type feed struct {
	ctx     context.Context // ends it
	door    *memorybank.Bank
	entries chan memorybank.Entry
	err     error // of Watch; read after entries is closed
}

// Snapshot implements qa.Memory.
func (f *feed) Snapshot() *memorybank.Snapshot { return f.door.Snapshot() }

// Add implements qa.Memory. Each memory would work out the same indicator of a frame that has none: the door does it once.
func (f *feed) Add(e memorybank.Entry) {
	f.door.Add(e)
	e.At, e.Indicator = f.door.Snapshot().Newest.At, f.door.Snapshot().Newest.Indicator
	select {
	case f.entries <- e:
	case <-f.ctx.Done():
	}
}

// simWatched is a stream's own clock and what was watched of it. It is qa.Watched.
type simWatched struct {
	epoch    time.Time
	coverage *ingest.Coverage
	clock    atomic.Int64 // stream time, ns
	frames   atomic.Uint64
}

func (w *simWatched) now() time.Time { return w.epoch.Add(time.Duration(w.clock.Load())) }

// Status implements qa.Watched.
func (w *simWatched) Status() ingest.Status {
	return ingest.Status{State: ingest.Live, Since: w.epoch, LastFrame: w.now(), Frames: w.frames.Load()}
}

// Coverage implements qa.Watched.
func (w *simWatched) Coverage() *ingest.Coverage { return w.coverage }

// answered is what a model has said, by what it was asked: two budgets, or two strategies, often show the same.
type answered struct {
	mu sync.Mutex
	of map[[sha256.Size]byte]*oneAnswer
}

type oneAnswer struct {
	done  chan struct{} // closed when the rest is set
	text  string
	stats llm.Stats
	err   error
}

// onceEach is query, worked out once a question however many memories are asked; nil of nil.
func onceEach(query func(string) []float32) func(string) []float32 {
	if query == nil {
		return nil
	}
	var mu sync.Mutex
	known := map[string][]float32{}
	return func(question string) []float32 {
		mu.Lock()
		defer mu.Unlock()
		v, ok := known[question]
		if !ok {
			v = query(question)
			known[question] = v
		}
		return v
	}
}

// repeatedKey is where a context has a *bool that is set when the answer was known.
type repeatedKey struct{}

// once is a model that is asked everything once. Answers are greedy, so an equal prompt has an equal one.
type once struct {
	qa.Model
	*answered
}

// Generate implements qa.Model.
func (o once) Generate(ctx context.Context, p llm.Prompt, opts llm.Options, emit func(llm.Token) error) (llm.Stats, error) {
	key := hashOf(p)
	o.mu.Lock()
	a, known := o.of[key]
	if !known {
		a = &oneAnswer{done: make(chan struct{})}
		o.of[key] = a
	}
	o.mu.Unlock()
	if known {
		select {
		case <-a.done:
		case <-ctx.Done():
			return llm.Stats{}, ctx.Err()
		}
		if repeated, ok := ctx.Value(repeatedKey{}).(*bool); ok {
			*repeated = true
		}
		if a.err != nil {
			return a.stats, a.err
		}
		return a.stats, emit(llm.Token{Text: a.text})
	}
	defer close(a.done)
	var text strings.Builder
	a.stats, a.err = o.Model.Generate(ctx, p, opts, func(t llm.Token) error {
		text.WriteString(t.Text)
		return emit(t)
	})
	a.text = text.String()
	return a.stats, a.err
}

// hashOf tells prompts apart by what the model sees of them: control tokens, text and rows, not the rows' IDs.
func hashOf(p llm.Prompt) (sum [sha256.Size]byte) {
	h := sha256.New()
	var buf []byte
	text := func(s string) {
		buf = binary.AppendUvarint(buf, uint64(len(s)))
		buf = append(buf, s...)
	}
	for _, part := range p {
		buf = buf[:0]
		text(part.Control)
		text(part.Text)
		buf = binary.AppendUvarint(buf, uint64(len(part.Tokens)))
		for _, id := range part.Tokens {
			buf = binary.AppendVarint(buf, int64(id))
		}
		buf = binary.AppendUvarint(buf, uint64(part.Visual.Rows))
		for _, v := range part.Visual.Data {
			buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
		}
		_, _ = h.Write(buf) // never fails
	}
	h.Sum(sum[:0])
	return sum
}
