//go:build cuda

package cuda

// #cgo CFLAGS: -O2
// #cgo LDFLAGS: -lcuda
// #include "driver.h"
import "C"

import (
	"fmt"
	"reflect"
	"runtime"
	"unsafe"

	"gorgonia.org/cu"
)

// This is the one file that knows gorgonia.org/cu and the C calls beside it. cu initialises CUDA when it is imported and ends the
// process where that fails, which is why the whole package is behind a build tag.

// devptr is an address in device memory.
type devptr = cu.DevicePtr

// status is a CUresult other than success.
type status int32

func (e status) Error() string {
	var name, text *C.char
	if C.af_error_text(C.int(e), &name, &text) != 0 {
		return fmt.Sprintf("CUDA error %d", int32(e))
	}
	return fmt.Sprintf("%s (%s)", C.GoString(text), C.GoString(name))
}

const (
	statusOutOfMemory status = C.CUDA_ERROR_OUT_OF_MEMORY
	statusNoBinary    status = C.CUDA_ERROR_NO_BINARY_FOR_GPU
)

// gone reports whether a context that returned e can never be used again.
func (e status) gone() bool {
	switch C.CUresult(e) {
	case C.CUDA_ERROR_ECC_UNCORRECTABLE, C.CUDA_ERROR_NVLINK_UNCORRECTABLE, C.CUDA_ERROR_ILLEGAL_ADDRESS, C.CUDA_ERROR_LAUNCH_TIMEOUT,
		C.CUDA_ERROR_ASSERT, C.CUDA_ERROR_HARDWARE_STACK_ERROR, C.CUDA_ERROR_ILLEGAL_INSTRUCTION, C.CUDA_ERROR_MISALIGNED_ADDRESS,
		C.CUDA_ERROR_INVALID_ADDRESS_SPACE, C.CUDA_ERROR_INVALID_PC, C.CUDA_ERROR_LAUNCH_FAILED, C.CUDA_ERROR_CONTEXT_IS_DESTROYED,
		C.CUDA_ERROR_DEINITIALIZED, C.CUDA_ERROR_DEVICE_UNAVAILABLE, C.CUDA_ERROR_EXTERNAL_DEVICE, C.CUDA_ERROR_SYSTEM_NOT_READY,
		C.CUDA_ERROR_UNKNOWN:
		return true
	}
	return false
}

// of turns cu's errors, whose type it keeps to itself, into a status. The last argument of a call is its error.
func of(err error) error {
	if err == nil {
		return nil
	}
	if v := reflect.ValueOf(err); v.CanInt() {
		return status(v.Int())
	}
	return err
}

func check(rc C.int) error {
	if rc == 0 {
		return nil
	}
	return status(rc)
}

type (
	cuStream   struct{ cu.Stream }
	cuFunction struct{ cu.Function }
	cuEvent    struct{ cu.Event }
	cuGraph    struct{ exec C.CUgraphExec }
)

// c is the handle within; cu keeps its own C types, which are the same ones.
func (s *cuStream) c() C.CUstream     { return *(*C.CUstream)(unsafe.Pointer(&s.Stream)) }
func (f *cuFunction) c() C.CUfunction { return *(*C.CUfunction)(unsafe.Pointer(&f.Function)) }

func (s *cuStream) sync() error { return of(s.Synchronize()) }

func newStream() (cuStream, error) {
	s, err := cu.MakeStream(cu.NonBlocking)
	return cuStream{s}, of(err)
}

func newEvent() (cuEvent, error) {
	e, err := cu.MakeEvent(cu.DefaultEvent)
	return cuEvent{e}, of(err)
}

func (e *cuEvent) record(s *cuStream) error { return of(e.Record(s.Stream)) }
func (e *cuEvent) wait() error              { return of(e.Synchronize()) }
func (e *cuEvent) free()                    { _ = cu.DestroyEvent(&e.Event) }

// since is the milliseconds of device time from start to e; both must have happened.
func (e *cuEvent) since(start *cuEvent) (float64, error) {
	ms, err := start.Elapsed(e.Event)
	return ms, of(err)
}

func deviceCount() (int, error) {
	n, err := cu.NumDevices()
	return n, of(err)
}

// cuContext is a device's primary context, held.
type cuContext struct {
	dev cu.Device
	ctx cu.CUContext
}

func holdContext(ordinal int) (cuContext, error) {
	dev, err := cu.GetDevice(ordinal)
	if err != nil {
		return cuContext{}, of(err)
	}
	ctx, err := dev.RetainPrimaryCtx()
	return cuContext{dev, ctx}, of(err)
}

// bind makes c current on this OS thread.
func (c cuContext) bind() error { return of(cu.SetCurrentContext(c.ctx)) }

func (c cuContext) release() error {
	_ = cu.SetCurrentContext(cu.CUContext{})
	return of(c.dev.ReleasePrimaryCtx())
}

// describe needs no context. FreeBytes is left zero.
func describe(ordinal int) (Info, error) {
	dev, err := cu.GetDevice(ordinal)
	if err != nil {
		return Info{}, of(err)
	}
	info := Info{Ordinal: ordinal}
	var pci [16]C.char
	for _, step := range []func() error{
		func() (err error) { info.Name, err = dev.Name(); return of(err) },
		func() (err error) { info.TotalBytes, err = dev.TotalMem(); return of(err) },
		func() (err error) { info.Major, err = dev.Attribute(cu.ComputeCapabilityMajor); return of(err) },
		func() (err error) { info.Minor, err = dev.Attribute(cu.ComputeCapabilityMinor); return of(err) },
		func() (err error) { info.SMs, err = dev.Attribute(cu.MultiprocessorCount); return of(err) },
		func() (err error) { info.L2Bytes, err = dev.Attribute(cu.L2CacheSize); return of(err) },
		func() error { return check(C.af_device_id(C.int(ordinal), &pci[0])) },
	} {
		if err := step(); err != nil {
			return Info{}, err
		}
	}
	info.PCI = C.GoString(&pci[0])
	if v := cu.Version(); v > 0 {
		info.Driver = fmt.Sprintf("%d.%d", v/1000, v%1000/10)
	}
	return info, nil
}

func memInfo() (free, total int64, err error) {
	free, total, err = cu.MemInfo()
	return free, total, of(err)
}

func memAlloc(bytes int64) (devptr, error) {
	p, err := cu.MemAlloc(bytes)
	return p, of(err)
}

func memFree(p devptr) error { return of(cu.MemFree(p)) }

func memZero(p devptr, bytes int64, s *cuStream) error {
	return of(cu.MemsetD8Async(p, 0, bytes, s.Stream))
}

func copyToDevice(dst devptr, src unsafe.Pointer, bytes int64, s *cuStream) error {
	return of(cu.MemcpyHtoDAsync(dst, src, bytes, s.Stream))
}

func copyToHost(dst unsafe.Pointer, src devptr, bytes int64, s *cuStream) error {
	return of(cu.MemcpyDtoHAsync(dst, src, bytes, s.Stream))
}

func copyOnDevice(dst, src devptr, bytes int64, s *cuStream) error {
	return of(cu.MemcpyDtoDAsync(dst, src, bytes, s.Stream))
}

// pinned returns page-locked host memory, which the device copies to and from at full speed while the host goes on.
func pinned(bytes int) ([]byte, error) {
	var p unsafe.Pointer
	if err := check(C.af_host_alloc(&p, C.size_t(bytes))); err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(p), bytes), nil
}

func freePinned(b []byte) {
	if b != nil {
		_ = cu.MemFreeHost(unsafe.Pointer(&b[0]))
	}
}

type cuModule struct{ cu.Module }

func loadModule(image []byte) (cuModule, error) {
	m, err := cu.LoadData(unsafe.String(&image[0], len(image)))
	return cuModule{m}, of(err)
}

func (m cuModule) unload() { _ = m.Unload() }

// names lists the module's kernels.
func (m cuModule) names() ([]string, error) {
	handle := *(*C.CUmodule)(unsafe.Pointer(&m.Module))
	var n C.uint
	if err := check(C.af_module_count(handle, &n)); err != nil || n == 0 {
		return nil, err
	}
	names := make([]string, n)
	for i := range names {
		var name *C.char
		if err := check(C.af_module_name(handle, n, C.uint(i), &name)); err != nil {
			return nil, err
		}
		names[i] = C.GoString(name)
	}
	return names, nil
}

func (m cuModule) function(name string) (cuFunction, error) {
	f, err := m.Function(name)
	return cuFunction{f}, of(err)
}

// word reads a 32-bit variable of the module.
func (m cuModule) word(name string) (uint32, error) {
	p, size, err := m.Global(name)
	if err != nil {
		return 0, of(err)
	}
	var v uint32
	if size != int64(unsafe.Sizeof(v)) {
		return 0, fmt.Errorf("%s has %d bytes", name, size)
	}
	err = of(cu.MemcpyDtoH(unsafe.Pointer(&v), p, size))
	return v, err
}

// functionInfo is what one thread or block of a kernel takes.
type functionInfo struct{ Regs, Shared, Local, MaxThreads int }

func (f *cuFunction) info() (functionInfo, error) {
	var regs, smem, local, threads C.int
	err := check(C.af_function_info(f.c(), &regs, &smem, &local, &threads))
	return functionInfo{int(regs), int(smem), int(local), int(threads)}, err
}

func (f *cuFunction) allowShared(bytes uint32) error {
	return check(C.af_function_smem(f.c(), C.int(bytes)))
}

func (f *cuFunction) launch(s *cuStream, grid, block [3]uint32, smem uint32, overlap bool, args unsafe.Pointer) error {
	l := C.af_launch{
		grid:  [3]C.uint32_t{C.uint32_t(grid[0]), C.uint32_t(grid[1]), C.uint32_t(grid[2])},
		block: [3]C.uint32_t{C.uint32_t(block[0]), C.uint32_t(block[1]), C.uint32_t(block[2])},
		smem:  C.uint32_t(smem),
	}
	if overlap {
		l.overlap = 1
	}
	return check(C.af_launch_kernel(f.c(), s.c(), &l, args))
}

func captureBegin(s *cuStream) error { return check(C.af_capture_begin(s.c())) }

func captureEnd(s *cuStream, keep bool) (g cuGraph, err error) {
	k := C.int(0)
	if keep {
		k = 1
	}
	err = check(C.af_capture_end(s.c(), k, &g.exec))
	return g, err
}

func (g *cuGraph) launch(s *cuStream) error { return check(C.af_graph_launch(g.exec, s.c())) }

func (g *cuGraph) free() {
	if g.exec != nil {
		C.af_graph_free(g.exec)
		g.exec = nil
	}
}

// tensorMap is a TMA descriptor, passed by value inside a kernel's arguments at an offset that is a multiple of 64.
type tensorMap [128]byte

// Element types and shared-memory swizzles of tensor maps.
const (
	mapU8   = C.CU_TENSOR_MAP_DATA_TYPE_UINT8
	mapF32  = C.CU_TENSOR_MAP_DATA_TYPE_FLOAT32
	mapBF16 = C.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16

	swizzleNone = C.CU_TENSOR_MAP_SWIZZLE_NONE
	swizzle32   = C.CU_TENSOR_MAP_SWIZZLE_32B
	swizzle64   = C.CU_TENSOR_MAP_SWIZZLE_64B
	swizzle128  = C.CU_TENSOR_MAP_SWIZZLE_128B
)

// encodeTensorMap describes memory for TMA: sizes in elements, innermost first; strides, in bytes and multiples of 16, of all
// dimensions but the innermost; box is the part that one copy moves. What lies outside reads as zero.
func encodeTensorMap(as int, base devptr, dims, strides []uint64, box []uint32, swizzle int) (m tensorMap, err error) {
	if len(dims) == 0 || len(dims) > 5 || len(strides) != len(dims)-1 || len(box) != len(dims) {
		return m, fmt.Errorf("a tensor map of %d dimensions, %d strides and a box of %d", len(dims), len(strides), len(box))
	}
	var st *C.uint64_t
	if len(strides) > 0 {
		st = (*C.uint64_t)(&strides[0])
	}
	err = check(C.af_tensor_map(unsafe.Pointer(&m), C.int(as), C.int(len(dims)), C.uint64_t(base), (*C.uint64_t)(&dims[0]), st,
		(*C.uint32_t)(&box[0]), C.int(swizzle)))
	runtime.KeepAlive(strides)
	return m, err
}
