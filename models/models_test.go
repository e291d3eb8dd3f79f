package models

import (
	"io/fs"
	"testing"

	"github.com/stretchr/testify/assert"
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
