package runtime

import (
	"io"
	"time"
)

// Launcher brings engine processes into being: plain children, or units of the init system.
type Launcher interface {
	// Launch starts the process. It returns as soon as it runs; the engine is not ready yet.
	Launch(Order) (Process, error)
	// Close frees what the launcher holds. All its processes have been stopped before.
	Close() error
}

// Order is one process to launch.
type Order struct {
	Alias      string
	Generation uint64
	Command    Command
	Dir        string    // the engine's private folder, and its working directory
	Socket     string    // where it shall listen
	Output     io.Writer // takes standard output and error; written by one goroutine until Done is closed
}

// Process is a launched engine.
type Process interface {
	PID() int
	// Done is closed when the process is gone, its output read, and nothing that it started is left.
	Done() <-chan struct{}
	// Err says how it ended. Valid after Done; nil means that it ended with status 0.
	Err() error
	// Stop ends the process and everything it started: a polite signal, at most grace of waiting, then the kill.
	// It returns after Done, or with an error when the system does not let go of the process in time.
	Stop(grace time.Duration) error
}
