package packaging

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// entry is one path of a package.
type entry struct {
	path         string
	mode         uint32 // type and permissions as in stat(2)
	owner, group string
	kind         string // "config", "licence" or ""
}

func (e entry) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %06o %s:%s %s", e.path, e.mode, e.owner, e.group, e.kind))
}

// members are the files of an ar archive, which a .deb is.
func members(t *testing.T, path string) map[string][]byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rest, ok := bytes.CutPrefix(raw, []byte("!<arch>\n"))
	if !ok {
		t.Fatalf("%s is no ar archive", path)
	}
	all := map[string][]byte{}
	for len(rest) >= 60 {
		name := strings.TrimRight(string(rest[:16]), " /")
		size, err := strconv.Atoi(strings.TrimSpace(string(rest[48:58])))
		if err != nil || 60+size > len(rest) {
			t.Fatalf("%s: the header of %q is damaged: %v", path, name, err)
		}
		all[name] = rest[60 : 60+size]
		rest = rest[min(60+size+size%2, len(rest)):]
	}
	return all
}

// unpacked runs a decompressor over the archive and visits its files.
func unpacked(t *testing.T, packed []byte, visit func(*tar.Header, io.Reader), program ...string) {
	t.Helper()
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Stdin = bytes.NewReader(packed)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cannot unpack with %s: %v", program[0], err)
	}
	for r := tar.NewReader(bytes.NewReader(out)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		visit(h, r)
	}
}

// readDeb lists the files of a .deb, without the folders that other packages own too.
func readDeb(t *testing.T, path string) []entry {
	t.Helper()
	parts := members(t, path)
	conffiles := ""
	unpacked(t, parts["control.tar.gz"], func(h *tar.Header, r io.Reader) {
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimPrefix(h.Name, "./") == "conffiles" {
			conffiles = "\n" + string(text) + "\n"
		}
	}, "gzip", "-dc")
	var all []entry
	unpacked(t, parts["data.tar.xz"], func(h *tar.Header, _ io.Reader) {
		e := entry{path: "/" + strings.Trim(strings.TrimPrefix(h.Name, "."), "/"), mode: uint32(h.Mode) | 0o100000, owner: id(h.Uname, h.Uid), group: id(h.Gname, h.Gid)}
		if h.Typeflag == tar.TypeDir {
			if !strings.Contains(e.path, "bothy") {
				return
			}
			e.mode ^= 0o140000
		}
		if strings.Contains(conffiles, "\n"+e.path+"\n") {
			e.kind = "config"
		}
		all = append(all, e)
	}, "xz", "-dc")
	return all
}

// id is the name, or what the number 0 stands for everywhere.
func id(name string, number int) string {
	if name == "" && number == 0 {
		return "root"
	}
	return name
}

// The tags of an RPM header that matter here (rpm's lib/rpmtag.h).
const (
	tagModes   = 1030
	tagFlags   = 1037
	tagOwners  = 1039
	tagGroups  = 1040
	tagFolders = 1116 // index into tagFolderNames of each file
	tagNames   = 1117
	tagParents = 1118
)

// header is the index of an RPM header: what lies where in data, by tag.
type header struct {
	data []byte
	at   map[uint32]struct{ offset, count uint32 }
}

// readRPM lists the files of a .rpm from its header; the payload holds the same.
func readRPM(t *testing.T, path string) []entry {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest := parseHeader(t, raw[96:]) // after the lead come the signatures, padded to 8 bytes
	h, _ := parseHeader(t, rest[(len(rest)-(len(raw)-96))&7:])
	names, folders, owners, groups := h.strings(tagNames), h.strings(tagParents), h.strings(tagOwners), h.strings(tagGroups)
	var all []entry
	for i, name := range names {
		e := entry{
			path: folders[binary.BigEndian.Uint32(h.bytes(tagFolders)[4*i:])] + name, owner: owners[i], group: groups[i],
			mode: uint32(binary.BigEndian.Uint16(h.bytes(tagModes)[2*i:])),
		}
		switch binary.BigEndian.Uint32(h.bytes(tagFlags)[4*i:]) {
		case 1 | 16: // RPMFILE_CONFIG, RPMFILE_NOREPLACE
			e.kind = "config"
		case 1:
			e.kind = "config that is replaced"
		case 128: // RPMFILE_LICENSE
			e.kind = "licence"
		}
		all = append(all, e)
	}
	return all
}

func parseHeader(t *testing.T, raw []byte) (header, []byte) {
	t.Helper()
	if len(raw) < 16 || !bytes.Equal(raw[:3], []byte{0x8e, 0xad, 0xe8}) {
		t.Fatal("there is no RPM header where one should be")
	}
	count, size := binary.BigEndian.Uint32(raw[8:]), binary.BigEndian.Uint32(raw[12:])
	index, rest := raw[16:16+16*count], raw[16+16*count:]
	h := header{data: rest[:size], at: map[uint32]struct{ offset, count uint32 }{}}
	for ; len(index) > 0; index = index[16:] {
		h.at[binary.BigEndian.Uint32(index)] = struct{ offset, count uint32 }{binary.BigEndian.Uint32(index[8:]), binary.BigEndian.Uint32(index[12:])}
	}
	return h, rest[size:]
}

func (h header) bytes(tag uint32) []byte { return h.data[h.at[tag].offset:] }

func (h header) strings(tag uint32) []string {
	all := strings.SplitN(string(h.bytes(tag)), "\x00", int(h.at[tag].count)+1)
	return all[:h.at[tag].count]
}
