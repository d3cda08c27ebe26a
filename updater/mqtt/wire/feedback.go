package wire

import (
	"encoding/binary"
	"fmt"
)

const feedbackLen = 88

// Feedback is what a device says, once a second, of a cast that it listens to.
type Feedback struct {
	Stream  uint64   // the cast's number, as it was announced
	ID      [16]byte // first half of the blob's SHA-256
	Leaving bool     // it listens no more
	Pos     uint64   // bytes of the stream up to the end of the last frame that came
	Got     uint64   // bytes of the stream that came
	Lost    uint64   // bytes of the stream that were skipped
	Missing uint64   // bytes of the blob that it still needs
	First   uint64   // offset in the blob of the first of these
	Last    uint64   // offset in the blob behind the last of these
}

// Encode is the feedback as bytes, big-endian.
func (f Feedback) Encode() []byte {
	b := make([]byte, 0, feedbackLen)
	b = append(b, "BYC\x01"...)
	b = append(b, 0, 0, 0, 0)
	if f.Leaving {
		b[4] = 1
	}
	b = binary.BigEndian.AppendUint64(b, f.Stream)
	b = append(b, f.ID[:]...)
	for _, n := range []uint64{f.Pos, f.Got, f.Lost, f.Missing, f.First, f.Last} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, 0, 0, 0, 0)
	return binary.BigEndian.AppendUint32(b, crc(b))
}

// ParseFeedback reads what Encode wrote, and nothing else. Whether the numbers
// make sense together is for the reader to judge: a device may say anything.
func ParseFeedback(b []byte) (Feedback, error) {
	if len(b) != feedbackLen || string(b[:4]) != "BYC\x01" || b[4] > 1 || b[5]|b[6]|b[7] != 0 || binary.BigEndian.Uint32(b[80:]) != 0 {
		return Feedback{}, fmt.Errorf("feedback refused: %d bytes without a known header: %w", len(b), errMalformed)
	}
	if binary.BigEndian.Uint32(b[84:]) != crc(b[:84]) {
		return Feedback{}, fmt.Errorf("feedback refused: checksum: %w", errMalformed)
	}
	n := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	return Feedback{
		Stream: n(8), ID: [16]byte(b[16:32]), Leaving: b[4] == 1,
		Pos: n(32), Got: n(40), Lost: n(48), Missing: n(56), First: n(64), Last: n(72),
	}, nil
}
