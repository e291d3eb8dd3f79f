package tokenizer

import (
	"slices"
	"sort"
	"strings"
	"unicode/utf8"
)

// unigram cuts a word into the pieces whose scores sum highest (Viterbi). Pieces that begin with the same bytes are neighbours in
// sorted order, so all pieces at one place are found by narrowing a range byte by byte: no word takes more than its length times
// the longest piece.
type unigram struct {
	names   []string // sorted
	ids     []int32
	scores  []float64
	unk     int32
	unkCost float64 // the score of one character that no piece has
	bytes   *[256]int32
}

// unkPenalty is how much worse an unknown character is than the worst piece.
const unkPenalty = 10

func (t *Tokenizer) unigram(f *modelJSON) (*unigram, error) {
	m := &unigram{unkCost: slices.Min(f.scores) - unkPenalty}
	var err error
	if m.bytes, m.unk, err = t.fallback(f); err != nil {
		return nil, err
	}
	for name := range f.vocab {
		if _, ok := t.special[name]; !ok {
			m.names = append(m.names, name)
		}
	}
	slices.Sort(m.names)
	for _, name := range m.names {
		id := f.vocab[name]
		m.ids, m.scores = append(m.ids, int32(id)), append(m.scores, f.scores[id])
	}
	return m, nil
}

func (m *unigram) encode(e *encoding, word string) {
	type node struct {
		score float64
		from  int
		piece int // -1: unknown, -2: nothing ends here
	}
	best := make([]node, len(word)+1)
	for i := range best {
		best[i].piece = -2
	}
	best[0] = node{}
	better := func(to int, n node) {
		if best[to].piece == -2 || n.score > best[to].score {
			best[to] = n
		}
	}
	for at := 0; at < len(word); {
		_, n := utf8.DecodeRuneInString(word[at:])
		single := false
		m.prefixes(word[at:], func(p int) {
			size := len(m.names[p])
			better(at+size, node{best[at].score + m.scores[p], at, p})
			single = single || size == n
		})
		if !single {
			better(at+n, node{best[at].score + m.unkCost, at, -1})
		}
		at += n
	}
	var path []int // where nodes end, last first
	for at := len(word); at > 0; at = best[at].from {
		path = append(path, at)
	}
	for i := len(path) - 1; i >= 0; i-- {
		n := best[path[i]]
		to := path[i]
		if n.piece >= 0 {
			e.add(m.ids[n.piece])
			continue
		}
		for i > 0 && best[path[i-1]].piece == -1 { // unknown characters in a row are one
			i--
			to = path[i]
		}
		if m.bytes == nil {
			e.add(m.unk)
			continue
		}
		for _, b := range []byte(word[n.from:to]) {
			e.add(m.bytes[b])
		}
	}
}

// prefixes calls fn for every piece that text begins with, shortest first.
func (m *unigram) prefixes(text string, fn func(piece int)) {
	lo, hi := 0, len(m.names)
	for n := 1; n <= len(text) && lo < hi; n++ {
		c := text[n-1]
		within := m.names[lo:hi]
		from := sort.Search(len(within), func(i int) bool { return len(within[i]) >= n && within[i][n-1] >= c })
		to := from + sort.Search(len(within)-from, func(i int) bool { s := within[from+i]; return len(s) >= n && s[n-1] > c })
		lo, hi = lo+from, lo+to
		if lo < hi && len(m.names[lo]) == n && strings.HasPrefix(text, m.names[lo]) {
			fn(lo)
		}
	}
}
