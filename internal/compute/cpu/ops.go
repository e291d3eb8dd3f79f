package cpu

// #include "device.h"
import "C"

import (
	"fmt"
	"math"
	"unsafe"

	"afterimage/internal/compute"
)

// ops runs each operation at once, in the caller's goroutine, so nothing passed to it is needed after the method returns.
type ops struct {
	dev *device
	c   *C.af_device
	err error // the first; operations after it are skipped
}

// check reports whether the operation should go on.
func (o *ops) check(err error) bool {
	if o.err == nil {
		o.err = err
	}
	return o.err == nil
}

// at resolves a tensor to memory; none becomes NULL. What is not this device's, or not within an open arena, is an error.
func (o *ops) at(op string, t compute.Tensor) C.af_view {
	if o.err != nil || t.None() {
		return C.af_view{}
	}
	b, ok := t.Ptr.(*buffer)
	if !ok || b.dev != o.dev {
		o.err = fmt.Errorf("cpu: %s: tensor %s belongs to another device", op, t.Shape())
		return C.af_view{}
	}
	if t.Type != compute.F32 {
		o.err = fmt.Errorf("cpu: %s: tensor %s is held as %v, not f32", op, t.Shape(), t.Type)
		return C.af_view{}
	}
	v := C.af_view{rows: C.int(t.Rows), cols: C.int(t.Cols), stride: C.ptrdiff_t(t.Stride)}
	if t.Rows == 0 || t.Cols == 0 {
		v.rows = 0 // nothing to touch
		return v
	}
	if b.p == nil || t.Off+(t.Rows-1)*t.Stride+t.Cols > b.floats || t.Rows > math.MaxInt32 || t.Cols > math.MaxInt32 {
		o.err = fmt.Errorf("cpu: %s: tensor %s is not within an open arena", op, t.Shape())
		return C.af_view{}
	}
	v.p = (*C.float)(unsafe.Add(b.p, t.Off*4))
	return v
}

func (o *ops) weight(op string, w compute.Weight) *C.af_weight {
	p, ok := w.(*weight)
	if !ok || p.dev != o.dev {
		o.check(fmt.Errorf("cpu: %s: weight [%d %d] belongs to another device", op, w.Out(), w.In()))
		return nil
	}
	return p.c
}

// done takes a C function's result.
func (o *ops) done(op string, rc C.int) {
	if rc != C.AF_OK {
		o.check(fmt.Errorf("cpu: %s: no memory for scratch", op))
	}
}

func (o *ops) Upload(dst compute.Tensor, src compute.Matrix) {
	if !o.check(compute.CheckHost("Upload", dst, src)) {
		return
	}
	if d := o.at("Upload", dst); o.err == nil && d.rows > 0 {
		C.af_copy(d.p, d.stride, (*C.float)(&src.Data[0]), C.ptrdiff_t(src.Cols), d.rows, d.cols)
	}
}

func (o *ops) Download(dst compute.Matrix, src compute.Tensor) {
	if !o.check(compute.CheckHost("Download", src, dst)) {
		return
	}
	if s := o.at("Download", src); o.err == nil && s.rows > 0 {
		C.af_copy((*C.float)(&dst.Data[0]), C.ptrdiff_t(dst.Cols), s.p, s.stride, s.rows, s.cols)
	}
}

func (o *ops) Copy(dst, src compute.Tensor) {
	if !o.check(compute.CheckCopy(dst, src)) {
		return
	}
	if d, s := o.at("Copy", dst), o.at("Copy", src); o.err == nil {
		C.af_copy(d.p, d.stride, s.p, s.stride, d.rows, d.cols)
	}
}

func (o *ops) Embed(dst compute.Tensor, table compute.Weight, ids []int32) {
	if !o.check(compute.CheckEmbed(dst, table, ids)) {
		return
	}
	if d, w := o.at("Embed", dst), o.weight("Embed", table); o.err == nil && d.rows > 0 {
		C.af_embed(o.c, d, w, (*C.int32_t)(&ids[0]))
	}
}

func (o *ops) Linear(dst, x compute.Tensor, w compute.Weight, args compute.LinearArgs) {
	const op = "Linear"
	if !o.check(compute.CheckLinear(dst, x, w, args)) {
		return
	}
	d, in, bias, gain, res, p := o.at(op, dst), o.at(op, x), o.at(op, args.Bias), o.at(op, args.Scale), o.at(op, args.Residual), o.weight(op, w)
	if o.err == nil {
		o.done(op, C.af_linear(o.c, d, in, p, bias.p, C.int(args.Act), gain.p, res))
	}
}

func (o *ops) RMSNorm(dst, x, w compute.Tensor, eps float32) {
	const op = "RMSNorm"
	if !o.check(compute.CheckNorm(op, dst, x, w, compute.Tensor{}, eps)) {
		return
	}
	if d, in, g := o.at(op, dst), o.at(op, x), o.at(op, w); o.err == nil {
		C.af_rmsnorm(o.c, d, in, g.p, C.float(eps))
	}
}

func (o *ops) LayerNorm(dst, x, w, b compute.Tensor, eps float32) {
	const op = "LayerNorm"
	if !o.check(compute.CheckNorm(op, dst, x, w, b, eps)) {
		return
	}
	if d, in, g, bias := o.at(op, dst), o.at(op, x), o.at(op, w), o.at(op, b); o.err == nil {
		C.af_layernorm(o.c, d, in, g.p, bias.p, C.float(eps))
	}
}

func (o *ops) RoPE(x compute.Tensor, headDim int, pos []int32, invFreq []float32) {
	if !o.check(compute.CheckRoPE(x, headDim, pos, invFreq)) {
		return
	}
	if v := o.at("RoPE", x); o.err == nil && v.rows > 0 {
		o.done("RoPE", C.af_rope(o.c, v, C.int(headDim), (*C.int32_t)(&pos[0]), (*C.float)(&invFreq[0])))
	}
}

func (o *ops) Rotate(x, table compute.Tensor, headDim int) {
	if !o.check(compute.CheckRotate(x, table, headDim)) {
		return
	}
	if v, t := o.at("Rotate", x), o.at("Rotate", table); o.err == nil && v.rows > 0 {
		C.af_rotate(o.c, v, t, C.int(headDim))
	}
}

func (o *ops) Attention(dst, q, k, v compute.Tensor, a compute.AttentionArgs) {
	const op = "Attention"
	if !o.check(compute.CheckAttention(dst, q, k, v, a)) {
		return
	}
	args := C.af_attention_args{
		heads: C.int(a.Heads), kv_heads: C.int(a.KVHeads), head_dim: C.int(a.HeadDim),
		past: C.int(a.Past), segment: C.int(a.Segment), scale: C.float(a.Scale),
	}
	if a.Causal {
		args.causal = 1
	}
	if a.Rounded {
		args.rounded = 1
	}
	var pages *C.int32_t
	if len(a.Pages) > 0 {
		pages = (*C.int32_t)(&a.Pages[0])
	}
	if d, qv, kv, vv := o.at(op, dst), o.at(op, q), o.at(op, k), o.at(op, v); o.err == nil {
		o.done(op, C.af_attention(o.c, d, qv, kv, vv, args, pages))
	}
}

// Shares implements compute.Sharer.
func (o *ops) Shares(dst, q, k compute.Tensor, a compute.ShareArgs) {
	const op = "Shares"
	if !o.check(compute.CheckShares(dst, q, k, a)) {
		return
	}
	var pages *C.int32_t
	if len(a.Pages) > 0 {
		pages = (*C.int32_t)(&a.Pages[0])
	}
	if d, qv, kv := o.at(op, dst), o.at(op, q), o.at(op, k); o.err == nil {
		o.done(op, C.af_shares(o.c, d.p, qv.p, kv, C.int(a.Heads), C.int(a.KVHeads), C.int(a.HeadDim), C.int(a.Past), C.float(a.Scale),
			pages, (*C.int32_t)(&a.Bounds[0]), C.int(len(a.Bounds)-1)))
	}
}

func (o *ops) SwiGLU(dst, gateUp compute.Tensor) {
	if !o.check(compute.CheckSwiGLU(dst, gateUp)) {
		return
	}
	if d, g := o.at("SwiGLU", dst), o.at("SwiGLU", gateUp); o.err == nil {
		C.af_swiglu(o.c, d, g)
	}
}

func (o *ops) Add(dst, x compute.Tensor) {
	if !o.check(compute.CheckAdd(dst, x)) {
		return
	}
	if d, s := o.at("Add", dst), o.at("Add", x); o.err == nil && d.rows > 0 {
		C.af_add(o.c, d, s)
	}
}

func (o *ops) AvgPool(dst, x compute.Tensor, gridH, gridW, kh, kw int) {
	const op = "AvgPool"
	if !o.check(compute.CheckAvgPool(dst, x, gridH, gridW, kh, kw)) {
		return
	}
	if d, s := o.at(op, dst), o.at(op, x); o.err == nil {
		C.af_avgpool(o.c, d, s, C.int(gridH), C.int(gridW), C.int(kh), C.int(kw))
	}
}
