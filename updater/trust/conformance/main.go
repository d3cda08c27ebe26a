// Command tuf-client lets the TUF conformance suite, or any test of that
// command line, judge the code by which a device decides what it may install:
//
//	tuf-client --metadata-dir D init ROOT
//	tuf-client --metadata-dir D --metadata-url U refresh
//	tuf-client --metadata-dir D --metadata-url U --target-name T ... --target-base-url B --target-dir O download
//
// All verification, and all storage, is package trust; here are a command line,
// a Source over HTTP, and files for the suite to look at. The trusted metadata
// is copied to D as root.json, timestamp.json, snapshot.json, targets.json and
// one file for each delegated role that was loaded; what counts is the store in
// D/state. Targets go to O under their escaped path, so that none leaves it.
//
// Exit status 0 means that all that was asked for was done, 1 anything else,
// with the reason on standard error. The program is no part of bothy and is not
// installed: `make conformance` builds it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(execute(ctx, os.Args[1:], os.Stderr))
}

// execute runs one command line and returns the exit status.
func execute(ctx context.Context, args []string, stderr io.Writer) int {
	if err := run(ctx, args, stderr); err != nil {
		fmt.Fprintf(stderr, "tuf-client: error: %v\n", err)
		return 1
	}
	return 0
}

// options are the flags, which come before the command.
type options struct {
	metadataDir string
	metadataURL string
	targetNames names
	targetURL   string
	targetDir   string
}

// names is a flag that may be given again.
type names []string

// String implements flag.Value.
func (n *names) String() string { return strings.Join(*n, " ") }

// Set implements flag.Value.
func (n *names) Set(name string) error { *n = append(*n, name); return nil }

func run(ctx context.Context, args []string, stderr io.Writer) error {
	var o options
	flags := flag.NewFlagSet("tuf-client", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.metadataDir, "metadata-dir", "", "folder of the trusted metadata")
	flags.StringVar(&o.metadataURL, "metadata-url", "", "where the repository's metadata is")
	flags.Var(&o.targetNames, "target-name", "path of a target in the repository; may be given again")
	flags.StringVar(&o.targetURL, "target-base-url", "", "where the repository's targets are")
	flags.StringVar(&o.targetDir, "target-dir", "", "folder that targets go to")
	if err := flags.Parse(args); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	switch command := flags.Arg(0); {
	case command == "init" && flags.NArg() == 2:
		return initialise(ctx, o, flags.Arg(1), log)
	case command == "refresh" && flags.NArg() == 1:
		return refresh(ctx, o, log)
	case command == "download" && flags.NArg() == 1:
		return download(ctx, o, log)
	}
	return fmt.Errorf("cannot understand %q: want init ROOT, refresh or download, after the flags", flags.Args())
}

// clock asks the date command for the time, once: libfaketime, by which tests
// of expiry set the time, reaches C programs only.
func clock(ctx context.Context) (func() time.Time, error) {
	out, err := exec.CommandContext(ctx, "date", "-u", "+%Y-%m-%dT%H:%M:%SZ").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot ask date for the time: %w", err)
	}
	now, err := time.Parse(time.RFC3339, strings.TrimSpace(string(out)))
	if err != nil {
		return nil, fmt.Errorf("cannot read the time that date gave: %w", err)
	}
	return func() time.Time { return now }, nil
}
