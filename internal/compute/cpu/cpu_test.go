package cpu_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"afterimage/internal/compute"
	"afterimage/internal/compute/computetest"
	"afterimage/internal/compute/cpu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tolerances: activations of bfloat16 have 8 bits, those of int8 have 7 to the largest of their row.
func tolerances(rounds bool) computetest.Tolerances {
	tol := computetest.Float32()
	if rounds {
		tol.BF16, tol.I8, tol.I4, tol.RoundedAttention = 4e-3, 5e-3, 5e-3, 4e-3
	}
	return tol
}

func TestConformance(t *testing.T) {
	available := cpu.Levels()
	for _, level := range []string{"scalar", "avx2", "avx512", "amx"} {
		for _, threads := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s x%d", level, threads), func(t *testing.T) {
				d, err := cpu.Open(threads, level)
				if err != nil {
					t.Skip(err)
				}
				assert.Contains(t, available, level)
				defer func() { require.NoError(t, d.Close()) }()
				computetest.Run(t, d, tolerances(level == "avx512" || level == "amx"))
			})
		}
	}
}

func TestLifecycle(t *testing.T) {
	computetest.Lifecycle(t, func() compute.Device {
		d, err := cpu.Open(2, "")
		require.NoError(t, err)
		return d
	})
}

func TestOpenErrors(t *testing.T) {
	_, err := cpu.Open(1, "sse9")
	assert.ErrorContains(t, err, `unknown level "sse9"`)
	assert.ErrorContains(t, err, "scalar")
	_, err = cpu.Open(-1, "")
	assert.ErrorContains(t, err, "-1 threads")
}
