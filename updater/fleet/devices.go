package fleet

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// DeviceState says where a device stands with the fleet.
type DeviceState string

// The states. A device has a record once it was approved; before that there is
// only its token.
const (
	DevicePending  DeviceState = "pending"  // its key arrived, nobody has decided
	DeviceApproved DeviceState = "approved" // it has a certificate
	DeviceDenied   DeviceState = "denied"   // refused; its token is used up
	DeviceRetired  DeviceState = "retired"  // its certificates are revoked, its set is empty, its name is not given again
)

// DeviceRecord is one enrolled device: devices/<id>.json.
type DeviceRecord struct {
	Schema     int               `json:"schema"` // 1
	Device     string            `json:"device"`
	PublicKey  ed25519.PublicKey `json:"public_key"` // signs its reports; 32 bytes, base64 in JSON
	State      DeviceState       `json:"state"`
	Serial     string            `json:"serial"` // hexadecimal, of the newest certificate
	NotAfter   time.Time         `json:"not_after"`
	Token      string            `json:"token,omitempty"` // the id of the token that it enrolled with
	EnrolledAt time.Time         `json:"enrolled_at"`
	// Wiped is when the device said that it removed what it held.
	Wiped time.Time `json:"wiped,omitzero"`
	// Issued is every certificate that has not expired, the newest last.
	Issued []IssuedCertificate `json:"issued,omitempty"`
}

// IssuedCertificate is a certificate as the fleet remembers it.
type IssuedCertificate struct {
	Serial    string    `json:"serial"`
	NotAfter  time.Time `json:"not_after"`
	RevokedAt time.Time `json:"revoked_at,omitzero"`
}

// Has says whether the fleet has a record of the device or has assigned to it.
func (f *Fleet) Has(device string) bool {
	if release.CheckDevice(device) != nil {
		return false
	}
	for _, path := range []string{f.recordPath(device), f.devicePath(device, "timestamp.json")} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// maxRecord bounds what is read of a record, which people may edit.
const maxRecord = 1 << 20

func (f *Fleet) recordPath(device string) string {
	return filepath.Join(f.dir, "devices", device+".json")
}

// Device is the record of an enrolled device. The error is trust.ErrNotFound,
// wrapped, when no device of that name has enrolled with a token.
func (f *Fleet) Device(id string) (DeviceRecord, error) {
	if err := release.CheckDevice(id); err != nil {
		return DeviceRecord{}, fmt.Errorf("cannot find device %.80q: %w: %w", id, err, trust.ErrNotFound)
	}
	var r DeviceRecord
	if err := readRecord(f.recordPath(id), &r); err != nil {
		return DeviceRecord{}, fmt.Errorf("cannot find device %q: %w", id, err)
	}
	if r.Schema != 1 || r.Device != id || len(r.PublicKey) != ed25519.PublicKeySize {
		return DeviceRecord{}, fmt.Errorf("cannot read device %q: %s is no record of it", id, f.recordPath(id))
	}
	return r, nil
}

// DeviceRecords lists the records of all devices by name, retired ones included.
func (f *Fleet) DeviceRecords() ([]DeviceRecord, error) {
	names, err := recordNames(filepath.Join(f.dir, "devices"))
	if err != nil {
		return nil, fmt.Errorf("cannot list devices: %w", err)
	}
	var all []DeviceRecord
	for _, name := range names {
		r, err := f.Device(name)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// saveDevice replaces a record. The caller holds the lock.
func (f *Fleet) saveDevice(r DeviceRecord) error {
	return writeRecord(f.recordPath(r.Device), r, 0o644)
}

// recordNames lists the files NAME.json of a folder, without the ending, sorted.
func recordNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && e.Type().IsRegular() && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func readRecord(path string, into any) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return trust.ErrNotFound
	}
	if err != nil {
		return err
	}
	if info.Size() > maxRecord {
		return fmt.Errorf("%s has %d bytes, at most %d are read", path, info.Size(), maxRecord)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func writeRecord(path string, record any, mode os.FileMode) error {
	raw, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return fmt.Errorf("internal error: cannot encode %s: %w", path, err)
	}
	return writeFile(path, append(raw, '\n'), mode)
}

// Match picks the devices that one of the patterns names; "*" stands for any
// letters. Without a pattern it is all of them. A pattern that names none is an error.
func Match(devices []string, patterns []string) ([]string, error) {
	if len(patterns) == 0 {
		return devices, nil
	}
	picked := map[string]bool{}
	for _, p := range patterns {
		found := false
		for _, d := range devices {
			ok, err := filepath.Match(p, d)
			if err != nil {
				return nil, fmt.Errorf("cannot read the pattern %q: %w", p, err)
			}
			if ok {
				picked[d], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("%w: %q", errNoDevice, p)
		}
	}
	return slices.Sorted(maps.Keys(picked)), nil
}

var errNoDevice = errors.New("there is no such device")

// Known lists the devices that have a set or an approved record, by name, but
// for retired ones.
func (f *Fleet) Known() ([]string, error) {
	names, err := f.Devices()
	if err != nil {
		return nil, err
	}
	records, err := f.DeviceRecords()
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, name := range names {
		known[name] = true
	}
	for _, r := range records {
		known[r.Device] = r.State == DeviceApproved
	}
	maps.DeleteFunc(known, func(_ string, is bool) bool { return !is })
	return slices.Sorted(maps.Keys(known)), nil
}
