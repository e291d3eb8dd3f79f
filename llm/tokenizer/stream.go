package tokenizer

import "unicode/utf8"

// Stream turns one answer's tokens into text as they come: a character split over several tokens is held back until it is
// whole. What Push and Flush return, joined, is what Decode returns for all the tokens. One goroutine owns a Stream.
type Stream struct {
	t    *Tokenizer
	held []byte // the beginning of a character, at most three bytes
}

// NewStream returns a Stream for one answer.
func (t *Tokenizer) NewStream() *Stream { return &Stream{t: t} }

// Push takes one token and returns the text that is now certain, "" when there is none (special tokens have none).
func (s *Stream) Push(id int32) string {
	piece := s.t.piece(id)
	if piece == "" {
		return ""
	}
	if len(s.held) == 0 && utf8.ValidString(piece) {
		return piece
	}
	in := append(s.held, piece...)
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
		out = utf8.AppendRune(out, utf8.RuneError)
		in = in[n:]
	}
	s.held = append([]byte(nil), in...)
	return string(out)
}

// Flush ends the answer: a character that never became whole is returned as one U+FFFD.
func (s *Stream) Flush() string {
	if len(s.held) == 0 {
		return ""
	}
	s.held = nil
	return string(utf8.RuneError)
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
