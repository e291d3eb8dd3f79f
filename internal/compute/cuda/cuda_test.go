//go:build cuda

package cuda

import (
	"fmt"
	"math/rand/v2"
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

// The patches are those of exact integer sums, to the bit, for pictures of any size among each other.
func TestPatches(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	rng := rand.New(rand.NewPCG(1, 2))
	picture := func(w, h int) compute.Picture {
		p := compute.Picture{W: w, H: h, Pix: make([]byte, 3*w*h)}
		for i := range p.Pix {
			p.Pix[i] = byte(rng.Uint32())
		}
		return p
	}
	for _, c := range []struct {
		w, h, patch, merge int
		sizes              [][2]int
	}{
		{1, 1, 1, 0, [][2]int{{1, 1}, {7, 5}}},
		{4, 6, 2, 1, [][2]int{{1, 1}, {3, 5}, {4, 6}, {8, 12}, {8, 12}, {9, 7}}},
		{32, 16, 8, 0, [][2]int{{31, 17}, {640, 361}, {33, 1}, {1, 33}}},
		{28, 42, 14, 0, [][2]int{{1919, 1079}, {28, 42}, {27, 43}}},
		{224, 224, 14, 0, [][2]int{{1280, 720}, {1280, 720}, {333, 251}}},
		{24, 16, 4, 2, [][2]int{{37, 23}, {24, 16}, {1, 1}}},
		{45, 18, 3, 3, [][2]int{{640, 361}, {44, 19}}},
		{280, 168, 14, 2, [][2]int{{1280, 720}, {279, 169}}},
	} {
		args := compute.PatchArgs{W: c.w, H: c.h, Patch: c.patch, Merge: c.merge, Mean: [3]float32{0.48, 0.45, 0.4}, Std: [3]float32{0.26, 0.27, 0.28}}
		var pics []compute.Picture
		var want []float32
		for _, s := range c.sizes {
			p := picture(s[0], s[1])
			pics = append(pics, p)
			want = append(want, patchesOf(p, args)...)
		}
		per := c.w / c.patch * (c.h / c.patch)
		got := compute.NewMatrix(len(pics)*per, 3*c.patch*c.patch)
		a, err := d.NewArena(compute.AllocBytes(got.Rows, got.Cols+3))
		require.NoError(t, err)
		dst, err := a.Alloc(got.Rows, got.Cols+3)
		require.NoError(t, err)
		require.NoError(t, d.Run(t.Context(), func(o compute.Ops) {
			o.(compute.Patcher).Patches(dst.Columns(2, got.Cols+2), pics, args)
			o.Download(got, dst.Columns(2, got.Cols+2))
		}))
		assert.Equal(t, want, got.Data, "%dx%d in patches of %d, squares of %d", c.w, c.h, c.patch, c.merge)
		require.NoError(t, a.Close())
	}
}

// patchesOf is the definition: a grid so fine that both pictures are whole cells of it.
func patchesOf(p compute.Picture, c compute.PatchArgs) []float32 {
	gcd := func(a, b int) int {
		for b != 0 {
			a, b = b, a%b
		}
		return a
	}
	gx, gy := gcd(p.W, c.W), gcd(p.H, c.H)
	unitX, totalX, unitY, totalY := c.W/gx, p.W/gx, c.H/gy, p.H/gy
	overlap := func(cell, total, i, unit int) int { return min((cell+1)*total, (i+1)*unit) - max(cell*total, i*unit) }
	out := make([]float32, c.W*c.H*3)
	number := map[[2]int]int{} // of the patch at row, column
	m := max(c.Merge, 1)
	for top := 0; top < c.H/c.Patch; top += m {
		for left := 0; left < c.W/c.Patch; left += m {
			for i := range m * m {
				number[[2]int{top + i/m, left + i%m}] = len(number)
			}
		}
	}
	for y := range c.H {
		for x := range c.W {
			var sum [3]uint64
			for i := y * totalY / unitY; i*unitY < (y+1)*totalY; i++ {
				for j := x * totalX / unitX; j*unitX < (x+1)*totalX; j++ {
					weight := uint64(overlap(y, totalY, i, unitY)) * uint64(overlap(x, totalX, j, unitX))
					for ch := range sum {
						sum[ch] += weight * uint64(p.Pix[3*(i*p.W+j)+ch])
					}
				}
			}
			for ch := range sum {
				scale := 1 / (255 * (float64(totalX) * float64(totalY)) * float64(c.Std[ch]))
				shift := -float64(c.Mean[ch]) / float64(c.Std[ch])
				row := number[[2]int{y / c.Patch, x / c.Patch}]
				out[row*3*c.Patch*c.Patch+ch*c.Patch*c.Patch+y%c.Patch*c.Patch+x%c.Patch] = float32(float64(float64(sum[ch])*scale) + shift)
			}
		}
	}
	return out
}

func TestPatchesErrors(t *testing.T) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	a, err := d.NewArena(1 << 16)
	require.NoError(t, err)
	dst, err := a.Alloc(4, 12)
	require.NoError(t, err)
	good := compute.Picture{W: 2, H: 2, Pix: make([]byte, 12)}
	args := compute.PatchArgs{W: 4, H: 4, Patch: 2, Std: [3]float32{1, 1, 1}}
	for _, c := range []struct {
		pics []compute.Picture
		args compute.PatchArgs
		says string
	}{
		{[]compute.Picture{good, good}, args, "2 pictures"},
		{[]compute.Picture{{W: 2, H: 3, Pix: make([]byte, 12)}}, args, "picture 0 of 2x3 has 12 bytes"},
		{[]compute.Picture{good}, compute.PatchArgs{W: 4, H: 5, Patch: 2}, "do not tile"},
		{[]compute.Picture{good}, compute.PatchArgs{W: 4, H: 4, Patch: 2, Merge: 3}, "squares of 3"},
	} {
		err := d.Run(t.Context(), func(o compute.Ops) { o.(compute.Patcher).Patches(dst, c.pics, c.args) })
		assert.ErrorContains(t, err, c.says)
	}
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
