package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
)

// What stays free beside an update, so that it never costs what runs.
const (
	diskReserve  = 256 << 20 // bytes
	inodeReserve = 256
	inodesAFile  = 6 // of one file on its way: data, journal, index, their successors, and the folder's growth
)

// room says whether an update fits the disk. need is the bytes that its fetch still takes.
func (b *box) room(want release.Want, need int64) error {
	free, err := b.artifacts.Free()
	if err != nil {
		return err
	}
	inodes, counted, err := b.artifacts.FreeInodes()
	if err != nil {
		return err
	}
	var missing int64
	for _, d := range want.Documents() {
		for _, f := range d.Files {
			if !b.artifacts.Has(f.SHA256) {
				missing++
			}
		}
	}
	d := volume{path: b.path("artifacts"), free: free, inodes: inodes, counted: counted}
	return d.holds(need, missing)
}

// volume is what is free where the artifacts lie.
type volume struct {
	path    string
	free    int64 // bytes
	inodes  int64
	counted bool // the file system counts inodes
}

// holds says whether so many bytes and files still fit beside what must stay free.
func (d volume) holds(need, files int64) error {
	if need+diskReserve > d.free {
		return fmt.Errorf("%w: the update needs %s and %s stay in reserve, %s are free at %s", content.ErrNoSpace,
			humanize.IBytes(uint64(need)), humanize.IBytes(diskReserve), humanize.IBytes(uint64(max(d.free, 0))), d.path)
	}
	if inodes := files * inodesAFile; d.counted && files > 0 && inodes+inodeReserve > d.inodes {
		return fmt.Errorf("%w: the update needs %d inodes and %d stay in reserve, %d are free at %s; remove small files there",
			content.ErrNoSpace, inodes, inodeReserve, d.inodes, d.path)
	}
	return nil
}

// getArtifacts lists what lies here and why, and last what nothing keeps.
func (b *box) getArtifacts(*http.Request) (any, error) {
	all, err := b.updater.Kept()
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, a := range all {
		known[a.SHA256] = true
	}
	have, err := b.artifacts.List()
	if err != nil {
		return nil, err
	}
	partial, err := b.artifacts.Partial()
	if err != nil {
		return nil, err
	}
	rest := slices.Compact(slices.Sorted(slices.Values(append(have, partial...))))
	for _, digest := range rest {
		if !known[digest] {
			taken := b.artifacts.Taken(digest)
			all = append(all, updater.Artifact{SHA256: digest, Size: taken, Taken: taken, Why: []string{}})
		}
	}
	return all, nil
}

// PinRequest names what shall stay: a release, NAME@VERSION, or the beginning of a digest.
type PinRequest struct {
	What string `json:"what"`
}

// pinOrder is a route that pins or unpins.
func (b *box) pinOrder(pin bool) answer {
	return func(r *http.Request) (any, error) {
		var q PinRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || strings.TrimSpace(q.What) == "" {
			return nil, problem{http.StatusBadRequest, fmt.Errorf("cannot read the order: want {\"what\": a release or a digest}"), ""}
		}
		do := b.updater.Unpin
		if pin {
			do = b.updater.Pin
		}
		return q, conflict(do(r.Context(), q.What))
	}
}

func (b *box) dropPrevious(r *http.Request) (any, error) {
	return map[string]bool{"dropped": true}, conflict(b.updater.DropPrevious(r.Context()))
}

// spare is how many bytes of disk the set before this one has for itself alone.
func (b *box) spare() int64 {
	all, err := b.updater.Kept()
	if err != nil {
		return 0
	}
	var n int64
	for _, a := range all {
		if slices.Equal(a.Why, []string{"previous"}) {
			n += a.Taken
		}
	}
	return n
}
