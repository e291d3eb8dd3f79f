package weights

import (
	"io/fs"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRandom(t *testing.T) {
	r := Random{Config: []byte(`{"model_type":"llama"}`), Seed: 7}
	config, err := fs.ReadFile(r, "config.json")
	require.NoError(t, err)
	assert.JSONEq(t, `{"model_type":"llama"}`, string(config))
	_, err = fs.ReadFile(r, Single)
	require.ErrorIs(t, err, fs.ErrNotExist)

	c, err := Open(r)
	require.NoError(t, err)
	assert.True(t, c.Has("anything.weight"))
	m, err := c.Matrix("anything.weight", 300, 400)
	require.NoError(t, err)
	again, err := c.Matrix("anything.weight", 300, 400)
	require.NoError(t, err)
	other, err := c.Matrix("another.weight", 300, 400)
	require.NoError(t, err)
	assert.Equal(t, m, again)
	assert.NotEqual(t, m.Data, other.Data)
	sum, squares := 0.0, 0.0
	for _, v := range m.Data {
		sum += float64(v)
		squares += float64(v) * float64(v)
	}
	n := float64(len(m.Data))
	assert.InDelta(t, 0, sum/n, 1e-3)
	assert.InDelta(t, 1/math.Sqrt(400), math.Sqrt(squares/n), 1e-3)
	norm, err := c.Floats("norm.weight", 3)
	require.NoError(t, err)
	assert.Equal(t, []float32{1, 1, 1}, norm)
	require.NoError(t, c.Close())
}
