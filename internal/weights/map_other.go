//go:build !unix

package weights

import (
	"io"
	"os"
)

// mapFile reads f, where there is no mmap.
func mapFile(f *os.File) ([]byte, func() error, error) {
	buf, err := io.ReadAll(f)
	return buf, nil, err
}
