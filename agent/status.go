package agent

import (
	"time"

	"github.com/bothy-edge/bothy/agent/gateway"
	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/runtime/gpu"
)

// Status is the whole state of the appliance on one screen: `bothy status` and
// GET /v1/status on the admin socket. docs/json.md describes every field.
type Status struct {
	Version  string                `json:"version"`
	Device   string                `json:"device,omitempty"` // empty until enrolled
	Tenant   string                `json:"tenant,omitempty"`
	PID      int                   `json:"pid"`
	Started  time.Time             `json:"started"`
	Health   Health                `json:"health"`
	Models   []runtime.AliasStatus `json:"models"`
	Traffic  gateway.Stats         `json:"traffic"`
	Policy   PolicyStatus          `json:"policy"`
	Update   UpdateStatus          `json:"update"`
	Broker   BrokerStatus          `json:"broker"`
	Store    StoreStatus           `json:"store"`
	GPU      GPUStatus             `json:"gpu"`
	Host     HostStatus            `json:"host"`
	Findings []Finding             `json:"findings"`
}

// Health sums the findings up: "ok", "warning" or "critical".
type Health string

// The healths, worst last.
const (
	HealthOK       Health = "ok"
	HealthWarning  Health = "warning"
	HealthCritical Health = "critical"
)

// PolicyStatus is the policy in force, and the last one that was refused.
type PolicyStatus struct {
	Name       string   `json:"name"`
	Release    string   `json:"release,omitempty"` // empty: the built-in policy, local only
	KillSwitch bool     `json:"kill_switch"`
	Upstreams  []string `json:"upstreams"`
	Narrowed   string   `json:"narrowed,omitempty"` // release whose narrowing is kept after an undo
	Older      string   `json:"older,omitempty"`    // release in force below its anti-rollback mark: nothing leaves the box
	Refused    string   `json:"refused,omitempty"`  // why the newest offer was not taken
	Broken     string   `json:"broken,omitempty"`   // why the built-in policy stands for the one that should be in force
}

// UpdateStatus is the change in progress, or the last one.
type UpdateStatus struct {
	State           string `json:"state"`
	Reason          string `json:"reason,omitempty"` // why it is paused or waits
	Change          uint64 `json:"change,omitempty"`
	Subject         string `json:"subject,omitempty"`
	Error           string `json:"error,omitempty"`
	Done            int64  `json:"done_bytes,omitempty"`
	Total           int64  `json:"total_bytes,omitempty"`
	Slowed          string `json:"slowed,omitempty"`      // why it is fetched slower than it could be: rate, busy or window
	Spare           int64  `json:"spare_bytes,omitempty"` // when space is short: what bothy artifact drop-previous would free
	Counter         uint64 `json:"counter"`               // the newest want that was verified
	CatalogVersion  int64  `json:"catalog_version"`
	DirectorVersion int64  `json:"director_version"`
	Running         uint64 `json:"running_counter"`   // the want that runs
	Expired         bool   `json:"expired,omitempty"` // a signed timestamp has; no update is accepted
	// PutBack: the store was restored from an older copy, and the fleet has not
	// confirmed what runs since. Nothing leaves the box until it does.
	PutBack bool `json:"put_back,omitempty"`
}

// BrokerStatus is the control connection.
type BrokerStatus struct {
	URL       string    `json:"url,omitempty"` // empty: not enrolled, or a device without a broker
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since,omitzero"`
	Error     string    `json:"error,omitempty"`
	Outbox    int       `json:"outbox"` // reports that wait for the broker
}

// StoreStatus is the database.
type StoreStatus struct {
	Path        string `json:"path"`
	Bytes       int64  `json:"bytes"`
	Clean       bool   `json:"clean"` // the last stop was
	Restored    string `json:"restored,omitempty"`
	Quarantined string `json:"quarantined,omitempty"`
	Lost        bool   `json:"lost,omitempty"` // it had to be made anew
}

// GPUStatus is what the NVML helper reads.
type GPUStatus struct {
	Text    string       `json:"text"` // one line for people, for example "no NVIDIA driver"
	Driver  string       `json:"driver,omitempty"`
	Error   string       `json:"error,omitempty"` // why the devices are not fresh
	Hint    string       `json:"hint,omitempty"`
	Devices []gpu.Device `json:"devices"`
}

// HostStatus is the machine. Sizes in bytes.
type HostStatus struct {
	Cores           int     `json:"cores"`
	Load1           float64 `json:"load1"`
	MemoryTotal     uint64  `json:"memory_total"`
	MemoryAvailable uint64  `json:"memory_available"`
	DiskTotal       uint64  `json:"disk_total"`
	DiskFree        uint64  `json:"disk_free"`
}

// Finding is one thing that an operator should know: what, why it matters, what to type.
type Finding struct {
	ID       string `json:"id"` // stable, for example "disk-low"
	Severity Health `json:"severity"`
	What     string `json:"what"`
	Why      string `json:"why,omitempty"`
	Hint     string `json:"hint,omitempty"`
}

// worst is the health that findings add up to.
func worst(findings []Finding) Health {
	h := HealthOK
	for _, f := range findings {
		if f.Severity == HealthCritical {
			return HealthCritical
		}
		if f.Severity == HealthWarning {
			h = HealthWarning
		}
	}
	return h
}
