package trust

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/bothy-edge/bothy/updater/release"
)

// repository is one walk over one repository: root chain, timestamp, snapshot,
// then the targets roles that are asked for. A walk is used once and judges
// everything by one reading of the clock.
type repository struct {
	name   Repo
	device string // in the director, the device that everything must be labelled for
	// general is set for a repository that is not one of ours: see Single.
	general bool
	source  Source // nil to use only what is stored
	vault   vault
	keeper  *keeper
	log     *slog.Logger

	trusted *trustedmetadata.TrustedMetadata
	parents map[string]string // delegated role -> role that delegates to it
	loaded  map[string]string // targets role -> role whose keys it was verified with
	offered []byte            // the timestamp as the source gave it
}

// begin verifies the stored root chain from the enrolled root on.
func (r *repository) begin(enrolled []byte, reference time.Time) error {
	r.parents, r.loaded = map[string]string{}, map[string]string{}
	err := guard(r.subject("enrolled root"), func() (err error) {
		r.trusted, err = trustedmetadata.New(enrolled)
		return err
	})
	if err != nil {
		return err
	}
	r.trusted.RefTime = reference
	for {
		raw, found, err := r.vault.metadata(rootKey(r.name, r.rootVersion()+1))
		if err != nil {
			return err
		}
		if !found {
			return nil
		}
		err = guard(r.subject("stored root"), func() error {
			_, err := r.trusted.UpdateRoot(raw)
			return err
		})
		if err != nil {
			// The database was damaged or belongs to another enrolment. The rest
			// of the chain is fetched again; the marks see to it that it is.
			r.log.Warn("stored root does not verify", "repository", r.name, "version", r.rootVersion()+1, "error", err)
			return nil
		}
	}
}

// refresh brings root, timestamp, snapshot and top-level targets up to date.
func (r *repository) refresh(ctx context.Context) error {
	for _, step := range []func(context.Context) error{r.fetchRoots, r.fetchTimestamp, r.fetchSnapshot} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return r.loadRole(ctx, metadata.TARGETS, metadata.ROOT)
}

// fetchRoots follows the chain of roots until the source knows no next one.
func (r *repository) fetchRoots(ctx context.Context) error {
	for range maxRotations {
		next := r.rootVersion() + 1
		raw, err := fetch(ctx, r.source, r.name, fmt.Sprintf("%d.root.json", next), maxRoot)
		if errors.Is(err, ErrNotFound) {
			return r.checkRootMark()
		}
		if err != nil {
			return err
		}
		if err := r.acceptRoot(next, raw); err != nil {
			return err
		}
	}
	return refuse(TooLarge, r.subject("root"), "more than %d new roots in one refresh", maxRotations)
}

func (r *repository) acceptRoot(version int64, raw []byte) error {
	before := r.trusted.Root
	err := guard(r.subject("root"), func() error {
		_, err := r.trusted.UpdateRoot(raw)
		return err
	})
	if err != nil {
		return err
	}
	if err := r.keeper.keep(rootKey(r.name, version), raw, func(m *marks) { r.forgetRotated(m, before, version) }); err != nil {
		return err
	}
	r.log.Info("new root accepted", "repository", r.name, "version", version)
	return nil
}

// forgetRotated drops the marks of roles whose keys a new root replaced. Else
// one stolen online key could raise a version to the top and block the device
// for ever (TUF 5.3.11). It does so only where what the old keys signed no longer
// verifies, so nothing can come back: a key that joins, or one of several that
// goes, leaves the marks. The snapshot's keys vouch for the versions of all
// targets roles, so those marks go with them. Roots that were seen before do
// not do it again.
func (r *repository) forgetRotated(m *marks, before *metadata.Metadata[metadata.RootType], version int64) {
	if version <= m.Roots[r.name] {
		return
	}
	m.Roots[r.name] = version
	for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS} {
		if stillVerifies(before.Signed.Roles[role], r.trusted.Root.Signed.Roles[role]) {
			continue
		}
		delete(m.Roles, roleKey(r.name, role))
		switch {
		case role == metadata.SNAPSHOT:
			maps.DeleteFunc(m.Roles, func(key string, _ int64) bool {
				name, ours := roleOf(r.name, key)
				return ours && name != metadata.TIMESTAMP
			})
		case role == metadata.TARGETS && r.name == Director:
			m.Counter, m.Order = 0, 0
		}
	}
}

// stillVerifies says that enough of the old keys stay to meet the new threshold:
// what they signed, captured by whoever watched, is as good as before.
func stillVerifies(old, now *metadata.Role) bool {
	if old == nil || now == nil {
		return old == now
	}
	stay := 0
	for _, id := range now.KeyIDs {
		if slices.Contains(old.KeyIDs, id) {
			stay++
		}
	}
	return stay >= now.Threshold
}

// checkRootMark catches a source that withholds roots which this device knew
// before it lost its database: revoked keys would be valid again.
func (r *repository) checkRootMark() error {
	if mark := r.keeper.marks().Roots[r.name]; r.rootVersion() < mark {
		return refuse(Rollback, r.subject("root"), "the chain ends at version %d, this device has seen %d", r.rootVersion(), mark)
	}
	return nil
}

func (r *repository) fetchTimestamp(ctx context.Context) error {
	r.loadStoredTimestamp()
	raw, err := fetch(ctx, r.source, r.name, "timestamp.json", maxTimestamp)
	if err != nil {
		return err
	}
	r.offered = raw
	return guard(r.subject("timestamp"), func() error { return r.acceptTimestamp(raw) })
}

// loadStoredTimestamp gives go-tuf the version to compare with. One that is
// expired is loaded all the same; one that no longer verifies, because its
// keys were replaced, is left out.
func (r *repository) loadStoredTimestamp() {
	raw, found, err := r.vault.metadata(roleKey(r.name, metadata.TIMESTAMP))
	if err == nil && found {
		err = guard(r.subject("stored timestamp"), func() error {
			_, err := r.trusted.UpdateTimestamp(raw)
			return err
		})
	}
	if err != nil && CodeOf(err) != Expired {
		r.log.Warn("stored timestamp is not used", "repository", r.name, "error", err)
	}
}

func (r *repository) acceptTimestamp(raw []byte) error {
	offered, err := metadata.Timestamp().FromBytes(raw)
	if err != nil {
		return err
	}
	// The label is looked at first, and only in what verifies: another device's
	// timestamp must neither use up version numbers nor pass for an old one.
	if err := r.trusted.Root.VerifyDelegate(metadata.TIMESTAMP, offered); err != nil {
		return err
	}
	if err := r.checkLabel("timestamp", offered.Signed.UnrecognizedFields); err != nil {
		return err
	}
	if err := r.checkMark(metadata.TIMESTAMP, offered.Signed.Version); err != nil {
		return err
	}
	if offered.Signed.Meta["snapshot.json"] == nil {
		return refuse(Malformed, r.subject("timestamp"), "it does not name a snapshot")
	}
	_, err = r.trusted.UpdateTimestamp(raw)
	if errors.Is(err, &metadata.ErrEqualVersionNumber{}) {
		if r.trusted.Timestamp.Signed.IsExpired(r.trusted.RefTime) {
			return refuse(Expired, r.subject("timestamp"), "version %d expired on %s and the source has no newer one",
				offered.Signed.Version, r.trusted.Timestamp.Signed.Expires.Format(time.RFC3339))
		}
		return nil
	}
	if errors.Is(err, &metadata.ErrExpiredMetadata{}) {
		return r.expired("timestamp", offered.Signed.Version, offered.Signed.Expires)
	}
	if err != nil {
		return err
	}
	return r.keepTimestamp(offered.Signed.Version, offered.Signed.Expires, raw)
}

// expired tells which of two documents go-tuf found expired: it judges the
// root at the same place as the timestamp.
func (r *repository) expired(role string, version int64, expires time.Time) error {
	root := r.trusted.Root.Signed
	if root.IsExpired(r.trusted.RefTime) {
		role, version, expires = "root", root.Version, root.Expires
	}
	return refuse(Expired, r.subject(role), "version %d expired on %s, the reference time is %s",
		version, expires.Format(time.RFC3339), r.trusted.RefTime.Format(time.RFC3339))
}

func (r *repository) keepTimestamp(version int64, expires time.Time, raw []byte) error {
	key := roleKey(r.name, metadata.TIMESTAMP)
	return r.keeper.keep(key, raw, func(m *marks) {
		m.Roles[key] = version
		m.Expires[r.name] = &expires
	})
}

// fetchSnapshot loads the snapshot that the timestamp names, from the store if
// it is the same version.
func (r *repository) fetchSnapshot(ctx context.Context) error {
	key := roleKey(r.name, metadata.SNAPSHOT)
	stored, found, err := r.vault.metadata(key)
	if err != nil {
		return err
	}
	subject := r.subject("snapshot")
	if found {
		err := guard(subject, func() error {
			_, err := r.trusted.UpdateSnapshot(stored, true)
			return err
		})
		if err == nil {
			return guard(subject, r.checkSnapshot)
		}
	}
	if r.source == nil {
		return refuse(Mismatch, subject, "the stored snapshot does not belong to the stored timestamp")
	}
	meta := r.trusted.Timestamp.Signed.Meta["snapshot.json"]
	raw, err := fetch(ctx, r.source, r.name, r.fileName(metadata.SNAPSHOT, meta.Version), bounded(meta.Length, maxSnapshot))
	if err != nil {
		return err
	}
	err = guard(subject, func() error {
		if _, err := r.trusted.UpdateSnapshot(raw, false); err != nil {
			return r.snapshotError(raw, err)
		}
		return r.checkSnapshot()
	})
	if err != nil {
		return err
	}
	return r.keeper.keepRole(r.name, metadata.SNAPSHOT, r.trusted.Snapshot.Signed.Version, raw)
}

// snapshotError separates a snapshot that does not belong to this timestamp
// from one that goes back: go-tuf answers both with one error.
func (r *repository) snapshotError(raw []byte, err error) error {
	got, parseErr := metadata.Snapshot().FromBytes(raw)
	want := r.trusted.Timestamp.Signed.Meta["snapshot.json"].Version
	if parseErr == nil && got.Signed.Version != want && errors.Is(err, &metadata.ErrBadVersionNumber{}) {
		return &Refusal{Code: Mismatch, Subject: r.subject("snapshot"), Err: err}
	}
	return err
}

// checkSnapshot compares the snapshot with the marks, which know more than the
// stored snapshot after the database was lost.
func (r *repository) checkSnapshot() error {
	signed := r.trusted.Snapshot.Signed
	if err := r.checkLabel("snapshot", signed.UnrecognizedFields); err != nil {
		return err
	}
	if err := r.checkMark(metadata.SNAPSHOT, signed.Version); err != nil {
		return err
	}
	for key, mark := range r.keeper.marks().Roles {
		role, ours := roleOf(r.name, key)
		if !ours || role == metadata.TIMESTAMP || role == metadata.SNAPSHOT {
			continue
		}
		meta := signed.Meta[role+".json"]
		if meta == nil || meta.Version < mark {
			return refuse(Rollback, r.subject("snapshot"), "it lists %s below version %d, which this device has seen", role, mark)
		}
	}
	return nil
}

// loadRole loads one targets role, from the store if it is the version that
// the snapshot names, and looks at what it delegates.
func (r *repository) loadRole(ctx context.Context, role, parent string) error {
	subject := r.subject(role)
	if r.trusted.Targets[role] != nil {
		if r.loaded[role] != parent {
			return refuse(Malformed, subject, "it was reached from %q and is now reached from %q", r.loaded[role], parent)
		}
		return nil
	}
	meta := r.trusted.Snapshot.Signed.Meta[role+".json"]
	if meta == nil {
		return refuse(Mismatch, subject, "the snapshot does not list it")
	}
	accept := func(raw []byte) error {
		return guard(subject, func() error {
			if _, err := r.trusted.UpdateDelegatedTargets(raw, role, parent); err != nil {
				return roleError(subject, err)
			}
			r.loaded[role] = parent
			if err := r.checkLabel(role, r.trusted.Targets[role].Signed.UnrecognizedFields); err != nil {
				return err
			}
			return r.checkDelegations(role)
		})
	}
	key := roleKey(r.name, role)
	stored, found, err := r.vault.metadata(key)
	if err != nil {
		return err
	}
	if found && accept(stored) == nil {
		return nil
	}
	if r.source == nil {
		return refuse(Mismatch, subject, "the stored copy does not belong to the stored snapshot")
	}
	raw, err := fetch(ctx, r.source, r.name, r.fileName(role, meta.Version), bounded(meta.Length, maxTargets))
	if err != nil {
		return err
	}
	if err := accept(raw); err != nil {
		return err
	}
	return r.keeper.keepRole(r.name, role, meta.Version, raw)
}

// roleError: a targets role of another version than the snapshot lists is a
// mixture of two states of the repository, not an older state.
func roleError(subject string, err error) error {
	if errors.Is(err, &metadata.ErrBadVersionNumber{}) {
		return &Refusal{Code: Mismatch, Subject: subject, Err: err}
	}
	return err
}

func (r *repository) checkMark(role string, version int64) error {
	if mark := r.keeper.marks().Roles[roleKey(r.name, role)]; version < mark {
		return refuse(Rollback, r.subject(role), "version %d is older than %d, which this device has seen", version, mark)
	}
	return nil
}

// checkLabel says whether signed metadata of the director is for this device.
// It looks at the device alone: what is meant for another one is called that
// even when the rest of it cannot be understood.
func (r *repository) checkLabel(role string, fields map[string]any) error {
	if r.device == "" {
		return nil
	}
	label, ok := fields[release.AssignmentField].(map[string]any)
	if !ok {
		return refuse(Malformed, r.subject(role), "it does not say which device it is for")
	}
	if label["device"] != r.device {
		return refuse(WrongDevice, r.subject(role), "it is signed for device %.80q, this is %q", label["device"], r.device)
	}
	return nil
}

// fileName is what a source knows a role as. Only a repository that is not
// ours may be one without consistent snapshots (TUF 6.2).
func (r *repository) fileName(role string, version int64) string {
	if r.general && !r.trusted.Root.Signed.ConsistentSnapshot {
		return url.PathEscape(role) + ".json"
	}
	return fmt.Sprintf("%d.%s.json", version, url.PathEscape(role))
}

func (r *repository) rootVersion() int64 { return r.trusted.Root.Signed.Version }

func (r *repository) subject(role string) string { return string(r.name) + " " + role }
