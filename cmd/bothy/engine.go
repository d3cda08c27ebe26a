package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/runtime/embedded/serve"
)

func engineCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "engine", Short: "The built-in CPU engine by itself",
		Long:    "The built-in engine: GGUF models of the llama architecture on the CPU. The agent\nstarts it by itself; these commands are for trying and measuring it.",
		Example: "  bothy engine bench -m model.gguf",
	}
	cmd.AddCommand(engineServe(), engineBench())
	return cmd
}

func engineServe() *cobra.Command {
	var c serve.Config
	var listen string
	var tether bool
	cmd := &cobra.Command{
		Use: "serve", Short: "Serve one model with an OpenAI-compatible API on a unix socket",
		Args: exactly(), Example: "  bothy engine serve --listen unix:/tmp/m.sock --model model.gguf --slots 4",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			return serveEngine(cmd.Context(), c, listen, tether, cmd.InOrStdin())
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "", "unix:PATH, or HOST:PORT on loopback (required)")
	f.StringVar(&c.Model, "model", "", "GGUF file (required)")
	f.StringVar(&c.Alias, "alias", "", "name of the model in answers")
	f.IntVar(&c.Context, "context", 0, "tokens that one request may use (default: the model's)")
	f.IntVar(&c.Slots, "slots", 0, "requests computed at once (default 4)")
	f.IntVar(&c.Threads, "threads", 0, "threads (default: one for each processor)")
	f.BoolVar(&tether, "tether", false, "end when standard input is closed")
	required(cmd, "listen", "model")
	return cmd
}

func serveEngine(ctx context.Context, c serve.Config, listen string, tether bool, stdin io.Reader) error {
	l, err := listenEngine(listen)
	if err != nil {
		return err
	}
	s, err := serve.New(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if tether {
		go func() {
			// The agent holds the other end; whatever ends the agent ends us.
			_, _ = io.Copy(io.Discard, stdin)
			cancel()
		}()
	}
	return s.Serve(ctx, l)
}

func listenEngine(listen string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		l, err := net.Listen("unix", path)
		if err != nil {
			return nil, fmt.Errorf("cannot listen: %w", err)
		}
		return l, nil
	}
	host, _, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("cannot listen on %q: want unix:PATH, or a loopback address and a port", listen)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	return l, nil
}
