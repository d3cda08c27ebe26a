package powerloss

import (
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// open is one descriptor of the command.
type open struct {
	file   *file
	name   string // at the time of opening
	at     int64
	append bool
}

// player plays a trace on a disk.
type player struct {
	root   string
	disk   *disk
	open   map[int]*open
	covers map[string]int // thread -> what the sync that it runs covers
	acks   []string
}

func newPlayer(root string) *player {
	return &player{root: root, disk: newDisk(), open: map[int]*open{}, covers: map[string]int{}}
}

// local is the path inside the folder, and whether it is.
func (p *player) local(name string) (string, bool) {
	rel, err := filepath.Rel(p.root, name)
	return filepath.ToSlash(rel), err == nil && filepath.IsLocal(rel)
}

// play carries out one call and says whether it changed what the disk may hold.
func (p *player) play(c call) (bool, error) {
	switch c.name {
	case "openat", "creat":
		return p.opened(c)
	case "close":
		fd, err := descriptor(c.args[0])
		delete(p.open, fd)
		return false, err
	case "write", "pwrite64":
		return p.wrote(c)
	case "lseek", "ftruncate", "fallocate", "fsync", "fdatasync", "copy_file_range":
		return p.onDescriptor(c)
	case "renameat", "renameat2", "mkdirat", "unlinkat":
		return p.onName(c)
	}
	if strings.Contains(strings.Join(c.args, " "), escape(p.root)) {
		return false, fmt.Errorf("cannot replay %s: teach this package what it does to the disk", c.name)
	}
	return false, nil
}

func (p *player) opened(c call) (bool, error) {
	name, ok := p.local(c.path)
	if !ok {
		return false, nil
	}
	flags := c.args[2]
	f, changed := p.disk.names[name], false
	if f == nil {
		if !strings.Contains(flags, "O_CREAT") {
			return false, fmt.Errorf("cannot replay: %s was there before the recording", name)
		}
		f, changed = &file{}, true
		p.disk.name(naming{path: name, file: f})
	}
	if strings.Contains(flags, "O_TRUNC") && len(f.content()) > 0 {
		f.pending, changed = append(f.pending, change{}), true
	}
	p.open[int(c.result)] = &open{file: f, name: name, append: strings.Contains(flags, "O_APPEND")}
	return changed, nil
}

func (p *player) wrote(c call) (bool, error) {
	fd, err := descriptor(c.args[0])
	if err != nil {
		return false, err
	}
	o := p.open[fd]
	if o == nil && fd != 1 {
		return false, nil
	}
	data, err := text(c.args[1])
	if err != nil {
		return false, err
	}
	data = data[:c.result]
	if o == nil {
		return p.said(string(data)), nil
	}
	at := o.at
	switch {
	case c.name == "pwrite64":
		if at, err = strconv.ParseInt(c.args[3], 10, 64); err != nil {
			return false, err
		}
	case o.append:
		at = int64(len(o.file.content()))
		fallthrough
	default:
		o.at = at + c.result
	}
	o.file.pending = append(o.file.pending, change{at, data})
	return true, nil
}

// said collects promises. One is no change of the disk, but what the disk must keep changes.
func (p *player) said(text string) bool {
	for line := range strings.Lines(text) {
		if promise, ok := strings.CutPrefix(strings.TrimSpace(line), "ack "); ok {
			p.acks = append(p.acks, promise)
		}
	}
	return true
}

func (p *player) onDescriptor(c call) (bool, error) {
	fd, err := descriptor(c.args[0])
	o := p.open[fd]
	if c.name == "copy_file_range" {
		return p.copied(c)
	}
	if err != nil || o == nil {
		return false, err
	}
	switch c.name {
	case "lseek":
		o.at = c.result
		return false, nil
	case "ftruncate", "fallocate":
		return true, p.resized(c, o)
	}
	if c.begun {
		p.covers[c.thread] = len(o.file.pending)
		if o.file.folder {
			p.covers[c.thread] = len(p.disk.journal)
		}
		return false, nil
	}
	if o.file.folder {
		p.disk.syncFolder(o.name, p.covers[c.thread])
	} else {
		o.file.sync(min(p.covers[c.thread], len(o.file.pending)))
	}
	return true, nil
}

func (p *player) resized(c call, o *open) error {
	size, err := strconv.ParseInt(c.args[1], 10, 64)
	if c.name == "fallocate" {
		if c.args[1] != "0" {
			return fmt.Errorf("cannot replay fallocate of mode %s", c.args[1])
		}
		var at, length int64
		at, err = strconv.ParseInt(c.args[2], 10, 64)
		if err == nil {
			length, err = strconv.ParseInt(c.args[3], 10, 64)
		}
		if size = at + length; err == nil && size <= int64(len(o.file.content())) {
			return nil
		}
	}
	o.file.pending = append(o.file.pending, change{at: size})
	return err
}

func (p *player) copied(c call) (bool, error) {
	from, err := descriptor(c.args[0])
	if err != nil {
		return false, err
	}
	to, err := descriptor(c.args[2])
	if err != nil || p.open[to] == nil || c.result == 0 {
		return false, err
	}
	src, dst := p.open[from], p.open[to]
	if src == nil || c.args[1] != "NULL" || c.args[3] != "NULL" {
		return false, fmt.Errorf("cannot replay copy_file_range(%s)", strings.Join(c.args, ", "))
	}
	data := src.file.content()[src.at:][:c.result]
	dst.file.pending = append(dst.file.pending, change{dst.at, data})
	src.at, dst.at = src.at+c.result, dst.at+c.result
	return true, nil
}

func (p *player) onName(c call) (bool, error) {
	name, ok, err := p.argument(c.args[0], c.args[1])
	if err != nil {
		return false, err
	}
	switch c.name {
	case "mkdirat":
		if ok {
			p.disk.name(naming{path: name, file: &file{folder: true}})
		}
	case "unlinkat":
		if ok {
			p.disk.name(naming{path: name})
		}
	default:
		to, inside, err := p.argument(c.args[2], c.args[3])
		if err != nil || !ok && !inside {
			return false, err
		}
		if !ok || !inside || p.disk.names[name] == nil || p.disk.names[name].folder {
			return false, fmt.Errorf("cannot replay the rename of %s to %s", name, to)
		}
		p.disk.name(naming{path: to, from: name, file: p.disk.names[name]})
		ok = true
	}
	return ok, nil
}

// argument is a path below a folder's descriptor ("AT_FDCWD</...>").
func (p *player) argument(folder, name string) (string, bool, error) {
	b, err := text(name)
	if err != nil {
		return "", false, err
	}
	full := string(b)
	if !path.IsAbs(full) {
		_, at, _ := strings.Cut(strings.TrimSuffix(folder, ">"), "<")
		base, err := unescape(at)
		if err != nil {
			return "", false, err
		}
		full = path.Join(base, full)
	}
	local, ok := p.local(full)
	return local, ok, nil
}
