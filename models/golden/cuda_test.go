//go:build cuda

package golden_test

import (
	"afterimage/internal/compute"
	"afterimage/internal/compute/cuda"
)

// addCUDA adds the first GPU, if there is one.
var _ = func() bool {
	if n, err := cuda.Count(); err != nil || n == 0 {
		return false
	}
	devices["cuda"] = func() (compute.Device, error) { return cuda.Open(0) }
	return true
}()
