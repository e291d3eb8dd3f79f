// Package chat lays out prompts as each family of published models was trained to read them. There are two types: a Template, one
// a family, and a Turn of a conversation. What a person says stays text: only the templates name special tokens.
package chat

import (
	"slices"
	"strings"
	"unicode"

	"afterimage/llm"
)

// Roles of a Turn.
const (
	System    = "system"
	User      = "user"
	Assistant = "assistant"
)

// Turn is what one side says. Parts hold Text and Visual only; a Visual is one picture, or one video of a family that does not mark
// its frames, and gets the family's tokens around it. A system turn, if there is one, comes first.
type Turn struct {
	Role  string
	Parts []llm.Part
}

// Template is one family's layout. It is immutable and safe for concurrent use.
type Template struct {
	Name string

	bos           string   // the special token that every prompt begins with; "" for none
	system        string   // what the system says where no turn does; "" for no such turn
	before, after []string // the special tokens around a picture's rows
	line          bool     // a picture ends its line: what follows it begins on the next one
	trim          bool     // white space around a turn's words is cut off
	quiet         bool     // a system turn without words is left out
	// open writes what stands before a turn's words and shut what stands after them. first is what the turn begins with, nil where
	// that is not known yet: the model's own answer, or a memory.
	open func(w *writer, role string, first *llm.Part)
	shut func(w *writer, role string)
}

// writer collects a prompt. Neighbouring texts become one part, because tokens may reach across the seam.
type writer struct{ p llm.Prompt }

func (w *writer) text(s string) {
	if n := len(w.p); n > 0 && w.p[n-1].Text != "" {
		w.p[n-1].Text += s
	} else if s != "" {
		w.p = append(w.p, llm.Part{Text: s})
	}
}

func (w *writer) control(names ...string) {
	for _, n := range names {
		w.p = append(w.p, llm.Part{Control: n})
	}
}

// Prompt lays out a conversation up to where the model answers. answer is what its turn begins with already, "" mostly.
func (t *Template) Prompt(turns []Turn, answer string) llm.Prompt {
	w := t.start()
	if t.system != "" && (len(turns) == 0 || turns[0].Role != System) {
		t.turn(w, System, []llm.Part{{Text: t.system}})
	}
	for _, turn := range turns {
		t.turn(w, turn.Role, turn.Parts)
	}
	t.answer(w, answer)
	return w.p
}

// Open begins a prompt about a memory: the system's words ("" for the family's own) and the beginning of the user's turn. The parts
// of the memory follow, pictures as Visual returns them, and then Close. So long as a special token or a picture stands at both
// seams, appending the three gives the tokens that Prompt would; two texts that meet at a seam are tokenised apart. In SmolVLM's
// layout, a memory whose first part is text begins with a space.
func (t *Template) Open(system string) llm.Prompt {
	w := t.start()
	if system == "" {
		system = t.system
	}
	if system != "" {
		t.turn(w, System, []llm.Part{{Text: system}})
	}
	t.open(w, User, nil)
	return w.p
}

// Close ends a prompt that Open began and pictures continued: the question, and the beginning of the answer.
func (t *Template) Close(question string) llm.Prompt { return t.Continue(question, nil) }

// Continue is Close for a question that was talked about since: later are the turns that came after it, of words only, the last one the
// user's that is to be answered.
func (t *Template) Continue(question string, later []Turn) llm.Prompt {
	w := &writer{}
	if t.trim {
		question = trimRight(question)
	}
	if t.line {
		w.text("\n")
	}
	w.text(question)
	t.shut(w, User)
	for _, turn := range later {
		t.turn(w, turn.Role, turn.Parts)
	}
	t.answer(w, "")
	return w.p
}

// Visual returns a picture's rows with the tokens that the family puts around them. Where a picture ends its line (LLaVA, InternVL2),
// the line's end is not among them: text between two pictures begins with it, as Close does and as Prompt puts it.
func (t *Template) Visual(v llm.Part) []llm.Part {
	w := &writer{}
	w.control(t.before...)
	w.p = append(w.p, v)
	w.control(t.after...)
	return w.p
}

func (t *Template) start() *writer {
	w := &writer{}
	if t.bos != "" {
		w.control(t.bos)
	}
	return w
}

func (t *Template) turn(w *writer, role string, parts []llm.Part) {
	if t.trim && len(parts) > 0 {
		parts = append([]llm.Part(nil), parts...)
		parts[0].Text = trimLeft(parts[0].Text)
		parts[len(parts)-1].Text = trimRight(parts[len(parts)-1].Text)
	}
	words := slices.ContainsFunc(parts, func(p llm.Part) bool { return p.Text != "" || p.Visual.Rows > 0 })
	if t.quiet && role == System && !words {
		return
	}
	first := &llm.Part{}
	if len(parts) > 0 {
		first = &parts[0]
	}
	t.open(w, role, first)
	for _, p := range parts {
		if p.Visual.Rows == 0 {
			w.text(p.Text)
			continue
		}
		w.p = append(w.p, t.Visual(p)...)
		if t.line {
			w.text("\n")
		}
	}
	t.shut(w, role)
}

// answer begins the model's turn.
func (t *Template) answer(w *writer, text string) {
	if t.trim {
		text = trimLeft(text)
	}
	var first *llm.Part
	if text != "" {
		first = &llm.Part{Text: text}
	}
	t.open(w, Assistant, first)
	w.text(text)
}

// isSpace is what Python's str.strip, and so a template's trim, takes for white space.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1C && r <= 0x1F }

func trimLeft(s string) string  { return strings.TrimLeftFunc(s, isSpace) }
func trimRight(s string) string { return strings.TrimRightFunc(s, isSpace) }
