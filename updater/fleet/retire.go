package fleet

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/report"
)

// wipeLife is how long an order to wipe waits for its device.
const wipeLife = orderLifeMax

// errNotWiped is a device that may not be ordered to wipe itself.
var errNotWiped = errors.New("it is not an approved device")

// OrderWipe begins to retire a device in order: its set is emptied, and it is
// ordered to remove what it holds, its key last; with audit its audit log too.
// Its certificates stay good until its answer, signed by its key, came: then
// FinishWipes does what Retire does. It may be repeated. A device that cannot be
// reached any more is retired by Retire.
func (f *Fleet) OrderWipe(device string, audit bool) (OrderRecord, error) {
	r, err := f.Device(device)
	if err == nil && r.State != DeviceApproved {
		err = fmt.Errorf("%w: it is %s", errNotWiped, r.State)
	}
	if err != nil {
		return OrderRecord{}, fmt.Errorf("cannot retire device %q: %w", device, err)
	}
	if o, found, err := f.wipeOrder(device); err != nil || found && o.Outcome == "" && f.Now().Before(o.Expires) {
		return o, err
	}
	if _, err := f.AssignChange(device, Change{Replace: true}); err != nil {
		return OrderRecord{}, fmt.Errorf("cannot retire device %q: %w", device, err)
	}
	var args map[string]string
	if audit {
		args = map[string]string{"audit": "wipe"}
	}
	given, err := f.Order(release.OrderWipe, args, wipeLife, device)
	if err != nil {
		return OrderRecord{}, fmt.Errorf("cannot retire device %q: %w", device, err)
	}
	return given[0], nil
}

// wipeOrder is the newest order to wipe that a device was given.
func (f *Fleet) wipeOrder(device string) (o OrderRecord, found bool, err error) {
	all, err := f.Orders(device)
	if err != nil {
		return o, false, err
	}
	for _, o := range slices.Backward(all) {
		if o.Kind == release.OrderWipe {
			return o, true, nil
		}
	}
	return o, false, nil
}

// FinishWipes retires the devices that have answered that they are wiped, and
// names them. It may be repeated, and finishes what was interrupted.
func (f *Fleet) FinishWipes() (done []string, err error) {
	devices, err := recordNames(filepath.Join(f.dir, "orders"))
	if err != nil {
		return nil, fmt.Errorf("cannot look for wiped devices: %w", err)
	}
	for _, device := range devices {
		finished, wipeErr := f.finishWipe(device)
		if err = errors.Join(err, wipeErr); finished {
			done = append(done, device)
		}
	}
	return done, err
}

func (f *Fleet) finishWipe(device string) (bool, error) {
	o, found, err := f.wipeOrder(device)
	if err != nil || !found || o.Outcome != report.Done {
		return false, err
	}
	r, err := f.Device(device)
	if err != nil || !r.Wiped.IsZero() {
		return false, err
	}
	if _, err := f.Retire(device); err != nil {
		return false, err
	}
	unlock, err := lock(f.dir)
	if err != nil {
		return false, err
	}
	defer unlock()
	if r, err = f.Device(device); err != nil {
		return false, err
	}
	r.Wiped = f.Now().UTC().Truncate(time.Second)
	return true, f.saveDevice(r)
}

// Retired lists the devices that are retired, and whether each has said that it
// is wiped: the broker then need not keep anything for it.
func (f *Fleet) Retired() (map[string]bool, error) {
	records, err := f.DeviceRecords()
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, r := range records {
		if r.State == DeviceRetired {
			all[r.Device] = !r.Wiped.IsZero()
		}
	}
	return all, nil
}
