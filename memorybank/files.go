package memorybank

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const tempPrefix = ".part-"

// writeFile makes name hold data, whole or not at all, whatever happens meanwhile: a temporary file, synced, renamed over it, and the
// directory synced. With scrub, what the name held before is overwritten with zeros where it lies.
func writeFile(dir, name string, data []byte, sync, scrub bool) (err error) {
	var old *os.File
	if scrub {
		if old, err = os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if old != nil {
			defer func() { err = errors.Join(err, old.Close()) }()
		}
	}
	temp := filepath.Join(dir, tempPrefix+name)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(temp)))
	}
	if sync {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	if old != nil {
		return zero(old)
	}
	return nil
}

// removeFile removes a file; with scrub, its bytes are overwritten with zeros first.
func removeFile(dir, name string, scrub bool) error {
	name = filepath.Join(dir, name)
	if scrub {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return ignoreMissing(err)
		}
		if err := errors.Join(zero(f), f.Close()); err != nil {
			return err
		}
	}
	return ignoreMissing(os.Remove(name))
}

// zero overwrites a file in place. Whether that reaches the very blocks is up to the file system and the disk.
func zero(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	zeros := make([]byte, 64<<10)
	for at := int64(0); at < info.Size(); at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), info.Size()-at)], at); err != nil {
			return err
		}
	}
	return f.Sync()
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

const asideSuffix = ".aside"

// setAside renames a file that cannot be used, so that nobody reads it again and somebody may look at it. It returns the new name.
func setAside(dir, name string) (string, error) {
	to := name + asideSuffix
	for n := 2; ; n++ {
		if _, err := os.Lstat(filepath.Join(dir, to)); errors.Is(err, os.ErrNotExist) {
			break
		}
		to = fmt.Sprintf("%s.%d%s", name, n, asideSuffix)
	}
	return to, os.Rename(filepath.Join(dir, name), filepath.Join(dir, to))
}

func isAside(name string) bool { return strings.HasSuffix(name, asideSuffix) }
