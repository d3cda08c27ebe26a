package kernel

// Level names a set of kernels.
type Level string

// The levels, slowest first.
const (
	Scalar Level = "scalar"      // plain Go
	AVX2   Level = "avx2"        // with FMA and F16C
	VNNI   Level = "avx512-vnni" // AVX-512 F, BW, DQ, VL and VNNI
)

// Best is the fastest level that this machine can run.
func Best() Level { return Scalar }
