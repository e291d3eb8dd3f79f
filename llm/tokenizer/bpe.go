package tokenizer

// pair is two neighbouring tokens, and mergedPair what becomes of them: a lower rank goes first.
type pair struct{ left, right int32 }

type mergedPair struct{ rank, id int32 }

// merger applies the merges to one word at a time, keeping its buffers. The word is a doubly linked list of tokens and the
// candidates lie in a binary heap by rank, then place; a candidate whose tokens have changed since is stale and skipped.
// So a word of n bytes takes O(n log n): the plain loop's O(n²) would let one long word stop the machine.
type merger struct {
	nodes []node
	heap  []candidate
}

type node struct{ id, prev, next int32 } // id -1: merged away

type candidate struct {
	rank, at    int32
	left, right int32 // the tokens when the candidate was made
	id          int32
}

func (c candidate) before(d candidate) bool {
	return c.rank < d.rank || c.rank == d.rank && c.at < d.at
}

// encode appends the tokens of word to dst.
func (m *merger) encode(dst []int32, t *Tokenizer, word string) []int32 {
	if len(word) == 1 {
		return append(dst, t.bytes[word[0]])
	}
	m.nodes, m.heap = m.nodes[:0], m.heap[:0]
	for i := range len(word) {
		m.nodes = append(m.nodes, node{id: t.bytes[word[i]], prev: int32(i - 1), next: int32(i + 1)})
	}
	for i := range len(word) - 1 {
		m.consider(t, int32(i))
	}
	for len(m.heap) > 0 {
		c := m.pop()
		n := &m.nodes[c.at]
		if n.id != c.left || int(n.next) >= len(m.nodes) || m.nodes[n.next].id != c.right {
			continue
		}
		gone := &m.nodes[n.next]
		n.id, n.next, gone.id = c.id, gone.next, -1
		if int(n.next) < len(m.nodes) {
			m.nodes[n.next].prev = c.at
			m.consider(t, c.at)
		}
		if n.prev >= 0 {
			m.consider(t, n.prev)
		}
	}
	for i := int32(0); int(i) < len(m.nodes); i = m.nodes[i].next {
		dst = append(dst, m.nodes[i].id)
	}
	return dst
}

// consider pushes the merge of node i with the one after it, if there is such a merge.
func (m *merger) consider(t *Tokenizer, i int32) {
	left := m.nodes[i]
	right := m.nodes[left.next].id
	mp, ok := t.merges[pair{left.id, right}]
	if !ok {
		return
	}
	m.heap = append(m.heap, candidate{rank: mp.rank, at: i, left: left.id, right: right, id: mp.id})
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
