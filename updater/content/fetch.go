package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bothy-edge/bothy/updater/release"
)

// The states of a fetch, as Progress shows them.
const (
	StateIndex    = "index"    // fetching the list of blocks
	StateResuming = "resuming" // hashing what an interrupted fetch may have left
	StateFetching = "fetching"
	StateChecking = "checking" // hashing the whole file
	StateDone     = "done"
)

// Progress says how far a fetch is. Done includes what earlier attempts left,
// which BySource counts under "resumed".
type Progress struct {
	State    string           `json:"state"`
	Done     int64            `json:"done"`  // bytes
	Total    int64            `json:"total"` // bytes
	BySource map[string]int64 `json:"by_source,omitempty"`
	// Slowed says why less is asked for than the line could bring: "rate", "busy" or "window".
	Slowed string `json:"slowed,omitempty"`
}

var (
	// ErrCorrupt is the cause when a source gave an index or blocks that are not
	// the ones signed. Anybody on the way can do that; another source, or the
	// same one later, may have the right ones.
	ErrCorrupt = errors.New("the source has something else under this name")
	// ErrMismatch is the cause when what was signed contradicts itself: a file of
	// right blocks, or an index with the right digest, is not of the file.
	// Trying again does not help.
	ErrMismatch = errors.New("content differs from what was signed")
)

const maxStrikes = 3 // wrong blocks before a source is dropped

// Fetch returns the path of the file, fetching what is missing of it. The disk
// space is taken first (ErrNoSpace). Other files of the store are asked for
// blocks, then each source in order. An error other than ErrMismatch leaves what
// came, and a later call goes on from there, also after a crash at any point.
//
// progress may be nil; it is called from one goroutine at a time, at least once
// a block, and must be quick.
func (s *Store) Fetch(ctx context.Context, f release.File, sources []Source, progress func(Progress)) (string, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	free, err := s.hold(f.SHA256)
	if err != nil {
		return "", err
	}
	defer free()
	if whole, err := s.stillWhole(ctx, f, progress); whole || err != nil {
		return s.Path(f.SHA256), err
	}
	r := &fetch{store: s, file: f, sources: sources, report: progress, bySource: map[string]int64{}}
	if err := r.run(ctx); err != nil {
		return "", fmt.Errorf("cannot fetch %s: %w at %s", short(f.SHA256), noSpace(err), r.position())
	}
	return s.Path(f.SHA256), nil
}

// stillWhole says whether the file lies here and is what it was: a disk may have
// changed its mind since. One that is not is removed, to be fetched again.
func (s *Store) stillWhole(ctx context.Context, f release.File, progress func(Progress)) (bool, error) {
	if !s.Has(f.SHA256) {
		return false, nil
	}
	progress(Progress{State: StateChecking, Done: f.Size, Total: f.Size})
	err := s.Verify(ctx, f.SHA256)
	if errors.Is(err, ErrMismatch) {
		return false, s.drop(f.SHA256)
	}
	if err == nil {
		progress(Progress{State: StateDone, Done: f.Size, Total: f.Size})
	}
	return err == nil, err
}

// fetch is one call of Store.Fetch. Its fields are set before the writer starts
// or are the writer's until it has been flushed.
type fetch struct {
	store    *Store
	file     release.File
	sources  []Source
	report   func(Progress)
	index    Index
	encoded  []byte // the index
	data     *os.File
	journal  *journal
	origins  *origins
	have     []bool
	done     int64
	bySource map[string]int64
	slowed   string
	whole    *whole
	prefix   int // blocks that are there without a gap from the first
}

func (r *fetch) position() string {
	const mib = 1 << 20
	return fmt.Sprintf("%.1f of %.1f MiB", float64(r.done)/mib, float64(r.file.Size)/mib)
}

func (r *fetch) say(state string) {
	r.report(Progress{State: state, Done: r.done, Total: r.file.Size, BySource: maps.Clone(r.bySource), Slowed: r.slowed})
}

func (r *fetch) run(ctx context.Context) error {
	r.say(StateIndex)
	if err := r.loadIndex(ctx); err != nil {
		return err
	}
	if err := r.allocate(); err != nil {
		return err
	}
	defer r.data.Close()
	r.say(StateResuming)
	if err := r.resume(ctx); err != nil {
		return err
	}
	defer func() { r.journal.f.Close() }()
	// A second round only if blocks changed on the disk after they were checked.
	for range 2 {
		if err := r.fill(ctx); err != nil {
			return err
		}
		r.say(StateChecking)
		whole, err := r.check(ctx)
		if err != nil {
			return err
		}
		if whole {
			return r.finish()
		}
		if err := r.recheck(ctx); err != nil {
			return err
		}
	}
	return errors.New("the disk gives back other bytes than were written; check it for errors")
}

// loadIndex takes the index from an earlier attempt or from the first source that has the one signed.
func (r *fetch) loadIndex(ctx context.Context) error {
	if r.file.Size < 0 || !validDigest(r.file.IndexSHA256) {
		return fmt.Errorf("the release names no block index for it: %w", ErrMismatch)
	}
	path := r.store.partial(r.file.SHA256, indexExt)
	if b, err := os.ReadFile(path); err == nil && r.useIndex(b) == nil {
		return nil
	}
	var all error = ErrNotFound
	for _, src := range r.store.trustedFirst(r.sources) {
		b, err := src.Index(ctx, r.file)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			err = r.useIndex(b)
		}
		if err == nil {
			return r.store.writeFile(path, b)
		}
		all = errors.Join(all, fmt.Errorf("%s: %w", src.Name(), err))
	}
	return fmt.Errorf("no block index: %w", all)
}

func (r *fetch) useIndex(b []byte) error {
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != r.file.IndexSHA256 {
		return fmt.Errorf("index has digest %x: %w", sum[:6], ErrCorrupt)
	}
	x, err := ParseIndex(b)
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrMismatch)
	}
	if x.Size != r.file.Size {
		return fmt.Errorf("the index is of %d bytes, the release says %d: %w", x.Size, r.file.Size, ErrMismatch)
	}
	r.index, r.encoded, r.have = x, b, make([]bool, len(x.Blocks))
	return nil
}

// allocate takes the disk space of the whole file, so that a full disk is found before the transfer.
func (r *fetch) allocate() error {
	path := r.store.partial(r.file.SHA256, partExt)
	data, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return err
	}
	if err = r.store.fault("allocate"); err == nil {
		err = r.reserve(data)
	}
	if err != nil {
		// What fallocate got before it failed would stay taken.
		if i, serr := data.Stat(); serr == nil && i.Size() != r.file.Size {
			err = errors.Join(err, os.Remove(path))
		}
		return errors.Join(err, data.Close())
	}
	r.data = data
	return nil
}

func (r *fetch) reserve(data *os.File) error {
	i, err := data.Stat()
	if err != nil || r.file.Size == 0 {
		return errors.Join(err, data.Truncate(0))
	}
	if i.Size() > r.file.Size {
		if err := data.Truncate(r.file.Size); err != nil {
			return err
		}
	}
	err = unix.Fallocate(int(data.Fd()), 0, 0, r.file.Size)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	// A file system without fallocate: the best that can be done is to look.
	free, err := r.store.Free()
	if err != nil {
		return err
	}
	if free < r.file.Size-i.Size() {
		return fmt.Errorf("%w: %d bytes free", ErrNoSpace, free)
	}
	return data.Truncate(r.file.Size)
}

// resume takes over the blocks that an earlier attempt proved, and hashes those it only hinted at.
func (r *fetch) resume(ctx context.Context) error {
	path := r.store.partial(r.file.SHA256, journalExt)
	id := sha256.Sum256(r.encoded)
	proved, hinted, err := loadJournal(path, id, len(r.index.Blocks))
	if err != nil {
		return err
	}
	for _, n := range proved {
		r.have[n] = true
	}
	if err := r.verify(ctx, hinted); err != nil {
		return err
	}
	if err := r.store.fault("journal"); err != nil {
		return err
	}
	if r.journal, err = createJournal(path, id, r.recount(), r.data); err != nil {
		return err
	}
	if r.done > 0 {
		r.bySource[originResumed] = r.done
	}
	r.origins = loadOrigins(r.store.partial(r.file.SHA256, originExt), len(r.index.Blocks))
	r.origins.keep(r.have)
	return nil
}

// verify hashes blocks of the partial file and notes which hold.
func (r *fetch) verify(ctx context.Context, blocks []int) error {
	buf := make([]byte, BlockSize)
	for _, n := range blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		k := r.index.Blocks[n]
		err := readFullAt(r.data, buf[:k.Length], k.Offset)
		r.have[n] = err == nil && sha256.Sum256(buf[:k.Length]) == k.SHA256
	}
	return nil
}

// recount sets done from the bits and returns the blocks that hold.
func (r *fetch) recount() []int {
	var held []int
	r.done = 0
	for n, ok := range r.have {
		if ok {
			held = append(held, n)
			r.done += int64(r.index.Blocks[n].Length)
		}
	}
	return held
}

func (r *fetch) missing() []Block {
	var out []Block
	for n, ok := range r.have {
		if !ok {
			out = append(out, r.index.Blocks[n])
		}
	}
	return out
}

// fill asks each source in turn for what is missing.
func (r *fetch) fill(ctx context.Context) error {
	r.say(StateFetching)
	r.whole, r.prefix = newWhole(r.data), 0
	r.follow()
	w := r.startWriter()
	err := r.askAll(ctx, w)
	return errors.Join(err, w.stop())
}

func (r *fetch) askAll(ctx context.Context, w *writer) error {
	var all error
	sources := append([]Source{disk{r.store}}, r.store.trustedFirst(r.sources)...)
	for n, src := range sources {
		if len(r.missing()) == 0 {
			break
		}
		ask := r.drain
		if n > 0 && n < len(sources)-1 {
			ask = r.withFloor
		}
		err := ask(ctx, src, w)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if w.failure() != nil {
			return w.failure()
		}
		if err != nil {
			all = errors.Join(all, fmt.Errorf("%s: %w", src.Name(), err))
		}
	}
	if n := len(r.missing()); n > 0 {
		if all == nil {
			all = ErrNotFound
		}
		return fmt.Errorf("%d blocks are missing: %w", n, all)
	}
	return nil
}

// drain asks one source until it has given all it can or too much that is wrong.
func (r *fetch) drain(ctx context.Context, src Source, w *writer) error {
	w.begin(src)
	for {
		before := w.wrong() + w.castWrong()
		err := r.blocks(ctx, src, w)
		w.flush()
		if w.wrong() >= maxStrikes {
			r.store.setAside(src.Name())
			return fmt.Errorf("dropped after %d wrong blocks: %w", w.wrong(), ErrCorrupt)
		}
		if err != nil || w.wrong()+w.castWrong() == before || len(r.missing()) == 0 {
			return err
		}
	}
}

// check hashes the rest of the whole file.
func (r *fetch) check(ctx context.Context) (bool, error) {
	digest, err := r.whole.digest(ctx, r.file.Size)
	return digest == r.file.SHA256, err
}

// follow lets the digest of the whole go on as far as there is no gap.
func (r *fetch) follow() {
	end := int64(-1)
	for ; r.prefix < len(r.have) && r.have[r.prefix]; r.prefix++ {
		k := r.index.Blocks[r.prefix]
		end = k.Offset + int64(k.Length)
	}
	if end >= 0 {
		r.whole.grown(end)
	}
}

// recheck finds the blocks that no longer hold, after the whole file did not.
func (r *fetch) recheck(ctx context.Context) error {
	all := make([]int, len(r.have))
	for n := range all {
		all[n] = n
	}
	if err := r.verify(ctx, all); err != nil {
		return err
	}
	if !slices.Contains(r.have, false) {
		// Every block is as the signed index says, so the release contradicts itself.
		return errors.Join(ErrMismatch, r.discard())
	}
	r.origins.keep(r.have)
	r.journal.f.Close()
	var err error
	r.journal, err = createJournal(r.store.partial(r.file.SHA256, journalExt), sha256.Sum256(r.encoded), r.recount(), r.data)
	return err
}

func (r *fetch) discard() error {
	var err error
	for _, ext := range []string{partExt, journalExt, indexExt, originExt} {
		err = errors.Join(err, removeFile(r.store.partial(r.file.SHA256, ext)))
	}
	return err
}

// finish puts the file under its name; the journal goes last, when nothing needs it.
func (r *fetch) finish() error {
	note := r.store.partial(r.file.SHA256, originExt)
	if err := r.origins.save(note); err != nil {
		return err
	}
	if err := os.Rename(note, r.store.Path(r.file.SHA256)+originExt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := r.store.adopt(r.data, r.file.SHA256, r.encoded); err != nil {
		return err
	}
	for _, ext := range []string{journalExt, indexExt} {
		if err := removeFile(r.store.partial(r.file.SHA256, ext)); err != nil {
			return err
		}
	}
	r.say(StateDone)
	return nil
}
