package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/mod/semver"

	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/trust"
)

// refresher asks one source for what this device shall run.
type refresher struct {
	client *trust.Client
	source trust.Source
}

// Refresh verifies both repositories.
func (r refresher) Refresh(ctx context.Context) (release.Want, error) {
	want, err := r.client.Refresh(ctx, r.source)
	if errors.Is(err, trust.ErrNotFound) && trust.CodeOf(err) == "" {
		return want, hinted{nothingYet{err}, "bothy fleet assign DIR --device NAME ALIAS=RELEASE, on the fleet's side"}
	}
	return want, err
}

// nothingYet is an answer of the fleet, not a failure: no set was ever assigned here.
type nothingYet struct{ error }

func (nothingYet) Error() string   { return "the fleet has nothing for this device yet" }
func (n nothingYet) Unwrap() error { return n.error }

// hinted is an error that says what to type.
type hinted struct {
	error
	hint string
}

func (h hinted) Hint() string  { return h.hint }
func (h hinted) Unwrap() error { return h.error }

func notEnrolled() error {
	return hinted{trust.ErrNotEnrolled, "bothy enroll TOKEN, then restart the agent"}
}

// unenrolled stands for trust before enrolment.
type unenrolled struct{}

// Refresh fails: there is nobody to trust yet.
func (unenrolled) Refresh(context.Context) (release.Want, error) {
	return release.Want{}, fmt.Errorf("%w: %w", updater.ErrNobody, notEnrolled())
}

// noBroker stands for the source of a fleet that has no broker.
type noBroker struct{}

// Refresh fails: updates come from a folder.
func (noBroker) Refresh(context.Context) (release.Want, error) {
	return release.Want{}, hinted{fmt.Errorf("%w: this device's fleet has no broker", updater.ErrNobody), "bothy update import DIR"}
}

// preflight says why a want cannot be installed on this box.
func (b *box) preflight(ctx context.Context, want release.Want, need int64) error {
	if err := b.room(want, need+programBytes(want)); err != nil {
		return err
	}
	return b.fits(ctx, want, hostStatus(b.o.Config.State).MemoryTotal)
}

// fits says why the releases of a want cannot run on a box with so many bytes of memory.
func (b *box) fits(ctx context.Context, want release.Want, memory uint64) error {
	if err := b.admits(want, memory); err != nil {
		return err
	}
	for alias, doc := range want.Models {
		if err := b.engines.runnable(alias, want); err != nil {
			return fmt.Errorf("cannot run %s: %w", doc.ID(), err)
		}
		if err := errors.Join(b.meets(doc, memory), b.meetsEngine(ctx, alias, want)); err != nil {
			return fmt.Errorf("cannot run %s: %w", doc.ID(), err)
		}
	}
	return nil
}

// admits says why the engine release of a want cannot run on this box.
func (b *box) admits(want release.Want, memory uint64) error {
	if want.Engine == nil {
		return nil
	}
	if err := errors.Join(b.engines.admits(*want.Engine), b.meets(*want.Engine, memory)); err != nil {
		return fmt.Errorf("cannot run engine release %s: %w", want.Engine.ID(), err)
	}
	return nil
}

// meets says which requirement of a release this box does not meet, those about engines left out.
func (b *box) meets(doc release.Document, memory uint64) error {
	r := doc.Requires
	if uint64(r.MemoryBytes) > memory {
		return fmt.Errorf("it requires %s of memory, this box has %s", humanize.IBytes(uint64(r.MemoryBytes)), humanize.IBytes(memory))
	}
	mine := "v" + strings.TrimPrefix(b.o.Version, "v")
	// A build without a release number is a developer's and newer than any release.
	if r.Agent != "" && semver.IsValid(mine) && semver.Compare(mine, "v"+r.Agent) < 0 {
		return fmt.Errorf("it requires bothy %s, this is %s; upgrade the package first", r.Agent, b.o.Version)
	}
	return nil
}

// baseline notes what does not serve before a change touches anything.
func (b *box) baseline() {
	before := ailing(b.supervisor.Status())
	b.ailing.Store(&before)
}

// healthy says why a want that was just switched to must not stay. A model that was
// down before the change began, and that the change did not replace, is not its fault.
func (b *box) healthy(context.Context) error {
	was := b.ailing.Load()
	for alias, a := range ailing(b.supervisor.Status()) {
		if was != nil && (*was)[alias].release == a.release && (*was)[alias].engine == a.engine {
			continue
		}
		return fmt.Errorf("the engine of %q is %s: %s", alias, a.phase, a.cause)
	}
	return nil
}

// ailment is a model that does not serve.
type ailment struct {
	release string
	engine  string // its engine release; empty: the box's own engine
	phase   runtime.Phase
	cause   string
}

// ailing picks the models that do not serve, by alias.
func ailing(all []runtime.AliasStatus) map[string]ailment {
	out := map[string]ailment{}
	for _, m := range all {
		if m.Phase != runtime.PhaseFailed && m.Phase != runtime.PhaseBackoff {
			continue
		}
		a := ailment{phase: m.Phase, cause: m.Error}
		if m.Spec != nil {
			a.release, a.engine = m.Spec.Release, m.Spec.EngineRelease()
		}
		out[m.Alias] = a
	}
	return out
}
