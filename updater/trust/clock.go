package trust

import "golang.org/x/sys/unix"

// kernelClockSynchronised asks the kernel whether a time service keeps the
// clock: STA_UNSYNC is set at boot and whenever somebody sets the clock by hand
// (settimeofday clears the NTP state), and goes when the service has it again.
func kernelClockSynchronised() bool {
	var state unix.Timex
	verdict, err := unix.Adjtimex(&state)
	return err == nil && verdict != unix.TIME_ERROR && state.Status&unix.STA_UNSYNC == 0
}
