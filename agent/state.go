package agent

import (
	"crypto/tls"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/report"
	"github.com/bothy-edge/bothy/updater/trust"
)

// The least pause between two reports of the state: of anything, and of one in
// which only a transfer went on. A fleet of thousands fetches at once.
const (
	reportPause   = 2 * time.Second
	progressPause = 15 * time.Second
)

// cadence says when the device's state is due. Owned by one goroutine.
type cadence struct {
	heartbeat time.Duration
	said      report.State
	at        time.Time // of said; zero: nothing was
}

// due says that s is news, or that it is time for a sign of life.
func (c *cadence) due(s report.State, now time.Time) bool {
	since := now.Sub(c.at)
	switch {
	case c.at.IsZero() || since >= c.heartbeat || since < 0: // the clock was set back
		return true
	case since < reportPause:
		return false
	case reflect.DeepEqual(essence(s), essence(c.said)):
		return since >= progressPause && !reflect.DeepEqual(s.Change, c.said.Change)
	}
	return true
}

// essence is what of a state is worth a report of its own. The rest rides along:
// free bytes and the audit log move with every request.
func essence(s report.State) report.State {
	s.Seq, s.Time, s.Audit, s.Capacity = 0, time.Time{}, report.Head{}, report.Capacity{}
	if s.Change != nil {
		c := *s.Change
		c.Done, c.Total = 0, 0
		s.Change = &c
	}
	alarms := slices.Clone(s.Alarms)
	for i := range alarms {
		alarms[i].What = "" // it may tell a number that moves
	}
	s.Alarms = alarms
	return s
}

// certificateEnd tells when the certificate that the broker is shown expires.
func certificateEnd(conf *tls.Config, own *credentials) func() time.Time {
	return func() time.Time {
		if len(conf.Certificates) == 0 && own != nil {
			return own.expires()
		}
		if len(conf.Certificates) == 0 || conf.Certificates[0].Leaf == nil {
			return time.Time{}
		}
		return conf.Certificates[0].Leaf.NotAfter.UTC()
	}
}

// publish replaces the device's retained state, when it is due. Called by one goroutine.
func (l *link) publish(s report.State, now time.Time) error {
	s.Device, s.Epoch, s.Heartbeat, s.Certificate = l.id.Device, l.epoch, int(l.state.heartbeat/time.Second), l.expires()
	if again := l.again.Swap(false); !l.state.due(s, now) && !again {
		return nil
	}
	s.Seq, s.Time = l.state.said.Seq+1, now.UTC()
	body, err := s.Encode()
	if err != nil {
		return fmt.Errorf("cannot report the state: %w", err)
	}
	sealed, err := release.SignEnvelope(l.id.Key, release.StateType, body)
	if err != nil {
		return fmt.Errorf("cannot report the state: %w", err)
	}
	l.state.said, l.state.at = s, now
	l.control.Report(sealed)
	return nil
}

// reportState tells the fleet what this box is, when that is due.
func (b *box) reportState(s Status) {
	if b.link == nil {
		return
	}
	b.link.outbox.Poke() // a change that moved has put a report there
	if err := b.link.publish(b.deviceState(s), time.Now()); err != nil {
		b.log.Error("state not reported", "error", err)
	}
}

// deviceState is the state as the fleet is told it.
func (b *box) deviceState(s Status) report.State {
	d := stateOf(s)
	v := b.trust.Versions()
	d.Catalog, d.Director = repository(v.Catalog), repository(v.Director)
	if doc := b.updater.Current().Want.Engine; doc != nil {
		d.Engine = doc.ID()
	}
	head := b.audit.Status().Head
	d.Audit = report.Head{Seq: head.Seq, Hash: head.Hash}
	d.Order = b.trust.OrderMark()
	return d
}

// stateOf is what the status itself shows of it.
func stateOf(s Status) report.State {
	d := report.State{
		Agent: s.Version, Health: string(s.Health), Running: s.Update.Running, Counter: s.Update.Counter,
		Models: map[string]report.Model{}, Policy: s.Policy.Release,
	}
	for _, m := range s.Models {
		model := report.Model{Phase: string(m.Phase)}
		if m.Spec != nil {
			model.Release, model.Engine = m.Spec.Release, m.Spec.Engine
		}
		if m.Current != nil {
			model.Release, model.Program, model.Generation = m.Current.Release, m.Current.Program, m.Current.Generation
		}
		d.Models[m.Alias] = model
	}
	if u := s.Update; u.Change != 0 {
		d.Change = &report.Change{ID: u.Change, State: u.State, Reason: u.Reason, Summary: u.Subject, Error: u.Error, Done: u.Done, Total: u.Total}
	}
	for _, f := range s.Findings {
		d.Alarms = append(d.Alarms, report.Alarm{ID: f.ID, Severity: string(f.Severity), What: f.What})
	}
	h := s.Host
	d.Capacity = report.Capacity{
		Cores: h.Cores, MemoryTotal: h.MemoryTotal, MemoryAvailable: h.MemoryAvailable, DiskTotal: h.DiskTotal, DiskFree: h.DiskFree, GPUs: len(s.GPU.Devices),
	}
	for i, g := range s.GPU.Devices {
		if i == 0 {
			d.Capacity.GPU = g.Name
		}
		d.Capacity.GPUTotal += g.MemoryTotal
		d.Capacity.GPUUsed += g.MemoryUsed
	}
	return d
}

func repository(v trust.RepoVersions) report.Repository {
	return report.Repository{Root: v.Root, Timestamp: v.Timestamp, Snapshot: v.Snapshot, Targets: v.Targets, Expires: v.Expires}
}
