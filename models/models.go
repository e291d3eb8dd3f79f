// Package models holds the default model inside the program.
package models

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

//go:embed all:default
var embedded embed.FS

// needed are the files without which there is no model.
var needed = []string{"config.json", "tokenizer.json", "model.safetensors"}

// Default is the embedded default model as a Hugging Face directory.
func Default() (fs.FS, error) {
	dir, err := fs.Sub(embedded, "default")
	if err != nil {
		return nil, fmt.Errorf("models: %w", err)
	}
	for _, name := range needed {
		if _, err := fs.Stat(dir, name); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("models: the embedded default is missing %s: this program was built without its weights; "+
				"name a model directory with --model DIR, or build where models/default has them", name)
		} else if err != nil {
			return nil, fmt.Errorf("models: the embedded default: %w", err)
		}
	}
	return dir, nil
}
