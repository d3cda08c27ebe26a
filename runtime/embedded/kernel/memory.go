package kernel

import (
	"fmt"
	"syscall"
)

// hugePage is what sizes are rounded to, so that the kernel can use such pages.
const hugePage = 2 << 20

// MapBytes is what Alloc maps for n bytes.
func MapBytes(n int64) int64 {
	if n < 1<<18 {
		return (max(n, 1) + 4095) &^ 4095
	}
	return (n + hugePage - 1) &^ (hugePage - 1)
}

// Alloc returns zeroed memory outside the garbage collector's sight. Pages cost
// memory once they are written. The caller must Free it.
func Alloc(n int) ([]byte, error) {
	size := int(MapBytes(int64(n)))
	b, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("cannot map %d bytes: %w", size, err)
	}
	if size >= hugePage {
		const hugepage = 14 // MADV_HUGEPAGE; only advice, so its error is no news
		_ = syscall.Madvise(b, hugepage)
	}
	return b, nil
}

// Free returns what Alloc gave.
func Free(b []byte) error { return syscall.Munmap(b[:cap(b)]) }
