package models

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whether the weights are there depends on the tree that is tested; half a model must never pass for one.
func TestDefaultIsWholeOrMissing(t *testing.T) {
	dir, err := Default()
	if err != nil {
		assert.ErrorContains(t, err, "models: the embedded default is missing ")
		assert.ErrorContains(t, err, "--model DIR")
		assert.Nil(t, dir)
		return
	}
	for _, name := range needed {
		info, err := fs.Stat(dir, name)
		if assert.NoError(t, err) {
			assert.Positive(t, info.Size(), name)
		}
	}
}

// A configuration that describes a memory comes with its weights.
func TestDefaultHasItsMemory(t *testing.T) {
	dir, err := Default()
	if err != nil {
		t.Skip(err)
	}
	config, err := fs.ReadFile(dir, "config.json")
	require.NoError(t, err)
	info, err := fs.Stat(dir, "memory.safetensors")
	if !strings.Contains(string(config), `"memory_config"`) {
		assert.ErrorIs(t, err, fs.ErrNotExist)
		return
	}
	if assert.NoError(t, err) {
		assert.Greater(t, info.Size(), int64(1<<20))
	}
}
