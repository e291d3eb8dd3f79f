package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"afterimage/qa"
)

type stamp = qa.Stamp

// header starts every server event. The writer alone fills EventID and Seq, as it sends, so seq has no holes on the wire.
type header struct {
	Type       string `json:"type"`
	EventID    string `json:"event_id"`
	Seq        uint64 `json:"seq"`
	ResponseID string `json:"response_id,omitempty"`
}

func (h *header) head() *header { return h }

type event interface{ head() *header }

type errorBody struct {
	Type    string `json:"type"` // invalid_request_error, rate_limit_error, server_error
	Code    string `json:"code"`
	Message string `json:"message"`
	Param   string `json:"param,omitempty"`
	EventID string `json:"event_id,omitempty"` // the client event that caused it

	RetryAfterMS int64 `json:"retry_after_ms,omitempty"` // of a rate_limit_error: when another try may succeed
}

type (
	errorEvent struct {
		header
		Error errorBody `json:"error"`
	}
	sessionEvent struct { // session.created, session.updated
		header
		Session sessionInfo `json:"session"`
	}
	itemEvent struct { // conversation.item.added and .done
		header
		PreviousItemID string `json:"previous_item_id,omitempty"`
		Item           item   `json:"item"`
	}
	responseEvent struct { // response.created, response.done
		header
		Response responseInfo `json:"response"`
	}
	textEvent struct { // response.output_text.delta and .done
		header
		ItemID       string  `json:"item_id"`
		OutputIndex  int     `json:"output_index"`
		ContentIndex int     `json:"content_index"`
		Delta        *string `json:"delta,omitempty"`
		Text         *string `json:"text,omitempty"`
	}
	evidenceEvent struct { // response.evidence
		header
		evidenceBody
	}
	leaveEvent struct { // session.going_away
		header
		TimeLeftMS int64 `json:"time_left_ms"`
	}
	resumptionEvent struct { // session.resumption
		header
		Handle  string `json:"handle"`
		ValidMS int64  `json:"valid_ms"` // how long after a loss it can be taken up
		Resumed bool   `json:"resumed"`  // this connection goes on with an earlier one's session
	}
	snapshotEvent struct { // memory.snapshot
		header
		Stream string       `json:"stream"`
		AsOf   stamp        `json:"as_of"`
		Memory memoryInfo   `json:"memory"`
		Items  []qa.ItemDoc `json:"items"` // what is remembered, the newest frame last
	}
	stateEvent struct { // stream.state
		header
		streamInfo
	}
	memoryEvent struct { // memory.stats
		header
		Stream string     `json:"stream"`
		LagMS  *int64     `json:"lag_ms"` // null before the first frame
		Last   stamp      `json:"last_frame"`
		Frames uint64     `json:"frames"`
		Drop   uint64     `json:"dropped"`
		Memory memoryInfo `json:"memory"`
	}
)

// evidenceBody is what an answer rests on: an event of the socket, x_evidence of a chat completion.
type evidenceBody = qa.EvidenceDoc

type sessionInfo struct {
	ID          string     `json:"id"`
	Object      string     `json:"object"`
	Stream      streamInfo `json:"stream"`
	Video       bool       `json:"video"`      // live pictures come as binary messages
	Resumption  bool       `json:"resumption"` // the session outlives a lost connection for a while
	Suggestions []string   `json:"suggestions"`
	Limits      limitsInfo `json:"limits"`
}

type limitsInfo struct {
	Message   int `json:"message_bytes"`
	Question  int `json:"question_bytes"`
	Responses int `json:"concurrent_responses"`
}

type streamInfo struct {
	Stream     string `json:"stream"`
	Source     string `json:"source,omitempty"`
	State      string `json:"state"`
	Since      stamp  `json:"since"`
	Error      string `json:"error,omitempty"`
	LastFrame  stamp  `json:"last_frame"`
	LagMS      *int64 `json:"lag_ms"`
	Frames     uint64 `json:"frames"`
	Dropped    uint64 `json:"dropped"`
	Reconnects uint64 `json:"reconnects"`
}

type memoryInfo struct {
	Strategy string `json:"strategy"`
	Version  uint64 `json:"version"`
	Entries  int    `json:"entries"`
	Tokens   int    `json:"tokens"`
	Bytes    int64  `json:"bytes"`
	Oldest   stamp  `json:"oldest"`
	Newest   stamp  `json:"newest"`
}

type item struct {
	ID      string    `json:"id"`
	Type    string    `json:"type"`
	Role    string    `json:"role"`
	Status  string    `json:"status,omitempty"`
	Content []content `json:"content"`
}

type content struct {
	Type string `json:"type"` // input_text from the client, output_text from the server
	Text string `json:"text"`
}

type responseInfo struct {
	ID            string         `json:"id"`
	Object        string         `json:"object"`
	Status        string         `json:"status"` // queued in_progress completed cancelled failed incomplete
	StatusDetails *statusDetails `json:"status_details,omitempty"`
	InputItemID   string         `json:"input_item_id"` // the question that is answered
	Streams       []string       `json:"streams,omitempty"`
	Asked         string         `json:"question_as_asked,omitempty"` // the question as it was put: a follow-up made whole
	Output        []item         `json:"output"`
	Usage         *usage         `json:"usage,omitempty"`
	Timings       *timings       `json:"timings,omitempty"`
	MemoryVersion uint64         `json:"memory_version,omitempty"`
	FromCoverage  bool           `json:"from_coverage,omitempty"` // said by the coverage map; no model was asked
}

type statusDetails struct {
	Type   string     `json:"type"`
	Reason string     `json:"reason,omitempty"`
	Error  *errorBody `json:"error,omitempty"`
}

type usage struct {
	TotalTokens  int          `json:"total_tokens"`
	InputTokens  int          `json:"input_tokens"`
	OutputTokens int          `json:"output_tokens"`
	InputDetails inputDetails `json:"input_token_details"`
}

type inputDetails struct {
	CachedTokens int `json:"cached_tokens"`
	TextTokens   int `json:"text_tokens"`
	VisualTokens int `json:"visual_tokens"`
}

type timings struct {
	QueuedMS     float64 `json:"queued_ms"`
	FirstTokenMS float64 `json:"first_token_ms"`
	TotalMS      float64 `json:"total_ms"`
	TokensPerS   float64 `json:"tokens_per_s"` // after the first token; 0 when there were fewer than two
}

// What a client may send. Unknown names are errors: a mistyped option must not be ignored in silence.
type (
	clientSession struct {
		Type    string `json:"type"`
		EventID string `json:"event_id"`
		Session struct {
			Video      *bool `json:"video"`
			Resumption *bool `json:"resumption"`
		} `json:"session"`
	}
	clientItem struct {
		Type           string `json:"type"`
		EventID        string `json:"event_id"`
		PreviousItemID string `json:"previous_item_id"`
		Item           item   `json:"item"`
	}
	clientCreate struct {
		Type     string         `json:"type"`
		EventID  string         `json:"event_id"`
		Response createResponse `json:"response"`
	}
	createResponse struct {
		Input   []item   `json:"input"` // a question outside the conversation; default: its newest question
		Streams []string `json:"streams"`
		AsOf    string   `json:"as_of"` // RFC 3339
		Range   *struct {
			From string `json:"from"`
			To   string `json:"to"`
		} `json:"range"`
		DeadlineMS      *int64   `json:"deadline_ms"` // by when to be done, from the message's arrival
		OnBusy          string   `json:"on_busy"`     // queue, interrupt or reject
		MaxOutputTokens *int     `json:"max_output_tokens"`
		MaxVisualTokens *int     `json:"max_visual_tokens"`
		Temperature     *float32 `json:"temperature"`
		TopP            *float32 `json:"top_p"`
		Seed            *uint64  `json:"seed"`
	}
	clientCancel struct {
		Type       string `json:"type"`
		EventID    string `json:"event_id"`
		ResponseID string `json:"response_id"` // default: every response in progress
	}
)

// clientPlain is a client event without parameters.
type clientPlain struct {
	Type    string `json:"type"`
	EventID string `json:"event_id"`
}

// clientError is a mistake of the client, reported as an error event.
type clientError struct{ code, message, param string }

func (e *clientError) Error() string { return e.message }

const maxDepth = 12 // the deepest legitimate event has 5 levels

// checkJSON finds what encoding/json would let through: bytes that are not UTF-8, nesting without end, names given twice (two
// readers could disagree on which counts), and anything after the value. It returns the event's type and event_id, as far
// as they could be read, so that errors name them.
func checkJSON(raw []byte) (kind, id string, err error) {
	if !utf8.Valid(raw) {
		return "", "", &clientError{"invalid_json", "the message is not UTF-8", ""}
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	type level struct {
		names map[string]bool // nil in an array
		name  string          // the name whose value comes next; "" when a name comes next
		key   bool
	}
	var stack []level
	for {
		tok, err := dec.Token()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return kind, id, &clientError{"invalid_json", "the message is empty or ends early", ""}
			}
			return kind, id, &clientError{"invalid_json", "the message is not JSON: " + err.Error(), ""}
		}
		delim, _ := tok.(json.Delim)
		if len(stack) == 0 && delim != '{' {
			return "", "", &clientError{"invalid_json", "an event is a JSON object", ""}
		}
		if n := len(stack); n > 0 && delim != '}' && delim != ']' {
			top := &stack[n-1]
			switch {
			case top.names != nil && !top.key:
				name := tok.(string) // the decoder has checked that an object's name is a string
				lower := strings.ToLower(name)
				if top.names[lower] {
					return kind, id, &clientError{"duplicate_name", "a name is given twice", clip(name, 64)}
				}
				top.names[lower], top.name, top.key = true, name, true
				continue
			case top.names != nil:
				if s, ok := tok.(string); ok && n == 1 && top.name == "type" {
					kind = clip(s, 64)
				} else if ok && n == 1 && top.name == "event_id" {
					id = clip(s, 64)
				}
				top.key = false
			}
		}
		switch delim {
		case '{':
			stack = append(stack, level{names: map[string]bool{}})
		case '[':
			stack = append(stack, level{})
		case '}', ']':
			stack = stack[:len(stack)-1]
		}
		if len(stack) > maxDepth {
			return kind, id, &clientError{"invalid_json", "the message is nested too deeply", ""}
		}
		if len(stack) == 0 {
			break
		}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return kind, id, &clientError{"invalid_json", "something follows the JSON object", ""}
	}
	return kind, id, nil
}

// decode reads a message that passed checkJSON into one of the client events.
func decode(raw []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		return nil
	}
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return &clientError{"invalid_type", "wrong type: " + wrong.Value + " where " + wrong.Type.Kind().String() + " is expected", clip(wrong.Field, 64)}
	}
	if name, ok := strings.CutPrefix(err.Error(), `json: unknown field "`); ok {
		return &clientError{"unknown_parameter", "this event has no such parameter", clip(strings.TrimSuffix(name, `"`), 64)}
	}
	return &clientError{"invalid_json", clip(err.Error(), 200), ""}
}

// clip shortens s to n bytes at a character's edge; what a client sent is never echoed at length.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
