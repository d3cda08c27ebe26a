package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent/gateway"
	"github.com/bothy-edge/bothy/agent/router"
)

func TestTransferConfigurationIsRead(t *testing.T) {
	c, err := LoadConfig(configFile(t, `
runtime: /run/b
transfer: {rate: 8MiB, busy_requests: 3, busy_first: 2s, window: {days: [sat], from: "22:00", until: "04:00"}}
`), true)
	if err != nil {
		t.Fatal(err)
	}
	w := c.Transfer.window()
	if c.Transfer.Rate != 8<<20 || c.Transfer.BusyRate != 4<<20 || w == nil || w.From != "22:00" || len(w.Days) != 1 {
		t.Errorf("got %+v and window %+v, want what the file says and 4 MiB while busy", c.Transfer, w)
	}
	for text, want := range map[string]string{
		"transfer: {window: {from: 9}}\n":                  "transfer.window",
		"transfer: {window: {days: [sat]}}\n":              "transfer.window",
		"transfer: {busy_requests: -1}\n":                  "transfer.busy_requests",
		"transfer: {rate: 0}\n":                            "write it as",
		"transfer: {window: {from: \"1:00\", until: x}}\n": "HH:MM",
	} {
		if _, err := LoadConfig(configFile(t, "runtime: /run/b\n"+text), true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q named", text, err, want)
		}
	}
}

func TestInferenceIsBusyWhenItHasMoreThanItCanDo(t *testing.T) {
	queues := func(waiting, running int) map[string]router.QueueStatus {
		return map[string]router.QueueStatus{"idle": {}, "chat": {Waiting: waiting, Running: running, Slots: 4}}
	}
	slow := gateway.Recent{First: gateway.Quantiles{P95: 3}}
	for name, c := range map[string]struct {
		config TransferConfig
		stats  gateway.Stats
		want   bool
	}{
		"nothing under way":              {TransferConfig{BusyRequests: 1, BusyFirst: 1}, gateway.Stats{}, false},
		"one waits":                      {TransferConfig{}, gateway.Stats{Queues: queues(1, 4)}, true},
		"all slots taken, none waits":    {TransferConfig{}, gateway.Stats{Queues: queues(0, 4)}, false},
		"as many as configured":          {TransferConfig{BusyRequests: 2}, gateway.Stats{Queues: queues(0, 2)}, true},
		"fewer than configured":          {TransferConfig{BusyRequests: 3}, gateway.Stats{Queues: queues(0, 2)}, false},
		"slow first tokens":              {TransferConfig{BusyFirst: Duration(2 * time.Second)}, gateway.Stats{Queues: queues(0, 1), Recent: slow}, true},
		"slow a while ago, idle now":     {TransferConfig{BusyFirst: Duration(2 * time.Second)}, gateway.Stats{Queues: queues(0, 0), Recent: slow}, false},
		"slow, and nobody said too slow": {TransferConfig{}, gateway.Stats{Queues: queues(0, 1), Recent: slow}, false},
	} {
		if got := c.config.busy(c.stats); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}
