package compute

import "fmt"

// Every Device checks shapes with the functions below before it starts a kernel, so a mistake reads the same on all of them.
// They look at shapes only: that a Tensor's memory is the device's own, and long enough, is for the device to say.

// Align is the unit in bytes to which an Arena rounds each Alloc: enough for any vector load and for coalesced access.
const Align = 256

// AllocBytes is what Alloc(rows, cols) takes from an Arena. The sum of it over all tensors is the size to ask NewArena for.
func AllocBytes(rows, cols int) int64 { return AllocBytesAs(rows, cols, F32) }

// AllocBytesAs is the same for AllocAs.
func AllocBytesAs(rows, cols int, as DType) int64 {
	element := int64(4)
	if as == BF16 {
		element = 2
	}
	return (int64(rows)*int64(cols)*element + Align - 1) / Align * Align
}

// CheckAlloc is for AllocAs, on a device that has tensors of such a type.
func CheckAlloc(rows, cols int, as DType) error {
	switch {
	case rows < 0 || cols < 0:
		return shapeError("Alloc", "shape [%d %d]", rows, cols)
	case as != F32 && as != BF16:
		return shapeError("Alloc", "[%d %d]: no tensor is held as %v", rows, cols, as)
	}
	return nil
}

// Shape is [rows cols], for messages.
func (t Tensor) Shape() string { return fmt.Sprintf("[%d %d]", t.Rows, t.Cols) }

// Shape is [rows cols], for messages.
func (m Matrix) Shape() string { return fmt.Sprintf("[%d %d]", m.Rows, m.Cols) }

func shapeError(op, format string, args ...any) error {
	return fmt.Errorf("compute: %s: %s", op, fmt.Sprintf(format, args...))
}

// present refuses a missing or malformed operand.
func present(op, name string, t Tensor) error {
	switch {
	case t.None():
		return shapeError(op, "%s is none", name)
	case t.Rows < 0 || t.Cols < 0 || t.Off < 0 || t.Rows > 1 && t.Stride < t.Cols:
		return shapeError(op, "%s %s is malformed: stride %d, offset %d", name, t.Shape(), t.Stride, t.Off)
	case t.Type != F32 && t.Type != BF16:
		return shapeError(op, "%s %s is held as %v", name, t.Shape(), t.Type)
	}
	return nil
}

func same(op, nameA string, a Tensor, nameB string, b Tensor) error {
	if err := present(op, nameA, a); err != nil {
		return err
	}
	if err := present(op, nameB, b); err != nil {
		return err
	}
	if a.Rows != b.Rows || a.Cols != b.Cols {
		return shapeError(op, "%s %s and %s %s differ", nameA, a.Shape(), nameB, b.Shape())
	}
	return nil
}

func rowVector(op, name string, v Tensor, like string, t Tensor) error {
	if err := present(op, name, v); err != nil {
		return err
	}
	if v.Rows != 1 || v.Cols != t.Cols {
		return shapeError(op, "%s %s is not one row for %s %s", name, v.Shape(), like, t.Shape())
	}
	if v.Type != F32 {
		return shapeError(op, "%s %s is held as %v, not f32", name, v.Shape(), v.Type)
	}
	return nil
}

// CheckHost compares a tensor with the host matrix of an Upload or Download.
func CheckHost(op string, t Tensor, m Matrix) error {
	if err := present(op, "tensor", t); err != nil {
		return err
	}
	if t.Rows != m.Rows || t.Cols != m.Cols {
		return shapeError(op, "tensor %s and matrix %s differ", t.Shape(), m.Shape())
	}
	if len(m.Data) < m.Rows*m.Cols {
		return shapeError(op, "matrix %s has only %d values", m.Shape(), len(m.Data))
	}
	return nil
}

// CheckWeight is for NewWeight.
func CheckWeight(w Matrix, as DType) error {
	switch {
	case w.Rows <= 0 || w.Cols <= 0:
		return shapeError("NewWeight", "matrix %s is empty", w.Shape())
	case len(w.Data) < w.Rows*w.Cols:
		return shapeError("NewWeight", "matrix %s has only %d values", w.Shape(), len(w.Data))
	case as > I4:
		return shapeError("NewWeight", "unknown dtype %d", as)
	}
	return nil
}

// CheckCopy is for Copy.
func CheckCopy(dst, src Tensor) error { return same("Copy", "dst", dst, "src", src) }

// CheckEmbed is for Embed; an id outside the table is an error.
func CheckEmbed(dst Tensor, table Weight, ids []int32) error {
	if err := present("Embed", "dst", dst); err != nil {
		return err
	}
	if table == nil {
		return shapeError("Embed", "table is none")
	}
	if dst.Rows != len(ids) || dst.Cols != table.In() {
		return shapeError("Embed", "dst %s does not fit %d ids of table [%d %d]", dst.Shape(), len(ids), table.Out(), table.In())
	}
	for i, id := range ids {
		if id < 0 || int(id) >= table.Out() {
			return shapeError("Embed", "ids[%d] = %d is outside the table [%d %d]", i, id, table.Out(), table.In())
		}
	}
	return nil
}

// CheckLinear is for Linear.
func CheckLinear(dst, x Tensor, w Weight, args LinearArgs) error {
	const op = "Linear"
	if err := present(op, "dst", dst); err != nil {
		return err
	}
	if err := present(op, "x", x); err != nil {
		return err
	}
	if w == nil {
		return shapeError(op, "w is none")
	}
	if x.Cols != w.In() {
		return shapeError(op, "x %s does not fit w [%d %d]", x.Shape(), w.Out(), w.In())
	}
	if dst.Rows != x.Rows || dst.Cols != w.Out() {
		return shapeError(op, "dst %s does not fit x %s times w [%d %d]", dst.Shape(), x.Shape(), w.Out(), w.In())
	}
	if !args.Bias.None() {
		if err := rowVector(op, "bias", args.Bias, "dst", dst); err != nil {
			return err
		}
	}
	if !args.Scale.None() {
		if err := rowVector(op, "scale", args.Scale, "dst", dst); err != nil {
			return err
		}
	}
	if !args.Residual.None() {
		if err := same(op, "residual", args.Residual, "dst", dst); err != nil {
			return err
		}
	}
	if args.Act > QuickGELU {
		return shapeError(op, "unknown activation %d", args.Act)
	}
	return nil
}

// CheckNorm is for RMSNorm (b none) and LayerNorm.
func CheckNorm(op string, dst, x, w, b Tensor, eps float32) error {
	if err := same(op, "dst", dst, "x", x); err != nil {
		return err
	}
	if err := rowVector(op, "w", w, "x", x); err != nil {
		return err
	}
	if !(eps >= 0) {
		return shapeError(op, "eps %g is negative", eps)
	}
	if op == "RMSNorm" {
		return nil
	}
	return rowVector(op, "b", b, "x", x)
}

// CheckRoPE is for RoPE.
func CheckRoPE(x Tensor, headDim int, pos []int32, invFreq []float32) error {
	const op = "RoPE"
	if err := present(op, "x", x); err != nil {
		return err
	}
	if headDim <= 0 || headDim%2 != 0 || x.Cols%headDim != 0 {
		return shapeError(op, "x %s is not made of heads of an even size %d", x.Shape(), headDim)
	}
	if len(pos) != x.Rows {
		return shapeError(op, "%d positions for x %s", len(pos), x.Shape())
	}
	if len(invFreq) != headDim/2 {
		return shapeError(op, "%d frequencies for heads of %d in x %s", len(invFreq), headDim, x.Shape())
	}
	return nil
}

// CheckRotate is for Rotate.
func CheckRotate(x, table Tensor, headDim int) error {
	const op = "Rotate"
	if err := present(op, "x", x); err != nil {
		return err
	}
	if err := present(op, "table", table); err != nil {
		return err
	}
	switch {
	case headDim <= 0 || headDim%2 != 0 || x.Cols%headDim != 0:
		return shapeError(op, "x %s is not made of heads of an even size %d", x.Shape(), headDim)
	case table.Cols != headDim || table.Rows == 0 && x.Rows > 0:
		return shapeError(op, "table %s has no row for heads of %d in x %s", table.Shape(), headDim, x.Shape())
	case table.Type != F32:
		return shapeError(op, "table %s is held as %v, not f32", table.Shape(), table.Type)
	}
	return nil
}

// CheckAttention is for Attention.
func CheckAttention(dst, q, k, v Tensor, a AttentionArgs) error {
	const op = "Attention"
	if err := same(op, "dst", dst, "q", q); err != nil {
		return err
	}
	if err := same(op, "k", k, "v", v); err != nil {
		return err
	}
	if a.Heads <= 0 || a.KVHeads <= 0 || a.HeadDim <= 0 || a.Heads%a.KVHeads != 0 {
		return shapeError(op, "%d heads of %d over %d key heads", a.Heads, a.HeadDim, a.KVHeads)
	}
	if q.Cols != a.Heads*a.HeadDim {
		return shapeError(op, "q %s is not %d heads of %d", q.Shape(), a.Heads, a.HeadDim)
	}
	if k.Cols != a.KVHeads*a.HeadDim {
		return shapeError(op, "k %s is not %d heads of %d", k.Shape(), a.KVHeads, a.HeadDim)
	}
	switch {
	case k.Type != v.Type:
		return shapeError(op, "k %s is held as %v and v as %v", k.Shape(), k.Type, v.Type)
	case a.Segment < 0 || a.Past < 0:
		return shapeError(op, "negative segment %d or past %d", a.Segment, a.Past)
	case a.Causal && a.Segment != 0:
		return shapeError(op, "segment %d together with causal", a.Segment)
	case a.Pages != nil:
		return checkPages(op, q, k, a)
	case a.Causal && k.Rows < a.Past+q.Rows:
		return shapeError(op, "q %s after %d past keys needs more keys than k %s", q.Shape(), a.Past, k.Shape())
	case a.Segment != 0 && (q.Rows != k.Rows || q.Rows%a.Segment != 0):
		return shapeError(op, "segments of %d do not divide q %s and k %s alike", a.Segment, q.Shape(), k.Shape())
	case q.Rows > 0 && k.Rows == 0:
		return shapeError(op, "q %s has no key in k %s", q.Shape(), k.Shape())
	}
	return nil
}

func checkPages(op string, q, k Tensor, a AttentionArgs) error {
	pages := k.Rows / PageRows
	switch {
	case !a.Causal:
		return shapeError(op, "pages without causal")
	case k.Rows%PageRows != 0:
		return shapeError(op, "k %s is not made of pages of %d rows", k.Shape(), PageRows)
	case len(a.Pages) < (a.Past+q.Rows+PageRows-1)/PageRows:
		return shapeError(op, "q %s after %d past keys needs more than %d pages", q.Shape(), a.Past, len(a.Pages))
	}
	for i, p := range a.Pages {
		if p < 0 || int(p) >= pages {
			return shapeError(op, "page %d is %d, k %s has %d", i, p, k.Shape(), pages)
		}
	}
	return nil
}

// CheckShares is for Shares.
func CheckShares(dst, q, k Tensor, a ShareArgs) error {
	const op = "Shares"
	if err := present(op, "dst", dst); err != nil {
		return err
	}
	if q.Rows != 1 || dst.Rows != 1 || len(a.Bounds) < 2 || dst.Cols != len(a.Bounds)-1 {
		return shapeError(op, "dst %s and q %s for one row and %d bounds", dst.Shape(), q.Shape(), len(a.Bounds))
	}
	if dst.Type != F32 {
		return shapeError(op, "dst %s is held as %v", dst.Shape(), dst.Type)
	}
	last := int32(0)
	for _, b := range a.Bounds {
		if b < last || int(b) > a.Past+1 {
			return shapeError(op, "bounds %v of %d keys", a.Bounds, a.Past+1)
		}
		last = b
	}
	return CheckAttention(q, q, k, k, AttentionArgs{Heads: a.Heads, KVHeads: a.KVHeads, HeadDim: a.HeadDim, Past: a.Past, Causal: true, Pages: a.Pages})
}

// CheckSwiGLU is for SwiGLU.
func CheckSwiGLU(dst, gateUp Tensor) error {
	const op = "SwiGLU"
	if err := present(op, "dst", dst); err != nil {
		return err
	}
	if err := present(op, "gateUp", gateUp); err != nil {
		return err
	}
	if dst.Rows != gateUp.Rows || 2*dst.Cols != gateUp.Cols {
		return shapeError(op, "dst %s is not half of gateUp %s", dst.Shape(), gateUp.Shape())
	}
	return nil
}

// CheckAdd is for Add.
func CheckAdd(dst, x Tensor) error {
	const op = "Add"
	if err := present(op, "dst", dst); err != nil {
		return err
	}
	if err := present(op, "x", x); err != nil {
		return err
	}
	if dst.Cols != x.Cols || x.Rows == 0 && dst.Rows != 0 || x.Rows != 0 && dst.Rows%x.Rows != 0 {
		return shapeError(op, "x %s cannot be repeated over dst %s", x.Shape(), dst.Shape())
	}
	return nil
}

// CheckAvgPool is for AvgPool.
func CheckAvgPool(dst, x Tensor, gridH, gridW, kh, kw int) error {
	const op = "AvgPool"
	if err := present(op, "dst", dst); err != nil {
		return err
	}
	if err := present(op, "x", x); err != nil {
		return err
	}
	if gridH <= 0 || gridW <= 0 || kh <= 0 || kw <= 0 || gridH%kh != 0 || gridW%kw != 0 || x.Rows%(gridH*gridW) != 0 {
		return shapeError(op, "windows of %dx%d do not tile grids of %dx%d in x %s", kh, kw, gridH, gridW, x.Shape())
	}
	if dst.Rows != x.Rows/(kh*kw) || dst.Cols != x.Cols {
		return shapeError(op, "dst %s does not fit x %s pooled %dx%d", dst.Shape(), x.Shape(), kh, kw)
	}
	return nil
}
