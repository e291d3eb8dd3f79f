//go:build cuda

package cuda

import "afterimage/internal/compute"

// ops are the kernels within one Run, which is on the device's thread. Calls put work in the stream and return; host memory that
// they are given is read, or written, before they return.
type ops struct {
	d   *device
	s   *stream
	err error // the first of a check; the stream keeps its own. Operations after either are skipped.
}

func (o *ops) fail(err error) {
	if o.err == nil {
		o.err = err
	}
}

// ok reports whether the operation should go on.
func (o *ops) ok(err error) bool {
	if o.err == nil {
		o.err = err
	}
	if o.err == nil {
		o.err = o.s.err
	}
	return o.err == nil
}

// run does the work of an operation whose operands were found, unless dst is empty.
func (o *ops) run(dst view, fn func(s *stream)) {
	if o.err == nil && dst.rows > 0 && dst.cols > 0 {
		fn(o.s)
	}
}

func (o *ops) Upload(dst compute.Tensor, src compute.Matrix) {
	if !o.ok(compute.CheckHost("Upload", dst, src)) {
		return
	}
	d := o.at("Upload", dst)
	o.run(d, func(s *stream) { s.uploadRows(d, src) })
}

func (o *ops) Download(dst compute.Matrix, src compute.Tensor) {
	if !o.ok(compute.CheckHost("Download", src, dst)) {
		return
	}
	v := o.at("Download", src)
	o.run(v, func(s *stream) { s.downloadRows(dst, v) })
}

func (o *ops) Copy(dst, src compute.Tensor) {
	if !o.ok(compute.CheckCopy(dst, src)) {
		return
	}
	d, v := o.at("Copy", dst), o.at("Copy", src)
	o.run(d, func(s *stream) { s.convert(d, v) })
}

func (o *ops) Embed(dst compute.Tensor, table compute.Weight, ids []int32) {
	if !o.ok(compute.CheckEmbed(dst, table, ids)) {
		return
	}
	d, w := o.at("Embed", dst), o.weight("Embed", table)
	o.run(d, func(s *stream) { s.lookup(d, w, ids) })
}

func (o *ops) Linear(dst, x compute.Tensor, w compute.Weight, args compute.LinearArgs) {
	const op = "Linear"
	if !o.ok(compute.CheckLinear(dst, x, w, args)) {
		return
	}
	a := linearArgs{
		dst: o.at(op, dst), x: o.at(op, x), residual: o.at(op, args.Residual), w: o.weight(op, w),
		bias: o.at(op, args.Bias).p, scale: o.at(op, args.Scale).p, act: uint32(args.Act),
	}
	o.run(a.dst, func(s *stream) { s.linear(a) })
}

func (o *ops) RMSNorm(dst, x, w compute.Tensor, eps float32) {
	const op = "RMSNorm"
	if !o.ok(compute.CheckNorm(op, dst, x, w, compute.Tensor{}, eps)) {
		return
	}
	d, v, g := o.at(op, dst), o.at(op, x), o.at(op, w)
	o.run(d, func(s *stream) { s.norm(d, v, g.p, 0, eps) })
}

func (o *ops) LayerNorm(dst, x, w, b compute.Tensor, eps float32) {
	const op = "LayerNorm"
	if !o.ok(compute.CheckNorm(op, dst, x, w, b, eps)) {
		return
	}
	d, v, g, bias := o.at(op, dst), o.at(op, x), o.at(op, w), o.at(op, b)
	o.run(d, func(s *stream) { s.norm(d, v, g.p, bias.p, eps) })
}

func (o *ops) RoPE(x compute.Tensor, headDim int, pos []int32, invFreq []float32) {
	if !o.ok(compute.CheckRoPE(x, headDim, pos, invFreq)) {
		return
	}
	v := o.at("RoPE", x)
	o.run(v, func(s *stream) {
		a := rotateArgs{x: v, head: uint32(headDim), pos: s.scratch(scratchTable, int64(4*(len(pos)+len(invFreq))))}
		a.freq = a.pos + devptr(4*len(pos))
		s.upload(a.pos, bytesOf(pos))
		s.upload(a.freq, bytesOf(invFreq))
		s.rotate(a)
	})
}

func (o *ops) Rotate(x, table compute.Tensor, headDim int) {
	if !o.ok(compute.CheckRotate(x, table, headDim)) {
		return
	}
	v, t := o.at("Rotate", x), o.at("Rotate", table)
	o.run(v, func(s *stream) {
		s.rotate(rotateArgs{x: v, head: uint32(headDim), table: t.p, tableStride: t.stride, n: t.rows})
	})
}

func (o *ops) Attention(dst, q, k, v compute.Tensor, args compute.AttentionArgs) {
	const op = "Attention"
	if !o.ok(compute.CheckAttention(dst, q, k, v, args)) {
		return
	}
	d, qv, kv, vv := o.at(op, dst), o.at(op, q), o.at(op, k), o.at(op, v)
	o.run(d, func(s *stream) { s.attention(d, qv, kv, vv, args) })
}

func (o *ops) SwiGLU(dst, gateUp compute.Tensor) {
	if !o.ok(compute.CheckSwiGLU(dst, gateUp)) {
		return
	}
	d, g := o.at("SwiGLU", dst), o.at("SwiGLU", gateUp)
	o.run(d, func(s *stream) { s.swiglu(d, g) })
}

func (o *ops) Add(dst, x compute.Tensor) {
	if !o.ok(compute.CheckAdd(dst, x)) {
		return
	}
	d, v := o.at("Add", dst), o.at("Add", x)
	o.run(d, func(s *stream) { s.add(d, v) })
}

func (o *ops) AvgPool(dst, x compute.Tensor, gridH, gridW, kh, kw int) {
	const op = "AvgPool"
	if !o.ok(compute.CheckAvgPool(dst, x, gridH, gridW, kh, kw)) {
		return
	}
	d, v := o.at(op, dst), o.at(op, x)
	o.run(d, func(s *stream) { s.pool(d, v, gridH, gridW, kh, kw) })
}

func (o *ops) Patches(dst compute.Tensor, pics []compute.Picture, args compute.PatchArgs) {
	if !o.ok(compute.CheckPatches(dst, pics, args)) {
		return
	}
	d := o.at("Patches", dst)
	o.run(d, func(s *stream) { s.patches(d, pics, args) })
}
