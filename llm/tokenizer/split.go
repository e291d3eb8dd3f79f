package tokenizer

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// splitter is one pre-tokeniser: find cuts a piece of text into matches and the text between them, behaviour says which of
// these become pieces of their own.
type splitter struct {
	find      finder
	invert    bool
	behaviour behaviour
	byteLevel bool    // the last one: what follows works on bytes
	space     string  // ByteLevel's and Metaspace's: what a space is written as
	prepend   prepend // and where a piece that does not begin with one gets one
}

// finder calls match for every place in text that it looks for, in order.
type finder func(text string, deadline time.Time, match func(from, to int))

type prepend uint8

const (
	never  prepend = iota
	always         // before every piece
	first          // before the beginning of a text
)

// prefix rewrites spaces and puts one before the piece where that is due.
func (s splitter) prefix(piece string, at edge) string {
	if s.space != "" && s.space != " " {
		piece = strings.ReplaceAll(piece, " ", s.space)
	}
	due := s.prepend == always && !at.inside || s.prepend == first && at.first
	if due && !strings.HasPrefix(piece, s.space) {
		return s.space + piece
	}
	return piece
}

type behaviour uint8

const (
	isolated behaviour = iota
	removed
	mergedWithPrevious
	mergedWithNext
	contiguous
)

var behaviours = map[string]behaviour{
	"Isolated": isolated, "Removed": removed, "MergedWithPrevious": mergedWithPrevious,
	"MergedWithNext": mergedWithNext, "Contiguous": contiguous,
}

// each calls fn for every piece of text and the place where it begins, in order.
func (s splitter) each(text string, deadline time.Time, fn func(piece string, from int)) {
	if s.find == nil {
		fn(text, 0)
		return
	}
	type part struct {
		from, to int
		match    bool
	}
	var parts []part
	emit := func(from, to int, match bool) {
		if from == to {
			return
		}
		match = match != s.invert
		switch last := len(parts) - 1; {
		case s.behaviour == isolated:
			fn(text[from:to], from)
			return
		case s.behaviour == removed:
			if !match {
				fn(text[from:to], from)
			}
			return
		case last >= 0 && s.behaviour == mergedWithPrevious && match && !parts[last].match,
			last >= 0 && s.behaviour == contiguous && match == parts[last].match:
			parts[last].to = to
			if s.behaviour == mergedWithPrevious {
				parts[last].match = true // one delimiter a piece; the next stands alone
			}
			return
		case last >= 0 && s.behaviour == mergedWithNext && !match && parts[last].match:
			parts[last].to, parts[last].match = to, false
			return
		}
		parts = append(parts, part{from, to, match})
	}
	at := 0
	s.find(text, deadline, func(from, to int) {
		emit(at, from, false)
		emit(from, to, true)
		at = to
	})
	emit(at, len(text), false)
	for _, p := range parts {
		fn(text[p.from:p.to], p.from)
	}
}

// gpt2Pattern is what ByteLevel means by use_regex.
const gpt2Pattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// findRegex matches with a backtracking engine (the published patterns look ahead, which Go's own cannot do), so every match
// has a time limit and what follows a match that hit it is cut at white space.
func findRegex(re *regexp2.Regexp) finder {
	return func(text string, deadline time.Time, match func(int, int)) {
		if time.Now().After(deadline) {
			findSpaces(text, match)
			return
		}
		runes := []rune(text)
		rune0, byte0 := 0, 0 // the same place in runes and in bytes
		advance := func(to int) int {
			for ; rune0 < to; rune0++ {
				byte0 += utf8.RuneLen(runes[rune0])
			}
			return byte0
		}
		m, err := re.FindRunesMatch(runes)
		for n := 1; m != nil && err == nil; n++ {
			if m.Length > 0 {
				from := advance(m.Index)
				match(from, advance(m.Index+m.Length))
			}
			if n%64 == 0 && time.Now().After(deadline) {
				err = errDeadline
				break
			}
			m, err = re.FindNextMatch(m)
		}
		if err != nil {
			base := byte0
			findSpaces(text[base:], func(from, to int) { match(base+from, base+to) })
		}
	}
}

// findSpaces is the fall-back of findRegex: words with the space before them, in linear time.
func findSpaces(text string, match func(from, to int)) {
	from := 0
	for i := 1; i < len(text); i++ {
		if text[i] == ' ' && text[i-1] != ' ' {
			match(from, i)
			from = i
		}
	}
	if from < len(text) {
		match(from, len(text))
	}
}

func findString(s string) finder {
	return func(text string, _ time.Time, match func(int, int)) {
		for at := 0; ; {
			i := strings.Index(text[at:], s)
			if i < 0 {
				return
			}
			match(at+i, at+i+len(s))
			at += i + len(s)
		}
	}
}

// findRunes finds every single character that is of a kind.
func findRunes(is func(rune) bool) finder {
	return func(text string, _ time.Time, match func(int, int)) {
		for i, r := range text {
			if is(r) {
				match(i, i+utf8.RuneLen(r))
			}
		}
	}
}

// findWords finds runs of word characters and runs of what is neither that nor white space.
func findWords(text string, _ time.Time, match func(int, int)) {
	const space, word, other = 0, 1, 2
	from, kind := 0, space
	for i, r := range text {
		k := other
		if isWord(r) {
			k = word
		} else if unicode.IsSpace(r) {
			k = space
		}
		if k != kind {
			if kind != space {
				match(from, i)
			}
			from, kind = i, k
		}
	}
	if kind != space {
		match(from, len(text))
	}
}

func isPunctuation(r rune) bool {
	return r < 0x80 && strings.ContainsRune("$+<=>^`|~", r) || unicode.IsPunct(r)
}
