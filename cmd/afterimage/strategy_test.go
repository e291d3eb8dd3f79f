package main

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/memorybank"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func TestParseStrategies(t *testing.T) {
	list, err := parseStrategies(" flash:synopsis=28,detail=4, recent,reservoir:even=true,seed=7,composite")
	require.NoError(t, err)
	assert.Equal(t, []MemoryConfig{
		{"flash", map[string]any{"synopsis": 28, "detail": 4}}, {Strategy: "recent"}, {"reservoir", map[string]any{"even": true, "seed": 7}}, {Strategy: "composite"},
	}, list)
	specs := make([]string, len(list))
	for i, m := range list {
		specs[i] = m.spec()
		again, err := parseStrategies(m.spec())
		require.NoError(t, err)
		assert.Equal(t, []MemoryConfig{m}, again)
	}
	assert.Equal(t, []string{"flash:synopsis=28,detail=4", "recent", "reservoir:seed=7,even=true", "composite"}, specs)
	assert.Equal(t, "reservoir (frames 16, seed 7, even)", list[2].String())

	for text, want := range map[string]string{
		"":                            "a name is missing; want flash, ",
		"flash,":                      "a name is missing",
		"lru":                         `there is no memory strategy "lru"; want flash, `,
		"synopsis=3":                  "the option synopsis=3 belongs to no strategy: write name:synopsis=3",
		"flash:synopsis":              `"synopsis" is not an option: write name:option=value`,
		"flash:":                      `"" is not an option`,
		"flash:synopsis=":             "synopsis of flash: want a number of 1 to 4096",
		"flash:synopsis=0":            "synopsis of flash: want a number of 1 to 4096",
		"flash:synopsis=3,synopsis=4": "the option synopsis of flash is given twice",
		"recent:synopsis=3":           "the memory strategy recent has no option synopsis; it has frames (synopsis belongs to flash)",
		"recent:lru=3":                "the memory strategy recent has no option lru; it has frames",
		"reservoir:even=yes":          "even of reservoir: want true or false",
	} {
		_, err := parseStrategies(text)
		require.ErrorContains(t, err, want, text)
	}
}

// Whatever the table's limits allow can be made and used, and no budget is exceeded; the newest frame is in where the budget has room.
func TestEveryStrategyOfTheTable(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range strategies {
		assert.False(t, seen[s.name], s.name)
		seen[s.name] = true
		assert.NotEmpty(t, s.what)
		configs := []MemoryConfig{{Strategy: s.name}}
		for _, o := range s.options {
			assert.NotEmpty(t, o.what, o.name)
			_, err := o.read(o.def)
			assert.NoError(t, err, "the default of %s", o.name)
			_, err = o.read(shown(o.def))
			assert.NoError(t, err, "the default of %s as text", o.name)
			for _, x := range extremes(o) {
				configs = append(configs, MemoryConfig{s.name, map[string]any{o.name: x}})
			}
		}
		if s.learned {
			_, err := configs[0].open(&machine{name: "embedded"}, quiet)
			require.ErrorContains(t, err, "needs a model with a learned memory, and the model embedded has none")
			continue
		}
		for _, c := range configs {
			strategy, err := c.open(&machine{}, quiet)
			require.NoError(t, err)
			useStrategy(t, fmt.Sprintf("%s %v", s.name, c.Options), strategy, c.Options["compat"] != true)
		}
	}
	assert.True(t, seen[defaultStrategy])
}

func extremes(o option) []any {
	switch o.def.(type) {
	case int:
		return []any{int(o.least), int(o.most)}
	case float64:
		return []any{o.least, o.most}
	case bool:
		return []any{true, false}
	case []int:
		least, most := slices.Clone(o.def.([]int)), slices.Clone(o.def.([]int))
		for i := range least {
			least[i], most[i] = int(o.least), int(o.most)
		}
		return []any{least, most}
	}
	var out []any
	for _, n := range o.names {
		out = append(out, n)
	}
	return out
}

func useStrategy(t *testing.T, name string, s memorybank.Strategy, showsNewest bool) {
	t.Helper()
	const h, w, dim = 4, 8, 4
	r := rand.New(rand.NewPCG(1, 2))
	bank := memorybank.New(time.Date(2026, 5, 2, 10, 0, 0, 0, time.UTC), s)
	query := []float32{.5, .5, .5, .5}
	for i := range 150 {
		m := compute.NewMatrix(h*w, dim)
		for j := range m.Data {
			m.Data[j] = r.Float32() + float32(i/20)
		}
		bank.Add(memorybank.Entry{At: time.Duration(i) * 500 * time.Millisecond, Grid: memorybank.Grid{H: h, W: w}, Tokens: m})
		if i%37 != 0 && i != 149 {
			continue
		}
		snap := bank.Snapshot()
		for _, budget := range []int{0, 1, 31, 32, 33, 100, 512} {
			for _, q := range [][]float32{nil, query} {
				rows, newest := 0, false
				for _, e := range snap.Select(q, budget) {
					rows += e.Tokens.Rows
					newest = newest || e.Role == memorybank.Newest
				}
				if budget > 0 {
					require.LessOrEqual(t, rows, budget, name)
				}
				if !showsNewest { // released code may leave it out
					continue
				}
				require.Equal(t, budget == 0 || budget >= h*w, newest, "%s: the newest frame, with a budget of %d", name, budget)
			}
		}
	}
}

// The README's table has every strategy with its options and their defaults.
func TestReadmeStrategies(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, table, ok := strings.Cut(string(readme), "\n## Memories\n")
	require.True(t, ok)
	table, _, _ = strings.Cut(table, "\n\n`afterimage list strategies`")
	for _, s := range strategies {
		var row string
		for line := range strings.SplitSeq(table, "\n") {
			if names, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | "); strings.Contains(names, "`"+s.name+"`") {
				row = line
			}
		}
		require.NotEmpty(t, row, s.name)
		for _, o := range s.options {
			want := "`" + o.name + "`"
			if o.def != false {
				want += " (" + shown(o.def) + ")"
			}
			assert.Contains(t, row, want, s.name)
		}
	}
}

func TestMemoryConfigOver(t *testing.T) {
	opts := func(pairs ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i].(string)] = pairs[i+1]
		}
		return m
	}
	shared := MemoryConfig{"", opts("synopsis", 9)}
	assert.Equal(t, MemoryConfig{"", opts("synopsis", 9, "detail", 2)}, MemoryConfig{"", opts("detail", 2)}.over(shared))
	assert.Equal(t, MemoryConfig{"flash", opts("synopsis", 4)}, MemoryConfig{"flash", opts("synopsis", 4)}.over(shared))
	assert.Equal(t, MemoryConfig{Strategy: "recent"}, MemoryConfig{Strategy: "recent"}.over(shared))
	assert.Equal(t, opts("synopsis", 9), shared.Options, "it is shared")
	assert.Equal(t, MemoryConfig{}, MemoryConfig{}.over(MemoryConfig{}), "the model decides")
	assert.Equal(t, MemoryConfig{Strategy: "recent"}, MemoryConfig{}.over(MemoryConfig{Strategy: "recent"}))
}
