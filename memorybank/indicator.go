package memorybank

import "math"

// Indicator is where an entry lies in the space that questions are put in too: a unit vector, each component held as FP8 E4M3
// (1 sign, 4 exponent and 3 mantissa bits, as in the OCP 8-bit format; the largest is 448), scaled so that the largest component
// uses the largest value. Cosines do not depend on that scale. The zero Indicator is none. It is immutable.
//
// Keeping a retrieval index in FP8 costs almost nothing in recall (arXiv 2505.00105): 128 components take 132 bytes.
type Indicator struct {
	codes string
	inv   float32 // 1 / length of the decoded vector
}

// NewIndicator rounds v, of any length above zero. A zero vector, and one with values that are not finite, give none.
func NewIndicator(v []float32) Indicator {
	var most float64
	for _, x := range v {
		most = max(most, math.Abs(float64(x))) // max keeps a NaN
	}
	if !(most > 0) || math.IsInf(most, 0) {
		return Indicator{}
	}
	codes := make([]byte, len(v))
	for i, x := range v {
		codes[i] = toE4M3(float64(x) / most * e4m3Max)
	}
	return indicatorOf(codes)
}

// indicatorOf is the indicator with these codes; none where they say nothing.
func indicatorOf(codes []byte) Indicator { return indicatorOver(string(codes)) }

// indicatorOver is indicatorOf without a copy.
func indicatorOver(codes string) Indicator {
	var sum float64
	for i := range len(codes) {
		d := float64(fromE4M3[codes[i]])
		sum += d * d
	}
	if sum == 0 {
		return Indicator{}
	}
	return Indicator{codes, float32(1 / math.Sqrt(sum))}
}

// None reports whether there is no vector.
func (i Indicator) None() bool { return i.codes == "" }

// Dim is the number of components.
func (i Indicator) Dim() int { return len(i.codes) }

// Vector returns the unit vector; nil of none.
func (i Indicator) Vector() []float32 {
	if i.None() {
		return nil
	}
	v := make([]float32, len(i.codes))
	for k := range v {
		v[k] = fromE4M3[i.codes[k]] * i.inv
	}
	return v
}

// Cosine returns the cosine between i and a unit vector, -1 where there is none or the dimensions differ: such an entry is taken last.
func (i Indicator) Cosine(unit []float32) float64 {
	if i.None() || len(unit) != len(i.codes) {
		return -1
	}
	var s0, s1, s2, s3 float32
	c, value := i.codes, &fromE4M3
	for len(c) >= 8 && len(unit) >= 8 { // written so that no index needs to be checked
		s0 += value[c[0]] * unit[0]
		s1 += value[c[1]] * unit[1]
		s2 += value[c[2]] * unit[2]
		s3 += value[c[3]] * unit[3]
		s0 += value[c[4]] * unit[4]
		s1 += value[c[5]] * unit[5]
		s2 += value[c[6]] * unit[6]
		s3 += value[c[7]] * unit[7]
		c, unit = c[8:], unit[8:]
	}
	for k, u := range unit {
		s0 += value[c[k]] * u
	}
	return float64((s0 + s1 + s2 + s3) * i.inv)
}

// mixIndicators returns the direction of wa*a + wb*b. Equal indicators mix to themselves, bit for bit.
func mixIndicators(a Indicator, wa float32, b Indicator, wb float32) Indicator {
	switch {
	case a == b || b.None():
		return a
	case a.None():
		return b
	case len(a.codes) != len(b.codes):
		if wb > wa {
			return b
		}
		return a
	}
	v, w := a.Vector(), b.Vector()
	for k := range v {
		v[k] = wa*v[k] + wb*w[k]
	}
	return NewIndicator(v)
}

const e4m3Max = 448

// fromE4M3 decodes; 0x7f and 0xff (not a number) are never made and decode to 0.
var fromE4M3 = func() (t [256]float32) {
	for c := range 256 {
		exponent, mantissa := c>>3&15, float64(c&7)
		var v float64
		switch {
		case c&0x7f == 0x7f:
		case exponent == 0:
			v = math.Ldexp(mantissa, -9)
		default:
			v = math.Ldexp(8+mantissa, exponent-10)
		}
		if c >= 128 {
			v = -v
		}
		t[c] = float32(v)
	}
	return t
}()

// toE4M3 rounds to the nearest value, ties to even mantissas; |x| is at most 448.
func toE4M3(x float64) byte {
	sign := byte(0)
	if math.Signbit(x) {
		sign, x = 128, -x
	}
	_, e := math.Frexp(x) // x in [2^(e-1), 2^e)
	step := max(e-4, -9)  // of the last mantissa bit
	n := int(math.RoundToEven(math.Ldexp(x, -step)))
	if n == 16 { // rounded up to the next power of two
		n, step = 8, step+1
	}
	if n < 8 { // subnormal
		return sign | byte(n)
	}
	return sign | byte((step+10)<<3+n-8)
}
