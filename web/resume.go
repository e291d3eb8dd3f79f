package web

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// A session that asked for resumption outlives a lost connection for resumeWithin: its answers go on, and who connects with
// ?resume=HANDLE&after=SEQ, the same token and the same stream goes on with it, from the event after the last that it saw. A handle is good for
// one connection. Where the session is gone, or too much was missed, the connection begins a new one and an error event says so.
const (
	resumeWithin = time.Minute
	takeWithin   = 5 * time.Second // for the old connection to let go, which may not know that it is lost

	maxSentEvents = 2048
	maxSentBytes  = 1 << 20
)

// resuming is what the server knows of a session that can be taken up again. Server.takingMu guards all but left.
type resuming struct {
	key   string                  // the handle under which it is found; "" where it cannot be taken up
	drop  context.CancelCauseFunc // ends the connection that it has
	free  chan struct{}           // closed when it has none; another is made with each connection
	taken chan struct{}           // closed when it is taken up
	left  atomic.Bool             // the client closed its connection on purpose
}

// sentEvents are the newest that were sent, as they were, but for statistics and pictures: they are out of date when they are missed.
type sentEvents struct {
	on    bool
	list  []sentEvent
	bytes int
	lost  uint64 // the number of the newest event that is not kept any more
}

type sentEvent struct {
	seq  uint64
	text []byte
}

func (s *sentEvents) add(seq uint64, text []byte) {
	if !s.on {
		s.on, s.lost = true, seq-1
	}
	s.list, s.bytes = append(s.list, sentEvent{seq, text}), s.bytes+len(text)
	for len(s.list) > maxSentEvents || s.bytes > maxSentBytes {
		s.lost, s.bytes = s.list[0].seq, s.bytes-len(s.list[0].text)
		s.list[0] = sentEvent{}
		s.list = s.list[1:]
	}
}

// from returns the events after a number; ok is false where some of them are gone.
func (s *sentEvents) from(seq uint64) (list []sentEvent, ok bool) {
	if !s.on || seq < s.lost {
		return nil, false
	}
	for i, e := range s.list {
		if e.seq > seq {
			return s.list[i:], true
		}
	}
	return nil, true
}

var errTakenUp = errors.New("the session goes on with another connection")

// attach gives a session to a connection, which drop ends, and free tells when it is done with it.
func (s *Server) attach(c *session, drop context.CancelCauseFunc) (free func()) {
	s.takingMu.Lock()
	defer s.takingMu.Unlock()
	done := make(chan struct{})
	c.drop, c.free = drop, done
	return func() { close(done) }
}

// setResumable makes a session one that can be taken up, or no more, and tells the client its handle.
func (s *Server) setResumable(c *session, on bool) {
	s.takingMu.Lock()
	defer s.takingMu.Unlock()
	delete(s.taking, c.key)
	c.key = ""
	if on {
		s.newHandle(c, false)
	}
}

// newHandle gives a session a handle and tells the client. s.takingMu is held.
func (s *Server) newHandle(c *session, resumed bool) {
	c.key, c.taken = newID("resume_")+newID(""), make(chan struct{})
	s.taking[c.key] = c
	c.put(&resumptionEvent{header{Type: "session.resumption"}, c.key, s.cfg.resumeWithin.Milliseconds(), resumed})
}

// takeUp returns the session that a request goes on with and the events that it missed, or nil where it begins one. asked: it wanted to go on.
func (s *Server) takeUp(r *http.Request, who *caller, st *served) (c *session, missed []sentEvent, asked bool) {
	handle := r.URL.Query().Get("resume")
	if handle == "" {
		return nil, nil, false
	}
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil {
		return nil, nil, true
	}
	s.takingMu.Lock()
	c = s.taking[handle]
	if c == nil || c.stream != st || !sameCaller(c.caller, who) {
		s.takingMu.Unlock()
		return nil, nil, true
	}
	delete(s.taking, handle) // once only
	c.key = ""
	close(c.taken)
	drop, free := c.drop, c.free
	s.takingMu.Unlock()
	drop(errTakenUp)
	select {
	case <-free:
	case <-time.After(takeWithin):
		c.close()
		return nil, nil, true
	}
	if missed, ok := c.sent.from(after); ok && after <= c.seq && !c.left.Load() && c.ctx.Err() == nil {
		return c, missed, true
	}
	c.close()
	return nil, nil, true
}

func sameCaller(a, b *caller) bool {
	return a == nil && b == nil || a != nil && b != nil && a.token == b.token && a.hash == b.hash
}

// park keeps a session whose connection is lost until it is taken up or resumeWithin has passed. It reports false where it is not one to keep: it
// then ends with its connection.
func (s *Server) park(c *session, why error) bool {
	if errors.Is(why, errTakenUp) {
		return true // it has another already
	}
	s.takingMu.Lock()
	handle, taken := c.key, c.taken
	select {
	case <-taken: // after this connection was lost, and before it noticed
		s.takingMu.Unlock()
		return true
	default:
	}
	keep := handle != "" && lost(why) && c.ctx.Err() == nil && s.parked < s.cfg.MaxConnections
	if keep {
		s.parked++
	}
	s.takingMu.Unlock()
	if !keep {
		return false
	}
	unparked := func() {
		s.takingMu.Lock()
		s.parked--
		s.takingMu.Unlock()
	}
	kept := s.spawn(func(context.Context) {
		defer unparked()
		t := time.NewTimer(s.cfg.resumeWithin)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.ctx.Done():
		case <-taken:
		}
		if s.unpark(c, handle) { // else it was taken up meanwhile
			c.close()
		}
	})
	if !kept {
		unparked()
	}
	return kept
}

// unpark makes a handle worth nothing. It reports whether it was worth something.
func (s *Server) unpark(c *session, handle string) bool {
	s.takingMu.Lock()
	defer s.takingMu.Unlock()
	if handle == "" || s.taking[handle] != c {
		return false
	}
	delete(s.taking, handle)
	c.key = ""
	return true
}

// lost reports whether a connection ended without being closed by either side.
func lost(why error) bool {
	for _, meant := range []error{errSlowReader, errWritten, errStopping, errRemoved} {
		if errors.Is(why, meant) {
			return false
		}
	}
	var closed *websocket.CloseError
	if errors.As(why, &closed) {
		return closed.Code == websocket.CloseAbnormalClosure
	}
	var refused *denied
	return !errors.As(why, &refused) && !errors.Is(why, websocket.ErrReadLimit)
}
