package weights

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"runtime"
	"slices"
	"sync"
)

// maxHeader is the limit of the format itself: it keeps a hostile length from asking for memory.
const maxHeader = 100_000_000

// wordSize is the bytes of one element. Only F32, F16 and BF16 can be fetched; the others may stand in a file unused.
var wordSize = map[string]uint64{
	"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
	"U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}

// tensor is one entry of a file; data shares memory with the file.
type tensor struct {
	file  string
	dtype string
	shape []int
	data  []byte

	mapped bool                // data are a mapped file's
	random func(dst []float32) // writes the elements, where there are no data
}

type header struct {
	DType   string   `json:"dtype"`
	Shape   []uint64 `json:"shape"`
	Offsets []uint64 `json:"data_offsets"`
}

// parse reads the header of one safetensors file held in buf and returns views of its tensors. As the format demands, the
// tensors must cover the data exactly, without holes or overlaps, in any order.
func parse(file string, buf []byte) (map[string]tensor, error) {
	if bytes.HasPrefix(buf, []byte("version https://git-lfs")) {
		return nil, errors.New("a Git LFS pointer, not the file it stands for")
	}
	if len(buf) < 8 {
		return nil, fmt.Errorf("truncated: %d bytes, the header length alone takes 8", len(buf))
	}
	n := binary.LittleEndian.Uint64(buf)
	if n > maxHeader {
		return nil, fmt.Errorf("header of %d bytes, the limit is %d", n, maxHeader)
	}
	if n > uint64(len(buf)-8) {
		return nil, fmt.Errorf("truncated: header of %d bytes, file has %d", n, len(buf)-8)
	}
	heads, err := parseHeader(buf[8 : 8+n])
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	data := buf[8+n:]
	out := make(map[string]tensor, len(heads))
	type span struct {
		name     string
		from, to uint64
	}
	spans := make([]span, 0, len(heads))
	for name, h := range heads {
		t, err := h.view(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		t.file = file
		out[name] = t
		spans = append(spans, span{name, h.Offsets[0], h.Offsets[1]})
	}
	slices.SortFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), cmp.Compare(a.name, b.name))
	})
	var end uint64
	for _, s := range spans {
		if s.from != end {
			return nil, fmt.Errorf("%s: starts at byte %d, the tensor before it ends at %d", s.name, s.from, end)
		}
		end = s.to
	}
	if end != uint64(len(data)) {
		return nil, fmt.Errorf("tensors take %d bytes, file has %d", end, len(data))
	}
	return out, nil
}

// parseHeader decodes the JSON object by hand at its top level, because encoding/json silently keeps the last of two equal keys.
func parseHeader(raw []byte) (map[string]header, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.Token(); err != nil {
		return nil, err
	} else if tok != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	out := map[string]header{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := tok.(string)
		if _, dup := out[name]; dup {
			return nil, fmt.Errorf("%s: duplicate", name)
		}
		if name == "__metadata__" {
			var ignored json.RawMessage
			if err := dec.Decode(&ignored); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			continue
		}
		var h header
		if err := dec.Decode(&h); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[name] = h
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("text after the JSON object")
	}
	return out, nil
}

func (h header) view(data []byte) (tensor, error) {
	size, ok := wordSize[h.DType]
	if !ok {
		return tensor{}, fmt.Errorf("unknown dtype %q", h.DType)
	}
	if len(h.Offsets) != 2 || h.Offsets[0] > h.Offsets[1] || h.Offsets[1] > uint64(len(data)) {
		return tensor{}, fmt.Errorf("data_offsets %v out of range, file has %d bytes of data", h.Offsets, len(data))
	}
	shape := make([]int, len(h.Shape))
	for i, d := range h.Shape {
		hi, lo := bits.Mul64(size, d)
		if hi != 0 || d > math.MaxInt {
			return tensor{}, fmt.Errorf("shape %v overflows", h.Shape)
		}
		size, shape[i] = lo, int(d)
	}
	if size != h.Offsets[1]-h.Offsets[0] {
		return tensor{}, fmt.Errorf("shape %v of %s takes %d bytes, data_offsets give %d", h.Shape, h.DType, size, h.Offsets[1]-h.Offsets[0])
	}
	return tensor{dtype: h.DType, shape: shape, data: data[h.Offsets[0]:h.Offsets[1]:h.Offsets[1]]}, nil
}

// drop lets go of the memory that a mapped tensor's data take. They are read again from the file if they are wanted again.
func (t tensor) drop() {
	if t.mapped {
		dropPages(t.data)
	}
}

func (t tensor) usable() bool { return t.dtype == "F32" || t.dtype == "BF16" || t.dtype == "F16" }

// floats writes the elements of a usable tensor to dst, which has exactly as many. Large ones are shared out to as many goroutines as there are
// processors: one would take longer over a model than a GPU does.
func (t tensor) floats(dst []float32) {
	if t.random != nil {
		t.random(dst)
		return
	}
	const least = 1 << 20
	size := int(wordSize[t.dtype])
	each := max(least, len(dst)/runtime.GOMAXPROCS(0)+1)
	var others sync.WaitGroup
	for from := each; from < len(dst); from += each {
		to := min(from+each, len(dst))
		others.Go(func() { widen(dst[from:to], t.data[from*size:to*size], t.dtype) })
	}
	n := min(each, len(dst))
	widen(dst[:n], t.data[:n*size], t.dtype)
	others.Wait()
}

// widen writes floats of a dtype to dst.
func widen(dst []float32, data []byte, dtype string) {
	switch dtype {
	case "F32":
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i : 4*i+4]))
		}
	case "BF16":
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(data[2*i:2*i+2])) << 16)
		}
	case "F16":
		for i := range dst {
			dst[i] = float16(binary.LittleEndian.Uint16(data[2*i : 2*i+2]))
		}
	}
}

// float16 widens an IEEE half; every half, subnormals included, is exact in float32.
func float16(h uint16) float32 {
	sign := uint32(h>>15) << 31
	exp, man := uint32(h>>10)&31, uint32(h)&1023
	switch exp {
	case 0: // zero or subnormal: man·2⁻²⁴
		return math.Float32frombits(sign | math.Float32bits(float32(man)*0x1p-24))
	case 31: // infinity or NaN
		return math.Float32frombits(sign | 0xff<<23 | man<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | man<<13)
}
