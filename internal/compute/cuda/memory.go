//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"afterimage/internal/compute"
)

// alloc returns device memory, aligned to 256 bytes, not zeroed. d.free or closing the device gives it back.
func (d *device) alloc(bytes int64) (devptr, error) {
	if bytes < 0 {
		return 0, fmt.Errorf("cuda: allocation of %d bytes", bytes)
	}
	p, err := memAlloc(max(bytes, 1))
	if err == nil {
		d.held[p] = bytes
		return p, nil
	}
	if errors.Is(err, statusOutOfMemory) {
		free, total, e := memInfo()
		if e == nil {
			return 0, fmt.Errorf("%w: asked for %d bytes, %d of %d free: %w", compute.ErrNoMemory, bytes, free, total, err)
		}
	}
	return 0, fmt.Errorf("allocating %d bytes: %w", bytes, err)
}

// free gives back what alloc returned, after all that is in the stream. Zero is nothing.
func (d *device) free(p devptr) {
	if _, ok := d.held[p]; ok {
		delete(d.held, p)
		_ = memFree(p) // an error here is an earlier one's echo, and the next call will meet it too
	}
}

// scratchKind names a buffer that ops share one after another. Stream order keeps one op's from the next; two kinds may be in use
// within one op. Not for graphs, which outlive them.
type scratchKind int

const (
	scratchHost scratchKind = iota // what came from or goes to the host, before or after its type is changed
	scratchX                       // activations in the type that a product wants
	scratchW                       // a weight unpacked
	scratchSums                    // partial results
	scratchTable
	scratchKinds
)

// scratch returns at least bytes of a kind, with whatever it holds from before; zero after an error.
func (s *stream) scratch(kind scratchKind, bytes int64) devptr {
	b := &s.scratches[kind]
	if s.err != nil {
		return 0
	}
	if bytes <= b.bytes {
		return b.p
	}
	if s.capturing {
		s.fail(errors.New("cuda: scratch memory within a capture"))
		return 0
	}
	s.d.free(b.p)
	*b = block{}
	size := (bytes + bytes/4 + 1<<20 - 1) &^ (1<<20 - 1) // room to grow, so that a slowly growing shape does not allocate each time
	p, err := s.d.alloc(size)
	if errors.Is(err, compute.ErrNoMemory) {
		size = bytes
		p, err = s.d.alloc(size)
	}
	if s.fail(err) {
		*b = block{p, size}
	}
	return b.p
}

// zero clears device memory.
func (s *stream) zero(p devptr, bytes int64) {
	if s.err == nil && bytes > 0 {
		s.fail(memZero(p, bytes, &s.cu))
	}
}

// copy copies between two places on the device.
func (s *stream) copy(dst, src devptr, bytes int64) {
	if s.err == nil && bytes > 0 {
		s.fail(copyOnDevice(dst, src, bytes, &s.cu))
	}
}

// staging is page-locked memory through which everything from and to the host goes: two halves, one being filled while the device
// reads the other.
type staging struct {
	halves [2][]byte
	free   [2]cuEvent // when the device is done with a half
	half   int
	used   int // of the current half
}

const stagingHalf = 8 << 20

func (g *staging) open() error {
	for i := range g.halves {
		var err error
		if g.halves[i], err = pinned(stagingHalf); err != nil {
			g.close()
			return fmt.Errorf("page-locking %d bytes: %w", stagingHalf, err)
		}
		if g.free[i], err = newEvent(); err != nil {
			g.close()
			return fmt.Errorf("making an event: %w", err)
		}
	}
	return nil
}

func (g *staging) close() {
	for i := range g.halves {
		freePinned(g.halves[i])
		g.halves[i] = nil
		g.free[i].free()
	}
}

// stage returns up to n bytes of staging that the device no longer reads.
func (s *stream) stage(n int) []byte {
	g := &s.staging
	if g.used == stagingHalf || g.used+min(n, stagingHalf/8) > stagingHalf {
		if !s.fail(g.free[g.half].record(&s.cu)) {
			return nil
		}
		g.half ^= 1
		g.used = 0
		if !s.fail(g.free[g.half].wait()) {
			return nil
		}
	}
	b := g.halves[g.half][g.used:min(stagingHalf, g.used+n)]
	g.used = min(stagingHalf, (g.used+n+255)&^255)
	return b
}

// upload copies host memory to the device. src may change as soon as it returns.
func (s *stream) upload(dst devptr, src []byte) {
	if len(src) > 0 && s.capturing {
		s.fail(errors.New("cuda: upload within a capture"))
	}
	for s.err == nil && len(src) > 0 {
		b := s.stage(len(src))
		if s.err != nil {
			return
		}
		n := copyWide(b, src)
		s.fail(copyToDevice(dst, unsafe.Pointer(&b[0]), int64(n), &s.cu))
		dst += devptr(n)
		src = src[n:]
	}
}

// download copies device memory to the host and waits for it, and so for all before it.
func (s *stream) download(dst []byte, src devptr) {
	if len(dst) > 0 && s.capturing {
		s.fail(errors.New("cuda: download within a capture"))
	}
	// One piece is on its way while the one before is copied out.
	var last, lastDst []byte
	for s.err == nil && (len(dst) > 0 || last != nil) {
		var b, to []byte
		if len(dst) > 0 {
			if b = s.stage(min(len(dst), stagingHalf)); s.err != nil {
				return
			}
			to, dst = dst[:len(b)], dst[len(b):]
		}
		if last != nil && !s.fail(s.cu.sync()) {
			return
		}
		if b != nil && !s.fail(copyToHost(unsafe.Pointer(&b[0]), src, int64(len(b)), &s.cu)) {
			return
		}
		copyWide(lastDst, last)
		src += devptr(len(b))
		last, lastDst = b, to
	}
}

// copyWide is copy, by several threads when it is much: one does not keep up with the bus.
func copyWide(dst, src []byte) int {
	const piece = 1 << 20
	n := min(len(dst), len(src))
	var others sync.WaitGroup
	each := max(piece, n/min(8, runtime.GOMAXPROCS(0)))
	for from := each; from < n; from += each {
		others.Go(func() { copy(dst[from:min(from+each, n)], src[from:]) })
	}
	copy(dst[:min(each, n)], src)
	others.Wait()
	return n
}

// bytesOf is the memory of a slice of numbers.
func bytesOf[T byte | int32 | uint32 | uint64 | float32](v []T) []byte {
	if len(v) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), len(v)*int(unsafe.Sizeof(v[0])))
}
