package weights

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/compute/computetest"
)

// file builds a safetensors file from a header and data.
func file(header string, data ...byte) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(out, header...), data...)
}

func entry(dtype string, from, to int, shape ...int) string {
	s, _ := json.Marshal(shape)
	return fmt.Sprintf(`{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, dtype, s, from, to)
}

func floats(vals ...float32) []byte {
	var out []byte
	for _, v := range vals {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return out
}

func single(data []byte) fstest.MapFS { return fstest.MapFS{Single: {Data: data}} }

func TestDTypes(t *testing.T) {
	halves := []uint16{0x3c00, 0xc000, 0x0001, 0x8000, 0x7bff, 0x0400, 0x7c00}
	brains := []uint16{0x3f80, 0xc000, 0x0001}
	var data []byte
	for _, h := range append(append([]uint16{}, halves...), brains...) {
		data = binary.LittleEndian.AppendUint16(data, h)
	}
	data = append(data, floats(1.5, -2)...)
	data = append(data, 1, 2, 3, 4, 5, 6, 7, 8)
	c, err := Open(single(file(`{"__metadata__":{"format":"pt"},"f":`+entry("F32", 20, 28, 1, 2)+`,"i":`+entry("I64", 28, 36)+`,"h":`+entry("F16", 0, 14, 7)+
		`,"b":`+entry("BF16", 14, 20, 3)+`,"none":`+entry("F32", 36, 36, 0, 5)+`}`, data...)))
	require.NoError(t, err)
	defer c.Close()
	assert.Equal(t, []string{"b", "f", "h", "i", "none"}, c.Names())

	h, err := c.Floats("h", 7)
	require.NoError(t, err)
	assert.Equal(t, []float32{1, -2, 0x1p-24, float32(math.Copysign(0, -1)), 65504, 0x1p-14, float32(math.Inf(1))}, h)
	b, err := c.Floats("b", 3)
	require.NoError(t, err)
	assert.Equal(t, []float32{1, -2, math.Float32frombits(0x10000)}, b)
	m, err := c.Matrix("f", 1, 2)
	require.NoError(t, err)
	assert.Equal(t, compute.Matrix{Rows: 1, Cols: 2, Data: []float32{1.5, -2}}, m)
	_, err = c.Matrix("none", 0, 5)
	assert.NoError(t, err)

	_, err = c.Floats("f", 2, 1)
	assert.EqualError(t, err, "weights: model.safetensors: f: want [2 1], have [1 2]")
	_, err = c.Floats("f", 1<<40, 1<<20)
	assert.EqualError(t, err, "weights: model.safetensors: f: want [1099511627776 1048576], have [1 2]")
	_, err = c.Floats("g", 2)
	assert.EqualError(t, err, "weights: model.safetensors: g: missing")
	_, err = c.Floats("i")
	assert.EqualError(t, err, "weights: model.safetensors: i: dtype I64 cannot be used, want F32, F16 or BF16")
	nan := float16(0x7e00)
	assert.True(t, math.IsNaN(float64(nan)))
}

// TestLargeTensor: one that several goroutines read.
func TestLargeTensor(t *testing.T) {
	const n = 5<<20 + 7
	var data []byte
	for i := range n {
		data = binary.LittleEndian.AppendUint16(data, uint16(0x3f80+i%101))
	}
	c, err := Open(single(file(`{"a":`+entry("BF16", 0, 2*n, n)+`}`, data...)))
	require.NoError(t, err)
	a, err := c.Floats("a", n)
	require.NoError(t, err)
	for i, v := range a {
		if want := math.Float32frombits(uint32(0x3f80+i%101) << 16); v != want {
			require.Equal(t, want, v, "element %d", i)
		}
	}
	assert.ErrorContains(t, c.Read(make([]float32, n-1), "a", n), "in room for")
}

func BenchmarkFloats(b *testing.B) {
	const n = 1 << 22
	for _, dtype := range []string{"F32", "BF16", "F16"} {
		b.Run(dtype, func(b *testing.B) {
			size := int(wordSize[dtype]) * n
			c, err := Open(single(file(`{"a":`+entry(dtype, 0, size, n)+`}`, make([]byte, size)...)))
			require.NoError(b, err)
			dst := make([]float32, n)
			b.SetBytes(int64(size))
			for b.Loop() {
				require.NoError(b, c.Read(dst, "a", n))
			}
		})
	}
}

// hostile are files that must be refused, and why.
var hostile = []struct {
	name string
	data []byte
	want string
}{
	{"empty", nil, "truncated: 0 bytes, the header length alone takes 8"},
	{"short length", []byte{1, 2, 3}, "truncated: 3 bytes"},
	{"git lfs pointer", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "a Git LFS pointer, not the file it stands for"},
	{"huge header", []byte{255, 255, 255, 255, 255, 255, 255, 255}, "header of 18446744073709551615 bytes, the limit is 100000000"},
	{"header past the end", []byte{9, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, "truncated: header of 9 bytes, file has 2"},
	{"not an object", file(`[]`), "header: not a JSON object"},
	{"cut JSON", file(`{"a":{"dtype":"F32"`), "header: a: unexpected EOF"},
	{"unclosed", file(`{"a":` + entry("F32", 0, 0, 0)), "header: "},
	{"text after", file(`{} {}`), "header: text after the JSON object"},
	{"duplicate", file(`{"a":`+entry("F32", 0, 4, 1)+`,"a":`+entry("F32", 4, 8, 1)+`}`, make([]byte, 8)...), "header: a: duplicate"},
	{"unknown dtype", file(`{"a":` + entry("F7", 0, 0, 0) + `}`), `a: unknown dtype "F7"`},
	{"past the end", file(`{"a":` + entry("F32", 0, 4, 1) + `}`), "a: data_offsets [0 4] out of range, file has 0 bytes of data"},
	{"backwards", file(`{"a":`+entry("F32", 4, 0, 1)+`}`, make([]byte, 8)...), "a: data_offsets [4 0] out of range"},
	{"negative", file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, make([]byte, 4)...), "header: a: json: cannot unmarshal number -1"},
	{"no offsets", file(`{"a":{"dtype":"F32","shape":[0]}}`), "a: data_offsets [] out of range"},
	{"overflow", file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`), "a: shape [4294967296 4294967296] overflows"},
	{"overflow to fit", file(`{"a":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}}`, make([]byte, 4)...), "overflows"},
	{"wrong size", file(`{"a":`+entry("F32", 0, 8, 3)+`}`, make([]byte, 8)...), "a: shape [3] of F32 takes 12 bytes, data_offsets give 8"},
	{"hole", file(`{"a":`+entry("F32", 4, 8, 1)+`}`, make([]byte, 8)...), "a: starts at byte 4, the tensor before it ends at 0"},
	{"overlap", file(`{"a":`+entry("F32", 0, 8, 2)+`,"b":`+entry("F32", 4, 8, 1)+`}`, make([]byte, 8)...), "b: starts at byte 4, the tensor before it ends at 8"},
	{"bytes left", file(`{"a":`+entry("F32", 0, 4, 1)+`}`, make([]byte, 5)...), "tensors take 4 bytes, file has 5"},
}

func TestHostile(t *testing.T) {
	for _, tt := range hostile {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(single(tt.data))
			assert.ErrorContains(t, err, tt.want)

			dir := t.TempDir() // the same through a mapped file
			require.NoError(t, os.WriteFile(filepath.Join(dir, Single), tt.data, 0o600))
			_, err = Open(os.DirFS(dir))
			assert.ErrorContains(t, err, tt.want)
		})
	}
}

func TestShards(t *testing.T) {
	one := file(`{"a":`+entry("F32", 0, 4, 1)+`}`, floats(1)...)
	two := file(`{"b":`+entry("F32", 0, 8, 2)+`}`, floats(2, 3)...)
	index := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	good := fstest.MapFS{Index: index(`{"metadata":{},"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors"}}`), "x-1.safetensors": {Data: one}, "x-2.safetensors": {Data: two}}
	c, err := Open(good)
	require.NoError(t, err)
	b, err := c.Floats("b", 2)
	require.NoError(t, err)
	assert.Equal(t, []float32{2, 3}, b)
	_, err = c.Floats("b", 3)
	assert.EqualError(t, err, "weights: x-2.safetensors: b: want [3], have [2]")
	_, err = c.Floats("c", 3)
	assert.EqualError(t, err, "weights: model.safetensors.index.json: c: missing")
	require.NoError(t, c.Close())

	dir := t.TempDir() // mapped
	for name, f := range good {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), f.Data, 0o600))
	}
	c, err = Open(os.DirFS(dir))
	require.NoError(t, err)
	b, err = c.Floats("b", 2)
	require.NoError(t, err)
	assert.NoError(t, c.Close())
	assert.Equal(t, []float32{2, 3}, b, "a copy outlives the mapping")

	for _, tt := range []struct {
		name string
		fs   fstest.MapFS
		want string
	}{
		{"nothing", fstest.MapFS{}, "weights: neither model.safetensors nor model.safetensors.index.json found"},
		{"bad index", fstest.MapFS{Index: index(`{`)}, "weights: model.safetensors.index.json: unexpected end of JSON input"},
		{"empty index", fstest.MapFS{Index: index(`{}`)}, "weights: model.safetensors.index.json: weight_map is empty"},
		{"outside", fstest.MapFS{Index: index(`{"weight_map":{"a":"../../etc/passwd"}}`)}, `weights: model.safetensors.index.json: weight_map: "../../etc/passwd" of a is not a path inside the model directory`},
		{"absent", fstest.MapFS{Index: index(`{"weight_map":{"a":"x"}}`)}, "weights: model.safetensors.index.json: weight_map: x of a: file does not exist"},
		{"elsewhere", fstest.MapFS{Index: index(`{"weight_map":{"a":"x","b":"x"}}`), "x": {Data: one}}, "weights: model.safetensors.index.json: b: not in x"},
		{"absolute", fstest.MapFS{Index: index(`{"weight_map":{"b":"x","a":"/etc/passwd"}}`)}, `weights: model.safetensors.index.json: weight_map: "/etc/passwd" of a is not a path inside the model directory`},
		{"no path", fstest.MapFS{Index: index(`{"weight_map":{"a":"."}}`)}, `weights: model.safetensors.index.json: weight_map: "." of a is not a path inside the model directory`},
		{"no map", fstest.MapFS{Index: index(`{"weight_map":["x"]}`)}, "weights: model.safetensors.index.json: json: cannot unmarshal array into Go struct field .weight_map of type map[string]string"},
		{"one absent", fstest.MapFS{Index: index(`{"weight_map":{"c":"z","b":"y","a":"x"}}`), "x": {Data: one}}, "weights: model.safetensors.index.json: weight_map: y of b: file does not exist"},
		{"truncated shard", fstest.MapFS{Index: index(`{"weight_map":{"a":"x","b":"y"}}`), "x": {Data: one}, "y": {Data: two[:len(two)-3]}},
			"weights: y: b: data_offsets [0 8] out of range, file has 5 bytes of data"},
		{"shard cut in its header", fstest.MapFS{Index: index(`{"weight_map":{"a":"x","b":"y"}}`), "x": {Data: one}, "y": {Data: two[:20]}},
			"weights: y: truncated: header of 54 bytes, file has 12"},
		{"pickles", fstest.MapFS{"pytorch_model-00002-of-00002.bin": {}, "pytorch_model-00001-of-00002.bin": {}, "pytorch_model.bin.index.json": {}},
			"weights: pytorch_model-00001-of-00002.bin: a pickle can run code and is not read: model.safetensors or model.safetensors.index.json is wanted"},
		{"one pickle", fstest.MapFS{"consolidated.00.pth": {}}, "weights: consolidated.00.pth: a pickle can run code and is not read: model.safetensors or model.safetensors.index.json is wanted"},
		{"twice", fstest.MapFS{Index: index(`{"weight_map":{"a":"x","b":"y"}}`), "x": {Data: one}, "y": {Data: one}}, "weights: y: a: also in x"},
	} {
		_, err := Open(tt.fs)
		assert.EqualError(t, err, tt.want, tt.name)
	}
}

func TestLoader(t *testing.T) {
	c, err := Open(single(file(`{"w":`+entry("F32", 0, 16, 2, 2)+`,"v":`+entry("F32", 16, 24, 1, 2)+`,"b":`+entry("F32", 24, 32, 2)+`}`, floats(1, 2, 3, 4, 5, 6, 7, 8)...)))
	require.NoError(t, err)
	defer c.Close()
	dev := computetest.Open()
	defer dev.Close()
	l := NewLoader(c, dev)
	var bias, x, y compute.Tensor
	w := l.Weight(compute.F32, 2, Part{"w", 2}, Part{"v", 1})
	l.Vector(&bias, Part{"b", 2}, Part{"b", 2})
	l.Put(&x, compute.Matrix{Rows: 1, Cols: 2, Data: []float32{1, 10}})
	l.Room(&y, 1, 3, compute.F32)
	arena, err := l.Finish(context.Background())
	require.NoError(t, err)
	defer arena.Close()
	got, b := compute.NewMatrix(1, 3), compute.NewMatrix(1, 4)
	require.NoError(t, dev.Run(context.Background(), func(ops compute.Ops) {
		ops.Linear(y, x, w, compute.LinearArgs{})
		ops.Download(got, y)
		ops.Download(b, bias)
	}))
	assert.Equal(t, []float32{21, 43, 65}, got.Data)
	assert.Equal(t, []float32{7, 8, 7, 8}, b.Data)

	l = NewLoader(c, dev)
	l.Weight(compute.F32, 3, Part{"w", 2})
	l.Vector(&bias, Part{"absent", 2})
	_, err = l.Finish(context.Background())
	assert.EqualError(t, err, "weights: model.safetensors: w: want [2 3], have [2 2]", "the first error sticks")
}

func FuzzParse(f *testing.F) {
	for _, tt := range hostile {
		f.Add(tt.data)
	}
	f.Add(file(`{"a":`+entry("BF16", 0, 4, 2)+`,"b":`+entry("F16", 4, 6, 1, 1)+`}`, 1, 2, 3, 4, 5, 6))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Open(single(bytes.Clone(data)))
		if err != nil {
			return
		}
		total := 0
		for _, name := range c.Names() {
			shape := c.tensors[name].shape
			total += len(c.tensors[name].data)
			vals, err := c.Floats(name, shape...)
			if err == nil && len(vals) != product(shape) {
				t.Fatalf("%s: %d values for shape %v", name, len(vals), shape)
			}
		}
		if total > len(data) {
			t.Fatalf("tensors of %d bytes in a file of %d", total, len(data))
		}
	})
}

func TestOpenFile(t *testing.T) {
	dir := fstest.MapFS{"other.safetensors": {Data: file(`{"a":`+entry("F32", 0, 8, 2)+`}`, floats(1, 2)...)}, "short.safetensors": {Data: []byte{1}}}
	c, err := OpenFile(dir, "other.safetensors")
	require.NoError(t, err)
	a, err := c.Floats("a", 2)
	require.NoError(t, err)
	assert.Equal(t, []float32{1, 2}, a)
	_, err = c.Floats("b", 2)
	assert.EqualError(t, err, "weights: other.safetensors: b: missing")
	require.NoError(t, c.Close())

	_, err = OpenFile(dir, "short.safetensors")
	assert.EqualError(t, err, "weights: short.safetensors: truncated: 1 bytes, the header length alone takes 8")
	_, err = OpenFile(dir, "none.safetensors")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	assert.NotContains(t, err.Error(), "\n")
}
