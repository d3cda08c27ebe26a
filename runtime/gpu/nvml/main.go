//go:build cgo && linux

// Command nvml is the GPU helper: the only part of bothy that links C code and
// talks to libnvidia-ml.so.1. It is a process of its own so that a driver which
// hangs or crashes takes the helper down and not the agent.
//
// It writes the messages of package wire to its standard output and exits when
// its standard input ends, that is when the agent is gone, even while a call
// into the driver hangs. What the driver library prints goes to standard error.
package main

import (
	"encoding/json"
	"flag"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"golang.org/x/sys/unix"

	"github.com/bothy-edge/bothy/runtime/gpu/wire"
)

// Exit statuses.
const (
	exitFailed = 2 // an error message says why
	exitOutput = 3 // nobody reads the output any more
)

func main() {
	every := flag.Duration("every", time.Second, "pause between samples")
	flag.Parse()
	debug.SetMemoryLimit(32 << 20)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // it ends, or breaks, with the agent
		os.Exit(0)
	}()
	out, err := takeOutput()
	if err != nil {
		os.Exit(exitOutput)
	}
	os.Exit(report(nvml.New(), out, time.NewTicker(*every).C))
}

// takeOutput keeps standard output for messages alone: the driver library may print to descriptor 1.
func takeOutput() (*output, error) {
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	if err := unix.Dup3(2, 1, 0); err != nil {
		return nil, err
	}
	// PR_SET_NAME: /proc/self/fd/N would be the name that ps shows otherwise.
	name := []byte("bothy-gpu\x00")
	if err := unix.Prctl(unix.PR_SET_NAME, uintptrOf(name), 0, 0, 0); err != nil {
		return nil, err
	}
	return &output{w: os.NewFile(uintptr(fd), "messages")}, nil
}

// output writes messages, a line each. Safe for concurrent use.
type output struct {
	mu sync.Mutex
	w  io.Writer
}

func (o *output) send(m wire.Message) {
	b, err := json.Marshal(m)
	if err != nil {
		return // a Message always marshals
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.w.Write(append(b, '\n')); err != nil {
		os.Exit(exitOutput)
	}
}

func (o *output) fail(r nvml.Return, what string) int {
	o.send(wire.Message{Kind: wire.Error, Code: int(r), Text: what})
	return exitFailed
}

// report says hello and then sends a sample at each tick. It returns only on an error.
func report(lib nvml.Interface, out *output, tick <-chan time.Time) int {
	if r := lib.Init(); r != nvml.SUCCESS {
		return out.fail(r, "nvmlInit")
	}
	driver, _ := lib.SystemGetDriverVersion()
	version, _ := lib.SystemGetNVMLVersion()
	out.send(wire.Message{Kind: wire.Hello, Driver: driver, NVML: version})
	n, r := lib.DeviceGetCount()
	if r != nvml.SUCCESS {
		return out.fail(r, "nvmlDeviceGetCount")
	}
	s := sampler{has: symbols(lib)}
	for i := range n {
		d, r := lib.DeviceGetHandleByIndex(i)
		if r != nvml.SUCCESS {
			return out.fail(r, "nvmlDeviceGetHandleByIndex")
		}
		s.devices = append(s.devices, d)
	}
	if s.has("nvmlEventSetCreate") && s.has("nvmlDeviceRegisterEvents") && n > 0 {
		go events(lib, s.devices, out)
	}
	for {
		devices, lost := s.sample()
		if lost != nvml.SUCCESS {
			return out.fail(lost, "reading a device")
		}
		out.send(wire.Message{Kind: wire.Sample, Devices: devices})
		<-tick
	}
}

// symbols reports whether the loaded library has a function. It is bound lazily: with an old driver, calling a
// function that it lacks would end the process with status 127.
func symbols(lib nvml.Interface) func(string) bool {
	known := map[string]bool{}
	return func(name string) bool {
		has, asked := known[name]
		if !asked {
			has = lib.Extensions().LookupSymbol(name) == nil
			known[name] = has
		}
		return has
	}
}
