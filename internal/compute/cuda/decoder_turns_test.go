//go:build cuda

package cuda

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"

	"afterimage/internal/compute"
)

// A row's turns are the same to the bit whether they are put together from others' or worked out. It needs no GPU.
func TestTurnsJoin(t *testing.T) {
	c := compute.DecoderConfig{Context: 70, HeadDim: 72, InvFreq: invFreq(72), Sections: [3]int{8, 15, 13}, Turn: 1.25}
	const wide = 80
	turns := turns{c: &c, headDim: wide, own: make([]float32, 100*wide)}
	for p := range int32(c.Context) {
		turns.all = append(turns.all, make([]float32, wide)...)
		c.Turns(turns.all[len(turns.all)-wide:], [3]int32{p, p, p})
	}
	rng := rand.New(rand.NewPCG(1, 2))
	turns.begin()
	for turns.used < 100 {
		at := [3]int32{rng.Int32N(75), rng.Int32N(75), rng.Int32N(75)}
		row := turns.row(at)
		if int(row) < c.Context {
			assert.Equal(t, [3]int32{row, row, row}, at)
			continue
		}
		want := make([]float32, wide)
		c.Turns(want, at)
		i := int(row) - c.Context
		assert.Equal(t, want, turns.own[i*wide:(i+1)*wide], "%v", at)
	}
}
