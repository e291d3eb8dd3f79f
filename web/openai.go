package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"afterimage/llm"
	"afterimage/qa"
)

const (
	maxChat     = 256 << 10 // bytes of a request
	maxMessages = 256
	maxHistory  = 32 << 10 // bytes of earlier turns
	maxStops    = 4
	maxStopSize = 256
	maxStreams  = 16 // cameras in one question
)

// chatRequest is a chat completion's, OpenAI's names; x_ marks our own. Fields that other servers have and that would change the answer
// are known so that they can be refused by name.
type chatRequest struct {
	Model               string          `json:"model"`
	Messages            []chatMessage   `json:"messages"`
	Stream              bool            `json:"stream"`
	StreamOptions       *streamOptions  `json:"stream_options"`
	MaxTokens           *int            `json:"max_tokens"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	Temperature         *float64        `json:"temperature"`
	TopP                *float64        `json:"top_p"`
	Seed                *int64          `json:"seed"`
	Stop                json.RawMessage `json:"stop"`
	MaxVisualTokens     *int            `json:"x_max_visual_tokens"` // of the memory shown to the model
	DeadlineMS          *int            `json:"x_deadline_ms"`       // by when to be done, from the request's arrival

	// Refused unless they ask for what is done anyway.
	N                *int            `json:"n"`
	PresencePenalty  *float64        `json:"presence_penalty"`
	FrequencyPenalty *float64        `json:"frequency_penalty"`
	LogitBias        json.RawMessage `json:"logit_bias"`
	Logprobs         *bool           `json:"logprobs"`
	TopLogprobs      *int            `json:"top_logprobs"`
	ResponseFormat   *struct {
		Type string `json:"type"`
	} `json:"response_format"`
	Tools        json.RawMessage `json:"tools"`
	ToolChoice   json.RawMessage `json:"tool_choice"`
	Functions    json.RawMessage `json:"functions"`
	FunctionCall json.RawMessage `json:"function_call"`
	Modalities   []string        `json:"modalities"`
	Audio        json.RawMessage `json:"audio"`
	Prediction   json.RawMessage `json:"prediction"`
	WebSearch    json.RawMessage `json:"web_search_options"`

	// Without effect: they say how OpenAI's own service should keep books, or whom to.
	User                 json.RawMessage `json:"user"`
	Metadata             json.RawMessage `json:"metadata"`
	Store                json.RawMessage `json:"store"`
	ServiceTier          json.RawMessage `json:"service_tier"`
	SafetyIdentifier     json.RawMessage `json:"safety_identifier"`
	PromptCacheKey       json.RawMessage `json:"prompt_cache_key"`
	PromptCacheRetention json.RawMessage `json:"prompt_cache_retention"`
	ParallelToolCalls    json.RawMessage `json:"parallel_tool_calls"`
	ReasoningEffort      json.RawMessage `json:"reasoning_effort"`
	Verbosity            json.RawMessage `json:"verbosity"`
}

type streamOptions struct {
	IncludeUsage       bool  `json:"include_usage"`
	IncludeObfuscation *bool `json:"include_obfuscation"` // without effect
}

type chatMessage struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"` // a string, or parts
	Name       string          `json:"name"`
	Refusal    json.RawMessage `json:"refusal"`
	ToolCalls  json.RawMessage `json:"tool_calls"`
	ToolCallID string          `json:"tool_call_id"`
	Audio      json.RawMessage `json:"audio"`
	// What comes back in an answer's message and clients send again as it is.
	Annotations  json.RawMessage `json:"annotations"`
	FunctionCall json.RawMessage `json:"function_call"`
}

type chatPart struct {
	Type     string `json:"type"`
	Text     string `json:"text"`
	Refusal  string `json:"refusal"`
	VideoURL *struct {
		URL string `json:"url"`
	} `json:"video_url"`
}

// chatError is a mistake in a chat request, with the HTTP status that says so.
type chatError struct {
	status               int
	code, param, message string
}

func (e *chatError) Error() string { return e.message }

func badChat(code, param, format string, args ...any) error {
	return &chatError{http.StatusBadRequest, code, param, fmt.Sprintf(format, args...)}
}

// chat is a checked request: what is asked, of which streams, and how the answer is to come.
type chat struct {
	question     qa.Question
	streams      []*served
	model        string
	stops        []string
	stream       bool
	includeUsage bool
	ignored      []string // what was given and has no effect on the answer, though the asker may think so
}

// completions answers POST /v1/chat/completions, in OpenAI's terms. The video is a stream that the server watches already, as in
// stream://front_door?last=10m; no address that a request names is ever fetched.
func (s *Server) completions(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	c, err := s.readChat(w, r, arrived)
	if err == nil {
		err = s.ready()
	}
	if err == nil {
		err = callerOf(r).question()
	}
	if err != nil {
		s.chatFailed(w, err)
		return
	}
	select {
	case s.asking <- struct{}{}:
	default:
		s.chatFailed(w, llm.ErrBusy)
		return
	}
	leave := sync.OnceFunc(func() { <-s.asking })
	defer leave()
	if !s.enter() {
		s.chatFailed(w, errStopping)
		return
	}
	defer s.wg.Done()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	for _, st := range c.streams {
		defer context.AfterFunc(st.ctx, func() { cancel(context.Cause(st.ctx)) })()
	}
	ctx, stop := context.WithTimeoutCause(ctx, s.cfg.AnswerTimeout, errTooLong)
	defer stop()
	a := &completion{server: s, chat: c, w: w, control: http.NewResponseController(w), arrived: arrived,
		leave: leave, id: "chatcmpl-" + newID(""), created: arrived.Unix()}
	if err := a.run(ctx); err != nil {
		s.log.Debug("chat completion ended", "stream", c.streams[0].Name(), "response_id", a.id, "err", err)
	}
}

// ready says why no question can be answered yet.
func (s *Server) ready() error {
	if s.cfg.Ready == nil {
		return nil
	}
	if reasons := s.cfg.Ready(); len(reasons) > 0 {
		return &denied{http.StatusServiceUnavailable, "not_ready", strings.Join(reasons, "; "), 5 * time.Second}
	}
	return nil
}

func (s *Server) readChat(w http.ResponseWriter, r *http.Request, now time.Time) (*chat, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxChat))
	if err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			return nil, &chatError{http.StatusRequestEntityTooLarge, "request_too_large", "", fmt.Sprintf("a request has at most %d bytes", maxChat)}
		}
		return nil, badChat("invalid_json", "", "the body could not be read")
	}
	if _, _, err := checkJSON(raw); err != nil {
		return nil, err
	}
	var req chatRequest
	if err := decode(raw, &req); err != nil {
		var ce *clientError
		if errors.As(err, &ce) && ce.code == "unknown_parameter" {
			return nil, badChat(ce.code, ce.param, "Unknown parameter: '%s'.", ce.param)
		}
		return nil, err
	}
	return s.checkChat(&req, callerOf(r), now)
}

func (s *Server) checkChat(req *chatRequest, who *caller, now time.Time) (*chat, error) {
	c := &chat{stream: req.Stream, model: req.Model, question: qa.Question{ID: newID("resp_")}}
	if err := req.unsupported(); err != nil {
		return nil, err
	}
	if err := c.sampling(req, now); err != nil {
		return nil, err
	}
	named, err := c.conversation(req.Messages)
	if err != nil {
		return nil, err
	}
	return c, s.choose(c, named, who, now)
}

// unsupported refuses what would change the answer and cannot be done.
func (req *chatRequest) unsupported() error {
	given := func(raw json.RawMessage) bool {
		text := strings.Join(strings.Fields(string(raw)), "")
		return text != "" && text != "null" && text != "[]" && text != "{}"
	}
	refuse := func(param string) error {
		return badChat("unsupported_parameter", param, "Unsupported parameter: '%s' is not supported with this model.", param)
	}
	value := func(param, only string) error {
		return badChat("unsupported_value", param, "Unsupported value: '%s' does not support this value with this model. Only %s is supported.", param, only)
	}
	switch choice := strings.Trim(string(req.ToolChoice), `"`); {
	case req.N != nil && *req.N != 1:
		return value("n", "1")
	case req.PresencePenalty != nil && *req.PresencePenalty != 0:
		return value("presence_penalty", "0")
	case req.FrequencyPenalty != nil && *req.FrequencyPenalty != 0:
		return value("frequency_penalty", "0")
	case given(req.LogitBias):
		return refuse("logit_bias")
	case req.Logprobs != nil && *req.Logprobs:
		return refuse("logprobs")
	case req.TopLogprobs != nil && *req.TopLogprobs != 0:
		return refuse("top_logprobs")
	case req.ResponseFormat != nil && req.ResponseFormat.Type != "text":
		return value("response_format", `{"type":"text"}`)
	case given(req.Tools):
		return refuse("tools")
	case given(req.ToolChoice) && choice != "none" && choice != "auto":
		return refuse("tool_choice")
	case given(req.Functions):
		return refuse("functions")
	case given(req.FunctionCall) && strings.Trim(string(req.FunctionCall), `"`) != "none":
		return refuse("function_call")
	case len(req.Modalities) > 0 && !slices.Equal(req.Modalities, []string{"text"}):
		return value("modalities", `["text"]`)
	case given(req.Audio):
		return refuse("audio")
	case given(req.Prediction):
		return refuse("prediction")
	case given(req.WebSearch):
		return refuse("web_search_options")
	case req.StreamOptions != nil && !req.Stream:
		return badChat("invalid_value", "stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
	}
	return nil
}

// sampling reads how the answer is to be drawn and bounded.
func (c *chat) sampling(req *chatRequest, now time.Time) error {
	q := &c.question
	c.includeUsage = req.StreamOptions != nil && req.StreamOptions.IncludeUsage
	limit, param := req.MaxCompletionTokens, "max_completion_tokens"
	if req.MaxTokens != nil {
		if limit != nil {
			return badChat("invalid_value", "max_tokens", "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
		}
		limit, param = req.MaxTokens, "max_tokens"
	}
	number := func(v *float64, low, high float64) bool {
		return v == nil || *v >= low && *v <= high && !math.IsNaN(*v)
	}
	switch {
	case limit != nil && *limit < 1:
		return badChat("integer_below_min_value", param, "Invalid '%s': integer below minimum value. Expected a value >= 1.", param)
	case !number(req.Temperature, 0, 2):
		return badChat("decimal_out_of_range", "temperature", "Invalid 'temperature': expected a value between 0 and 2.")
	case !number(req.TopP, 0, 1):
		return badChat("decimal_out_of_range", "top_p", "Invalid 'top_p': expected a value between 0 and 1.")
	case req.MaxVisualTokens != nil && (*req.MaxVisualTokens < 1 || *req.MaxVisualTokens > 1<<20):
		return badChat("invalid_value", "x_max_visual_tokens", "use 1 to 1048576")
	case req.DeadlineMS != nil && (*req.DeadlineMS < 1 || *req.DeadlineMS > 3_600_000):
		return badChat("invalid_value", "x_deadline_ms", "use 1 to 3600000")
	}
	if limit != nil {
		q.MaxTokens = min(*limit, maxOutputTokens) // as a model's own limit: a larger number is no mistake
	}
	if req.Temperature != nil {
		q.Temperature = float32(*req.Temperature)
	}
	if req.TopP != nil && *req.TopP > 0 { // 0 would keep no token at all; the most likely one is what is meant
		q.TopP = float32(*req.TopP)
	} else if req.TopP != nil {
		q.Temperature = 0
	}
	if req.Seed != nil {
		q.Seed = uint64(*req.Seed)
	}
	if req.MaxVisualTokens != nil {
		q.MaxVisualTokens = *req.MaxVisualTokens
	}
	if req.DeadlineMS != nil {
		q.Deadline = now.Add(time.Duration(*req.DeadlineMS) * time.Millisecond)
	}
	return c.stopWords(req.Stop)
}

func (c *chat) stopWords(raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		c.stops = []string{one}
	} else if json.Unmarshal(raw, &c.stops) != nil {
		return badChat("invalid_type", "stop", "Invalid type for 'stop': expected a string or an array of strings.")
	}
	if len(c.stops) > maxStops {
		return badChat("array_above_max_length", "stop", "Invalid 'stop': array too long. Expected at most %d strings.", maxStops)
	}
	for _, stop := range c.stops {
		if stop == "" || len(stop) > maxStopSize {
			return badChat("invalid_value", "stop", "a stop sequence has 1 to %d bytes", maxStopSize)
		}
	}
	return nil
}

// A videoPart is a stream that a message names, and which part of its memory.
type videoPart struct {
	param    string
	name     string
	last     time.Duration
	from, to time.Time
}

// conversation reads messages: earlier turns become the question's history, the last user's becomes the question. It returns the streams
// that the last message that names any does.
func (c *chat) conversation(messages []chatMessage) (named []videoPart, err error) {
	switch {
	case len(messages) == 0:
		return nil, badChat("missing_required_parameter", "messages", "Missing required parameter: 'messages'.")
	case len(messages) > maxMessages:
		return nil, badChat("array_above_max_length", "messages", "at most %d messages", maxMessages)
	}
	var asked []string // what the user said since the last answer
	size := 0
	for i, m := range messages {
		at := "messages[" + strconv.Itoa(i) + "]"
		text, video, err := m.read(at)
		if err != nil {
			return nil, err
		}
		switch m.Role {
		case "system", "developer":
			c.ignored = append(c.ignored, at)
		case "assistant":
			if len(asked) > 0 { // an answer to nothing is no exchange
				c.question.History = append(c.question.History, qa.Exchange{Question: strings.Join(asked, "\n"), Answer: text})
			}
			asked = nil
		default:
			if text != "" {
				asked = append(asked, text)
			}
			if len(video) > 0 {
				named = video
			}
		}
		size += len(text)
	}
	c.question.Text = strings.TrimSpace(strings.Join(asked, "\n"))
	last := "messages[" + strconv.Itoa(len(messages)-1) + "]"
	switch {
	case c.question.Text == "":
		return nil, badChat("no_question", last, "the last message is the user's and asks something, in text")
	case len(c.question.Text) > maxQuestion:
		return nil, badChat("question_too_long", last, "a question has at most %d bytes", maxQuestion)
	case size-len(c.question.Text) > maxHistory:
		return nil, badChat("context_length_exceeded", "messages", "the earlier messages have more than %d bytes", maxHistory)
	}
	return named, nil
}

// read returns a message's text and the streams that it names.
func (m *chatMessage) read(at string) (text string, video []videoPart, err error) {
	switch m.Role {
	case "system", "developer", "user", "assistant":
	case "tool", "function":
		return "", nil, badChat("unsupported_value", at+".role", "there are no tools here, so no message is a tool's")
	default:
		return "", nil, badChat("invalid_value", at+".role", "Invalid value: '%s'. Supported values are: 'system', 'developer', 'user' and 'assistant'.", clip(m.Role, 64))
	}
	if t := strings.TrimSpace(string(m.ToolCalls)); t != "" && t != "null" && t != "[]" {
		return "", nil, badChat("unsupported_parameter", at+".tool_calls", "there are no tools here")
	}
	if len(m.Content) == 0 || string(m.Content) == "null" {
		if m.Role == "assistant" {
			return "", nil, nil
		}
		return "", nil, badChat("missing_required_parameter", at+".content", "Missing required parameter: '%s.content'.", at)
	}
	if json.Unmarshal(m.Content, &text) == nil {
		return text, nil, nil
	}
	var raws []json.RawMessage
	if json.Unmarshal(m.Content, &raws) != nil {
		return "", nil, badChat("invalid_type", at+".content", "Invalid type for '%s.content': expected a string or an array.", at)
	}
	var texts []string
	for i, raw := range raws {
		at := at + ".content[" + strconv.Itoa(i) + "]"
		var p chatPart
		if err := json.Unmarshal(raw, &p); err != nil {
			return "", nil, badChat("invalid_type", at, "Invalid type for '%s': expected a part with a type.", at)
		}
		switch {
		case p.Type == "text":
			texts = append(texts, p.Text)
		case p.Type == "refusal" && m.Role == "assistant":
			texts = append(texts, p.Refusal)
		case p.Type == "video_url" && m.Role == "user" && p.VideoURL != nil:
			v, err := parseStreamURL(p.VideoURL.URL, at+".video_url.url")
			if err != nil {
				return "", nil, err
			}
			video = append(video, v)
		default:
			return "", nil, badChat("invalid_value", at+".type", "a '%s' part is not supported: only text and a user's video_url are, of a stream that this server watches (stream://NAME)", clip(p.Type, 64))
		}
	}
	return strings.Join(texts, "\n"), video, nil
}

// parseStreamURL reads stream://NAME, with ?last=10m or ?from=…&to=… (RFC 3339; either may be left out).
func parseStreamURL(raw, param string) (videoPart, error) {
	v := videoPart{param: param}
	bad := func(format string, args ...any) (videoPart, error) {
		return v, badChat("invalid_value", param, format, args...)
	}
	if !strings.HasPrefix(raw, "stream://") {
		return v, badChat("url_not_allowed", param, "only streams that this server watches can be asked about, as stream://NAME; no other address is fetched")
	}
	u, err := url.Parse(raw)
	if err != nil || u.User != nil || u.Fragment != "" || u.Path != "" && u.Path != "/" || !streamName.MatchString(u.Host) {
		return bad("a stream's address is stream://NAME, with ?last=10m or ?from=TIME&to=TIME")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad("the stream's address has a query that cannot be read")
	}
	v.name = u.Host
	for key, values := range query {
		if len(values) != 1 {
			return bad("%s is given more than once", clip(key, 32))
		}
		switch key {
		case "last":
			if v.last, err = time.ParseDuration(values[0]); err != nil || v.last <= 0 {
				return bad("last is a length of time such as 90s, 10m or 2h")
			}
		case "from", "to":
			at, err := time.Parse(time.RFC3339, values[0])
			if err != nil {
				return bad("%s is a time as 2026-05-04T12:00:00Z", key)
			}
			if key == "from" {
				v.from = at
			} else {
				v.to = at
			}
		default:
			return bad("a stream's address has no %s: it has last, from and to", clip(key, 32))
		}
	}
	switch {
	case v.last > 0 && !(v.from.IsZero() && v.to.IsZero()):
		return bad("use last, or from and to")
	case !v.from.IsZero() && !v.to.IsZero() && !v.from.Before(v.to):
		return bad("from must be before to")
	}
	return v, nil
}

// choose finds the streams that are asked: those named, or the model's if it is one, or the only one there is.
func (s *Server) choose(c *chat, named []videoPart, who *caller, now time.Time) error {
	own, isStream := strings.CutPrefix(c.model, "stream://")
	switch {
	case c.model == "":
		return badChat("missing_required_parameter", "model", "you must provide a model parameter")
	case c.model != s.modelID() && !(isStream && streamName.MatchString(own)):
		return &chatError{http.StatusNotFound, "model_not_found", "model", fmt.Sprintf("The model '%s' does not exist; GET /v1/models lists those that do.", clip(c.model, 64))}
	}
	if visible := s.visible(who, RoleAsk); len(named) == 0 && isStream {
		named = []videoPart{{param: "model", name: own}}
	} else if len(named) == 0 && len(visible) == 1 {
		named = []videoPart{{name: visible[0].Name()}}
	} else if len(named) == 0 {
		return badChat("stream_needed", "messages", `say which stream: a content part {"type":"video_url","video_url":{"url":"stream://NAME"}}`)
	}
	if len(named) > maxStreams {
		return badChat("array_above_max_length", "messages", "at most %d streams in one question", maxStreams)
	}
	for i, v := range named {
		from, to := v.from, v.to
		if v.last > 0 {
			from = now.Add(-v.last)
		}
		if i > 0 && !(from.Equal(c.question.From) && to.Equal(c.question.To)) {
			return badChat("invalid_value", v.param, "several streams are asked about one stretch of time: give all the same")
		}
		c.question.From, c.question.To = from, to
		st := s.stream(v.name)
		if st == nil {
			return &chatError{http.StatusNotFound, "stream_not_found", v.param, "there is no such stream"}
		}
		if err := s.authorize(who, v.name, RoleAsk); err != nil {
			return err
		}
		if slices.Contains(c.streams, st) {
			return badChat("invalid_value", v.param, "a stream is named twice")
		}
		c.streams = append(c.streams, st)
	}
	return nil
}

// modelID is what the language model is called.
func (s *Server) modelID() string {
	if m := s.cfg.Version.Model; m != "" {
		return m
	}
	return "afterimage"
}

type modelInfo struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func (s *Server) modelList(who *caller) []modelInfo {
	list := []modelInfo{{s.modelID(), "model", s.started.Unix(), "afterimage"}}
	for _, st := range s.visible(who, RoleAsk) {
		list = append(list, modelInfo{"stream://" + st.Name(), "model", s.started.Unix(), "afterimage"})
	}
	return list
}

// models answers GET /v1/models: the language model, and each stream that the caller may ask as one more, for clients in which one can choose
// nothing but a model.
func (s *Server) models(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": s.modelList(callerOf(r))})
}

// oneModel answers GET /v1/models/{model}.
func (s *Server) oneModel(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("model")
	for _, m := range s.modelList(callerOf(r)) {
		if m.ID == id {
			writeJSON(w, http.StatusOK, m)
			return
		}
	}
	s.chatFailed(w, &chatError{http.StatusNotFound, "model_not_found", "model", fmt.Sprintf("The model '%s' does not exist.", clip(id, 64))})
}

// chatFailed answers with OpenAI's error envelope.
func (s *Server) chatFailed(w http.ResponseWriter, err error) {
	status, body, retry := s.chatProblem(err)
	if retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(retry.Seconds())))))
	}
	writeJSON(w, status, map[string]chatErrorBody{"error": body})
}

// chatErrorBody is OpenAI's, whose param and code are null rather than left out.
type chatErrorBody struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

// chatProblem is what an error says to the client, and when another try may succeed.
func (s *Server) chatProblem(err error) (status int, body chatErrorBody, retry time.Duration) {
	var code, param string
	var chat *chatError
	var client *clientError
	var denial *denied
	status, body.Message = http.StatusInternalServerError, "the answer failed: "+clip(err.Error(), 300)
	switch {
	case errors.As(err, &chat):
		status, code, param, body.Message = chat.status, chat.code, chat.param, chat.message
	case errors.As(err, &client):
		status, code, param, body.Message = http.StatusBadRequest, client.code, client.param, client.message
	case errors.As(err, &denial):
		status, code, body.Message, retry = denial.status, denial.code, denial.message, denial.retry
	case errors.Is(err, llm.ErrBusy):
		status, code, retry = http.StatusTooManyRequests, codeBusy, s.pace.retry()
		body.Message = "the server answers as many questions as it can; try again soon"
	case errors.Is(err, errStopping), errors.Is(err, errRemoved), errors.Is(err, llm.ErrClosed):
		status, code, body.Message, retry = http.StatusServiceUnavailable, "stopping", err.Error(), 5*time.Second
	case errors.Is(err, errTooLong):
		status, code, body.Message = http.StatusGatewayTimeout, "timeout", err.Error()
	case errors.Is(err, qa.ErrQuestion), errors.Is(err, llm.ErrPrompt):
		status, code, body.Message = http.StatusBadRequest, "bad_question", clip(err.Error(), 300)
	default:
		code = "answer_failed"
	}
	body.Type = errorType(status)
	if code != "" {
		body.Code = &code
	}
	if param != "" {
		body.Param = &param
	}
	return status, body, retry
}

// completion is one answer on its way to an HTTP client. It belongs to the request's goroutine.
type completion struct {
	server *Server
	*chat
	w       http.ResponseWriter
	control *http.ResponseController
	arrived time.Time
	leave   func() // gives the place among those that are answered back
	id      string
	created int64

	text  strings.Builder // what went out, or will
	held  string          // the end of the text so far, which may begin a stop sequence
	first time.Duration
	began bool // the stream's header is out
}

// errStop ends an answer whose stop sequence has come.
var errStop = errors.New("a stop sequence")

type chatCompletion struct {
	ID                string         `json:"id"`
	Object            string         `json:"object"`
	Created           int64          `json:"created"`
	Model             string         `json:"model"`
	SystemFingerprint string         `json:"system_fingerprint"`
	Choices           []chatChoice   `json:"choices"`
	Usage             *chatUsage     `json:"usage,omitempty"`
	Timings           *timings       `json:"timings,omitempty"`
	Evidence          []chatEvidence `json:"x_evidence,omitempty"`
	FromCoverage      bool           `json:"x_from_coverage,omitempty"` // said by the coverage map; no model was asked
	Ignored           []string       `json:"x_ignored,omitempty"`       // messages that have no effect on the answer
}

// chatEvidence is what the answer rests on, of one stream.
type chatEvidence struct {
	Stream string `json:"stream"`
	evidenceBody
}

type chatChoice struct {
	Index        int        `json:"index"`
	Message      *chatReply `json:"message,omitempty"`
	Delta        *chatDelta `json:"delta,omitempty"`
	Logprobs     *struct{}  `json:"logprobs"`
	FinishReason *string    `json:"finish_reason"`
}

type chatReply struct {
	Role    string  `json:"role"`
	Content string  `json:"content"`
	Refusal *string `json:"refusal"`
}

type chatDelta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

type chatUsage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
	PromptDetails    struct {
		CachedTokens int `json:"cached_tokens"`
		VisualTokens int `json:"visual_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionDetails struct {
		Accepted int `json:"accepted_prediction_tokens"`
		Rejected int `json:"rejected_prediction_tokens"`
	} `json:"completion_tokens_details"`
}

func chatUsageOf(st llm.Stats) *chatUsage {
	u := &chatUsage{PromptTokens: st.PromptTokens, CompletionTokens: st.Generated, TotalTokens: st.PromptTokens + st.Generated}
	u.PromptDetails.CachedTokens, u.PromptDetails.VisualTokens = st.CachedTokens, st.VisualTokens
	u.CompletionDetails.Accepted, u.CompletionDetails.Rejected = st.Accepted, st.Drafted-st.Accepted
	return u
}

// run asks and answers the client.
func (a *completion) run(ctx context.Context) error {
	ans, err := a.server.ask(ctx, a.streams, a.question, a.piece)
	if err == nil {
		a.server.pace.add(time.Since(a.arrived))
	}
	a.leave() // before the client sees the end, after which it may ask again
	finish := "stop"
	switch {
	case errors.Is(err, errStop):
		err = nil
	case err == nil:
		if a.text.Len() == 0 && a.held == "" && ans.Text != "" {
			_ = a.piece(ans.Text)
		}
		if err = a.say(a.held); ans.Stats.Finish == "length" || ans.Stats.Finish == qa.FinishDeadline {
			finish = "length"
		}
	case errors.Is(context.Cause(ctx), errTooLong) && a.text.Len() > 0: // what there is of it stands
		finish = "length"
		err = a.say(a.held)
	case context.Cause(ctx) != nil:
		err = context.Cause(ctx)
	}
	if err != nil {
		return a.fail(err)
	}
	out := a.frame()
	out.Timings, out.FromCoverage, out.Ignored = timingsOf(ans.Stats, a.arrived, a.first), ans.FromCoverage, a.ignored
	for _, of := range ans.about {
		body := a.server.evidenceOf(of.stream, of.evidence)
		body.Asked = ans.Asked
		out.Evidence = append(out.Evidence, chatEvidence{of.stream, body})
	}
	usage := chatUsageOf(ans.Stats)
	if !a.stream {
		a.extend()
		out.Object, out.Usage = "chat.completion", usage
		out.Choices = []chatChoice{{Message: &chatReply{Role: "assistant", Content: a.text.String()}, FinishReason: &finish}}
		writeJSON(a.w, http.StatusOK, out)
		return nil
	}
	if err := a.begin(); err != nil {
		return err
	}
	out.Choices = []chatChoice{{Delta: &chatDelta{}, FinishReason: &finish}}
	if err := a.send(out); err != nil {
		return err
	}
	if a.includeUsage {
		last := a.frame()
		last.Choices, last.Usage = []chatChoice{}, usage
		if err := a.send(last); err != nil {
			return err
		}
	}
	return a.event("[DONE]")
}

// piece takes a piece of the answer. What may begin a stop sequence is held back until that is clear.
func (a *completion) piece(text string) error {
	if a.first == 0 {
		a.first = time.Since(a.arrived)
	}
	a.held += text
	end, stopped := len(a.held), false
	for _, stop := range a.stops {
		if i := strings.Index(a.held, stop); i >= 0 && (i < end || !stopped) {
			end, stopped = min(i, end), true
		}
	}
	if stopped {
		if err := a.say(a.held[:end]); err != nil {
			return err
		}
		return errStop
	}
	keep := 0
	for _, stop := range a.stops {
		for n := min(len(stop)-1, len(a.held)); n > keep; n-- {
			if strings.HasSuffix(a.held, stop[:n]) {
				keep = n
				break
			}
		}
	}
	end = len(a.held) - keep
	for end > 0 && end < len(a.held) && !utf8.RuneStart(a.held[end]) {
		end--
	}
	return a.say(a.held[:end])
}

// say lets the first of what is held go out.
func (a *completion) say(text string) error {
	a.held = a.held[len(text):]
	if text == "" {
		return nil
	}
	a.text.WriteString(text)
	if !a.stream {
		return nil
	}
	if err := a.begin(); err != nil {
		return err
	}
	out := a.frame()
	out.Choices = []chatChoice{{Delta: &chatDelta{Content: &text}}}
	return a.send(out)
}

// begin sends a stream's header and first chunk. It is late, with the first word: until then, an error can still have its own status.
func (a *completion) begin() error {
	if a.began {
		return nil
	}
	a.began = true
	a.w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	a.w.Header().Set("X-Accel-Buffering", "no") // for proxies that would gather the words
	empty := ""
	out := a.frame()
	out.Choices = []chatChoice{{Delta: &chatDelta{Role: "assistant", Content: &empty}}}
	return a.send(out)
}

func (a *completion) frame() chatCompletion {
	v := a.server.cfg.Version
	return chatCompletion{ID: a.id, Object: "chat.completion.chunk", Created: a.created, Model: a.model,
		SystemFingerprint: "afterimage-" + strings.Join(slices.DeleteFunc([]string{v.Version, v.Commit, v.Device}, func(s string) bool { return s == "" }), "-")}
}

func (a *completion) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return a.event(string(b))
}

// extend gives the next write its time: the connection's own began with the request, and an answer may take longer.
func (a *completion) extend() {
	_ = a.control.SetWriteDeadline(time.Now().Add(a.server.cfg.WriteTimeout)) // what cannot be extended ends by itself
}

// event writes one server-sent event. A client that does not take it in time is lost.
func (a *completion) event(data string) error {
	a.extend()
	if _, err := io.WriteString(a.w, "data: "+data+"\n\n"); err != nil {
		return err
	}
	return a.control.Flush()
}

// fail tells the client of an error: with its status, or as a last event where words went out already.
func (a *completion) fail(err error) error {
	if errors.Is(err, context.Canceled) && a.began {
		return err // the client is gone
	}
	status, body, _ := a.server.chatProblem(err)
	if status >= http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		a.server.log.Warn("question failed", "stream", a.streams[0].Name(), "response_id", a.id, "err", err)
	}
	if !a.began {
		a.extend()
		a.server.chatFailed(a.w, err)
		return err
	}
	return errors.Join(err, a.send(map[string]chatErrorBody{"error": body}))
}
