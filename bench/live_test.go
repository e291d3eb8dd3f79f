package bench

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
	"afterimage/qa"
)

// fakeAnswers is a server that takes two sockets at once, refuses every fifth question, breaks one connection, and answers the rest.
func fakeAnswers(t *testing.T) (address string) {
	slots := make(chan struct{}, 2)
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		ws, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		id := ""
		for {
			var m struct {
				Type    string
				EventID string `json:"event_id"`
			}
			if ws.ReadJSON(&m) != nil {
				return
			}
			switch n := asked.Add(1); {
			case m.Type == "response.cancel":
				_ = ws.WriteJSON(map[string]any{"type": "error", "error": map[string]any{"type": "invalid_request_error", "event_id": m.EventID}})
			case n == 7:
				return
			case n%5 == 0:
				_ = ws.WriteJSON(map[string]any{"type": "error", "error": map[string]any{"type": "rate_limit_error", "code": "server_busy", "event_id": m.EventID, "retry_after_ms": 1}})
			default:
				id = "r" + strconv.FormatInt(n, 10)
				_ = ws.WriteJSON(map[string]any{"type": "response.created", "response": map[string]any{"id": id, "status": "in_progress"}})
				_ = ws.WriteJSON(map[string]any{"type": "response.done", "response": map[string]any{"id": "of another", "status": "completed"}})
				_ = ws.WriteJSON(map[string]any{"type": "response.output_text.delta", "response_id": id})
				_ = ws.WriteJSON(map[string]any{"type": "response.done", "response": map[string]any{"id": id, "status": "completed"}})
			}
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestLiveCountsEveryTry(t *testing.T) {
	began := time.Now()
	meter := func() qa.Progress { // ten frames a second, each 7 ms late
		return qa.Progress{Frames: uint64(time.Since(began) / (100 * time.Millisecond)), Lag: 7 * time.Millisecond}
	}
	r, err := Live(t.Context(), LiveOptions{
		Address: fakeAnswers(t), Sockets: 3, Quiet: 300 * time.Millisecond, Load: 2 * time.Second, Questions: []string{"What?"},
		Streams: []LiveStream{{Name: "a", FPS: 10, Meter: meter, State: func() ingest.Status { return ingest.Status{} }}},
	})
	require.NoError(t, err)
	a := r.Asking
	refused := 0
	for _, n := range a.Refused {
		refused += n
	}
	assert.Equal(t, a.Tries, a.Answered+a.Cancelled+refused+a.Lost, "every try is accounted for")
	assert.Positive(t, a.Answered)
	assert.Positive(t, a.Refused["429 with Retry-After"])
	assert.Positive(t, a.Refused["server_busy"])
	assert.Equal(t, 1, a.Lost)
	assert.Len(t, a.LostWhy, 1)
	assert.Equal(t, a.Answered, a.AnswerMS.N)
	require.Len(t, r.Watching, 2)
	for _, w := range r.Watching {
		assert.InDelta(t, 10, w.Rate, 4, w.Phase)
		assert.Equal(t, 7.0, w.LagMS.P50)
	}
	text := r.Markdown()
	assert.Contains(t, text, "(429 with Retry-After)")
	assert.Contains(t, text, "| a | load | 10 |")
}
