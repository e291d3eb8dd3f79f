//go:build cuda

// Package cuda is a compute.Device on an NVIDIA GPU, through the CUDA driver API. There are only a few types: a device owns one OS
// thread, one context and one stream; everything that touches the GPU is a job on that thread and gets the stream, which keeps the
// first error and skips what comes after it; a kernel is a function of the fatbins embedded here, with one struct as its only
// argument; a graph is a recorded sequence of launches. Importing the package ends the process where there is no working driver.
package cuda

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"

	"afterimage/internal/compute"
)

// Info says what a GPU is. Memory is in bytes; FreeBytes is what other programs and this one left at the time.
type Info struct {
	Ordinal               int
	Name, PCI             string
	Driver                string // newest CUDA version that the driver speaks
	Major, Minor          int    // compute capability
	SMs                   int
	L2Bytes               int
	TotalBytes, FreeBytes int64
}

// Count is the number of GPUs that the driver shows this process.
func Count() (int, error) {
	n, err := deviceCount()
	if err != nil {
		return 0, fmt.Errorf("cuda: counting devices: %w", err)
	}
	return n, nil
}

// Describe looks at a GPU by its ordinal without keeping it open.
func Describe(ordinal int) (Info, error) {
	info, err := describe(ordinal)
	if err != nil {
		return Info{}, fmt.Errorf("cuda: device %d: %w", ordinal, err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, err := holdContext(ordinal)
	if err != nil {
		return Info{}, fmt.Errorf("cuda: device %d: %w", ordinal, err)
	}
	defer func() { _ = c.release() }()
	if err := c.bind(); err != nil {
		return Info{}, fmt.Errorf("cuda: device %d: %w", ordinal, err)
	}
	info.FreeBytes, _, err = memInfo()
	if err != nil {
		return Info{}, fmt.Errorf("cuda: device %d: %w", ordinal, err)
	}
	return info, nil
}

// device is a compute.Device. What is below jobs is touched on the device's thread only.
type device struct {
	info Info
	name string

	turn   chan struct{} // holding its one token is holding the device
	closed bool          // written while holding turn
	jobs   chan *job
	ended  sync.WaitGroup // the thread

	ctx     cuContext
	stream  *stream
	modules []cuModule
	places  map[string]cuModule // which has af_NAME
	kernels map[string]*kernel
	held    map[devptr]int64 // every allocation that is open
	blas    blaslt
	lost    error // set once the context can never be used again
}

// job is a function to run on the device's thread, and how it ended.
type job struct {
	fn     func() error
	err    error
	panics any    // what fn panicked with
	stack  []byte // where
	exited bool   // fn ended its goroutine
	done   chan struct{}
}

var errClosed = errors.New("device is closed")

// Open takes the GPU of an ordinal, 0 to Count()-1. The caller closes it. After a kernel has crashed, drivers let only a new process
// use the GPU again: then the error wraps compute.ErrDeviceLost.
func Open(ordinal int) (compute.Device, error) {
	d, err := open(ordinal)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func open(ordinal int) (*device, error) {
	info, err := describe(ordinal)
	if err != nil {
		return nil, openError(ordinal, err)
	}
	d := &device{
		info: info, name: fmt.Sprintf("cuda:%d %s", ordinal, info.Name),
		turn: make(chan struct{}, 1), jobs: make(chan *job), kernels: map[string]*kernel{}, held: map[devptr]int64{},
	}
	if d.ctx, err = holdContext(ordinal); err != nil {
		return nil, openError(ordinal, err)
	}
	d.ended.Add(1)
	go d.serve()
	if err := d.do(context.Background(), "Open", func(*stream) error { return nil }); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

func openError(ordinal int, err error) error {
	if isGone(err) {
		err = fmt.Errorf("%w: %w", compute.ErrDeviceLost, err)
	}
	return fmt.Errorf("cuda: device %d: %w", ordinal, err)
}

func (d *device) Name() string { return d.name }

// Activations: the tensor cores take bfloat16, and everything between products is bound by memory.
func (d *device) Activations(w compute.DType) compute.DType {
	if w == compute.F32 {
		return compute.F32
	}
	return compute.BF16
}

// serve is the device's thread: it runs jobs until jobs is closed. A job that ends its goroutine (testing's FailNow does) takes the
// thread with it, so a new one goes on from there.
func (d *device) serve() {
	runtime.LockOSThread() // and never unlocked: the thread dies with the goroutine, its current context with it
	var now *job
	defer func() {
		if now != nil {
			now.exited = true
			close(now.done)
			go d.serve()
			return
		}
		d.ended.Done()
	}()
	bound := d.ctx.bind()
	for now = range d.jobs {
		if bound != nil {
			now.err = bound
		} else {
			now.run()
		}
		close(now.done)
	}
	now = nil
}

func (j *job) run() {
	defer func() {
		if v := recover(); v != nil {
			j.panics, j.stack = v, debug.Stack()
		}
	}()
	j.err = j.fn()
}

// do waits for the device's turn and runs fn on its thread, then waits until all that fn put in the stream is done. It returns the
// first error of fn, of the stream and of the kernels, marked as ErrNoMemory or ErrDeviceLost where it is one. Not to be called
// from within fn: what has the stream is on the thread already.
func (d *device) do(ctx context.Context, op string, fn func(s *stream) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.turn }()
	if d.closed {
		return fmt.Errorf("cuda: %s: %w", op, errClosed)
	}
	return d.onThread(func() error { return d.run(op, fn) })
}

// onThread hands fn to the thread. The caller holds turn.
func (d *device) onThread(fn func() error) error {
	j := &job{fn: fn, done: make(chan struct{})}
	d.jobs <- j
	<-j.done
	switch {
	case j.panics != nil:
		panic(fmt.Sprintf("%v\n\non the device's thread:\n%s", j.panics, j.stack))
	case j.exited:
		runtime.Goexit()
	}
	return j.err
}

// run is the part of do on the thread.
func (d *device) run(op string, fn func(s *stream) error) error {
	if d.lost != nil {
		return fmt.Errorf("cuda: %s: %w: %w", op, compute.ErrDeviceLost, d.lost)
	}
	if d.stream == nil {
		if err := d.start(); err != nil {
			return d.explain(op, err)
		}
	}
	s := d.stream
	s.err = nil
	// Also when fn does not return: the next job must find an idle stream.
	defer func() { _ = s.cu.sync() }()
	err := fn(s)
	if s.err != nil {
		err = s.err // the first one
	}
	if e := s.cu.sync(); e != nil && (err == nil || isGone(e)) {
		err = e
	}
	return d.explain(op, err)
}

// start makes what needs the thread: the stream, and the kernels.
func (d *device) start() error {
	s, err := newDeviceStream(d)
	if err != nil {
		return err
	}
	if d.modules == nil {
		if d.modules, d.places, err = loadModules(); err != nil {
			s.close()
			return err
		}
	}
	d.stream = s
	return nil
}

func isGone(err error) bool {
	var st status
	return errors.As(err, &st) && st.gone()
}

// explain wraps err once with the op and its kind, and notes when the device is gone.
func (d *device) explain(op string, err error) error {
	var st status
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &st):
		return err // said by whoever made it
	case st.gone():
		d.lost = err
		return fmt.Errorf("cuda: %s: %w: %w", op, compute.ErrDeviceLost, err)
	case st == statusOutOfMemory && !errors.Is(err, compute.ErrNoMemory):
		return fmt.Errorf("cuda: %s: %w: %w", op, compute.ErrNoMemory, err)
	}
	return fmt.Errorf("cuda: %s: %w", op, err)
}

func (d *device) Run(ctx context.Context, fn func(compute.Ops)) error {
	return d.do(ctx, "Run", func(s *stream) error {
		o := &ops{d: d, s: s}
		fn(o)
		return o.err
	})
}

// Close waits for the Run under way, frees all memory of the device and ends its thread. A lost device closes too.
func (d *device) Close() error {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	if d.closed {
		return nil
	}
	d.closed = true
	err := d.onThread(func() error {
		if d.stream != nil {
			d.stream.close()
		}
		d.blas.close()
		for p := range d.held {
			_ = memFree(p)
		}
		clear(d.held)
		for _, m := range d.modules {
			m.unload()
		}
		return nil
	})
	close(d.jobs)
	d.ended.Wait()
	if e := d.ctx.release(); err == nil && e != nil && d.lost == nil {
		err = fmt.Errorf("cuda: Close: %w", e)
	}
	return err
}
