//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"afterimage/internal/compute"
)

// stream is the device's queue of kernels and copies. Having one means being on the device's thread. It keeps the first error; what
// is asked of it after that does nothing.
type stream struct {
	d         *device
	cu        cuStream
	err       error
	capturing bool
	staging   staging
	scratches [scratchKinds]block
	prefills  prefillCache
	taps      compute.TapCache
}

// block is an allocation.
type block struct {
	p     devptr
	bytes int64
}

func newDeviceStream(d *device) (*stream, error) {
	c, err := newStream()
	if err != nil {
		return nil, fmt.Errorf("making a stream: %w", err)
	}
	s := &stream{d: d, cu: c}
	if err := s.staging.open(); err != nil {
		_ = s.cu.Destroy()
		return nil, err
	}
	return s, nil
}

func (s *stream) close() {
	s.staging.close()
	_ = s.cu.Destroy()
}

// fail keeps err unless there is one already, and reports whether the stream may go on.
func (s *stream) fail(err error) bool {
	if s.err == nil {
		s.err = err
	}
	return s.err == nil
}

type launchFlags uint8

// launchPDL lets the kernel start before the one ahead of it is done. It must wait (griddepcontrol.wait) before it touches what
// earlier kernels write.
const launchPDL launchFlags = 1

// launch puts a kernel in the stream. args points to its argument of size bytes, which is copied; it may hold no Go pointer.
// Shared memory beyond 48 KiB is allowed on the way.
func (s *stream) launch(k *kernel, grid, block [3]uint32, smem uint32, args unsafe.Pointer, size uintptr, flags launchFlags) {
	switch {
	case s.err != nil:
		return
	case k == nil:
		s.fail(errors.New("cuda: launch of no kernel"))
		return
	case uintptr(k.args) != size:
		s.fail(fmt.Errorf("cuda: kernel %s: argument of %d bytes, the compiler made it %d", k.name, size, k.args))
		return
	}
	err := k.allowShared(smem)
	if err == nil {
		err = k.fn.launch(&s.cu, grid, block, smem, flags&launchPDL != 0, args)
	}
	if err != nil {
		s.fail(fmt.Errorf("kernel %s, grid %v, block %v, %d bytes shared: %w", k.name, grid, block, smem, err))
	}
}

// start is launch for an argument struct, by the kernel's name. A grid with a zero is nothing to do.
func start[T any](s *stream, name string, grid, block [3]uint32, smem uint32, args *T, flags launchFlags) {
	if s.err != nil || grid[0] == 0 || grid[1] == 0 || grid[2] == 0 {
		return
	}
	k, err := s.d.kernel(name)
	if s.fail(err) {
		s.launch(k, grid, block, smem, unsafe.Pointer(args), unsafe.Sizeof(*args), flags)
	}
}

// graph is recorded work, to be put in the stream again and again at the cost of one launch. Buffers are those of the recording.
type graph struct {
	d  *device
	cu cuGraph
}

// capture records what fn puts in the stream instead of running it: kernels, copies on the device and memsets, nothing that waits.
// The caller closes the graph before the device.
func (d *device) capture(fn func(s *stream) error) (*graph, error) {
	s := d.stream
	if s.err != nil {
		return nil, s.err
	}
	if s.capturing {
		return nil, errors.New("cuda: capture within a capture")
	}
	if err := captureBegin(&s.cu); err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	s.capturing = true
	ended := false
	defer func() {
		s.capturing = false
		if !ended { // fn panicked
			_, _ = captureEnd(&s.cu, false)
		}
	}()
	err := fn(s)
	if s.err != nil {
		err, s.err = s.err, nil
	}
	ended = true
	g, e := captureEnd(&s.cu, err == nil)
	if err == nil && e != nil {
		g.free()
		err = fmt.Errorf("capture: %w", e)
	}
	if err != nil {
		return nil, err
	}
	return &graph{d: d, cu: g}, nil
}

// launch puts the recorded work in the stream.
func (g *graph) launch() {
	s := g.d.stream
	if s.err != nil {
		return
	}
	if err := g.cu.launch(&s.cu); err != nil {
		s.fail(fmt.Errorf("graph: %w", err))
	}
}

// close frees the graph; it may still be running.
func (g *graph) close() {
	if g != nil {
		g.cu.free()
	}
}

// time reports how long one fn takes on the device: fn(s, 0..reps-1) is recorded as one graph, run once to warm up and then seven
// times between events; the result is the median divided by reps. fn should go round buffers that exceed the L2 cache together.
func (d *device) time(reps int, fn func(s *stream, i int)) (time.Duration, error) {
	g, err := d.capture(func(s *stream) error {
		for i := range reps {
			fn(s, i)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	defer g.close()
	ms, err := d.stream.between(1, 7, g.launch)
	return time.Duration(ms / float64(reps) * float64(time.Millisecond)), err
}

// between is the median milliseconds on the device of what fn puts in the stream, over so many runs after those that warm up, with a
// pause after each.
func (s *stream) between(warm, runs int, fn func()) (float64, error) {
	from, err := newEvent()
	if err != nil {
		return 0, err
	}
	defer from.free()
	to, err := newEvent()
	if err != nil {
		return 0, err
	}
	defer to.free()
	var all []float64
	for i := range warm + runs {
		if err := from.record(&s.cu); err != nil {
			return 0, err
		}
		fn()
		if s.err != nil {
			return 0, s.err
		}
		if err := errors.Join(to.record(&s.cu), to.wait()); err != nil {
			return 0, err
		}
		ms, err := to.since(&from)
		if err != nil {
			return 0, err
		}
		if i >= warm {
			all = append(all, float64(ms))
		}
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

// tensorMap is encodeTensorMap with an error that names the shape.
func (d *device) tensorMap(as int, base devptr, dims, strides []uint64, box []uint32, swizzle int) (tensorMap, error) {
	m, err := encodeTensorMap(as, base, dims, strides, box, swizzle)
	if err != nil {
		return m, fmt.Errorf("tensor map at %v of %v, strides %v, box %v: %w", base, dims, strides, box, err)
	}
	return m, nil
}
