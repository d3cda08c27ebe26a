package fleet

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// bf16 is n bytes of numbers as weights are spread, which pack to about 78 %.
func bf16(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, n)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(float32(r.NormFloat64()*0.02))>>16))
	}
	return b
}

func TestBF16ModelTravelsPacked(t *testing.T) {
	f := newFleet(t)
	size := 3 << 20
	doc := add(t, f, release.Model, "mote", string(bf16(size)))
	add(t, f, release.Model, "other", "weights that are too few to pack")
	sign1(t, f)
	assign(t, f, "box-1", map[string]string{"chat": "mote@1"}, "")
	assign(t, f, "box-2", map[string]string{"chat": "other@1"}, "")
	packed, ok := f.packedDigest(doc.Primary().SHA256)
	if !ok {
		t.Fatal("there is no packed form")
	}
	for device, want := range map[string]bool{"box-1": true, "box-2": false} {
		if got, err := f.Allowed(device, packed); err != nil || got != want {
			t.Errorf("%s may have the packed form: %v, %v, want %v", device, got, err, want)
		}
	}
	out := t.TempDir()
	mirrorTo(t, f, MirrorOptions{To: out, Prune: true})
	if n := exported(t, out)["blobs/"+packed]; n == 0 || n*100 > int64(size)*80 {
		t.Errorf("the packed form has %d bytes of %d", n, size)
	}
	if _, there := exported(t, out)["blobs/"+doc.Primary().SHA256]; there {
		t.Error("the plain file was exported beside the packed one")
	}
	installs(t, f, out, "box-1")
	installs(t, f, out, "box-2")
	if did := mirrorTo(t, f, MirrorOptions{To: out, Prune: true, Verify: true}); did.Written+did.Removed != 0 {
		t.Errorf("again: got %+v, want nothing to do", did)
	}
}

// TestAddingAgainKeepsTheForm: another packer would make other bytes, and with
// them another index and another release of the same file.
func TestAddingAgainKeepsTheForm(t *testing.T) {
	f := newFleet(t)
	text := string(bf16(3 << 20))
	first := add(t, f, release.Model, "mote", text)
	file := first.Primary()
	packed, _ := f.packedDigest(file.SHA256)
	if again := add(t, f, release.Model, "mote", text); again.ID() != first.ID() || again.Primary().IndexSHA256 != file.IndexSHA256 {
		t.Errorf("got %s with another index, want %s", again.ID(), first.ID())
	}
	// A fleet from before packed forms has plain indexes, and keeps them.
	plain := filepath.Join(t.TempDir(), "mote.bin")
	if err := os.WriteFile(plain, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(plain)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	index, err := content.BuildIndex(in, file.Size)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(f.blobPath(file.SHA256)+".index", index.Encode(), 0o644), os.Remove(f.blobPath(packed))); err != nil {
		t.Fatal(err)
	}
	if again := add(t, f, release.Model, "old", text); again.Primary().IndexSHA256 != index.SHA256() {
		t.Error("a file with a plain index got another one")
	}
	// A packed form that the disk lost is made again.
	if err := os.Remove(f.blobPath(file.SHA256) + ".index"); err != nil {
		t.Fatal(err)
	}
	add(t, f, release.Model, "new", text)
	if _, err := f.Blob(packed); errors.Is(err, trust.ErrNotFound) {
		t.Errorf("the packed form is not back: %v", err)
	}
}
