package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/agent/cloud"
	"github.com/bothy-edge/bothy/agent/gateway"
	"github.com/bothy-edge/bothy/runtime"
)

func statusCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Show models, queue, policy, updates and health on one screen",
		Long: "Show models and generations, queue, places and reasons of the last minutes, policy,\nupdate, broker, store, GPU and health. Exits 1 when the health is critical.",
		Args: exactly(), Example: "  bothy status --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.status(cmd.Context(), statusLimit)
			if err != nil {
				return err
			}
			if o.json {
				if err := printJSON(cmd.OutOrStdout(), s); err != nil {
					return err
				}
			} else if err := printStatus(cmd.OutOrStdout(), s, time.Now()); err != nil {
				return err
			}
			if s.Health == agent.HealthCritical {
				return exitError(1)
			}
			return nil
		},
	}
	jsonFlag(cmd, o)
	return cmd
}

// statusLimit is how long an agent may take to describe itself; it answers in milliseconds.
const statusLimit = 10 * time.Second

// status asks the agent; one that does not answer within limit is stuck, or starts and is not done with that.
func (o *options) status(ctx context.Context, limit time.Duration) (s agent.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = o.adminCall(ctx, "GET", "/v1/status", nil, &s)
	if errors.Is(err, context.DeadlineExceeded) {
		err = withHint{fmt.Errorf("the agent took the call and did not answer within %s", limit), "journalctl -u bothy, then systemctl restart bothy"}
	}
	return s, err
}

// screen collects lines of two columns, a topic and what there is to say.
type screen struct{ tw *tabwriter.Writer }

func (s screen) line(topic, format string, args ...any) {
	fmt.Fprintf(s.tw, "%s\t%s\n", topic, fmt.Sprintf(format, args...))
}

func printStatus(w io.Writer, s agent.Status, now time.Time) error {
	out := screen{tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)}
	device := s.Device
	if device == "" {
		device = "not enrolled"
	}
	out.line("bothy "+s.Version, "%s, up %s, health %s", device, span(now.Sub(s.Started)), s.Health)
	printModels(out, s.Models, now)
	printTraffic(out, s.Traffic)
	printPolicy(out, s.Policy)
	out.line("update", "%s", updateLine(s.Update))
	out.line("broker", "%s", brokerLine(s.Broker, now))
	out.line("store", "%s", storeLine(s.Store))
	out.line("gpu", "%s", s.GPU.Text)
	for _, g := range s.GPU.Devices {
		out.line("", "%s: %s of %s, %d %% busy, %d C", g.Name, sizeText(g.MemoryUsed), sizeText(g.MemoryTotal), g.Utilisation, g.Temperature)
	}
	h := s.Host
	out.line("host", "%d cores, load %.2f, memory %s free of %s, disk %s free of %s",
		h.Cores, h.Load1, sizeText(h.MemoryAvailable), sizeText(h.MemoryTotal), sizeText(h.DiskFree), sizeText(h.DiskTotal))
	if err := out.tw.Flush(); err != nil {
		return err
	}
	return printFindings(w, s.Findings)
}

func printModels(out screen, models []runtime.AliasStatus, now time.Time) {
	if len(models) == 0 {
		out.line("models", "none")
	}
	for i, m := range models {
		topic := ""
		if i == 0 {
			topic = "models"
		}
		release, engine := modelText(m)
		out.line(topic, "%s: %s on %s, %s", m.Alias, release, engine, m.Phase)
		if m.Error != "" {
			out.line("", "  %s%s", m.Error, again(m.RetryAt, now))
		}
		printGeneration(out, "current", m.Current, now)
		printGeneration(out, "candidate", m.Candidate, now)
		printGeneration(out, "draining", m.Draining, now)
	}
}

// again says when the engine is started the next time.
func again(at, now time.Time) string {
	if wait := at.Sub(now); wait > 0 {
		return ", tried again in " + span(wait)
	}
	return ""
}

func printGeneration(out screen, role string, g *runtime.GenerationStatus, now time.Time) {
	if g == nil {
		return
	}
	out.line("", "  generation %d %s: %s %s, %d requests, pid %d, for %s", g.Generation, role, g.Release, g.Phase, g.Leases, g.PID, span(now.Sub(g.Started)))
}

func printTraffic(out screen, t gateway.Stats) {
	waiting, running := 0, 0
	for _, q := range t.Queues {
		waiting, running = waiting+q.Waiting, running+q.Running
	}
	out.line("queue", "%d waiting, %d running, %d in flight", waiting, running, len(t.InFlight))
	var parts []string
	for _, c := range t.Recent.Choices {
		parts = append(parts, fmt.Sprintf("%s (%s) %d", c.Place, c.Reason, c.Count))
	}
	for _, code := range slices.Sorted(maps.Keys(t.Recent.Errors)) {
		parts = append(parts, fmt.Sprintf("not served (%s) %d", code, t.Recent.Errors[code]))
	}
	if len(parts) == 0 {
		parts = []string{"no requests"}
	}
	out.line("places", "%s in %d min", strings.Join(parts, ", "), t.Recent.Minutes)
	for _, u := range t.Upstreams {
		if u.Breaker == "" {
			out.line("upstream", "%s", u.LastError)
		} else if u.Breaker != cloud.Closed {
			out.line("upstream", "%s: breaker %s: %s", u.Name, u.Breaker, u.LastError)
		}
	}
}

func printPolicy(out screen, p agent.PolicyStatus) {
	text := p.Name
	if p.Release != "" {
		text += " (" + p.Release + ")"
	}
	switch {
	case p.KillSwitch:
		text += ", kill switch on: everything stays local"
	case len(p.Upstreams) == 0:
		text += ", everything stays local"
	default:
		text += ", upstreams " + strings.Join(p.Upstreams, ", ")
	}
	if p.Narrowed != "" {
		text += ", narrowed by " + p.Narrowed
	}
	out.line("policy", "%s", text)
	if p.Refused != "" {
		out.line("", "refused: %s", p.Refused)
	}
}

func updateLine(u agent.UpdateStatus) string {
	text := fmt.Sprintf("running want %d", u.Running)
	if u.Running == 0 {
		text = "nothing installed"
	}
	if u.Change != 0 {
		text += fmt.Sprintf("; change %d %s", u.Change, u.State)
		if u.Reason != "" {
			text += " for " + u.Reason
		}
		if u.Subject != "" {
			text += " (" + u.Subject + ")"
		}
	}
	if u.Total > 0 && u.Done < u.Total {
		text += fmt.Sprintf(", %s of %s", sizeText(uint64(u.Done)), sizeText(uint64(u.Total)))
		if u.Slowed != "" {
			text += ", slowed: " + u.Slowed
		}
	}
	if u.Error != "" {
		text += ": " + u.Error
	}
	return text
}

func brokerLine(b agent.BrokerStatus, now time.Time) string {
	switch {
	case b.URL == "":
		return "none"
	case b.Connected:
		return fmt.Sprintf("%s, connected for %s, %d reports waiting", b.URL, span(now.Sub(b.Since)), b.Outbox)
	case b.Error != "":
		return fmt.Sprintf("%s, not connected: %s, %d reports waiting", b.URL, b.Error, b.Outbox)
	}
	return fmt.Sprintf("%s, not connected, %d reports waiting", b.URL, b.Outbox)
}

func storeLine(s agent.StoreStatus) string {
	text := fmt.Sprintf("%s, %s", s.Path, sizeText(uint64(s.Bytes)))
	if s.Restored != "" {
		text += ", restored from " + s.Restored
	}
	if s.Quarantined != "" {
		text += ", damaged file kept as " + s.Quarantined
	}
	return text
}

func printFindings(w io.Writer, findings []agent.Finding) error {
	for _, f := range findings {
		fmt.Fprintf(w, "\n%s: %s\n", f.Severity, f.What)
		if f.Why != "" {
			fmt.Fprintf(w, "  why: %s\n", f.Why)
		}
		if f.Hint != "" {
			fmt.Fprintf(w, "  do:  %s\n", f.Hint)
		}
	}
	return nil
}

func sizeText(n uint64) string { return humanize.IBytes(n) }

// span writes a duration as people say it: 12s, 5m, 3h20m, 4d.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
