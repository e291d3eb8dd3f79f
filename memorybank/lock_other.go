//go:build !unix

package memorybank

import (
	"errors"
	"os"
)

func lockFile(string) (*os.File, error) {
	return nil, errors.New("a memory cannot be kept on disk on this operating system")
}
