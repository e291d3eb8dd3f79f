package compute

import (
	"context"
	"fmt"
)

// Benchmarks is implemented by a Device that can time its kernels one by one, away from any model.
type Benchmarks interface {
	// Benchmarks lists what can be timed, the ceilings first. Listing does no work and holds no memory.
	Benchmarks() []Benchmark
}

// The two ceilings that every other figure of a run is compared with.
const (
	CeilingCopy   = "device copy"  // bytes read plus bytes written by a large copy on the device; a CPU only reads
	CeilingMatmul = "large matmul" // a bf16 product with float32 sums, random data
)

// Benchmark is one kernel on one shape. What and Shape together name the measurement; peers are matched by both, so Shape comes from
// one of the functions below where there is one.
type Benchmark struct {
	What, Shape string
	// Work of one call: the fewest bytes that must move through device memory, or the operations that must be done. Set one of them:
	// the one that bounds the kernel decides which ceiling it is compared with.
	Bytes, FLOPs float64
	// Latency reports microseconds a call rather than a rate, the ceiling being the time that the work would take at it.
	Latency bool
	// Time makes random inputs, checks nothing, runs the kernel as the product does (replayed in a graph, operands rotated through
	// more memory than the cache holds where the product would find them cold) and returns the median seconds of one call. It frees
	// what it took.
	Time func(context.Context) (float64, error)
}

// Names of what is timed on more than one device or by a peer.
const (
	BenchPrefill = "prefill attention"
	BenchDecode  = "decode attention"
	BenchCascade = "shared-prefix attention"
	BenchLinear  = "linear"
)

// PrefillShape names attention of batch sequences of n new rows each, every one over its own n keys.
func PrefillShape(heads, kvHeads, headDim, batch, n int, causal bool) string {
	mask := "full"
	if causal {
		mask = "causal"
	}
	return fmt.Sprintf("%d/%d x %d %s %dx%d", heads, kvHeads, headDim, mask, batch, n)
}

// DecodeShape names attention of a few rows of one sequence over keys of K/V.
func DecodeShape(heads, kvHeads, headDim, rows, keys int) string {
	return fmt.Sprintf("%d/%d x %d %d over %d", heads, kvHeads, headDim, rows, keys)
}

// CascadeShape names attention of one row of each of several questions over one shared prefix and a suffix of its own.
func CascadeShape(heads, kvHeads, headDim, questions, prefix, suffix int) string {
	return fmt.Sprintf("%d/%d x %d %d questions over %d+%d", heads, kvHeads, headDim, questions, prefix, suffix)
}

// LinearShape names x [rows, in] · wᵀ with w [out, in] held as w.
func LinearShape(rows, in, out int, w DType) string {
	return fmt.Sprintf("%s %dx%dx%d", w, rows, in, out)
}

// PrefillFLOPs counts what PrefillShape must do: half of the square when causal.
func PrefillFLOPs(heads, headDim, batch, n int, causal bool) float64 {
	f := 4 * float64(heads) * float64(headDim) * float64(batch) * float64(n) * float64(n)
	if causal {
		f /= 2
	}
	return f
}

// DecodeBytes counts the K/V that DecodeShape must read, in bf16.
func DecodeBytes(kvHeads, headDim, keys int) float64 {
	return 2 * 2 * float64(kvHeads) * float64(headDim) * float64(keys)
}
