package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// piece is what one token says.
type piece struct {
	text string // "" for special tokens and holes
	byte int16  // of a token that spells one byte; -1 for others
}

// decoding is how tokens become text.
type decoding struct {
	bytes  bytesAs
	drop   string // what is taken off the beginning of the text, once
	all    bool   // and off every token before one that says more
	marker string // Metaspace's: stands for a space, but for nothing in the first token
}

// bytesAs says what bytes that do not make up UTF-8 become.
type bytesAs uint8

const (
	lossy  bytesAs = iota // a U+FFFD for what could have begun a character, as Rust's and Go's libraries do it
	runs                  // byte tokens in a row stand or fall together: a U+FFFD for each if not all are right
	singly                // a U+FFFD for each byte that is not part of a character
)

// Stream turns one answer's tokens into text as they come: a character split over several tokens is held back until it is
// whole. What Push and Flush return, joined, is what Decode returns for all the tokens. One goroutine owns a Stream.
type Stream struct {
	t       *Tokenizer
	held    []byte // the beginning of a character, at most three bytes; of files where byte tokens stand or fall together, all of them
	begun   bool   // a token that is not special has been seen
	dropped bool   // decoding.drop has been looked for
}

// NewStream returns a Stream for one answer.
func (t *Tokenizer) NewStream() *Stream { return &Stream{t: t} }

// Push takes one token and returns the text that is now certain, "" when there is none (special tokens have none).
func (s *Stream) Push(id int32) string {
	if id < 0 || int(id) >= len(s.t.pieces) {
		return ""
	}
	p := s.t.pieces[id]
	if p.byte < 0 && p.text == "" {
		return ""
	}
	if m := s.t.decode.marker; m != "" {
		if s.begun {
			p.text = strings.ReplaceAll(p.text, m, " ")
		} else {
			p.text = strings.ReplaceAll(p.text, m, "")
		}
	}
	s.begun = true
	if s.t.decode.bytes != singly {
		return s.strip(s.decode(p))
	}
	if p.byte < 0 {
		p.text = s.strip(p.text)
	}
	s.dropped = s.dropped || p.byte >= 0 // the space of a byte token stays
	return s.decode(p)
}

func (s *Stream) decode(p piece) string {
	d := &s.t.decode
	if p.byte >= 0 {
		s.held = append(s.held, byte(p.byte))
		if d.bytes == runs {
			return ""
		}
		return s.whole("", d.bytes == singly)
	}
	if d.bytes == lossy {
		if len(s.held) == 0 && utf8.ValidString(p.text) {
			return p.text
		}
		return s.whole(p.text, false)
	}
	return s.flush() + p.text
}

// whole appends more to what is held and returns all of it but the beginning of a last character.
func (s *Stream) whole(more string, singly bool) string {
	in := append(s.held, more...)
	out := make([]byte, 0, len(in)+4)
	for len(in) > 0 {
		r, n := utf8.DecodeRune(in)
		if r != utf8.RuneError || n > 1 {
			out = append(out, in[:n]...)
			in = in[n:]
			continue
		}
		n, more := brokenPrefix(in)
		if more {
			break
		}
		if singly {
			n = 1
		}
		out = utf8.AppendRune(out, utf8.RuneError)
		in = in[n:]
	}
	s.held = append([]byte(nil), in...)
	return string(out)
}

// strip takes the file's leading space off the first text.
func (s *Stream) strip(text string) string {
	drop := s.t.decode.drop
	if s.dropped || drop == "" || text == "" {
		return text
	}
	text = strings.TrimPrefix(text, drop)
	s.dropped = !s.t.decode.all || text != ""
	return text
}

// flush ends a run of bytes.
func (s *Stream) flush() string {
	n := len(s.held)
	if n == 0 {
		return ""
	}
	held := string(s.held)
	s.held = nil
	switch {
	case s.t.decode.bytes == lossy:
		return string(utf8.RuneError)
	case s.t.decode.bytes == runs && utf8.ValidString(held):
		return held
	}
	return strings.Repeat(string(utf8.RuneError), n)
}

// Flush ends the answer: a character that never became whole is returned as U+FFFD.
func (s *Stream) Flush() string {
	if s.t.decode.bytes == runs {
		return s.strip(s.flush())
	}
	return s.flush()
}

// brokenPrefix looks at bytes that do not begin with a whole character. It returns how many of them begin one (at least 1),
// which is what a single U+FFFD stands for as Unicode and Rust do it, and whether all do, so that more could make it whole.
func brokenPrefix(b []byte) (n int, more bool) {
	var size int
	low, high := byte(0x80), byte(0xBF)
	switch c := b[0]; {
	case c >= 0xC2 && c <= 0xDF:
		size = 2
	case c >= 0xE0 && c <= 0xEF:
		size = 3
		if c == 0xE0 {
			low = 0xA0
		} else if c == 0xED {
			high = 0x9F
		}
	case c >= 0xF0 && c <= 0xF4:
		size = 4
		if c == 0xF0 {
			low = 0x90
		} else if c == 0xF4 {
			high = 0x8F
		}
	default:
		return 1, false
	}
	for n = 1; n < len(b) && n < size; n++ {
		if b[n] < low || b[n] > high {
			return n, false
		}
		low, high = 0x80, 0xBF
	}
	return n, n < size
}
