//go:build cuda

package cuda

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/compute/computetest"
)

// openTest opens GPU 0 for a test; without one there is nothing to test.
func openTest(t testing.TB) *device {
	t.Helper()
	if n, err := Count(); err != nil || n == 0 {
		t.Skipf("no CUDA device: %d, %v", n, err)
	}
	d, err := open(0)
	require.NoError(t, err)
	return d
}

// On the tensor cores both sides of a product are bfloat16; float32 weights are multiplied in float32.
func TestConformance(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	tol := computetest.Float32()
	tol.BF16, tol.I8, tol.I4 = 4e-3, 5e-3, 5e-3
	tol.Rounded = 8e-3
	computetest.Run(t, d, tol)
}

func TestLifecycle(t *testing.T) {
	computetest.Lifecycle(t, func() compute.Device { return openTest(t) })
}

func TestDescribe(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	info, err := Describe(0)
	require.NoError(t, err)
	assert.NotEmpty(t, info.Name)
	assert.NotEmpty(t, info.Driver)
	assert.GreaterOrEqual(t, info.Major, 8)
	assert.Positive(t, info.SMs)
	assert.Positive(t, info.FreeBytes)
	assert.GreaterOrEqual(t, info.TotalBytes, info.FreeBytes)
	n, err := Count()
	require.NoError(t, err)
	_, err = Describe(n)
	assert.ErrorContains(t, err, fmt.Sprintf("device %d", n))
	_, err = Open(n)
	assert.ErrorContains(t, err, fmt.Sprintf("device %d", n))
}

// More than the device has is refused with both figures, and changes nothing for what comes after.
func TestNoMemory(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	_, err := d.NewArena(1 << 50)
	require.ErrorIs(t, err, compute.ErrNoMemory)
	assert.ErrorContains(t, err, "NewArena")
	assert.ErrorContains(t, err, fmt.Sprint(1<<50))
	assert.ErrorContains(t, err, "free")
	a, err := d.NewArena(1 << 20)
	require.NoError(t, err)
	require.NoError(t, a.Close())
}

// TestDeviceLost leaves the GPU of no use to this process, so it runs in one of its own.
const lostProcess = "AFTERIMAGE_TEST_LOSE_DEVICE"

// A kernel that crashes is an error of the job that launched it; then the device is lost and says so at once, and it still closes.
func TestDeviceLost(t *testing.T) {
	if os.Getenv(lostProcess) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestDeviceLost$", "-test.v")
		cmd.Env = append(os.Environ(), lostProcess+"=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		t.Logf("%s", out)
		return
	}
	d := openTest(t)
	a, err := d.NewArena(1 << 20)
	require.NoError(t, err)
	err = d.do(t.Context(), "Run", func(s *stream) error {
		bad := copyArgs{dst: rowsAt(256, 1, 1000, compute.F32), src: rowsAt(512, 1, 1000, compute.F32)}
		start(s, "copy", [3]uint32{4, 1, 1}, threads256, 0, &bad, 0)
		return nil
	})
	require.ErrorIs(t, err, compute.ErrDeviceLost)
	assert.ErrorContains(t, err, "cuda: Run:")
	t.Log(err)
	err = d.Run(t.Context(), func(compute.Ops) { t.Error("ran on a lost device") })
	assert.ErrorIs(t, err, compute.ErrDeviceLost)
	_, err = d.NewArena(16)
	assert.ErrorIs(t, err, compute.ErrDeviceLost)
	_, err = d.NewWeight(compute.NewMatrix(2, 2), compute.F32)
	assert.ErrorIs(t, err, compute.ErrDeviceLost)
	assert.NoError(t, a.Close())
	assert.NoError(t, d.Close())

	// Whether this process may have the GPU again is the driver's to say.
	again, err := Open(0)
	if err != nil {
		assert.ErrorIs(t, err, compute.ErrDeviceLost)
		return
	}
	assert.NoError(t, again.Close())
}

// What is wrong with a launch is found before it runs.
func TestLaunchErrors(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	try := func(fn func(s *stream)) error {
		return d.do(t.Context(), "Run", func(s *stream) error { fn(s); return nil })
	}
	args := copyArgs{}
	assert.ErrorContains(t, try(func(s *stream) {
		start(s, "no_such", [3]uint32{1, 1, 1}, threads256, 0, &args, 0)
	}), "no_such")
	assert.ErrorContains(t, try(func(s *stream) {
		k, err := d.kernel("copy")
		require.NoError(t, err)
		s.launch(k, [3]uint32{1, 1, 1}, threads256, 0, unsafe.Pointer(&args), unsafe.Sizeof(args)-8, 0)
	}), "argument of")
	assert.ErrorContains(t, try(func(s *stream) {
		start(s, "copy", [3]uint32{1, 1, 1}, [3]uint32{2048, 1, 1}, 0, &args, 0)
	}), "kernel copy, grid [1 1 1], block [2048 1 1]")
	assert.ErrorContains(t, try(func(s *stream) {
		start(s, "copy", [3]uint32{1, 1, 1}, threads256, 1<<20, &args, 0)
	}), "shared memory")
	assert.NoError(t, try(func(*stream) {}))
}

// A graph does its work each time it is launched, with the buffers it was recorded with; what waits for the host cannot be recorded.
func TestGraph(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	a, err := d.NewArena(1 << 12)
	require.NoError(t, err)
	x, err := a.Alloc(3, 7)
	require.NoError(t, err)
	one, err := a.Alloc(1, 7)
	require.NoError(t, err)
	ones, got := compute.NewMatrix(1, 7), compute.NewMatrix(3, 7)
	for i := range ones.Data {
		ones.Data[i] = 1
	}
	err = d.do(t.Context(), "Run", func(s *stream) error {
		o := &ops{d: d, s: s}
		o.Upload(one, ones)
		g, err := d.capture(func(s *stream) error {
			o.Add(x, one)
			o.Add(x, one)
			return nil
		})
		if err != nil {
			return err
		}
		defer g.close()
		for range 5 {
			g.launch()
		}
		o.Download(got, x)
		return o.err
	})
	require.NoError(t, err)
	for _, v := range got.Data {
		assert.Equal(t, float32(10), v)
	}
	err = d.do(t.Context(), "Run", func(s *stream) error {
		_, err := d.capture(func(s *stream) error {
			s.upload(0, []byte{1})
			return nil
		})
		return err
	})
	assert.ErrorContains(t, err, "within a capture")
	assert.Panics(t, func() {
		_ = d.do(t.Context(), "Run", func(*stream) error {
			_, err := d.capture(func(*stream) error { panic("caller's bug") })
			return err
		})
	})
	require.NoError(t, d.Run(t.Context(), func(o compute.Ops) { o.Add(x, one) }))
}

// Staging goes round and round without mixing anything up.
func TestLargeCopies(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	for _, n := range []int{1, stagingHalf/4 - 1, stagingHalf / 4, stagingHalf/4 + 1, 5*stagingHalf/4 + 77} {
		in, out := compute.NewMatrix(1, n), compute.NewMatrix(1, n)
		for i := range in.Data {
			in.Data[i] = float32(i%1000003) + 0.5
		}
		a, err := d.NewArena(compute.AllocBytes(1, n))
		require.NoError(t, err)
		x, err := a.Alloc(1, n)
		require.NoError(t, err)
		require.NoError(t, d.Run(t.Context(), func(o compute.Ops) {
			for i := 0; i < n; i += max(1, n/3) { // in pieces of odd sizes too
				end := min(n, i+max(1, n/3))
				o.Upload(x.Columns(i, end), compute.Matrix{Rows: 1, Cols: end - i, Data: in.Data[i:end]})
			}
			o.Download(out, x)
		}))
		require.Equal(t, in.Data, out.Data)
		require.NoError(t, a.Close())
	}
}

// Elementwise ops beside what a copy of the same bytes by the driver takes; operands go round more memory than the cache holds.
func BenchmarkElementwise(b *testing.B) {
	d := openTest(b)
	defer func() { require.NoError(b, d.Close()) }()
	const rows, cols, rounds = 16384, 1024, 4
	var arena devptr
	require.NoError(b, d.do(b.Context(), "Benchmark", func(s *stream) (err error) {
		arena, err = d.alloc(rounds * 3 * rows * cols * 4)
		s.zero(arena, rounds*3*rows*cols*4)
		return err
	}))
	for _, as := range []compute.DType{compute.F32, compute.BF16} {
		at := func(i, j int) view {
			return rowsAt(arena+devptr((i%rounds*3+j)*rows*cols*4), rows, cols, as)
		}
		half := func(v view) view { v.cols /= 2; v.stride = cols; return v }
		size := float64(rows * cols * elementSize(as))
		for _, c := range []struct {
			name  string
			bytes float64
			run   func(s *stream, i int)
		}{
			{"driver copy", 2 * size, func(s *stream, i int) { s.copy(at(i, 0).p, at(i, 1).p, int64(size)) }},
			{"copy", 2 * size, func(s *stream, i int) {
				a := copyArgs{dst: at(i, 0), src: at(i, 1), wide: 1}
				start(s, "copy", over(rows, cols, 1), threads256, 0, &a, 0)
			}},
			{"add", 3 * size, func(s *stream, i int) { s.add(at(i, 0), at(i, 1)) }},
			{"layernorm", 2 * size, func(s *stream, i int) { s.norm(at(i, 0), at(i, 1), arena, arena, 1e-5) }},
			{"rmsnorm 2048", 2 * size, func(s *stream, i int) {
				x, y := at(i, 0), at(i, 1)
				x.rows, x.cols, x.stride = rows/2, cols*2, cols*2
				y.rows, y.cols, y.stride = rows/2, cols*2, cols*2
				s.norm(x, y, arena, 0, 1e-5)
			}},
			{"swiglu", 1.5 * size, func(s *stream, i int) { s.swiglu(half(at(i, 0)), at(i, 1)) }},
			{"rotate", 2 * size, func(s *stream, i int) {
				s.rotate(rotateArgs{x: at(i, 0), table: arena, tableStride: 64, n: rows, head: 64})
			}},
		} {
			b.Run(fmt.Sprintf("%s %v", c.name, as), func(b *testing.B) {
				require.NoError(b, d.do(b.Context(), "Benchmark", func(*stream) error {
					t, err := d.time(2*rounds, c.run)
					b.ReportMetric(c.bytes/t.Seconds()/1e9, "GB/s")
					b.ReportMetric(0, "ns/op")
					return err
				}))
			})
		}
	}
}
