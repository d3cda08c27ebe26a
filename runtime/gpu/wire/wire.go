// Package wire is what the GPU helper and the agent say to each other: one JSON
// object a line on the helper's standard output.
//
// A helper first says hello, then sends samples at a steady pace, which are its
// heartbeat, and events as they come. An error message is the last one: the
// helper exits after it. The agent says nothing; it closes the helper's
// standard input when it wants it gone, or by dying.
package wire

// Kinds of message.
const (
	Hello  = "hello"
	Sample = "sample"
	Event  = "event"
	Error  = "error"
)

// Codes of an Error that the agent acts on (nvmlReturn_t in nvml.h).
const (
	CodeDriverNotLoaded = 9
	CodeLibraryNotFound = 12
	CodeMismatch        = 18
)

// MaxLine is the longest line in bytes that a reader accepts.
const MaxLine = 1 << 20

// Message is one line.
type Message struct {
	Kind    string   `json:"kind"`
	Driver  string   `json:"driver,omitempty"`  // hello
	NVML    string   `json:"nvml,omitempty"`    // hello
	Devices []Device `json:"devices,omitempty"` // sample
	UUID    string   `json:"uuid,omitempty"`    // event: the device
	XID     uint64   `json:"xid,omitempty"`     // event: the driver's error number
	ECC     bool     `json:"ecc,omitempty"`     // event: an uncorrected memory error
	Code    int      `json:"code,omitempty"`    // error: nvmlReturn_t
	Text    string   `json:"text,omitempty"`    // error: the call that failed
}

// Device is one GPU at one moment. A value that the driver does not give is zero and named in Missing.
type Device struct {
	Index       int       `json:"index"`
	Name        string    `json:"name"`
	UUID        string    `json:"uuid"`
	MemoryTotal uint64    `json:"memory_total"` // bytes
	MemoryUsed  uint64    `json:"memory_used"`  // bytes
	Utilisation uint32    `json:"utilisation"`  // percent of the last sample period
	MemoryBusy  uint32    `json:"memory_busy"`  // percent
	Temperature uint32    `json:"temperature"`  // degrees Celsius
	Power       uint32    `json:"power_mw"`     // milliwatts
	Throttle    []string  `json:"throttle,omitempty"`
	Corrected   uint64    `json:"ecc_corrected"`   // since the driver was loaded
	Uncorrected uint64    `json:"ecc_uncorrected"` // since the driver was loaded
	Processes   []Process `json:"processes,omitempty"`
	Missing     []string  `json:"missing,omitempty"`
}

// Process is one process that computes on a device.
type Process struct {
	PID    uint32 `json:"pid"`
	Memory uint64 `json:"memory"` // bytes; 0 where the driver does not say
}
