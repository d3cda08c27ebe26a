//go:build !amd64

package kernel

import "github.com/bothy-edge/bothy/runtime/embedded/gguf"

// Best is the fastest level that this machine can run.
func Best() Level { return Scalar }

func packingOf(Level, gguf.Type) *packing { return nil }

func dotsOf(Level) dots { return dots{} }
