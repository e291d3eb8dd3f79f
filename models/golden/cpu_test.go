//go:build cgo

package golden_test

import (
	"afterimage/internal/compute"
	"afterimage/internal/compute/cpu"
)

// addCPU adds every level of C kernels that this machine has.
var _ = func() bool {
	for _, level := range cpu.Levels() {
		devices[level] = func() (compute.Device, error) { return cpu.Open(2, level) }
	}
	return true
}()
