// Package compute is the seam between models and machines. There are only a few types: a Device runs kernels in order on one
// thread (or pool) that it owns, an Arena is memory on that device, a Tensor is a view into an Arena, a Weight is a matrix
// packed once for the device, a Matrix is host memory, and Ops are the kernels, handed out only inside Device.Run.
//
// Everything is row-major. A row is one token; x·Wᵀ is the only matrix product, with W [out, in] as checkpoints store it.
package compute

import (
	"context"
	"errors"
)

// Matrix is row-major host memory: Data[r*Cols+c]. Values are treated as immutable once shared.
type Matrix struct {
	Rows, Cols int
	Data       []float32
}

// NewMatrix returns a zeroed matrix.
func NewMatrix(rows, cols int) Matrix {
	return Matrix{Rows: rows, Cols: cols, Data: make([]float32, rows*cols)}
}

// Row returns row r, sharing memory with m.
func (m Matrix) Row(r int) []float32 { return m.Data[r*m.Cols : (r+1)*m.Cols : (r+1)*m.Cols] }

// DType is how elements are held on the device: those of a Weight, or (F32 and BF16 only) of a Tensor. A device may round
// activations inside a product to the precision the weight asks for.
type DType uint8

const (
	F32  DType = iota // products in float32: the reference precision
	BF16              // weights and activations rounded to bfloat16 inside products, float32 accumulation
	I8                // weights int8 with one scale a row, its largest size is 127 scales; activations as the device does best
	I4                // weights int4 with one scale for each 128 of a row, 7 to the largest; activations as the device does best
)

func (d DType) String() string {
	if int(d) < len(dtypeNames) {
		return dtypeNames[d]
	}
	return "unknown"
}

var dtypeNames = [...]string{"f32", "bf16", "i8", "i4"}

// ErrNoMemory is wrapped by errors of a device whose memory is exhausted: what it held is intact and smaller requests may succeed.
// ErrDeviceLost is wrapped by every error of a device that can no longer compute (it fell off the bus, a kernel crashed): what
// was in its memory is gone, the process and its other devices go on.
var (
	ErrNoMemory   = errors.New("out of device memory")
	ErrDeviceLost = errors.New("device lost")
)

// Device is one in-order queue of kernels. Run calls fn with the device's Ops and waits until every kernel issued by fn is
// done; the first error of any of them is returned (ops after it are skipped). Runs from several goroutines are serialised;
// ctx cancels only while waiting for a turn. Close waits for the current Run; using a closed Device is an error from Run.
type Device interface {
	Name() string // for example "cpu/avx512 x2"
	NewArena(bytes int64) (Arena, error)
	// NewWeight copies w [out, in] to the device, packed as its kernels like it. It belongs to the Device and is freed with it.
	NewWeight(w Matrix, as DType) (Weight, error)
	// Activations is the type of Tensor in which products with such weights are best given rows and leave them: F32 or BF16.
	Activations(w DType) DType
	Run(ctx context.Context, fn func(Ops)) error
	Close() error
}

// Arena is a fixed block of device memory, carved front to back, freed as one by Close. Not safe for concurrent use.
type Arena interface {
	// Alloc returns a zeroed tensor [rows, cols] or an error that says how much was asked and how much was left.
	Alloc(rows, cols int) (Tensor, error)
	// AllocAs is Alloc with elements of a type; BF16 is an error on a device whose Activations are never that.
	AllocAs(rows, cols int, as DType) (Tensor, error)
	Close() error
}

// Tensor is a view of device memory: Rows x Cols, rows Stride elements apart. The zero Tensor is "none". Ops take any mixture of
// types (sums are always float32 inside), except that v is typed like k, and vectors of weights (norms, biases, scales) are F32.
// Ptr is owned by the device that made it; nothing outside a device package may look at it.
type Tensor struct {
	Rows, Cols, Stride int
	Ptr                any // *float32 base or device address holder, device-private
	Off                int // element offset from Ptr's base
	Type               DType
}

// Slice returns rows [from, to) of t.
func (t Tensor) Slice(from, to int) Tensor {
	if from < 0 || to < from || to > t.Rows {
		panic("compute: Tensor.Slice out of range")
	}
	t.Off += from * t.Stride
	t.Rows = to - from
	return t
}

// Columns returns columns [from, to) of t, keeping its stride.
func (t Tensor) Columns(from, to int) Tensor {
	if from < 0 || to < from || to > t.Cols {
		panic("compute: Tensor.Columns out of range")
	}
	t.Off += from
	t.Cols = to - from
	return t
}

// Fold makes one row of every k rows, side by side. t must be packed (its rows without gaps), and k divide them.
func (t Tensor) Fold(k int) Tensor {
	if k < 1 || t.Rows%k != 0 || t.Rows > 1 && t.Stride != t.Cols {
		panic("compute: Tensor.Fold of a tensor that is not packed, or not of whole groups")
	}
	t.Rows, t.Cols = t.Rows/k, t.Cols*k
	t.Stride = t.Cols
	return t
}

// None reports whether t is the zero Tensor.
func (t Tensor) None() bool { return t.Ptr == nil }

// Weight is a device-packed [Out, In] matrix.
type Weight interface {
	Out() int
	In() int
	DType() DType
}

// Activation is applied to a Linear's result before the residual is added.
type Activation uint8

const (
	Identity  Activation = iota
	GELU                 // exact, x·Φ(x)
	GELUTanh             // the tanh approximation (SigLIP)
	QuickGELU            // x·sigmoid(1.702x) (CLIP)
)

// LinearArgs are the fused parts of a product; zero values mean "none".
type LinearArgs struct {
	Bias     Tensor     // [1, out]
	Act      Activation // applied after the bias
	Scale    Tensor     // [1, out], multiplied after the activation (layer scale)
	Residual Tensor     // [rows, out], added last; may be dst itself
}

// AttentionArgs describe one fused attention call. Query row i may see key rows 0..Past+i when Causal, else all keys.
type AttentionArgs struct {
	Heads, KVHeads, HeadDim int
	Past                    int // keys before the first query row (causal only)
	Causal                  bool
	Scale                   float32 // 0 means 1/sqrt(HeadDim)
	Segment                 int     // 0, or rows attend only within blocks of Segment rows (batched frames); not with Causal
	// Rounded allows q, k, v and the softmax's weights to be rounded to bfloat16 where that is faster, sums staying float32. Calls of up
	// to eight rows never are, so that a row's result there does not depend on the rows beside it.
	Rounded bool
	// Pages, when not nil, says where the keys are: k and v are pools of pages of PageRows rows, and key row j is row j%PageRows
	// of page Pages[j/PageRows]. There are as many keys as the call needs (Past+n); only with Causal.
	Pages []int32
}

// ShareArgs describe one call of Shares: the query row is key row Past, and sees keys 0..Past.
type ShareArgs struct {
	Heads, KVHeads, HeadDim int
	Past                    int
	Scale                   float32 // 0 means 1/sqrt(HeadDim)
	Pages                   []int32 // as in AttentionArgs; nil: keys lie one after another
	// Bounds are where ranges of keys begin and end: range i is keys Bounds[i] up to Bounds[i+1]. None is less than the one before it, the
	// first is at least 0 and the last at most Past+1.
	Bounds []int32
}

// Sharer is Ops of a device that can also tell what a row attends to.
type Sharer interface {
	// Shares writes dst [1, len(Bounds)-1]: how much of the attention of one row, q [1, Heads*HeadDim], falls on each range of the keys
	// k [keys, KVHeads*HeadDim], as a mean over heads. Ranges that cover all keys give 1 together.
	Shares(dst, q, k Tensor, args ShareArgs)
}

// PageRows is how many rows of K/V one page holds.
const PageRows = 64

// Ops are the kernels. dst never aliases an input unless the method says so. Shapes are checked first; a mismatch is an
// error that names the op and both shapes, reported by Run. Nothing here may be kept after Run returns.
type Ops interface {
	Upload(dst Tensor, src Matrix)
	Download(dst Matrix, src Tensor)
	Copy(dst, src Tensor)
	// Embed writes dst[i] = row ids[i] of table, float32.
	Embed(dst Tensor, table Weight, ids []int32)
	// Linear writes dst [rows, out] = act(x [rows, in] · wᵀ + bias) + residual. dst may equal args.Residual.
	Linear(dst, x Tensor, w Weight, args LinearArgs)
	// RMSNorm writes dst = x / sqrt(mean(x²)+eps) · w, w [1, cols]. dst may equal x.
	RMSNorm(dst, x, w Tensor, eps float32)
	// LayerNorm writes dst = (x-mean)/sqrt(var+eps) · w + b. dst may equal x.
	LayerNorm(dst, x, w, b Tensor, eps float32)
	// RoPE rotates x [rows, heads*headDim] in place, row i by position pos[i], in the half-split (Hugging Face Llama) layout:
	// pairs are (j, j+headDim/2) and frequency j is invFreq[j], len headDim/2.
	RoPE(x Tensor, headDim int, pos []int32, invFreq []float32)
	// Rotate rotates x [rows, heads*headDim] in place in RoPE's half-split layout by angles that table holds: row i uses row
	// i%table.Rows of table [n, headDim], cosines of the headDim/2 angles and then their sines.
	Rotate(x, table Tensor, headDim int)
	// Attention writes dst [n, Heads*HeadDim] from q [n, Heads*HeadDim], k and v [keys, KVHeads*HeadDim]; online softmax in
	// float32, no n x keys matrix. When Causal, keys beyond Past+n are ignored.
	Attention(dst, q, k, v Tensor, args AttentionArgs)
	// SwiGLU writes dst [rows, n] = silu(gateUp[:, :n]) * gateUp[:, n:], gateUp [rows, 2n].
	SwiGLU(dst, gateUp Tensor)
	// Add writes dst += x. x may have one row, which is then added to every row, or a divisor of dst's rows, which is repeated.
	Add(dst, x Tensor)
	// AvgPool averages a grid: x [n*gridH*gridW, c] -> dst [n*(gridH/kh)*(gridW/kw), c]; kh, kw divide the grid.
	AvgPool(dst, x Tensor, gridH, gridW, kh, kw int)
	// Patches prepares pictures, all of one size, and cuts them into rows: one a patch, args.Pair pictures side by side in it, dst
	// [len(pics)/Pair * (H/Patch)*(W/Patch), 3*Pair*Patch*Patch] for args that lead to H x W. Values lie as a flattened convolution
	// weight has them: channel, picture of the pair, row, column. Every device writes the same float32, to the bit.
	Patches(dst Tensor, pics []Picture, args PatchArgs)
}
