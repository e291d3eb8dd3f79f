package llm

import (
	"fmt"
	"math"

	"afterimage/internal/compute"
)

// recallRef is what a Recall should do, written down from the two papers and the tensors' description in float64, one loop a line.
type recallRef struct {
	c RecallConfig
	w map[string][]float64 // without "memory."
}

type rows [][]float64

func (r *recallRef) vec(name string) []float64 {
	v, ok := r.w[name]
	if !ok {
		panic("no " + name)
	}
	return v
}

func (r *recallRef) mat(name string) rows { return split(r.vec(name), r.c.Hidden) }

func split(v []float64, cols int) (m rows) {
	for ; len(v) > 0; v = v[cols:] {
		m = append(m, v[:cols])
	}
	return m
}

func wide(m compute.Matrix) rows {
	v := make([]float64, len(m.Data))
	for i, x := range m.Data {
		v[i] = float64(x)
	}
	return split(v, m.Cols)
}

func wides(ms []compute.Matrix) (out []rows) {
	for _, m := range ms {
		out = append(out, wide(m))
	}
	return out
}

// times multiplies by a stored [out, in] matrix.
func (x rows) times(w []float64) rows {
	out := make(rows, len(x))
	for i, a := range x {
		for _, b := range split(w, len(a)) {
			s := 0.0
			for j := range a {
				s += a[j] * b[j]
			}
			out[i] = append(out[i], s)
		}
	}
	return out
}

func (x rows) plus(y rows) rows {
	out := make(rows, len(x))
	for i := range x {
		for j := range x[i] {
			out[i] = append(out[i], x[i][j]+y[i][j])
		}
	}
	return out
}

func (x rows) normed(w []float64, eps float32) rows {
	out := make(rows, len(x))
	for i, a := range x {
		s := 0.0
		for _, v := range a {
			s += v * v
		}
		by := 1 / math.Sqrt(s/float64(len(a))+float64(eps))
		for j, v := range a {
			out[i] = append(out[i], v*by*w[j])
		}
	}
	return out
}

// attend is attention of every head; query i sees the keys up to i when causal.
func attend(q, k, v rows, heads, kvHeads, dim int, causal bool) rows {
	out := make(rows, len(q))
	for i := range q {
		out[i] = make([]float64, heads*dim)
		for h := range heads {
			g := h / (heads / kvHeads)
			seen := len(k)
			if causal {
				seen = i + 1
			}
			p, sum := make([]float64, seen), 0.0
			for j := range p {
				s := 0.0
				for d := range dim {
					s += q[i][h*dim+d] * k[j][g*dim+d]
				}
				p[j] = math.Exp(s / math.Sqrt(float64(dim)))
				sum += p[j]
			}
			for j := range p {
				for d := range dim {
					out[i][h*dim+d] += p[j] / sum * v[j][g*dim+d]
				}
			}
		}
	}
	return out
}

// rotate turns row i by position i in pairs (j, j+dim/2).
func rotate(x rows, dim int, freq []float32) rows {
	out := make(rows, len(x))
	for i, a := range x {
		out[i] = make([]float64, len(a))
		for h := 0; h < len(a); h += dim {
			for j := range dim / 2 {
				sin, cos := math.Sincos(float64(i) * float64(freq[j]))
				out[i][h+j] = a[h+j]*cos - a[h+j+dim/2]*sin
				out[i][h+j+dim/2] = a[h+j+dim/2]*cos + a[h+j]*sin
			}
		}
	}
	return out
}

func swiglu(x rows, gate, up, down []float64) rows {
	g, u := x.times(gate), x.times(up)
	for i := range g {
		for j, v := range g[i] {
			g[i][j] = v / (1 + math.Exp(-v)) * u[i][j]
		}
	}
	return g.times(down)
}

func unit64(v []float64) []float64 {
	s := 0.0
	for _, x := range v {
		s += x * x
	}
	for i := range v {
		v[i] /= math.Sqrt(s)
	}
	return v
}

func meanOf(frames []rows) rows {
	m := make(rows, len(frames[0]))
	for i := range m {
		m[i] = make([]float64, len(frames[0][i]))
		for _, f := range frames {
			for j, v := range f[i] {
				m[i][j] += v / float64(len(frames))
			}
		}
	}
	return m
}

func (r *recallRef) indicate(x rows) []float64 {
	h := x.normed(r.vec("indicator.norm.weight"), r.c.Eps).times(r.vec("indicator.up.weight"))
	most := make([]float64, r.c.IndicatorHidden)
	for j := range most {
		most[j] = math.Inf(-1)
		for i := range h {
			v := h[i][j] + r.vec("indicator.up.bias")[j]
			most[j] = max(most[j], 0.5*v*(1+math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v))))
		}
	}
	return unit64(rows{most}.times(r.vec("indicator.down.weight"))[0])
}

// tower runs the stream's layers and its last norm.
func (r *recallRef) tower(x rows) rows {
	for i := range r.c.Layers {
		at := fmt.Sprintf("stream.layers.%d.", i)
		h := x.normed(r.vec(at+"input_layernorm.weight"), r.c.Eps)
		q := rotate(h.times(r.vec(at+"self_attn.q_proj.weight")), r.c.HeadDim, r.c.InvFreq)
		k := rotate(h.times(r.vec(at+"self_attn.k_proj.weight")), r.c.HeadDim, r.c.InvFreq)
		v := h.times(r.vec(at + "self_attn.v_proj.weight"))
		x = x.plus(attend(q, k, v, r.c.Heads, r.c.KVHeads, r.c.HeadDim, true).times(r.vec(at + "self_attn.o_proj.weight")))
		h = x.normed(r.vec(at+"post_attention_layernorm.weight"), r.c.Eps)
		x = x.plus(swiglu(h, r.vec(at+"mlp.gate_proj.weight"), r.vec(at+"mlp.up_proj.weight"), r.vec(at+"mlp.down_proj.weight")))
	}
	return x.normed(r.vec("stream.norm.weight"), r.c.Eps)
}

func (r *recallRef) query(words rows) []float64 {
	h := r.tower(append(words[:len(words):len(words)], r.mat("stream.mark")...))
	return unit64(h[len(h)-1:].times(r.vec("stream.proj.weight"))[0])
}

// clip takes the rows of both beginnings (token and time), since nil for the first clip.
func (r *recallRef) clip(prev, since, start rows, frames []rows) (summary rows, point []float64) {
	x := append(rows{}, since...)
	if since != nil {
		x = append(x, prev...)
	}
	x = append(x, start...)
	for _, f := range frames {
		x = append(x, f...)
	}
	mean := meanOf(frames)
	x = append(x, mean.plus(r.mat("stream.slots"))...)
	h := r.tower(append(x, r.mat("stream.mark")...))
	n := len(h)
	return mean.plus(h[n-1-len(mean) : n-1].times(r.vec("stream.out.weight"))), unit64(h[n-1:].times(r.vec("stream.proj.weight"))[0])
}

func (r *recallRef) segment(past, frames []rows) (memory rows, shown []rows) {
	const at = "bridge."
	d, eps := r.c.Hidden/r.c.BridgeHeads, r.c.Eps
	mean := meanOf(frames)
	x := r.mat(at + "memory").plus(mean)
	if len(past) > 0 {
		var all rows
		for _, m := range past[max(len(past)-32, 0):] {
			all = append(all, m...)
		}
		norm := r.vec(at + "recall.norm.weight")
		q := past[len(past)-1].normed(norm, eps).times(r.vec(at + "recall.q_proj.weight"))
		all = all.normed(norm, eps)
		found := attend(q, all.times(r.vec(at+"recall.k_proj.weight")), all.times(r.vec(at+"recall.v_proj.weight")), r.c.BridgeHeads, r.c.BridgeHeads, d, false)
		x = x.plus(found.times(r.vec(at + "recall.o_proj.weight")))
	}
	for j, f := range frames {
		for _, row := range f {
			x = append(x, rows{row}.plus(r.mat(at + "frame_pos")[j : j+1])[0])
		}
	}
	h := x.normed(r.vec(at+"norm1.weight"), eps)
	y := attend(h.times(r.vec(at+"q_proj.weight")), h.times(r.vec(at+"k_proj.weight")), h.times(r.vec(at+"v_proj.weight")), r.c.BridgeHeads, r.c.BridgeHeads, d, false)
	x = x.plus(y.times(r.vec(at + "o_proj.weight")))
	x = x.plus(swiglu(x.normed(r.vec(at+"norm2.weight"), eps), r.vec(at+"gate_proj.weight"), r.vec(at+"up_proj.weight"), r.vec(at+"down_proj.weight")))
	y = x.times(r.vec(at + "out.weight"))
	n := r.c.SummaryRows
	for j, f := range frames {
		shown = append(shown, f.plus(y[(1+j)*n:(2+j)*n]))
	}
	return mean.plus(y[:n]), shown
}
