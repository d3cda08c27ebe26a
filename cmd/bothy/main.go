// Command bothy makes an on-prem GPU box an appliance: it runs open-weight
// models, serves local applications over a unix socket, applies signed updates
// and sends to the cloud only what policy allows.
//
// This package parses the command line and prints; everything else is below it.
// Answers go to standard output, talk to standard error; a failure prints
// `bothy: error:` and, where something can be typed, `bothy: hint:`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(execute(ctx, os.Args[1:]))
}

// execute runs one command line and returns the exit status: 0, 1 for a failure, 2 for wrong usage.
func execute(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var exit exitError
	if errors.As(err, &exit) {
		return int(exit)
	}
	text, hint := inWords(err, cmd)
	fmt.Fprintf(os.Stderr, "bothy: error: %s\n", text)
	if hint != "" {
		fmt.Fprintf(os.Stderr, "bothy: hint: %s\n", hint)
	}
	if errors.As(err, new(usageError)) {
		return 2
	}
	return 1
}

// inWords splits an error into what is wrong and what to type. Packages below
// write the latter as "; run: ..." at the end.
func inWords(err error, cmd *cobra.Command) (text, hint string) {
	text = strings.TrimRight(err.Error(), "\n")
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return text, hinted.Hint()
	}
	if before, after, ok := strings.Cut(text, "; run: "); ok && !strings.Contains(after, "\n") {
		return before, after
	}
	if errors.As(err, new(usageError)) {
		return text, cmd.CommandPath() + " --help"
	}
	return text, ""
}

// exitError ends the program with a status when everything was said already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// withHint adds to an error what to type.
type withHint struct {
	error
	hint string
}

func (e withHint) Hint() string  { return e.hint }
func (e withHint) Unwrap() error { return e.error }

// options are the flags that every command has.
type options struct {
	config string // configuration file
	admin  string // admin socket, over the configuration's
	json   bool
}

func newRoot() *cobra.Command {
	var o options
	root := &cobra.Command{
		Use:           "bothy",
		Short:         "Run open-weight models on this box; let policy decide what may leave it",
		Long:          "bothy runs open-weight models on this box, serves local applications over a unix\nsocket, applies signed updates, and sends to the cloud only what policy allows.",
		Example:       "  bothy status",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().StringVar(&o.config, "config", "", "configuration file (default /etc/bothy/bothy.yaml)")
	root.PersistentFlags().StringVar(&o.admin, "admin-socket", os.Getenv("BOTHY_ADMIN_SOCKET"), "admin socket of the agent (default: the configuration's)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		runCommand(&o), statusCommand(&o), chatCommand(&o), modelCommand(&o), policyCommand(&o), auditCommand(&o), artifactCommand(&o), changeCommand(&o),
		updateCommand(&o), engineCommand(), fleetCommand(), enrollCommand(&o), doctorCommand(&o), versionCommand(),
		storeCheckCommand(),
	)
	helpOnOneScreen(root)
	refuseUnknown(root)
	return root
}

// refuseUnknown makes a command that only has subcommands refuse a word that is
// none of them; alone it prints its help.
func refuseUnknown(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		refuseUnknown(sub)
	}
	if !cmd.HasSubCommands() || cmd.Runnable() {
		return
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		err := usageError{fmt.Errorf("there is no command %q", cmd.CommandPath()+" "+args[0])}
		cmd.SuggestionsMinimumDistance = 2 // letters
		like := cmd.SuggestionsFor(args[0])
		if len(like) == 0 {
			return err
		}
		best := max(slices.IndexFunc(like, func(name string) bool { return strings.HasPrefix(name, args[0]) }), 0)
		return withHint{err, cmd.CommandPath() + " " + like[best] + " --help"}
	}
}

// helpOnOneScreen gives every command the same short help, ending with a line that can be pasted.
func helpOnOneScreen(root *cobra.Command) {
	root.SetUsageTemplate(`Usage:
  {{if .HasAvailableSubCommands}}{{.CommandPath}} COMMAND{{else}}{{.UseLine}}{{end}}
{{if .HasAvailableSubCommands}}
Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{end}}{{if .HasAvailableLocalFlags}}
Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}{{if .HasAvailableInheritedFlags}}
Everywhere: --config FILE, --admin-socket PATH
{{end}}{{if .HasExample}}
Try:
{{.Example}}
{{end}}`)
	root.SetHelpTemplate(`{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{.UsageString}}`)
}

// jsonFlag adds --json to a reading command.
func jsonFlag(cmd *cobra.Command, o *options) {
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
}

// exactly is cobra.ExactArgs with an error that names what is missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usageError{fmt.Errorf("%s is missing", names[len(args)])}
		}
		if len(args) > len(names) {
			return usageError{fmt.Errorf("unexpected argument %q", args[len(names)])}
		}
		return nil
	}
}
