// Package gpu tells what the NVIDIA GPUs of this machine are doing.
//
// Reading them needs C code that can hang or crash with the driver, so it
// happens in a helper process (runtime/gpu/nvml), embedded in the binary when
// it was built. A Reader starts the helper, keeps what it says, kills it when it
// falls silent and starts it again with back-off; there is never more than one.
// A machine without a driver is normal: it is logged once and looked at again
// from time to time.
//
// Snapshot is safe for concurrent use and never waits for the driver.
package gpu

import (
	"compress/gzip"
	"embed"
	"io"
	"slices"
	"time"

	"github.com/bothy-edge/bothy/runtime/gpu/wire"
)

// The folder always holds a README, so that the agent builds without a C compiler; the helper lies beside it when
// built, compressed: it is read only when one is started.
//
//go:embed helper
var helper embed.FS

// maxHelper bounds the helper's size in bytes, decompressed.
const maxHelper = 64 << 20

// Embedded is the helper's executable, decompressed anew for the caller, or nil when the agent was built without it.
func Embedded() []byte {
	f, err := helper.Open("helper/nvml-helper.gz")
	if err != nil {
		return nil
	}
	defer f.Close()
	packed, err := gzip.NewReader(f)
	if err != nil {
		return nil
	}
	elf, err := io.ReadAll(io.LimitReader(packed, maxHelper))
	if err != nil {
		return nil
	}
	return elf
}

// Device is one GPU at one moment.
type Device = wire.Device

// Process is one process that computes on a device.
type Process = wire.Process

// Event is a critical error that the driver reported.
type Event struct {
	Time time.Time `json:"time"`
	UUID string    `json:"uuid"`
	XID  uint64    `json:"xid,omitempty"` // the driver's error number; NVIDIA's "XID errors" explains them
	ECC  bool      `json:"ecc,omitempty"` // an uncorrected memory error
}

// Snapshot is what is known of the GPUs now.
type Snapshot struct {
	NoDriver bool      `json:"no_driver"`        // no NVIDIA driver is installed or loaded: CPU only
	Error    string    `json:"error,omitempty"`  // why Devices is not fresh; Devices are then the last that were seen
	Hint     string    `json:"hint,omitempty"`   // what an operator can do about Error
	Driver   string    `json:"driver,omitempty"` // version
	NVML     string    `json:"nvml,omitempty"`   // version
	Devices  []Device  `json:"devices"`
	Events   []Event   `json:"events,omitempty"`   // the last few, oldest first
	Time     time.Time `json:"time,omitzero"`      // of Devices
	Starts   int       `json:"starts"`             // helpers started so far
	Launched string    `json:"launched,omitempty"` // how the newest was: "packaged", "memory" or "file"
}

// keptEvents is how many events a snapshot carries.
const keptEvents = 16

func (s Snapshot) clone() Snapshot {
	s.Devices, s.Events = slices.Clone(s.Devices), slices.Clone(s.Events)
	return s
}
