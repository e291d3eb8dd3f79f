package web

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

const (
	pingEvery   = 20 * time.Second
	readTimeout = 3 * pingEvery // nothing heard for so long, pongs included: the other side is gone
	flushWithin = 2 * time.Second
)

// realtime upgrades to the WebSocket protocol and serves it on this goroutine, the connection's one reader.
func (s *Server) realtime(w http.ResponseWriter, r *http.Request) {
	name, who := r.URL.Query().Get("stream"), callerOf(r)
	if list := s.visible(who, RoleRead); name == "" && len(list) == 1 {
		name = list[0].Name()
	}
	st := s.find(w, name)
	if st == nil {
		return
	}
	if err := s.authorize(who, name, RoleRead); err != nil {
		deny(w, err)
		return
	}
	select {
	case s.conns <- struct{}{}:
		defer func() { <-s.conns }()
	default:
		w.Header().Set("Retry-After", "5")
		writeError(w, http.StatusTooManyRequests, "too_many_connections", "too many connections are open")
		return
	}
	leave, err := who.socket()
	if err != nil {
		deny(w, err)
		return
	}
	defer leave()
	if !s.enter() {
		writeError(w, http.StatusServiceUnavailable, "stopping", errStopping.Error())
		return
	}
	defer s.wg.Done()
	up := websocket.Upgrader{
		HandshakeTimeout: 5 * time.Second, Subprotocols: []string{protocolName},
		CheckOrigin: func(*http.Request) bool { return true }, // the gate has checked it
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			writeError(w, status, "bad_handshake", reason.Error())
		},
	}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has answered
	}
	defer ws.Close()

	c, missed, asked := s.takeUp(r, who, st)
	resumed := c != nil
	if !resumed {
		c = newSession(s, st)
	}
	c.caller = who
	ctx, end := context.WithCancelCause(c.ctx)
	free := s.attach(c, end)
	defer s.enrol(c)()
	log := s.log.With("stream", st.Name(), "session", c.id)
	log.Debug("connected", "resumed", resumed)
	c.greet(resumed, asked)
	written := make(chan struct{})
	go func() {
		defer close(written)
		end(c.write(ctx, ws, missed))
		ws.Close() // wakes the reader
	}()
	end(c.read(ws))
	st.live.leave(c.out)
	<-written
	why := context.Cause(ctx)
	kept := s.park(c, why)
	free()
	if !kept {
		c.close()
	}
	log.Debug("disconnected", "reason", why, "kept", kept)
}

// greet queues what a connection begins with.
func (c *session) greet(resumed, asked bool) {
	if !resumed {
		c.put(&sessionEvent{header: header{Type: "session.created"}, Session: c.info()})
		if asked {
			c.fail("", &clientError{"resumption_failed", "that session is gone, or was not for resumption: this is a new one", "resume"})
		}
		return
	}
	c.srv.takingMu.Lock()
	c.srv.newHandle(c, true)
	c.srv.takingMu.Unlock()
	c.mu.Lock()
	video := c.video
	c.mu.Unlock()
	if video {
		c.stream.live.watch(c.out)
	}
}

// read hands every message to the protocol until the connection ends. It owns the reading half of ws.
func (c *session) read(ws *websocket.Conn) error {
	ws.SetReadLimit(maxMessage)
	heard := func(string) error { return ws.SetReadDeadline(time.Now().Add(readTimeout)) }
	ws.SetPongHandler(heard)
	reply := ws.CloseHandler()
	ws.SetCloseHandler(func(code int, text string) error {
		c.left.Store(true) // before the client hears of it, and could come again
		return reply(code, text)
	})
	for {
		if err := heard(""); err != nil {
			return err
		}
		kind, raw, err := ws.ReadMessage()
		if err != nil {
			return err
		}
		if kind != websocket.TextMessage {
			c.fail("", &clientError{"invalid_message", "events are text messages", ""})
			continue
		}
		c.handle(raw)
	}
}

var (
	errSlowReader = errors.New("the client reads too slowly")
	errWritten    = errors.New("closed by the server")
)

// write sends what an earlier connection missed, then what is in the outbox, the stream's states, statistics and pings until ctx is done. It owns
// the writing half of ws.
func (c *session) write(ctx context.Context, ws *websocket.Conn, missed []sentEvent) error {
	states, unsubscribe := c.stream.Subscribe()
	defer unsubscribe()
	watches, unwatch := c.srv.watchEvents(c.stream.Name())
	defer unwatch()
	stats, ping := time.NewTicker(c.srv.cfg.StatsEvery), time.NewTicker(pingEvery)
	defer stats.Stop()
	defer ping.Stop()

	for _, m := range missed {
		if err := c.message(ws, websocket.TextMessage, m.text); err != nil {
			return err
		}
	}
	last := c.stream.Status()
	c.put(&stateEvent{header{Type: "stream.state"}, c.stream.info(last)})
	c.out.setStats(c.stream.memory())

	always := make(chan struct{})
	close(always)
	for {
		var more chan struct{} // nil: nothing is waiting, so sleep in the select
		ev, since, pic, full := c.out.next()
		switch {
		case full || (ev != nil && time.Since(since) > c.srv.cfg.WriteTimeout):
			c.goodbye(ws, websocket.CloseTryAgainLater, errSlowReader.Error())
			return errSlowReader
		case ev != nil:
			if err := c.send(ws, ev); err != nil {
				return err
			}
			more = always
		case pic != nil:
			if err := c.message(ws, websocket.BinaryMessage, pic.message); err != nil {
				return err
			}
			more = always
		}
		select {
		case <-more:
		case <-c.out.wake:
		case st, ok := <-states:
			if !ok {
				states = nil
			} else if st.State != last.State || st.Err != last.Err || !st.Since.Equal(last.Since) {
				last = st
				c.put(&stateEvent{header{Type: "stream.state"}, c.stream.info(st)})
			}
		case e, ok := <-watches:
			if !ok {
				watches = nil
			} else {
				c.put(c.srv.watchEvent(e))
			}
		case <-stats.C:
			if err := c.srv.authorize(c.caller, c.stream.Name(), RoleRead); err != nil {
				c.goodbye(ws, websocket.ClosePolicyViolation, err.Error())
				return err
			}
			c.out.setStats(c.stream.memory())
		case <-ping.C:
			if err := ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(c.srv.cfg.WriteTimeout)); err != nil {
				return err
			}
		case <-ctx.Done():
			return c.finish(ctx, ws)
		}
	}
}

// finish ends the connection. When the server stops or no longer serves the stream, the answers in progress are cancelled and their last events still sent.
func (c *session) finish(ctx context.Context, ws *websocket.Conn) error {
	why := context.Cause(ctx)
	if !errors.Is(why, errStopping) && !errors.Is(why, errRemoved) {
		return why // the client is gone
	}
	// The first that it hears is how long the rest may take.
	if err := c.send(ws, &leaveEvent{header{Type: "session.going_away"}, flushWithin.Milliseconds()}); err != nil {
		return err
	}
	if errors.Is(why, errRemoved) {
		c.put(&errorEvent{header{Type: "error"}, errorBody{Type: "invalid_request_error", Code: "stream_removed", Message: errRemoved.Error()}})
	}
	c.close()
	for limit := time.Now().Add(flushWithin); time.Now().Before(limit); {
		ev, _, _, _ := c.out.next()
		if ev == nil {
			break
		}
		if err := c.send(ws, ev); err != nil {
			return err
		}
	}
	c.goodbye(ws, websocket.CloseGoingAway, why.Error())
	return errWritten
}

// send stamps an event and writes it.
func (c *session) send(ws *websocket.Conn, ev event) error {
	b, err := c.encode(ev)
	if err != nil {
		return err
	}
	if _, stats := ev.(*memoryEvent); !stats && (c.sent.on || c.resumable()) {
		c.sent.add(c.seq, b)
	}
	return c.message(ws, websocket.TextMessage, b)
}

// resumable reports whether the client asked for resumption.
func (c *session) resumable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resumption
}

// encode stamps an event with its id and number. Only the writer calls it, so numbers rise by one in the order of sending.
func (c *session) encode(ev event) ([]byte, error) {
	c.seq++
	h := ev.head()
	h.Seq, h.EventID = c.seq, "event_"+c.id+"_"+itoa(c.seq)
	return json.Marshal(ev)
}

// message writes one message. A client that does not take it within the time-out is lost: what it got may end in the middle of a
// message, so no close frame could follow.
func (c *session) message(ws *websocket.Conn, kind int, b []byte) error {
	if err := ws.SetWriteDeadline(time.Now().Add(c.srv.cfg.WriteTimeout)); err != nil {
		return err
	}
	return ws.WriteMessage(kind, b)
}

// goodbye sends a close frame, if the connection still takes one.
func (c *session) goodbye(ws *websocket.Conn, code int, reason string) {
	_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(time.Second))
}

// newID is unguessable, so that ids of one client tell nothing about another's.
func newID(prefix string) string { return prefix + strings.ToLower(rand.Text()[:16]) }
