package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/runtime/embedded/gguf"
	"github.com/bothy-edge/bothy/runtime/embedded/kernel"
	"github.com/bothy-edge/bothy/runtime/embedded/model"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/release"
)

// The engines that a release may name.
const (
	kindLlama    = "llama-server"
	kindEmbedded = "embedded"
	kindCommand  = "command"
)

// checkModelFiles keeps a fleet from publishing a model that no engine can open:
// every device would fetch gigabytes, fail and undo. What only the embedded engine
// cannot run is refused where that engine is asked for, and said on talk otherwise.
func checkModelFiles(sources []fleet.Source, spec release.EngineSpec, talk io.Writer) error {
	engine := spec.Kind
	if err := checkCommand(sources, spec); err != nil {
		return err
	}
	for i, s := range sources {
		path := s.From
		if engine == kindCommand && !isGGUF(path) {
			continue // the format is between the release and the device's own server
		}
		err := checkModelFile(path, i == 0)
		switch {
		case err == nil:
		case errors.Is(err, gguf.ErrFormat) && !errors.Is(err, model.ErrUnsupported):
			return withHint{err, "copy the file again and compare its SHA-256 with the publisher's"}
		case !errors.Is(err, model.ErrUnsupported):
			return err
		case engine == kindEmbedded:
			return withHint{fmt.Errorf("cannot serve %s with --engine embedded: %w", path, err), "bothy fleet add ... --engine llama-server"}
		case engine == "":
			fmt.Fprintf(talk, "bothy: warning: %s needs the engine llama-server on its devices: %v\n", path, err)
			fmt.Fprintln(talk, "bothy: hint: --engine llama-server makes a device without it refuse the release at once")
		}
	}
	return nil
}

// checkCommand asks the engine's adapter what a device would: whether it takes so many files and these flags.
// A release that names no engine may set what llama-server takes.
func checkCommand(sources []fleet.Source, spec release.EngineSpec) error {
	llama := runtime.LlamaServer{Binary: "/llama-server"}
	adapters := map[string]runtime.Adapter{
		"": llama, kindLlama: llama, kindEmbedded: runtime.Embedded{},
		kindCommand: runtime.Template{Path: "/server", Args: []string{"{socket}"}},
	}
	adapter, ok := adapters[spec.Kind]
	if !ok {
		return usageError{fmt.Errorf("cannot use --engine %q: want llama-server, embedded or command", spec.Kind)}
	}
	model := runtime.Spec{Alias: "model", Flags: spec.Flags}
	for _, s := range sources {
		switch path := "/" + s.Path; s.Role {
		case release.Projector:
			model.Projector = path
		case release.Adapter:
			model.Adapters = append(model.Adapters, path)
		default:
			model.Files = append(model.Files, path)
		}
	}
	_, err := adapter.Command(model, "/engine.sock")
	if err != nil && len(model.Files) > 1 {
		return withHint{fmt.Errorf("cannot add the release: %w", err), mergeHint}
	}
	if err != nil {
		return fmt.Errorf("cannot add the release: %w", err)
	}
	return nil
}

// splitFirst is the name of the first file of a split model.
var splitFirst = regexp.MustCompile(`-00001-of-[0-9]{5}\.gguf$`)

const splitHint = "name the first one, NAME-00001-of-0000N.gguf, with the others beside it"

const mergeHint = "llama-gguf-split --merge FIRST.gguf ONE.gguf makes one file of a model in several"

// isGGUF says that the file begins as GGUF files do; what cannot be read is reported by whoever opens it.
func isGGUF(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, 4)
	_, err = io.ReadFull(f, magic)
	return err == nil && bytes.Equal(magic, []byte("GGUF"))
}

// checkModelFile opens one file of a model. The error wraps
// model.ErrUnsupported when the file is sound and the embedded engine cannot run it.
func checkModelFile(path string, first bool) error {
	f, err := gguf.Open(path)
	if errors.Is(err, gguf.ErrType) {
		return fmt.Errorf("%w: %w", model.ErrUnsupported, err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if !first {
		return nil // the description of the whole is in the first
	}
	if all, ok := f.Meta.Uint("split.count"); ok && all > 1 {
		if !splitFirst.MatchString(path) {
			return withHint{fmt.Errorf("cannot use %s: it is one of the %d files of a model, which find each other by their names", path, all), splitHint}
		}
		return fmt.Errorf("a model in %d files: %w", all, model.ErrUnsupported)
	}
	if _, err := model.Inspect(f); errors.Is(err, gguf.ErrFormat) {
		return fmt.Errorf("cannot publish %s: %w", path, err)
	} else if err != nil {
		return err
	}
	for i := range f.Tensors {
		if _, ok := kernel.FormOf(f.Tensors[i].Type); !ok {
			return fmt.Errorf("tensor %q of type %v: %w", f.Tensors[i].Name, f.Tensors[i].Type, model.ErrUnsupported)
		}
	}
	return nil
}
