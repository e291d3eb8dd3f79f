package computetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// Tolerances bound a device's error against the reference, each relative to the result or to the natural size of what was
// summed, whichever is larger.
type Tolerances struct {
	F32, BF16, I8 float64 // Linear by weight type, relative to Σ|x·w| + |bias| + |residual|; for I8 and I4 with max|x| for x
	I4            float64
	Attention     float64 // relative to the largest |v|
	// RoundedAttention is that of calls that allow rounding; 0: no more than Attention.
	RoundedAttention float64
	Other            float64 // everything else, relative to the largest term of an element
	Rounded          float64 // what is added to each of these with tensors of BF16; 0: the device has none
}

// Float32 is what a device reaches that keeps activations in float32.
func Float32() Tolerances {
	return Tolerances{F32: 2e-6, BF16: 2e-6, I8: 2e-6, I4: 2e-6, Attention: 4e-6, Other: 2e-6}
}

// guard and poison are two NaNs: guard surrounds every tensor and must survive, bit for bit; poison fills every output
// before an op, so that reading it, or leaving some of it unwritten, shows.
var (
	guard  = math.Float32frombits(0x7fc0dead)
	poison = math.Float32frombits(0x7fc0beef)
)

// slot is one tensor of a test case. A nil Data is an output to be poisoned first.
type slot struct {
	compute.Matrix
	vector bool // always F32
}

type weightSpec struct {
	compute.Matrix
	as compute.DType
}

// testCase is one call of one op. Slot 0 is what it writes; the others must not change.
type testCase struct {
	name    string
	slots   []slot
	weights []weightSpec
	call    func(o compute.Ops, t []compute.Tensor, w []compute.Weight)
	tol     float64
	scale   func(r, c int) float64 // nil means 1
}

// Run checks dev against the reference: every op on odd and on usual sizes, tensors packed and strided, guard bands around
// each, outputs poisoned; then that each kind of wrong shape is refused by an error naming the op and the shapes.
func Run(t *testing.T, dev compute.Device, tol Tolerances) {
	t.Helper()
	type group struct {
		name  string
		cases []testCase
	}
	groups := []group{
		{"Linear", linearCases(tol)},
		{"Attention", attentionCases(tol)},
		{"Norm", normCases(tol)},
		{"Elementwise", elementwiseCases(tol)},
	}
	if shares(t, dev) {
		groups = append(groups, group{"Shares", shareCases(tol)})
	}
	ref := Open()
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for i, c := range g.cases {
				if testing.Short() && g.name == "Linear" && i%3 != 0 { // some of each type all the same
					continue
				}
				t.Run(c.name, func(t *testing.T) {
					for _, as := range []compute.DType{compute.F32, compute.BF16} {
						if as == compute.BF16 {
							if tol.Rounded == 0 {
								break
							}
							c.tol += tol.Rounded
						}
						want := c.exec(t, ref, 0, as)
						for _, pad := range []int{0, 5} {
							c.compare(t, pad, c.exec(t, dev, pad, as), want)
						}
					}
				})
			}
		})
	}
	t.Run("Patches", func(t *testing.T) { runPatches(t, dev, tol) })
	t.Run("Errors", func(t *testing.T) { runErrors(t, dev) })
}

// exec runs the case with every tensor, of that type, inside a guard band, rows pad elements further apart than they need to be.
func (c testCase) exec(t *testing.T, dev compute.Device, pad int, as compute.DType) compute.Matrix {
	t.Helper()
	var bytes int64
	for _, s := range c.slots {
		bytes += compute.AllocBytes(s.Rows+2, s.Cols+pad)
	}
	a, err := dev.NewArena(bytes)
	require.NoError(t, err)
	defer func() { require.NoError(t, a.Close()) }()

	var whole, inner []compute.Tensor
	var host, back []compute.Matrix
	for i, s := range c.slots {
		as := as
		if s.vector {
			as = compute.F32
		}
		w, err := a.AllocAs(s.Rows+2, s.Cols+pad, as)
		require.NoError(t, err)
		left := pad / 2 // so that rows start unaligned too
		h := compute.NewMatrix(s.Rows+2, s.Cols+pad)
		for r := range h.Rows {
			for col := range h.Cols {
				v := guard
				if r > 0 && r <= s.Rows && col >= left && col < left+s.Cols {
					v = poison
					if s.Data != nil {
						v = s.Row(r - 1)[col-left]
					}
				}
				if as == compute.BF16 {
					v = math.Float32frombits(math.Float32bits(v) &^ 0xffff)
				}
				h.Row(r)[col] = v
			}
		}
		whole = append(whole, w)
		inner = append(inner, w.Slice(1, s.Rows+1).Columns(left, left+s.Cols))
		host = append(host, h)
		back = append(back, compute.NewMatrix(h.Rows, h.Cols))
		require.Equal(t, s.Rows, inner[i].Rows)
	}
	var ws []compute.Weight
	for _, spec := range c.weights {
		w, err := dev.NewWeight(spec.Matrix, spec.as)
		require.NoError(t, err)
		ws = append(ws, w)
	}
	require.NoError(t, dev.Run(t.Context(), func(o compute.Ops) {
		for i := range whole {
			o.Upload(whole[i], host[i])
		}
		c.call(o, inner, ws)
		for i := range whole {
			o.Download(back[i], whole[i])
		}
	}))

	left := pad / 2
	out := compute.NewMatrix(c.slots[0].Rows, c.slots[0].Cols)
	for i, s := range c.slots {
		for r := range back[i].Rows {
			for col, v := range back[i].Row(r) {
				if i == 0 && r > 0 && r <= s.Rows && col >= left && col < left+s.Cols {
					out.Row(r - 1)[col-left] = v
					continue
				}
				was := host[i].Row(r)[col]
				same := math.Float32bits(v) == math.Float32bits(was)
				if as == compute.BF16 { // there is more than one way to shorten a NaN
					same = same || v != v && was != was
				}
				if !same {
					require.Failf(t, "written where it must not be", "tensor %d, row %d of %d, column %d of %d (pad %d): %g", i, r-1, s.Rows, col-left, s.Cols, pad, v)
				}
			}
		}
	}
	return out
}

func (c testCase) compare(t *testing.T, pad int, got, want compute.Matrix) {
	t.Helper()
	worst, where := 0.0, ""
	for r := range want.Rows {
		for col, w := range want.Row(r) {
			g := got.Row(r)[col]
			diff := math.Abs(float64(g) - float64(w))
			if diff <= c.tol*math.Abs(float64(w)) {
				continue // good in any case; the scale, which costs as much as the reference, is not needed
			}
			scale := 1.0
			if c.scale != nil {
				scale = c.scale(r, col)
			}
			rel := diff / (scale + 1e-12) // the floor keeps sums of nothing comparable
			if math.IsNaN(rel) {
				rel = math.Inf(1)
			}
			if rel > worst {
				worst, where = rel, fmt.Sprintf("row %d, column %d: got %g, want %g", r, col, g, w)
			}
		}
	}
	assert.LessOrEqual(t, worst, c.tol, "pad %d: %s", pad, where)
}

// random returns a matrix of normal values, the same for the same arguments.
func random(seed uint64, rows, cols int) compute.Matrix {
	rng := rand.New(rand.NewPCG(seed, uint64(rows)<<32|uint64(cols)))
	m := compute.NewMatrix(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64())
	}
	return m
}

func in(m compute.Matrix) slot { return slot{Matrix: m} }

func vector(m compute.Matrix) slot { return slot{Matrix: m, vector: true} }

func out(rows, cols int) slot { return slot{Matrix: compute.Matrix{Rows: rows, Cols: cols}} }

// abs is the sum of sizes that an elementwise result was made of.
func abs(vs ...float32) float64 {
	sum := 0.0
	for _, v := range vs {
		sum += math.Abs(float64(v))
	}
	return sum
}
