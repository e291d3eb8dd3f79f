package web

import (
	"bytes"
	"container/list"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"afterimage/ingest"
	"afterimage/qa"
)

// Pictured is a Stream that can show the pictures that its memory still has; a qa.Session is one.
type Pictured interface {
	// Pictures returns those of a stretch, in time order; of more than most, as many spread evenly.
	Pictures(ctx context.Context, span ingest.Span, most int) ([]qa.Picture, error)
}

// ClipMaker makes a short film that browsers play, in MP4, of pictures in time order, each shown for as long as it stood for or at a pace that
// is bearable to watch. Its error means that these pictures cannot be put together.
type ClipMaker func(ctx context.Context, pictures []qa.Picture) ([]byte, error)

const (
	clipPictures = 80               // most pictures in a clip
	clipWithin   = 10 * time.Second // to make one
	clipsAtOnce  = 2
	clipCost     = 256 // bytes that a clip counts that nobody has asked for yet
)

// evidenceOf describes what an answer about a stream was given, and keeps its thumbnails and where its clips are for the links.
func (s *Server) evidenceOf(stream string, e qa.Evidence) evidenceBody {
	e.Note = clip(e.Note, 300)
	return e.Doc(stream, func(stream string, it qa.EvidenceItem) (picture, film string) {
		if s.cfg.Clips != nil && !it.Clip.From.IsZero() {
			if id := s.thumbs.putClip(stream, it.Clip); id != "" {
				film = "/api/evidence/" + id + ".mp4"
			}
		}
		return s.thumbLink(stream, it.Thumb), film
	})
}

// thumbLink keeps a thumbnail of a stream and returns where it can be had; "" for none.
func (s *Server) thumbLink(stream string, jpeg []byte) string {
	if id := s.thumbs.put(stream, jpeg); id != "" {
		return "/api/evidence/" + id + ".jpg"
	}
	return ""
}

// evidence answers GET /api/evidence/{file}: a thumbnail or a clip that an answer points at. One of a stream that the caller may not see is as
// one that is not there.
func (s *Server) evidence(w http.ResponseWriter, r *http.Request) {
	id, isJPEG := strings.CutSuffix(r.PathValue("file"), ".jpg")
	id, isMP4 := strings.CutSuffix(id, ".mp4")
	th, ok := s.thumbs.get(id)
	isClip := !th.clip.From.IsZero()
	if !ok || isJPEG == isMP4 || isMP4 != isClip || s.authorize(callerOf(r), th.stream, RoleRead) != nil {
		writeError(w, http.StatusNotFound, "evidence_not_found", "this picture is not kept any more")
		return
	}
	if isClip {
		s.film(w, r, th)
		return
	}
	w.Header().Set("Cache-Control", "private, max-age=3600, immutable") // the id is a digest of the picture
	writeBytes(w, "image/jpeg", th.body)
}

// errNoClip is why there is no clip although an answer points at one.
var errNoClip = errors.New("its pictures are gone")

// film answers with a clip, which it makes first where nobody did.
func (s *Server) film(w http.ResponseWriter, r *http.Request, th thumb) {
	if th.body == nil {
		if !s.enter() { // the making goes on when this client leaves: another may wait for it
			writeError(w, http.StatusServiceUnavailable, "stopping", "the server is stopping")
			return
		}
		made, err, _ := s.filming.Do(th.id, func() (any, error) { return s.makeClip(th) })
		s.wg.Done()
		switch {
		case errors.Is(err, errNoClip):
			writeError(w, http.StatusNotFound, "evidence_not_found", "the pictures of this clip are not kept any more")
			return
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			w.Header().Set("Retry-After", "5")
			writeError(w, http.StatusServiceUnavailable, "clip_unfinished", "the clip was not finished in time")
			return
		case err != nil:
			s.log.Warn("clip", "stream", th.stream, "err", err)
			writeError(w, http.StatusInternalServerError, "clip_failed", "the clip could not be made; the log says why")
			return
		}
		th.body = made.([]byte)
	}
	w.Header().Set("Content-Type", "video/mp4")
	// No "immutable": pictures of the stretch may be thinned out later, and a clip made again is then another.
	w.Header().Set("Cache-Control", "private, max-age=600")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(th.body)) // browsers ask for parts
}

// makeClip makes a clip and keeps it.
func (s *Server) makeClip(th thumb) (_ []byte, err error) {
	defer func() { // what encodes pictures is not ours
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	ctx, stop := context.WithTimeout(s.ctx, clipWithin)
	defer stop()
	select {
	case s.films <- struct{}{}:
		defer func() { <-s.films }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	st := s.stream(th.stream)
	if st == nil {
		return nil, errNoClip
	}
	p, ok := st.Stream.(Pictured)
	if !ok {
		return nil, errNoClip
	}
	cleared := s.thumbs.clears()
	pictures, err := p.Pictures(ctx, th.clip, clipPictures)
	if err != nil {
		return nil, err
	}
	if len(pictures) == 0 {
		return nil, errNoClip
	}
	body, err := s.cfg.Clips(ctx, pictures)
	if err != nil {
		return nil, err
	}
	s.thumbs.fill(th.id, body, cleared)
	return body, nil
}

// thumbs keeps the thumbnails and clips that recent answers point at, bounded in bytes; the least recently used go first. A thumbnail's id is a
// digest of stream and picture, so equal pictures share a slot; a clip's is one of stream, stretch and a secret. None can be guessed from
// another.
type thumbs struct {
	secret [16]byte

	mu    sync.Mutex
	max   int
	bytes int
	times uint64     // that all was let go of
	order *list.List // front: most recently used; values are *thumb
	byID  map[string]*list.Element
}

type thumb struct {
	id, stream string
	body       []byte      // JPEG or MP4; nil for a clip that is not made yet. Never written to
	clip       ingest.Span // zero for a thumbnail
}

// cost is what it counts against the bound.
func (t *thumb) cost() int {
	if t.clip.From.IsZero() {
		return len(t.body)
	}
	return clipCost + len(t.body)
}

func newThumbs(maxBytes int) *thumbs {
	t := &thumbs{max: maxBytes, order: list.New(), byID: map[string]*list.Element{}}
	_, _ = rand.Read(t.secret[:]) // it never fails
	return t
}

// put remembers a thumbnail of a stream and returns its id, or "" when there is nothing to remember. jpeg is kept, not copied.
func (t *thumbs) put(stream string, jpeg []byte) string {
	if len(jpeg) == 0 {
		return ""
	}
	h := sha256.New()
	h.Write([]byte(stream))
	h.Write([]byte{0})
	h.Write(jpeg)
	return t.keep(&thumb{id: hex.EncodeToString(h.Sum(nil)[:16]), stream: stream, body: jpeg})
}

// putClip remembers what a clip would show and returns its id, or "" where there is no room.
func (t *thumbs) putClip(stream string, span ingest.Span) string {
	h := sha256.New()
	h.Write(t.secret[:])
	fmt.Fprintf(h, "%s\x00%d %d", stream, span.From.UnixNano(), span.To.UnixNano())
	return t.keep(&thumb{id: hex.EncodeToString(h.Sum(nil)[:16]), stream: stream, clip: span})
}

// keep makes th the most recently used, or what has its id already.
func (t *thumbs) keep(th *thumb) string {
	if th.cost() > t.max {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.byID[th.id]; ok {
		t.order.MoveToFront(e)
		return th.id
	}
	t.byID[th.id] = t.order.PushFront(th)
	t.bytes += th.cost()
	t.shrink()
	return th.id
}

func (t *thumbs) shrink() {
	for t.bytes > t.max {
		oldest := t.order.Remove(t.order.Back()).(*thumb)
		delete(t.byID, oldest.id)
		t.bytes -= oldest.cost()
	}
}

// clears is how often all was let go of.
func (t *thumbs) clears() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.times
}

// fill keeps a clip that was made of pictures that were read when clears gave cleared, where it is still wanted and there is room. It may show
// what was forgotten meanwhile if all was let go of since.
func (t *thumbs) fill(id string, body []byte, cleared uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.byID[id]
	if !ok || t.times != cleared || clipCost+len(body) > t.max {
		return
	}
	made := *e.Value.(*thumb)
	t.bytes -= made.cost()
	made.body = body
	e.Value = &made
	t.bytes += made.cost()
	t.order.MoveToFront(e)
	t.shrink()
}

// get returns what has an id.
func (t *thumbs) get(id string) (thumb, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.byID[id]
	if !ok {
		return thumb{}, false
	}
	t.order.MoveToFront(e)
	return *e.Value.(*thumb), true
}

// clear lets go of all.
func (t *thumbs) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.times++
	t.order.Init()
	clear(t.byID)
	t.bytes = 0
}
