// Package wire is the form of what travels between devices and depots: the names
// of the topics, the binary requests and the frames that answer them, with fixed
// big-endian headers and a CRC32C, versioned by their magic.
//
// A parser accepts exactly what the encoder writes, allocates no more than its
// input justifies, and never panics. The checksum finds damage, not forgery:
// what a frame carries is still to be checked against a signed digest. Pure,
// and safe for concurrent use.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// What a request asks for. The numbers are on the wire.
const (
	KindBlob     uint8 = 1 // ranges of a blob, by digest
	KindIndex    uint8 = 2 // ranges of the block index of a blob, by the blob's digest
	KindMetadata uint8 = 3 // ranges of a repository file, by Name ("director/timestamp.json")
)

// How a depot answers. The numbers are on the wire.
const (
	CodeOK        uint16 = 0
	CodeNotFound  uint16 = 1 // it has no such object
	CodeForbidden uint16 = 2 // the device's set does not name it
	CodeRange     uint16 = 3 // the range is outside the object or over the frame limit
	CodeFailed    uint16 = 4 // the depot could not read it
)

const (
	// FrameHeader is the length of a frame's header, in bytes.
	FrameHeader = 64
	// MaxFrame is the largest payload of a frame, in bytes.
	MaxFrame = 960 << 10
	// MaxRanges is the most ranges in one request.
	MaxRanges = 64

	requestHeader = 64
	rangeLen      = 12
	maxName       = 512
)

var errMalformed = errors.New("malformed")

// Range is a run of bytes of an object; it is answered by one frame.
type Range struct {
	Offset uint64
	Length uint32 // bytes, 1..MaxFrame
}

// Request is what a device asks of a depot. One range gives one frame.
type Request struct {
	Kind     uint8
	Transfer uint64        // the asker's number, echoed in every frame
	Digest   [32]byte      // SHA-256 of the blob; zero for metadata
	Clock    time.Duration // the asker's monotonic clock, echoed in every frame
	Ranges   []Range
	Name     string // metadata only
}

// Frame is a slice of an object on its way to a device.
type Frame struct {
	Kind     uint8
	Code     uint16
	Transfer uint64
	ID       [16]byte // first half of the object's SHA-256: tells two versions of a metadata file apart
	Offset   uint64
	Total    uint64        // bytes of the whole object
	Clock    time.Duration // as in the request
	Queued   time.Duration // in the depot, from the request to the frame; microseconds on the wire
	Payload  []byte
}

func crc(parts ...[]byte) uint32 {
	sum := uint32(0)
	for _, p := range parts {
		sum = crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), p)
	}
	return sum
}

// Encode is the request as bytes, big-endian.
func (q Request) Encode() ([]byte, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	b := make([]byte, requestHeader, requestHeader+len(q.Ranges)*rangeLen+len(q.Name))
	copy(b, "BYR\x01")
	b[4] = q.Kind
	binary.BigEndian.PutUint16(b[6:], uint16(len(q.Ranges)))
	binary.BigEndian.PutUint64(b[8:], q.Transfer)
	copy(b[16:48], q.Digest[:])
	binary.BigEndian.PutUint64(b[48:], uint64(q.Clock))
	binary.BigEndian.PutUint16(b[56:], uint16(len(q.Name)))
	for _, r := range q.Ranges {
		b = binary.BigEndian.AppendUint64(b, r.Offset)
		b = binary.BigEndian.AppendUint32(b, r.Length)
	}
	b = append(b, q.Name...)
	binary.BigEndian.PutUint32(b[60:], crc(b[:60], b[64:]))
	return b, nil
}

func (q Request) check() error {
	if q.Kind < KindBlob || q.Kind > KindMetadata || (q.Kind == KindMetadata) != (q.Name != "") || len(q.Name) > maxName {
		return fmt.Errorf("request refused: kind %d with a name of %d bytes: %w", q.Kind, len(q.Name), errMalformed)
	}
	if len(q.Ranges) == 0 || len(q.Ranges) > MaxRanges {
		return fmt.Errorf("request refused: %d ranges: %w", len(q.Ranges), errMalformed)
	}
	for _, r := range q.Ranges {
		if r.Length == 0 || r.Length > MaxFrame || r.Offset > 1<<62 {
			return fmt.Errorf("request refused: range of %d bytes at %d: %w", r.Length, r.Offset, errMalformed)
		}
	}
	return nil
}

// ParseRequest reads what Encode wrote, and nothing else. The result shares no memory with b.
func ParseRequest(b []byte) (Request, error) {
	if len(b) < requestHeader || string(b[:4]) != "BYR\x01" || b[5] != 0 || b[58] != 0 || b[59] != 0 {
		return Request{}, fmt.Errorf("request refused: %d bytes without a known header: %w", len(b), errMalformed)
	}
	if binary.BigEndian.Uint32(b[60:]) != crc(b[:60], b[64:]) {
		return Request{}, fmt.Errorf("request refused: checksum: %w", errMalformed)
	}
	n, name := int(binary.BigEndian.Uint16(b[6:])), int(binary.BigEndian.Uint16(b[56:]))
	if n > MaxRanges || name > maxName || len(b) != requestHeader+n*rangeLen+name {
		return Request{}, fmt.Errorf("request refused: %d ranges and a name of %d in %d bytes: %w", n, name, len(b), errMalformed)
	}
	q := Request{
		Kind: b[4], Transfer: binary.BigEndian.Uint64(b[8:]), Digest: [32]byte(b[16:48]),
		Clock: time.Duration(binary.BigEndian.Uint64(b[48:])), Ranges: make([]Range, n),
	}
	at := b[requestHeader:]
	for i := range q.Ranges {
		q.Ranges[i] = Range{binary.BigEndian.Uint64(at), binary.BigEndian.Uint32(at[8:])}
		at = at[rangeLen:]
	}
	q.Name = string(at)
	return q, q.check()
}

// Seal writes the frame's header into the first FrameHeader bytes of b, which
// already holds the payload behind it, and returns b. f.Payload is not looked at:
// a depot reads a file straight into b[FrameHeader:] and copies nothing.
func (f Frame) Seal(b []byte) []byte {
	clear(b[:FrameHeader])
	copy(b, "BYF\x01")
	b[4] = f.Kind
	binary.BigEndian.PutUint16(b[6:], f.Code)
	binary.BigEndian.PutUint64(b[8:], f.Transfer)
	copy(b[16:32], f.ID[:])
	binary.BigEndian.PutUint64(b[32:], f.Offset)
	// 48 bits hold 256 TiB; the length follows from the packet.
	putUint48(b[40:], f.Total)
	binary.BigEndian.PutUint64(b[48:], uint64(f.Clock))
	binary.BigEndian.PutUint32(b[56:], uint32(min(f.Queued/time.Microsecond, 1<<32-1)))
	binary.BigEndian.PutUint32(b[60:], crc(b[:60], b[64:]))
	return b
}

// Encode is the frame with its payload as new bytes.
func (f Frame) Encode() []byte {
	b := make([]byte, FrameHeader+len(f.Payload))
	copy(b[FrameHeader:], f.Payload)
	return f.Seal(b)
}

// ParseFrame reads what Seal wrote. The payload is a part of b, not a copy.
func ParseFrame(b []byte) (Frame, error) {
	if len(b) < FrameHeader || len(b) > FrameHeader+MaxFrame || string(b[:4]) != "BYF\x01" || b[5] != 0 || b[46] != 0 || b[47] != 0 {
		return Frame{}, fmt.Errorf("frame refused: %d bytes without a known header: %w", len(b), errMalformed)
	}
	if binary.BigEndian.Uint32(b[60:]) != crc(b[:60], b[64:]) {
		return Frame{}, fmt.Errorf("frame refused: checksum: %w", errMalformed)
	}
	f := Frame{
		Kind: b[4], Code: binary.BigEndian.Uint16(b[6:]), Transfer: binary.BigEndian.Uint64(b[8:]), ID: [16]byte(b[16:32]),
		Offset: binary.BigEndian.Uint64(b[32:]), Total: uint48(b[40:]), Clock: time.Duration(binary.BigEndian.Uint64(b[48:])),
		Queued: time.Duration(binary.BigEndian.Uint32(b[56:])) * time.Microsecond, Payload: b[FrameHeader:],
	}
	if f.Code == CodeOK && (f.Offset > f.Total || uint64(len(f.Payload)) > f.Total-f.Offset) {
		return Frame{}, fmt.Errorf("frame refused: %d bytes at %d of %d: %w", len(f.Payload), f.Offset, f.Total, errMalformed)
	}
	return f, nil
}

// TransferOf is the transfer of a frame before it is checked, to route it by.
func TransferOf(b []byte) (uint64, bool) {
	if len(b) < FrameHeader || string(b[:4]) != "BYF\x01" {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[8:]), true
}

func putUint48(b []byte, v uint64) {
	binary.BigEndian.PutUint16(b, uint16(v>>32))
	binary.BigEndian.PutUint32(b[2:], uint32(v))
}

func uint48(b []byte) uint64 {
	return uint64(binary.BigEndian.Uint16(b))<<32 | uint64(binary.BigEndian.Uint32(b[2:]))
}
