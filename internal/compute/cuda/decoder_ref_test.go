//go:build cuda

package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"

	"afterimage/internal/compute"
)

// refDecoder is the decoder in plain Go, float64 throughout: what Forward is compared with.
type refDecoder struct {
	c     compute.DecoderConfig
	parts map[string]compute.Matrix
}

func partKey(p compute.DecoderPart, layer int) string { return fmt.Sprint(p, "/", layer) }

func (r *refDecoder) Part(p compute.DecoderPart, layer int) (compute.Matrix, error) {
	m, ok := r.parts[partKey(p, layer)]
	if !ok {
		return m, fmt.Errorf("no part %d of layer %d", p, layer)
	}
	return m, nil
}

func bf16Round(v float32) float32 {
	b := math.Float32bits(v)
	b += 0x7fff + b>>16&1
	return math.Float32frombits(b &^ 0xffff)
}

// newRefDecoder draws weights that bfloat16 holds exactly, so that only the arithmetic differs.
func newRefDecoder(c compute.DecoderConfig, seed uint64) *refDecoder {
	rng := rand.New(rand.NewPCG(seed, 7))
	r := &refDecoder{c: c, parts: map[string]compute.Matrix{}}
	matrix := func(p compute.DecoderPart, layer, rows, cols int, mean, scale float64) {
		m := compute.NewMatrix(rows, cols)
		for i := range m.Data {
			m.Data[i] = bf16Round(float32(mean + scale*rng.NormFloat64()))
		}
		r.parts[partKey(p, layer)] = m
	}
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	in := func(n int) float64 { return 1 / math.Sqrt(float64(n)) }
	matrix(compute.PartEmbed, 0, c.Vocab, c.Hidden, 0, 1)
	for l := range c.Layers {
		matrix(compute.PartNorm1, l, 1, c.Hidden, 1, 0.2)
		matrix(compute.PartQKV, l, q+2*kv, c.Hidden, 0, 1.5*in(c.Hidden))
		if c.QKVBias {
			matrix(compute.PartQKVBias, l, 1, q+2*kv, 0, 0.5)
		}
		matrix(compute.PartOut, l, c.Hidden, q, 0, in(q))
		matrix(compute.PartNorm2, l, 1, c.Hidden, 1, 0.2)
		matrix(compute.PartGateUp, l, 2*c.MLP, c.Hidden, 0, 1.5*in(c.Hidden))
		matrix(compute.PartDown, l, c.Hidden, c.MLP, 0, in(c.MLP))
	}
	matrix(compute.PartNorm, 0, 1, c.Hidden, 1, 0.2)
	if !c.Tied {
		matrix(compute.PartHead, 0, c.Vocab, c.Hidden, 0, 2*in(c.Hidden))
	}
	return r
}

func (r *refDecoder) linear(x [][]float64, p compute.DecoderPart, layer int) [][]float64 {
	w := r.parts[partKey(p, layer)]
	out := make([][]float64, len(x))
	for i, row := range x {
		out[i] = make([]float64, w.Rows)
		for o := range w.Rows {
			var sum float64
			for k, v := range w.Row(o) {
				sum += float64(v) * row[k]
			}
			out[i][o] = sum
		}
	}
	return out
}

func (r *refDecoder) normed(x [][]float64, p compute.DecoderPart, layer int) [][]float64 {
	w := r.parts[partKey(p, layer)].Data
	out := make([][]float64, len(x))
	for i, row := range x {
		var sum float64
		for _, v := range row {
			sum += v * v
		}
		scale := 1 / math.Sqrt(sum/float64(len(row))+float64(r.c.Eps))
		out[i] = make([]float64, len(row))
		for k, v := range row {
			out[i][k] = v * scale * float64(w[k])
		}
	}
	return out
}

// logits runs rows from nothing: row i sees itself and its ancestors (parents nil: all rows before it), at the position of its depth.
func (r *refDecoder) logits(rows [][]float64, parents []int) [][]float64 {
	return r.logitsAt(rows, parents, nil)
}

// angle is what frequency j turns a row by; axis k of a position has the next sections[k] frequencies.
func (r *refDecoder) angle(at [3]int32, j int) float64 {
	axis, end := 0, r.c.Sections[0]
	for r.c.Axes() == 3 && j >= end {
		axis++
		end += r.c.Sections[axis]
	}
	return float64(at[axis]) * float64(r.c.InvFreq[j])
}

// logitsAt is logits of rows at positions.
func (r *refDecoder) logitsAt(rows [][]float64, parents []int, positions [][3]int32) [][]float64 {
	c := r.c
	sees := make([][]int, len(rows)) // ancestors, oldest first, the row itself last
	for i := range rows {
		p := i - 1
		if parents != nil {
			p = parents[i]
		}
		if p >= 0 {
			sees[i] = append(sees[i], sees[p]...)
		}
		sees[i] = append(sees[i], i)
	}
	x := make([][]float64, len(rows))
	for i := range rows {
		x[i] = append([]float64(nil), rows[i]...)
	}
	q, kv, d := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim, c.HeadDim
	for l := range c.Layers {
		qkv := r.linear(r.normed(x, compute.PartNorm1, l), compute.PartQKV, l)
		for i, row := range qkv {
			if c.QKVBias {
				for k, b := range r.parts[partKey(compute.PartQKVBias, l)].Data {
					row[k] += float64(b)
				}
			}
			for h := range c.Heads + c.KVHeads {
				for j := range d / 2 {
					depth := int32(len(sees[i]) - 1)
					at := [3]int32{depth, depth, depth}
					if positions != nil {
						at = positions[i]
					}
					sin, cos := math.Sincos(r.angle(at, j))
					if c.Turn != 0 {
						sin, cos = sin*float64(c.Turn), cos*float64(c.Turn)
					}
					a, b := row[h*d+j], row[h*d+j+d/2]
					row[h*d+j], row[h*d+j+d/2] = a*cos-b*sin, b*cos+a*sin
				}
			}
		}
		att := make([][]float64, len(rows))
		for i := range rows {
			att[i] = make([]float64, q)
			for h := range c.Heads {
				g := h / (c.Heads / c.KVHeads)
				score := make([]float64, len(sees[i]))
				top := math.Inf(-1)
				for n, j := range sees[i] {
					for k := range d {
						score[n] += qkv[i][h*d+k] * qkv[j][q+g*d+k]
					}
					score[n] /= math.Sqrt(float64(d))
					top = max(top, score[n])
				}
				var sum float64
				for n := range score {
					score[n] = math.Exp(score[n] - top)
					sum += score[n]
				}
				for n, j := range sees[i] {
					for k := range d {
						att[i][h*d+k] += score[n] / sum * qkv[j][q+kv+g*d+k]
					}
				}
			}
		}
		for i, row := range r.linear(att, compute.PartOut, l) {
			for k, v := range row {
				x[i][k] += v
			}
		}
		up := r.linear(r.normed(x, compute.PartNorm2, l), compute.PartGateUp, l)
		mid := make([][]float64, len(rows))
		for i, row := range up {
			mid[i] = make([]float64, c.MLP)
			for k := range c.MLP {
				mid[i][k] = row[k] / (1 + math.Exp(-row[k])) * row[c.MLP+k]
			}
		}
		for i, row := range r.linear(mid, compute.PartDown, l) {
			for k, v := range row {
				x[i][k] += v
			}
		}
	}
	head := compute.PartHead
	if c.Tied {
		head = compute.PartEmbed
	}
	return r.linear(r.normed(x, compute.PartNorm, 0), head, 0)
}

// embed returns the rows of a table that ids name.
func (r *refDecoder) embed(ids []int32) [][]float64 {
	table := r.parts[partKey(compute.PartEmbed, 0)]
	out := make([][]float64, len(ids))
	for i, id := range ids {
		for _, v := range table.Row(int(id)) {
			out[i] = append(out[i], float64(v))
		}
	}
	return out
}
