//go:build cgo && linux

package main

import (
	"slices"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/google/go-cmp/cmp"

	"github.com/bothy-edge/bothy/runtime/gpu/wire"
)

// device is a card that answers everything; tests break single calls.
func device() *mock.Device {
	return &mock.Device{
		GetNameFunc:             func() (string, nvml.Return) { return "card", nvml.SUCCESS },
		GetUUIDFunc:             func() (string, nvml.Return) { return "GPU-1", nvml.SUCCESS },
		GetMemoryInfoFunc:       func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 100, Used: 40}, nvml.SUCCESS },
		GetUtilizationRatesFunc: func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{Gpu: 7, Memory: 3}, nvml.SUCCESS },
		GetTemperatureFunc:      func(nvml.TemperatureSensors) (uint32, nvml.Return) { return 55, nvml.SUCCESS },
		GetPowerUsageFunc:       func() (uint32, nvml.Return) { return 1000, nvml.SUCCESS },
		GetTotalEccErrorsFunc: func(kind nvml.MemoryErrorType, _ nvml.EccCounterType) (uint64, nvml.Return) {
			return uint64(kind) + 1, nvml.SUCCESS
		},
		GetCurrentClocksThrottleReasonsFunc: func() (uint64, nvml.Return) { return 0x1 | 0x4 | 0x80, nvml.SUCCESS },
		GetComputeRunningProcessesFunc: func() ([]nvml.ProcessInfo, nvml.Return) {
			return []nvml.ProcessInfo{{Pid: 1, UsedGpuMemory: 9}, {Pid: 2, UsedGpuMemory: ^uint64(0)}}, nvml.SUCCESS
		},
	}
}

func every(string) bool { return true }

func TestSampleOfAWholeDevice(t *testing.T) {
	got, r := sampler{devices: []nvml.Device{device()}, has: every}.sample()
	if r != nvml.SUCCESS {
		t.Fatal(r)
	}
	want := []wire.Device{{
		Name: "card", UUID: "GPU-1", MemoryTotal: 100, MemoryUsed: 40, Utilisation: 7, MemoryBusy: 3, Temperature: 55,
		Power: 1000, Throttle: []string{"power cap", "power brake"}, Corrected: 1, Uncorrected: 2,
		Processes: []wire.Process{{PID: 1, Memory: 9}, {PID: 2}},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("sample (-want +got):\n%s", d)
	}
}

func TestUnsupportedValueHidesNoOther(t *testing.T) {
	d := device()
	d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
	got, r := sampler{devices: []nvml.Device{d}, has: every}.sample()
	if r != nvml.SUCCESS || !slices.Equal(got[0].Missing, []string{"power"}) || got[0].Temperature != 55 {
		t.Errorf("got %+v (%v), want only the power missing", got, r)
	}
}

// Calling what the library lacks would end the process; the mock panics on a call that is not set.
func TestMissingSymbolIsNotCalled(t *testing.T) {
	d := device()
	d.GetComputeRunningProcessesFunc = nil
	has := func(symbol string) bool { return symbol != "nvmlDeviceGetComputeRunningProcesses" }
	got, _ := sampler{devices: []nvml.Device{d}, has: has}.sample()
	if !slices.Equal(got[0].Missing, []string{"processes"}) {
		t.Errorf("got missing %v, want the processes", got[0].Missing)
	}
}

func TestLostDeviceEndsTheReading(t *testing.T) {
	for _, want := range []nvml.Return{nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED, nvml.ERROR_UNINITIALIZED} {
		d := device()
		d.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) { return nvml.Memory{}, want }
		if _, r := (sampler{devices: []nvml.Device{device(), d}, has: every}).sample(); r != want {
			t.Errorf("got %v, want %v", r, want)
		}
	}
}
