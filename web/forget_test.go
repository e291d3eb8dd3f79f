package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/memorybank"
	"afterimage/qa"
)

// forgetful is a stream that can be told to forget.
type forgetful struct {
	*fakeStream
	from, to time.Time
	err      error
}

func (f *forgetful) Forget(_ context.Context, from, to time.Time) (memorybank.Forgotten, error) {
	f.from, f.to = from, to
	return memorybank.Forgotten{Entries: 3, Cold: 40}, f.err
}

func TestForget(t *testing.T) {
	const token = "0123456789abcdef"
	yard := &forgetful{fakeStream: newFake("yard")}
	base, stop := serve(t, Config{Token: token}, yard, newFake("door"))
	defer stop()
	post := func(stream, body, with string) (int, string) {
		r, err := http.NewRequest(http.MethodPost, base+"/api/streams/"+stream+"/forget", strings.NewReader(body))
		require.NoError(t, err)
		if with != "" {
			r.Header.Set("Authorization", "Bearer "+with)
			r.Header.Set("Content-Type", "application/json")
		}
		resp, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(text)
	}
	const stretch = `{"from": "2026-05-04T12:00:00Z", "to": "2026-05-04T12:05:00+02:00"}`
	code, _ := post("yard", stretch, "")
	assert.Equal(t, http.StatusUnauthorized, code)
	assert.True(t, yard.from.IsZero())
	code, text := post("yard", stretch, token)
	assert.Equal(t, http.StatusOK, code, text)
	assert.Contains(t, text, `"cold":40`)
	assert.True(t, yard.from.Equal(time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)))
	assert.True(t, yard.to.Equal(time.Date(2026, 5, 4, 10, 5, 0, 0, time.UTC)))
	for _, c := range []struct {
		stream, body string
		err          error
		code         int
		want         string
	}{
		{"nobody", stretch, nil, http.StatusNotFound, "stream_not_found"},
		{"door", stretch, nil, http.StatusNotImplemented, "forget_not_supported"},
		{"yard", "", nil, http.StatusBadRequest, "bad_body"},
		{"yard", `{"from": "noon", "to": "now"}`, nil, http.StatusBadRequest, "bad_body"},
		{"yard", `{"from": "2026-05-04T12:00:00Z"}`, nil, http.StatusBadRequest, "bad_body"},
		{"yard", `{"from": "2026-05-04T12:00:00Z", "until": 3}`, nil, http.StatusBadRequest, "bad_body"},
		{"yard", stretch + "{}", nil, http.StatusBadRequest, "bad_body"},
		{"yard", `{"from": "` + strings.Repeat("2", 5000) + `"}`, nil, http.StatusBadRequest, "bad_body"},
		{"yard", stretch, fmt.Errorf("qa: %w", qa.ErrStretch), http.StatusBadRequest, "bad_stretch"},
		{"yard", stretch, context.DeadlineExceeded, http.StatusServiceUnavailable, "forget_unfinished"},
		{"yard", stretch, errors.New("disk on fire at /secret"), http.StatusInternalServerError, "forget_failed"},
	} {
		yard.err = c.err
		code, text := post(c.stream, c.body, token)
		assert.Equal(t, c.code, code, text)
		assert.Contains(t, text, c.want)
		assert.NotContains(t, text, "/secret")
	}
}

func TestThumbsClear(t *testing.T) {
	th := newThumbs(1000)
	id := th.put("yard", []byte("picture"))
	th.clear()
	_, ok := th.get(id)
	assert.False(t, ok)
	assert.Zero(t, th.bytes)
	_, ok = th.get(th.put("yard", []byte("picture")))
	assert.True(t, ok)
}
