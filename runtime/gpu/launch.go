package gpu

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// image is an executable ready to be started.
type image struct {
	path string
	file *os.File // kept open until the start, when path goes through it
	how  string
}

func (i image) close() {
	if i.file != nil {
		i.file.Close()
	}
}

// openPackaged takes the helper that the package installed if it is the very one embedded here. It is executed
// through the descriptor that was hashed, so that a file put there afterwards is not.
func openPackaged(path string, elf []byte) (image, error) {
	f, err := os.Open(path)
	if err != nil {
		return image{}, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, int64(len(elf))+1)); err != nil {
		f.Close()
		return image{}, err
	}
	want := sha256.Sum256(elf)
	if !bytes.Equal(h.Sum(nil), want[:]) {
		f.Close()
		return image{}, fmt.Errorf("%s is not the helper of this version", path)
	}
	return image{fdPath(f), f, "packaged"}, nil
}

// openMemory puts the helper into a sealed, executable memory file.
func openMemory(elf []byte) (image, error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("bothy-gpu", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before kernel 6.3 the flag is unknown and execution is allowed anyway
		fd, err = unix.MemfdCreate("bothy-gpu", flags)
	}
	if err != nil {
		return image{}, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd:bothy-gpu")
	if _, err := f.Write(elf); err != nil {
		f.Close()
		return image{}, err
	}
	seals := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return image{}, err
	}
	return image{fdPath(f), f, "memory"}, nil
}

// openFile writes the helper into dir, for systems that forbid executable memory files (vm.memfd_noexec=2).
func openFile(dir string, elf []byte) (image, error) {
	if dir == "" {
		return image{}, errors.New("no runtime directory is configured")
	}
	path := filepath.Join(dir, "nvml-helper")
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return image{}, err
	}
	if err := os.WriteFile(tmp, elf, 0o500); err != nil {
		return image{}, err
	}
	return image{path: path, how: "file"}, os.Rename(tmp, path)
}

func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// inherited are the variables that the helper gets; the driver library reads more than an agent should pass on.
var inherited = []string{"PATH=", "LD_LIBRARY_PATH=", "NVIDIA_", "CUDA_"}

func environment(extra []string) []string {
	var env []string
	for _, kv := range os.Environ() {
		for _, prefix := range inherited {
			if strings.HasPrefix(kv, prefix) {
				env = append(env, kv)
			}
		}
	}
	return append(env, extra...)
}

// started is a running helper. Closing in, or dying, ends it.
type started struct {
	cmd *exec.Cmd
	in  io.Closer
	out io.Reader
	how string
}

// launch tries the ways to start the helper in turn.
func (r *Reader) launch(stderr io.Writer) (*started, error) {
	var errs []error
	elf := r.cfg.Image()
	for _, open := range []func() (image, error){
		func() (image, error) { return openPackaged(r.cfg.Packaged, elf) },
		func() (image, error) { return openMemory(elf) },
		func() (image, error) { return openFile(r.cfg.RuntimeDir, elf) },
	} {
		img, err := open()
		if err == nil {
			var s *started
			s, err = r.start(img, stderr)
			img.close()
			if err == nil {
				return s, nil
			}
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("cannot start the GPU helper: %w", errors.Join(errs...))
}

func (r *Reader) start(img image, stderr io.Writer) (*started, error) {
	cmd := exec.Command(img.path, "-every", r.cfg.Every.String())
	cmd.Args[0] = "bothy-gpu"
	cmd.Dir, cmd.Env, cmd.Stderr = "/", environment(r.cfg.Env), stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", img.how, err)
	}
	return &started{cmd, in, out, img.how}, nil
}
