package tokenizer

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Added is a token that was added to a vocabulary, as tokenizer.json and tokenizer_config.json describe it.
type Added struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"` // matches only where no letter or digit stands beside it
	LStrip     bool   `json:"lstrip"`      // takes the white space before it
	RStrip     bool   `json:"rstrip"`      // and after it
	Normalized bool   `json:"normalized"`  // is looked for in normalised text
	Special    bool   `json:"special"`     // no text becomes it
}

// addedTokens finds added tokens in text, the longest at the leftmost place first. Special ones are only passed over: they are text,
// but what begins in their midst is no other added token either.
type addedTokens struct {
	byText  map[string]Added
	lengths map[byte][]int // by first byte, longest first: some files have thousands of tokens that begin alike
}

func (a *addedTokens) add(tok Added) {
	if a.byText == nil {
		a.byText, a.lengths = map[string]Added{}, map[byte][]int{}
	}
	if _, ok := a.byText[tok.Content]; ok {
		return
	}
	a.byText[tok.Content] = tok
	c, n := tok.Content[0], len(tok.Content)
	if at, ok := slices.BinarySearchFunc(a.lengths[c], n, func(x, y int) int { return y - x }); !ok {
		a.lengths[c] = slices.Insert(a.lengths[c], at, n)
	}
}

// cut calls token for every added token in text and plain for what lies between, with the place where that begins.
func (a addedTokens) cut(text string, token func(id int32), plain func(text string, from int)) {
	from := 0
	for i := 0; i < len(text); {
		tok, ok := a.at(text[i:])
		if !ok {
			i++
			continue
		}
		start, stop := i, i+len(tok.Content)
		i = stop
		if tok.Special || tok.SingleWord && (endsWithWord(text[:start]) || beginsWithWord(text[stop:])) {
			continue
		}
		if tok.LStrip {
			start = from + len(strings.TrimRightFunc(text[from:start], unicode.IsSpace))
		}
		if tok.RStrip {
			stop = len(text) - len(strings.TrimLeftFunc(text[stop:], unicode.IsSpace))
		}
		if from < start {
			plain(text[from:start], from)
		}
		token(tok.ID)
		from, i = stop, stop
	}
	if from < len(text) {
		plain(text[from:], from)
	}
}

func (a addedTokens) at(text string) (Added, bool) {
	for _, n := range a.lengths[text[0]] {
		if n <= len(text) {
			if tok, ok := a.byText[text[:n]]; ok {
				return tok, true
			}
		}
	}
	return Added{}, false
}

func endsWithWord(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

func beginsWithWord(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}

// isWord is what \w means in Rust's regular expressions: alphabetic, mark, decimal digit, connector, joiner.
func isWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.Nl, unicode.M, unicode.Nd, unicode.Pc, unicode.Other_Alphabetic) || r == 0x200C || r == 0x200D
}
