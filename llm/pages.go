package llm

import (
	"container/heap"
	"slices"

	"afterimage/internal/compute"
)

const pageRows = compute.PageRows

func pagesFor(rows int) int { return (rows + pageRows - 1) / pageRows }

// pool deals out a decoder's pages of K/V and remembers what the ones hold that nobody uses: a tree, each node one page that
// continues its parent's. Sequences that begin alike share the nodes of their common beginning. When pages run out, the leaf that
// was used longest ago goes first. Owned by the scheduler's goroutine.
type pool struct {
	root     node
	free     []int32
	idle     leaves // nodes without users and children
	unused   int    // nodes without users: their pages can all be had
	reserved int    // pages promised to open sequences
	clock    uint64
	total    int
	evicted  uint64
}

// node is a page in the tree. A node with children is full; its path from the root spells their prefix.
type node struct {
	parent   *node
	children []*node
	keys     []key // 1 to pageRows
	page     int32
	users    int    // open sequences
	left     uint64 // when the last user left, by the pool's clock
	at       int    // in idle, -1 when not there
	dead     bool   // forgotten while in use: never found again, freed by its last user
}

func newPool(pages int) *pool {
	p := &pool{total: pages}
	p.reset()
	return p
}

// reset forgets everything. No sequence may be open.
func (p *pool) reset() {
	p.root, p.idle, p.unused, p.reserved = node{at: -1}, nil, 0, 0
	p.free = p.free[:0]
	for i := range p.total {
		p.free = append(p.free, int32(p.total-1-i))
	}
}

// available is how many pages can be promised.
func (p *pool) available() int { return len(p.free) + p.unused - p.reserved }

// cached is how many pages hold something that may be found again.
func (p *pool) cached() int { return p.unused }

// find follows want as far as the tree goes: whole pages, and then n rows of partial.
func (p *pool) find(want []key) (path []*node, partial *node, n int) {
	for at := &p.root; ; {
		var best *node
		longest := 0
		for _, c := range at.children {
			if l := common(c.keys, want); l > longest && !c.dead {
				best, longest = c, l
			}
		}
		if longest < pageRows {
			return path, best, longest
		}
		path, at, want = append(path, best), best, want[pageRows:]
	}
}

// whole returns the child of a node that holds just these keys of a full page, or nil.
func (p *pool) whole(at *node, keys []key) *node {
	for _, c := range at.children {
		if common(c.keys, keys) == pageRows && !c.dead {
			return c
		}
	}
	return nil
}

// insert makes the tree hold a page under a node. Where it does already, that node is returned and fresh is false: the page stays
// the caller's. A page that only holds the beginning of this one makes way.
func (p *pool) insert(under *node, keys []key, page int32) (nd *node, fresh bool) {
	for _, c := range slices.Clone(under.children) {
		switch n := common(c.keys, keys); {
		case c.dead:
		case n == len(keys):
			return c, false
		case n == len(c.keys) && c.users == 0: // shorter, so without children
			p.remove(c)
			p.free = append(p.free, c.page)
		}
	}
	if under.at >= 0 {
		heap.Remove(&p.idle, under.at)
	}
	nd = &node{parent: under, keys: slices.Clone(keys), page: page, at: -1}
	under.children = append(under.children, nd)
	p.unused++
	p.rest(nd)
	return nd, true
}

// use counts one more user of a node.
func (p *pool) use(nd *node) {
	if nd.users++; nd.users == 1 {
		p.unused--
		if nd.at >= 0 {
			heap.Remove(&p.idle, nd.at)
		}
	}
}

// leave counts one less.
func (p *pool) leave(nd *node) {
	if nd.users--; nd.users == 0 {
		p.unused++
		if nd.dead {
			p.bury(nd)
			return
		}
		p.rest(nd)
	}
}

// forget takes every node out whose rows, or rows before them, were computed from visual parts that match. What is in use goes with its
// last user and is not found until then.
func (p *pool) forget(match func(visual uint64) bool) {
	var walk func(nd *node, follows bool)
	walk = func(nd *node, follows bool) {
		for _, c := range slices.Clone(nd.children) {
			gone := follows || anyVisual(c.keys, match)
			walk(c, gone)
			if c.dead = c.dead || gone; gone {
				p.bury(c)
			}
		}
	}
	walk(&p.root, false)
}

// bury frees a dead node that has no users and children any more, and then its parents likewise.
func (p *pool) bury(nd *node) {
	for nd.dead && nd.users == 0 && len(nd.children) == 0 {
		up := nd.parent
		p.remove(nd)
		p.free = append(p.free, nd.page)
		nd = up
	}
}

// rest puts a node without users where eviction finds it, unless it has children: they go first.
func (p *pool) rest(nd *node) {
	p.clock++
	nd.left = p.clock
	if len(nd.children) == 0 {
		heap.Push(&p.idle, nd)
	}
}

// take returns a page that was promised.
func (p *pool) take() int32 {
	if len(p.free) == 0 {
		nd := p.idle[0]
		p.remove(nd)
		p.evicted++
		return nd.page
	}
	page := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	return page
}

// remove takes a node without users and children out of the tree.
func (p *pool) remove(nd *node) {
	if nd.at >= 0 {
		heap.Remove(&p.idle, nd.at)
	}
	p.unused--
	up := nd.parent
	up.children = slices.DeleteFunc(up.children, func(c *node) bool { return c == nd })
	if up != &p.root && up.users == 0 && len(up.children) == 0 {
		heap.Push(&p.idle, up)
	}
}

// leaves is a heap, the one that was left first on top.
type leaves []*node

func (l leaves) Len() int           { return len(l) }
func (l leaves) Less(i, j int) bool { return l[i].left < l[j].left }
func (l leaves) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].at, l[j].at = i, j
}

// Push implements heap.Interface.
func (l *leaves) Push(x any) {
	nd := x.(*node)
	nd.at = len(*l)
	*l = append(*l, nd)
}

// Pop implements heap.Interface.
func (l *leaves) Pop() any {
	old := *l
	nd := old[len(old)-1]
	nd.at = -1
	*l = old[:len(old)-1]
	return nd
}
