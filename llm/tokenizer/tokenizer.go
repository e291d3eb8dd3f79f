// Package tokenizer reads Hugging Face tokenizer.json files of the byte-level BPE kind (GPT-2, Llama 3, Qwen 2 and 3, SmolLM,
// and ours) and turns text into token IDs and back, exactly. There are only a few types: a Tokenizer is loaded once and used by
// anyone, and a Stream turns one answer's tokens into whole UTF-8 characters as they come.
//
// Whatever a file asks for that this package does not do is refused by name at load: a tokenizer that is nearly right feeds a
// model with nonsense and says nothing.
package tokenizer

import (
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Tokenizer is immutable after Load and safe for concurrent use.
type Tokenizer struct {
	nfc   bool
	split []splitter // the pre-tokenisers, in order

	bytes        [256]int32          // the token of each byte; -1 for a byte that no UTF-8 text contains
	vocab        map[string]int32    // by raw bytes; without special tokens, so no text can ever produce one
	merges       map[pair]mergedPair // by the two halves' IDs
	ignoreMerges bool

	special    map[string]int32
	rawAdded   addedTokens // ordinary added tokens, cut out before normalising
	addedAfter addedTokens // and those that are cut out after it

	pieces    []string // by ID: raw bytes; "" for special tokens and holes
	vocabSize int
}

// encodeLimit bounds the time that one Encode spends in regular expressions; see Encode.
const encodeLimit = 2 * time.Second

// Encode turns text into token IDs. It never produces a special token, whatever the text says, so a question cannot forge the
// turns of a prompt; use Special for those. Bytes that are not valid UTF-8 become U+FFFD first; all other text comes back
// from Decode exactly (NFC-normalised where the file asks for that). It takes O(n log n) time: words of any length are merged
// with a heap, and text on which the file's own regular expressions take longer than two seconds is from there on cut at
// white space instead, which still decodes to the same text.
func (t *Tokenizer) Encode(text string) []int32 {
	if text == "" {
		return nil
	}
	e := encoding{t: t, deadline: time.Now().Add(encodeLimit)}
	e.ids = make([]int32, 0, len(text)/3+4)
	text = validUTF8(text)
	t.rawAdded.cut(text, e.add, func(plain string) {
		if t.nfc {
			plain = norm.NFC.String(plain)
		}
		t.addedAfter.cut(plain, e.add, e.plain)
	})
	return e.ids
}

// Special returns the ID of a special token such as "<|user|>", and whether the file has it.
func (t *Tokenizer) Special(name string) (int32, bool) {
	id, ok := t.special[name]
	return id, ok
}

// Decode turns token IDs into text. Special tokens and IDs that the file does not have are skipped; bytes that do not make
// up UTF-8 become U+FFFD.
func (t *Tokenizer) Decode(ids []int32) string {
	s := t.NewStream()
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(s.Push(id))
	}
	b.WriteString(s.Flush())
	return b.String()
}

// VocabSize is one more than the largest ID, special tokens included: the rows that an embedding needs at least.
func (t *Tokenizer) VocabSize() int { return t.vocabSize }

// piece returns the raw bytes of one token, "" for special and unknown ones.
func (t *Tokenizer) piece(id int32) string {
	if id < 0 || int(id) >= len(t.pieces) {
		return ""
	}
	return t.pieces[id]
}

// encoding is one call of Encode.
type encoding struct {
	t        *Tokenizer
	ids      []int32
	merger   merger
	deadline time.Time
}

func (e *encoding) add(id int32) { e.ids = append(e.ids, id) }

func (e *encoding) plain(text string) { e.splitFrom(0, text) }

// splitFrom runs the pre-tokenisers from stage i on one piece; recursion is as deep as the file's list of them.
func (e *encoding) splitFrom(i int, piece string) {
	if piece == "" {
		return
	}
	if i == len(e.t.split) {
		e.word(piece)
		return
	}
	s := e.t.split[i]
	if s.prefixSpace && piece[0] != ' ' {
		piece = " " + piece
	}
	s.each(piece, e.deadline, func(p string) { e.splitFrom(i+1, p) })
}

func (e *encoding) word(w string) {
	if e.t.ignoreMerges {
		if id, ok := e.t.vocab[w]; ok {
			e.ids = append(e.ids, id)
			return
		}
	}
	e.ids = e.merger.encode(e.ids, e.t, w)
}

// validUTF8 replaces each byte that is not part of a valid character by U+FFFD.
func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// addedTokens finds ordinary added tokens in text, the longest at the leftmost place first.
type addedTokens struct{ byFirst map[byte][]addedToken } // each list longest first

type addedToken struct {
	text string
	id   int32
}

func (a addedTokens) cut(text string, token func(int32), plain func(string)) {
	if len(a.byFirst) == 0 {
		plain(text)
		return
	}
	from := 0
	for i := 0; i < len(text); {
		found := false
		for _, t := range a.byFirst[text[i]] {
			if !strings.HasPrefix(text[i:], t.text) {
				continue
			}
			if from < i {
				plain(text[from:i])
			}
			token(t.id)
			i += len(t.text)
			from, found = i, true
			break
		}
		if !found {
			i++
		}
	}
	if from < len(text) {
		plain(text[from:])
	}
}
