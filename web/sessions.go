package web

import (
	"cmp"
	"net/http"
	"slices"
	"time"
)

// enrol puts a session on the list of those that are open; leave takes it off.
func (s *Server) enrol(c *session) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[c] = time.Now()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sessions, c)
	}
}

// openSession is a session as /api/sessions shows it.
type openSession struct {
	ID        string `json:"id"`
	Stream    string `json:"stream"`
	Token     string `json:"token,omitempty"` // the name of whose it is
	Since     stamp  `json:"since"`
	Video     bool   `json:"video"`
	Responses int    `json:"responses"` // in progress
	Items     int    `json:"items"`     // of its conversation
}

// listSessions answers with the open sessions about streams that the caller administers, oldest first.
func (s *Server) listSessions(w http.ResponseWriter, r *http.Request) {
	who := callerOf(r)
	s.mu.Lock()
	open := make(map[*session]time.Time, len(s.sessions))
	for c, since := range s.sessions {
		open[c] = since
	}
	s.mu.Unlock()
	list := []openSession{}
	for c, since := range open {
		if s.authorize(who, c.stream.Name(), RoleAdmin) != nil {
			continue
		}
		o := openSession{ID: c.id, Stream: c.stream.Name(), Since: stamp(since)}
		if c.caller != nil {
			o.Token = c.caller.name
		}
		c.mu.Lock()
		o.Video, o.Responses, o.Items = c.video, len(c.active), len(c.items)
		c.mu.Unlock()
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b openSession) int {
		return cmp.Or(time.Time(a.Since).Compare(time.Time(b.Since)), cmp.Compare(a.ID, b.ID))
	})
	writeJSON(w, http.StatusOK, map[string]any{"sessions": list})
}
