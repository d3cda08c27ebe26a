package runtime

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"

	"github.com/shirou/gopsutil/v3/mem"

	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
	"github.com/bothy-edge/bothy/runtime/embedded/kernel"
)

const (
	// kvBytes is the size of one cached key or value: both engines keep half precision unless told otherwise.
	kvBytes = 2
	// physicalBatch is how many tokens llama-server computes at once (--ubatch-size); its buffers scale with it.
	physicalBatch = 512
	// processBytes is what an engine takes before it holds any model: llama-server was seen at about 25 MiB.
	processBytes = 32 << 20
	// embeddedEngine is the name that Config.Adapters and releases know the embedded engine by.
	embeddedEngine = "embedded"
	// hostReserve stays free for the agent and the system when a load is judged.
	hostReserve = 256 << 20
)

// errTooLarge says that a product of a header's numbers fits no machine.
var errTooLarge = errors.New("its key/value cache would exceed any machine's memory")

// Need is the memory that a model will take, in bytes. It is a bound for planning, made before the first load:
// mixed-attention and recurrent architectures take less cache than it says.
type Need struct {
	Weights uint64 `json:"weights"` // the tensors, as the engine holds them
	KV      uint64 `json:"kv"`      // keys and values of Slots times Context tokens
	Compute uint64 `json:"compute"` // logits and activations of one batch
	Process uint64 `json:"process"` // the engine itself
	Context int    `json:"context"` // tokens a request
	Slots   int    `json:"slots"`
}

// Total is the sum of the parts.
func (n Need) Total() uint64 { return n.Weights + n.KV + n.Compute + n.Process }

// String shows the arithmetic: "1.2 GiB (weights 1.1 GiB + ...)".
func (n Need) String() string {
	return fmt.Sprintf("%s (weights %s + key/value cache of %d x %d tokens %s + buffers %s + process %s)",
		size(n.Total()), size(n.Weights), n.Slots, n.Context, size(n.KV), size(n.Compute), size(n.Process))
}

// Estimate reads the header of a GGUF file and says what it needs with the given tokens a request (0: what the
// model was trained with) and slots (0: one).
func Estimate(path string, context, slots int) (Need, error) {
	return estimateFile(path, context, slots, estimate)
}

// EstimateEmbedded is Estimate for the embedded engine on this machine, which holds matrices in layouts of its own:
// larger than the file's for some types.
func EstimateEmbedded(path string, context, slots int) (Need, error) {
	return estimateFile(path, context, slots, estimateEmbedded)
}

func estimateFile(path string, context, slots int, estimate func(*gguf.File, int, int) (Need, error)) (Need, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return Need{}, fmt.Errorf("cannot estimate memory: %w", err)
	}
	e, err := estimate(f, context, slots)
	if err = errors.Join(err, f.Close()); err != nil {
		return Need{}, fmt.Errorf("cannot estimate memory of %s: %w", path, err)
	}
	return e, nil
}

func estimate(f *gguf.File, context, slots int) (Need, error) {
	arch, _ := f.Meta.String("general.architecture")
	number := func(key string) uint64 { n, _ := f.Meta.Uint(arch + "." + key); return n }
	if context == 0 {
		context = int(min(number("context_length"), maxContext))
	}
	e := Need{Process: processBytes, Context: context, Slots: max(slots, 1)}
	for _, t := range f.Tensors {
		e.Weights += uint64(len(t.Data))
	}
	perToken, err := kvPerToken(f, arch, number)
	if err != nil {
		return e, err
	}
	tokens := uint64(e.Context) * uint64(e.Slots) // both bounded by Spec.validate
	hi, kv := bits.Mul64(perToken, tokens)
	if hi != 0 || kv > 1<<50 {
		return e, errTooLarge
	}
	e.KV = kv
	vocab, _ := f.Meta.Len("tokenizer.ggml.tokens")
	width := min(max(uint64(vocab), 2*number("feed_forward_length"))+4*number("embedding_length"), 1<<32)
	e.Compute = width * 4 * min(physicalBatch, max(uint64(e.Context), 1))
	return e, nil
}

func estimateEmbedded(f *gguf.File, context, slots int) (Need, error) {
	arch, _ := f.Meta.String("general.architecture")
	if trained, _ := f.Meta.Uint(arch + ".context_length"); trained > 0 && uint64(context) > trained {
		context = int(trained) // as the engine does
	}
	e, err := estimate(f, context, slots)
	e.Weights, e.KV = heldBytes(f, kernel.Best()), uint64(kernel.MapBytes(int64(e.KV)))
	return e, err
}

// heldBytes is what the tensors take in the embedded engine. The file's bytes of what is packed are read once and
// not counted: the system takes their pages back.
func heldBytes(f *gguf.File, level kernel.Level) uint64 {
	const embedding = "token_embd.weight"
	tied := f.Tensor("output.weight") == nil
	var sum uint64
	for i := range f.Tensors {
		t := &f.Tensors[i]
		packed := uint64(0)
		if len(t.Dims) == 2 && (t.Name != embedding || tied) {
			packed = uint64(kernel.PackedBytes(t.Type, t.Rows(), t.Row(), level))
		}
		if packed == 0 || t.Name == embedding { // whose rows are looked up in the file
			sum += uint64(len(t.Data))
		}
		sum += packed
	}
	return sum
}

// kvPerToken is the cache that one token takes in all layers.
func kvPerToken(f *gguf.File, arch string, number func(string) uint64) (uint64, error) {
	heads, layers, width := number("attention.head_count"), number("block_count"), number("embedding_length")
	headDim := uint64(0)
	if heads > 0 {
		headDim = width / heads
	}
	key, value := headDim, headDim
	if n := number("attention.key_length"); n > 0 {
		key = n
	}
	if n := number("attention.value_length"); n > 0 {
		value = n
	}
	kvHeads := heads
	if n, ok := f.Meta.Uint(arch + ".attention.head_count_kv"); ok {
		kvHeads = n
	}
	if layers > 1<<16 || kvHeads > 1<<20 || key > 1<<20 || value > 1<<20 {
		return 0, errTooLarge
	}
	sum := layers * kvHeads
	// Some architectures give the number of each layer; a layer without attention has none.
	if each, ok := f.Meta.Ints(arch + ".attention.head_count_kv"); ok {
		sum = 0
		for _, n := range each {
			sum += uint64(max(0, min(n, 1<<20)))
		}
	}
	hi, n := bits.Mul64(sum, (key+value)*kvBytes)
	if hi != 0 {
		return 0, errTooLarge
	}
	return n, nil
}

// fits says nil when the estimate fits the free memory, in bytes, or an error that shows the arithmetic.
func fits(n Need, free, total uint64) error {
	if n.Total()+hostReserve <= free {
		return nil
	}
	return fmt.Errorf("it needs %v, and of the host's %s only %s are free, of which %s are kept for the system: "+
		"stop another model, or choose a smaller context or fewer slots",
		n, size(total), size(free), size(hostReserve))
}

// needOf is the need of all files of a spec. The header of the first describes the model; the others add their tensors.
func needOf(spec Spec) (Need, error) {
	first := Estimate
	if spec.Engine == embeddedEngine {
		first = EstimateEmbedded
	}
	e, err := first(spec.Files[0], spec.Context, spec.slots())
	if err != nil {
		return e, err
	}
	more := slices.Concat(spec.Files[1:], spec.Adapters)
	if spec.Projector != "" {
		more = append(more, spec.Projector)
	}
	for _, path := range more {
		n, err := tensorBytes(path)
		if err != nil {
			return e, fmt.Errorf("cannot estimate memory of %s: %w", path, err)
		}
		e.Weights += n
	}
	return e, nil
}

func tensorBytes(path string) (uint64, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return 0, err
	}
	var sum uint64
	for _, t := range f.Tensors {
		sum += uint64(len(t.Data))
	}
	return sum, f.Close()
}

// FitsHost is a Config.Fit that holds a spec's GGUF files against the host's free memory. What cannot be sized passes:
// other formats, and number formats that a newer engine may know.
func FitsHost(spec Spec) error {
	e, err := needOf(spec)
	if errors.Is(err, gguf.ErrType) || errors.Is(err, gguf.ErrFormat) && !isGGUF(spec.Files[0]) {
		return nil // the engine knows what it takes
	}
	if err != nil {
		return err
	}
	m, err := mem.VirtualMemory()
	if err != nil {
		return fmt.Errorf("cannot read the host's memory: %w", err)
	}
	return fits(e, m.Available, m.Total)
}

// isGGUF looks at the first four bytes.
func isGGUF(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [4]byte
	_, err = io.ReadFull(f, magic[:])
	return err == nil && string(magic[:]) == "GGUF"
}

// size renders bytes for people.
func size(n uint64) string {
	const mib, gib = 1 << 20, 1 << 30
	if n < gib {
		return fmt.Sprintf("%.1f MiB", float64(n)/mib)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/gib)
}
