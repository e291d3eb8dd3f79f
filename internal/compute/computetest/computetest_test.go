package computetest_test

import (
	"testing"

	"afterimage/internal/compute/computetest"
)

// The reference passes its own table: guard bands, strides, errors and life cycle are the table's, not the device's.
func TestReference(t *testing.T) {
	d := computetest.Open()
	computetest.Run(t, d, computetest.Tolerances{Rounded: 1e-12})
	computetest.Lifecycle(t, computetest.Open)
}
