package memorybank

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"time"

	"afterimage/internal/compute"
)

// A segment is a file of the cold tier: entries of one stretch of time, all of one shape, in time order. It is a safetensors file, so other
// programs can read it. The tensors stand in this order, n entries, k components an indicator, r rows of d values an entry:
//
//	frames      U64 [n]    number of the frame that an entry shows, or began with; the bank gave it ID frames << 8
//	times       I64 [n,3]  start, end, at: nanoseconds since the epoch
//	weights     F32 [n]    frames that an entry stands for
//	averaged    U32 [n]    frames whose rows were averaged; 1: the rows are of the one frame at its time
//	sums        U32 [n]    CRC-32C of an entry's rows and thumbnail
//	thumb_sizes U32 [n]    bytes, 0 for none
//	indicators  U8  [n,k]  FP8 E4M3, zeros for none
//	rows        F32 or BF16 [n,r,d]
//	thumbs      U8  [sum of thumb_sizes], JPEG, one behind the other
//
// The metadata has a JSON text under "afterimage" (coldMeta) and under "sum" the CRC-32C of that text and of the tensors before rows, as
// eight hexadecimal digits. What stands before rows is read when a store is opened and stays in memory, less the frames' pictures; rows are
// read when they are asked for.
const coldVersion = 1

// Bounds of what is read.
const (
	maxColdHeader  = 64 << 10
	maxColdEntries = 1 << 16
	maxColdDim     = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// coldMeta is the JSON text of a segment.
type coldMeta struct {
	Version int `json:"version"`
	Origin
	Epoch time.Time `json:"epoch"`
	Stage int       `json:"stage"` // how often it was thinned; see thin.go
	Level uint8     `json:"level"`
	Grid  [2]int    `json:"grid"`
	First uint64    `json:"first"` // the frames that it stands for: those between are in no other segment
	Last  uint64    `json:"last"`
}

// coldItem is what is known of a cold entry without reading its rows.
type coldItem struct {
	frame          uint64
	start, end, at time.Duration
	weight         float32
	averaged       uint32
	sum            uint32
	thumb          uint32 // bytes
	thumbAt        uint32 // in the file's thumbs
	indicator      Indicator
}

// coldEntry is one with its rows.
type coldEntry struct {
	coldItem
	level uint8
	grid  Grid
	rows  compute.Matrix
	jpeg  []byte
}

// coldFile is a segment on disk. It never changes: a segment that is rewritten is another coldFile.
type coldFile struct {
	coldMeta
	name       string // in the store's directory
	size       int64
	items      []coldItem
	n, k, r, d int
	bf16       bool
	thumbs     int
	header     int64 // bytes before the first tensor
}

func (f *coldFile) grid() Grid { return Grid{f.Grid[0], f.Grid[1]} }

func (f *coldFile) start() time.Duration { return f.items[0].start }

func (f *coldFile) end() time.Duration { return f.items[len(f.items)-1].end }

// indexBytes is the size of the tensors before rows.
func (f *coldFile) indexBytes() int64 { return int64(f.n) * int64(8+24+4+4+4+4+f.k) }

func (f *coldFile) rowBytes() int64 {
	if f.bf16 {
		return 2 * int64(f.r) * int64(f.d)
	}
	return 4 * int64(f.r) * int64(f.d)
}

func (f *coldFile) total() int64 {
	return f.header + f.indexBytes() + int64(f.n)*f.rowBytes() + int64(f.thumbs)
}

// layout returns the file's first bytes: all of it follows from the shapes and the two texts.
func (f *coldFile) layout(meta []byte, sum string) []byte {
	rows := "F32"
	if f.bf16 {
		rows = "BF16"
	}
	var b bytes.Buffer
	b.Write(make([]byte, 8))
	quoted, _ := json.Marshal(string(meta)) // a string always can be
	fmt.Fprintf(&b, `{"__metadata__":{"afterimage":%s,"sum":"%s"}`, quoted, sum)
	at := int64(0)
	tensor := func(name, dtype string, bytes int64, shape string) {
		fmt.Fprintf(&b, `,"%s":{"dtype":"%s","shape":[%s],"data_offsets":[%d,%d]}`, name, dtype, shape, at, at+bytes)
		at += bytes
	}
	n := int64(f.n)
	one := fmt.Sprint(f.n)
	tensor("frames", "U64", 8*n, one)
	tensor("times", "I64", 24*n, one+",3")
	tensor("weights", "F32", 4*n, one)
	tensor("averaged", "U32", 4*n, one)
	tensor("sums", "U32", 4*n, one)
	tensor("thumb_sizes", "U32", 4*n, one)
	tensor("indicators", "U8", int64(f.k)*n, fmt.Sprintf("%d,%d", f.n, f.k))
	tensor("rows", rows, f.rowBytes()*n, fmt.Sprintf("%d,%d,%d", f.n, f.r, f.d))
	tensor("thumbs", "U8", int64(f.thumbs), fmt.Sprint(f.thumbs))
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	out := b.Bytes()
	binary.LittleEndian.PutUint64(out, uint64(len(out)-8))
	return out
}

// encodeCold lays a segment out. The entries are of one shape, in time order, at least one.
func encodeCold(meta coldMeta, entries []coldEntry, bf16 bool) (*coldFile, []byte) {
	e := entries[0]
	meta.Version, meta.Level, meta.Grid = coldVersion, e.level, [2]int{e.grid.H, e.grid.W}
	f := &coldFile{coldMeta: meta, n: len(entries), r: e.rows.Rows, d: e.rows.Cols, bf16: bf16, items: make([]coldItem, len(entries))}
	for _, e := range entries {
		f.k = max(f.k, e.indicator.Dim())
		f.thumbs += len(e.jpeg)
	}
	text, err := json.Marshal(meta)
	if err != nil {
		panic(fmt.Sprintf("memorybank: segment: %v", err)) // an epoch beyond the year 9999
	}
	f.header = int64(len(f.layout(text, "00000000")))
	f.size = f.total()
	out := make([]byte, f.size)
	index := out[f.header : f.header+f.indexBytes()]
	rows := out[f.header+f.indexBytes():]
	thumbs := rows[int64(f.n)*f.rowBytes():]
	le := binary.LittleEndian
	n, at := f.n, 0
	for i := range entries {
		e := &entries[i]
		own := rows[int64(i)*f.rowBytes() : int64(i+1)*f.rowBytes()]
		if bf16 {
			for j, v := range e.rows.Data {
				le.PutUint16(own[2*j:], toBF16(v))
			}
		} else {
			for j, v := range e.rows.Data {
				le.PutUint32(own[4*j:], math.Float32bits(v))
			}
		}
		copy(thumbs[at:], e.jpeg)
		it := e.coldItem
		it.thumb, it.thumbAt = uint32(len(e.jpeg)), uint32(at)
		it.sum = crc32.Update(crc32.Checksum(own, castagnoli), castagnoli, e.jpeg)
		at += len(e.jpeg)
		le.PutUint64(index[8*i:], it.frame)
		for j, v := range [3]time.Duration{it.start, it.end, it.at} {
			le.PutUint64(index[8*n+24*i+8*j:], uint64(v))
		}
		le.PutUint32(index[32*n+4*i:], math.Float32bits(it.weight))
		le.PutUint32(index[36*n+4*i:], it.averaged)
		le.PutUint32(index[40*n+4*i:], it.sum)
		le.PutUint32(index[44*n+4*i:], it.thumb)
		copy(index[48*n+f.k*i:][:f.k], it.indicator.codes)
		f.items[i] = it
	}
	sum := crc32.Update(crc32.Checksum(text, castagnoli), castagnoli, index)
	copy(out, f.layout(text, fmt.Sprintf("%08x", sum)))
	return f, out
}

// readCold reads what a segment says before its rows. size is the whole file's.
func readCold(r io.ReaderAt, size int64) (*coldFile, error) {
	var head [8]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("too short: %w", err)
	}
	length := binary.LittleEndian.Uint64(head[:])
	if length < 2 || length > maxColdHeader || int64(length) > size-8 {
		return nil, fmt.Errorf("a header of %d bytes", length)
	}
	raw := make([]byte, 8+length)
	if _, err := r.ReadAt(raw, 0); err != nil {
		return nil, err
	}
	type tensor struct {
		DType string   `json:"dtype"`
		Shape []uint64 `json:"shape"`
	}
	var h struct {
		Metadata struct {
			Afterimage string `json:"afterimage"`
			Sum        string `json:"sum"`
		} `json:"__metadata__"`
		Indicators tensor `json:"indicators"`
		Rows       tensor `json:"rows"`
		Thumbs     tensor `json:"thumbs"`
	}
	if err := json.Unmarshal(raw[8:], &h); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	f := &coldFile{header: int64(len(raw)), size: size}
	if err := json.Unmarshal([]byte(h.Metadata.Afterimage), &f.coldMeta); err != nil {
		return nil, errors.New("not a segment of a memory: no afterimage metadata")
	}
	if f.Version != coldVersion {
		return nil, fmt.Errorf("format version %d, this program reads %d", f.Version, coldVersion)
	}
	if len(h.Indicators.Shape) != 2 || len(h.Rows.Shape) != 3 || len(h.Thumbs.Shape) != 1 {
		return nil, errors.New("header: tensors are missing")
	}
	shape := h.Rows.Shape
	if shape[0] == 0 || shape[0] > maxColdEntries || shape[1] == 0 || shape[1] > maxColdDim || shape[2] == 0 || shape[2] > maxColdDim ||
		h.Indicators.Shape[1] > maxColdDim || h.Thumbs.Shape[0] > uint64(size) {
		return nil, fmt.Errorf("header: rows of shape %v, indicators of %v", shape, h.Indicators.Shape)
	}
	f.n, f.r, f.d, f.k = int(shape[0]), int(shape[1]), int(shape[2]), int(h.Indicators.Shape[1])
	f.thumbs, f.bf16 = int(h.Thumbs.Shape[0]), h.Rows.DType == "BF16"
	if f.total() != size {
		return nil, fmt.Errorf("%d bytes where its header says %d", size, f.total())
	}
	if !bytes.Equal(f.layout([]byte(h.Metadata.Afterimage), h.Metadata.Sum), raw) {
		return nil, errors.New("header: not laid out as a segment")
	}
	index := make([]byte, f.indexBytes())
	if _, err := r.ReadAt(index, f.header); err != nil {
		return nil, err
	}
	sum := crc32.Update(crc32.Checksum([]byte(h.Metadata.Afterimage), castagnoli), castagnoli, index)
	if fmt.Sprintf("%08x", sum) != h.Metadata.Sum {
		return nil, errors.New("its checksum does not fit")
	}
	if g := f.grid(); g.H < 1 || g.W < 1 || g.H > maxColdDim || g.W > maxColdDim || g.H*g.W != f.r {
		return nil, fmt.Errorf("grid %v with %d rows", f.Grid, f.r)
	}
	return f, f.readItems(index)
}

// readItems decodes and checks the index.
func (f *coldFile) readItems(index []byte) error {
	le, n, at := binary.LittleEndian, f.n, uint64(0)
	f.items = make([]coldItem, n)
	codes := string(index[48*n:])
	for i := range f.items {
		it := &f.items[i]
		it.frame = le.Uint64(index[8*i:])
		times := index[8*n+24*i:]
		it.start, it.end, it.at = time.Duration(le.Uint64(times)), time.Duration(le.Uint64(times[8:])), time.Duration(le.Uint64(times[16:]))
		it.weight = math.Float32frombits(le.Uint32(index[32*n+4*i:]))
		it.averaged, it.sum, it.thumb = le.Uint32(index[36*n+4*i:]), le.Uint32(index[40*n+4*i:]), le.Uint32(index[44*n+4*i:])
		it.thumbAt = uint32(at)
		it.indicator = indicatorOver(codes[f.k*i : f.k*(i+1)])
		at += uint64(it.thumb)
		switch {
		case it.start < 0 || it.start > it.at || it.at > it.end || i > 0 && it.start < f.items[i-1].start:
			return fmt.Errorf("entry %d: times %d, %d, %d do not hold", i, it.start, it.at, it.end)
		case !(it.weight >= 1) || math.IsInf(float64(it.weight), 0) || it.averaged == 0:
			return fmt.Errorf("entry %d: weight %v, averaged %d", i, it.weight, it.averaged)
		case it.frame == 0 || it.frame < f.First || it.frame > f.Last || it.frame > maxFrame || i > 0 && it.frame <= f.items[i-1].frame:
			return fmt.Errorf("entry %d: frame %d of %d to %d", i, it.frame, f.First, f.Last)
		case at > uint64(f.thumbs):
			return fmt.Errorf("entry %d: its thumbnail is not there", i)
		}
	}
	if at != uint64(f.thumbs) {
		return fmt.Errorf("thumbnails of %d bytes, %d in all", at, f.thumbs)
	}
	return nil
}

// read reads an entry's rows and picture.
func (f *coldFile) read(r io.ReaderAt, i int) (coldEntry, error) {
	e := coldEntry{coldItem: f.items[i], level: f.Level, grid: f.grid()}
	raw, jpeg, err := f.raw(r, i)
	if err != nil {
		return e, err
	}
	e.jpeg = jpeg
	e.rows = compute.NewMatrix(f.r, f.d)
	for j := range e.rows.Data {
		var bits uint32
		if f.bf16 {
			bits = uint32(binary.LittleEndian.Uint16(raw[2*j:])) << 16
		} else {
			bits = binary.LittleEndian.Uint32(raw[4*j:])
		}
		if bits&0x7f800000 == 0x7f800000 {
			return e, fmt.Errorf("entry %d: value %d is not a number", i, j)
		}
		e.rows.Data[j] = math.Float32frombits(bits)
	}
	return e, nil
}

// toBF16 rounds to nearest, ties to even. v is a number; one beyond bfloat16's largest becomes that.
func toBF16(v float32) uint16 {
	bits := math.Float32bits(v)
	bits += 0x7fff + bits>>16&1
	if bits&0x7f800000 == 0x7f800000 {
		bits -= 0x10000
	}
	return uint16(bits >> 16)
}

// Frames have numbers below 1<<39, a thousand years at ten a second, so that the upper half of the 48 bits that an ID has is left for what
// comes back from disk otherwise than it went there.
const (
	maxFrame = 1<<39 - 1
	coldBit  = 1 << 47
)

// id names the entry's rows. A frame that is as it was has the ID that it had; anything else is named by a digest of its rows (39 bits), so
// equal IDs mean equal rows whatever was thinned, merged or erased meanwhile. The low 8 bits are zero, as those of a frame.
func (e *coldEntry) id(exact bool) uint64 {
	if exact {
		return e.frame * idStep
	}
	h := sha256.New()
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], e.frame)
	h.Write(b[:])
	fmt.Fprintf(h, "%d %d %d;", e.level, e.grid.H, e.grid.W)
	raw := make([]byte, 4*len(e.rows.Data))
	for i, v := range e.rows.Data {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
	}
	h.Write(raw)
	return coldBit | binary.LittleEndian.Uint64(h.Sum(nil))>>25*idStep
}

// entry is a cold entry as a prompt is given it.
func (e *coldEntry) entry(exact bool) Entry {
	out := Entry{
		ID: e.id(exact), Start: e.start, End: e.end, At: e.at, Weight: e.weight, Role: Detail, Level: e.level, Grid: e.grid,
		Tokens: e.rows, Thumb: e.jpeg, Indicator: e.indicator,
	}
	if e.level > 0 || e.averaged > 1 {
		out.Role = Synopsis
	}
	return out
}

// exact reports whether the segment's rows are those that were added, bit for bit.
func (f *coldFile) exact() bool { return f.Stage == 0 }
