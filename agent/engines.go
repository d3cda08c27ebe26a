package agent

import (
	"context"
	"errors"
	"os/exec"
	"reflect"
	"sync"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/accept"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/view"
)

// The kinds of engine, as releases name them.
const (
	engineLlama    = "llama-server"
	engineEmbedded = "embedded"
	engineCommand  = "command"
)

// adapters are the engines that this box can run, and the kind for releases that name none.
func adapters(c EngineConfig, self string) (all map[string]runtime.Adapter, usual string) {
	all = map[string]runtime.Adapter{engineEmbedded: runtime.Embedded{Exe: self}}
	usual = engineEmbedded
	llama := c.LlamaServer
	if llama == "" {
		llama, _ = exec.LookPath(engineLlama) // not installed is normal: the embedded engine serves
	}
	all[engineLlama] = runtime.LlamaServer{Binary: llama} // without a binary it still runs those of engine releases
	if llama != "" {
		usual = engineLlama
	}
	if c.Command.Path != "" {
		all[engineCommand] = runtime.Template{Path: c.Command.Path, Args: c.Command.Args, Health: c.Command.Health}
	}
	return all, usual
}

// engines lets the updater act on the runtime.
type engines struct {
	supervisor *runtime.Supervisor
	kinds      map[string]runtime.Adapter
	usual      string // kind of a release that names none
	threads    int
	views      *view.Store
	// damaged is told of an artifact that is not what its release names, by its digest.
	damaged func(sha256 string)
}

// has says that this box itself has an engine of the kind.
func (e *engines) has(kind string) bool {
	a := e.kinds[kind]
	llama, ok := a.(runtime.LlamaServer)
	return a != nil && (!ok || llama.Binary != "")
}

// Prepare starts a candidate beside what runs and returns once it answers.
func (e *engines) Prepare(ctx context.Context, alias string, by updater.Served) (uint64, error) {
	spec, err := e.placed(alias, by)
	if err != nil {
		return 0, err
	}
	return e.supervisor.Prepare(ctx, spec)
}

// Probe asks a candidate the release's questions.
func (e *engines) Probe(ctx context.Context, generation uint64, checks []release.Check) error {
	lease, err := e.supervisor.Inspect(generation)
	if err != nil {
		return err
	}
	defer lease.Done()
	return accept.Run(ctx, lease.Client, lease.Alias, checks)
}

// Switch makes a candidate current; the old generation finishes what it has.
func (e *engines) Switch(ctx context.Context, alias string, generation uint64) error {
	return e.supervisor.Switch(ctx, alias, generation)
}

// Discard ends a candidate. One that never was, or has ended, is nothing.
func (e *engines) Discard(ctx context.Context, generation uint64) error {
	return e.supervisor.Discard(ctx, generation)
}

// Restore makes the alias served by this, whatever serves it now; nil runs nothing.
func (e *engines) Restore(ctx context.Context, alias string, by *updater.Served) error {
	if by == nil {
		return e.supervisor.Stop(ctx, alias)
	}
	spec, err := e.placed(alias, *by)
	if err != nil {
		return err
	}
	if e.supervisor.State(alias).Phase == runtime.PhaseAbsent {
		return e.supervisor.Start(ctx, spec)
	}
	if e.runs(spec) {
		return nil
	}
	// Right after a switch the predecessor still has requests: it is the way back that costs nothing.
	if back, err := e.supervisor.Recall(ctx, spec); back || err != nil {
		return err
	}
	generation, err := e.supervisor.Prepare(ctx, spec)
	if err != nil {
		return err
	}
	if err := e.supervisor.Switch(ctx, alias, generation); err != nil {
		// A candidate that stayed would refuse the next attempt.
		return errors.Join(err, e.supervisor.Discard(context.WithoutCancel(ctx), generation))
	}
	return nil
}

// runs tells whether an alias has the spec already, in whatever state.
func (e *engines) runs(spec runtime.Spec) bool {
	for _, a := range e.supervisor.Status() {
		if a.Alias == spec.Alias {
			return a.Spec != nil && reflect.DeepEqual(*a.Spec, spec)
		}
	}
	return false
}

// generations hands out numbers that are never handed out twice: the highest
// one reserved is in the store, a block ahead.
type generations struct {
	db       *store.DB
	mu       sync.Mutex
	next     uint64
	reserved uint64
}

const generationBlock = 64

func generationTable() store.Table[uint64] { return store.Table[uint64]{Name: "generations"} }

func newGenerations(db *store.DB) (*generations, error) {
	g := &generations{db: db}
	err := db.View(func(tx *store.Tx) error {
		n, _, err := generationTable().Get(tx, "reserved")
		g.next, g.reserved = n, n
		return err
	})
	return g, err
}

// take returns the next number. When the store cannot be written it goes on in
// memory: a number that repeats after a restart confuses logs, nothing else.
func (g *generations) take() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next++
	if g.next > g.reserved {
		reserved := g.next + generationBlock
		err := g.db.Update(func(tx *store.Tx) error { return generationTable().Put(tx, "reserved", reserved) })
		if err == nil {
			g.reserved = reserved
		}
	}
	return g.next
}
