// Package weightstest makes checkpoints in memory, so that a benchmark can run a model of full size without a file of full size.
package weightstest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing/fstest"
)

// Random returns a model directory with the given config.json and a bfloat16 checkpoint of the given shapes, filled with small
// random numbers (ones and zeros would let a kernel look better than it is). Vectors are ones.
func Random(config string, shapes map[string][]int, seed uint64) fstest.MapFS {
	type entry struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	header := map[string]entry{}
	var data []byte
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		n := 1
		for _, d := range shapes[name] {
			n *= d
		}
		scale := 1 / math.Sqrt(float64(shapes[name][len(shapes[name])-1]))
		from := len(data)
		for range n {
			v := float32(rng.NormFloat64() * scale)
			if len(shapes[name]) == 1 {
				v = 1
			}
			data = binary.LittleEndian.AppendUint16(data, uint16(math.Float32bits(v)>>16))
		}
		header[name] = entry{"BF16", shapes[name], [2]int{from, len(data)}}
	}
	head, err := json.Marshal(header)
	if err != nil {
		panic(fmt.Sprintf("weightstest: %v", err)) // shapes are numbers
	}
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head...)
	return fstest.MapFS{"config.json": {Data: []byte(config)}, "model.safetensors": {Data: append(file, data...)}}
}
