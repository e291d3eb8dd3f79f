package web

import (
	"sync"
	"time"
)

// outbox is what waits to be written to one connection. Producers never block on it: events queue (bounded), memory.stats and
// the live picture keep only their newest. The writer goroutine is its one consumer.
type outbox struct {
	wake chan struct{} // capacity 1: something is waiting

	mu      sync.Mutex
	events  []queued
	bytes   int   // text held in events, roughly
	stats   event // newest memory.stats, or nil
	pic     *picture
	picSent *picture // so that a picture goes out once
	full    bool     // more than maxQueued was waiting: the reader is too slow to keep
}

type queued struct {
	ev    event
	since time.Time
	size  int
}

const (
	maxQueuedEvents = 8192
	maxQueuedBytes  = 4 << 20
)

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

// put queues an event that must arrive. It reports false once the connection is lost to a slow reader.
func (o *outbox) put(ev event) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.full {
		return false
	}
	size := 256
	if t, ok := ev.(*textEvent); ok && t.Text != nil {
		size += len(*t.Text)
	} else if e, ok := ev.(*evidenceEvent); ok {
		size += 256 * (len(e.Items) + len(e.Coverage) + len(e.Gaps))
	}
	if len(o.events) >= maxQueuedEvents || o.bytes+size > maxQueuedBytes {
		o.full = true
	} else {
		o.events = append(o.events, queued{ev, time.Now(), size})
		o.bytes += size
	}
	o.signal()
	return !o.full
}

// setStats replaces the waiting memory.stats: it is the first thing a slow reader loses.
func (o *outbox) setStats(ev event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stats = ev
	o.signal()
}

// setPicture replaces the waiting live picture.
func (o *outbox) setPicture(p *picture) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p != o.picSent && p != o.pic {
		o.pic = p
		o.signal()
	}
}

// dropPicture forgets the waiting picture and lets the current one be sent again.
func (o *outbox) dropPicture() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pic, o.picSent = nil, nil
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// next takes what to write next: every waiting event first, then stats, then the picture, so that a picture never delays a word.
// All zero means that nothing waits.
func (o *outbox) next() (ev event, since time.Time, pic *picture, full bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.full:
		return nil, time.Time{}, nil, true
	case len(o.events) > 0:
		q := o.events[0]
		o.events[0] = queued{} // let it be collected
		o.events, o.bytes = o.events[1:], o.bytes-q.size
		if len(o.events) == 0 {
			o.events = nil // the backing array grew for a burst
		}
		return q.ev, q.since, nil, false
	case o.stats != nil:
		ev, o.stats = o.stats, nil
		return ev, time.Now(), nil, false
	case o.pic != nil:
		pic, o.picSent, o.pic = o.pic, o.pic, nil
		return nil, time.Time{}, pic, false
	}
	return nil, time.Time{}, nil, false
}
