//go:build cuda

package llm

import (
	"afterimage/internal/compute"
	"afterimage/internal/compute/cuda"
)

// The first GPU, where there is one.
var _ = func() bool {
	if n, err := cuda.Count(); err == nil && n > 0 {
		devices["cuda"] = func() (compute.Device, error) { return cuda.Open(0) }
	}
	return true
}()
