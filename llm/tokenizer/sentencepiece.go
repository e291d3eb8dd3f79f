package tokenizer

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// spaceMark is how SentencePiece writes a space.
const spaceMark = "▁"

// LoadModel reads SentencePiece's tokenizer.model, of its BPE kind, and gives it the added tokens that stand in files beside it. An
// added token takes the place of the piece that has its ID. Its errors name the part that is wrong or that this package does not do.
func LoadModel(model []byte, added ...Added) (*Tokenizer, error) {
	t, err := loadModel(model, added, always)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: load model: %w", err)
	}
	return t, nil
}

// Kinds of pieces, as in sentencepiece_model.proto.
const (
	kindNormal = 1 + iota
	kindUnknown
	kindControl
	kindUser
	kindUnused
	kindByte
)

type spPiece struct {
	name  string
	score float32
	kind  uint64
}

// spModel is what is read of a tokenizer.model.
type spModel struct {
	pieces       []spPiece
	modelType    uint64
	byteFallback bool
	suffix       bool // a space is the end of a word, not its beginning
	bos          string
	charsmap     []byte
	dummy        bool // a space is put before a text
	collapse     bool // spaces at both ends go, and others become one
	escape       bool
}

func loadModel(data []byte, added []Added, dummy prepend) (*Tokenizer, error) {
	m, err := parseModel(data)
	if err != nil {
		return nil, err
	}
	switch {
	case m.modelType != 2:
		names := map[uint64]string{1: "UNIGRAM", 3: "WORD", 4: "CHAR"}
		return nil, fmt.Errorf("trainer_spec.model_type %d %s: only BPE is supported", m.modelType, names[m.modelType])
	case m.suffix:
		return nil, errors.New("trainer_spec.treat_whitespace_as_suffix is not supported")
	case !m.escape:
		return nil, errors.New("normalizer_spec.escape_whitespaces: false is not supported")
	case len(m.pieces) == 0:
		return nil, errors.New("there are no pieces")
	}
	t := &Tokenizer{special: map[string]special{}, bos: m.bos, vocabSize: len(m.pieces)}
	t.decode.bytes = singly
	if m.dummy || m.collapse {
		t.decode.drop, t.decode.all = " ", m.collapse
	}
	most := len(m.pieces) + len(added) + 1<<16 // as in loadTokens
	taken := map[int32]string{}
	for i, a := range added {
		if other, ok := taken[a.ID]; ok && other != a.Content {
			return nil, fmt.Errorf("added token %d: %.40q and %.40q share id %d", i, other, a.Content, a.ID)
		}
		if a.ID < 0 || int(a.ID) >= most || a.Content == "" {
			return nil, fmt.Errorf("added token %d: id %d of %.40q is out of range [0, %d)", i, a.ID, a.Content, most)
		}
		taken[a.ID] = a.Content
		t.vocabSize = max(t.vocabSize, int(a.ID)+1)
	}
	b, err := t.spBPE(m, taken)
	if err != nil {
		return nil, err
	}
	n := &spNormalizer{model: m, user: b.user, dummy: never}
	if m.dummy {
		n.dummy = dummy
	}
	if n.trie, n.blob, err = readCharsmap(m.charsmap); err != nil {
		return nil, fmt.Errorf("normalizer_spec.precompiled_charsmap: %w", err)
	}
	t.model, t.normalizers = b, []normalizer{n.normalize}
	added = slices.Clone(added)
	for i := range added {
		added[i].Normalized = false // these models cut added tokens out of the text as it is
	}
	t.addTokens(added)
	for _, a := range added {
		if _, ok := t.special[a.Content]; !ok {
			t.pieces[a.ID].text = a.Content
		}
	}
	return t, nil
}

// spBPE is SentencePiece's BPE: any two neighbours whose text is a piece are merged, the best score first.
type spBPE struct {
	pieces  map[string]int32
	rank    []int32 // by ID: 0 for the best score
	longest int
	user    addedTokens    // pieces that are cut out whole
	unused  map[int32]bool // pieces that are merged but taken apart again in the end
	bytes   *[256]int32
	unk     int32
}

// spBPE fills in the tokenizer's pieces and returns its model. IDs that are taken belong to added tokens.
func (t *Tokenizer) spBPE(m *spModel, taken map[int32]string) (*spBPE, error) {
	b := &spBPE{pieces: make(map[string]int32, len(m.pieces)), rank: make([]int32, len(m.pieces)), unk: -1, unused: map[int32]bool{}}
	t.pieces = make([]piece, t.vocabSize)
	for i := range t.pieces {
		t.pieces[i].byte = -1
	}
	spelled, order := 0, make([]int32, 0, len(m.pieces))
	for i, p := range m.pieces {
		id := int32(i)
		order = append(order, id)
		where := fmt.Sprintf("pieces[%d] %.40q", i, p.name)
		if p.name == "" || !utf8.ValidString(p.name) || math.IsNaN(float64(p.score)) {
			return nil, fmt.Errorf("%s: not a name and a score", where)
		}
		name, overridden := taken[id]
		if overridden && name != p.name && (p.kind == kindUnknown || p.kind == kindByte) {
			return nil, fmt.Errorf("%s: an added token, %.40q, takes its place", where, name)
		}
		switch p.kind {
		case kindUnknown:
			if b.unk >= 0 {
				return nil, fmt.Errorf("%s: a second unknown piece", where)
			}
			b.unk = id
			t.special[p.name] = special{id: id}
		case kindControl:
			if !overridden || name == p.name {
				t.special[p.name] = special{id: id}
			}
		case kindByte: // a second one of that name would leave another out, and so be found below
			at, ok := byteOf(p.name)
			if !ok || !m.byteFallback {
				return nil, fmt.Errorf("%s: not a byte piece of a model with byte_fallback", where)
			}
			if b.bytes == nil {
				b.bytes = new([256]int32)
			}
			b.bytes[at] = id
			spelled++
			t.pieces[i].byte = int16(at)
		case kindNormal, kindUser, kindUnused:
			if overridden {
				continue
			}
			if _, ok := b.pieces[p.name]; ok {
				return nil, fmt.Errorf("%s: there are two of that name", where)
			}
			b.pieces[p.name] = id
			b.longest = max(b.longest, len(p.name))
			switch p.kind {
			case kindUser:
				b.user.add(Added{ID: id, Content: p.name})
			case kindUnused:
				b.unused[id] = true
			}
			t.pieces[i].text = strings.ReplaceAll(p.name, spaceMark, " ")
		default:
			return nil, fmt.Errorf("%s: type %d is not supported", where, p.kind)
		}
	}
	switch {
	case b.unk < 0:
		return nil, errors.New("there is no unknown piece")
	case m.byteFallback && spelled != 256:
		return nil, fmt.Errorf("trainer_spec.byte_fallback with %d of the 256 byte pieces", spelled)
	}
	slices.SortStableFunc(order, func(x, y int32) int { return cmp.Compare(m.pieces[y].score, m.pieces[x].score) })
	for i, id := range order {
		if i > 0 && m.pieces[id].score == m.pieces[order[i-1]].score {
			b.rank[id] = b.rank[order[i-1]]
		} else {
			b.rank[id] = int32(i)
		}
	}
	return b, nil
}

func (m *spBPE) encode(e *encoding, word string) {
	e.merger.reset()
	for at := 0; at < len(word); {
		if tok, ok := m.user.at(word[at:]); ok {
			e.merger.push(tok.ID, at, at+len(tok.Content), true)
			at += len(tok.Content)
			continue
		}
		_, n := utf8.DecodeRuneInString(word[at:])
		id, ok := m.pieces[word[at:at+n]]
		if !ok {
			id = m.unk
		}
		e.merger.push(id, at, at+n, false)
		at += n
	}
	var halves map[string]int // of unused pieces: the length of the first
	e.merger.run(func(left, right *node) (mergedPair, bool) {
		if left.whole || right.whole || int(right.to-left.from) > m.longest {
			return mergedPair{}, false
		}
		id, ok := m.pieces[word[left.from:right.to]]
		if !ok {
			return mergedPair{}, false
		}
		if m.unused[id] {
			if halves == nil {
				halves = map[string]int{}
			}
			halves[word[left.from:right.to]] = int(left.to - left.from)
		}
		return mergedPair{rank: m.rank[id], id: id}, true
	})
	unknown := false
	var say func(text string, id int32)
	say = func(text string, id int32) {
		half := halves[text]
		switch {
		case m.unused[id] && half > 0:
			for _, part := range []string{text[:half], text[half:]} {
				id, ok := m.pieces[part]
				if !ok {
					id = m.unk
				}
				say(part, id)
			}
			return
		case m.unused[id]: // which is of one character, and so unknown
			id = m.unk
		}
		switch {
		case id == m.unk && m.bytes != nil:
			for _, b := range []byte(text) {
				e.add(m.bytes[b])
			}
		case id != m.unk || !unknown: // unknown pieces in a row are one
			e.add(id)
		}
		unknown = id == m.unk
	}
	e.merger.each(func(n *node) { say(word[n.from:n.to], n.id) })
}

// spNormalizer does what SentencePiece does to a text before it is cut.
type spNormalizer struct {
	model *spModel
	user  addedTokens // left as they are
	dummy prepend
	trie  []uint32 // a double array of what is replaced, nil for nothing
	blob  []byte   // what by, each ended by a zero
}

func (n *spNormalizer) normalize(text string, at edge, _ time.Time) string {
	collapse := n.model.collapse
	for collapse && text != "" {
		out, size := n.next(text)
		if out != " " {
			break
		}
		text = text[size:]
	}
	if text == "" {
		return ""
	}
	var b strings.Builder
	if n.dummy == always && !at.inside || n.dummy == first && at.first {
		b.WriteString(spaceMark)
	}
	space := collapse
	for text != "" {
		out, size := n.next(text)
		text = text[size:]
		if space {
			out = strings.TrimLeft(out, " ")
		}
		if out != "" {
			space = collapse && strings.HasSuffix(out, " ")
			b.WriteString(strings.ReplaceAll(out, " ", spaceMark))
		}
	}
	s := b.String()
	for collapse && strings.HasSuffix(s, spaceMark) {
		s = strings.TrimSuffix(s, spaceMark)
	}
	return s
}

// next returns what the beginning of text becomes, and how much of text that is.
func (n *spNormalizer) next(text string) (out string, size int) {
	if tok, ok := n.user.at(text); ok {
		return tok.Content, len(tok.Content)
	}
	if value, size := longestPrefix(n.trie, text); size > 0 {
		by, _, _ := bytes.Cut(n.blob[min(value, len(n.blob)):], []byte{0})
		return string(by), size
	}
	_, size = utf8.DecodeRuneInString(text)
	return text[:size], size
}

// readCharsmap takes a precompiled_charsmap apart: the length of a double array, the array (of darts-clone), the replacements.
func readCharsmap(b []byte) (trie []uint32, blob []byte, err error) {
	if len(b) == 0 {
		return nil, nil, nil
	}
	if len(b) < 4 || int64(binary.LittleEndian.Uint32(b)) > int64(len(b)-4) || binary.LittleEndian.Uint32(b)%4 != 0 {
		return nil, nil, errors.New("cut short")
	}
	size := int(binary.LittleEndian.Uint32(b))
	for at := 4; at < 4+size; at += 4 {
		trie = append(trie, binary.LittleEndian.Uint32(b[at:]))
	}
	return trie, b[4+size:], nil
}

// longestPrefix looks for the longest key of a double array that text begins with: its value and its length, 0 for none. A unit holds
// the label of the edge that leads to it (bits 0-7 and 31), whether a key ends there (8) and where its children are (9-30).
func longestPrefix(trie []uint32, text string) (value, size int) {
	children := func(unit uint32) uint32 { return unit >> 10 << (unit >> 6 & 8) }
	if len(trie) == 0 {
		return 0, 0
	}
	at := children(trie[0])
	for i := 0; i < len(text); i++ {
		c := uint32(text[i])
		at ^= c
		if int64(at) >= int64(len(trie)) || trie[at]&(1<<31|0xFF) != c {
			break
		}
		unit := trie[at]
		at ^= children(unit)
		if int64(at) >= int64(len(trie)) {
			break
		}
		if unit>>8&1 == 1 {
			value, size = int(trie[at]&^(1<<31)), i+1
		}
	}
	return value, size
}

// parseModel reads the few fields of the protocol buffer that decide.
func parseModel(data []byte) (*spModel, error) {
	m := &spModel{modelType: 1, bos: "<s>", dummy: true, collapse: true, escape: true}
	err := fields(data, "model", func(num int, f field) error {
		switch num {
		case 1:
			p := spPiece{kind: kindNormal}
			err := fields(f.bytes, fmt.Sprintf("pieces[%d]", len(m.pieces)), func(num int, f field) error {
				switch num {
				case 1:
					p.name = string(f.bytes)
				case 2:
					p.score = math.Float32frombits(uint32(f.number))
				case 3:
					p.kind = f.number
				}
				return nil
			})
			m.pieces = append(m.pieces, p)
			return err
		case 2:
			return fields(f.bytes, "trainer_spec", func(num int, f field) error {
				switch num {
				case 3:
					m.modelType = f.number
				case 24:
					m.suffix = f.number != 0
				case 35:
					m.byteFallback = f.number != 0
				case 46:
					m.bos = string(f.bytes)
				}
				return nil
			})
		case 3:
			return fields(f.bytes, "normalizer_spec", func(num int, f field) error {
				switch num {
				case 2:
					m.charsmap = f.bytes
				case 3:
					m.dummy = f.number != 0
				case 4:
					m.collapse = f.number != 0
				case 5:
					m.escape = f.number != 0
				}
				return nil
			})
		case 5:
			return fields(f.bytes, "denormalizer_spec", func(num int, f field) error {
				if num == 2 && len(f.bytes) > 0 {
					return errors.New("denormalizer_spec.precompiled_charsmap is not supported")
				}
				return nil
			})
		}
		return nil
	})
	return m, err
}

// field is one value of a protocol buffer message: a number, or bytes.
type field struct {
	number uint64
	bytes  []byte
}

// fields calls fn for every field of a message.
func fields(data []byte, where string, fn func(num int, f field) error) error {
	short := fmt.Errorf("%s: cut short, or no protocol buffer", where)
	for len(data) > 0 {
		key, n := binary.Uvarint(data)
		if n <= 0 || key>>3 == 0 || key>>3 > 1<<29 {
			return short
		}
		data = data[n:]
		var f field
		switch key & 7 {
		case 0:
			if f.number, n = binary.Uvarint(data); n <= 0 {
				return short
			}
		case 1:
			if n = 8; len(data) < n {
				return short
			}
			f.number = binary.LittleEndian.Uint64(data)
		case 2:
			size, k := binary.Uvarint(data)
			if k <= 0 || size > uint64(len(data)-k) {
				return short
			}
			n = k + int(size)
			f.bytes = data[k:n]
		case 5:
			if n = 4; len(data) < n {
				return short
			}
			f.number = uint64(binary.LittleEndian.Uint32(data))
		default:
			return short
		}
		data = data[n:]
		if err := fn(int(key>>3), f); err != nil {
			return err
		}
	}
	return nil
}
