package agent

import (
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/load"
	"github.com/shirou/gopsutil/v3/mem"

	goruntime "runtime"
)

// hostStatus reads the machine. What cannot be read stays 0 and is no failure.
func hostStatus(state string) HostStatus {
	h := HostStatus{Cores: goruntime.NumCPU()}
	if l, err := load.Avg(); err == nil {
		h.Load1 = l.Load1
	}
	if m, err := mem.VirtualMemory(); err == nil {
		h.MemoryTotal, h.MemoryAvailable = m.Total, m.Available
	}
	if d, err := disk.Usage(state); err == nil {
		h.DiskTotal, h.DiskFree = d.Total, d.Free
	}
	return h
}
