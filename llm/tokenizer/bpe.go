package tokenizer

import "unicode/utf8"

// pair is two neighbouring tokens, and mergedPair what becomes of them: a lower rank goes first.
type pair struct{ left, right int32 }

type mergedPair struct{ rank, id int32 }

// byteBPE is BPE over bytes: every text is spelled in tokens of single bytes, which are then merged.
type byteBPE struct {
	bytes  [256]int32          // the token of each byte; -1 for one that the vocabulary lacks, which is left out
	words  map[string]int32    // tokens that are taken whole, by raw bytes: of files that say ignore_merges
	merges map[pair]mergedPair // by the two halves' IDs
}

func (m *byteBPE) encode(e *encoding, word string) {
	if id, ok := m.words[word]; ok {
		e.add(id)
		return
	}
	e.merger.reset()
	for i := range len(word) {
		if id := m.bytes[word[i]]; id >= 0 {
			e.merger.push(id, i, i+1, false)
		}
	}
	e.ids = e.merger.merge(e.ids, m.merges)
}

// runeBPE is BPE over characters: one that the vocabulary lacks is spelled in byte tokens, or is unknown.
type runeBPE struct {
	runes  map[rune]int32
	words  map[string]int32
	merges map[pair]mergedPair
	bytes  *[256]int32 // nil without byte fallback
	unk    int32
	fuse   bool // a run of unknown characters is one token
}

func (m *runeBPE) encode(e *encoding, word string) {
	if id, ok := m.words[word]; ok {
		e.add(id)
		return
	}
	e.merger.reset()
	unknown := false
	for i, r := range word {
		id, ok := m.runes[r]
		switch to := i + utf8.RuneLen(r); {
		case ok:
			e.merger.push(id, i, to, false)
		case m.bytes != nil:
			for at := i; at < to; at++ {
				e.merger.push(m.bytes[word[at]], at, at+1, false)
			}
		case !unknown || !m.fuse:
			e.merger.push(m.unk, i, to, false)
		}
		unknown = !ok
	}
	e.ids = e.merger.merge(e.ids, m.merges)
}

// merger applies the merges to one word at a time, keeping its buffers. The word is a doubly linked list of tokens and the
// candidates lie in a binary heap by rank, then place; a candidate whose tokens have changed since is stale and skipped.
// So a word of n bytes takes O(n log n): the plain loop's O(n²) would let one long word stop the machine.
type merger struct {
	nodes []node
	heap  []candidate
}

// node is a token of the word and the bytes it stands for.
type node struct {
	id         int32 // -1: merged away
	prev, next int32
	from, to   int32
	whole      bool // never merged
}

type candidate struct {
	rank, at    int32
	left, right int32 // the tokens when the candidate was made
	id          int32
}

func (c candidate) before(d candidate) bool {
	return c.rank < d.rank || c.rank == d.rank && c.at < d.at
}

func (m *merger) reset() { m.nodes, m.heap = m.nodes[:0], m.heap[:0] }

// push appends a token that stands for bytes [from, to) of the word.
func (m *merger) push(id int32, from, to int, whole bool) {
	i := int32(len(m.nodes))
	m.nodes = append(m.nodes, node{id: id, prev: i - 1, next: i + 1, from: int32(from), to: int32(to), whole: whole})
}

// merge applies the merges to what was pushed and appends the tokens that are left to dst.
func (m *merger) merge(dst []int32, merges map[pair]mergedPair) []int32 {
	m.run(func(left, right *node) (mergedPair, bool) {
		mp, ok := merges[pair{left.id, right.id}]
		return mp, ok
	})
	m.each(func(n *node) { dst = append(dst, n.id) })
	return dst
}

// each calls fn for every token that is left, in order.
func (m *merger) each(fn func(n *node)) {
	for i := int32(0); int(i) < len(m.nodes); i = m.nodes[i].next {
		fn(&m.nodes[i])
	}
}

// joiner says what becomes of two neighbours, if they are merged at all.
type joiner func(left, right *node) (mergedPair, bool)

func (m *merger) run(join joiner) {
	for i := range len(m.nodes) - 1 {
		m.consider(join, int32(i))
	}
	for len(m.heap) > 0 {
		c := m.pop()
		n := &m.nodes[c.at]
		if n.id != c.left || int(n.next) >= len(m.nodes) || m.nodes[n.next].id != c.right {
			continue
		}
		gone := &m.nodes[n.next]
		n.id, n.next, n.to, gone.id = c.id, gone.next, gone.to, -1
		if int(n.next) < len(m.nodes) {
			m.nodes[n.next].prev = c.at
			m.consider(join, c.at)
		}
		if n.prev >= 0 {
			m.consider(join, n.prev)
		}
	}
}

// consider pushes the merge of node i with the one after it, if there is such a merge.
func (m *merger) consider(join joiner, i int32) {
	left := &m.nodes[i]
	right := &m.nodes[left.next]
	mp, ok := join(left, right)
	if !ok {
		return
	}
	m.heap = append(m.heap, candidate{rank: mp.rank, at: i, left: left.id, right: right.id, id: mp.id})
	h, k := m.heap, len(m.heap)-1
	for k > 0 {
		up := (k - 1) / 2
		if !h[k].before(h[up]) {
			break
		}
		h[k], h[up] = h[up], h[k]
		k = up
	}
}

func (m *merger) pop() candidate {
	h := m.heap
	top, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for k := 0; ; {
		small := 2*k + 1
		if small >= last {
			break
		}
		if small+1 < last && h[small+1].before(h[small]) {
			small++
		}
		if !h[small].before(h[k]) {
			break
		}
		h[k], h[small] = h[small], h[k]
		k = small
	}
	m.heap = h
	return top
}
