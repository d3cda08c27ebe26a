package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
)

var allTypes = []gguf.Type{
	gguf.F32, gguf.F16, gguf.BF16, gguf.Q8_0, gguf.Q4_0, gguf.Q4_1, gguf.Q5_0, gguf.Q5_1, gguf.IQ4NL,
	gguf.Q2_K, gguf.Q3_K, gguf.Q4_K, gguf.Q5_K, gguf.Q6_K, gguf.IQ4XS,
}

func newRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// scalesOf are the places of the half-precision numbers in a block.
func scalesOf(t gguf.Type) []int {
	switch t {
	case gguf.Q4_1, gguf.Q5_1, gguf.Q4_K, gguf.Q5_K:
		return []int{0, 2}
	case gguf.Q2_K:
		return []int{80, 82}
	case gguf.Q3_K:
		return []int{108}
	case gguf.Q6_K:
		return []int{208}
	}
	return []int{0}
}

// randomRows are rows of random bytes whose scales are sane numbers.
func randomRows(r *rand.Rand, t gguf.Type, rows, cols int) []byte {
	data := make([]byte, rows*t.RowBytes(cols))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	put := func(at int) {
		h := FloatToHalf(float32(r.NormFloat64()) * 0.02)
		data[at], data[at+1] = byte(h), byte(h>>8)
	}
	switch t {
	case gguf.F32:
		for i := 0; i < len(data); i += 4 {
			bits := math.Float32bits(float32(r.NormFloat64()))
			data[i], data[i+1], data[i+2], data[i+3] = byte(bits), byte(bits>>8), byte(bits>>16), byte(bits>>24)
		}
	case gguf.BF16:
		for i := 0; i < len(data); i += 2 {
			bits := math.Float32bits(float32(r.NormFloat64()))
			data[i], data[i+1] = byte(bits>>16), byte(bits>>24)
		}
	default:
		for i := 0; i < len(data); i += t.RowBytes(t.Block()) {
			for _, at := range scalesOf(t) {
				put(i + at)
			}
		}
	}
	return data
}

// activations fill a batch with numbers of very different sizes.
func activations(r *rand.Rand, level Level, tokens, width int, form Form) *Batch {
	b := NewBatch(level, tokens, width, form)
	b.Reset(tokens)
	for t := range tokens {
		row := b.Row(t)
		for i := range row {
			row[i] = float32(r.NormFloat64())
			switch r.IntN(50) {
			case 0:
				row[i] *= 1000
			case 1:
				row[i] = 0
			case 2:
				row[i] *= 1e-30
			}
		}
		if t == 1 {
			clear(row) // a row of nothing has no scale
		}
		b.Set(form, t)
	}
	return b
}

func multiplyAll(tb testing.TB, t gguf.Type, data []byte, rows, cols int, level Level, b *Batch) []float32 {
	tb.Helper()
	m, err := NewMatrix(t, data, rows, cols, level)
	if err != nil {
		tb.Fatal(err)
	}
	defer m.Close()
	m.Pack(0, m.Groups())
	out := make([]float32, b.tokens*rows)
	m.Mul(b, 0, m.Groups(), out, rows)
	return out
}

func TestEveryLevelEqualsTheOracle(t *testing.T) {
	for _, level := range Levels() {
		for _, typ := range allTypes {
			for _, shape := range [][3]int{{16, 256, 1}, {40, 512, 1}, {40, 768, 9}, {1, 256, 2}, {33, 256, 17}} {
				rows, cols, tokens := shape[0], shape[1], shape[2]
				t.Run(fmt.Sprintf("%s/%v/%v", level, typ, shape), func(t *testing.T) {
					data := randomRows(newRand(), typ, rows, cols)
					form, _ := FormOf(typ)
					b := activations(newRand(), level, tokens, cols, form)
					got := multiplyAll(t, typ, data, rows, cols, level, b)
					for tok := range tokens {
						for r := range rows {
							row := data[r*typ.RowBytes(cols) : (r+1)*typ.RowBytes(cols)]
							want := dot(typ, row, b, tok)
							if !near(got[tok*rows+r], want, magnitude(typ, row, b, tok)) {
								t.Fatalf("row %d of token %d: got %v, want %v", r, tok, got[tok*rows+r], want)
							}
						}
					}
				})
			}
		}
	}
}

// TestExtremesDoNotOverflow has every weight and every activation at the edges
// of its type, all products of one sign, where narrow sums would wrap.
func TestExtremesDoNotOverflow(t *testing.T) {
	const rows, cols = 16, 512
	for _, level := range Levels() {
		for _, typ := range allTypes[3:] {
			for _, fill := range []byte{0x00, 0x7f, 0x80, 0xff} {
				data := randomRows(newRand(), typ, rows, cols)
				sane := randomRows(newRand(), typ, rows, cols)
				for i := range data {
					data[i] = fill
				}
				copyScales(typ, data, sane)
				for _, sign := range []float32{1, -1} {
					form, _ := FormOf(typ)
					b := NewBatch(level, 1, cols, form)
					b.Reset(1)
					for i := range b.Row(0) {
						b.Row(0)[i] = sign
					}
					b.Set(form, 0)
					got := multiplyAll(t, typ, data, rows, cols, level, b)
					for r := range rows {
						row := data[r*typ.RowBytes(cols) : (r+1)*typ.RowBytes(cols)]
						if want := dot(typ, row, b, 0); !near(got[r], want, magnitude(typ, row, b, 0)) {
							t.Fatalf("%s %v of %#02x, activations of %v: got %v, want %v", level, typ, fill, sign, got[r], want)
						}
					}
				}
			}
		}
	}
}

// copyScales takes the half-precision scales of sane into data.
func copyScales(typ gguf.Type, data, sane []byte) {
	for i := 0; i < len(data); i += typ.RowBytes(typ.Block()) {
		for _, at := range scalesOf(typ) {
			copy(data[i+at:i+at+2], sane[i+at:i+at+2])
		}
	}
}

// magnitude is the sum of the products' magnitudes: what rounding is relative to.
func magnitude(typ gguf.Type, row []byte, b *Batch, t int) float64 {
	w := make([]float32, b.Width)
	Expand(typ, row, w)
	var sum float64
	for i, x := range b.Row(t) {
		sum += math.Abs(float64(x) * float64(w[i]))
	}
	return sum
}

func near(got, want float32, size float64) bool {
	return math.Abs(float64(got)-float64(want)) <= 3e-6*size+1e-30
}

func TestOracleFollowsFloat64(t *testing.T) {
	const rows, cols, tokens = 24, 512, 3
	limit := map[Form]float64{Plain: 1e-6, Half: 1e-3, Brain: 8e-3, Blocks32: 0.02, Blocks256: 0.02}
	for _, typ := range allTypes {
		data := randomRows(newRand(), typ, rows, cols)
		form, _ := FormOf(typ)
		r := newRand()
		b := NewBatch(Scalar, tokens, cols, form)
		b.Reset(tokens)
		for tok := range tokens {
			for i := range b.Row(tok) {
				b.Row(tok)[i] = float32(r.NormFloat64())
			}
			b.Set(form, tok)
		}
		got := multiplyAll(t, typ, data, rows, cols, Scalar, b)
		var wrong, total float64
		w := make([]float32, cols)
		for row := range rows {
			Expand(typ, data[row*typ.RowBytes(cols):], w)
			for tok := range tokens {
				var want float64
				for i, x := range b.Row(tok) {
					want += float64(x) * float64(w[i])
				}
				d := float64(got[tok*rows+row]) - want
				wrong, total = wrong+d*d, total+want*want
			}
		}
		if rel := math.Sqrt(wrong / total); !(rel <= limit[form]) {
			t.Errorf("%v: relative error %.5f, want at most %v", typ, rel, limit[form])
		}
	}
}

func TestBatchEqualsOneByOne(t *testing.T) {
	const rows, cols, tokens = 40, 512, 11
	for _, level := range Levels() {
		for _, typ := range allTypes {
			data := randomRows(newRand(), typ, rows, cols)
			form, _ := FormOf(typ)
			all := activations(newRand(), level, tokens, cols, form)
			together := multiplyAll(t, typ, data, rows, cols, level, all)
			one := NewBatch(level, 1, cols, form)
			for tok := range tokens {
				one.Reset(1)
				copy(one.Row(0), all.Row(tok))
				one.Set(form, 0)
				for r, want := range multiplyAll(t, typ, data, rows, cols, level, one) {
					if got := together[tok*rows+r]; got != want {
						t.Fatalf("%s %v: row %d of token %d is %v in a batch, %v alone", level, typ, r, tok, got, want)
					}
				}
			}
		}
	}
}

func TestHalfPrecision(t *testing.T) {
	for h := range 1 << 16 {
		f := HalfToFloat(uint16(h))
		if f != f {
			continue
		}
		if got := FloatToHalf(f); got != uint16(h) {
			t.Fatalf("half %#04x is %v and comes back as %#04x", h, f, got)
		}
	}
	for f, want := range map[float32]uint16{
		1 + 1.0/2048: 0x3c00, 1 + 3.0/2048: 0x3c02, 65519: 0x7bff, 65520: 0x7c00,
		float32(math.Inf(-1)): 0xfc00, 1.0 / (1 << 25): 0, 1.5 / (1 << 25): 1, 3e38: 0x7c00,
	} {
		if got := FloatToHalf(f); got != want {
			t.Errorf("%v: got %#04x, want %#04x", f, got, want)
		}
	}
	if got := HalfToFloat(FloatToHalf(float32(math.NaN()))); got == got {
		t.Errorf("NaN became %v", got)
	}
	if got := roundBrain(1 + 1.0/256); got != 1 {
		t.Errorf("a tie rounds to %v, want 1", got)
	}
}

func TestVectorsEqualPlainGo(t *testing.T) {
	r := newRand()
	for _, level := range Levels() {
		v := NewVectors(level)
		for _, n := range []int{1, 8, 16, 24, 64, 80, 128} {
			a, h, out, want := make([]float32, n), make([]uint16, n), make([]float32, n), make([]float32, n)
			for i := range a {
				a[i], h[i] = float32(r.NormFloat64()), FloatToHalf(float32(r.NormFloat64()))
				out[i] = float32(i)
				want[i] = out[i] + 0.5*HalfToFloat(h[i])
			}
			if got, plain := v.DotHalf(a, h), dotHalf(a, h); math.Abs(float64(got-plain)) > 1e-5 {
				t.Errorf("%s: dot of %d: got %v, want %v", level, n, got, plain)
			}
			v.AddHalf(out, 0.5, h)
			rounded := make([]float32, n)
			v.AddRounded(rounded, 0.3, h)
			for i := range out {
				if w := RoundHalf(0.3 * HalfToFloat(h[i])); rounded[i] != w {
					t.Fatalf("%s: rounded add of %d at %d: got %v, want %v", level, n, i, rounded[i], w)
				}
				if math.Abs(float64(out[i]-want[i])) > 1e-5 {
					t.Fatalf("%s: add of %d at %d: got %v, want %v", level, n, i, out[i], want[i])
				}
			}
		}
	}
}

func TestExp(t *testing.T) {
	// Below -87 results are too small to be normal numbers and count as 0.
	for x := float32(-87); x < 88; x += 0.0137 {
		want := math.Exp(float64(x))
		if got := float64(Exp(x)); math.Abs(got-want) > 6e-8*want {
			t.Fatalf("exp(%v): got %v, want %v", x, got, want)
		}
	}
	if Exp(float32(math.Inf(-1))) != 0 || Exp(0) != 1 {
		t.Errorf("exp(-Inf) is %v, exp(0) is %v", Exp(float32(math.Inf(-1))), Exp(0))
	}
}

func TestMatrixRefusesWrongSizes(t *testing.T) {
	for _, c := range []struct {
		typ        gguf.Type
		bytes      int
		rows, cols int
	}{{gguf.Q8_0, 34, 1, 33}, {gguf.Q4_K, 144, 1, 128}, {gguf.F32, 4, 2, 1}, {gguf.F32, 0, 0, 1}, {gguf.I8, 16, 1, 16}} {
		if _, err := NewMatrix(c.typ, make([]byte, c.bytes), c.rows, c.cols, Best()); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func TestPackedBytesIsWhatAMatrixMaps(t *testing.T) {
	r := newRand()
	for _, level := range Levels() {
		for _, kind := range allTypes {
			for _, shape := range [][2]int{{1, 256}, {16, 256}, {17, 512}, {250, 4096}, {1024, 2048}} {
				rows, cols := shape[0], shape[1]
				m, err := NewMatrix(kind, randomRows(r, kind, rows, cols), rows, cols, level)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := PackedBytes(kind, rows, cols, level), m.Mapped(); got != want {
					t.Errorf("%v of %dx%d at %s: got %d bytes, want %d", kind, rows, cols, level, got, want)
				}
				if err := m.Close(); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%s %v: %.2f of the file's bytes", level, kind,
				float64(PackedBytes(kind, 4096, 4096, level))/float64(4096*kind.RowBytes(4096)))
		}
	}
	if got := PackedBytes(gguf.Q4_K, 16, 100, Best()); got != 0 {
		t.Errorf("got %d bytes for rows of no whole number of blocks, want 0", got)
	}
}
