package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/memorybank"
)

// madeUp makes a memory of the embedded model's in a directory: a frame a second from 12:00:00.
func madeUp(t *testing.T, dir string, frames int) {
	t.Helper()
	files, err := modelFiles("")
	require.NoError(t, err)
	o, err := modelOrigin(files)
	require.NoError(t, err)
	s, err := memorybank.OpenStore(dir, memorybank.StoreOptions{Origin: o, Strategy: memorybank.Flash{Synopsis: 4, Detail: 2}, Wait: true,
		Epoch: time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)})
	require.NoError(t, err)
	for i := range frames {
		m := compute.NewMatrix(8, 4)
		m.Data[i%32] = float32(i)
		s.Bank().Add(memorybank.Entry{At: time.Duration(i) * time.Second, Grid: memorybank.Grid{H: 2, W: 4}, Tokens: m})
	}
	require.NoError(t, s.Close())
}

func TestMemoryVerbs(t *testing.T) {
	root := t.TempDir()
	madeUp(t, filepath.Join(root, "door"), 100)
	do := func(args ...string) (string, string, int) {
		code, out, errs := command(t, t.Context(), append([]string{"memory"}, append(args, "--memory-dir", root)...)...)
		return out, errs, code
	}
	ok := func(args ...string) string {
		t.Helper()
		out, errs, code := do(args...)
		require.Zero(t, code, errs)
		return out
	}
	out := ok("show", "door")
	assert.Contains(t, out, "4 entries as of 2026-05-04 12:01:39")
	assert.Regexp(t, `cold     100 entries in \d+ segments, `, out)
	assert.Contains(t, out, "watched  2026-05-04 12:00:00 to 2026-05-04 12:01:39")
	var doc memoryDoc
	require.NoError(t, json.Unmarshal([]byte(ok("show", "door", "--json")), &doc))
	assert.Equal(t, 100, doc.Cold.Entries)
	assert.Len(t, doc.Entries, 4)

	file := filepath.Join(root, "monday.safetensors")
	assert.Contains(t, ok("save", "door", file), "4 entries as of 2026-05-04T12:01:39")
	_, errs, code := do("save", "door", file)
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "--force replaces it")
	assert.Contains(t, ok("diff", file, "door"), "the same: 4 entries")
	assert.Contains(t, ok("load", file, "yard"), "4 entries, 0 on disk")
	assert.Contains(t, ok("fork", "door", "copy"), "4 entries, 100 on disk")
	_, errs, code = do("fork", "door", "copy")
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "is not empty")

	out = ok("forget", "door", "--from", "2026-05-04 12:00:30", "--to", "2026-05-04T12:01:00Z")
	assert.Contains(t, out, "30 entries on disk")
	out = ok("diff", "copy", "door")
	assert.Regexp(t, `(?m)^- 2026`, out)
	assert.Contains(t, ok("show", "door"), "watched  2026-05-04 12:01:00 to 2026-05-04 12:01:39")
	assert.Contains(t, ok("show", "copy"), "cold     100 entries", "the other one still knows")

	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"show", "nobody"}, "there is no file, directory or stream nobody; streams are looked for in " + root},
		{[]string{"forget", "door", "--from", "noon", "--to", "13:00"}, `--from: "noon": want a time`},
		{[]string{"forget", "door", "--from", "13:00", "--to", "12:00"}, "--from must be before --to"},
		{[]string{"forget", file, "--from", "12:00", "--to", "13:00"}, "is a file: remove it"},
	} {
		_, errs, code := do(c.args...)
		assert.Equal(t, 1, code)
		assert.Contains(t, errs, c.want)
	}
	// Of another model: refused, with the reason.
	code, _, errs = command(t, t.Context(), "--model", randomModel(t), "memory", "load", file, filepath.Join(root, "other"))
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "it was made with encoder")
}

func TestParseMoment(t *testing.T) {
	now := time.Date(2026, 5, 4, 15, 30, 0, 0, time.FixedZone("", 7200))
	for text, want := range map[string]string{
		"2026-05-04T12:00:00Z": "2026-05-04T12:00:00Z", "2026-05-04 12:00": "2026-05-04T12:00:00+02:00", "14:03": "2026-05-04T14:03:00+02:00",
		"14:03:10": "2026-05-04T14:03:10+02:00", "2026-05-01": "2026-05-01T00:00:00+02:00",
	} {
		got, err := parseMoment(text, now)
		require.NoError(t, err, text)
		assert.Equal(t, want, got.Format(time.RFC3339))
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]size{"2GiB": 2 << 30, "500MB": 500e6, "1.5 TiB": 3 << 39, "64KiB": 65536} {
		var s size
		require.NoError(t, s.UnmarshalText([]byte(text)))
		assert.Equal(t, want, s)
	}
	for _, text := range []string{"", "2", "GiB", "-1GiB", "1e40TB", "NaNGB", "0GB"} {
		require.Error(t, new(size).UnmarshalText([]byte(text)), text)
	}
	assert.Equal(t, "2 GiB", size(2<<30).String())
	assert.Equal(t, "1.5 KiB", size(1536).String())
	assert.Equal(t, "7 bytes", size(7).String())
}

// A server's memory goes on where it was when the server is started again, and forgets what it is told to.
func TestServeRemembersAndForgets(t *testing.T) {
	clean(t)
	dir, model := t.TempDir(), randomModel(t)
	file := writeConfig(t, "memory_dir: "+dir+"\nstreams:\n  sim: sim://street?seed=900204\n")
	type info struct {
		Memory struct{ Version, Entries int }
	}
	serve := func(body func(page string)) string {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var out, errs lockedBuffer
		ended := make(chan int, 1)
		go func() {
			ended <- run(ctx, []string{"--model", model, "serve", file, "--listen", "127.0.0.1:0"},
				&app{in: strings.NewReader(""), out: &out, err: &errs, lookup: environment()})
		}()
		serving := regexp.MustCompile(`"msg":"serving","page":"(http://[^"]+/)"`)
		require.Eventually(t, func() bool { return serving.MatchString(errs.String()) }, 30*time.Second, 20*time.Millisecond)
		body(serving.FindStringSubmatch(errs.String())[1])
		cancel()
		require.Zero(t, <-ended, errs.String())
		return errs.String()
	}
	version := func(page string) int {
		resp, err := http.Get(page + "api/streams/sim")
		require.NoError(t, err)
		defer resp.Body.Close()
		var i info
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&i))
		return i.Memory.Version
	}
	var first int
	serve(func(page string) {
		require.Eventually(t, func() bool { first = version(page); return first >= 4 }, 30*time.Second, 50*time.Millisecond)
		code, _, errs := command(t, t.Context(), "memory", "forget", "sim", "--memory-dir", dir, "--from", "00:00", "--to", "23:59")
		assert.Equal(t, 1, code)
		assert.Contains(t, errs, "in use by process")
	})
	logs := serve(func(page string) {
		require.GreaterOrEqual(t, version(page), first)
		now := time.Now().UTC()
		post := func(body string) (int, string) {
			resp, err := http.Post(page+"api/streams/sim/forget", "application/json", strings.NewReader(body))
			require.NoError(t, err)
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			return resp.StatusCode, string(text)
		}
		code, text := post(fmt.Sprintf(`{"from": %q, "to": %q}`, now.Add(-time.Hour).Format(time.RFC3339), now.Format(time.RFC3339)))
		require.Equal(t, http.StatusOK, code, text)
		require.Regexp(t, `"cold":[1-9]`, text)
		code, text = post(`{"from": "2026-01-01T00:00:00Z"}`)
		assert.Equal(t, http.StatusBadRequest, code, text)
		code, text = post(`{"from": "2026-01-01T00:00:00Z", "to": "2025-01-01T00:00:00Z"}`)
		assert.Equal(t, http.StatusBadRequest, code, text)
	})
	assert.Contains(t, logs, `"msg":"the memory goes on"`)
	// Another model's memory is refused, with the reason.
	other := filepath.Join(t.TempDir(), "sim")
	madeUp(t, other, 3)
	file2 := writeConfig(t, "memory_dir: "+filepath.Dir(other)+"\nstreams:\n  sim: sim://street?seed=900204\n")
	code, _, errs := command(t, t.Context(), "--model", model, "serve", file2, "--listen", "127.0.0.1:0")
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "it was made with encoder")
	assert.Contains(t, errs, "move it away")
	_, err := os.Stat(other)
	require.NoError(t, err)
}

func TestMemoryConfigKeys(t *testing.T) {
	file := writeConfig(t, "memory_dir: kept\nstream_defaults: {disk_budget: 500MB, clip: 4s}\nstreams:\n  a: sim://street\n  b: {source: sim://street, disk_budget: 1GiB}\n")
	c, err := LoadConfig(file, nil)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(filepath.Dir(file), "kept"), c.Memory)
	assert.Equal(t, []size{500e6, 1 << 30}, []size{c.Streams[0].DiskBudget, c.Streams[1].DiskBudget})
	assert.Equal(t, duration(4*time.Second), c.Streams[1].Clip)
	code, out, errs := command(t, t.Context(), "check-config", file)
	require.Zero(t, code, errs)
	assert.Contains(t, out, "memories of live streams are kept in "+c.Memory)
	assert.Contains(t, out, "at most 1 GiB on disk")
	for text, want := range map[string]string{
		"streams:\n  a: {source: sim://street, disk_budget: 1MB}\n": "want at least 64MiB",
		"streams:\n  a: {source: sim://street, disk_budget: 12}\n":  "want a size such as 2GiB or 500MB",
		"streams:\n  a: {source: sim://street, clip: 1h}\n":         "want 1s to 1m",
	} {
		_, err := LoadConfig(writeConfig(t, text), nil)
		require.ErrorContains(t, err, want)
	}
	home := func(vars ...string) string {
		return memoryRoot("", func(name string) (string, bool) {
			for i := 0; i < len(vars); i += 2 {
				if vars[i] == name {
					return vars[i+1], true
				}
			}
			return "", false
		})
	}
	assert.Equal(t, "/h/.local/state/afterimage/memory", home("HOME", "/h"))
	assert.Equal(t, "/s/afterimage/memory", home("HOME", "/h", "XDG_STATE_HOME", "/s"))
	assert.Empty(t, home())
	assert.Empty(t, memoryRoot("off", environment()))
}
