package llm

import "slices"

// key says what a row of K/V was computed from; equal prefixes of keys mean equal K/V. A visual row is keyed by its part's ID,
// its place in the part and the part's height, never by its values. Where positions have one axis, a row stands where it is in the
// sequence; where they have three, the key says where.
type key struct {
	visual uint64
	row    int32 // a token's ID, or the row within the visual part
	of     int32 // 0 for a token, the rows of the visual part
	at     [3]int32
}

// cacheable tells a key that may be found again: a visual part with ID 0 is nobody's, so it never equals anything.
func (k key) cacheable() bool { return k.of == 0 || k.visual != 0 }

// common is how many leading keys are equal and may be found again.
func common(a, b []key) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] && a[n].cacheable() {
		n++
	}
	return n
}

// anyVisual reports whether one of the rows is of a visual part that matches.
func anyVisual(keys []key, match func(visual uint64) bool) bool {
	last := uint64(0) // rows of a part follow each other
	for _, k := range keys {
		if k.of == 0 || k.visual == last {
			continue
		}
		if last = k.visual; match(last) {
			return true
		}
	}
	return false
}

// kv is one sequence's K/V: which pages hold its rows. Its first pages may be shared with others, all after them are its own. Owned
// by the scheduler's goroutine.
type kv struct {
	pool     *pool
	pages    []int32 // row r lies in pages[r/pageRows]
	owned    []bool  // by page: whether it is this sequence's, not the tree's
	keys     []key   // of the rows that count; what lies behind them is left over from wrong drafts
	path     []*node // the tree's nodes of the first pages, in use by this sequence
	reserved int     // pages it may still take
	private  bool    // a row that is nobody's went by: what follows is never found again
	forgot   bool    // some of its rows are to be forgotten: nothing of it is published any more
}

// open begins a sequence that is to become want and at most rows rows long. It shares the pages that hold its beginning; at least
// one row of want is left to run, because a prompt's last logits are not kept. When the beginning ends within a page, copied names
// that page and the sequence's own that its rows must be copied to, which the caller does before anything else. ok is false when
// there are too few pages for now.
func (p *pool) open(want []key, rows int) (s *kv, copied [2]int32, ok bool) {
	path, partial, n := p.find(want[:len(want)-1])
	pinned := 0
	for _, nd := range path {
		if nd.users == 0 {
			pinned++
		}
	}
	need := pagesFor(rows) - len(path)
	if partial != nil && partial.users == 0 && need+pinned+1 > p.available() {
		partial, n = nil, 0 // its page is needed
	}
	if need+pinned > p.available() {
		return nil, copied, false
	}
	s = &kv{pool: p, path: path, reserved: need, pages: make([]int32, 0, len(path)+need), keys: make([]key, 0, rows)}
	for _, nd := range path {
		p.use(nd)
		s.pages, s.owned = append(s.pages, nd.page), append(s.owned, false)
	}
	p.reserved += need
	s.keys = append(s.keys, want[:len(path)*pageRows+n]...)
	if partial != nil && n > 0 {
		p.use(partial) // so that the page for the copy is not its own
		s.grow(len(s.keys))
		p.leave(partial)
		copied = [2]int32{partial.page, s.pages[len(path)]}
	} else {
		copied = [2]int32{-1, -1}
	}
	return s, copied, true
}

// grow makes room for that many rows, no more than open was told.
func (s *kv) grow(rows int) {
	for len(s.pages)*pageRows < rows {
		s.pages, s.owned = append(s.pages, s.pool.take()), append(s.owned, true)
		s.reserved--
		s.pool.reserved--
	}
}

// adopt shares what others have computed of want since, when the sequence stands at the end of a page, and returns whether that
// brought it forward.
func (s *kv) adopt(want []key) bool {
	was := len(s.keys)
	for len(s.keys)%pageRows == 0 && len(s.pages)*pageRows == len(s.keys) && len(s.path) == len(s.pages) && len(s.keys)+pageRows < len(want) {
		next := s.pool.whole(s.last(), want[len(s.keys):len(s.keys)+pageRows])
		if next == nil {
			break
		}
		s.pool.use(next)
		s.path, s.pages, s.owned = append(s.path, next), append(s.pages, next.page), append(s.owned, false)
		s.keys = append(s.keys, next.keys...)
		s.reserved--
		s.pool.reserved--
	}
	return len(s.keys) > was
}

// add says that rows were computed behind those that count. Pages that became full are published for others to share; where the
// tree holds the same already, this sequence goes on with its own page, so that what others do never changes its rows.
func (s *kv) add(keys ...key) {
	s.keys = append(s.keys, keys...)
	for at := len(s.path) * pageRows; !s.private && !s.forgot && at+pageRows <= len(s.keys); at += pageRows {
		rows := s.keys[at : at+pageRows]
		if s.private = findable(rows) < pageRows; s.private {
			return
		}
		nd := s.publish(rows)
		s.pool.use(nd)
		s.path = append(s.path, nd)
	}
}

// publish puts the page after the path into the tree, as one that holds those rows.
func (s *kv) publish(rows []key) *node {
	i := len(s.path)
	nd, fresh := s.pool.insert(s.last(), rows, s.pages[i])
	if fresh {
		s.owned[i] = false
	}
	return nd
}

// findable is how many leading rows may be found again.
func findable(rows []key) int {
	if i := slices.IndexFunc(rows, func(k key) bool { return !k.cacheable() }); i >= 0 {
		return i
	}
	return len(rows)
}

// last is the node of the path's end.
func (s *kv) last() *node {
	if len(s.path) == 0 {
		return &s.pool.root
	}
	return s.path[len(s.path)-1]
}

// close gives the pages back; what may be found again stays in the tree until its pages are needed.
func (s *kv) close() {
	if s.forgot {
		s.drop()
		return
	}
	rest := s.keys[len(s.path)*pageRows:]
	if rest = rest[:findable(rest[:min(len(rest), pageRows)])]; len(rest) > 0 {
		s.publish(rest)
	}
	s.drop()
}

// drop is close without publishing anything, for when the rows cannot be trusted.
func (s *kv) drop() {
	for _, nd := range slices.Backward(s.path) {
		s.pool.leave(nd)
	}
	for i, own := range s.owned {
		if own {
			s.pool.free = append(s.pool.free, s.pages[i])
		}
	}
	s.pool.reserved -= s.reserved
	*s = kv{pool: s.pool}
}
