package powerloss

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// calls are the system calls that change files. One that is missing here would go unseen: those that a Go program
// does not use by itself are traced too, and refused by the player.
const calls = "openat,creat,close,write,pwrite64,writev,pwritev,pwritev2,lseek,ftruncate,truncate,fallocate,fsync,fdatasync,sync," +
	"sync_file_range,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat," +
	"copy_file_range,sendfile,splice,dup,dup2,dup3,msync"

// Recording is what a command did to one folder.
type Recording struct {
	root  string
	trace []byte
}

// Record runs the command, which must do its work in the empty folder dir and
// end with status 0, and writes down what it does there.
func Record(t *testing.T, dir string, command *exec.Cmd) Recording {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("cannot find strace: run scripts/test-tools")
	}
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "trace")
	args := []string{"strace", "-f", "-y", "-xx", "-s", "16777216", "-e", "signal=none", "-e", "trace=" + calls, "-o", out, command.Path}
	command.Args = append(args, command.Args[1:]...)
	command.Path = strace
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	if err := command.Run(); err != nil {
		t.Fatalf("cannot record: %v\n%s", err, said.String())
	}
	trace, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return Recording{root: dir, trace: trace}
}

// State is one folder that may be found when power comes back.
type State struct {
	Dir   string   // laid out here; removed after the call
	Acks  []string // what was promised until then, without "ack "
	Step  int      // how many acts on the disk had been done
	Final bool     // nothing was lost: the command had ended
}

// States calls each for every state that differs, and answers how many there
// were. At each step everything unsynced is lost, then everything kept, then
// chance decides shuffles times, from seed.
func (r Recording) States(t *testing.T, shuffles int, seed uint64, each func(State)) int {
	t.Helper()
	p, step := newPlayer(r.root), 0
	seen := map[[32]byte]bool{}
	lay := func(f fate, final bool) {
		found := p.disk.after(f)
		key := digest(found, len(p.acks))
		if seen[key] && !final {
			return
		}
		seen[key] = true
		dir := scratch(t)
		defer os.RemoveAll(dir)
		if err := write(dir, found); err != nil {
			t.Fatal(err)
		}
		each(State{Dir: dir, Acks: slices.Clone(p.acks), Step: step, Final: final})
	}
	err := parse(bytes.NewReader(r.trace), func(c call) error {
		changed, err := p.play(c)
		if err != nil || !changed {
			return err
		}
		step++
		lay(lost{}, false)
		lay(kept{}, false)
		for n := range shuffles {
			lay(random{rand.New(rand.NewPCG(seed, uint64(step)<<32|uint64(n)))}, false)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("after step %d: %v", step, err)
	}
	lay(kept{}, true)
	return len(seen)
}

// scratch is a folder in memory where there is one: thousands of states are laid out and synced by who reads them.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "bothy-power-*")
	if err != nil {
		dir, err = os.MkdirTemp("", "bothy-power-*")
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func digest(found map[string][]byte, acks int) [32]byte {
	h := sha256.New()
	fmt.Fprintln(h, acks)
	for _, p := range slices.Sorted(maps.Keys(found)) {
		fmt.Fprintln(h, p)
		_ = binary.Write(h, binary.BigEndian, int64(len(found[p]))) // a hash takes everything
		h.Write(found[p])
	}
	return [32]byte(h.Sum(nil))
}
