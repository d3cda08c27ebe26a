package agent

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/updater/release"
)

// versionLimit bounds how long an engine may take to tell its version.
const versionLimit = 10 * time.Second

// meetsEngine says what a model requires of the engine that would serve it and does not get.
func (b *box) meetsEngine(ctx context.Context, alias string, want release.Want) error {
	doc, engine := want.Models[alias], want.EngineOf(alias)
	spec, err := b.engines.spec(alias, doc, engine)
	if err != nil {
		return err
	}
	r := doc.Requires
	if r.Engine != "" && r.Engine != spec.Engine {
		return fmt.Errorf("it requires the engine %q, and %q would serve it", r.Engine, spec.Engine)
	}
	if r.EngineVersion == "" {
		return nil
	}
	have, err := b.engineVersion(ctx, spec.Engine, engine, r.EngineVersion)
	if err != nil {
		return fmt.Errorf("it requires version %s of %s: %w", r.EngineVersion, spec.Engine, err)
	}
	order, err := release.CompareVersions(have, r.EngineVersion)
	if err != nil {
		return fmt.Errorf("it requires version %s of %s: %w", r.EngineVersion, spec.Engine, err)
	}
	if order < 0 {
		return fmt.Errorf("it requires version %s of %s, this is %s", r.EngineVersion, spec.Engine, have)
	}
	return nil
}

// engineVersion is the version of an engine release, or of the engine of that kind that the box has. asked is the
// version to compare with: llama.cpp has two ways to count.
func (b *box) engineVersion(ctx context.Context, kind string, engine *release.Document, asked string) (string, error) {
	switch a := b.engines.kinds[kind].(type) {
	case runtime.LlamaServer:
		if engine != nil {
			return engine.Program.Version, nil
		}
		return llamaVersion(ctx, a.Binary, asked)
	case runtime.Embedded:
		return strings.TrimPrefix(b.o.Version, "v"), nil
	}
	return "", fmt.Errorf("this agent cannot tell the version of an engine of the kind %q", kind)
}

// llamaWords is what llama.cpp's programs print: "version: 6123 (a1b2c3d)", or "version: 0.7.0 (build 11669, ...)".
var llamaWords = regexp.MustCompile(`version: b?([0-9.]+)(?: \(build ([0-9]+))?`)

func llamaVersion(ctx context.Context, binary, asked string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionLimit)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, "--version")
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cannot ask %s for its version: %w", binary, err)
	}
	m := llamaWords.FindStringSubmatch(out.String())
	switch {
	case m == nil:
		return "", fmt.Errorf("cannot ask %s for its version: it answers %.80q", binary, out.String())
	case m[2] != "" && !strings.Contains(asked, "."):
		return m[2], nil // what is asked for is a number of a build
	}
	return m[1], nil
}
