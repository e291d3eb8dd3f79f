// Package cpu is a compute.Device of C kernels, chosen at run time: portable C, AVX2, AVX-512 (with its bfloat16 and int8
// products where the machine has them) or AMX tiles. One cgo call is one operation; a pool of C threads that the Device owns
// shares its work. It links no library.
//
// Products of up to eight rows keep float32 activations (sixteen bits under VNNI and AMX when weights are int8, or int4 where there is
// AVX512-BF16 too), and each row's result there does not depend on the rows beside it: a drafted token is verified with the bits it is
// decoded with. Of more rows activations are rounded as the weights are, to bfloat16 for int4, and so is attention where it is allowed.
package cpu

// #cgo CFLAGS: -O3 -Wall -Wextra
// #cgo LDFLAGS: -lm -lpthread
// #cgo nocallback af_copy
// #cgo noescape af_copy
// #cgo nocallback af_embed
// #cgo noescape af_embed
// #cgo nocallback af_linear
// #cgo noescape af_linear
// #cgo nocallback af_rmsnorm
// #cgo noescape af_rmsnorm
// #cgo nocallback af_layernorm
// #cgo noescape af_layernorm
// #cgo nocallback af_rope
// #cgo noescape af_rope
// #cgo nocallback af_rotate
// #cgo noescape af_rotate
// #cgo nocallback af_attention
// #cgo noescape af_attention
// #cgo nocallback af_swiglu
// #cgo noescape af_swiglu
// #cgo nocallback af_add
// #cgo noescape af_add
// #cgo nocallback af_avgpool
// #cgo noescape af_avgpool
// #cgo nocallback af_weight_new
// #cgo noescape af_weight_new
// #include "device.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"afterimage/internal/compute"
)

// level is a name for a set of what the machine can do.
type level struct {
	name string
	need C.int // all of these must be there
	use  C.int // these are used where they are there
}

// levels are in order of preference, the best last.
func levels() []level {
	return []level{
		{"scalar", 0, 0},
		{"avx2", C.AF_AVX2, C.AF_AVX2},
		{"avx512", C.AF_AVX2 | C.AF_AVX512, C.AF_AVX2 | C.AF_AVX512 | C.AF_BF16 | C.AF_VNNI},
		{"amx", C.AF_AMX, C.AF_AVX2 | C.AF_AVX512 | C.AF_BF16 | C.AF_VNNI | C.AF_AMX},
	}
}

// Levels are the names that Open takes on this machine, the best last.
func Levels() []string {
	var names []string
	have := C.af_detect()
	for _, l := range levels() {
		if have&l.need == l.need {
			names = append(names, l.name)
		}
	}
	return names
}

// Open returns a Device of that many threads, the caller of Run being one of them; 0 means GOMAXPROCS. level is "scalar", "avx2",
// "avx512", "amx", or "" for the best that the machine has; one that it lacks is an error that says what it has.
func Open(threads int, level string) (compute.Device, error) {
	have := C.af_detect()
	available := Levels()
	if level == "" {
		level = available[len(available)-1]
	}
	for _, l := range levels() {
		if l.name != level {
			continue
		}
		if have&l.need != l.need {
			return nil, fmt.Errorf("cpu: this machine has no %s, only %s", level, strings.Join(available, ", "))
		}
		return open(threads, level, have&l.use)
	}
	return nil, fmt.Errorf("cpu: unknown level %q, this machine has %s", level, strings.Join(available, ", "))
}

// Only tests open these: AMX's packing and order of sums in portable C, and AVX-512 of before its bfloat16 and int8 products.
const (
	amxModel    = C.AF_AMX_MODEL
	plainAVX512 = C.AF_AVX2 | C.AF_AVX512
)

func open(threads int, name string, features C.int) (compute.Device, error) {
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	if threads < 1 || threads > 1024 {
		return nil, fmt.Errorf("cpu: %d threads", threads)
	}
	c := C.af_open(C.int(threads), features)
	if c == nil {
		return nil, fmt.Errorf("cpu: cannot start %d threads", threads)
	}
	return &device{
		name: fmt.Sprintf("cpu/%s x%d", name, threads), c: c, turn: make(chan struct{}, 1),
		arenas: map[*buffer]struct{}{},
	}, nil
}

type device struct {
	name string
	turn chan struct{} // holding its one token is holding c's threads and scratch memory, and resize

	resize resizer

	mu      sync.Mutex // guards what follows, so that memory can be had while a Run goes on
	c       *C.af_device
	closed  bool
	arenas  map[*buffer]struct{}
	weights []*weight
}

// buffer is what Tensor.Ptr points to: one arena's memory. p is nil once the arena is closed.
type buffer struct {
	dev    *device
	p      unsafe.Pointer
	bytes  int64
	floats int
}

type arena struct {
	buf  *buffer
	used int64 // bytes
}

type weight struct {
	dev     *device
	c       *C.af_weight
	out, in int
	dtype   compute.DType
}

func (w *weight) Out() int             { return w.out }
func (w *weight) In() int              { return w.in }
func (w *weight) DType() compute.DType { return w.dtype }

var errClosed = errors.New("device is closed")

func (d *device) Name() string { return d.name }

// Activations implements compute.Device: what is between products is float32 always.
func (d *device) Activations(compute.DType) compute.DType { return compute.F32 }

func (d *device) NewArena(bytes int64) (compute.Arena, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("cpu: NewArena: %w", errClosed)
	}
	if bytes < 0 {
		return nil, fmt.Errorf("cpu: NewArena: %d bytes", bytes)
	}
	p := C.af_map(C.size_t(bytes))
	if p == nil {
		return nil, fmt.Errorf("cpu: NewArena: no memory for %d bytes", bytes)
	}
	b := &buffer{dev: d, p: p, bytes: bytes, floats: int(bytes / 4)}
	d.arenas[b] = struct{}{}
	return &arena{buf: b}, nil
}

// AllocAs implements compute.Arena.
func (a *arena) AllocAs(rows, cols int, as compute.DType) (compute.Tensor, error) {
	if as != compute.F32 {
		return compute.Tensor{}, fmt.Errorf("cpu: Alloc [%d %d]: tensors are f32 here, not %v", rows, cols, as)
	}
	return a.Alloc(rows, cols)
}

func (a *arena) Alloc(rows, cols int) (compute.Tensor, error) {
	if a.buf.p == nil {
		return compute.Tensor{}, errors.New("cpu: Alloc: arena is closed")
	}
	if err := compute.CheckAlloc(rows, cols, compute.F32); err != nil {
		return compute.Tensor{}, err
	}
	// The last tensor may end short of the alignment unit, so that an arena of exactly one tensor's bytes holds it.
	if exact := int64(rows) * int64(cols) * 4; a.used+exact > a.buf.bytes {
		return compute.Tensor{}, fmt.Errorf("cpu: Alloc [%d %d]: asked for %d bytes, %d of %d left", rows, cols, exact, max(a.buf.bytes-a.used, 0), a.buf.bytes)
	}
	t := compute.Tensor{Rows: rows, Cols: cols, Stride: cols, Ptr: a.buf, Off: int(a.used / 4)}
	a.used += compute.AllocBytes(rows, cols)
	return t, nil
}

func (a *arena) Close() error {
	a.buf.dev.mu.Lock()
	defer a.buf.dev.mu.Unlock()
	a.buf.free()
	return nil
}

// free needs the device's mu.
func (b *buffer) free() {
	if b.p != nil {
		C.af_unmap(b.p, C.size_t(b.bytes))
		b.p = nil
		delete(b.dev.arenas, b)
	}
}

func (d *device) NewWeight(w compute.Matrix, as compute.DType) (compute.Weight, error) {
	if err := compute.CheckWeight(w, as); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("cpu: NewWeight: %w", errClosed)
	}
	c := C.af_weight_new(d.c, (*C.float)(&w.Data[0]), C.int(w.Rows), C.int(w.Cols), C.int(as))
	if c == nil {
		return nil, fmt.Errorf("cpu: NewWeight: no memory for %s as %v", w.Shape(), as)
	}
	p := &weight{dev: d, c: c, out: w.Rows, in: w.Cols, dtype: as}
	d.weights = append(d.weights, p)
	return p, nil
}

func (d *device) Run(ctx context.Context, fn func(compute.Ops)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.turn }()
	if d.closed { // Close holds turn when it writes this
		return fmt.Errorf("cpu: Run: %w", errClosed)
	}
	o := &ops{dev: d, c: d.c}
	fn(o)
	return o.err
}

// Close waits for the Run under way, stops the threads and frees the weights and any arena still open.
func (d *device) Close() error {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	for b := range d.arenas {
		b.free()
	}
	for _, w := range d.weights {
		C.af_weight_free(w.c)
	}
	d.weights = nil
	C.af_close(d.c)
	d.c = nil
	return nil
}
