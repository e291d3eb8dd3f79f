package llm

import (
	"io/fs"
	"math"
	"os"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/internal/weights"
)

// TestLongContextGolden: a prompt longer than the original length, in a context that is.
func TestLongContextGolden(t *testing.T) {
	f := family{files: os.DirFS(goldenFamilies + "/videochat")}
	ck, err := weights.Open(fstest.MapFS{"model.safetensors": {Data: must(fs.ReadFile(f.files, "golden.safetensors"))}})
	require.NoError(t, err)
	defer ck.Close()
	shape, ok := ck.Shape("long.ids")
	require.True(t, ok)
	ids, greedy := tokens(t, ck, "long.ids", shape[0]), tokens(t, ck, "long.greedy", 24)
	onDevices(t, func(t *testing.T, dev compute.Device) {
		_, err := (Prompt{{Tokens: ids}}).rows(nil, must(ReadConfig(f.files)))
		assert.ErrorIs(t, err, ErrPrompt, "the default context is the original length")
		e := openFamily(t, f, dev, LoadOptions{Context: 600})
		have, _, _ := answer(t, e, Prompt{{Tokens: ids}}, Options{MaxTokens: len(greedy)})
		assert.Equal(t, greedy, have)
		d := &bare{e.s.dec, e.c, allPages(e.s.dec)} // nobody asks meanwhile
		want, err := ck.Matrix("long.logits", opsStepRows, e.c.Vocab)
		require.NoError(t, err)
		logits := d.forward(t, []compute.Input{{IDs: ids}}, 0, opsStepRows)
		for i, l := range logits.Data {
			require.LessOrEqual(t, math.Abs(float64(l-want.Data[i])), 1e-3, "row %d", i/e.c.Vocab)
		}
	})
}
