//go:build !unix

package hub

import (
	"errors"
	"os"
)

func freeSpace(string) (int64, error) { return 0, errors.ErrUnsupported }

func tryLock(*os.File) (bool, error) {
	return false, errors.New("models cannot be pulled on this operating system")
}

func diskFull(error) bool { return false }

func onDisk(info os.FileInfo) int64 { return info.Size() }
