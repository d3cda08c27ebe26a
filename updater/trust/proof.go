package trust

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/updater/release"
)

// MaxProof bounds a proof in bytes: metadata of one device, in base64.
const MaxProof = 12 << 20

// proof is what the director signed about one device, as it was served.
type proof struct {
	V         int    `json:"v"` // 1
	Timestamp []byte `json:"timestamp"`
	Snapshot  []byte `json:"snapshot"`
	Targets   []byte `json:"targets"`
}

// Shown is what a proof proves of a device.
type Shown struct {
	Device  string
	Version int64     // of the timestamp: a lower one is an older state
	Expires time.Time // of the timestamp
	Files   []release.File
}

// Proof is what this device can show to others of its fleet: the director's
// latest word on it, which says what it may have. It holds no secret.
func (c *Client) Proof() ([]byte, error) {
	p := proof{V: 1}
	for role, into := range map[string]*[]byte{metadata.TIMESTAMP: &p.Timestamp, metadata.SNAPSHOT: &p.Snapshot, metadata.TARGETS: &p.Targets} {
		raw, found, err := c.vault.metadata(roleKey(Director, role))
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, fmt.Errorf("cannot show what this device may have: no verified %s of the director", role)
		}
		*into = raw
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("internal error: %w", err)
	}
	return raw, nil
}

// CheckProof says what a device of the same fleet may have of what this one has
// been given: the files of releases that the director, by this client's newest
// root, assigns to that device now, and that both repositories gave this one too.
// So neither an expired word nor one of a stolen director key about a release
// that nobody else knows opens anything. An error that is a *Refusal says why.
func (c *Client) CheckProof(raw []byte, device string) (Shown, error) {
	shown := Shown{Device: device}
	if len(raw) > MaxProof {
		return shown, refuse(TooLarge, "proof", "%d bytes, at most %d are accepted", len(raw), MaxProof)
	}
	if err := release.CheckDevice(device); err != nil {
		return shown, refuse(Malformed, "proof", "%w", err)
	}
	var p proof
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil || p.V != 1 {
		return shown, refuse(Malformed, "proof", "it is not what a device shows (version %d, %v)", p.V, err)
	}
	if len(p.Timestamp) > maxTimestamp || len(p.Snapshot) > maxSnapshot || len(p.Targets) > maxTargets {
		return shown, refuse(TooLarge, "proof", "its metadata is longer than is accepted")
	}
	r := c.walk(Director, nil)
	r.device = device
	if err := r.begin(c.config.DirectorRoot, c.reference()); err != nil {
		return shown, err
	}
	if err := guard(r.subject("proof"), func() error { return r.follow(p) }); err != nil {
		return shown, err
	}
	stamp := r.trusted.Timestamp.Signed
	shown.Version, shown.Expires = stamp.Version, stamp.Expires
	var err error
	shown.Files, err = c.common(r.trusted.Targets[metadata.TARGETS].Signed.Targets)
	return shown, err
}

// follow verifies a proof from the timestamp down, without storing or comparing
// with what is stored: that is of this device, not of the one that shows it.
func (r *repository) follow(p proof) error {
	stamp, err := r.trusted.UpdateTimestamp(p.Timestamp)
	if err != nil {
		return err
	}
	if err := r.checkLabel("timestamp", stamp.Signed.UnrecognizedFields); err != nil {
		return err
	}
	snapshot, err := r.trusted.UpdateSnapshot(p.Snapshot, false)
	if err != nil {
		return err
	}
	if err := r.checkLabel("snapshot", snapshot.Signed.UnrecognizedFields); err != nil {
		return err
	}
	targets, err := r.trusted.UpdateDelegatedTargets(p.Targets, metadata.TARGETS, metadata.ROOT)
	if err != nil {
		return err
	}
	a, err := release.ParseAssignment(targets.Signed.UnrecognizedFields[release.AssignmentField])
	if err != nil {
		return refuse(Malformed, r.subject(metadata.TARGETS), "%w", err)
	}
	if a.Device != r.device {
		return refuse(WrongDevice, r.subject(metadata.TARGETS), "it is signed for device %.80q, %q shows it", a.Device, r.device)
	}
	if !slices.Equal(slices.Sorted(maps.Keys(targets.Signed.Targets)), a.Paths()) {
		return refuse(Malformed, r.subject(metadata.TARGETS), "it does not list what it assigns")
	}
	return nil
}

// common is the files of the assigned releases that this device was given too.
func (c *Client) common(targets map[string]*metadata.TargetFiles) ([]release.File, error) {
	var files []release.File
	for _, path := range slices.Sorted(maps.Keys(targets)) {
		entry := targets[path]
		raw, found, err := c.vault.document(hex.EncodeToString(entry.Hashes["sha256"]))
		if err != nil {
			return nil, err
		}
		if !found || entry.VerifyLengthHashes(raw) != nil {
			continue
		}
		doc, err := release.Parse(raw)
		if err != nil || doc.Target() != path {
			continue
		}
		files = append(files, doc.Files...)
	}
	return files, nil
}
