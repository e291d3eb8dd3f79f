//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"math"
	"unsafe"
)

// Attention of many query rows on the tensor cores (prefill_sm90.cu), from a plan that serves all layers of a pass.

// prefillTensor and prefillArgs mirror prefill.h.
type prefillTensor struct {
	p              devptr
	row, head, seg int64 // strides in elements, multiples of 8
}

type prefillArgs struct {
	qMap, kMap, vMap         tensorMap
	q, k, v, out             prefillTensor
	lse, items, first, pages devptr
	heads, kvHeads, headDim  int32
	scaleLog2                float32
	_                        [6]int64
}

// prefillKernel is a kernel for heads of up to dim columns.
type prefillKernel struct {
	name            string
	dim             int
	tile            prefillTile
	chunk           int // columns that lie together in shared memory
	threads, shared uint32
}

// Tile sizes are those that measured fastest; NOTES-prefill.md says what else was tried.
var hopperPrefills = []prefillKernel{
	hopperPrefill("prefill_sm90_64", 64, 2, 128, 2),
	hopperPrefill("prefill_sm90_80", 80, 2, 128, 2),
	hopperPrefill("prefill_sm90_96", 96, 2, 128, 2),
	hopperPrefill("prefill_sm90_128", 128, 2, 128, 2),
}

// hopperPrefill is the host's side of the Prefill template.
func hopperPrefill(name string, dim, groups, keys, stages int) prefillKernel {
	k := prefillKernel{name: name, dim: dim, tile: prefillTile{64 * groups, keys}, chunk: 64, threads: uint32(128 * (groups + 1))}
	for dim%k.chunk != 0 {
		k.chunk /= 2
	}
	k.shared = uint32(2*dim*(64*groups+2*stages*keys) + 8*(2*groups+4*stages))
	return k
}

// prefillFor is the kernel for heads of a size; nil when there is none.
func (d *device) prefillFor(headDim int) *prefillKernel {
	if d.info.Major != 9 || headDim%8 != 0 {
		return nil
	}
	for i := range hopperPrefills {
		if k := &hopperPrefills[i]; headDim <= k.dim {
			return k
		}
	}
	return nil
}

// prefillPlan is planned attention. Its device memory grows as needed and is freed by close.
type prefillPlan struct {
	d                   *device
	shape               prefillShape
	kernel              *prefillKernel
	blocks              uint32
	rows                int // query rows
	paged               bool
	captured            bool // in use by a graph
	buf                 block
	items, first, pages devptr
}

var errNoPrefill = errors.New("no kernel for attention of many rows")

// newPrefillPlan is an empty plan for calls of a shape. An error wraps errNoPrefill where there is no kernel for it.
func (d *device) newPrefillPlan(c prefillShape) (*prefillPlan, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	k := d.prefillFor(c.headDim)
	if k == nil {
		return nil, fmt.Errorf("cuda: %w with heads of %d", errNoPrefill, c.headDim)
	}
	return &prefillPlan{d: d, shape: c, kernel: k}, nil
}

// close frees what is on the device, after all that is in the stream. None is nothing.
func (p *prefillPlan) close() {
	if p != nil {
		p.d.free(p.buf.p)
		p.buf = block{}
	}
}

// set plans for these segments and puts the plan on the device, after what is in the stream. pages, when not nil, is the table that
// the segments' rows count in.
func (p *prefillPlan) set(s *stream, segs []prefillSegment, pages []int32) error {
	items, first, err := dealPrefill(p.shape, p.kernel.tile, p.d.info.SMs, segs)
	if err != nil {
		return err
	}
	p.rows, p.blocks, p.paged = 0, uint32(len(first)-1), pages != nil
	for _, g := range segs {
		p.rows += g.rows
	}
	if len(items) == 0 {
		return nil
	}
	of := unsafe.Slice((*byte)(unsafe.Pointer(&items[0])), len(items)*int(unsafe.Sizeof(items[0])))
	need := int64(len(of) + 4*len(first) + 4*len(pages))
	if s.capturing {
		return errors.New("cuda: attention is planned within a capture")
	}
	if need > p.buf.bytes {
		p.close()
		room := need + need/2
		buf, err := p.d.alloc(room)
		if err != nil {
			return fmt.Errorf("cuda: attention's plan: %w", err)
		}
		p.buf = block{buf, room}
	}
	p.items = p.buf.p
	p.first = p.items + devptr(len(of))
	p.pages = p.first + devptr(4*len(first))
	s.upload(p.items, of)
	s.upload(p.first, bytesOf(first))
	s.upload(p.pages, bytesOf(pages))
	return s.err
}

// prefillCall is one call's operands, bf16. Of k and v there are kvSegs segments (or pages) of kvRows rows each.
type prefillCall struct {
	q, k, v, out   prefillTensor
	kvRows, kvSegs int
	lse            devptr  // float32 [rows][heads], or 0
	scale          float64 // of scores; 0 means 1/sqrt(headDim)
}

// run puts the planned attention in the stream.
func (p *prefillPlan) run(s *stream, c prefillCall) {
	if s.err != nil || p.blocks == 0 {
		return
	}
	h := p.shape
	a := prefillArgs{
		q: c.q, k: c.k, v: c.v, out: c.out, lse: c.lse, items: p.items, first: p.first,
		heads: int32(h.heads), kvHeads: int32(h.kvHeads), headDim: int32(h.headDim),
	}
	if p.paged {
		a.pages = p.pages
	}
	if c.scale == 0 {
		c.scale = 1 / math.Sqrt(float64(h.headDim))
	}
	a.scaleLog2 = float32(c.scale * math.Log2E)
	keyBox := p.kernel.tile.keys
	if p.paged {
		keyBox = pageRows
	}
	var err error
	if a.qMap, err = p.tensorMap(c.q, p.rows, h.heads, 1, 64); !s.fail(err) {
		return
	}
	if a.kMap, err = p.tensorMap(c.k, c.kvRows, h.kvHeads, c.kvSegs, keyBox); !s.fail(err) {
		return
	}
	if a.vMap, err = p.tensorMap(c.v, c.kvRows, h.kvHeads, c.kvSegs, keyBox); !s.fail(err) {
		return
	}
	start(s, p.kernel.name, [3]uint32{p.blocks, 1, 1}, [3]uint32{p.kernel.threads, 1, 1}, p.kernel.shared, &a, 0)
}

// tensorMap shows TMA the columns of a head, which read as zero beyond its size, rows, heads and segments; a copy moves a chunk of
// columns of boxRows rows.
func (p *prefillPlan) tensorMap(t prefillTensor, rows, heads, segs, boxRows int) (tensorMap, error) {
	swizzle := map[int]int{64: swizzle128, 32: swizzle64, 16: swizzle32}[p.kernel.chunk]
	return p.d.tensorMap(mapBF16, t.p, []uint64{uint64(p.shape.headDim), uint64(rows), uint64(heads), uint64(segs)},
		[]uint64{uint64(2 * t.row), uint64(2 * t.head), uint64(2 * t.seg)}, []uint32{uint32(p.kernel.chunk), uint32(boxRows), 1, 1}, swizzle)
}
