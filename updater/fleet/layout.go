package fleet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"golang.org/x/sys/unix"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Fleet is one fleet's folder. Safe for concurrent use.
type Fleet struct {
	// Now is the clock that expiries are counted from. Set before use; Open
	// and Init set it to time.Now.
	Now func() time.Time
	// Keys are the private keys that are here. Set Keys.Ask before use where
	// some are encrypted.
	Keys *Keyring

	dir       string
	config    config
	approvals approvals
	orders    orderCache
}

// config is fleet.yaml.
type config struct {
	Schema int    `yaml:"schema"`
	Tenant string `yaml:"tenant"`
	Broker string `yaml:"broker"`
	// EnrollBroker is where boxes without a certificate connect, if not at Broker.
	EnrollBroker string `yaml:"enroll_broker,omitempty"`
	Depot        string `yaml:"depot"`
	Threshold    int    `yaml:"threshold"`
	Expiry       expiry `yaml:"expiry_days"`
}

// expiry is how long what is signed stays valid, in days.
type expiry struct {
	Root      int `yaml:"root"`
	Targets   int `yaml:"targets"`   // the catalog's top-level and delegated roles
	Director  int `yaml:"director"`  // the director's targets
	Snapshot  int `yaml:"snapshot"`  // renewed by the depot
	Timestamp int `yaml:"timestamp"` // renewed by the depot; how long a freeze goes unnoticed
}

func defaultExpiry() expiry {
	return expiry{Root: 730, Targets: 365, Director: 365, Snapshot: 30, Timestamp: 7}
}

const configFile = "fleet.yaml"

// ErrNoFleet is what Open wraps when the folder holds no fleet.
var ErrNoFleet = errors.New("there is no fleet in this folder")

// Open reads the fleet in dir.
func Open(dir string) (*Fleet, error) {
	path := filepath.Join(dir, configFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot open fleet %s: %w; run: bothy fleet init %s --tenant NAME", dir, ErrNoFleet, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open fleet: %w", err)
	}
	var c config
	if err := yaml.UnmarshalWithOptions(raw, &c, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("cannot open fleet: %s: %w", path, err)
	}
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("cannot open fleet: %s: %w", path, err)
	}
	return &Fleet{Now: time.Now, Keys: OpenKeys(dir), dir: dir, config: c}, nil
}

func (c config) validate() error {
	if c.Schema != 1 {
		return fmt.Errorf("schema is %d, this bothy reads 1", c.Schema)
	}
	for what, name := range map[string]string{"tenant": c.Tenant, "depot": c.Depot} {
		if err := release.CheckName(name); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	for what, broker := range map[string]string{"broker": c.Broker, "enroll_broker": c.EnrollBroker} {
		if broker != "" && !strings.Contains(broker, "://") {
			return fmt.Errorf("%s is %q; write it as tls://host:8883 or tcp://host:1883, or leave it empty", what, broker)
		}
	}
	if c.Threshold < 1 {
		return fmt.Errorf("threshold is %d, want at least 1", c.Threshold)
	}
	for _, days := range []int{c.Expiry.Root, c.Expiry.Targets, c.Expiry.Director, c.Expiry.Snapshot, c.Expiry.Timestamp} {
		if days < 1 || days > 36500 {
			return fmt.Errorf("expiry_days holds %d, want 1 to 36500", days)
		}
	}
	return nil
}

// Tenant is the name under which the fleet's topics lie.
func (f *Fleet) Tenant() string { return f.config.Tenant }

// Broker is the URL that devices and the depot connect to; empty when devices
// import from a folder.
func (f *Fleet) Broker() string { return f.config.Broker }

// EnrollBroker is the URL that boxes without a certificate connect to.
func (f *Fleet) EnrollBroker() string {
	if f.config.EnrollBroker != "" {
		return f.config.EnrollBroker
	}
	return f.config.Broker
}

// Depot is the name of the fleet's depot.
func (f *Fleet) Depot() string { return f.config.Depot }

// Dir is the fleet's folder.
func (f *Fleet) Dir() string { return f.dir }

// Ticket is what a device must be given out of band to enrol: the content of
// enroll.json.
func (f *Fleet) Ticket() (trust.Ticket, error) {
	t := trust.Ticket{Tenant: f.config.Tenant, Broker: f.config.Broker, Depot: f.config.Depot}
	var err error
	if t.CatalogRoot, err = os.ReadFile(f.catalogPath("1.root.json")); err != nil {
		return t, fmt.Errorf("cannot read ticket: %w", err)
	}
	if t.DirectorRoot, err = os.ReadFile(f.directorRootPath("1.root.json")); err != nil {
		return t, fmt.Errorf("cannot read ticket: %w", err)
	}
	return t, nil
}

func (f *Fleet) catalogPath(name string) string {
	return filepath.Join(f.dir, "catalog", "metadata", name)
}

// The folder's name cannot be a device's: those start with a letter or digit.
func (f *Fleet) directorRootPath(name string) string {
	return filepath.Join(f.dir, "director", "_root", name)
}

func (f *Fleet) devicePath(device, name string) string {
	return filepath.Join(f.dir, "director", device, name)
}

func (f *Fleet) pendingPath(target string) string {
	return filepath.Join(f.dir, "catalog", "pending", filepath.FromSlash(target))
}

// documentPath holds a signed release document; name is release.DocumentName.
func (f *Fleet) documentPath(name string) string {
	return filepath.Join(f.dir, "catalog", filepath.FromSlash(name))
}

func (f *Fleet) blobPath(digest string) string { return filepath.Join(f.dir, "blobs", digest) }

// writeFile replaces a file durably and makes its folder when needed.
func writeFile(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return store.WriteFile(path, data, mode)
}

// How long a command waits for another one that has the lock.
const (
	lockPatience = 30 * time.Second
	lockPoll     = 20 * time.Millisecond
)

// lock keeps other processes from changing the folder until unlock is called.
func lock(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, ".lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock fleet: %w", err)
	}
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	patience := time.NewTimer(lockPatience)
	defer patience.Stop()
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			// Closing the file lets go of the lock, as does the end of the process.
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = file.Close()
			return nil, fmt.Errorf("cannot lock fleet %s: %w", path, err)
		}
		select {
		case <-poll.C:
		case <-patience.C:
			_ = file.Close()
			return nil, fmt.Errorf("cannot lock fleet %s: another bothy fleet command has been at work for %s; wait for it to end", path, lockPatience)
		}
	}
}
