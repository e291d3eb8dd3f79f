package computetest

import (
	"fmt"
	"math"

	"afterimage/internal/compute"
)

type ops struct {
	dev *device
	err error
}

// view is a Tensor resolved to memory.
type view struct {
	rows, cols, stride int
	data               []float32
	round              bool // to bfloat16 on writing
}

func (v view) row(r int) []float32 { return v.data[r*v.stride : r*v.stride+v.cols] }

func (v view) put(r, c int, x float64) {
	f := float32(x)
	if v.round {
		f = bf16(f)
	}
	v.data[r*v.stride+c] = f
}

func (v view) putRow(r int, x []float32) {
	copy(v.row(r), x)
	if v.round {
		for i, f := range x {
			v.data[r*v.stride+i] = bf16(f)
		}
	}
}

// start reports whether the op should run: nothing failed before, and its own check passed.
func (o *ops) start(err error) bool {
	if o.err == nil {
		o.err = err
	}
	return o.err == nil
}

func (o *ops) at(op string, t compute.Tensor) view {
	if o.err != nil || t.None() {
		return view{}
	}
	b, ok := t.Ptr.(*buffer)
	if !ok || b.dev != o.dev {
		o.err = fmt.Errorf("compute: %s: tensor %s belongs to another device", op, t.Shape())
		return view{}
	}
	if t.Rows == 0 || t.Cols == 0 {
		return view{rows: t.Rows, cols: t.Cols}
	}
	end := t.Off + (t.Rows-1)*t.Stride + t.Cols
	if end > len(b.data) {
		o.err = fmt.Errorf("compute: %s: tensor %s is not in an open arena", op, t.Shape())
		return view{}
	}
	return view{rows: t.Rows, cols: t.Cols, stride: t.Stride, data: b.data[t.Off:end], round: t.Type == compute.BF16}
}

func (o *ops) weight(op string, w compute.Weight) *weight {
	p, ok := w.(*weight)
	if o.err == nil && (!ok || p.dev != o.dev) {
		o.err = fmt.Errorf("compute: %s: weight [%d %d] belongs to another device", op, w.Out(), w.In())
	}
	return p
}

func (o *ops) Upload(dst compute.Tensor, src compute.Matrix) {
	if !o.start(compute.CheckHost("Upload", dst, src)) {
		return
	}
	d := o.at("Upload", dst)
	for r := 0; o.err == nil && r < d.rows; r++ {
		d.putRow(r, src.Row(r))
	}
}

func (o *ops) Download(dst compute.Matrix, src compute.Tensor) {
	if !o.start(compute.CheckHost("Download", src, dst)) {
		return
	}
	s := o.at("Download", src)
	for r := 0; o.err == nil && r < s.rows; r++ {
		copy(dst.Row(r), s.row(r))
	}
}

func (o *ops) Copy(dst, src compute.Tensor) {
	if !o.start(compute.CheckCopy(dst, src)) {
		return
	}
	d, s := o.at("Copy", dst), o.at("Copy", src)
	for r := 0; o.err == nil && r < d.rows; r++ {
		d.putRow(r, s.row(r))
	}
}

func (o *ops) Embed(dst compute.Tensor, table compute.Weight, ids []int32) {
	if !o.start(compute.CheckEmbed(dst, table, ids)) {
		return
	}
	d, w := o.at("Embed", dst), o.weight("Embed", table)
	for r := 0; o.err == nil && r < d.rows; r++ {
		d.putRow(r, w.data[int(ids[r])*w.in:][:w.in])
	}
}

func activate(a compute.Activation, v float64) float64 {
	switch a {
	case compute.GELU:
		return 0.5 * v * math.Erfc(-v/math.Sqrt2)
	case compute.GELUTanh:
		return 0.5 * v * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
	case compute.QuickGELU:
		return v / (1 + math.Exp(-1.702*v))
	}
	return v
}

func (o *ops) Linear(dst, x compute.Tensor, w compute.Weight, args compute.LinearArgs) {
	const op = "Linear"
	if !o.start(compute.CheckLinear(dst, x, w, args)) {
		return
	}
	d, in, bias, gain, res, p := o.at(op, dst), o.at(op, x), o.at(op, args.Bias), o.at(op, args.Scale), o.at(op, args.Residual), o.weight(op, w)
	for r := 0; o.err == nil && r < d.rows; r++ {
		xr := in.row(r)
		for n := range d.cols {
			sum := 0.0
			for k, wv := range p.data[n*p.in : (n+1)*p.in] {
				sum += float64(xr[k]) * float64(wv)
			}
			if !args.Bias.None() {
				sum += float64(bias.data[n])
			}
			sum = activate(args.Act, sum)
			if !args.Scale.None() {
				sum *= float64(gain.data[n])
			}
			if !args.Residual.None() {
				sum += float64(res.row(r)[n])
			}
			d.put(r, n, sum)
		}
	}
}

func (o *ops) RMSNorm(dst, x, w compute.Tensor, eps float32) {
	const op = "RMSNorm"
	if !o.start(compute.CheckNorm(op, dst, x, w, compute.Tensor{}, eps)) {
		return
	}
	d, in, g := o.at(op, dst), o.at(op, x), o.at(op, w)
	for r := 0; o.err == nil && r < d.rows; r++ {
		sum := 0.0
		for _, v := range in.row(r) {
			sum += float64(v) * float64(v)
		}
		inv := 1 / math.Sqrt(sum/float64(d.cols)+float64(eps))
		for i, v := range in.row(r) {
			d.put(r, i, float64(v)*inv*float64(g.data[i]))
		}
	}
}

func (o *ops) LayerNorm(dst, x, w, b compute.Tensor, eps float32) {
	const op = "LayerNorm"
	if !o.start(compute.CheckNorm(op, dst, x, w, b, eps)) {
		return
	}
	d, in, g, bias := o.at(op, dst), o.at(op, x), o.at(op, w), o.at(op, b)
	for r := 0; o.err == nil && r < d.rows; r++ {
		mean, variance := 0.0, 0.0
		for _, v := range in.row(r) {
			mean += float64(v) / float64(d.cols)
		}
		for _, v := range in.row(r) {
			variance += (float64(v) - mean) * (float64(v) - mean) / float64(d.cols)
		}
		inv := 1 / math.Sqrt(variance+float64(eps))
		for i, v := range in.row(r) {
			d.put(r, i, (float64(v)-mean)*inv*float64(g.data[i])+float64(bias.data[i]))
		}
	}
}

func (o *ops) RoPE(x compute.Tensor, headDim int, pos []int32, invFreq []float32) {
	if !o.start(compute.CheckRoPE(x, headDim, pos, invFreq)) {
		return
	}
	v := o.at("RoPE", x)
	half := headDim / 2
	for r := 0; o.err == nil && r < v.rows; r++ {
		for j, f := range invFreq {
			sin, cos := math.Sincos(float64(float32(pos[r]) * f))
			for h := j; h < v.cols; h += headDim {
				a, b := float64(v.row(r)[h]), float64(v.row(r)[h+half])
				v.put(r, h, a*cos-b*sin)
				v.put(r, h+half, b*cos+a*sin)
			}
		}
	}
}

func (o *ops) Rotate(x, table compute.Tensor, headDim int) {
	if !o.start(compute.CheckRotate(x, table, headDim)) {
		return
	}
	v, angles := o.at("Rotate", x), o.at("Rotate", table)
	half := headDim / 2
	for r := 0; o.err == nil && r < v.rows; r++ {
		angle := angles.row(r % angles.rows)
		for h := range v.cols {
			j := h % headDim
			if j >= half {
				continue
			}
			a, b, cos, sin := float64(v.row(r)[h]), float64(v.row(r)[h+half]), float64(angle[j]), float64(angle[half+j])
			v.put(r, h, a*cos-b*sin)
			v.put(r, h+half, b*cos+a*sin)
		}
	}
}

func (o *ops) Attention(dst, q, k, v compute.Tensor, a compute.AttentionArgs) {
	const op = "Attention"
	if !o.start(compute.CheckAttention(dst, q, k, v, a)) {
		return
	}
	d, qv, kv, vv := o.at(op, dst), o.at(op, q), o.at(op, k), o.at(op, v)
	if o.err != nil {
		return
	}
	scale := float64(a.Scale)
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(a.HeadDim))
	}
	at := func(j int) int { return j }
	if a.Pages != nil {
		at = func(j int) int { return int(a.Pages[j/compute.PageRows])*compute.PageRows + j%compute.PageRows }
	}
	scores := make([]float64, max(kv.rows, a.Past+d.rows))
	out := make([]float64, a.HeadDim)
	for i := range d.rows {
		from, to := 0, kv.rows
		if a.Causal {
			to = a.Past + i + 1
		}
		if a.Segment > 0 {
			from = i / a.Segment * a.Segment
			to = from + a.Segment
		}
		for h := range a.Heads {
			qh := qv.row(i)[h*a.HeadDim:][:a.HeadDim]
			col := h / (a.Heads / a.KVHeads) * a.HeadDim
			peak := math.Inf(-1)
			for j := from; j < to; j++ {
				s := 0.0
				for c, kc := range kv.row(at(j))[col:][:a.HeadDim] {
					s += float64(qh[c]) * float64(kc)
				}
				scores[j] = s * scale
				peak = max(peak, scores[j])
			}
			clear(out)
			sum := 0.0
			for j := from; j < to; j++ {
				p := math.Exp(scores[j] - peak)
				sum += p
				for c, vc := range vv.row(at(j))[col:][:a.HeadDim] {
					out[c] += p * float64(vc)
				}
			}
			for c, oc := range out {
				d.put(i, h*a.HeadDim+c, oc/sum)
			}
		}
	}
}

func (o *ops) SwiGLU(dst, gateUp compute.Tensor) {
	if !o.start(compute.CheckSwiGLU(dst, gateUp)) {
		return
	}
	d, g := o.at("SwiGLU", dst), o.at("SwiGLU", gateUp)
	for r := 0; o.err == nil && r < d.rows; r++ {
		for i := range d.cols {
			gate, up := float64(g.row(r)[i]), float64(g.row(r)[d.cols+i])
			d.put(r, i, gate/(1+math.Exp(-gate))*up)
		}
	}
}

func (o *ops) Add(dst, x compute.Tensor) {
	if !o.start(compute.CheckAdd(dst, x)) {
		return
	}
	d, s := o.at("Add", dst), o.at("Add", x)
	for r := 0; o.err == nil && r < d.rows; r++ {
		for i, v := range s.row(r % s.rows) {
			d.put(r, i, float64(d.row(r)[i]+v))
		}
	}
}

func (o *ops) AvgPool(dst, x compute.Tensor, gridH, gridW, kh, kw int) {
	if !o.start(compute.CheckAvgPool(dst, x, gridH, gridW, kh, kw)) {
		return
	}
	d, s := o.at("AvgPool", dst), o.at("AvgPool", x)
	outW, perGrid := gridW/kw, gridH/kh*(gridW/kw)
	for r := 0; o.err == nil && r < d.rows; r++ {
		grid, y, x := r/perGrid, r%perGrid/outW, r%outW
		for c := range d.cols {
			sum := 0.0
			for i := range kh * kw {
				sum += float64(s.row(grid*gridH*gridW + (y*kh+i/kw)*gridW + x*kw + i%kw)[c])
			}
			d.put(r, c, sum/float64(kh*kw))
		}
	}
}
