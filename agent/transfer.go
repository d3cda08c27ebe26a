package agent

import (
	"fmt"
	"time"

	"github.com/bothy-edge/bothy/agent/gateway"
	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
)

// TransferConfig bounds what fetching updates may take of the line and of the
// box. What the fleet's signed assignment asks for holds beside it.
type TransferConfig struct {
	// Rate is the most that is fetched in a second, for example "8MiB". Default: no limit.
	Rate Size `yaml:"rate"`
	// BusyRate is the most while inference is busy. Default 4MiB.
	BusyRate Size `yaml:"busy_rate"`
	// BusyRequests is how many requests under way make inference busy; a request that
	// waits for a slot always does. Default 0: only those.
	BusyRequests int `yaml:"busy_requests"`
	// BusyFirst is the time to the first token, in the 95th percentile of the last
	// minutes, over which inference is busy. Default: none.
	BusyFirst Duration `yaml:"busy_first"`
	// Window is when to fetch. Default: at any time.
	Window WindowConfig `yaml:"window"`
	// NoCast asks for every block by itself, also when a depot streams the file to all.
	NoCast bool `yaml:"no_cast"`
}

// WindowConfig is a time of day, in the box's local time.
type WindowConfig struct {
	Days  []string `yaml:"days"` // mon ... sun; none means every day
	From  string   `yaml:"from"`
	Until string   `yaml:"until"`
}

func (c *Config) checkTransfer() error {
	if c.Transfer.BusyRequests < 0 {
		return fmt.Errorf("cannot use transfer.busy_requests %d: want 0 or more", c.Transfer.BusyRequests)
	}
	if w := c.Transfer.window(); w != nil {
		if err := w.Validate(); err != nil {
			return fmt.Errorf("cannot use transfer.window: %w", err)
		}
	}
	return nil
}

func (c TransferConfig) window() *release.Window {
	if w := c.Window; w.From != "" || w.Until != "" || len(w.Days) > 0 {
		return &release.Window{Days: w.Days, From: w.From, Until: w.Until}
	}
	return nil
}

// newFlow is the one bound on all transfers of this box.
func (b *box) newFlow() *content.Flow {
	c := b.o.Config.Transfer
	return &content.Flow{
		Rate: int64(c.Rate), BusyRate: int64(c.BusyRate), Window: c.window(),
		Busy: func() bool { return c.busy(b.gateway.Stats()) },
		Anytime: func() bool {
			change, underWay := b.updater.Active()
			return underWay && change.Anytime
		},
	}
}

// busy says whether inference has more to do than it can do at once.
func (c TransferConfig) busy(s gateway.Stats) bool {
	running := 0
	for _, q := range s.Queues {
		if q.Waiting > 0 {
			return true
		}
		running += q.Running
	}
	if c.BusyRequests > 0 && running >= c.BusyRequests {
		return true
	}
	return c.BusyFirst > 0 && running > 0 && s.Recent.First.P95 > time.Duration(c.BusyFirst).Seconds()
}
