package qa

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"afterimage/internal/compute"
	"afterimage/llm"
	"afterimage/llm/chat"
	"afterimage/memorybank"
)

// Layout is how a model is shown a memory and asked: what its prompts say around the entries' rows and the question. A prompt is
// Memory and then Question; the first depends on the entries only, so its keys and values can be reused for the next question.
type Layout interface {
	// Memory lays out entries in the order that Select gave them. rows are theirs in the model's embedding space.
	Memory(snap *memorybank.Snapshot, entries []memorybank.Entry, rows []compute.Matrix) (llm.Prompt, error)
	// Question lays out a question about them, asked at a time, up to where the model answers.
	Question(text string, now time.Time) llm.Prompt
}

// Conversational is a Layout of models that understand a question from what was said before it.
type Conversational interface {
	Layout
	// Conversation is Question after earlier exchanges about the same memory, oldest first.
	Conversation(history []Exchange, text string, now time.Time) llm.Prompt
}

// Marked is the layout of models that were trained on memories: the embedded default. For each entry its role's control token, its wall time
// in six digits (HHMMSS in the epoch's Location: a synopsis's start, else the frame's own) and its rows; then the question.
type Marked struct{}

// The control tokens of a Marked prompt. Models are trained on exactly this layout.
const (
	bosToken       = "<|bos|>"
	userToken      = "<|user|>"
	assistantToken = "<|assistant|>"
)

var roleTokens = [...]string{memorybank.Synopsis: "<|segment|>", memorybank.Detail: "<|detail|>", memorybank.Newest: "<|newest|>"}

// Memory implements Layout.
func (Marked) Memory(snap *memorybank.Snapshot, entries []memorybank.Entry, rows []compute.Matrix) (llm.Prompt, error) {
	p := make(llm.Prompt, 0, 3*len(entries)+1)
	p = append(p, llm.Part{Control: bosToken})
	for i, e := range entries {
		p = append(p,
			llm.Part{Control: roleTokens[e.Role]},
			llm.Part{Text: snap.Wall(shownAt(e)).Format("150405")},
			llm.Part{Visual: rows[i], ID: e.ID})
	}
	return p, nil
}

// Question implements Layout.
func (Marked) Question(text string, _ time.Time) llm.Prompt {
	return llm.Prompt{{Control: userToken}, {Text: text}, {Control: assistantToken}}
}

// shownAt is the time that an entry is shown with.
func shownAt(e memorybank.Entry) time.Duration {
	if e.Role == memorybank.Synopsis {
		return e.Start
	}
	return e.At
}

// Chat is the layout of published models: one turn of their own chat template, with the memory's pictures before the question.
type Chat struct {
	Template *chat.Template
	Times    Times
	Axes     int            // of the model's positions, 1 or 3; see llm.Engine.Axes
	System   string         // "" is the template's own
	End      compute.Matrix // rows that belong behind a memory's last picture; none for most
}

// endID is the ID of End's rows; no entry has it.
const endID = 1

// Times say how a Chat tells the model when its pictures were taken.
type Times uint8

const (
	// Spoken puts the wall time on a line before every picture, as in "14:03:05:", and the time of asking before the question.
	Spoken Times = iota
	// Numbered is VideoChat-Online's: "Frame12 at 5.5s: " before every picture, a line each; frames count from 1, seconds from the
	// memory's beginning.
	Numbered
	// Silent is Flash-VStream's: all rows in one place and no words. A model whose positions have three axes is told times by AM-RoPE where
	// the strategy has such positions (memorybank.Flash), and else counts every entry as the next moment.
	Silent
)

// memoryWords are what a Spoken memory begins with.
const memoryWords = "These are moments of what one camera saw, each after the time of day when it was taken.\n"

// Memory implements Layout.
func (c Chat) Memory(snap *memorybank.Snapshot, entries []memorybank.Entry, rows []compute.Matrix) (llm.Prompt, error) {
	p := c.Template.Open(c.System)
	if c.Times == Spoken {
		words := memoryWords
		if n := len(p); strings.HasSuffix(p[n-1].Text, ":") { // SmolVLM's "User:", which a space follows where words do
			words = " " + words
		}
		p = llm.Join(p, llm.Prompt{{Text: words}})
	}
	parts, err := c.pictures(snap, entries, rows)
	if err != nil {
		return nil, err
	}
	return c.ended(llm.Join(p, parts), len(entries)), nil
}

// ended adds what belongs behind a memory's last picture.
func (c Chat) ended(p llm.Prompt, pictures int) llm.Prompt {
	if c.End.Rows > 0 && pictures > 0 {
		p = append(p, llm.Part{Visual: c.End, ID: endID})
	}
	return p
}

// pictures are a memory's entries, each with what says its time.
func (c Chat) pictures(snap *memorybank.Snapshot, entries []memorybank.Entry, rows []compute.Matrix) (p llm.Prompt, err error) {
	if c.Times == Silent {
		parts, err := c.silent(snap, entries, rows)
		if err != nil || len(parts) == 0 {
			return nil, err
		}
		around := c.Template.Visual(llm.Part{})
		for i, part := range around {
			if part.Control == "" { // where the rows go
				return append(append(append(p, around[:i]...), parts...), around[i+1:]...), nil
			}
		}
		return nil, nil
	}
	for i, e := range entries {
		before := "\n" + snap.Wall(shownAt(e)).Format(time.TimeOnly) + ":"
		if c.Times == Numbered {
			before = fmt.Sprintf("Frame%d at %.1fs: ", e.Frame()+1, shownAt(e).Seconds())
			if i > 0 { // the line of the last one ends with the question: see chat.Template
				before = "\n" + before
			}
		}
		p = llm.Join(p, llm.Prompt{{Text: before}})
		p = append(p, c.Template.Visual(visual(e, rows[i]))...)
	}
	return p, nil
}

// A Section is one camera's part of a prompt about several.
type Section struct {
	Camera  string
	Snap    *memorybank.Snapshot
	Entries []memorybank.Entry
	Rows    []compute.Matrix // of the entries, in the model's space
}

// Sectioned is a Layout that can show several cameras' memories in one prompt, each under its name.
type Sectioned interface {
	Layout
	// Sections lays out what comes before the first memory and each memory by itself; joined by llm.Join they are what Memory is of one. ok
	// is false where the model was not trained to be told which pictures are whose.
	Sections(list []Section) (begin llm.Prompt, each []llm.Prompt, ok bool, err error)
}

// Sections implements Sectioned.
func (c Chat) Sections(list []Section) (begin llm.Prompt, each []llm.Prompt, ok bool, err error) {
	if c.Times == Silent {
		return nil, nil, false, nil
	}
	begin = llm.Join(c.Template.Open(c.System), llm.Prompt{{Text: fmt.Sprintf(
		"These are moments of what %d cameras saw, camera by camera, each after the time when it was taken.\n", len(list))}})
	for i, s := range list {
		parts, err := c.pictures(s.Snap, s.Entries, s.Rows)
		if err != nil {
			return nil, nil, false, err
		}
		p := llm.Join(llm.Prompt{{Text: "\nCamera " + s.Camera + ":\n"}}, parts)
		if i == len(list)-1 {
			p = c.ended(p, len(s.Entries))
		}
		each = append(each, p)
	}
	return begin, each, true, nil
}

// Question implements Layout.
func (c Chat) Question(text string, now time.Time) llm.Prompt { return c.Conversation(nil, text, now) }

// Conversation implements Conversational: the earlier exchanges are turns of their own, the first question right behind the memory.
func (c Chat) Conversation(history []Exchange, text string, now time.Time) llm.Prompt {
	said := []string{}
	for _, x := range history {
		said = append(said, x.Question, x.Answer)
	}
	if c.Times == Spoken {
		text = fmt.Sprintf("It is %s now. %s", now.Format(time.TimeOnly), text)
	}
	said = append(said, text)
	if c.Times == Spoken {
		said[0] = "\n\n" + said[0]
	}
	var later []chat.Turn
	for i, words := range said[1:] {
		role := chat.Assistant
		if i%2 == 1 {
			role = chat.User
		}
		later = append(later, chat.Turn{Role: role, Parts: []llm.Part{{Text: words}}})
	}
	return c.Template.Continue(said[0], later)
}

// visual is an entry's rows as one picture.
func visual(e memorybank.Entry, rows compute.Matrix) llm.Part {
	return llm.Part{Visual: rows, ID: e.ID, Grid: joinedGrid(e, rows)}
}

// joinedGrid is how an entry's rows lie once they are joined: as in memory, or k x k of them as one. The zero Grid is neither.
func joinedGrid(e memorybank.Entry, rows compute.Matrix) llm.Grid {
	h, w := e.Grid.H, e.Grid.W
	if rows.Rows == 0 || h*w%rows.Rows != 0 {
		return llm.Grid{}
	}
	k := int(math.Round(math.Sqrt(float64(h * w / rows.Rows))))
	if k < 1 || h%k != 0 || w%k != 0 || h/k*(w/k) != rows.Rows {
		return llm.Grid{}
	}
	return llm.Grid{T: 1, H: h / k, W: w / k}
}

// silent is all entries' rows in one place, with positions for models that have three axes of them.
func (c Chat) silent(snap *memorybank.Snapshot, entries []memorybank.Entry, rows []compute.Matrix) ([]llm.Part, error) {
	parts := make([]llm.Part, len(entries))
	grids := make([]memorybank.Grid, len(entries))
	for i, e := range entries {
		parts[i] = llm.Part{Visual: rows[i], ID: e.ID}
		g := joinedGrid(e, rows[i])
		if g.T == 0 {
			return nil, fmt.Errorf("entry %d: %d rows of a grid of %dx%d were joined to %d", i, e.Tokens.Rows, e.Grid.H, e.Grid.W, rows[i].Rows)
		}
		grids[i] = memorybank.Grid{H: g.H, W: g.W}
	}
	if len(parts) == 0 || c.Axes != 3 {
		return parts, nil
	}
	at, next := snap.Positions(entries, grids)
	if err := llm.Place(parts, at, next); err != nil {
		return nil, err
	}
	return parts, nil
}

// Joiner brings rows from the space that they are remembered in to the language model's, one matrix an entry.
type Joiner func(ctx context.Context, entries []memorybank.Entry) ([]compute.Matrix, error)

// Reading is how one model reads memories. The zero Reading is the embedded default's.
type Reading struct {
	Layout Layout // nil is Marked
	Join   Joiner // nil: entries' rows are in the model's space already
	Merge  int    // rows of a memory that Join makes one of; 0 is 1. Budgets count what the model reads

	// Room is what a memory may take of the model's context, with Words tokens around every entry; 0: as much as the strategy likes.
	Room, Words int
}

// Fit returns the largest budget, in rows of the memory and at most the given one (0: the strategy's own size), whose entries fit the room.
func (r Reading) Fit(snap *memorybank.Snapshot, budget int) int {
	for r.Room > 0 {
		rows, words := 0, 0
		for _, e := range snap.Select(nil, budget) {
			rows += e.Tokens.Rows
			words += r.Words
		}
		if rows/r.merge()+words <= r.Room || budget == 1 {
			break
		}
		if budget == 0 {
			budget = rows
		}
		budget = max(1, budget*4/5)
	}
	return budget
}

// Prompt is a whole question about entries.
func (r Reading) Prompt(ctx context.Context, snap *memorybank.Snapshot, entries []memorybank.Entry, question string, now time.Time) (llm.Prompt, error) {
	p, err := r.memory(ctx, &joined{}, snap, entries)
	if err != nil {
		return nil, err
	}
	return append(p, r.layout().Question(question, now)...), nil
}

// memory is what a prompt about entries begins with.
func (r Reading) memory(ctx context.Context, j *joined, snap *memorybank.Snapshot, entries []memorybank.Entry) (llm.Prompt, error) {
	rows, err := j.rows(ctx, r.Join, entries)
	if err != nil {
		return nil, err
	}
	return r.layout().Memory(snap, entries, rows)
}

// question is what follows the memory. Only a Conversational layout has use for the history.
func (r Reading) question(history []Exchange, text string, now time.Time) llm.Prompt {
	if c, ok := r.layout().(Conversational); ok {
		return c.Conversation(history, text, now)
	}
	return r.layout().Question(text, now)
}

func (r Reading) layout() Layout {
	if r.Layout == nil {
		return Marked{}
	}
	return r.Layout
}

func (r Reading) merge() int { return max(1, r.Merge) }
