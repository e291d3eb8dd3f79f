package compute

import (
	"errors"
	"fmt"
	"math"
)

// Picture is RGB24 in host memory, rows without gaps.
type Picture struct {
	W, H int
	Pix  []byte
}

// Filter is what one Step does to a picture.
type Filter uint8

const (
	// Area averages over what a pixel covers, without keeping the aspect: exact sums, not rounded to bytes. It is the only step.
	Area Filter = iota
	// Bilinear, Bicubic and Lanczos are Pillow's antialiased filters, bit for bit: across and then down (which Pillow 13 has turned round
	// for some sizes), each time by the weights of NewTaps, rounded to bytes.
	Bilinear
	Bicubic
	Lanczos
	// Place does not resize: the picture is laid on a canvas of Fill with its top left corner at X, Y. What lies outside is cut off.
	Place
)

func (f Filter) String() string {
	names := [...]string{"area", "bilinear", "bicubic", "lanczos", "place"}
	if int(f) < len(names) {
		return names[f]
	}
	return fmt.Sprintf("Filter(%d)", f)
}

// Step makes a picture of W x H from the one before it. X, Y and Fill, a colour, are Place's alone.
type Step struct {
	Filter Filter
	W, H   int
	X, Y   int
	Fill   [3]uint8
}

// Place lays p on dst, RGB24 of W x H.
func (s Step) Place(dst []byte, p Picture) {
	for i := 0; i < 3*s.W*s.H; i += 3 {
		copy(dst[i:], s.Fill[:])
	}
	left, right := max(s.X, 0), min(s.X+p.W, s.W)
	for y := max(s.Y, 0); y < min(s.Y+p.H, s.H) && left < right; y++ {
		copy(dst[3*(y*s.W+left):], p.Pix[3*((y-s.Y)*p.W+left-s.X):][:3*(right-left)])
	}
}

// PatchArgs say how a picture becomes rows: through Steps, at least one, then (value/255 - Mean)/Std, then cut into squares of Patch
// pixels. The patches come row by row, or with Merge above 1 square by square of Merge x Merge of them, row by row within a square
// and the squares row by row. With Pair above 1 so many pictures after one another share each row.
type PatchArgs struct {
	Steps              []Step
	Patch, Merge, Pair int
	Mean, Std          [3]float32
}

// Size is that of the picture which is cut into patches.
func (a PatchArgs) Size() (w, h int) {
	last := a.Steps[len(a.Steps)-1]
	return last.W, last.H
}

// Area says whether the picture is averaged, so that its values are no bytes.
func (a PatchArgs) Area() bool { return a.Steps[0].Filter == Area }

// Values are what bytes become, by channel: rounded once, so that they are the same on every device.
func (a PatchArgs) Values() (v [3][256]float32) {
	for c := range v {
		for i := range v[c] {
			v[c][i] = float32((float64(i)/255 - float64(a.Mean[c])) / float64(a.Std[c]))
		}
	}
	return v
}

// Refine divides a side of src pixels and one of dst into the fewest units that both are whole numbers of: of a pixel of dst total, of
// one of src unit.
func Refine(src, dst int) (unit, total int) {
	a, b := src, dst
	for b != 0 {
		a, b = b, a%b
	}
	return dst / a, src / a
}

// Affine is what an averaged picture's sums, over totalX times totalY units, are multiplied by and what is then added, each rounded in
// double precision.
func (a PatchArgs) Affine(totalX, totalY int) (scale, shift [3]float64) {
	area := float64(totalX) * float64(totalY)
	for c := range scale {
		scale[c] = 1 / (255 * area * float64(a.Std[c]))
		shift[c] = -float64(a.Mean[c]) / float64(a.Std[c])
	}
	return scale, shift
}

// maxSide and maxPixels bound a picture: weights of a side take 50 MB then, a step 400 MB, and no sum of areas overflows.
const (
	maxSide   = 1 << 20
	maxPixels = 1 << 27
)

// CheckPicture refuses a picture that is malformed or too large to resize.
func CheckPicture(p Picture) error {
	if p.W <= 0 || p.H <= 0 || p.W > maxSide || p.H > maxSide || p.W*p.H > maxPixels {
		return fmt.Errorf("picture of %dx%d", p.W, p.H)
	}
	if len(p.Pix) != 3*p.W*p.H {
		return fmt.Errorf("picture of %dx%d: want %d bytes, have %d", p.W, p.H, 3*p.W*p.H, len(p.Pix))
	}
	return nil
}

// CheckSteps refuses steps of which one cannot be, or would make of a picture of w x h one that is too large.
func CheckSteps(w, h int, steps []Step) error {
	if len(steps) == 0 {
		return errors.New("no steps")
	}
	for i, s := range steps {
		switch {
		case s.W <= 0 || s.H <= 0 || s.W > maxSide || s.H > maxSide || s.W*s.H > maxPixels:
			return fmt.Errorf("step %d of %dx%d leads to %dx%d", i, w, h, s.W, s.H)
		case s.Filter > Place || s.Filter == Area && len(steps) > 1:
			return fmt.Errorf("step %d of %d is %v", i, len(steps), s.Filter)
		case max(s.X, -s.X) > maxSide || max(s.Y, -s.Y) > maxSide:
			return fmt.Errorf("step %d of %dx%d lays it at %d, %d", i, w, h, s.X, s.Y)
		case s.Filter != Area && s.Filter != Place && s.W*h > maxPixels:
			return fmt.Errorf("step %d of %dx%d leads by way of %dx%d", i, w, h, s.W, h)
		}
		w, h = s.W, s.H
	}
	return nil
}

func CheckPatches(dst Tensor, pics []Picture, a PatchArgs) error {
	const op = "Patches"
	if err := present(op, "dst", dst); err != nil {
		return err
	}
	first := Picture{W: 1, H: 1}
	if len(pics) > 0 {
		first = pics[0]
	}
	if err := CheckSteps(first.W, first.H, a.Steps); err != nil {
		return shapeError(op, "%v", err)
	}
	w, h := a.Size()
	merge, pair := max(a.Merge, 1), max(a.Pair, 1)
	switch {
	case a.Patch <= 0 || w%a.Patch != 0 || h%a.Patch != 0:
		return shapeError(op, "patches of %d do not tile %dx%d", a.Patch, w, h)
	case a.Merge < 0 || w/a.Patch%merge != 0 || h/a.Patch%merge != 0:
		return shapeError(op, "squares of %d patches of %d do not tile %dx%d", a.Merge, a.Patch, w, h)
	case a.Pair < 0 || len(pics)%pair != 0:
		return shapeError(op, "%d pictures make no rows of %d", len(pics), a.Pair)
	case dst.Rows != len(pics)/pair*(w/a.Patch)*(h/a.Patch) || dst.Cols != 3*pair*a.Patch*a.Patch:
		return shapeError(op, "dst %s does not fit %d pictures of %dx%d in patches of %d", dst.Shape(), len(pics), w, h, a.Patch)
	}
	for i, p := range pics {
		if err := CheckPicture(p); err != nil {
			return shapeError(op, "picture %d: %v", i, err)
		}
		if p.W != pics[0].W || p.H != pics[0].H {
			return shapeError(op, "picture %d of %dx%d after one of %dx%d", i, p.W, p.H, pics[0].W, pics[0].H)
		}
	}
	return nil
}

// Taps are the weights by which n pixels of one side of a picture become others: pixel j is made of Count[j] neighbours from First[j]
// on, by Weight[j*Size:][:Count[j]]; those beyond Count are 0. Weights are whole numbers with TapBits bits after the point.
type Taps struct {
	Size         int
	First, Count []int32
	Weight       []int32
}

// TapBits leaves bytes times weights room in an int32.
const TapBits = 22

// NewTaps makes the weights of Bilinear, Bicubic or Lanczos from src to dst pixels. A filter grows with the pixels that it makes
// smaller, so that all of them count.
func NewTaps(f Filter, src, dst int) *Taps {
	kernel, support := f.kernel()
	scale := float64(src) / float64(dst)
	grow := max(scale, 1)
	support *= grow
	t := &Taps{Size: int(math.Ceil(support))*2 + 1, First: make([]int32, dst), Count: make([]int32, dst)}
	t.Weight = make([]int32, dst*t.Size)
	w := make([]float64, t.Size)
	for j := range dst {
		centre := (float64(j) + 0.5) * scale
		first := max(int(centre-support+0.5), 0)
		n := min(int(centre+support+0.5), src) - first
		var sum float64
		for i := range n {
			w[i] = kernel((float64(i+first) - centre + 0.5) * (1 / grow))
			sum += w[i]
		}
		for i, v := range w[:n] {
			if sum != 0 {
				v /= sum
			}
			t.Weight[j*t.Size+i] = int32(v*(1<<TapBits) + math.Copysign(0.5, v))
		}
		t.First[j], t.Count[j] = int32(first), int32(n)
	}
	return t
}

// kernel is a filter's curve and how far it reaches, at the size of the source's pixels.
func (f Filter) kernel() (curve func(x float64) float64, support float64) {
	switch f {
	case Bicubic: // Keys' with a = -1/2
		return func(x float64) float64 {
			const a = -0.5
			switch x = math.Abs(x); {
			case x < 1:
				return ((a+2)*x-(a+3))*x*x + 1
			case x < 2:
				return (((x-5)*x+8)*x - 4) * a
			}
			return 0
		}, 2
	case Lanczos:
		sinc := func(x float64) float64 {
			if x == 0 {
				return 1
			}
			x *= math.Pi
			return math.Sin(x) / x
		}
		return func(x float64) float64 {
			if x < -3 || x >= 3 {
				return 0
			}
			return sinc(x) * sinc(x/3)
		}, 3
	}
	return func(x float64) float64 { return max(1-math.Abs(x), 0) }, 1
}

// TapCache keeps the weights of the sizes that were asked for last. Its zero value is ready; it is for one goroutine at a time.
type TapCache struct{ kept map[tapKey]*Taps }

type tapKey struct {
	f        Filter
	src, dst int
}

// Get is NewTaps, remembered.
func (c *TapCache) Get(f Filter, src, dst int) *Taps {
	const most = 64 // pairs of sides: more than cameras have
	key := tapKey{f, src, dst}
	t := c.kept[key]
	if t == nil {
		if c.kept == nil || len(c.kept) == most {
			c.kept = map[tapKey]*Taps{}
		}
		t = NewTaps(f, src, dst)
		c.kept[key] = t
	}
	return t
}

// PatchOrder says where patches lie among a picture's rows: that at y, x is row down[y] + across[x]. Rows go as PatchArgs.Merge says.
func PatchOrder(gridH, gridW, merge int) (down, across []int) {
	m := max(merge, 1)
	down, across = make([]int, gridH), make([]int, gridW)
	for y := range down {
		down[y] = y/m*m*gridW + y%m*m
	}
	for x := range across {
		across[x] = x/m*m*m + x%m
	}
	return down, across
}
