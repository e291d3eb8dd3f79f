package llm

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// A device that has no decoders of its own is compared through those made of its Ops: with itself it agrees, with fewer bits nearly.
func TestTwinOfOps(t *testing.T) {
	onDevices(t, func(t *testing.T, dev compute.Device) {
		if _, own := dev.(compute.Decoders); own {
			t.Skip("this device has decoders of its own")
		}
		for _, as := range []compute.DType{compute.BF16, compute.I8} {
			twin := &compute.Twin{Device: dev, As: as, Make: OpsDecoder}
			e, err := Load("testdata/vlm", twin, compute.BF16, nil)
			require.NoError(t, err)
			_, _, s := answer(t, e, readVLM(t).prompt, Options{MaxTokens: 12})
			require.NoError(t, e.Close())
			l := twin.Likeness()
			require.Equal(t, s.Generated, l.Tokens)
			if as == compute.BF16 {
				assert.Equal(t, 1.0, l.Agree)
				assert.Zero(t, l.MaxKL)
			} else {
				assert.Positive(t, l.MaxKL)
				assert.Less(t, l.KL, 0.1)
			}
		}
	})
}
