//go:build cgo && linux

package main

import (
	"time"
	"unsafe"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/bothy-edge/bothy/runtime/gpu/wire"
)

// maxProcesses bounds a message; a box with more processes on one GPU is not served by this list anyway.
const maxProcesses = 128

type sampler struct {
	devices []nvml.Device
	has     func(symbol string) bool
}

// sample reads every device. A device that fell off the bus is returned as an error: NVML must be initialised anew.
func (s sampler) sample() ([]wire.Device, nvml.Return) {
	list := make([]wire.Device, 0, len(s.devices))
	for i, d := range s.devices {
		w, r := s.read(i, d)
		if r == nvml.ERROR_GPU_IS_LOST || r == nvml.ERROR_RESET_REQUIRED || r == nvml.ERROR_UNINITIALIZED {
			return nil, r
		}
		list = append(list, w)
	}
	return list, nvml.SUCCESS
}

// read asks for each value by itself: GeForce cards lack some, and a missing one must not hide the others.
func (s sampler) read(i int, d nvml.Device) (wire.Device, nvml.Return) {
	w := wire.Device{Index: i}
	worst := nvml.SUCCESS
	ask := func(name, symbol string, call func() nvml.Return) {
		r := nvml.ERROR_FUNCTION_NOT_FOUND
		if s.has(symbol) {
			r = call()
		}
		if r == nvml.SUCCESS {
			return
		}
		w.Missing = append(w.Missing, name)
		if r == nvml.ERROR_GPU_IS_LOST || r == nvml.ERROR_RESET_REQUIRED || r == nvml.ERROR_UNINITIALIZED {
			worst = r
		}
	}
	ask("name", "nvmlDeviceGetName", func() (r nvml.Return) { w.Name, r = d.GetName(); return })
	ask("uuid", "nvmlDeviceGetUUID", func() (r nvml.Return) { w.UUID, r = d.GetUUID(); return })
	ask("memory", "nvmlDeviceGetMemoryInfo", func() nvml.Return {
		m, r := d.GetMemoryInfo()
		w.MemoryTotal, w.MemoryUsed = m.Total, m.Used
		return r
	})
	ask("utilisation", "nvmlDeviceGetUtilizationRates", func() nvml.Return {
		u, r := d.GetUtilizationRates()
		w.Utilisation, w.MemoryBusy = u.Gpu, u.Memory
		return r
	})
	ask("temperature", "nvmlDeviceGetTemperature", func() (r nvml.Return) {
		w.Temperature, r = d.GetTemperature(nvml.TEMPERATURE_GPU)
		return
	})
	ask("power", "nvmlDeviceGetPowerUsage", func() (r nvml.Return) { w.Power, r = d.GetPowerUsage(); return })
	ask("ecc", "nvmlDeviceGetTotalEccErrors", func() (r nvml.Return) {
		w.Corrected, r = d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC)
		if r == nvml.SUCCESS {
			w.Uncorrected, r = d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
		}
		return r
	})
	// The name of before driver 535, which later ones keep.
	ask("throttle", "nvmlDeviceGetCurrentClocksThrottleReasons", func() nvml.Return {
		bits, r := d.GetCurrentClocksThrottleReasons()
		w.Throttle = throttle(bits)
		return r
	})
	ask("processes", "nvmlDeviceGetComputeRunningProcesses", func() nvml.Return {
		list, r := d.GetComputeRunningProcesses()
		for _, p := range list[:min(len(list), maxProcesses)] {
			w.Processes = append(w.Processes, process(p))
		}
		return r
	})
	return w, worst
}

func process(p nvml.ProcessInfo) wire.Process {
	if p.UsedGpuMemory == ^uint64(0) { // NVML_VALUE_NOT_AVAILABLE
		return wire.Process{PID: p.Pid}
	}
	return wire.Process{PID: p.Pid, Memory: p.UsedGpuMemory}
}

// throttle names the reasons that cost speed; being idle or at the asked clocks is none.
func throttle(bits uint64) []string {
	var out []string
	for _, reason := range []struct {
		bit  uint64
		name string
	}{
		{0x04, "power cap"}, {0x08, "hardware slowdown"}, {0x20, "software thermal"},
		{0x40, "hardware thermal"}, {0x80, "power brake"},
	} {
		if bits&reason.bit != 0 {
			out = append(out, reason.name)
		}
	}
	return out
}

// events sends the driver's critical errors until the process ends.
func events(lib nvml.Interface, devices []nvml.Device, out *output) {
	set, r := lib.EventSetCreate()
	if r != nvml.SUCCESS {
		return // a driver without events: samples go on
	}
	for _, d := range devices {
		want := uint64(nvml.EventTypeXidCriticalError | nvml.EventTypeDoubleBitEccError)
		if supported, r := d.GetSupportedEventTypes(); r == nvml.SUCCESS {
			want &= supported
		}
		_ = d.RegisterEvents(want, set) // a card that supports none says so; there is nothing to do about it
	}
	for {
		e, r := set.Wait(5000)
		switch r {
		case nvml.SUCCESS:
			uuid, _ := e.Device.GetUUID()
			m := wire.Message{Kind: wire.Event, UUID: uuid, ECC: e.EventType == nvml.EventTypeDoubleBitEccError}
			if e.EventType == nvml.EventTypeXidCriticalError {
				m.XID = e.EventData
			}
			out.send(m)
		case nvml.ERROR_TIMEOUT:
		default:
			time.Sleep(5 * time.Second) // the sampler meets the same error and ends the process
		}
	}
}

func uintptrOf(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
