package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/report"
	"github.com/bothy-edge/bothy/updater/trust"
)

// retiredFile is the intention to remove what this box holds. It is written
// before anything is removed and is the last thing that goes, so whatever
// interrupts a retirement, the next start goes on with it.
const retiredFile = "retired.json"

// farewellLimit is how long a retired box tries to tell its fleet. Nothing but its identity is left then.
const farewellLimit = time.Hour

// How long one question to the depot may take, and the pause before the next.
const (
	depotPatience = 30 * time.Second
	depotPause    = time.Second
)

// retireStage is how far a retirement came. The values are stored.
type retireStage string

// The stages of a retirement, in their order.
const (
	stageContent  retireStage = "content"  // models, policies and the store are removed; nothing serves any more
	stageFarewell retireStage = "farewell" // the fleet is told, signed by the key that goes next
	stageIdentity retireStage = "identity" // the key and certificates are removed, and the rest
)

// retirement is retired.json.
type retirement struct {
	Schema int         `json:"schema"` // 1
	Order  uint64      `json:"order"`  // that said so
	Stage  retireStage `json:"stage"`
	Audit  bool        `json:"wipe_audit"` // the audit log goes too
	At     time.Time   `json:"at"`

	dir   string                   // the state folder
	fault func(point string) error // nil: none; stops as a crash would
}

// errRetired ends the agent: the box was retired by its fleet.
var errRetired = hinted{
	errors.New("this box was retired by its fleet, and what it held was removed"),
	"start the agent again to run it without a fleet, or bothy enroll TOKEN first",
}

// orderWipe carries out the order to retire: it notes the intention and ends the
// agent, which then does it. The fleet is answered when it is done, not before.
func (b *box) orderWipe(ctx context.Context, o release.Order) (string, error) {
	r := retirement{Schema: 1, Order: o.Number, Stage: stageContent, Audit: o.Args["audit"] == "wipe", At: time.Now().UTC(), dir: b.o.Config.State}
	if err := r.save(); err != nil {
		return "", err
	}
	b.log.Warn("retired by the fleet: the agent stops and removes what this box holds", "order", o.Number)
	b.retire.Do(func() { close(b.retired) })
	<-ctx.Done()
	return "", ctx.Err()
}

// loadRetirement reads the intention, if there is one.
func loadRetirement(state string) (r retirement, found bool, err error) {
	raw, err := os.ReadFile(filepath.Join(state, retiredFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err == nil && r.Schema != 1 {
		err = fmt.Errorf("schema %d, this agent reads 1", r.Schema)
	}
	if err != nil {
		return r, true, fmt.Errorf("cannot go on retiring this box: %s: %w", filepath.Join(state, retiredFile), err)
	}
	r.dir = state
	return r, true, nil
}

func (r retirement) save() error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = store.WriteFile(filepath.Join(r.dir, retiredFile), append(raw, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot retire this box: %w", err)
	}
	return nil
}

// finish goes through what is left of a retirement. The end is errRetired; nil
// says that ctx ended first, and the next start goes on. farewell tells the fleet.
func (r retirement) finish(ctx context.Context, farewell func(context.Context, retirement) error, log *slog.Logger) error {
	for _, step := range []struct {
		of  retireStage
		do  func() error
		end retireStage
	}{
		{stageContent, func() error { return r.remove(IdentityFolder, "audit", retiredFile) }, stageFarewell},
		{stageFarewell, func() error { return farewell(ctx, r) }, stageIdentity},
		{stageIdentity, r.removeIdentity, ""},
	} {
		if step.of != r.Stage {
			continue
		}
		log.Warn("retiring this box", "stage", r.Stage, "order", r.Order)
		if err := step.do(); err != nil {
			return fmt.Errorf("cannot retire this box: %w", err)
		}
		if ctx.Err() != nil {
			return nil
		}
		if r.Stage = step.end; r.Stage == "" {
			return errRetired
		}
		if err := r.at("stage " + string(r.Stage)); err != nil {
			return err
		}
		if err := r.save(); err != nil {
			return err
		}
	}
	return fmt.Errorf("internal error: there is no stage %q of a retirement", r.Stage)
}

// remove empties the state folder but for some names. The anti-rollback marks
// always stay: numbers and names of releases, which keep old orders and old
// releases from a box that enrols again. Files are removed, not written over.
func (r retirement) remove(keep ...string) error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if slices.Contains(keep, name) || strings.HasPrefix(name, "marks.") || name == "lost+found" {
			continue
		}
		if err := r.at("remove " + name); err != nil {
			return err
		}
		if err := removeAll(filepath.Join(r.dir, name)); err != nil {
			return err
		}
	}
	return store.SyncDir(r.dir)
}

// removeIdentity removes what is left, the intention last.
func (r retirement) removeIdentity() error {
	keep := []string{retiredFile}
	if !r.Audit {
		keep = append(keep, "audit")
	}
	if err := r.remove(keep...); err != nil {
		return err
	}
	if err := r.at("remove " + retiredFile); err != nil {
		return err
	}
	err := os.Remove(filepath.Join(r.dir, retiredFile))
	return errors.Join(err, store.SyncDir(r.dir))
}

func (r retirement) at(point string) error {
	if r.fault == nil {
		return nil
	}
	return r.fault(point)
}

// removeAll is os.RemoveAll that also removes from folders that nobody may write to.
func removeAll(path string) error {
	if os.RemoveAll(path) == nil {
		return nil
	}
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(p, 0o700)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(path))
}

// farewell tells the fleet that what this box held is removed, over a store that
// holds nothing but that. It gives up after a while: a box that is alone with its
// key must not stay so.
func (o Options) farewell(ctx context.Context, r retirement) error {
	id, err := trust.LoadIdentity(filepath.Join(o.Config.State, IdentityFolder))
	if errors.Is(err, trust.ErrNotEnrolled) || err == nil && id.Broker == "" {
		return nil // nobody to tell
	}
	if err != nil {
		o.Log.Error("the fleet cannot be told that this box is retired", "error", err)
		return nil
	}
	left := time.Until(r.At.Add(farewellLimit))
	bounded, cancel := context.WithTimeout(ctx, min(max(left, 0), farewellLimit))
	defer cancel()
	if err := o.tellRetired(bounded, id, r); err != nil && ctx.Err() == nil {
		o.Log.Error("the fleet could not be told that this box is retired", "error", err)
	}
	return nil
}

// tellRetired returns once the broker has acknowledged the answer to the order,
// with a depot there to hear it.
func (o Options) tellRetired(ctx context.Context, id trust.Identity, r retirement) error {
	db, found, err := store.Open(ctx, store.Options{Path: filepath.Join(o.Config.State, "bothy.db"), Log: o.Log, Check: store.CheckIn(o.Self, "store-check")})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // the folder goes next
	l, err := newLink(o.Config.Broker, filepath.Join(o.Config.State, IdentityFolder), id, db, found, o.Log)
	if err != nil {
		return err
	}
	defer l.bulk.Close()
	if err := l.awaitDepot(ctx); err != nil {
		return err
	}
	if n, err := l.outbox.Waiting(); err != nil || n == 0 { // a start before this one may have put it there
		a := report.Answer{Number: r.Order, Kind: release.OrderWipe, Outcome: report.Done, Detail: "models, policies and the store are removed; the identity goes next"}
		if _, err := l.outbox.Add(report.AnswerEvent, a); err != nil {
			return err
		}
	}
	return l.deliver(ctx)
}

// awaitDepot returns once the depot answers a request. A broker acknowledges a
// report also when nobody hears it, and of this one there is no second: without
// it the fleet would never revoke the box.
func (l *link) awaitDepot(ctx context.Context) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, depotPatience)
		_, err := l.Metadata(attempt, trust.Director, "timestamp.json", 1<<20)
		cancel()
		if err == nil || errors.Is(err, trust.ErrNotFound) {
			return nil
		}
		l.log.Info("nobody is there to be told that this box is retired", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(depotPause):
		}
	}
}

// deliver connects until every event is acknowledged.
func (l *link) deliver(ctx context.Context) error {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 2)
	go func() { done <- l.control.Run(running) }()
	go func() { done <- l.outbox.Run(running) }()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	err := error(nil)
	for waiting := 1; waiting > 0 && err == nil; {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-look.C:
			waiting, err = l.outbox.Waiting()
		}
	}
	cancel()
	return errors.Join(err, <-done, <-done)
}
