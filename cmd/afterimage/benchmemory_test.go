package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/bench"
	"afterimage/memorybank"
)

// A comparison from end to end: a clip with its questions and a simulated stream, two strategies, two budgets, all reports.
func TestBenchMemory(t *testing.T) {
	clean(t)
	dir, model := t.TempDir(), randomModel(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	code, _, errs := command(t, t.Context(), "simcam", "--out", file("street.mp4"), "--questions", file("street.json"), "--length", "40s", "--fps", "4", "--seed", "900205")
	require.Zero(t, code, errs)
	args := []string{"--model", model, "bench", "memory", "--strategies", "flash:synopsis=8,detail=1,recent:frames=4", "--budget", "64,128", "--seeds", "900206",
		"--minutes", "1", "--questions-per-minute", "3", "--video", file("street.mp4"), "--questions", file("street.json"), "--json", file("out.json")}
	code, out, errs := command(t, t.Context(), args...)
	require.Zero(t, code, errs)
	assert.Contains(t, out, "| flash:synopsis=8,detail=1 |")
	assert.Contains(t, out, "1 video, at most 128 visual tokens")
	text, err := os.ReadFile(file("out.json"))
	require.NoError(t, err)
	var r bench.MemoryReport
	require.NoError(t, json.Unmarshal(text, &r))
	assert.Equal(t, []string{"flash:synopsis=8,detail=1", "recent:frames=4", "newest", "blind"}, r.Strategies)
	assert.Equal(t, []string{"1 min", "videos"}, r.Groups)
	assert.Equal(t, []string{"street.mp4"}, r.Videos)
	assert.Len(t, r.Machine.ModelHash, 16)
	assert.Positive(t, r.Questions)
	for _, c := range r.Costs {
		assert.LessOrEqual(t, c.TokensMax, c.Budget, c.Strategy)
		assert.Positive(t, c.PromptTokens)
	}
	log, err := os.ReadFile(file("out.jsonl"))
	require.NoError(t, err)
	assert.Equal(t, r.Answers+3, strings.Count(string(log), "\n"), "a line a question, a head, and one for each stream")
	page, err := os.ReadFile(file("out.html"))
	require.NoError(t, err)
	assert.Contains(t, string(page), "</html>")

	// All of it is in the log: nothing is asked again.
	code, again, errs := command(t, t.Context(), append(args, "--resume")...)
	require.Zero(t, code, errs)
	table := func(s string) string { return s[:strings.LastIndex(s, "\n\n")] }
	assert.Equal(t, table(out), table(again))

	// The questions of a longer clip do not fit.
	code, _, errs = command(t, t.Context(), "simcam", "--out", file("long.mp4"), "--questions", file("long.json"), "--length", "95s", "--fps", "1", "--seed", "900205")
	require.Zero(t, code, errs)
	code, _, errs = command(t, t.Context(), "--model", model, "bench", "memory", "--video", file("street.mp4"), "--questions", file("long.json"))
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "is to be asked at 1m30s, but "+file("street.mp4")+" ends at 40s")
}

func TestMemorySubjects(t *testing.T) {
	c := benchMemoryCmd{Strategies: []string{"flash:synopsis=28,detail=4, recent,newest", "recent:frames=64", "flash"}}
	got, err := c.subjects()
	require.NoError(t, err)
	var names []string
	for _, m := range got {
		names = append(names, m.spec())
	}
	assert.Equal(t, []string{"flash:synopsis=28,detail=4", "recent", "recent:frames=64", "flash"}, names)
	s, err := got[0].open(&machine{}, quiet)
	require.NoError(t, err)
	assert.Equal(t, memorybank.Flash{Synopsis: 28, Detail: 4}, s)
	c.Strategies = []string{"recent,frames=4"}
	_, err = c.subjects()
	assert.ErrorContains(t, err, "write name:frames=4")
	c.Strategies = []string{"flash,recent", "flash"}
	_, err = c.subjects()
	assert.ErrorContains(t, err, "flash is named twice")
}
