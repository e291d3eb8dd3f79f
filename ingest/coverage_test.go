package ingest_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"afterimage/ingest"
)

var noon = time.Date(2026, 5, 2, 12, 0, 0, 0, time.UTC)

func at(s float64) time.Time        { return noon.Add(time.Duration(s * float64(time.Second))) }
func span(a, b float64) ingest.Span { return ingest.Span{From: at(a), To: at(b)} }
func mark(c *ingest.Coverage, s ...float64) {
	for _, v := range s {
		c.Mark(at(v))
	}
}

func TestCoverage(t *testing.T) {
	for _, c := range []struct {
		name     string
		marks    []float64
		spans    []ingest.Span
		from, to float64
		gaps     []ingest.Span
		within   []ingest.Span
	}{
		{"nothing", nil, nil, 0, 10, []ingest.Span{span(0, 10)}, nil},
		{"one frame", []float64{5}, []ingest.Span{span(5, 5)}, 0, 10, []ingest.Span{span(0, 5), span(5, 10)}, []ingest.Span{span(5, 5)}},
		{"no hole at the limit", []float64{0, 3, 6}, []ingest.Span{span(0, 6)}, 0, 9, nil, []ingest.Span{span(0, 6)}},
		{"a gap past the limit", []float64{0, 1, 4.1, 5}, []ingest.Span{span(0, 1), span(4.1, 5)}, 0, 6, []ingest.Span{span(1, 4.1)}, []ingest.Span{span(0, 1), span(4.1, 5)}},
		{"window inside a gap", []float64{0, 20}, []ingest.Span{span(0, 0), span(20, 20)}, 5, 6, []ingest.Span{span(5, 6)}, nil},
		{"window inside a span", []float64{0, 2, 4, 6}, []ingest.Span{span(0, 6)}, 1, 5, nil, []ingest.Span{span(1, 5)}},
		{"window across a gap", []float64{0, 2, 12, 14}, []ingest.Span{span(0, 2), span(12, 14)}, 1, 13, []ingest.Span{span(2, 12)}, []ingest.Span{span(1, 2), span(12, 13)}},
		{"after the newest, soon", []float64{0, 2}, []ingest.Span{span(0, 2)}, 3, 5, nil, nil},
		{"after the newest, late", []float64{0, 2}, []ingest.Span{span(0, 2)}, 3, 5.1, []ingest.Span{span(3, 5.1)}, nil},
		{"out of order", []float64{10, 0, 1, 9, 8, 20, 11}, []ingest.Span{span(0, 1), span(8, 11), span(20, 20)}, 0, 20, []ingest.Span{span(1, 8), span(11, 20)}, []ingest.Span{span(0, 1), span(8, 11), span(20, 20)}},
		{"joined from both sides", []float64{0, 5, 2.5}, []ingest.Span{span(0, 5)}, 0, 5, nil, []ingest.Span{span(0, 5)}},
		{"empty window", []float64{0}, []ingest.Span{span(0, 0)}, 7, 7, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m ingest.Coverage
			mark(&m, c.marks...)
			assert.Equal(t, c.spans, m.Spans())
			assert.Equal(t, c.gaps, m.Gaps(at(c.from), at(c.to)))
			assert.Equal(t, c.within, m.Within(at(c.from), at(c.to)))
		})
	}
}

func TestCoverageWatched(t *testing.T) {
	c := ingest.NewCoverage(2*time.Second, 0)
	assert.False(t, c.Watched(at(0)))
	mark(c, 0, 2, 10, 12)
	for s, want := range map[float64]bool{-1: false, 0: true, 1: true, 2: true, 2.1: false, 9.9: false, 11: true, 14: true, 14.1: false} {
		assert.Equal(t, want, c.Watched(at(s)), "%v s", s)
	}
}

func TestCoverageIsBounded(t *testing.T) {
	c := ingest.NewCoverage(time.Second, 3)
	mark(c, 0, 10, 13, 30)
	assert.Equal(t, []ingest.Span{span(0, 0), span(10, 13), span(30, 30)}, c.Spans(), "the smallest gap went")
	n, longest := c.Forgotten()
	assert.EqualValues(t, 1, n)
	assert.Equal(t, 3*time.Second, longest)
	for i := range 1000 {
		c.Mark(at(100 + float64(i)*7 + rand.Float64()))
	}
	assert.Len(t, c.Spans(), 3)
	n, _ = c.Forgotten()
	assert.EqualValues(t, 1001, n)
	one := ingest.NewCoverage(time.Second, 1)
	mark(one, 0, 10)
	assert.Equal(t, []ingest.Span{span(0, 10)}, one.Spans())
}

// Whatever the order of the marks, spans and gaps tile the window, and Watched agrees with both.
func TestCoverageAgreesWithItself(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var c ingest.Coverage
		marks := make([]float64, r.IntN(30))
		for i := range marks {
			marks[i] = float64(r.IntN(1000)) / 10
		}
		mark(&c, marks...)
		from := float64(r.IntN(100))
		to := from + 0.1 + float64(r.IntN(50))
		var sum time.Duration
		for _, s := range c.Within(at(from), at(to)) {
			sum += s.To.Sub(s.From)
			assert.True(t, c.Watched(s.From) && c.Watched(s.To))
		}
		for _, s := range c.Gaps(at(from), at(to)) {
			sum += s.To.Sub(s.From)
			middle := s.From.Add(s.To.Sub(s.From) / 2)
			spans := c.Spans()
			if n := len(spans); n == 0 || middle.Before(spans[n-1].To) {
				assert.False(t, c.Watched(middle))
			}
		}
		assert.LessOrEqual(t, at(to).Sub(at(from))-sum, 3*time.Second, "all but a possible tail")
		for _, m := range marks {
			assert.True(t, c.Watched(at(m)))
		}
	}
}

func TestCoverageConcurrent(t *testing.T) {
	var c ingest.Coverage
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 500 {
				c.Mark(at(float64(i*4 + g)))
				c.Gaps(noon, at(100))
				c.Watched(at(float64(i)))
				c.Spans()
			}
		})
	}
	wg.Wait()
	assert.Equal(t, []ingest.Span{span(0, 1999)}, c.Spans())
}

func BenchmarkCoverageMark(b *testing.B) {
	var c ingest.Coverage
	i := 0
	for b.Loop() {
		i++
		c.Mark(noon.Add(time.Duration(i) * 500 * time.Millisecond))
	}
}

func TestCoverageRestoreAndCut(t *testing.T) {
	c := ingest.NewCoverage(0, 0)
	for s := 100; s <= 110; s++ {
		c.Mark(at(float64(s)))
	}
	c.Restore([]ingest.Span{span(0, 20), span(30, 98), span(5, 4), span(200, 200)})
	assert.Equal(t, []ingest.Span{span(0, 20), span(30, 110), span(200, 200)}, c.Spans())
	c.Cut(at(10), at(50))
	c.Cut(at(200), at(201))
	assert.Equal(t, []ingest.Span{{From: at(0), To: at(10).Add(-1)}, span(50, 110)}, c.Spans())
	for s, watched := range map[float64]bool{9: true, 10: false, 20: false, 50: true} {
		assert.Equal(t, watched, c.Watched(at(s)), "%g", s)
	}
	c.Cut(at(0), at(1000))
	assert.Empty(t, c.Spans())
	assert.False(t, c.Watched(at(105)))
}
