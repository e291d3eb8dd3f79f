package web

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"afterimage/qa"
)

const (
	maxItems        = 64 // questions kept a conversation; the oldest are forgotten
	maxOutputTokens = 4096
)

var itemID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// session is the protocol of one connection: what its messages mean. It knows nothing of sockets.
type session struct {
	id     string
	srv    *Server
	stream *served
	out    *outbox
	seq    uint64 // owned by the writer

	mu     sync.Mutex
	items  []item // the conversation: questions, oldest first
	video  bool
	active map[string]context.CancelCauseFunc // answers in progress, by response id
	ended  bool

	answers sync.WaitGroup
}

var (
	errCancelled = errors.New("cancelled by the client")
	errGone      = errors.New("the connection ended")
	errTooLong   = errors.New("the answer took too long")
)

func newSession(s *Server, st *served) *session {
	return &session{id: newID("sess_"), srv: s, stream: st, out: newOutbox(), active: map[string]context.CancelCauseFunc{}}
}

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

func (c *session) put(ev event) bool { return c.out.put(ev) }

func (c *session) info() sessionInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return sessionInfo{
		ID: c.id, Object: "realtime.session", Stream: c.stream.info(c.stream.Status()), Video: c.video,
		Suggestions: append([]string{}, c.srv.cfg.Suggestions...),
		Limits:      limitsInfo{maxMessage, maxQuestion, c.srv.cfg.MaxResponses},
	}
}

// close cancels every answer in progress and waits for it; no new one starts. It may be called twice.
func (c *session) close() {
	c.mu.Lock()
	c.ended = true
	for _, cancel := range c.active {
		cancel(errGone)
	}
	c.mu.Unlock()
	c.answers.Wait()
}

// handle acts on one client message. Whatever is wrong with it becomes an error event.
func (c *session) handle(ctx context.Context, raw []byte) {
	kind, eventID, err := checkJSON(raw)
	if err == nil {
		switch kind {
		case "session.update":
			err = c.update(raw)
		case "conversation.item.create":
			err = c.addItem(raw)
		case "response.create":
			err = c.respond(ctx, raw)
		case "response.cancel":
			err = c.cancel(raw)
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
		if ce.code == codeTooMany || ce.code == codeBusy {
			body.Type = "rate_limit_error"
		}
	}
	c.put(&errorEvent{header{Type: "error"}, body})
}

const (
	codeTooMany = "too_many_responses"
	codeBusy    = "server_busy"
)

func (c *session) update(raw []byte) error {
	var m clientSession
	if err := decode(raw, &m); err != nil {
		return err
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
	previous := ""
	if n := len(c.items); n > 0 {
		previous = c.items[n-1].ID
	}
	if m.PreviousItemID != "" && m.PreviousItemID != previous {
		return &clientError{"invalid_value", "items are added at the conversation's end only", "previous_item_id"}
	}
	c.items = append(c.items, it)
	if len(c.items) > maxItems {
		c.items = slices.Delete(c.items, 0, len(c.items)-maxItems)
	}
	c.put(&itemEvent{header: header{Type: "conversation.item.added"}, PreviousItemID: previous, Item: it})
	return nil
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

func (c *session) respond(ctx context.Context, raw []byte) error {
	arrived := time.Now()
	var m clientCreate
	if err := decode(raw, &m); err != nil {
		return err
	}
	q, err := limits(m.Response)
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
	switch {
	case c.ended:
		return nil // nobody is there to be told
	case len(c.active) >= c.srv.cfg.MaxResponses:
		return &clientError{codeTooMany, "this connection has " + strconv.Itoa(len(c.active)) + " answers in progress already", ""}
	}
	select {
	case c.srv.asking <- struct{}{}:
	default:
		return &clientError{codeBusy, "the server answers as many questions as it can; try again soon", ""}
	}
	actx, cancel := context.WithCancelCause(ctx)
	c.active[q.ID] = cancel
	a := &answering{session: c, arrived: arrived, question: q, itemID: newID("item_"),
		response: responseInfo{ID: q.ID, Object: "realtime.response", Status: "in_progress", InputItemID: ask.ID, Output: []item{}}}
	a.put(&responseEvent{a.header("response.created"), a.response})
	c.answers.Go(func() {
		defer func() { <-c.srv.asking }()
		done := a.run(actx)
		c.mu.Lock()
		delete(c.active, q.ID)
		c.mu.Unlock()
		cancel(nil)
		// Last, so that a client that has seen the end of an answer can start another one or finds nothing left to cancel.
		c.put(done)
	})
	return nil
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
	if len(c.items) == 0 {
		return item{}, &clientError{"no_question", "create a conversation item first: it is the question", ""}
	}
	return c.items[len(c.items)-1], nil
}

// limits checks the options of a response.
func limits(r createResponse) (qa.Question, error) {
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
		if cancel := c.active[m.ResponseID]; cancel != nil {
			cancel(errCancelled)
			return nil
		}
	} else if len(c.active) > 0 {
		for _, cancel := range c.active {
			cancel(errCancelled)
		}
		return nil
	}
	return &clientError{"response_cancel_not_active", "there is no such response in progress", "response_id"}
}
