package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/agent/store"
)

// self is this very binary, also after a package upgrade has replaced the file that it came from.
const self = "/proc/self/exe"

func runCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "run", Short: "Run the agent",
		Long: "Run the agent: serve applications and operators on two unix sockets, keep the engines\nrunning, and follow what the fleet wants. It ends on SIGTERM or Ctrl-C after the\nanswers that run have finished.",
		Args: exactly(), Example: "  bothy run --config /etc/bothy/bothy.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.loadConfig()
			if err != nil {
				return err
			}
			log, err := newLog(c.Log)
			if err != nil {
				return err
			}
			v := buildInfo()
			built, _ := time.Parse(time.RFC3339, v.Date) // a build without a date has no floor for its clock
			return folderHint(agent.Run(cmd.Context(), agent.Options{Config: c, Version: v.Version, Built: built, Self: self, Log: log}))
		},
	}
}

// folderHint says what to do about a folder that this user may not write to.
func folderHint(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return withHint{err, "run as root, or name folders of your own as state and runtime in a file for --config"}
	}
	return err
}

func newLog(c agent.LogConfig) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return nil, fmt.Errorf("cannot use log.level %q: want debug, info, warn or error", c.Level)
	}
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts)), nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts)), nil
}

// storeCheckCommand is the child that examines a store after an unclean stop: a damaged file may crash it.
func storeCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use: "store-check PATH", Short: "Check the file of a store", Hidden: true, Args: exactly("PATH"),
		RunE: func(_ *cobra.Command, args []string) error { return store.Check(args[0]) },
	}
}

// withTimeout bounds a command by its --timeout flag; 0 is no bound.
func withTimeout(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}
