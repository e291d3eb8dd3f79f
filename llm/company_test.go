package llm

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
)

// TestCompanyChangesNoTokenWhenRounded is TestCompanyChangesNoTokenOnDevices as models are used: with rounded weights and activations, by
// the device's own decoder where it has one. Prompts begin unlike each other, so that nothing is found in the cache and every row is
// computed in the same way each time; drafts, company, pages and chunks differ.
func TestCompanyChangesNoTokenWhenRounded(t *testing.T) {
	onDevices(t, func(t *testing.T, dev compute.Device) {
		for _, as := range []compute.DType{compute.BF16, compute.I8, compute.I4} {
			load := func(d Drafter) *Engine {
				e, err := LoadWith(os.DirFS("testdata/vlm"), dev, LoadOptions{Weights: as, Drafter: d})
				require.NoError(t, err)
				t.Cleanup(func() { assert.NoError(t, e.Close()) })
				return e
			}
			alone, e := load(nil), load(Lookup{Most: 1, Least: 1})
			prompts := make([]Prompt, 10)
			want := make([][]int32, len(prompts))
			options := func(i int) Options {
				return Options{MaxTokens: 24, Temperature: float32(i % 3), TopP: .9, Seed: uint64(i)}
			}
			for i := range prompts {
				prompts[i] = Prompt{{Text: fmt.Sprint(i)}, {Visual: noise(2+6*i, 24), ID: uint64(1 + i)}, {Text: "and then?"}}
				want[i], _, _ = answer(t, alone, prompts[i], options(i))
			}
			var all sync.WaitGroup
			for i, p := range prompts {
				all.Go(func() {
					have, _, _ := answer(t, e, p, options(i))
					assert.Equal(t, want[i], have, "%v: question %d", as, i)
				})
			}
			all.Wait()
		}
	})
}
