//go:build unix

package memorybank

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// lockFile takes a lock that ends with the process, whatever ends it. Closing the file gives it back.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		who := make([]byte, 32)
		n, _ := f.ReadAt(who, 0) // for the message only
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w by process %s: stop that, or name another directory", ErrInUse, strings.TrimSpace(string(who[:n])))
		}
		return nil, err
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
