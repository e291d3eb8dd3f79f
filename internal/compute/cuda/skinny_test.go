//go:build cuda

package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

func toBF16(f float32) uint16 {
	b := math.Float32bits(f)
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

func fromBF16(b uint16) float64 { return float64(math.Float32frombits(uint32(b) << 16)) }

func noise(rng *rand.Rand, n int, size, shift float64) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64()*size + shift)
	}
	return v
}

func rounded(v []float32) []uint16 {
	b := make([]uint16, len(v))
	for i, f := range v {
		b[i] = toBF16(f)
	}
	return b
}

func bytesOf16(v []uint16) []byte {
	b := make([]byte, 2*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint16(b[2*i:], x)
	}
	return b
}

// fenced is device memory between guard bands, full of NaN.
type fenced struct {
	p     devptr
	bytes int
}

const fence = 512

func (s *stream) fenced(t *testing.T, bytes int) fenced {
	p, err := s.d.alloc(int64(bytes + 2*fence))
	require.NoError(t, err)
	s.upload(p, slices.Repeat([]byte{0xff}, bytes+2*fence))
	return fenced{p + fence, bytes}
}

// read returns the memory after a look at the guards.
func (f fenced) read(t *testing.T, s *stream) []byte {
	all := make([]byte, f.bytes+2*fence)
	s.download(all, f.p-fence)
	require.NoError(t, s.err)
	for i, b := range all {
		if (i < fence || i >= fence+f.bytes) && b != 0xff {
			require.Fail(t, "written outside", "byte %d of %d", i-fence, f.bytes)
		}
	}
	return all[fence : fence+f.bytes]
}

func (f fenced) floats(t *testing.T, s *stream) []float32 {
	b := f.read(t, s)
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}

func (f fenced) halves(t *testing.T, s *stream) []uint16 {
	b := f.read(t, s)
	v := make([]uint16, len(b)/2)
	for i := range v {
		v[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return v
}

func (s *stream) put(t *testing.T, b []byte) devptr {
	p, err := s.d.alloc(int64(len(b)))
	require.NoError(t, err)
	s.upload(p, b)
	return p
}

// values reads a packed weight back in checkpoint order, exactly: [out][in], and the scale of each of them.
func (w *skinny) values(t *testing.T, s *stream) (value, scale [][]float64) {
	raw := make([]byte, w.strips*w.blocks*w.block)
	s.download(raw, w.p)
	rows := make([]float32, w.out)
	if w.as == compute.I8 {
		s.download(bytesOf(rows), w.scales)
	}
	require.NoError(t, s.err)
	for n := range w.out {
		p := n
		switch w.order {
		case rowsPaired:
			head, at, half := n/w.headDim, n%w.headDim, w.headDim/2
			p = head*w.headDim + at%half*2 + at/half
		case rowsGated:
			p = n%(w.out/2)*2 + n/(w.out/2)
		}
		strip, i := 0, p // of the strip
		for rows := func() int {
			if strip < w.extra {
				return (w.base + 1) * w.unit
			}
			return w.base * w.unit
		}; i >= rows(); strip++ {
			i -= rows()
		}
		v, sc := make([]float64, w.in), make([]float64, w.in)
		for c := range v {
			block := raw[(strip*w.blocks+c/w.width)*w.block:]
			at := c % w.width
			unit := block[i*64+at/8%4*16:]
			eight, e := at/32, at%8 // which eight of the sixteen bytes
			switch w.as {
			case compute.BF16:
				v[c], sc[c] = fromBF16(binary.LittleEndian.Uint16(unit[2*e:])), 1
			case compute.I8:
				sc[c] = float64(rows[p])
				v[c] = float64(int8(unit[eight*8+e/4*4+[]int{0, 2, 1, 3}[e%4]])) * sc[c]
			case compute.I4:
				sc[c] = fromBF16(binary.LittleEndian.Uint16(block[w.strip*64+i*2:]))
				word := binary.LittleEndian.Uint32(unit[eight*4:])
				v[c] = (float64(word>>[]int{0, 16, 4, 20, 8, 24, 12, 28}[e]&15) - 8) * sc[c]
			}
		}
		value, scale = append(value, v), append(scale, sc)
	}
	return value, scale
}

// packed makes a weight of noise.
func (s *stream) packed(t *testing.T, rng *rand.Rand, out, in int, as compute.DType, order rowOrder, headDim int) *skinny {
	w, err := s.d.newSkinny(out, in, as, order, headDim)
	require.NoError(t, err)
	src := s.put(t, bytesOf(noise(rng, out*in, 0.05, 0.001)))
	s.packSkinny(w, src, compute.F32, in, 0, out)
	s.d.free(src)
	return w
}

var skinnyTypes = []compute.DType{compute.BF16, compute.I8, compute.I4}

func onDevice(t *testing.T, fn func(s *stream)) {
	d := openTest(t)
	defer func() { require.NoError(t, d.Close()) }()
	require.NoError(t, d.do(t.Context(), "test", func(s *stream) error { fn(s); return nil }))
}

// Packing rounds no worse than the plain way and unpacking gives the same numbers back.
func TestSkinnyPack(t *testing.T) {
	onDevice(t, func(s *stream) {
		rng := rand.New(rand.NewPCG(1, 2))
		for _, c := range []struct {
			out, in, head int
			order         rowOrder
		}{{1, 8, 0, rowsPlain}, {67, 136, 0, rowsPlain}, {300, 896, 0, rowsPlain}, {160, 264, 80, rowsPaired}, {264, 336, 0, rowsGated}} {
			for _, as := range skinnyTypes {
				name := fmt.Sprint(c, as)
				src := noise(rng, c.out*(c.in+3), 0.05, 0.002)
				clear(src[:min(len(src), 131)]) // a group of zeros
				w, err := s.d.newSkinny(c.out, c.in, as, c.order, c.head)
				require.NoError(t, err)
				at := s.put(t, bytesOf(src))
				half := c.out / 2
				s.packSkinny(w, at, compute.F32, c.in+3, 0, half)
				s.packSkinny(w, at+devptr(half*(c.in+3)*4), compute.F32, c.in+3, half, c.out-half)
				value, scale := w.values(t, s)
				for n := range c.out {
					row := src[n*(c.in+3):][:c.in]
					for from := 0; from < c.in; from += w.width {
						to := min(c.in, from+w.width)
						var top, sum, plain float64
						for _, v := range row[from:to] {
							top = max(top, math.Abs(float64(v)))
						}
						for k := from; k < to; k++ {
							v, got := float64(row[k]), value[n][k]
							switch as {
							case compute.BF16:
								require.Equal(t, fromBF16(toBF16(row[k])), got, name)
							case compute.I8:
								require.InDelta(t, v, got, scale[n][k]*0.5001, name)
							case compute.I4:
								sum += (got - v) * (got - v)
								step := fromBF16(toBF16(float32(top / 7)))
								if step > 0 {
									d := math.Max(-8, math.Min(7, math.RoundToEven(v/step)))*step - v
									plain += d * d
								}
							}
						}
						require.LessOrEqual(t, sum, plain*1.001+1e-12, "%s: row %d, columns from %d", name, n, from)
					}
				}
				back := s.fenced(t, c.out*(c.in+1)*2)
				s.unpackSkinny(back.p, c.in+1, w, 0, half)
				s.unpackSkinny(back.p+devptr(half*(c.in+1)*2), c.in+1, w, half, c.out-half)
				got := back.halves(t, s)
				for n := range c.out {
					for k := range c.in {
						require.Equal(t, toBF16(float32(value[n][k])), got[n*(c.in+1)+k], name)
					}
					require.Equal(t, uint16(0xffff), got[n*(c.in+1)+c.in], name)
				}
				s.d.freeSkinny(w)
				s.d.free(at)
			}
		}
	})
}

// near compares with a float64 result: err is of the whole vector, relative to its size.
func near(t *testing.T, want, got []float64, err float64, msg string) {
	var d, n float64
	for i := range want {
		d += (want[i] - got[i]) * (want[i] - got[i])
		n += want[i] * want[i]
	}
	require.False(t, math.IsNaN(d), msg)
	require.LessOrEqual(t, math.Sqrt(d), err*math.Sqrt(n)+1e-12, msg)
}

// Products alone, of all shapes: right, and every row the same to the bit however many there are.
func TestSkinnyProduct(t *testing.T) {
	shapes := [][2]int{{1, 8}, {40, 24}, {77, 136}, {300, 896}, {5000, 776}, {3584, 2600}, {131, 9000}, {4300, 3592}}
	counts := []int{32, 1, 2, 5, 8, 9, 16, 17, 31}
	if testing.Short() { // for checkers: one strip a block and several, x all at once and in windows, one and two strips' sums
		shapes, counts = [][2]int{{1, 8}, {77, 136}, {5000, 264}, {131, 9000}}, []int{32, 1, 5, 9}
	}
	for _, as := range skinnyTypes {
		for _, c := range shapes {
			t.Run(fmt.Sprint(as, c), func(t *testing.T) { skinnyProduct(t, as, c[0], c[1], counts) })
		}
	}
}

// skinnyProduct holds a product of 32 rows against float64, and each of fewer rows against it, to the bit.
func skinnyProduct(t *testing.T, as compute.DType, out, in int, counts []int) {
	onDevice(t, func(s *stream) {
		rng := rand.New(rand.NewPCG(uint64(out), uint64(in)))
		w := s.packed(t, rng, out, in, as, rowsPlain, 0)
		value, _ := w.values(t, s)
		x := rounded(noise(rng, skinnyRows*(in+8), 1, 0))
		at := s.put(t, bytesOf16(x))
		var first []float32
		for _, rows := range counts {
			dst := s.fenced(t, ((rows-1)*(out+1)+out)*4)
			s.skinny(w, skinnyArgs{mode: modeLogits, rows: int32(rows), x: at, ldx: int32(in + 8), out: dst.p, ldo: int32(out + 1)})
			all := dst.floats(t, s)
			s.d.free(dst.p - fence)
			var got []float32
			for r := range rows {
				got = append(got, all[r*(out+1):][:out]...)
				if r+1 < rows {
					require.True(t, math.IsNaN(float64(all[r*(out+1)+out])), "between rows")
				}
			}
			if first != nil {
				require.Equal(t, first[:len(got)], got, "%d rows", rows)
				continue
			}
			first = got
			var want, is []float64
			for _, r := range []int{0, 7, 8, 30, 31} {
				for n := range out {
					var sum float64
					for i := range in {
						sum += fromBF16(x[r*(in+8)+i]) * value[n][i]
					}
					want, is = append(want, sum), append(is, float64(got[r*out+n]))
				}
			}
			near(t, want, is, 1e-5, "32 rows")
		}
		s.d.free(at)
		s.d.freeSkinny(w)
	})
}

// A layer of a decoder, product by product, against float64; and again with fewer rows, to the bit.
func TestSkinnyLayer(t *testing.T) {
	for _, as := range skinnyTypes {
		shapes := []struct{ hidden, heads, kvHeads, headDim, mlp int }{{128, 2, 1, 64, 136}, {896, 7, 1, 128, 1000}, {1200, 15, 3, 80, 416}}
		if testing.Short() {
			shapes = shapes[:1]
		}
		for _, c := range shapes {
			t.Run(fmt.Sprint(as, c), func(t *testing.T) { skinnyLayer(t, as, c.hidden, c.heads, c.kvHeads, c.headDim, c.mlp) })
		}
	}
}

func skinnyLayer(t *testing.T, as compute.DType, hidden, heads, kvHeads, headDim, mlp int) {
	onDevice(t, func(s *stream) {
		d := s.d
		rng := rand.New(rand.NewPCG(uint64(hidden), uint64(as)))
		const eps, pages, positions = 1e-5, 3, 40
		all := (heads + 2*kvHeads) * headDim
		qkv := s.packed(t, rng, all, hidden, as, rowsPaired, headDim)
		out := s.packed(t, rng, hidden, heads*headDim, as, rowsPlain, 0)
		gate := s.packed(t, rng, 2*mlp, hidden, as, rowsGated, 0)
		head := s.packed(t, rng, 333, hidden, as, rowsPlain, 0)
		x, norm, next, bias := noise(rng, skinnyRows*hidden, 2, 0.1), noise(rng, hidden, 0.2, 1), noise(rng, hidden, 0.2, 1), noise(rng, all, 1, 0)
		att := rounded(noise(rng, skinnyRows*heads*headDim, 1, 0))
		table := make([]float32, positions*headDim)
		for p := range positions {
			for j := range headDim / 2 {
				sin, cos := math.Sincos(float64(p) * math.Pow(10000, -2*float64(j)/float64(headDim)))
				table[p*headDim+j], table[p*headDim+headDim/2+j] = float32(cos), float32(sin)
			}
		}
		var position, slot, pick []int32
		for r := range skinnyRows {
			position, slot, pick = append(position, int32(rng.IntN(positions))), append(slot, int32(r*5+7)), append(pick, int32(r*7%skinnyRows))
		}
		slot[2] = -1
		r, err := d.newResidual(hidden)
		require.NoError(t, err)
		upload := func(v []float32) devptr { return s.put(t, bytesOf(v)) }
		a := skinnyQKVArgs{
			heads: heads, kvHeads: kvHeads, headDim: headDim, eps: eps, bias: upload(bias), table: upload(table),
			position: s.put(t, bytesOf(position)), slot: s.put(t, bytesOf(slot)), ldq: heads*headDim + 8,
		}
		var given []int32 // the rows of x come as embeddings do that are no tokens'
		for r := range skinnyRows {
			given = append(given, int32(-1-r))
		}
		visual, ids, count := upload(x), s.put(t, bytesOf(given)), s.put(t, make([]byte, 4))
		normAt, nextAt, attAt, pickAt := upload(norm), upload(next), s.put(t, bytesOf16(att)), s.put(t, bytesOf(pick))

		type results struct {
			q, k, v, mid, h []uint16
			x, logits       []float32
		}
		run := func(rows int) results {
			s.upload(count, bytesOf([]int32{int32(rows)}))
			q, k, v := s.fenced(t, rows*a.ldq*2), s.fenced(t, pages*kvHeads*64*headDim*2), s.fenced(t, pages*kvHeads*64*headDim*2)
			mid, logits := s.fenced(t, rows*mlp*2), s.fenced(t, max(rows, 3)*340*4)
			a.rows, a.q, a.k, a.v = rows, q.p, k.p, v.p
			wanted := 3
			if rows == skinnyRows {
				wanted = rows
			}
			s.passBegin(r, 0, visual, ids, count, normAt, rows)
			s.skinnyQKV(qkv, r, a)
			s.skinnyAdd(out, r, attAt, heads*headDim, nextAt, rows)
			s.skinnyGated(gate, r, eps, mid.p, mlp, rows)
			s.skinnyLogits(head, r, eps, pickAt, logits.p, 340, wanted)
			h, sum := make([]byte, rows*hidden*2), make([]float32, rows*hidden)
			s.download(h, r.h)
			s.download(bytesOf(sum), r.x)
			res := results{q: q.halves(t, s), k: k.halves(t, s), v: v.halves(t, s), mid: mid.halves(t, s), x: sum, logits: logits.floats(t, s)}
			for i := 0; i < len(h); i += 2 {
				res.h = append(res.h, binary.LittleEndian.Uint16(h[i:]))
			}
			for _, f := range []fenced{q, k, v, mid, logits} {
				d.free(f.p - fence)
			}
			return res
		}
		got := run(skinnyRows)

		// The same in float64, from the rounded inputs that each product has.
		value := map[*skinny][][]float64{}
		for _, w := range []*skinny{qkv, out, gate, head} {
			value[w], _ = w.values(t, s)
		}
		product := func(w *skinny, in func(row, i int) float64, row int) []float64 {
			x := make([]float64, w.in)
			for i := range x {
				x[i] = in(row, i)
			}
			y := make([]float64, w.out)
			for n := range y {
				for i, v := range value[w][n] {
					y[n] += v * x[i]
				}
			}
			return y
		}
		rms := func(x []float32) float64 {
			var sum float64
			for _, v := range x {
				sum += float64(v) * float64(v)
			}
			return 1 / math.Sqrt(sum/float64(len(x))+eps)
		}
		half := headDim / 2
		for _, row := range []int{0, 2, 13, 31} {
			before, after := x[row*hidden:][:hidden], got.x[row*hidden:][:hidden]
			scaleBefore := rms(before)
			y := product(qkv, func(r, i int) float64 { return fromBF16(toBF16(x[r*hidden+i]*norm[i])) * scaleBefore }, row)
			turned := make([]float64, all)
			for n := range y {
				y[n] += float64(bias[n])
			}
			for n := range y {
				turned[n] = y[n]
				if h, j := n/headDim, n%headDim; h < heads+kvHeads {
					cos, sin := float64(table[int(position[row])*headDim+j%half]), float64(table[int(position[row])*headDim+half+j%half])
					if j < half {
						turned[n] = y[n]*cos - y[n+half]*sin
					} else {
						turned[n] = y[n]*cos + y[n-half]*sin
					}
				}
			}
			var q []float64
			for n := range heads * headDim {
				q = append(q, fromBF16(got.q[row*a.ldq+n]))
			}
			near(t, turned[:heads*headDim], q, 4e-3, "queries")
			assert.Equal(t, uint16(0xffff), got.q[row*a.ldq+heads*headDim])
			if slot[row] >= 0 {
				for h := range kvHeads {
					at := ((int(slot[row])/64*kvHeads+h)*64 + int(slot[row])%64) * headDim
					var k, v []float64
					for j := range headDim {
						k, v = append(k, fromBF16(got.k[at+j])), append(v, fromBF16(got.v[at+j]))
					}
					near(t, turned[(heads+h)*headDim:][:headDim], k, 4e-3, "keys")
					near(t, turned[(heads+kvHeads+h)*headDim:][:headDim], v, 4e-3, "values")
				}
			}
			y = product(out, func(r, i int) float64 { return fromBF16(att[r*heads*headDim+i]) }, row)
			sum := make([]float64, hidden)
			var h, wantH []float64
			for i := range y {
				y[i] += float64(before[i])
				sum[i] = float64(after[i])
				h, wantH = append(h, fromBF16(got.h[row*hidden+i])), append(wantH, fromBF16(toBF16(after[i]*next[i])))
			}
			near(t, y, sum, 1e-5, "residual stream")
			require.Equal(t, wantH, h)
			scale := make([]float64, skinnyRows)
			for r := range scale {
				scale[r] = rms(got.x[r*hidden:][:hidden])
			}
			in := func(r, i int) float64 { return fromBF16(got.h[r*hidden+i]) * scale[r] }
			y = product(gate, in, row)
			var mid []float64
			for i := range mlp {
				y[i] *= y[mlp+i] / (1 + math.Exp(-y[i]))
				mid = append(mid, fromBF16(got.mid[row*mlp+i]))
			}
			near(t, y[:mlp], mid, 4e-3, "gate and up")
			y = product(head, in, int(pick[row]))
			var logits []float64
			for i := range y {
				logits = append(logits, float64(got.logits[row*340+i]))
			}
			near(t, y, logits, 1e-5, "logits")
		}
		written := 0
		for _, b := range got.k {
			if b != 0xffff {
				written++
			}
		}
		assert.Equal(t, (skinnyRows-1)*kvHeads*headDim, written, "keys written")

		for _, rows := range []int{1, 3, 8, 16, 20} {
			few := run(rows)
			assert.Equal(t, got.q[:len(few.q)], few.q)
			assert.Equal(t, got.mid[:len(few.mid)], few.mid)
			assert.Equal(t, got.h[:len(few.h)], few.h)
			assert.Equal(t, got.x[:len(few.x)], few.x)
			if rows > 14 { // the rows that pick names
				for i := range 3 {
					assert.Equal(t, got.logits[i*340:][:333], few.logits[i*340:][:333])
				}
			}
			for i, b := range few.k {
				assert.True(t, b == 0xffff || b == got.k[i] && few.v[i] == got.v[i])
			}
		}
	})
}
