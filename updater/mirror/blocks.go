package mirror

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
)

const (
	runBytes = 32 << 20  // of one request: enough to hide a round trip, little to lose with a connection
	gapBytes = 128 << 10 // read over rather than asked around
	// What a server without ranges may send that is not wanted: more than this, and
	// more than what is wanted, is refused.
	wasteBytes = 64 << 20
)

// Blocks implements content.Source: it asks for runs of neighbouring blocks.
func (s *Source) Blocks(ctx context.Context, f release.File, want []content.Block, sink content.Sink) error {
	if release.CheckDigest(f.SHA256) != nil {
		return fmt.Errorf("cannot ask for %.80q: it is no digest", f.SHA256)
	}
	left := slices.SortedFunc(slices.Values(want), func(a, b content.Block) int { return cmp.Compare(a.Offset, b.Offset) })
	for tries := 0; len(left) > 0; {
		n, err := s.pull(ctx, f, left, sink)
		left = left[n:]
		if n > 0 {
			tries = 0
		}
		if err == nil {
			continue
		}
		tries++
		if err := s.again(ctx, tries, err); err != nil {
			return err
		}
	}
	return nil
}

// run is how many of the first blocks one request asks for.
func run(left []content.Block) int {
	start := left[0].Offset
	n := 1
	for ; n < len(left); n++ {
		last, k := left[n-1], left[n]
		if k.Offset-last.Offset-int64(last.Length) > gapBytes || k.Offset+int64(k.Length)-start > runBytes {
			break
		}
	}
	return n
}

// pull makes one request and delivers what it brings of left, in order. It
// returns how many blocks were delivered, whether right or wrong.
func (s *Source) pull(ctx context.Context, f release.File, left []content.Block, sink content.Sink) (int, error) {
	n := run(left)
	first, last := left[0], left[n-1]
	end := last.Offset + int64(last.Length)
	if s.cfg.Pace != nil {
		if err := s.cfg.Pace(ctx, int(end-first.Offset)); err != nil {
			return 0, err
		}
	}
	a, err := s.get(ctx, "blobs/"+f.SHA256, fmt.Sprintf("bytes=%d-%d", first.Offset, end-1))
	if err != nil {
		return 0, err
	}
	defer a.close()
	at := first.Offset
	if a.status == http.StatusPartialContent {
		err = a.checkRange(first.Offset, end, f.Size)
	} else {
		at = 0
		n, err = a.takeWhole(f.Size, left)
	}
	if err != nil {
		return 0, err
	}
	s.attribute(sink)
	return a.deliver(at, left[:n], sink)
}

// attribute notes which of several servers this is.
func (s *Source) attribute(sink content.Sink) {
	if s.cfg.Detail != nil {
		content.Attribute(sink, s.cfg.Name, s.cfg.Detail())
	}
}

// checkRange holds a part against what was asked for.
func (a *answer) checkRange(start, end, size int64) error {
	var from, to, total int64
	// Fscanf would take signs and spaces; what we ask for has one spelling.
	_, err := fmt.Sscanf(a.ranges, "bytes %d-%d/%d", &from, &to, &total)
	if err != nil || a.ranges != fmt.Sprintf("bytes %d-%d/%d", from, to, total) {
		from, to, total = start, end-1, size
		if a.ranges != fmt.Sprintf("bytes %d-%d/*", start, end-1) {
			return fmt.Errorf("%s: the server answers with the range %.60q, asked for were bytes %d to %d: %w", a.path, a.ranges, start, end-1, content.ErrCorrupt)
		}
	}
	if total != size {
		return fmt.Errorf("%s: the server's file has %d bytes, the release's %d: %w", a.path, total, size, content.ErrCorrupt)
	}
	if from != start || to != end-1 || a.length >= 0 && a.length != end-start {
		return fmt.Errorf("%s: the server answers with bytes %d to %d (%d long), asked for were %d to %d: %w", a.path, from, to, a.length, start, end-1, content.ErrCorrupt)
	}
	return nil
}

// takeWhole decides about a server that sends the whole file instead of a range:
// everything that is wanted is then taken from one answer.
func (a *answer) takeWhole(size int64, left []content.Block) (int, error) {
	if a.length >= 0 && a.length != size {
		return 0, fmt.Errorf("%s: the server's file has %d bytes, the release's %d: %w", a.path, a.length, size, content.ErrCorrupt)
	}
	var wanted int64
	for _, k := range left {
		wanted += int64(k.Length)
	}
	last := left[len(left)-1]
	waste := last.Offset + int64(last.Length) - wanted
	if waste > wasteBytes && waste > wanted {
		return 0, fmt.Errorf("%s: the server knows no ranges, and would send %d bytes for %d that are missing", a.path, waste+wanted, wanted)
	}
	return len(left), nil
}

// deliver reads the blocks out of a body that begins at byte at of the file.
func (a *answer) deliver(at int64, blocks []content.Block, sink content.Sink) (int, error) {
	for n, k := range blocks {
		if _, err := io.CopyN(io.Discard, a, k.Offset-at); err != nil {
			return n, a.explain(err)
		}
		b := sink.Buffer(k.Length)
		if _, err := io.ReadFull(a, b); err != nil {
			return n, a.explain(err)
		}
		at = k.Offset + int64(k.Length)
		a.pause() // a slow disk is not the server's fault
		if err := sink.Deliver(k, b); err != nil {
			return n + 1, err
		}
		a.resume()
	}
	return len(blocks), nil
}
