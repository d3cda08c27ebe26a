package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/fleet/depot"
	"github.com/bothy-edge/bothy/updater/fleet/inventory"
)

// refusedPause is the least time between two lines about reports that are not believed.
const refusedPause = time.Second

// keepInventory takes devices' reports into the fleet's folder until stop is
// called. Where another process keeps the inventory already, or it cannot be
// opened, the depot serves without: devices matter more than their bookkeeping.
func keepInventory(ctx context.Context, f *fleet.Fleet, log *slog.Logger) (take func(depot.Report), stop func()) {
	v, err := inventory.Open(f)
	if err != nil {
		level := slog.LevelError
		if errors.Is(err, inventory.ErrBusy) {
			level = slog.LevelInfo
		}
		log.Log(ctx, level, "what devices report is not kept by this process", "error", err)
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		_ = v.Run(ctx, func(err error) { log.Error("what devices reported waits", "error", err) }) // nil: it ends with ctx
	})
	var told time.Time // one device that repeats nonsense must not fill the log
	take = func(r depot.Report) {
		log.Debug("device reported", "device", r.Device, "kind", r.Kind, "bytes", len(r.Payload))
		if err := v.Take(r.Device, r.Kind, r.Payload, r.Retained, r.Time); err != nil && r.Time.Sub(told) >= refusedPause {
			told = r.Time
			log.Warn("report refused", "device", r.Device, "error", err)
		}
	}
	return take, func() {
		cancel()
		running.Wait()
		if err := v.Close(); err != nil {
			log.Error("the last reports were not kept", "error", err)
		}
	}
}

// unlockOnline opens the online keys while somebody may be there to ask. A depot
// without them still serves what is signed, unless files with passphrases were
// named: one that is wrong should not be found out when the timestamps expire.
func unlockOnline(f *fleet.Fleet, named bool, log *slog.Logger) error {
	err := f.Unlock()
	f.Keys.Ask = nil // nobody is asked at night
	if err != nil && named {
		return err
	}
	if err != nil {
		log.Error("not every online key is here and open: what they sign is not renewed", "error", err)
	}
	return nil
}

// finishWipes ends what an interrupted depot left of devices that are wiped.
func finishWipes(f *fleet.Fleet, log *slog.Logger) {
	done, err := f.FinishWipes()
	if err != nil {
		log.Error("cannot finish the retirement of a device", "error", err)
	}
	for _, device := range done {
		log.Info("device wiped and retired", "device", device)
	}
}
