package content

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"slices"
)

// Limits on a safetensors header. The format's own reader stops at 100 MB; the
// headers of the largest published models are under 1 MiB a file.
const (
	safeMaxHeader  = 16 << 20
	safeMaxTensors = ggufMaxTensors
)

var errSafetensors = errors.New("not a well-formed safetensors header")

// tensorStarts returns where the larger tensors of a model file start,
// ascending: nothing for a file of another kind or with a header that cannot be trusted.
func tensorStarts(r io.ReaderAt, size int64) []int64 {
	if starts := ggufStarts(r, size); len(starts) > 0 {
		return starts
	}
	return safetensorsStarts(r, size)
}

// safetensorsStarts does it for safetensors: eight bytes of length, a JSON object
// that gives each tensor its place behind the header, then the tensors.
func safetensorsStarts(r io.ReaderAt, size int64) []int64 {
	var head [8]byte
	if size < int64(len(head))+2 || readFullAt(r, head[:], 0) != nil {
		return nil
	}
	n := binary.LittleEndian.Uint64(head[:])
	if n < 2 || n > safeMaxHeader || int64(n) > size-int64(len(head)) {
		return nil
	}
	offsets, err := safetensorsOffsets(io.NewSectionReader(r, int64(len(head)), int64(n)))
	if err != nil {
		return nil
	}
	return largeStarts(int64(len(head))+int64(n), offsets, size)
}

// safetensorsOffsets reads the header object one member at a time.
func safetensorsOffsets(r io.Reader) ([]uint64, error) {
	dec := json.NewDecoder(bufio.NewReaderSize(r, 64<<10))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errSafetensors
	}
	var offsets []uint64
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, errSafetensors
		}
		if name == "__metadata__" {
			var skip json.RawMessage
			if dec.Decode(&skip) != nil {
				return nil, errSafetensors
			}
			continue
		}
		var tensor struct {
			Offsets []uint64 `json:"data_offsets"` // begin and end behind the header
		}
		if dec.Decode(&tensor) != nil || len(tensor.Offsets) != 2 || tensor.Offsets[0] > tensor.Offsets[1] || len(offsets) == safeMaxTensors {
			return nil, errSafetensors
		}
		offsets = append(offsets, tensor.Offsets[0])
	}
	return offsets, nil
}

// largeStarts turns offsets behind data into places in a file of size bytes:
// ascending, each once, and only of tensors that are worth a block. Small ones
// (norms) stay with their neighbour: a block each would cost more in round trips
// than their reuse saves. It returns nothing when one lies outside the file.
func largeStarts(data int64, offsets []uint64, size int64) []int64 {
	all := make([]int64, 0, len(offsets))
	for _, o := range offsets {
		if o > uint64(size) || data+int64(o) > size {
			return nil
		}
		all = append(all, data+int64(o))
	}
	slices.Sort(all)
	all = slices.Compact(all)
	starts := all[:0:0]
	for i, s := range all {
		end := size
		if i+1 < len(all) {
			end = all[i+1]
		}
		if s > 0 && end-s >= smallTensor {
			starts = append(starts, s)
		}
	}
	return starts
}
