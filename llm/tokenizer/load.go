package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
	"golang.org/x/text/unicode/norm"
)

// matchTimeout bounds one match; a word of ordinary text takes microseconds.
const matchTimeout = 250 * time.Millisecond

var errDeadline = errors.New("tokenizer: time is up")

// file is the part of tokenizer.json that changes what Encode and Decode do. The post-processor (which adds special tokens),
// truncation and padding do not: prompts are built of parts by the caller.
type file struct {
	Added        []addedJSON     `json:"added_tokens"`
	Normalizer   json.RawMessage `json:"normalizer"`
	PreTokenizer json.RawMessage `json:"pre_tokenizer"`
	Decoder      json.RawMessage `json:"decoder"`
	Model        struct {
		Type         string           `json:"type"`
		Dropout      *float64         `json:"dropout"`
		Prefix       *string          `json:"continuing_subword_prefix"`
		Suffix       *string          `json:"end_of_word_suffix"`
		ByteFallback bool             `json:"byte_fallback"`
		IgnoreMerges bool             `json:"ignore_merges"`
		Vocab        map[string]int64 `json:"vocab"`
		Merges       []mergeJSON      `json:"merges"`
	} `json:"model"`
}

type addedJSON struct {
	ID         int64  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// mergeJSON is "a b" or ["a","b"].
type mergeJSON struct{ left, right string }

func (m *mergeJSON) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		var two []string
		if err := json.Unmarshal(b, &two); err != nil {
			return err
		}
		if len(two) != 2 {
			return fmt.Errorf("a merge of %d tokens", len(two))
		}
		m.left, m.right = two[0], two[1]
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	var ok bool
	if m.left, m.right, ok = strings.Cut(s, " "); !ok || strings.Contains(m.right, " ") {
		return fmt.Errorf("merge %.40q is not two tokens", s)
	}
	return nil
}

// Load reads a tokenizer.json. Its errors name the part of the file that is wrong or that asks for what this package does not do.
func Load(data []byte) (*Tokenizer, error) {
	t, err := load(data)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: load: %w", err)
	}
	return t, nil
}

func load(data []byte) (*Tokenizer, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	t := &Tokenizer{ignoreMerges: f.Model.IgnoreMerges}
	var err error
	if t.nfc, err = normalizer(f.Normalizer, "normalizer"); err != nil {
		return nil, err
	}
	if t.split, err = preTokenizer(nil, f.PreTokenizer, "pre_tokenizer"); err != nil {
		return nil, err
	}
	if n := len(t.split); n == 0 || !t.split[n-1].byteLevel {
		return nil, errors.New("pre_tokenizer: does not end in ByteLevel: only byte-level BPE is supported")
	}
	if err := decoder(f.Decoder, "decoder"); err != nil {
		return nil, err
	}
	if err := checkModel(&f); err != nil {
		return nil, err
	}
	if err := t.loadTokens(&f); err != nil {
		return nil, err
	}
	return t, t.loadMerges(&f)
}

func checkModel(f *file) error {
	m := &f.Model
	switch {
	case m.Type != "BPE" && m.Type != "":
		return fmt.Errorf("model.type %.40q: only BPE is supported", m.Type)
	case m.Dropout != nil && *m.Dropout != 0:
		return errors.New("model.dropout is not supported")
	case m.Prefix != nil && *m.Prefix != "":
		return errors.New("model.continuing_subword_prefix is not supported")
	case m.Suffix != nil && *m.Suffix != "":
		return errors.New("model.end_of_word_suffix is not supported")
	case m.ByteFallback:
		return errors.New("model.byte_fallback is not supported")
	case len(m.Vocab) == 0:
		return errors.New("model.vocab is empty")
	}
	return nil
}

// loadTokens fills in everything that is known of single tokens.
func (t *Tokenizer) loadTokens(f *file) error {
	// IDs index arrays here and rows of an embedding elsewhere; real files have few holes, and a small file must not be
	// able to ask for gigabytes.
	most := 2*int64(len(f.Model.Vocab)+len(f.Added)) + 1<<16
	byID := make(map[int64]string, len(f.Model.Vocab))
	check := func(where, name string, id int64) error {
		if id < 0 || id >= most {
			return fmt.Errorf("%s: id %d of %.40q is out of range [0, %d)", where, id, name, most)
		}
		if other, ok := byID[id]; ok && other != name {
			return fmt.Errorf("%s: %.40q and %.40q share id %d", where, other, name, id)
		}
		byID[id] = name
		t.vocabSize = max(t.vocabSize, int(id)+1)
		return nil
	}
	for name, id := range f.Model.Vocab {
		if err := check("model.vocab", name, id); err != nil {
			return err
		}
	}
	t.special = map[string]int32{}
	special := map[int64]bool{}
	for i, a := range f.Added {
		where := fmt.Sprintf("added_tokens[%d]", i)
		if a.Content == "" {
			return fmt.Errorf("%s: empty content", where)
		}
		if id, ok := f.Model.Vocab[a.Content]; ok && id != a.ID {
			return fmt.Errorf("%s: %.40q has id %d, but %d in model.vocab", where, a.Content, a.ID, id)
		}
		if err := check(where, a.Content, a.ID); err != nil {
			return err
		}
		if a.Special {
			t.special[a.Content], special[a.ID] = int32(a.ID), true
			continue
		}
		if a.LStrip || a.RStrip || a.SingleWord {
			return fmt.Errorf("%s: %.40q: lstrip, rstrip and single_word are supported for special tokens only", where, a.Content)
		}
		if a.Normalized {
			text := a.Content
			if t.nfc {
				text = norm.NFC.String(text)
			}
			t.addedAfter.add(text, int32(a.ID))
		} else {
			t.rawAdded.add(a.Content, int32(a.ID))
		}
	}

	t.pieces = make([]string, t.vocabSize)
	t.vocab = make(map[string]int32, len(f.Model.Vocab))
	for name, id := range f.Model.Vocab {
		if special[id] {
			continue
		}
		raw, ok := rawBytes(name)
		if !ok {
			t.pieces[id] = name // not made of byte characters: no text gets here, but a model may say it
			continue
		}
		t.pieces[id], t.vocab[raw] = raw, int32(id)
	}
	for _, a := range f.Added {
		if a.Special || special[a.ID] {
			continue
		}
		if t.pieces[a.ID] != "" && t.pieces[a.ID] != a.Content {
			return fmt.Errorf("added_tokens: %.40q stands for other bytes in model.vocab", a.Content)
		}
		t.pieces[a.ID] = a.Content
	}
	for b := range 256 {
		id, ok := t.vocab[string([]byte{byte(b)})]
		if !ok {
			if b != 0xC0 && b != 0xC1 && b < 0xF5 { // those never occur in UTF-8
				return fmt.Errorf("model.vocab: no token for byte 0x%02X, so not every text could be encoded", b)
			}
			id = -1
		}
		t.bytes[b] = id
	}
	return nil
}

func (t *Tokenizer) loadMerges(f *file) error {
	t.merges = make(map[pair]mergedPair, len(f.Model.Merges))
	for rank, m := range f.Model.Merges {
		var ids [3]int32
		skip := false
		for i, name := range [3]string{m.left, m.right, m.left + m.right} {
			id, ok := f.Model.Vocab[name]
			if !ok {
				return fmt.Errorf("model.merges[%d]: %.40q is not in model.vocab", rank, name)
			}
			if _, ok := t.special[name]; ok {
				skip = true // text must not become a special token, by no way
			}
			ids[i] = int32(id)
		}
		if !skip {
			t.merges[pair{ids[0], ids[1]}] = mergedPair{rank: int32(rank), id: ids[2]}
		}
	}
	return nil
}

func (a *addedTokens) add(text string, id int32) {
	if a.byFirst == nil {
		a.byFirst = map[byte][]addedToken{}
	}
	list := append(a.byFirst[text[0]], addedToken{text, id})
	slices.SortStableFunc(list, func(x, y addedToken) int { return len(y.text) - len(x.text) })
	a.byFirst[text[0]] = list
}

// rawBytes undoes byte-level spelling, in which each byte is written as one printable character: printable Latin-1 as itself,
// the other 68 bytes, in order, as U+0100 and up. It reports whether s is made of such characters only.
func rawBytes(s string) (string, bool) {
	raw := make([]byte, 0, len(s))
	for _, r := range s {
		switch {
		case r >= '!' && r <= '~', r >= 0xA1 && r <= 0xAC, r >= 0xAE && r <= 0xFF:
			raw = append(raw, byte(r))
		case r >= 0x100 && r <= 0x120: // 0x00-0x20
			raw = append(raw, byte(r-0x100))
		case r >= 0x121 && r <= 0x142: // 0x7F-0xA0
			raw = append(raw, byte(r-0x121+0x7F))
		case r == 0x143:
			raw = append(raw, 0xAD)
		default:
			return "", false
		}
	}
	return string(raw), true
}

// isNull reports whether a JSON value is missing or null.
func isNull(raw json.RawMessage) bool {
	return len(raw) == 0 || bytes.Equal(bytes.TrimSpace(raw), []byte("null"))
}

func normalizer(raw json.RawMessage, where string) (nfc bool, err error) {
	if isNull(raw) {
		return false, nil
	}
	var n struct {
		Type        string            `json:"type"`
		Normalizers []json.RawMessage `json:"normalizers"`
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return false, fmt.Errorf("%s: %w", where, err)
	}
	switch n.Type {
	case "NFC":
		return true, nil
	case "Sequence":
		for i, sub := range n.Normalizers {
			one, err := normalizer(sub, fmt.Sprintf("%s.normalizers[%d]", where, i))
			if err != nil {
				return false, err
			}
			nfc = nfc || one
		}
		return nfc, nil
	}
	return false, fmt.Errorf("%s: type %.40q is not supported", where, n.Type)
}

func preTokenizer(list []splitter, raw json.RawMessage, where string) ([]splitter, error) {
	if isNull(raw) {
		return list, nil
	}
	if n := len(list); n > 0 && list[n-1].byteLevel {
		return nil, fmt.Errorf("%s: nothing may follow ByteLevel", where)
	}
	var p struct {
		Type             string            `json:"type"`
		PreTokenizers    []json.RawMessage `json:"pretokenizers"`
		AddPrefixSpace   *bool             `json:"add_prefix_space"`
		UseRegex         *bool             `json:"use_regex"`
		IndividualDigits bool              `json:"individual_digits"`
		Behavior         string            `json:"behavior"`
		Invert           bool              `json:"invert"`
		Pattern          struct {
			Regex  *string
			String *string
		} `json:"pattern"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	s := splitter{}
	switch p.Type {
	case "Sequence":
		for i, sub := range p.PreTokenizers {
			var err error
			if list, err = preTokenizer(list, sub, fmt.Sprintf("%s.pretokenizers[%d]", where, i)); err != nil {
				return nil, err
			}
		}
		return list, nil
	case "ByteLevel":
		s.byteLevel = true
		s.prefixSpace = p.AddPrefixSpace == nil || *p.AddPrefixSpace // both default to true in Hugging Face's reader
		if p.UseRegex == nil || *p.UseRegex {
			re, err := compile(gpt2Pattern)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
			s.find = findRegex(re)
		}
	case "Digits":
		s.find = findDigits
		if !p.IndividualDigits {
			s.behaviour = contiguous
		}
	case "Split":
		b, ok := behaviours[p.Behavior]
		if !ok {
			return nil, fmt.Errorf("%s: behavior %.40q is not supported", where, p.Behavior)
		}
		s.behaviour, s.invert = b, p.Invert
		switch {
		case p.Pattern.Regex != nil:
			re, err := compile(*p.Pattern.Regex)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
			s.find = findRegex(re)
		case p.Pattern.String != nil && *p.Pattern.String != "":
			s.find = findString(*p.Pattern.String)
		default:
			return nil, fmt.Errorf("%s: no pattern", where)
		}
	default:
		return nil, fmt.Errorf("%s: type %.40q is not supported", where, p.Type)
	}
	return append(list, s), nil
}

// compile reads a pattern as Hugging Face's engine (Oniguruma, Ruby syntax) would: ^ and $ mean lines. Syntax that the two
// engines read differently is refused.
func compile(pattern string) (re *regexp2.Regexp, err error) {
	if strings.Contains(pattern, "&&") {
		return nil, fmt.Errorf("regex %.80q: set intersection is not supported", pattern)
	}
	if !utf8.ValidString(pattern) {
		return nil, fmt.Errorf("regex %.80q: not UTF-8", pattern)
	}
	defer func() { // the pattern comes from a file, and a file must not be able to end the process
		if p := recover(); p != nil {
			re, err = nil, fmt.Errorf("regex %.80q: %v", pattern, p)
		}
	}()
	re, err = regexp2.Compile(pattern, regexp2.Multiline)
	if err != nil {
		return nil, fmt.Errorf("regex %.80q: %w", pattern, err)
	}
	re.MatchTimeout = matchTimeout
	return re, nil
}

func decoder(raw json.RawMessage, where string) error {
	if isNull(raw) {
		return nil
	}
	var d struct {
		Type     string            `json:"type"`
		Decoders []json.RawMessage `json:"decoders"`
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	switch d.Type {
	case "ByteLevel":
		return nil
	case "Sequence":
		for i, sub := range d.Decoders {
			if err := decoder(sub, fmt.Sprintf("%s.decoders[%d]", where, i)); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("%s: type %.40q is not supported", where, d.Type)
}
