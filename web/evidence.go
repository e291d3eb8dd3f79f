package web

import (
	"container/list"
	"crypto/sha256"
	"encoding/hex"
	"sync"
)

// thumbs keeps the thumbnails that recent answers point at, bounded in bytes; the least recently used go first.
// The id is a digest of stream and picture: equal pictures share a slot, and an id cannot be guessed from another.
type thumbs struct {
	mu    sync.Mutex
	max   int
	bytes int
	order *list.List // front: most recently used; values are *thumb
	byID  map[string]*list.Element
}

type thumb struct {
	id   string
	jpeg []byte
}

func newThumbs(maxBytes int) *thumbs {
	return &thumbs{max: maxBytes, order: list.New(), byID: map[string]*list.Element{}}
}

// put remembers a thumbnail of a stream and returns its id, or "" when there is nothing to remember. jpeg is kept, not copied.
func (t *thumbs) put(stream string, jpeg []byte) string {
	if len(jpeg) == 0 || len(jpeg) > t.max {
		return ""
	}
	h := sha256.New()
	h.Write([]byte(stream))
	h.Write([]byte{0})
	h.Write(jpeg)
	id := hex.EncodeToString(h.Sum(nil)[:16])
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.byID[id]; ok {
		t.order.MoveToFront(e)
		return id
	}
	t.byID[id] = t.order.PushFront(&thumb{id, jpeg})
	t.bytes += len(jpeg)
	for t.bytes > t.max {
		oldest := t.order.Remove(t.order.Back()).(*thumb)
		delete(t.byID, oldest.id)
		t.bytes -= len(oldest.jpeg)
	}
	return id
}

func (t *thumbs) get(id string) ([]byte, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.byID[id]
	if !ok {
		return nil, false
	}
	t.order.MoveToFront(e)
	return e.Value.(*thumb).jpeg, true
}

// clear lets go of all.
func (t *thumbs) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.order.Init()
	clear(t.byID)
	t.bytes = 0
}
