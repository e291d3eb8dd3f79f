// Package weights reads Hugging Face checkpoints. There are only a few types: a Checkpoint is the tensors of one model
// directory, mapped read-only and fetched by name with the shape the model expects, and a Loader carries them to a device.
package weights

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"

	"afterimage/internal/compute"
)

// Single and Index are the two files a checkpoint can start from, in the order they are looked for.
const (
	Single = "model.safetensors"
	Index  = "model.safetensors.index.json"
)

// Checkpoint is the tensors of one model directory. Its methods may be called from several goroutines until Close; what they
// return are copies that outlive it.
type Checkpoint struct {
	tensors map[string]tensor
	unmap   []func() error
	random  *Random // instead of tensors
	file    string  // what says which tensors there are, for messages
}

// Open reads the checkpoint in fsys: model.safetensors, or the shards that model.safetensors.index.json lists. A file of the
// operating system (os.DirFS) is mapped, any other (an embedded one) is read into memory. Such a file must not be truncated
// while it is mapped. A Random gives every tensor that is asked for.
func Open(fsys fs.FS) (_ *Checkpoint, err error) {
	if r, ok := fsys.(Random); ok {
		return &Checkpoint{random: &r}, nil
	}
	c := &Checkpoint{tensors: map[string]tensor{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	files, where, err := shards(fsys)
	if err != nil {
		return nil, fmt.Errorf("weights: %w", err)
	}
	c.file = files[0]
	if where != nil {
		c.file = Index
	}
	for _, file := range files {
		err := c.add(fsys, file)
		if where != nil && errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("weights: %s: weight_map: %s of %s: %w", Index, file, holder(where, file), fs.ErrNotExist)
		}
		if err != nil {
			return nil, fmt.Errorf("weights: %s: %w", file, err)
		}
	}
	for name, file := range where {
		if t, ok := c.tensors[name]; !ok || t.file != file {
			return nil, fmt.Errorf("weights: %s: %s: not in %s", Index, name, file)
		}
	}
	return c, nil
}

// OpenFile reads one safetensors file of fsys that is no checkpoint of its own but lies beside one. What Open says of its files
// holds. A file that is not there is an error that wraps fs.ErrNotExist.
func OpenFile(fsys fs.FS, file string) (*Checkpoint, error) {
	c := &Checkpoint{tensors: map[string]tensor{}, file: file}
	if err := c.add(fsys, file); err != nil {
		return nil, errors.Join(fmt.Errorf("weights: %s: %w", file, err), c.Close())
	}
	return c, nil
}

// shards lists the files to read; where is the index's own map from tensor to file, nil for a single file.
func shards(fsys fs.FS) (files []string, where map[string]string, err error) {
	if _, err := fs.Stat(fsys, Single); err == nil {
		return []string{Single}, nil, nil
	}
	raw, err := fs.ReadFile(fsys, Index)
	if errors.Is(err, fs.ErrNotExist) {
		if name := pickle(fsys); name != "" {
			return nil, nil, fmt.Errorf("%s: a pickle can run code and is not read: %s or %s is wanted", name, Single, Index)
		}
		return nil, nil, fmt.Errorf("neither %s nor %s found", Single, Index)
	} else if err != nil {
		return nil, nil, err
	}
	var index struct {
		Map map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", Index, err)
	}
	if len(index.Map) == 0 {
		return nil, nil, fmt.Errorf("%s: weight_map is empty", Index)
	}
	files = slices.Compact(slices.Sorted(maps.Values(index.Map)))
	for _, f := range files {
		if !fs.ValidPath(f) || f == "." {
			return nil, nil, fmt.Errorf("%s: weight_map: %q of %s is not a path inside the model directory", Index, f, holder(index.Map, f))
		}
	}
	return files, index.Map, nil
}

// holder is the first tensor that a weight_map says is in a file.
func holder(where map[string]string, file string) string {
	for _, name := range slices.Sorted(maps.Keys(where)) {
		if where[name] == file {
			return name
		}
	}
	return ""
}

// pickle is the name of a file of weights in PyTorch's own format, or "".
func pickle(fsys fs.FS) string {
	for _, pattern := range []string{"pytorch_model*.bin", "*.pt", "*.pth", "*.bin"} {
		if names, err := fs.Glob(fsys, pattern); err == nil && len(names) > 0 {
			return names[0]
		}
	}
	return ""
}

func (c *Checkpoint) add(fsys fs.FS, file string) error {
	buf, unmap, err := contents(fsys, file)
	if err != nil {
		return err
	}
	if unmap != nil {
		c.unmap = append(c.unmap, unmap)
	}
	tensors, err := parse(file, buf)
	if err != nil {
		return err
	}
	for name, t := range tensors {
		t.mapped = unmap != nil
		if other, dup := c.tensors[name]; dup {
			return fmt.Errorf("%s: also in %s", name, other.file)
		}
		c.tensors[name] = t
	}
	return nil
}

func contents(fsys fs.FS, file string) ([]byte, func() error, error) {
	f, err := fsys.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if of, ok := f.(*os.File); ok {
		return mapFile(of)
	}
	buf, err := io.ReadAll(f)
	return buf, nil, err
}

// Has reports whether the checkpoint has a tensor of that name.
func (c *Checkpoint) Has(name string) bool { _, ok := c.tensors[name]; return ok || c.random != nil }

// Names returns every tensor's name, sorted.
func (c *Checkpoint) Names() []string { return slices.Sorted(maps.Keys(c.tensors)) }

// Shape returns the shape of a tensor; ok is false where there is none of that name, and of a Random.
func (c *Checkpoint) Shape(name string) (shape []int, ok bool) {
	t, ok := c.tensors[name]
	return slices.Clone(t.shape), ok
}

// Floats returns the named tensor as float32, row-major, or an error when it is missing, of another shape or not a float.
func (c *Checkpoint) Floats(name string, shape ...int) ([]float32, error) {
	if err := c.Check(name, shape...); err != nil {
		return nil, err
	}
	dst := make([]float32, product(shape))
	return dst, c.Read(dst, name, shape...)
}

// Check is Floats without the values.
func (c *Checkpoint) Check(name string, shape ...int) error {
	_, err := c.find(name, shape...)
	return err
}

// Read is Floats into dst, which has room for just as many.
func (c *Checkpoint) Read(dst []float32, name string, shape ...int) error {
	t, err := c.find(name, shape...)
	if err != nil {
		return err
	}
	if len(dst) != product(shape) {
		return fmt.Errorf("weights: %s: %v in room for %d", name, shape, len(dst))
	}
	t.floats(dst)
	t.drop()
	return nil
}

// find checks name and shape before anything is allocated: a shape the file holds is never larger than the file.
func (c *Checkpoint) find(name string, shape ...int) (tensor, error) {
	if c.random != nil {
		return tensor{random: c.random.filler(name, shape)}, nil
	}
	t, ok := c.tensors[name]
	if !ok {
		return t, fmt.Errorf("weights: %s: %s: missing", c.file, name)
	}
	if !slices.Equal(t.shape, shape) {
		return t, fmt.Errorf("weights: %s: %s: want %v, have %v", t.file, name, shape, t.shape)
	}
	if !t.usable() {
		return t, fmt.Errorf("weights: %s: %s: dtype %s cannot be used, want F32, F16 or BF16", t.file, name, t.dtype)
	}
	return t, nil
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// Matrix is Floats of a [rows, cols] tensor.
func (c *Checkpoint) Matrix(name string, rows, cols int) (compute.Matrix, error) {
	data, err := c.Floats(name, rows, cols)
	return compute.Matrix{Rows: rows, Cols: cols, Data: data}, err
}

// Close unmaps the files.
func (c *Checkpoint) Close() error {
	var err error
	for _, u := range c.unmap {
		err = errors.Join(err, u())
	}
	c.unmap, c.tensors = nil, nil
	return err
}
