package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// matchTimeout bounds one match; a word of ordinary text takes microseconds.
const matchTimeout = 250 * time.Millisecond

var errDeadline = errors.New("tokenizer: time is up")

// file is the part of tokenizer.json that changes what Encode and Decode do. Of the post-processor only the token that it puts before
// a text is read: prompts are built of parts by the caller. Truncation and padding are not the tokenizer's business either.
type file struct {
	Added         []Added         `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         modelJSON       `json:"model"`
}

type modelJSON struct {
	Type         string          `json:"type"`
	Dropout      *float64        `json:"dropout"`
	Prefix       *string         `json:"continuing_subword_prefix"`
	Suffix       *string         `json:"end_of_word_suffix"`
	ByteFallback bool            `json:"byte_fallback"`
	IgnoreMerges bool            `json:"ignore_merges"`
	UnkToken     *string         `json:"unk_token"`
	FuseUnk      bool            `json:"fuse_unk"`
	UnkID        *int64          `json:"unk_id"` // of Unigram
	Vocab        json.RawMessage `json:"vocab"`  // of BPE a map, of Unigram a list of pieces and scores
	Merges       []mergeJSON     `json:"merges"`

	vocab  map[string]int64
	scores []float64 // of Unigram, by ID
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
	return m.parse(s)
}

func (m *mergeJSON) parse(s string) error {
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
	return build(&f)
}

func build(f *file) (*Tokenizer, error) {
	t := &Tokenizer{bos: postProcessorBOS(f.PostProcessor)}
	var err error
	if t.normalizers, err = readNormalizer(nil, f.Normalizer, "normalizer"); err != nil {
		return nil, err
	}
	if t.split, err = preTokenizer(nil, f.PreTokenizer, "pre_tokenizer"); err != nil {
		return nil, err
	}
	byteLevel := len(t.split) > 0 && t.split[len(t.split)-1].byteLevel
	if err := f.Model.check(byteLevel); err != nil {
		return nil, err
	}
	say, err := t.decoder(f.Decoder, byteLevel)
	if err != nil {
		return nil, err
	}
	if err := t.loadTokens(f, say, byteLevel); err != nil {
		return nil, err
	}
	switch {
	case f.Model.scores != nil:
		t.model, err = t.unigram(&f.Model)
	case byteLevel:
		t.model, err = t.byteBPE(&f.Model)
	default:
		t.model, err = t.runeBPE(&f.Model)
	}
	return t, err
}

// check reads the vocabulary and refuses what no model here does.
func (m *modelJSON) check(byteLevel bool) error {
	switch {
	case m.Type != "BPE" && m.Type != "" && m.Type != "Unigram":
		return fmt.Errorf("model.type %.40q: only BPE and Unigram are supported", m.Type)
	case m.Dropout != nil && *m.Dropout != 0:
		return errors.New("model.dropout is not supported")
	case m.Prefix != nil && *m.Prefix != "":
		return errors.New("model.continuing_subword_prefix is not supported")
	case m.Suffix != nil && *m.Suffix != "":
		return errors.New("model.end_of_word_suffix is not supported")
	case m.ByteFallback && byteLevel:
		return errors.New("model.byte_fallback is not supported together with ByteLevel")
	case m.Type == "Unigram" && byteLevel:
		return errors.New("model.type \"Unigram\" is not supported together with ByteLevel")
	}
	if m.Type != "Unigram" {
		if !isNull(m.Vocab) {
			if err := json.Unmarshal(m.Vocab, &m.vocab); err != nil {
				return fmt.Errorf("model.vocab: %w", err)
			}
		}
		if len(m.vocab) == 0 {
			return errors.New("model.vocab is empty")
		}
		return nil
	}
	var list [][2]any
	if err := json.Unmarshal(m.Vocab, &list); err != nil {
		return fmt.Errorf("model.vocab: %w", err)
	}
	if len(list) == 0 {
		return errors.New("model.vocab is empty")
	}
	m.vocab = make(map[string]int64, len(list))
	for i, p := range list {
		name, ok := p[0].(string)
		score, number := p[1].(float64)
		if _, twice := m.vocab[name]; !ok || !number || name == "" || twice {
			return fmt.Errorf("model.vocab[%d] is not a new piece and its score", i)
		}
		m.vocab[name], m.scores = int64(i), append(m.scores, score)
	}
	return nil
}

// postProcessorBOS returns the special token that the file puts before every text.
func postProcessorBOS(raw json.RawMessage) string {
	var p struct {
		Processors []json.RawMessage `json:"processors"`
		Single     []struct {
			SpecialToken *struct{ ID string }
		} `json:"single"`
	}
	if json.Unmarshal(raw, &p) != nil {
		return "" // of no use to us, so its form is not either
	}
	for _, sub := range p.Processors {
		if bos := postProcessorBOS(sub); bos != "" {
			return bos
		}
	}
	if len(p.Single) > 0 && p.Single[0].SpecialToken != nil {
		return p.Single[0].SpecialToken.ID
	}
	return ""
}

// loadTokens fills in everything that is known of single tokens; say returns what a token of a name says.
func (t *Tokenizer) loadTokens(f *file, say func(name string) piece, byteLevel bool) error {
	// IDs index arrays here and rows of an embedding elsewhere; real files have few holes, and a small file must not be
	// able to ask for gigabytes.
	most := 2*int64(len(f.Model.vocab)+len(f.Added)) + 1<<16
	byID := make(map[int64]string, len(f.Model.vocab))
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
	for name, id := range f.Model.vocab {
		if err := check("model.vocab", name, id); err != nil {
			return err
		}
	}
	t.special = map[string]special{}
	for i, a := range f.Added {
		where := fmt.Sprintf("added_tokens[%d]", i)
		if a.Content == "" {
			return fmt.Errorf("%s: empty content", where)
		}
		if id, ok := f.Model.vocab[a.Content]; ok && id != int64(a.ID) {
			return fmt.Errorf("%s: %.40q has id %d, but %d in model.vocab", where, a.Content, a.ID, id)
		}
		if err := check(where, a.Content, int64(a.ID)); err != nil {
			return err
		}
	}
	t.addTokens(f.Added)
	t.pieces = make([]piece, t.vocabSize)
	for i := range t.pieces {
		t.pieces[i].byte = -1
	}
	for id, name := range byID {
		if _, ok := t.special[name]; !ok {
			t.pieces[id] = say(name)
		}
	}
	for _, a := range f.Added {
		if !byteLevel || a.Special {
			continue
		}
		if _, ok := f.Model.vocab[a.Content]; ok && t.pieces[a.ID].text != a.Content {
			return fmt.Errorf("added_tokens: %.40q stands for other bytes in model.vocab", a.Content)
		}
		t.pieces[a.ID].text = a.Content // which is not spelled byte by byte
	}
	return nil
}

// addTokens makes Special find added tokens and cut look for them. What is special once is special however often it is named.
func (t *Tokenizer) addTokens(added []Added) {
	for _, a := range added {
		if a.Special {
			t.special[a.Content] = special{a.ID, a.LStrip, a.RStrip}
		}
	}
	for _, a := range added {
		_, a.Special = t.special[a.Content]
		if !a.Normalized {
			t.rawAdded.add(a)
			continue
		}
		for _, n := range t.normalizers {
			a.Content = n(a.Content, edge{first: true}, time.Now().Add(encodeLimit))
		}
		if a.Content != "" {
			t.addedAfter.add(a)
		}
	}
}

// byteBPE reads a BPE model whose names are spelled byte by byte.
func (t *Tokenizer) byteBPE(f *modelJSON) (*byteBPE, error) {
	m := &byteBPE{}
	words := make(map[string]int32, len(f.vocab))
	for name, id := range f.vocab {
		if _, ok := t.special[name]; ok {
			continue
		}
		if raw, ok := rawBytes(name); ok { // else no text gets here, but a model may say it
			words[raw] = int32(id)
		}
	}
	for b := range 256 {
		id, ok := words[string([]byte{byte(b)})]
		if !ok {
			if !mayLack(byte(b)) {
				return nil, fmt.Errorf("model.vocab: no token for byte 0x%02X, so not every text could be encoded", b)
			}
			id = -1
		}
		m.bytes[b] = id
	}
	if f.IgnoreMerges {
		m.words = words
	}
	var err error
	m.merges, err = t.loadMerges(f)
	return m, err
}

// mayLack reports whether a byte does not occur in ordinary text, so that published vocabularies do without it: control characters,
// the planes that hold no characters yet, and what is never in UTF-8.
func mayLack(b byte) bool {
	return b < ' ' && b != '\t' && b != '\n' && b != '\r' || b == 0x7F || b == 0xC0 || b == 0xC1 || b > 0xF0
}

// runeBPE reads a BPE model whose names are text.
func (t *Tokenizer) runeBPE(f *modelJSON) (*runeBPE, error) {
	m := &runeBPE{runes: map[rune]int32{}, fuse: f.FuseUnk}
	for name, id := range f.vocab {
		r, n := utf8.DecodeRuneInString(name)
		if _, ok := t.special[name]; n == len(name) && !ok {
			m.runes[r] = int32(id)
		}
	}
	var err error
	if m.bytes, m.unk, err = t.fallback(f); err != nil {
		return nil, err
	}
	if f.IgnoreMerges {
		m.words = make(map[string]int32, len(f.vocab))
		for name, id := range f.vocab {
			if _, ok := t.special[name]; !ok {
				m.words[name] = int32(id)
			}
		}
	}
	m.merges, err = t.loadMerges(f)
	return m, err
}

// fallback reads what becomes of characters that a vocabulary lacks: byte tokens, or the unknown token.
func (t *Tokenizer) fallback(f *modelJSON) (bytes *[256]int32, unk int32, err error) {
	if f.ByteFallback {
		bytes = new([256]int32)
		n := 0
		for b := range bytes {
			name := byteName(byte(b))
			id, ok := f.vocab[name]
			if _, special := t.special[name]; ok && !special {
				bytes[b] = int32(id)
				n++
			}
		}
		switch {
		case n == len(bytes):
			return bytes, 0, nil
		case n > 0:
			return nil, 0, fmt.Errorf("model.vocab: %d of the 256 byte tokens, so not every text could be encoded", n)
		}
	}
	id := int64(-1)
	switch {
	case f.UnkID != nil:
		id = *f.UnkID
	case f.UnkToken != nil:
		known, ok := f.vocab[*f.UnkToken]
		if !ok {
			return nil, 0, fmt.Errorf("model.unk_token: %.40q is not in model.vocab", *f.UnkToken)
		}
		id = known
	default:
		return nil, 0, errors.New("model: neither byte tokens nor an unknown token, so not every text could be encoded")
	}
	if id < 0 || id >= int64(t.vocabSize) {
		return nil, 0, fmt.Errorf("model.unk_id %d is out of range [0, %d)", id, t.vocabSize)
	}
	return nil, int32(id), nil
}

// byteName is the name of the token that stands for one byte, of vocabularies with byte fallback.
func byteName(b byte) string { return fmt.Sprintf("<0x%02X>", b) }

func (t *Tokenizer) loadMerges(f *modelJSON) (map[pair]mergedPair, error) {
	merges := make(map[pair]mergedPair, len(f.Merges))
	for rank, m := range f.Merges {
		var ids [3]int32
		skip := false
		for i, name := range [3]string{m.left, m.right, m.left + m.right} {
			id, ok := f.vocab[name]
			if !ok {
				return nil, fmt.Errorf("model.merges[%d]: %.40q is not in model.vocab", rank, name)
			}
			if _, ok := t.special[name]; ok {
				skip = true // text must not become a special token, by no way
			}
			ids[i] = int32(id)
		}
		if !skip {
			merges[pair{ids[0], ids[1]}] = mergedPair{rank: int32(rank), id: ids[2]}
		}
	}
	return merges, nil
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
		PrependScheme    *string           `json:"prepend_scheme"`
		Replacement      string            `json:"replacement"`
		Split            *bool             `json:"split"`
		Behavior         *string           `json:"behavior"`
		Invert           bool              `json:"invert"`
		Pattern          pattern           `json:"pattern"`
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
		s.byteLevel, s.space = true, " "
		if p.AddPrefixSpace == nil || *p.AddPrefixSpace { // both default to true in Hugging Face's reader
			s.prepend = always
		}
		if p.UseRegex == nil || *p.UseRegex {
			re, err := compile(gpt2Pattern)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
			s.find = findRegex(re)
		}
	case "Metaspace":
		if utf8.RuneCountInString(p.Replacement) != 1 {
			return nil, fmt.Errorf("%s: replacement %.40q is not one character", where, p.Replacement)
		}
		s.space = p.Replacement
		var err error
		if s.prepend, err = prependScheme(p.PrependScheme, p.AddPrefixSpace); err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		if p.Split == nil || *p.Split {
			s.find, s.behaviour = findString(p.Replacement), mergedWithNext
		}
	case "Whitespace":
		s.find, s.behaviour, s.invert = findWords, removed, true
	case "WhitespaceSplit":
		s.find, s.behaviour = findRunes(unicode.IsSpace), removed
	case "Digits":
		s.find = findRunes(unicode.IsNumber)
		if !p.IndividualDigits {
			s.behaviour = contiguous
		}
	case "Split", "Punctuation":
		if p.Behavior != nil || p.Type == "Split" {
			name := ""
			if p.Behavior != nil {
				name = *p.Behavior
			}
			b, ok := behaviours[name]
			if !ok {
				return nil, fmt.Errorf("%s: behavior %.40q is not supported", where, name)
			}
			s.behaviour = b
		}
		if p.Type == "Punctuation" {
			s.find = findRunes(isPunctuation)
			break
		}
		s.invert = p.Invert
		var err error
		if s.find, err = p.Pattern.finder(); err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
	default:
		return nil, fmt.Errorf("%s: type %.40q is not supported", where, p.Type)
	}
	return append(list, s), nil
}

// prependScheme reads where Metaspace puts a space, in its old form and its new one.
func prependScheme(scheme *string, old *bool) (prepend, error) {
	if scheme == nil {
		if old != nil && !*old {
			return never, nil
		}
		return always, nil
	}
	p, ok := map[string]prepend{"always": always, "first": first, "never": never}[*scheme]
	switch {
	case !ok:
		return 0, fmt.Errorf("prepend_scheme %.40q is not supported", *scheme)
	case old != nil && !*old && p != never:
		return 0, fmt.Errorf("prepend_scheme %q contradicts add_prefix_space", *scheme)
	}
	return p, nil
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
