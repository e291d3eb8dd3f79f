//go:build !cuda

// Package cuda without the build tag "cuda": the same functions, which say that this program has no part for GPUs.
package cuda

import (
	"errors"

	"afterimage/internal/compute"
)

// Built is whether this program has the part for GPUs.
const Built = false

// ErrNotBuilt is what every function here returns.
var ErrNotBuilt = errors.New("cuda: this program was built without -tags cuda")

// Info says what a GPU is. Memory is in bytes.
type Info struct {
	Ordinal               int
	Name, PCI             string
	Driver                string
	Major, Minor          int
	SMs                   int
	L2Bytes               int
	TotalBytes, FreeBytes int64
}

// Count is an error in this build.
func Count() (int, error) { return 0, ErrNotBuilt }

// Describe is an error in this build.
func Describe(int) (Info, error) { return Info{}, ErrNotBuilt }

// Open is an error in this build.
func Open(int) (compute.Device, error) { return nil, ErrNotBuilt }
