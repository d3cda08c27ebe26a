package updater

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"

	"github.com/bothy-edge/bothy/updater/content"
	"github.com/bothy-edge/bothy/updater/release"
)

// preflight looks whether the want fits before anything is fetched.
func (s scene) preflight(ctx context.Context) (uint64, error) {
	var need int64
	for _, f := range filesOf(s.want) {
		need += s.fetcher.Takes(f)
	}
	return 0, s.cfg.Preflight(ctx, s.want, need)
}

func (u *Updater) preflightEnded(err error) error {
	switch {
	case err == nil:
		lost := u.lost(u.change.Want)
		return u.move(Fetching, func(c *Change) { c.Lost = slices.Compact(slices.Sorted(slices.Values(append(lost, c.Lost...)))) })
	case noSpace(err):
		return u.pause(reasonNoSpace, err)
	case errors.Is(err, ErrWait):
		return u.pause(reasonFit, err)
	}
	return u.fail(codePreflight, err)
}

// lost lists the aliases that run and whose files of this want do not all lie here any more.
func (u *Updater) lost(want release.Want) (aliases []string) {
	for alias, doc := range want.Models {
		files := doc.Files
		if engine := want.EngineOf(alias); engine != nil {
			files = slices.Concat(files, engine.Files)
		}
		if _, runs := u.running.Want.Models[alias]; runs && !u.whole(files) {
			aliases = append(aliases, alias)
		}
	}
	return aliases
}

// fetch brings every artifact of the want that is not here yet. What lies here
// and does not serve now is read again in whole, and fetched if the disk changed it.
func (s scene) fetch(ctx context.Context) (uint64, error) {
	s.cfg.Govern(s.want.Transfer)
	files := filesOf(s.want)
	var total, done int64
	for _, f := range files {
		total += f.Size
	}
	serving := map[string]bool{}
	for _, f := range filesOf(s.running.Want) {
		serving[f.SHA256] = true
	}
	finished := map[string]int64{} // by source
	for _, f := range files {
		if _, ok := s.fetcher.Have(f); !ok || !serving[f.SHA256] {
			last, err := s.fetchOne(ctx, f, done, total, finished)
			if err != nil {
				return 0, fmt.Errorf("cannot fetch %s (sha256:%.12s): %w", f.Path, f.SHA256, err)
			}
			finished = last
		}
		done += f.Size
	}
	s.show(done, total, content.Progress{State: content.StateDone, BySource: finished})
	return 0, nil
}

// fetchOne brings one file and answers what each source gave for it and for those before.
func (s scene) fetchOne(ctx context.Context, f release.File, before, total int64, finished map[string]int64) (map[string]int64, error) {
	var mu sync.Mutex // progress may be told from any goroutine
	all := finished
	_, err := s.fetcher.Fetch(ctx, f, func(p content.Progress) {
		sum := maps.Clone(finished)
		for source, n := range p.BySource {
			sum[source] += n
		}
		mu.Lock()
		all = sum
		mu.Unlock()
		p.BySource = sum
		s.show(before, total, p)
	})
	mu.Lock()
	defer mu.Unlock()
	return all, err
}

// showProgress adds one file's progress to what was done before it.
func (u *Updater) showProgress(before, total int64, p content.Progress) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p.Done, p.Total = before+p.Done, total
	u.progress = p
}

func (u *Updater) fetchEnded(err error) error {
	switch {
	case err == nil:
		return u.move(Verified, u.keepProgress)
	case errors.Is(err, content.ErrMismatch):
		return u.fail(codeMismatch, err)
	case noSpace(err):
		return u.pause(reasonNoSpace, err)
	case errors.Is(err, content.ErrCorrupt):
		// The source may be mended; the want is as good as before.
		return u.pause(reasonSource, err)
	}
	if from := u.change.From; from != "" && !u.imported {
		// The agent was restarted since the import, and knows the folder's name only.
		return u.pause(reasonSource, fmt.Errorf("its files were to come from %s; bring them and type: bothy update import %s (%w)", from, from, err))
	}
	return u.pause(reasonNetwork, err)
}

func noSpace(err error) bool {
	return errors.Is(err, content.ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (u *Updater) keepProgress(c *Change) {
	u.mu.Lock()
	defer u.mu.Unlock()
	c.Progress = u.progress
}

// stage parses the policy of the want and runs its probes, and has the signatures
// verified that the policies ask for: nothing of a want switches whose policy
// would not hold.
func (s scene) stage(context.Context) (uint64, error) {
	p, err := s.policy(s.want.Policy)
	if err != nil {
		return 0, err
	}
	if doc := s.want.Policy; doc != nil {
		if err := s.cfg.Policies.Stage(p.Document); err != nil {
			return 0, fmt.Errorf("policy %s refused: %w", doc.ID(), err)
		}
	}
	if err := s.cfg.Provenance(p.Document, s.want, s.fetcher.Have); err != nil {
		return 0, unproven{err}
	}
	return 0, nil
}

// unproven is an error of Config.Provenance.
type unproven struct{ error }

func (e unproven) Unwrap() error { return e.error }

func (u *Updater) stageEnded(err error) error {
	if err == nil {
		return u.move(Staged, nil)
	}
	if noSpace(err) {
		return u.pause(reasonNoSpace, err)
	}
	code := codePolicy
	if _, ok := errors.AsType[unproven](err); ok {
		code = codeProvenance
	}
	return u.move(Refused, because(code, err))
}

// pause waits for a passing obstacle; the loop tries again with growing delays.
func (u *Updater) pause(reason string, err error) error {
	return u.move(Paused, func(c *Change) {
		c.Reason = reason
		if err != nil {
			c.Error = err.Error()
		}
		u.keepProgress(c)
	})
}

func (u *Updater) fail(code string, err error) error {
	return u.move(Failed, because(code, err))
}

func because(code string, err error) func(*Change) {
	return func(c *Change) { c.Code, c.Error = code, err.Error() }
}

// filesOf lists the artifacts of a want, each once: two aliases may share a model.
func filesOf(want release.Want) []release.File {
	var files []release.File
	seen := map[string]bool{}
	for _, d := range want.Documents() {
		for _, f := range d.Files {
			if !seen[f.SHA256] {
				files = append(files, f)
			}
			seen[f.SHA256] = true
		}
	}
	return files
}
