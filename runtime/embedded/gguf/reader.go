package gguf

import (
	"encoding/binary"
	"fmt"
)

// reader walks the header. After the first error every read returns zero and
// the error stays, so callers check once a group of fields.
type reader struct {
	b   []byte
	at  int
	err error
}

func (r *reader) fail(format string, args ...any) error {
	if r.err == nil {
		r.err = fmt.Errorf("%w: byte %d: %s", ErrFormat, r.at, fmt.Sprintf(format, args...))
	}
	return r.err
}

// bytes takes n bytes out of the map.
func (r *reader) bytes(n uint64, what string) []byte {
	if r.err != nil {
		return nil
	}
	if n > uint64(len(r.b)-r.at) {
		r.fail("%s needs %d bytes, %d are left", what, n, len(r.b)-r.at)
		return nil
	}
	p := r.b[r.at : r.at+int(n)]
	r.at += int(n)
	return p
}

func (r *reader) u32(what string) uint32 {
	if p := r.bytes(4, what); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (r *reader) u64(what string) uint64 {
	if p := r.bytes(8, what); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

// count reads a number of things that take at least least bytes each.
func (r *reader) count(least, most uint64, what string) int {
	n := r.u64("the number of " + what)
	if r.err != nil {
		return 0
	}
	if n > most || n > uint64(len(r.b)-r.at)/least {
		r.fail("%d %s cannot be: %d bytes are left", n, what, len(r.b)-r.at)
		return 0
	}
	return int(n)
}

// name reads a short string into memory of its own.
func (r *reader) name(what string) string {
	n := r.u64(what)
	if n > maxName {
		r.fail("%s has %d bytes", what, n)
		return ""
	}
	return string(r.bytes(n, what))
}
