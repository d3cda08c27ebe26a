package depot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt/wire"
	"github.com/bothy-edge/bothy/updater/trust"
)

const (
	keepOpen     = 16          // files and indexes at once
	keepVerdicts = 4096        // devices and digests
	allowLife    = time.Second // a device that loses a digest loses it within this
	openLife     = time.Second // a file that was mended in the folder is served within this
)

// object is something that ranges are read from.
type object struct {
	id   [16]byte
	size int64
	r    io.ReaderAt
	when time.Time // it was opened, where it is kept
}

// objects opens what requests name, and keeps the latest open. Owned by the
// transmit loop, but for may.
type objects struct {
	fleet  Fleet
	now    func() time.Time
	opened map[string]object
	order  []string // oldest first

	mu      sync.Mutex
	allowed map[string]verdict
}

// verdict is whether a device may have a digest.
type verdict struct {
	code uint16
	when time.Time
}

func newObjects(f Fleet, now func() time.Time) *objects {
	return &objects{fleet: f, now: now, opened: map[string]object{}, allowed: map[string]verdict{}}
}

func (o *objects) close() {
	for k := range o.opened {
		o.drop(k)
	}
}

func (o *objects) drop(key string) {
	if c, ok := o.opened[key].r.(io.Closer); ok {
		c.Close()
	}
	delete(o.opened, key)
}

// open finds the object of a request and says with which code to answer otherwise.
func (o *objects) open(device string, q wire.Request) (object, uint16) {
	if q.Kind == wire.KindMetadata {
		return o.metadata(device, q.Name)
	}
	digest := hex.EncodeToString(q.Digest[:])
	if device != toAll {
		if code := o.may(device, digest); code != wire.CodeOK {
			return object{}, code
		}
	}
	key := digest
	load := o.blob
	if q.Kind == wire.KindIndex {
		key, load = digest+".index", o.index
	}
	have, kept := o.opened[key]
	if kept && o.now().Sub(have.when) < openLife {
		return have, wire.CodeOK
	}
	x, err := load(digest)
	if err != nil {
		return object{}, codeOf(err)
	}
	x.when = o.now()
	if kept {
		o.drop(key)
		o.opened[key] = x
		return x, wire.CodeOK
	}
	if len(o.order) >= keepOpen {
		o.drop(o.order[0])
		o.order = o.order[1:]
	}
	o.opened[key] = x
	o.order = append(o.order, key)
	return x, wire.CodeOK
}

// may asks the fleet at most once a second for each device and digest: with
// large frames on a fast broker there are a thousand requests a second. Safe for
// concurrent use.
func (o *objects) may(device, digest string) uint16 {
	o.mu.Lock()
	defer o.mu.Unlock()
	key, now := device+" "+digest, o.now()
	if v, ok := o.allowed[key]; ok && now.Sub(v.when) < allowLife {
		return v.code
	}
	if len(o.allowed) > keepVerdicts {
		clear(o.allowed)
	}
	v := verdict{code: wire.CodeOK, when: now}
	switch ok, err := o.fleet.Allowed(device, digest); {
	case err != nil:
		v.code = codeOf(err)
	case !ok:
		v.code = wire.CodeForbidden
	}
	o.allowed[key] = v
	return v.code
}

func codeOf(err error) uint16 {
	if errors.Is(err, trust.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return wire.CodeNotFound
	}
	return wire.CodeFailed
}

// metadata is read anew each time: it is small, and a signing may have replaced it.
func (o *objects) metadata(device, name string) (object, uint16) {
	head, file, ok := strings.Cut(name, "/")
	repo := trust.Repo(head)
	if !ok || repo != trust.Catalog && repo != trust.Director || !fs.ValidPath(file) {
		return object{}, wire.CodeNotFound
	}
	b, err := o.fleet.Metadata(repo, device, file)
	if err != nil {
		return object{}, codeOf(err)
	}
	return inMemory(b), wire.CodeOK
}

func inMemory(b []byte) object {
	sum := sha256.Sum256(b)
	return object{id: [16]byte(sum[:]), size: int64(len(b)), r: bytes.NewReader(b)}
}

func (o *objects) index(digest string) (object, error) {
	b, err := o.fleet.Index(digest)
	if err != nil {
		return object{}, err
	}
	return inMemory(b), nil
}

func (o *objects) blob(digest string) (object, error) {
	path, err := o.fleet.Blob(digest)
	if err != nil {
		return object{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return object{}, err
	}
	i, err := f.Stat()
	if err != nil {
		return object{}, errors.Join(err, f.Close())
	}
	id, _ := hex.DecodeString(digest[:32])
	return object{id: [16]byte(id), size: i.Size(), r: f}, nil
}
