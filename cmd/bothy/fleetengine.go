package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/release"
)

func fleetAddEngine() *cobra.Command {
	o := fleet.AddOptions{Kind: release.Engine, Program: &release.Program{}}
	var asJSON bool
	cmd := &cobra.Command{
		Use: "add-engine DIR FOLDER", Short: "Take in an engine with its libraries as the next version of a release",
		Long: "Take in a folder with an engine and its libraries as the next version of a release. A\ndevice that it is assigned to runs it from then on, for all models of its kind, instead\n" +
			"of the one that is installed there, and goes back by itself when one of them fails. It\nis code that runs on devices: what goes in is decided by who signs it.",
		Example: "  bothy fleet add-engine /srv/fleet llama --name llama --entry run --engine-version 6123",
		Args:    exactly("DIR", "FOLDER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Files = args[1:]
			if err := settlePlatform(args[1], o.Program); err != nil {
				return err
			}
			return fleetAddRun(cmd, args[0], o, asJSON)
		},
	}
	f, p := cmd.Flags(), o.Program
	f.StringVar(&o.Name, "name", "", "name of the engine release (required)")
	f.StringVar(&p.Entry, "entry", "", "`PATH` in FOLDER of the program (required)")
	f.StringVar(&p.Version, "engine-version", "", "as it calls itself: b6123, 0.7.0 (required)")
	f.StringVar(&o.Engine.Kind, "kind", kindLlama, "kind of the engine")
	f.StringArrayVar(&p.Libraries, "library", nil, "`PATH` in FOLDER of shared libraries; may be given again")
	f.StringVar(&p.Loader, "loader", "", "`PATH` in FOLDER of a dynamic loader that runs it")
	f.StringVar(&p.Platform, "platform", "", "`GOOS/GOARCH` that it runs on (default: the program's)")
	f.StringVar(&o.Requires.Agent, "agent", "", "lowest version of bothy that may run it")
	f.Uint64Var(&o.Version, "release-version", 0, "version (default: the next)")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	required(cmd, "name", "entry", "engine-version")
	return cmd
}

// settlePlatform fills in the platform of the entry, or refuses one that the entry is not for.
func settlePlatform(folder string, p *release.Program) error {
	path := filepath.Join(folder, filepath.FromSlash(p.Entry))
	f, err := elf.Open(path)
	var format *elf.FormatError
	if errors.As(err, &format) || errors.Is(err, io.EOF) {
		// A script, or another system's program: whoever adds it knows.
		if p.Platform == "" {
			p.Platform = runtime.GOOS + "/" + runtime.GOARCH
		}
		return nil
	}
	if err != nil {
		return withHint{fmt.Errorf("cannot read the entry: %w", err), "--entry is a path in FOLDER, for example bin/llama-server"}
	}
	defer f.Close()
	machine := map[elf.Machine]string{elf.EM_X86_64: "linux/amd64", elf.EM_AARCH64: "linux/arm64", elf.EM_RISCV: "linux/riscv64"}[f.Machine]
	switch {
	case p.Platform == "" && machine == "":
		return usageError{fmt.Errorf("cannot tell what %s (%s) runs on: give --platform", path, f.Machine)}
	case p.Platform == "":
		p.Platform = machine
	case machine != "" && p.Platform != machine:
		return usageError{fmt.Errorf("%s is for %s, not for %s", path, machine, p.Platform)}
	}
	return nil
}
