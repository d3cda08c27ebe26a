package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/trust"
)

// Below the metadata folder: what the client goes by. Its names do not end in
// .json at the top, where a suite counts the trusted roles.
const (
	stateDir = "state"
	rootFile = "root"
)

// folder is a metadata folder in use.
type folder struct {
	dir    string
	db     *store.DB
	client *trust.Single
}

// initialise makes a metadata folder from the root that is trusted out of band.
func initialise(ctx context.Context, o options, rootPath string, log *slog.Logger) error {
	if o.metadataDir == "" {
		return errors.New("cannot init: --metadata-dir is missing")
	}
	root, err := os.ReadFile(rootPath)
	if err != nil {
		return fmt.Errorf("cannot read the trusted root: %w", err)
	}
	state := filepath.Join(o.metadataDir, stateDir)
	if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot init: there is %s already (%v)", state, err)
	}
	if err := os.MkdirAll(state, 0o755); err != nil {
		return fmt.Errorf("cannot init: %w", err)
	}
	if err := store.WriteFile(filepath.Join(state, rootFile), root, 0o644); err != nil {
		return fmt.Errorf("cannot init: %w", err)
	}
	f, err := openFolder(ctx, o.metadataDir, log)
	if err != nil {
		return err
	}
	return f.close()
}

// openFolder opens what initialise made.
func openFolder(ctx context.Context, dir string, log *slog.Logger) (*folder, error) {
	state := filepath.Join(dir, stateDir)
	root, err := os.ReadFile(filepath.Join(state, rootFile))
	if err != nil {
		return nil, fmt.Errorf("cannot read the trusted root, run init first: %w", err)
	}
	now, err := clock(ctx)
	if err != nil {
		return nil, err
	}
	slots, err := store.OpenSlots(state, "trust")
	if err != nil {
		return nil, err
	}
	db, _, err := store.Open(ctx, store.Options{Path: filepath.Join(state, "trust.db"), Log: log})
	if err != nil {
		return nil, err
	}
	client, err := trust.OpenSingle(trust.SingleConfig{DB: db, Slots: slots, Root: root, Now: now, Log: log})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &folder{dir: dir, db: db, client: client}, nil
}

// close copies what is trusted to where a suite looks for it.
func (f *folder) close() error {
	return errors.Join(f.mirror(), f.db.Close())
}

func (f *folder) mirror() error {
	trusted, err := f.client.Trusted()
	if err != nil {
		return err
	}
	for role, raw := range trusted {
		if err := store.WriteFile(filepath.Join(f.dir, fileName(role)+".json"), raw, 0o644); err != nil {
			return fmt.Errorf("cannot copy the trusted metadata: %w", err)
		}
	}
	return nil
}

// fileName makes one part of a path of any text, a different one for each.
func fileName(text string) string {
	escaped := url.PathEscape(text)
	if strings.HasPrefix(escaped, ".") {
		return "%2E" + escaped[1:]
	}
	return escaped
}

// refresh brings the metadata up to date.
func refresh(ctx context.Context, o options, log *slog.Logger) (err error) {
	f, err := openFolder(ctx, o.metadataDir, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	return f.client.Refresh(ctx, web{metadata: o.metadataURL})
}

// download brings the metadata up to date and then fetches targets, in the
// order asked for and up to the first that fails.
func download(ctx context.Context, o options, log *slog.Logger) (err error) {
	if len(o.targetNames) == 0 || o.targetURL == "" || o.targetDir == "" {
		return errors.New("cannot download: want --target-name, --target-base-url and --target-dir")
	}
	f, err := openFolder(ctx, o.metadataDir, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	if err := f.client.Refresh(ctx, web{metadata: o.metadataURL, targets: o.targetURL}); err != nil {
		return err
	}
	for _, name := range o.targetNames {
		if err := f.download(ctx, name, o.targetDir); err != nil {
			return err
		}
	}
	return nil
}

// download fetches one target, unless the file that is there is the target.
func (f *folder) download(ctx context.Context, name, dir string) error {
	target, err := f.client.Target(ctx, name)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, fileName(name))
	if have, err := os.ReadFile(path); err == nil && target.Matches(have) {
		return nil
	}
	raw, err := f.client.Fetch(ctx, target)
	if err != nil {
		return err
	}
	if err := store.WriteFile(path, raw, 0o644); err != nil {
		return fmt.Errorf("cannot store target %q: %w", name, err)
	}
	return nil
}
