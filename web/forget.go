package web

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"afterimage/memorybank"
	"afterimage/qa"
)

// Forgetter is a Stream whose memory can be told to forget what lies in [from, to), wall clock, on disk too.
type Forgetter interface {
	Forget(ctx context.Context, from, to time.Time) (memorybank.Forgotten, error)
}

// forgetWithin leaves room to answer before the connection's own time-out.
const forgetWithin = 25 * time.Second

// forget answers POST /api/streams/{name}/forget with {"from": RFC 3339, "to": RFC 3339}. Thumbnails that old answers point at go too, of all
// streams: nobody knows any more what they show. So do the copies of this memory that were kept.
func (s *Server) forget(w http.ResponseWriter, r *http.Request) {
	st := s.find(w, r.PathValue("name"))
	if st == nil {
		return
	}
	f, ok := st.Stream.(Forgetter)
	if !ok {
		writeError(w, http.StatusNotImplemented, "forget_not_supported", "this stream's memory cannot forget")
		return
	}
	var body struct {
		From time.Time `json:"from"`
		To   time.Time `json:"to"`
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		writeError(w, http.StatusBadRequest, "bad_body", `want {"from": "2026-05-04T12:00:00Z", "to": "2026-05-04T12:05:00Z"}: `+err.Error())
		return
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || body.From.IsZero() || body.To.IsZero() {
		writeError(w, http.StatusBadRequest, "bad_body", "from and to are both needed, and nothing else")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), forgetWithin)
	defer cancel()
	did, err := f.Forget(ctx, body.From, body.To)
	s.thumbs.clear()
	if s.cfg.Watches != nil {
		s.cfg.Watches.Forget(st.Name(), body.From, body.To)
	}
	st.kept.clear()
	switch {
	case errors.Is(err, qa.ErrStretch):
		writeError(w, http.StatusBadRequest, "bad_stretch", "from must be before to")
	case errors.Is(err, context.DeadlineExceeded):
		writeError(w, http.StatusServiceUnavailable, "forget_unfinished",
			"not finished in time: an answer that began before may still be under way; send this again")
	case err != nil:
		s.log.Error("forget", "stream", st.Name(), "err", err)
		writeError(w, http.StatusInternalServerError, "forget_failed", "not all of it could be erased; the log says why")
	default:
		s.log.Info("forgot", "stream", st.Name(), "from", stamp(body.From), "to", stamp(body.To), "entries", did.Entries, "cold", did.Cold)
		writeJSON(w, http.StatusOK, map[string]any{"stream": st.Name(), "from": stamp(body.From), "to": stamp(body.To), "forgotten": did})
	}
}
