package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"testing"
)

func sampleFeedback() Feedback {
	return Feedback{Stream: 7, ID: [16]byte{1, 2, 15: 16}, Pos: 1 << 33, Got: 5, Lost: 6, Missing: 8, First: 9, Last: 10}
}

func TestFeedbackComesBackAsItWas(t *testing.T) {
	leaving := sampleFeedback()
	leaving.Leaving = true
	for _, want := range []Feedback{{}, sampleFeedback(), leaving} {
		got, err := ParseFeedback(want.Encode())
		if err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}

func TestFeedbackLayoutIsFixed(t *testing.T) {
	b := sampleFeedback().Encode()
	want := "42594301" + "00000000" + "0000000000000007" + "01020000000000000000000000000010" +
		"0000000200000000" + "0000000000000005" + "0000000000000006" + "0000000000000008" + "0000000000000009" + "000000000000000a" + "00000000"
	if got := hex.EncodeToString(b[:84]); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
}

func TestEveryFlippedBitOfFeedbackIsRefused(t *testing.T) {
	b := sampleFeedback().Encode()
	for i := range len(b) * 8 {
		bad := bytes.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := ParseFeedback(bad); !errors.Is(err, errMalformed) {
			t.Errorf("bit %d flipped: got %v", i, err)
		}
	}
	for _, n := range []int{0, 4, 87, 89} {
		if _, err := ParseFeedback(make([]byte, n)); !errors.Is(err, errMalformed) {
			t.Errorf("%d bytes: got %v", n, err)
		}
	}
}

func FuzzParseFeedback(f *testing.F) {
	f.Add(sampleFeedback().Encode())
	f.Add([]byte("BYC\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == feedbackLen {
			b = bytes.Clone(b)
			binary.BigEndian.PutUint32(b[84:], crc(b[:84]))
		}
		x, err := ParseFeedback(b)
		if err == nil && !bytes.Equal(x.Encode(), b) {
			t.Fatal("an accepted feedback has a second encoding")
		}
	})
}
