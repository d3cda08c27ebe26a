package agent

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/updater"
)

// Thresholds of findings.
const (
	diskWarning    = 2 << 30 // bytes free
	diskCritical   = 256 << 20
	memoryWarning  = 0.05 // share available
	brokerPatience = 2 * time.Minute
	gpuPatience    = 20 * time.Second // after a start, for the first answer of the reader
)

// findings reads what an operator should know off everybody's status.
func (b *box) findings(s Status, now time.Time) []Finding {
	all := statusFindings(s, now)
	add := func(f Finding) { all = append(all, f) }
	if b.identity == nil {
		add(Finding{"not-enrolled", HealthWarning, "this box belongs to no fleet", "no model and no policy can be installed", "bothy enroll TOKEN, then restart the agent"})
	}
	if b.link != nil {
		if f, bad := certificateFinding(b.link.expires(), now); bad {
			add(f)
		}
	}
	if err := b.audit.Status().Error; err != "" {
		add(Finding{"audit-failing", HealthCritical, "the audit log cannot be written: " + err, "nothing may leave the box until it can; local requests go on", "look at the disk of " + b.path("audit")})
	}
	return all
}

// statusFindings are those that the status itself shows.
func statusFindings(s Status, now time.Time) []Finding {
	all := []Finding{}
	for _, m := range s.Models {
		if f, bad := modelFinding(m); bad {
			all = append(all, f)
		}
	}
	for _, part := range []func(Status, time.Time) []Finding{policyFindings, updateFindings, brokerFindings, storeFindings, gpuFindings, hostFindings, upstreamFindings} {
		all = append(all, part(s, now)...)
	}
	return all
}

func modelFinding(m runtime.AliasStatus) (Finding, bool) {
	switch m.Phase {
	case runtime.PhaseFailed:
		return Finding{"model-failed", HealthCritical, fmt.Sprintf("model %q is down: %s", m.Alias, m.Error), "its requests are refused, or go where policy allows", "bothy model logs " + m.Alias}, true
	case runtime.PhaseBackoff:
		return Finding{"model-restarting", HealthWarning, fmt.Sprintf("model %q crashed and is being restarted: %s", m.Alias, m.Error), "", "bothy model logs " + m.Alias}, true
	}
	return Finding{}, false
}

func policyFindings(s Status, _ time.Time) []Finding {
	switch p := s.Policy; {
	case p.Broken != "":
		return []Finding{{"policy-broken", HealthCritical, p.Broken, "nothing leaves this box, and nothing that the policy denies is denied", "bothy update check, which brings it again"}}
	case p.Older != "":
		return []Finding{{"policy-older", HealthWarning, "policy " + p.Older + " is older than one that ran here", "nothing leaves this box", "assign a newer policy: bothy fleet assign, on the fleet's side"}}
	}
	return nil
}

func updateFindings(s Status, _ time.Time) (all []Finding) {
	if f, bad := changeFinding(s.Update); bad {
		all = append(all, f)
	}
	if s.Update.Expired {
		all = append(all, Finding{"metadata-expired", HealthWarning, "the fleet's signed timestamp has expired", "no update is accepted until a new one arrives; serving goes on", "check that `bothy fleet serve` runs, and this box's clock"})
	}
	return all
}

// changeFinding tells of a change that an operator should look at.
func changeFinding(u UpdateStatus) (f Finding, bad bool) {
	switch updater.State(u.State) {
	case updater.Refused, updater.Undone, updater.Failed:
		return Finding{"update-" + u.State, HealthWarning, fmt.Sprintf("change %d is %s: %s", u.Change, u.State, u.Error), "what ran before goes on running", fmt.Sprintf("bothy change show %d", u.Change)}, true
	case updater.Waiting:
		return Finding{"update-approval", HealthWarning, fmt.Sprintf("change %d is ready and waits for an operator's approval: %s", u.Change, u.Subject), "the fleet asks that somebody here agrees; what runs goes on running", fmt.Sprintf("bothy change approve %d, or bothy change cancel %d", u.Change, u.Change)}, u.Reason == "approval"
	case updater.Paused:
		f = Finding{"update-paused", HealthWarning, fmt.Sprintf("change %d is paused (%s) %s", u.Change, u.Reason, u.Error), "what runs goes on running", fmt.Sprintf("bothy change show %d", u.Change)}
		switch u.Reason {
		case "operator":
			f.Hint = fmt.Sprintf("bothy change resume %d", u.Change)
		case "nospace":
			f.Hint = "free space on the disk of the state folder; bothy artifact list shows what the releases take"
			if u.Spare > 0 {
				f.Hint = fmt.Sprintf("free space, or give up the files of the set before this one, %s: bothy artifact drop-previous", humanize.IBytes(uint64(u.Spare)))
			}
		}
		return f, true
	}
	return Finding{}, false
}

func brokerFindings(s Status, now time.Time) []Finding {
	b := s.Broker
	if b.URL == "" || b.Connected || now.Sub(b.Since) < brokerPatience {
		return nil
	}
	return []Finding{{"broker-away", HealthWarning, fmt.Sprintf("no connection to %s since %s: %s", b.URL, b.Since.Format(time.RFC3339), b.Error), "updates and reports wait; serving goes on", "bothy doctor"}}
}

func storeFindings(s Status, _ time.Time) []Finding {
	st := s.Store
	switch {
	case st.Lost || st.Quarantined != "" && st.Restored == "":
		return []Finding{{"store-lost", HealthWarning, "the store was damaged or missing and was made anew", "history is gone; models and policy come again from the fleet", "keep " + st.Quarantined + " for support and check the disk (smartctl, dmesg)"}}
	case st.Restored != "":
		return []Finding{{"store-restored", HealthWarning, "the store was damaged and restored from " + st.Restored, "the last minutes of history may be missing; no cloud until the fleet confirmed what runs", "keep " + st.Quarantined + " for support and check the disk (smartctl, dmesg)"}}
	case s.Update.PutBack: // at an earlier start
		return []Finding{{"store-unconfirmed", HealthWarning, "the store was put back as of an earlier time and the fleet has not confirmed what runs since", "nothing leaves this box until it does", "bothy update check; without a broker: bothy update import DIR"}}
	}
	return nil
}

func gpuFindings(s Status, now time.Time) []Finding {
	if s.GPU.Error == "" || now.Sub(s.Started) < gpuPatience {
		return nil
	}
	return []Finding{{"gpu-unreadable", HealthWarning, "the GPUs cannot be read: " + s.GPU.Error, "engines may still run", s.GPU.Hint}}
}

func hostFindings(s Status, _ time.Time) (all []Finding) {
	h := s.Host
	if free := h.DiskFree; h.DiskTotal > 0 && free < diskWarning {
		f := Finding{"disk-low", HealthWarning, fmt.Sprintf("%s are free on the disk of the state folder", humanize.IBytes(free)), "updates wait for space; below 256 MiB the audit log and with it the cloud are at risk", "free space, or move the state folder to a larger disk"}
		if free < diskCritical {
			f.Severity = HealthCritical
		}
		all = append(all, f)
	}
	if h.MemoryTotal > 0 && float64(h.MemoryAvailable) < memoryWarning*float64(h.MemoryTotal) {
		all = append(all, Finding{"memory-low", HealthWarning, fmt.Sprintf("%s of %s memory are available", humanize.IBytes(h.MemoryAvailable), humanize.IBytes(h.MemoryTotal)), "the kernel may kill an engine", "assign smaller models, or fewer slots"})
	}
	return all
}

func upstreamFindings(s Status, _ time.Time) (all []Finding) {
	for _, u := range s.Traffic.Upstreams {
		if u.Breaker == "" {
			all = append(all, Finding{"upstream-unusable", HealthWarning, u.LastError, "requests that may leave are served by this box or refused", "mend the configuration and restart the agent, or assign another policy"})
			continue
		}
		if u.LastError != "" && u.Breaker != "closed" {
			all = append(all, Finding{"upstream-down", HealthWarning, fmt.Sprintf("upstream %q does not answer: %s", u.Name, u.LastError), "requests that may leave are served by this box or refused", "bothy doctor"})
		}
	}
	return all
}

// certificateFinding tells of a certificate that was not renewed in time; end is zero where there is none.
func certificateFinding(end, now time.Time) (Finding, bool) {
	if end.IsZero() || end.Sub(now) > expiryWarning {
		return Finding{}, false
	}
	day := end.Local().Format(time.DateOnly)
	f := Finding{"certificate-expires", HealthWarning, "the device's certificate expires on " + day, "then the broker refuses this box: no updates, no reports; serving goes on", "see that `bothy fleet serve` runs and answers, or enrol again: bothy enroll TOKEN"}
	if !now.Before(end) {
		f.What, f.Why = "the device's certificate expired on "+day, "the broker refuses this box: no updates, no reports; serving goes on"
		f.Hint = "a new token (bothy fleet enroll token), then here: bothy enroll TOKEN"
	}
	return f, true
}
