package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"afterimage/memorybank"
)

// modelOrigin says what makes a memory's rows: digests of the model's weights and of its config files. Rows of other weights mean nothing to
// a model, so a memory is held against this when it is opened.
func modelOrigin(files fs.FS) (memorybank.Origin, error) {
	weights, err := digest(files, func(name string) bool { return path.Ext(name) == ".safetensors" })
	if err != nil {
		return memorybank.Origin{}, err
	}
	config, err := digest(files, func(name string) bool {
		return slices.Contains([]string{"config.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"}, name)
	})
	return memorybank.Origin{Encoder: weights, Config: config}, err
}

func digest(files fs.FS, wanted func(name string) bool) (string, error) {
	list, err := fs.ReadDir(files, ".") // sorted by name
	if err != nil {
		return "", fmt.Errorf("model: %w", err)
	}
	h := sha256.New()
	for _, e := range list {
		if e.IsDir() || !wanted(e.Name()) {
			continue
		}
		if err := digestFile(h, files, e.Name()); err != nil {
			return "", fmt.Errorf("model: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// wholeDigest is how large a file may be to be read whole. Of a larger one, its size, its beginning (a safetensors header, and more) and a
// piece of every few megabytes count: a model of gigabytes would take seconds at every start.
const wholeDigest = 256 << 20

func digestFile(h hash.Hash, files fs.FS, name string) error {
	f, err := files.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var size [8]byte
	binary.LittleEndian.PutUint64(size[:], uint64(info.Size()))
	h.Write([]byte(name))
	h.Write(size[:])
	at, ok := f.(io.ReaderAt)
	if info.Size() <= wholeDigest || !ok {
		_, err := io.Copy(h, f)
		return err
	}
	const first, piece, step = 1 << 20, 4 << 10, 4 << 20
	if _, err := io.Copy(h, io.NewSectionReader(at, 0, first)); err != nil {
		return err
	}
	for from := int64(first); from < info.Size(); from += step {
		if _, err := io.Copy(h, io.NewSectionReader(at, from, piece)); err != nil {
			return err
		}
	}
	return nil
}

// memoryRoot is where the memories of streams are kept, a directory each: the configuration's memory_dir, or the user's state directory.
// It is empty where nothing is to be kept, or no such directory is known.
func memoryRoot(configured string, lookup func(string) (string, bool)) string {
	switch configured {
	case "off":
		return ""
	case "":
	default:
		return configured
	}
	if state, ok := lookup("XDG_STATE_HOME"); ok && filepath.IsAbs(state) {
		return filepath.Join(state, "afterimage", "memory")
	}
	if home, ok := lookup("HOME"); ok && strings.TrimSpace(home) != "" {
		return filepath.Join(home, ".local", "state", "afterimage", "memory")
	}
	return ""
}
