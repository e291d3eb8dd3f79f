package cpu

// #include "device.h"
import "C"

import (
	"context"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"afterimage/internal/compute"
)

// Benchmarks implements compute.Benchmarks: the two ceilings. What decoding needs of memory is to read it, so the first reads only; the
// second is the best that the device's own bf16 product does.
func (d *device) Benchmarks() []compute.Benchmark {
	const bytes, rows, width = 256 << 20, 1024, 3072
	return []compute.Benchmark{
		{What: compute.CeilingCopy, Shape: "256 MiB, read only", Bytes: bytes, Time: func(ctx context.Context) (float64, error) {
			p := C.af_map(bytes)
			if p == nil {
				return 0, fmt.Errorf("cpu: no memory for %d bytes", bytes)
			}
			defer C.af_unmap(p, bytes)
			clear(unsafe.Slice((*byte)(p), bytes)) // pages that were never written are all the same one
			return d.time(ctx, func(compute.Ops) { C.af_read(d.c, p, bytes) })
		}},
		{What: compute.CeilingMatmul, Shape: fmt.Sprintf("%dx%dx%d", rows, width, width), FLOPs: 2 * rows * width * width, Time: func(ctx context.Context) (float64, error) {
			m := compute.NewMatrix(width, width)
			for i := range m.Data {
				m.Data[i] = float32(i%4093)/4093 - 0.5
			}
			w := &weight{dev: d, out: width, in: width, dtype: compute.BF16}
			if w.c = C.af_weight_new(d.c, (*C.float)(&m.Data[0]), width, width, C.int(compute.BF16)); w.c == nil {
				return 0, fmt.Errorf("cpu: no memory for a weight %s", m.Shape())
			}
			defer C.af_weight_free(w.c)
			a, err := d.NewArena(2 * compute.AllocBytes(rows, width))
			if err != nil {
				return 0, err
			}
			defer a.Close()
			x, err := a.Alloc(rows, width)
			if err != nil {
				return 0, err
			}
			y, err := a.Alloc(rows, width)
			if err != nil {
				return 0, err
			}
			if err := d.Run(ctx, func(o compute.Ops) { o.Upload(x, compute.Matrix{Rows: rows, Cols: width, Data: m.Data[:rows*width]}) }); err != nil {
				return 0, err
			}
			return d.time(ctx, func(o compute.Ops) { o.Linear(y, x, w, compute.LinearArgs{}) })
		}},
	}
}

// time is the median seconds of a call, after one that does not count.
func (d *device) time(ctx context.Context, call func(compute.Ops)) (float64, error) {
	var spent []float64
	for i := range 8 {
		start := time.Now()
		if err := d.Run(ctx, call); err != nil {
			return 0, err
		}
		if i > 0 {
			spent = append(spent, time.Since(start).Seconds())
		}
	}
	slices.Sort(spent)
	return spent[len(spent)/2], nil
}
