package fleet

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Options describe a new fleet. Dir and Tenant are required.
type Options struct {
	Dir    string
	Tenant string
	Broker string // "tcp://host:1883" or "tls://host:8883"; empty: devices import from a folder
	Depot  string // default "depot"
	// EnrollBroker is where boxes without a certificate connect, if that is another listener than Broker.
	EnrollBroker string
	BrokerCA     []byte           // PEM of who signs the broker's certificate; empty: the fleet's own device authority
	Keys         int              // keys of each offline set, default 3
	Threshold    int              // of them needed to sign, default 2
	Now          func() time.Time // default time.Now
}

func (o Options) withDefaults() Options {
	if o.Depot == "" {
		o.Depot = "depot"
	}
	if o.Keys == 0 {
		o.Keys = 3
	}
	if o.Threshold == 0 {
		o.Threshold = min(2, o.Keys)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Init makes the folder of a fleet: keys, both repositories, the ticket. On a
// folder that holds the same fleet it changes nothing, and it finishes one
// that was interrupted.
func Init(o Options) (*Fleet, error) {
	o = o.withDefaults()
	c := config{Schema: 1, Tenant: o.Tenant, Broker: o.Broker, EnrollBroker: o.EnrollBroker, Depot: o.Depot, Threshold: o.Threshold, Expiry: defaultExpiry()}
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("cannot make fleet: %w", err)
	}
	if o.Threshold > o.Keys || o.Keys > 32 {
		return nil, fmt.Errorf("cannot make fleet: %d of %d keys; want at most all of at most 32", o.Threshold, o.Keys)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make fleet: %w", err)
	}
	unlock, err := lock(o.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, err := Open(o.Dir)
	if err == nil {
		have.Now = o.Now
		return have, errors.Join(have.again(o), have.keepAuthorities(o))
	}
	if !errors.Is(err, ErrNoFleet) {
		return nil, err
	}
	f := &Fleet{Now: o.Now, Keys: OpenKeys(o.Dir), dir: o.Dir, config: c}
	if err := f.create(o.Keys); err != nil {
		return nil, fmt.Errorf("cannot make fleet: %w", err)
	}
	if err := f.keepAuthorities(o); err != nil {
		return nil, fmt.Errorf("cannot make fleet: %w", err)
	}
	return f, nil
}

// keepAuthorities makes the device authority and remembers the broker's.
func (f *Fleet) keepAuthorities(o Options) error {
	if len(o.BrokerCA) > 0 {
		if !x509.NewCertPool().AppendCertsFromPEM(o.BrokerCA) {
			return errors.New("the broker's authority is no PEM certificate")
		}
		if err := writeFile(f.caPath("broker-ca.crt"), o.BrokerCA, 0o644); err != nil {
			return err
		}
	}
	_, err := f.authority()
	return err
}

// again is Init on a folder that is a fleet: it must be the one that is asked
// for. The ticket follows what an operator changed in fleet.yaml.
func (f *Fleet) again(o Options) error {
	if f.config.Tenant != o.Tenant {
		return fmt.Errorf("cannot make fleet: %s holds the fleet of tenant %q already; choose another folder", f.dir, f.config.Tenant)
	}
	if o.Broker != "" && o.Broker != f.config.Broker {
		return fmt.Errorf("cannot make fleet: the broker of the fleet in %s is %q; to move it, change broker in %s and run this again",
			f.dir, f.config.Broker, filepath.Join(f.dir, configFile))
	}
	return f.writeTicket()
}

// create writes everything; fleet.yaml comes last and makes it a fleet.
func (f *Fleet) create(n int) error {
	if err := f.createCatalog(n); err != nil {
		return err
	}
	if err := f.createDirector(n); err != nil {
		return err
	}
	if err := f.writeTicket(); err != nil {
		return err
	}
	raw, err := yaml.Marshal(f.config)
	if err != nil {
		return fmt.Errorf("internal error: cannot encode %s: %w", configFile, err)
	}
	return writeFile(filepath.Join(f.dir, configFile), raw, 0o644)
}

// writeTicket writes enroll.json unless it is up to date.
func (f *Fleet) writeTicket() error {
	ticket, err := f.Ticket()
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(ticket, "", "  ")
	if err != nil {
		return fmt.Errorf("internal error: cannot encode ticket: %w", err)
	}
	raw = append(raw, '\n')
	path := filepath.Join(f.dir, "enroll.json")
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, raw) {
		return nil
	}
	return writeFile(path, raw, 0o644)
}

// keySet is the keys of one top-level role.
type keySet struct {
	keys      []crypto.Signer
	threshold int
}

func (f *Fleet) createCatalog(n int) error {
	sets, err := f.roleKeys(n, catalogRootKeys, catalogTargetsKeys, catalogSnapshotKey, catalogTimestampKey)
	if err != nil {
		return err
	}
	if err := f.createRoot(f.catalogPath("1.root.json"), sets); err != nil {
		return err
	}
	top, delegated, err := f.delegate(n)
	if err != nil {
		return err
	}
	raw, err := sign(top, sets[metadata.TARGETS].keys...)
	if err != nil {
		return err
	}
	parts := []part{{metadata.TARGETS, 1, raw}}
	for _, d := range delegations() {
		empty := metadata.Targets(expires(f.Now(), f.config.Expiry.Targets))
		if raw, err = sign(empty, delegated[d.keys]...); err != nil {
			return err
		}
		parts = append(parts, part{d.role, 1, raw})
	}
	b, err := f.catalogBranch()
	if err != nil {
		return err
	}
	if b.published() {
		return nil
	}
	return b.publish(parts...)
}

// delegate makes the catalog's top-level targets, with no targets and three
// roles, and the keys of those, by set.
func (f *Fleet) delegate(n int) (*metadata.Metadata[metadata.TargetsType], map[string][]crypto.Signer, error) {
	sets := map[string][]crypto.Signer{}
	top := metadata.Targets(expires(f.Now(), f.config.Expiry.Targets))
	top.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	for _, d := range delegations() {
		private, err := f.makeKeys(d.keys, n)
		if err != nil {
			return nil, nil, err
		}
		sets[d.keys] = private
		keys, ids, err := tufKeys(private)
		if err != nil {
			return nil, nil, err
		}
		maps.Copy(top.Signed.Delegations.Keys, keys)
		top.Signed.Delegations.Roles = append(top.Signed.Delegations.Roles, metadata.DelegatedRole{
			Name:        d.role,
			KeyIDs:      ids,
			Threshold:   f.config.Threshold,
			Terminating: true,
			Paths:       []string{d.kind.Folder() + "/*/*"},
		})
	}
	return top, sets, nil
}

func (f *Fleet) createDirector(n int) error {
	sets, err := f.roleKeys(n, directorRootKeys, directorTargetsKey, directorSnapshotKey, directorTimestampKey)
	if err != nil {
		return err
	}
	return f.createRoot(f.directorRootPath("1.root.json"), sets)
}

// roleKeys makes the keys of a repository's four top-level roles. Root is
// always an offline set; of the others, those whose set has one key are online.
func (f *Fleet) roleKeys(n int, root, targets, snapshot, timestamp string) (map[string]keySet, error) {
	sets := map[string]keySet{}
	for role, name := range map[string]string{
		metadata.ROOT: root, metadata.TARGETS: targets, metadata.SNAPSHOT: snapshot, metadata.TIMESTAMP: timestamp,
	} {
		set := keySet{threshold: 1}
		var err error
		if slices.Contains([]string{catalogRootKeys, catalogTargetsKeys, directorRootKeys}, name) {
			set.threshold = f.config.Threshold
			set.keys, err = f.makeKeys(name, n)
		} else {
			var key crypto.Signer
			key, err = f.makeKey(name)
			set.keys = []crypto.Signer{key}
		}
		if err != nil {
			return nil, err
		}
		sets[role] = set
	}
	return sets, nil
}

func (f *Fleet) createRoot(path string, sets map[string]keySet) error {
	root := metadata.Root(expires(f.Now(), f.config.Expiry.Root))
	for role, set := range sets {
		keys, ids, err := tufKeys(set.keys)
		if err != nil {
			return err
		}
		maps.Copy(root.Signed.Keys, keys)
		root.Signed.Roles[role] = &metadata.Role{KeyIDs: ids, Threshold: set.threshold}
	}
	raw, err := sign(root, sets[metadata.ROOT].keys...)
	if err != nil {
		return err
	}
	return writeFile(path, raw, 0o644)
}
