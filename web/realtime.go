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
	name := r.URL.Query().Get("stream")
	if name == "" && len(s.streams) == 1 {
		name = s.streams[0].Name()
	}
	st := s.find(w, name)
	if st == nil {
		return
	}
	select {
	case s.conns <- struct{}{}:
		defer func() { <-s.conns }()
	default:
		w.Header().Set("Retry-After", "5")
		writeError(w, http.StatusServiceUnavailable, "too_many_connections", "too many connections are open")
		return
	}
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

	ctx, end := context.WithCancelCause(s.ctx)
	c := newSession(s, st)
	log := s.log.With("stream", st.Name(), "session", c.id)
	log.Debug("connected")
	written := make(chan error, 1)
	go func() {
		err := c.write(ctx, ws)
		end(err)
		ws.Close() // wakes the reader
		written <- err
	}()
	err = c.read(ctx, ws)
	end(err)
	st.live.leave(c.out)
	c.close()
	if werr := <-written; werr != nil && !errors.Is(werr, err) {
		err = werr
	}
	log.Debug("disconnected", "reason", err)
}

// read hands every message to the protocol until the connection ends. It owns the reading half of ws.
func (c *session) read(ctx context.Context, ws *websocket.Conn) error {
	ws.SetReadLimit(maxMessage)
	heard := func(string) error { return ws.SetReadDeadline(time.Now().Add(readTimeout)) }
	ws.SetPongHandler(heard)
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
		c.handle(ctx, raw)
	}
}

var (
	errSlowReader = errors.New("the client reads too slowly")
	errWritten    = errors.New("closed by the server")
)

// write sends what is in the outbox, the stream's states, statistics and pings until ctx is done. It owns the writing half of ws.
func (c *session) write(ctx context.Context, ws *websocket.Conn) error {
	states, unsubscribe := c.stream.Subscribe()
	defer unsubscribe()
	stats, ping := time.NewTicker(c.srv.cfg.StatsEvery), time.NewTicker(pingEvery)
	defer stats.Stop()
	defer ping.Stop()

	last := c.stream.Status()
	c.put(&sessionEvent{header: header{Type: "session.created"}, Session: c.info()})
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
		case <-stats.C:
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

// finish ends the connection. When the server stops, the answers in progress are cancelled and their last events still sent.
func (c *session) finish(ctx context.Context, ws *websocket.Conn) error {
	if !errors.Is(context.Cause(ctx), errStopping) {
		return context.Cause(ctx) // the client is gone
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
	c.goodbye(ws, websocket.CloseGoingAway, errStopping.Error())
	return errWritten
}

// send stamps an event and writes it.
func (c *session) send(ws *websocket.Conn, ev event) error {
	b, err := c.encode(ev)
	if err != nil {
		return err
	}
	return c.message(ws, websocket.TextMessage, b)
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
