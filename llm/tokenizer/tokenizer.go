// Package tokenizer turns text into token IDs and back, exactly as the tokenizer that a published model was trained with: from
// Hugging Face's tokenizer.json (byte-level BPE as of GPT-2, Llama 3, Qwen and SmolLM; BPE over characters with byte fallback as of
// Llama 2, Vicuna, Phi-3 and Gemma; Unigram), from SentencePiece's tokenizer.model, or from vocab.json and merges.txt. There are only
// a few types: a Tokenizer is loaded once and used by anyone, a Place says where in a prompt a text stands, and a Stream turns one
// answer's tokens into whole UTF-8 characters as they come.
//
// Whatever a file asks for that this package does not do is refused by name at load: a tokenizer that is nearly right feeds a
// model with nonsense and says nothing.
package tokenizer

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Tokenizer is immutable after loading and safe for concurrent use.
type Tokenizer struct {
	normalizers []normalizer
	split       []splitter // the pre-tokenisers, in order
	model       model      // what turns a word into tokens

	special    map[string]special
	bos        string      // see BOS
	rawAdded   addedTokens // added tokens that are cut out before normalising
	addedAfter addedTokens // and those that are cut out after it

	pieces    []piece // by ID
	decode    decoding
	vocabSize int
}

// model turns a piece of text that the pre-tokenisers have cut, never empty, into tokens.
type model interface {
	encode(e *encoding, word string)
}

// special is a special token: its ID, and whether white space beside it belongs to it.
type special struct {
	id             int32
	lstrip, rstrip bool
}

// encodeLimit bounds the time that one Encode spends in regular expressions; see Encode.
const encodeLimit = 2 * time.Second

// Place says where in a prompt a text stands. The zero value is the beginning.
type Place struct {
	After, Before string // the special tokens that stand right before and after it; "" for none
	Inside        bool   // other text stands right before it, which was encoded by itself: there is no space before a first word
}

// Encode turns text into token IDs. It never produces a special token, whatever the text says, so a question cannot forge the
// turns of a prompt; use Special for those. (Only a file that can neither spell every text in bytes nor do without writes its
// unknown token where a character is unknown.) Bytes that are not valid UTF-8 become U+FFFD first; the text comes back from Decode
// but for what the file's normalisation takes away, and for control characters that its vocabulary has no token for. It takes
// O(n log n) time: words of any length are merged with a heap, and text on which the file's own regular expressions take longer than
// two seconds is from there on cut at white space instead, which decodes to the same text.
func (t *Tokenizer) Encode(text string) []int32 { return t.EncodeAt(text, Place{}) }

// EncodeAt is Encode for a text that stands in the midst of a prompt: special tokens take the white space beside them where the
// file says so, and the space that some files put before a first word comes where they would put it.
func (t *Tokenizer) EncodeAt(text string, at Place) []int32 {
	text = validUTF8(text)
	if t.special[at.After].rstrip {
		text = strings.TrimLeftFunc(text, unicode.IsSpace)
	}
	if t.special[at.Before].lstrip {
		text = strings.TrimRightFunc(text, unicode.IsSpace)
	}
	if text == "" {
		return nil
	}
	e := encoding{t: t, deadline: time.Now().Add(encodeLimit)}
	e.ids = make([]int32, 0, len(text)/3+4)
	begins := edge{first: at.After == "" && !at.Inside, inside: at.Inside}
	t.rawAdded.cut(text, e.add, func(plain string, from int) {
		seg := begins
		if from > 0 {
			seg = edge{}
		}
		for _, n := range t.normalizers {
			plain = n(plain, seg, e.deadline)
		}
		t.addedAfter.cut(plain, e.add, func(p string, from int) {
			if from > 0 {
				e.splitFrom(0, p, edge{})
			} else {
				e.splitFrom(0, p, seg)
			}
		})
	})
	return e.ids
}

// BOS is the special token that the file itself puts before every text, "" for none. A text right after it, at the beginning of a
// prompt, stands at the beginning: its Place is the zero value.
func (t *Tokenizer) BOS() string { return t.bos }

// edge says what a piece of text begins with: the beginning of everything, or the seam to a text that was encoded before.
type edge struct{ first, inside bool }

// Special returns the ID of a special token such as "<|user|>", and whether the file has it.
func (t *Tokenizer) Special(name string) (int32, bool) {
	s, ok := t.special[name]
	return s.id, ok
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

// encoding is one call of Encode.
type encoding struct {
	t        *Tokenizer
	ids      []int32
	merger   merger
	deadline time.Time
}

func (e *encoding) add(id int32) { e.ids = append(e.ids, id) }

// splitFrom runs the pre-tokenisers from stage i on one piece; recursion is as deep as the file's list of them.
func (e *encoding) splitFrom(i int, piece string, at edge) {
	if piece == "" {
		return
	}
	if i == len(e.t.split) {
		e.t.model.encode(e, piece)
		return
	}
	s := e.t.split[i]
	piece = s.prefix(piece, at)
	s.each(piece, e.deadline, func(p string, from int) {
		if from > 0 {
			at = edge{}
		}
		e.splitFrom(i+1, p, at)
	})
}

// validUTF8 replaces each byte that is not part of a valid character by U+FFFD.
func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}
