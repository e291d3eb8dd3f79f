package web

import (
	"bytes"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/memorybank"
)

func TestMemoryOverHTTP(t *testing.T) {
	yard := newRemembering("yard", 20)
	base, _ := serve(t, Config{}, yard, newFake("door"), newRemembering("attic", 0))
	body := func(method, path string, want int) (o object) {
		t.Helper()
		r, err := http.NewRequest(method, base+path, nil)
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, want, resp.StatusCode, path)
		if want != http.StatusNoContent {
			require.NoError(t, json.NewDecoder(resp.Body).Decode(&o))
		}
		return o
	}
	m := body("GET", "/api/streams/yard/memory", 200)
	assert.Equal(t, "2026-05-04T12:00:19.000Z", m["as_of"])
	assert.EqualValues(t, 20, m["version"])
	entries, _ := at(m, "levels", 0, "entries").([]any)
	require.Len(t, entries, 6)
	assert.EqualValues(t, 24, at(m, "levels", 0, "tokens"))
	last := ""
	for _, e := range entries {
		from, _ := at(e, "from").(string)
		assert.Greater(t, from, last, "by time")
		last = from
		assert.EqualValues(t, 4, at(e, "tokens"))
		status, h, _ := get(t, base+at(e, "thumb").(string))
		assert.Equal(t, 200, status)
		assert.Equal(t, "image/jpeg", h.Get("Content-Type"))
	}
	assert.Equal(t, "memory_not_shown", at(body("GET", "/api/streams/door/memory", 501), "error", "code"))
	assert.Nil(t, body("GET", "/api/streams/attic/memory", 200)["as_of"])
	assert.Equal(t, "memory_empty", at(body("POST", "/api/streams/attic/memory/snapshots", 409), "error", "code"))

	const copies = "/api/streams/yard/memory/snapshots"
	assert.Empty(t, body("GET", copies, 200)["snapshots"])
	info := body("POST", copies, 201)
	assert.EqualValues(t, 6, info["entries"])
	body("POST", copies, 201) // nothing has changed, so it is the same copy
	assert.Len(t, body("GET", copies, 200)["snapshots"], 1)
	kept := yard.bank.Snapshot()
	for i := range 2 * maxSnapshots {
		yard.bank.Add(memorybank.Entry{At: kept.Now, Grid: kept.Newest.Grid, Tokens: kept.Newest.Tokens})
		if i == 0 {
			status, _, file := get(t, base+info["file"].(string))
			require.Equal(t, 200, status)
			bank, err := memorybank.Restore(bytes.NewReader(file), memorybank.Recent{N: 6}, memorybank.Origin{})
			require.NoError(t, err)
			assert.Equal(t, kept.Version, bank.Snapshot().Version, "the copy is of when it was taken")
		}
		body("POST", copies, 201)
	}
	list, _ := body("GET", copies, 200)["snapshots"].([]any)
	require.Len(t, list, maxSnapshots, "the oldest go")
	body("GET", info["file"].(string), 404)
	id, _ := at(list, 0, "id").(string)
	body("DELETE", copies+"/"+id, 204)
	body("DELETE", copies+"/"+id, 404)
	body("DELETE", copies+"/..%2f..%2fetc", 404)
	body("GET", copies+"/..%2fx.safetensors", 404)
	assert.Len(t, body("GET", copies, 200)["snapshots"], maxSnapshots-1)
}
