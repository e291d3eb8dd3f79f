//go:build cuda

package cuda

// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "blaslt.h"
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

// blaslt is cuBLASLt on a device, opened when first asked for. On the device's thread only.
type blaslt struct {
	lib       *C.af_blaslt
	err       error // why there is none; asked once
	workspace devptr
	plans     map[C.af_blaslt_shape]*blasltPlan
}

// blasltPlan is how the library computes one shape; ways are numbered from what it thinks fastest.
type blasltPlan struct {
	plan *C.af_blaslt_plan
	ways int
	use  int
}

const (
	blasltWorkspace = 32 << 20 // what NVIDIA advises for Hopper
	blasltWays      = 8
	blasltPlans     = 256 // shapes remembered; more start over
)

// open finds the library by the dynamic linker's path and the toolkit's usual place, and remembers when there is none.
func (b *blaslt) open(d *device) error {
	if b.lib != nil || b.err != nil {
		return b.err
	}
	var text [256]C.char
	if C.af_blaslt_open(&b.lib, nil, &text[0], C.size_t(len(text))) != 0 {
		b.lib = nil
		b.err = fmt.Errorf("cuBLASLt: %s", C.GoString(&text[0]))
		return b.err
	}
	p, err := d.alloc(blasltWorkspace)
	if err != nil {
		C.af_blaslt_close(b.lib)
		b.lib = nil
		return err // may go better later
	}
	b.workspace, b.plans = p, map[C.af_blaslt_shape]*blasltPlan{}
	return nil
}

// close frees the plans and the library; the workspace goes with the device.
func (b *blaslt) close() {
	if b.lib == nil {
		return
	}
	b.forget()
	C.af_blaslt_close(b.lib)
	b.lib, b.err = nil, errClosed
}

func (b *blaslt) forget() {
	for _, p := range b.plans {
		C.af_blaslt_plan_free(p.plan)
	}
	clear(b.plans)
}

// plan is that of a bare product: of g, only shape, strides, type and add are looked at.
func (b *blaslt) plan(d *device, g *gemm) (*blasltPlan, error) {
	if err := b.open(d); err != nil {
		return nil, err
	}
	shape := C.af_blaslt_shape{
		rows: C.int64_t(g.rows), out: C.int64_t(g.out), in: C.int64_t(g.in),
		ldx: C.int64_t(g.ldx), ldw: C.int64_t(g.ldw), ldd: C.int64_t(g.ldd), f32: flag(g.float()), add: flag(g.add),
	}
	if p := b.plans[shape]; p != nil {
		return p, nil
	}
	if len(b.plans) == blasltPlans {
		b.forget()
	}
	var text [256]C.char
	var found C.int
	p := &blasltPlan{}
	if C.af_blaslt_plan_new(&p.plan, b.lib, &shape, blasltWorkspace, blasltWays, &found, &text[0], C.size_t(len(text))) != 0 {
		return nil, errors.New(C.GoString(&text[0]))
	}
	p.ways = int(found)
	if p.ways == 0 {
		C.af_blaslt_plan_free(p.plan)
		return nil, fmt.Errorf("cuBLASLt has no way to multiply [%d, %d] by [%d, %d]", g.rows, g.in, g.out, g.in)
	}
	b.plans[shape] = p
	return p, nil
}

// run queues the product of g by one way of its plan.
func (b *blaslt) run(s *stream, p *blasltPlan, way int, g *gemm) error {
	var text [256]C.char
	if C.af_blaslt_run(p.plan, C.int(way), C.uint64_t(g.x), C.uint64_t(g.w), C.uint64_t(g.dst), C.uint64_t(b.workspace), blasltWorkspace,
		unsafe.Pointer(s.cu.c()), &text[0], C.size_t(len(text))) != 0 {
		return errors.New(C.GoString(&text[0]))
	}
	return nil
}

func flag(on bool) C.int {
	if on {
		return 1
	}
	return 0
}
