package memorybank

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"afterimage/internal/compute"
)

// warm is how many entries the large banks of the benchmarks hold.
const warm = 10_000

// largeStrategies are those that can be that large, and how many frames fill them.
var largeStrategies = []struct {
	name   string
	s      Strategy
	frames int
}{
	{"recent", Recent{N: warm}, warm},
	{"uniform", Uniform{N: warm / 2}, 2 * warm},
	{"reservoir", Reservoir{N: warm}, warm},
	{"pyramid", Pyramid{Capacity: [3]int{10, warm - 20, 10}, Every: [3]int{64, 1, 1}}, warm + warm/50},
	{"pyramid penalty", Pyramid{Capacity: [3]int{10, warm - 20, 10}, Every: [3]int{64, 1, 1}, Evict: LeastPenalty}, warm + warm/50},
	{"forest", Forest{Events: warm}, 2*warm + 500},
	{"flash", Flash{Synopsis: warm}, warm + 1},
}

var largeBanks = map[string]*Snapshot{}

// largeBank fills a bank with frames of the embedded default's size, 32x384, of which strategies keep 8x384 (the baselines: all).
func largeBank(b *testing.B, name string, s Strategy, frames int) (*Snapshot, []Entry) {
	r := rand.New(rand.NewPCG(7, 8))
	few := make([]Entry, 61)
	for i := range few {
		m := compute.NewMatrix(32, 384)
		for j := range m.Data {
			m.Data[j] = float32(r.NormFloat64())
		}
		few[i] = Entry{Grid: Grid{4, 8}, Tokens: m, Indicator: NewIndicator(gist(m))}
	}
	if s, ok := largeBanks[name]; ok {
		return s, few
	}
	bank := New(time.Unix(0, 0), s)
	for i := range frames {
		e := few[i%len(few)]
		e.At = time.Duration(i) * time.Second / 2
		bank.Add(e)
	}
	largeBanks[name] = bank.Snapshot()
	b.Logf("%s: %d entries", name, len(bank.Snapshot().Entries))
	return bank.Snapshot(), few
}

// BenchmarkUpdate10000 is one frame of the embedded default into a bank of 10,000 entries.
func BenchmarkUpdate10000(b *testing.B) {
	for _, l := range largeStrategies {
		b.Run(l.name, func(b *testing.B) {
			s, few := largeBank(b, l.name, l.s, l.frames)
			bank := New(s.Epoch, l.s)
			bank.current.Store(s)
			at := s.Now
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				at += time.Second / 2
				e := few[i%len(few)]
				e.At = at
				bank.Add(e)
			}
		})
	}
}

// BenchmarkSelect10000 is a question to a bank of 10,000 entries, with 512 visual tokens.
func BenchmarkSelect10000(b *testing.B) {
	for _, l := range largeStrategies {
		s, _ := largeBank(b, l.name, l.s, l.frames)
		for _, dim := range []int{128, 384} {
			r := rand.New(rand.NewPCG(1, 2))
			v := make([]float32, dim)
			view := *s
			view.Entries = slices.Clone(s.Entries)
			for i := range view.Entries {
				for c := range v {
					v[c] = float32(r.NormFloat64())
				}
				view.Entries[i].Indicator = NewIndicator(v)
			}
			query := NewIndicator(v).Vector()
			for _, q := range []struct {
				name   string
				query  []float32
				prefer Order
			}{{"none", nil, AnyTime}, {"nearest", query, AnyTime}, {"first", query, Earliest}} {
				if q.query == nil && dim != 128 {
					continue
				}
				view.Prefer = q.prefer
				b.Run(l.name+"/"+q.name+"-"+map[int]string{128: "128", 384: "384"}[dim], func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						view.Select(q.query, 512)
					}
				})
			}
		}
	}
}

// BenchmarkUpdate is one frame of the embedded default into a full bank of the default size.
func BenchmarkUpdate(b *testing.B) {
	for _, l := range []struct {
		name string
		s    Strategy
	}{
		{"recent", Recent{}}, {"uniform", Uniform{}}, {"reservoir", Reservoir{}},
		{"pyramid", Pyramid{}}, {"pyramid compat", Pyramid{Capacity: [3]int{4, 16, 64}, Compat: true}},
		{"forest", Forest{}}, {"forest scenes", Forest{Segment: SceneTilling{}}},
		{"star", Star{}}, {"star compat", Star{Compat: true}}, {"flash", Flash{}}, {"flash compat", Flash{Compat: true}},
	} {
		b.Run(l.name, func(b *testing.B) {
			s, few := largeBank(b, "default "+l.name, l.s, 300)
			bank := New(s.Epoch, l.s)
			bank.current.Store(s)
			at := s.Now
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				at += time.Second / 2
				e := few[(i*i)%len(few)]
				e.At = at
				bank.Add(e)
			}
		})
		b.Run(l.name+"/select", func(b *testing.B) {
			s, _ := largeBank(b, "default "+l.name, l.s, 300)
			for b.Loop() {
				s.Select(nil, 512)
			}
		})
	}
}
