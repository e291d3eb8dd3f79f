package weights

import (
	"os"
	"syscall"
	"unsafe"
)

// dropPages tells the system that the whole pages within buf, part of a mapped file, are not needed for now. A model is read once, tensor by
// tensor: without this, the file comes to count as the process's memory beside what was made of it.
func dropPages(buf []byte) {
	page, from := os.Getpagesize(), 0
	if past := int(uintptr(unsafe.Pointer(unsafe.SliceData(buf))) % uintptr(page)); past > 0 {
		from = page - past
	}
	if n := (len(buf) - from) / page * page; n > 0 {
		_ = syscall.Madvise(buf[from:from+n], syscall.MADV_DONTNEED) // advice only
	}
}
