package web

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"afterimage/qa"
)

const (
	maxItems        = 64 // kept of a conversation; the oldest are forgotten
	maxOutputTokens = 4096
	maxDeadlineMS   = 3_600_000
)

var itemID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// session is the protocol of one connection, or of several one after another where a lost one is taken up again: what its messages mean. It
// knows nothing of sockets.
type session struct {
	id     string
	srv    *Server
	stream *served
	caller *caller // whose connection it is
	out    *outbox

	ctx context.Context // of its answers; done when the session ends
	end context.CancelCauseFunc

	// Owned by the writer, and between connections by whoever takes the session up.
	seq  uint64
	sent sentEvents

	resuming

	mu         sync.Mutex
	items      []item        // the conversation, oldest first
	history    []qa.Exchange // what of it was answered, oldest first
	video      bool
	resumption bool
	active     map[string]*running // answers in progress, by response id
	ended      bool

	answers sync.WaitGroup
}

// running is an answer in progress, or one that waits to be.
type running struct {
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when it has ended
	over   bool          // it was told to end
}

var (
	errCancelled   = errors.New("cancelled by the client")
	errInterrupted = errors.New("another question came")
	errGone        = errors.New("the connection ended")
	errTooLong     = errors.New("the answer took too long")
)

func newSession(s *Server, st *served) *session {
	c := &session{id: newID("sess_"), srv: s, stream: st, out: newOutbox(), active: map[string]*running{}}
	c.ctx, c.end = context.WithCancelCause(st.ctx)
	return c
}

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

func (c *session) put(ev event) bool { return c.out.put(ev) }

func (c *session) info() sessionInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return sessionInfo{
		ID: c.id, Object: "realtime.session", Stream: c.stream.info(c.stream.Status()), Video: c.video, Resumption: c.resumption,
		Suggestions: append([]string{}, c.srv.cfg.Suggestions...),
		Limits:      limitsInfo{maxMessage, maxQuestion, c.srv.cfg.MaxResponses},
	}
}

// close cancels every answer in progress and waits for it; no new one starts. It may be called twice.
func (c *session) close() {
	c.mu.Lock()
	c.ended = true
	for _, r := range c.active {
		r.cancel(errGone)
	}
	c.mu.Unlock()
	c.answers.Wait()
	c.end(errGone)
	c.srv.setResumable(c, false)
}

// handle acts on one client message. Whatever is wrong with it becomes an error event.
func (c *session) handle(raw []byte) {
	kind, eventID, err := checkJSON(raw)
	if err == nil {
		err = c.admit(kind)
	}
	if err == nil {
		switch kind {
		case "session.update":
			err = c.update(raw)
		case "conversation.item.create":
			err = c.addItem(raw)
		case "response.create":
			err = c.respond(raw)
		case "response.cancel":
			err = c.cancel(raw)
		case "watch.create", "watch.update", "watch.delete":
			err = c.watchMessage(kind, raw)
		case "memory.snapshot":
			err = c.snapshot(raw)
		case "":
			err = &clientError{"missing_parameter", "an event has a type", "type"}
		default:
			err = &clientError{"unknown_event", "there is no client event of this type: " + kind, "type"}
		}
	}
	if err != nil {
		c.fail(eventID, err)
	}
}

// fail reports err about the client event eventID.
func (c *session) fail(eventID string, err error) {
	body := errorBody{Type: "server_error", Code: "internal", Message: err.Error(), EventID: eventID}
	var ce *clientError
	if errors.As(err, &ce) {
		body = errorBody{Type: "invalid_request_error", Code: ce.code, Message: ce.message, Param: ce.param, EventID: eventID}
		if ce.code == codeTooMany || ce.code == codeBusy || ce.code == codeRejected {
			body.Type, body.RetryAfterMS = "rate_limit_error", c.srv.pace.retry().Milliseconds()
		}
	}
	if d := (*denied)(nil); errors.As(err, &d) {
		body.Type, body.Code, body.RetryAfterMS = errorType(d.status), d.code, (d.retry + time.Millisecond - 1).Milliseconds()
	}
	c.put(&errorEvent{header{Type: "error"}, body})
}

const (
	codeTooMany  = "too_many_responses"
	codeBusy     = "server_busy"
	codeRejected = "response_in_progress"
)

func (c *session) update(raw []byte) error {
	var m clientSession
	if err := decode(raw, &m); err != nil {
		return err
	}
	if v := m.Session.Resumption; v != nil {
		c.mu.Lock()
		c.resumption = *v
		c.mu.Unlock()
		c.srv.setResumable(c, *v)
	}
	if v := m.Session.Video; v != nil {
		c.mu.Lock()
		c.video = *v
		c.mu.Unlock()
		c.out.dropPicture()
		if *v {
			c.stream.live.watch(c.out)
		} else {
			c.stream.live.leave(c.out)
		}
	}
	c.put(&sessionEvent{header{Type: "session.updated"}, c.info()})
	return nil
}

func (c *session) addItem(raw []byte) error {
	var m clientItem
	if err := decode(raw, &m); err != nil {
		return err
	}
	it, err := checkItem(m.Item, "item")
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(c.items, func(o item) bool { return o.ID == it.ID }) {
		return &clientError{"duplicate_item", "the conversation has an item of this id", "item.id"}
	}
	previous, question := "", "" // the last item, and the last that the client made: it may not have heard of an answer yet
	for _, o := range c.items {
		if previous = o.ID; o.Role == "user" {
			question = o.ID
		}
	}
	if m.PreviousItemID != "" && m.PreviousItemID != previous && m.PreviousItemID != question {
		return &clientError{"invalid_value", "items are added at the conversation's end only", "previous_item_id"}
	}
	c.items = append(c.items, it)
	c.forgetItems()
	for _, kind := range []string{"conversation.item.added", "conversation.item.done"} {
		c.put(&itemEvent{header: header{Type: kind}, PreviousItemID: previous, Item: it})
	}
	return nil
}

// forgetItems keeps the conversation within its bounds. c.mu is held.
func (c *session) forgetItems() {
	if n := len(c.items) - maxItems; n > 0 {
		c.items = slices.Delete(c.items, 0, n)
	}
	if n := len(c.history) - maxItems/2; n > 0 {
		c.history = slices.Delete(c.history, 0, n)
	}
}

// said adds an answer to the conversation.
func (c *session) said(it item, x qa.Exchange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	previous := ""
	if n := len(c.items); n > 0 {
		previous = c.items[n-1].ID
	}
	c.items = append(c.items, it)
	if x.Answer != "" {
		c.history = append(c.history, x)
	}
	c.forgetItems()
	c.put(&itemEvent{header: header{Type: "conversation.item.done"}, PreviousItemID: previous, Item: it})
}

// checkItem returns a question in its one valid form; at names it in errors.
func checkItem(it item, at string) (item, error) {
	switch {
	case it.Type != "message":
		return it, &clientError{"invalid_value", `an item's type is "message"`, at + ".type"}
	case it.Role != "user":
		return it, &clientError{"invalid_value", `an item's role is "user"`, at + ".role"}
	case it.ID != "" && !itemID.MatchString(it.ID):
		return it, &clientError{"invalid_value", "an id has letters, digits, - and _, at most 64", at + ".id"}
	case it.Status != "":
		return it, &clientError{"unknown_parameter", "this event has no such parameter", at + ".status"}
	case len(it.Content) == 0:
		return it, &clientError{"missing_parameter", "an item has content", at + ".content"}
	}
	size := 0
	for _, part := range it.Content {
		if part.Type != "input_text" {
			return it, &clientError{"invalid_value", `content is of type "input_text"`, at + ".content.type"}
		}
		size += len(part.Text)
	}
	if size > maxQuestion {
		return it, &clientError{"question_too_long", "a question has at most " + strconv.Itoa(maxQuestion) + " bytes", at + ".content"}
	}
	if questionText(it) == "" {
		return it, &clientError{"invalid_value", "the question is empty", at + ".content"}
	}
	if it.ID == "" {
		it.ID = newID("item_")
	}
	it.Status = "completed"
	return it, nil
}

func questionText(it item) string {
	var parts []string
	for _, p := range it.Content {
		parts = append(parts, p.Text)
	}
	return strings.TrimSpace(strings.Join(parts, "\n"))
}

func (c *session) respond(raw []byte) error {
	arrived := time.Now()
	var m clientCreate
	if err := decode(raw, &m); err != nil {
		return err
	}
	q, err := limits(m.Response, arrived)
	if err != nil {
		return err
	}
	streams, err := c.targets(m.Response.Streams)
	if err != nil {
		return err
	}
	ask, err := c.asked(m.Response.Input)
	if err != nil {
		return err
	}
	q.ID, q.Text = newID("resp_"), questionText(ask)

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil // nobody is there to be told
	}
	after, err := c.makeRoom(m.Response.OnBusy)
	if err != nil {
		return err
	}
	status := "in_progress"
	if after == nil {
		select {
		case c.srv.asking <- struct{}{}:
		default:
			return &clientError{codeBusy, "the server answers as many questions as it can; try again later", ""}
		}
	} else if len(after) > 0 && m.Response.OnBusy == "queue" {
		status = "queued"
	}
	ctx, cancel := context.WithCancelCause(c.ctx)
	r := &running{cancel: cancel, done: make(chan struct{})}
	c.active[q.ID] = r
	a := &answering{session: c, arrived: arrived, question: q, streams: streams, itemID: newID("item_"), talk: len(m.Response.Input) == 0,
		response: responseInfo{ID: q.ID, Object: "realtime.response", Status: status, InputItemID: ask.ID, Output: []item{}}}
	if len(streams) > 1 {
		for _, st := range streams {
			a.response.Streams = append(a.response.Streams, st.Name())
		}
	}
	a.put(&responseEvent{a.header("response.created"), a.response})
	if a.talk {
		a.put(&itemEvent{header: a.header("conversation.item.added"), PreviousItemID: ask.ID,
			Item: item{ID: a.itemID, Type: "message", Role: "assistant", Status: "in_progress", Content: []content{}}})
	}
	c.answers.Go(func() {
		slot := after == nil || c.wait(ctx, after)
		if a.talk {
			c.mu.Lock()
			a.question.History = slices.Clone(c.history)
			c.mu.Unlock()
		}
		began := time.Now()
		done := a.run(ctx)
		if slot {
			<-c.srv.asking
			c.srv.pace.add(time.Since(began))
		}
		c.mu.Lock()
		delete(c.active, q.ID)
		c.mu.Unlock()
		cancel(nil)
		// Last, so that a client that has seen the end of an answer can start another one or finds nothing left to cancel.
		c.put(done)
		close(r.done)
	})
	return nil
}

// makeRoom does what on_busy says about the connection's answers in progress, and returns when those end that the new one comes after. nil: it
// waits for nothing and must find a place on the server at once; else it waits for a place too. c.mu is held.
func (c *session) makeRoom(onBusy string) (after []<-chan struct{}, err error) {
	busy := 0
	for _, r := range c.active {
		if !r.over {
			busy++
		}
	}
	switch {
	case onBusy == "interrupt":
		after = []<-chan struct{}{} // what is told to end takes a moment, and says so first
		for _, r := range c.active {
			r.over = true
			r.cancel(errInterrupted)
			after = append(after, r.done)
		}
		busy = 0
	case onBusy == "reject" && busy > 0:
		return nil, &clientError{codeRejected, "this connection has an answer in progress", "response.on_busy"}
	case onBusy == "queue":
		after = []<-chan struct{}{}
		for _, r := range c.active {
			after = append(after, r.done)
		}
	}
	// Those that were told to end count too once there are many of them: interrupting is no way around the limit.
	if busy >= c.srv.cfg.MaxResponses || len(c.active) >= 4*c.srv.cfg.MaxResponses {
		return nil, &clientError{codeTooMany, "this connection has " + strconv.Itoa(len(c.active)) + " answers in progress already", ""}
	}
	return after, nil
}

// wait waits for answers to end and then for a place among the server's. It reports whether it has one.
func (c *session) wait(ctx context.Context, after []<-chan struct{}) bool {
	for _, done := range after {
		select {
		case <-done:
		case <-ctx.Done():
			return false
		}
	}
	select {
	case c.srv.asking <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// targets are the streams that a question names, each of which the caller may ask; the connection's own for none.
func (c *session) targets(names []string) ([]*served, error) {
	if len(names) == 0 {
		return []*served{c.stream}, nil
	}
	bad := func(code, message string) ([]*served, error) {
		return nil, &clientError{code, message, "response.streams"}
	}
	if len(names) > maxStreams {
		return bad("invalid_value", "a question is about at most "+strconv.Itoa(maxStreams)+" streams")
	}
	var list []*served
	for _, name := range names {
		st := c.srv.stream(name)
		if st == nil || c.srv.authorize(c.caller, name, RoleRead) != nil {
			return bad("stream_not_found", "there is no such stream: "+clip(name, 64))
		}
		if err := c.srv.authorize(c.caller, name, RoleAsk); err != nil {
			return nil, err
		}
		if slices.Contains(list, st) {
			return bad("invalid_value", "a stream is named twice: "+name)
		}
		list = append(list, st)
	}
	return list, nil
}

// asked is the question that response.create means.
func (c *session) asked(input []item) (item, error) {
	if len(input) > 1 {
		return item{}, &clientError{"invalid_value", "a response answers one question", "response.input"}
	}
	if len(input) == 1 {
		return checkItem(input[0], "response.input")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, it := range slices.Backward(c.items) {
		if it.Role == "user" {
			return it, nil
		}
	}
	return item{}, &clientError{"no_question", "create a conversation item first: it is the question", ""}
}

// limits checks the options of a response.
func limits(r createResponse, arrived time.Time) (qa.Question, error) {
	var q qa.Question
	bad := func(param, message string) (qa.Question, error) {
		return q, &clientError{"invalid_value", message, "response." + param}
	}
	if v := r.MaxOutputTokens; v != nil {
		if *v < 1 || *v > maxOutputTokens {
			return bad("max_output_tokens", "use 1 to "+strconv.Itoa(maxOutputTokens))
		}
		q.MaxTokens = *v
	}
	if v := r.MaxVisualTokens; v != nil {
		if *v < 1 || *v > 1<<20 {
			return bad("max_visual_tokens", "use 1 to 1048576")
		}
		q.MaxVisualTokens = *v
	}
	if v := r.Temperature; v != nil {
		if *v < 0 || *v > 2 {
			return bad("temperature", "use 0 to 2")
		}
		q.Temperature = *v
	}
	if v := r.TopP; v != nil {
		if *v <= 0 || *v > 1 {
			return bad("top_p", "use more than 0, at most 1")
		}
		q.TopP = *v
	}
	if v := r.Seed; v != nil {
		q.Seed = *v
	}
	if v := r.DeadlineMS; v != nil {
		if *v < 1 || *v > maxDeadlineMS {
			return bad("deadline_ms", "use 1 to "+strconv.Itoa(maxDeadlineMS))
		}
		q.Deadline = arrived.Add(time.Duration(*v) * time.Millisecond)
	}
	if r.OnBusy != "" && !slices.Contains([]string{"queue", "interrupt", "reject"}, r.OnBusy) {
		return bad("on_busy", "use queue, interrupt or reject")
	}
	at := func(param, text string, into *time.Time) error {
		if text == "" {
			return nil
		}
		t, err := time.Parse(time.RFC3339, text)
		if err != nil || t.Year() < 1 {
			return &clientError{"invalid_value", "want a time as 2026-05-02T10:04:11.240Z", "response." + param}
		}
		*into = t
		return nil
	}
	if err := at("as_of", r.AsOf, &q.AsOf); err != nil {
		return q, err
	}
	if q.AsOf.After(arrived) {
		return bad("as_of", "this time has yet to come")
	}
	if r.Range != nil {
		if err := errors.Join(at("range.from", r.Range.From, &q.From), at("range.to", r.Range.To, &q.To)); err != nil {
			return q, err
		}
		if q.From.IsZero() && q.To.IsZero() || !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
			return bad("range", "from is before to, and one of them at least is given")
		}
	}
	return q, nil
}

func (c *session) cancel(raw []byte) error {
	var m clientCancel
	if err := decode(raw, &m); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.ResponseID != "" {
		if r := c.active[m.ResponseID]; r != nil {
			r.over = true
			r.cancel(errCancelled)
			return nil
		}
	} else if len(c.active) > 0 {
		for _, r := range c.active {
			r.over = true
			r.cancel(errCancelled)
		}
		return nil
	}
	return &clientError{"response_cancel_not_active", "there is no such response in progress", "response_id"}
}

// Remembering is a Stream whose memory can be looked at.
type Remembering interface {
	// Remembered is what is remembered at this moment, the newest frame last.
	Remembered() []qa.EvidenceItem
}

// snapshot answers memory.snapshot: what the stream's memory holds.
func (c *session) snapshot(raw []byte) error {
	var m clientPlain
	if err := decode(raw, &m); err != nil {
		return err
	}
	r, ok := c.stream.Stream.(Remembering)
	if !ok {
		return &clientError{"not_supported", "this stream's memory cannot be looked at", ""}
	}
	items := r.Remembered()
	ev := &snapshotEvent{header: header{Type: "memory.snapshot"}, Stream: c.stream.Name(), Memory: c.stream.memory().Memory,
		Items: c.srv.evidenceOf(c.stream.Name(), qa.Evidence{Items: items}).Items}
	if len(items) > 0 {
		ev.AsOf = stamp(items[len(items)-1].To)
	}
	c.put(ev)
	return nil
}

// pace is how long answers take on the average of late, for who asks when to try again.
type pace struct{ ns atomic.Int64 }

// add counts an answer that took d.
func (p *pace) add(d time.Duration) {
	old := p.ns.Load()
	if old == 0 {
		old = int64(d)
	}
	p.ns.Store(old - old/8 + int64(d)/8) // two at once may lose one: it is an average
}

// retry is when a place may be free: about one answer's time from now, a quarter of a second at least and half a minute at most.
func (p *pace) retry() time.Duration {
	if p.ns.Load() == 0 {
		return time.Second
	}
	return min(max(time.Duration(p.ns.Load()), 250*time.Millisecond), 30*time.Second)
}
