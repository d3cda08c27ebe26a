package content

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/bothy-edge/bothy/internal/parts"
)

// quantised is n bytes of Q8_0: blocks of a scale and 32 numbers of a byte.
func quantised(n int) []byte {
	r := rand.New(rand.NewPCG(5, 1))
	b := make([]byte, 0, n+34)
	for len(b) < n {
		var w [32]float64
		most := 0.0
		for i := range w {
			w[i] = r.NormFloat64()
			most = max(most, math.Abs(w[i]))
		}
		b = binary.LittleEndian.AppendUint16(b, uint16(r.IntN(512)+0x1800))
		for _, v := range w {
			b = append(b, byte(int8(math.Round(v/most*127))))
		}
	}
	return b[:n]
}

// halves is n bytes of F16.
func halves(n int) []byte {
	r := rand.New(rand.NewPCG(6, 1))
	b := make([]byte, 0, n+2)
	for len(b) < n {
		u := math.Float32bits(float32(r.NormFloat64() * 0.02))
		e := max(int(u>>23&0xff)-112, 0)
		b = binary.LittleEndian.AppendUint16(b, uint16(u>>16)&0x8000|uint16(e)<<10|uint16(u>>13&0x3ff))
	}
	return b[:n]
}

// BenchmarkPack says what the packed form of each kind of weights saves, and what
// making and unpacking it costs.
func BenchmarkPack(b *testing.B) {
	const size = 16 << 20
	kinds := map[string][]byte{"bf16": weights(1, size), "f16": halves(size), "q8_0": quantised(size)}
	for _, name := range []string{"mote-256-f16.gguf", "mote-chat-f32.gguf", "mote-chat-q8_0.gguf", "mote-256-q4_k_m.gguf"} {
		data, err := os.ReadFile(parts.Model(b, name))
		if err != nil {
			b.Fatal(err)
		}
		kinds[name] = data
	}
	for name, data := range kinds {
		plain := mustIndex(b, data)
		b.Run("pack/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			share := 100.0
			for b.Loop() {
				x, _, err := Pack(bytes.NewReader(data), plain, &bytes.Buffer{})
				if err != nil {
					b.Fatal(err)
				}
				if x.PackedSize > 0 {
					share = 100 * float64(x.PackedSize) / float64(len(data))
				}
			}
			b.ReportMetric(share, "%")
		})
	}
	b.Run("unpack/bf16", func(b *testing.B) {
		data := kinds["bf16"]
		var packed bytes.Buffer
		x, _, err := Pack(bytes.NewReader(data), mustIndex(b, data), &packed)
		if err != nil {
			b.Fatal(err)
		}
		u, err := newUnpacker(x, &reuse{make([]byte, BlockSize)})
		if err != nil {
			b.Fatal(err)
		}
		defer u.dec.Close()
		_, want, _ := x.packed(x.Blocks)
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			for _, k := range want {
				if err := u.Deliver(k, packed.Bytes()[k.Offset:k.Offset+int64(k.Length)]); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// reuse is a Sink with one buffer.
type reuse struct{ b []byte }

func (r *reuse) Buffer(n int) []byte { return r.b[:n] }

func (r *reuse) Deliver(Block, []byte) error { return nil }
