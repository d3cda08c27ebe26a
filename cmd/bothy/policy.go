package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/agent/policy"
)

func policyCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "policy", Short: "Show, check and explain what decides where requests may run",
		Example: "  bothy policy check policy.yaml",
	}
	cmd.AddCommand(policyShow(o), policyCheck(), policyProbe(), policyExplain(o), policyProve(o), policyDiff())
	return cmd
}

func policyShow(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show", Short: "Show the policy in force", Args: exactly(), Example: "  bothy policy show --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var p agent.PolicyShown
			if err := o.adminCall(cmd.Context(), "GET", "/v1/policy", nil, &p); err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), p)
			}
			out := screen{tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)}
			printPolicy(out, p.PolicyStatus)
			if err := out.tw.Flush(); err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), p.Document)
		},
	}
	jsonFlag(cmd, o)
	return cmd
}

// checked is the JSON of `policy check`.
type checked struct {
	File  string `json:"file"`
	Valid bool   `json:"valid"`
	Name  string `json:"name,omitempty"`
	Error string `json:"error,omitempty"`
	// Problems are what a text that is no policy has wrong; empty when it is one whose probes fail.
	Problems []policy.Problem `json:"problems,omitempty"`
}

func policyCheck() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "check FILE", Short: "Check a policy file and run its probes; needs no agent",
		Long: "Check a policy file: fields, rules that can never match, names that do not exist, and\nits probes. Needs no agent. docs/policy.md describes the format.",
		Args: exactly("FILE"), Example: "  bothy policy check policy.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := readPolicy(args[0])
			if asJSON {
				c := checked{File: args[0], Valid: err == nil}
				if err != nil {
					c.Error = err.Error()
					if refused := (*policy.Error)(nil); errors.As(err, &refused) {
						c.Problems = refused.Problems
					}
				} else {
					c.Name = p.Name()
				}
				if e := printJSON(cmd.OutOrStdout(), c); e != nil || err == nil {
					return e
				}
				return exitError(1)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "policy %q is valid and its probes pass\n", p.Name())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func readPolicy(path string) (*policy.Policy, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the policy: %w", err)
	}
	p, err := policy.Parse(raw)
	if err == nil {
		err = p.Probe()
	}
	var refused *policy.Error
	switch {
	case errors.As(err, &refused):
		return nil, refusedPolicy{path, refused}
	case err != nil:
		return nil, fmt.Errorf("policy %s refused: %w", path, err)
	}
	return p, nil
}

// refusedPolicy writes problems as compilers do, a line each: editors can jump there.
type refusedPolicy struct {
	path  string
	cause *policy.Error
}

func (e refusedPolicy) Unwrap() error { return e.cause }

func (e refusedPolicy) Error() string {
	lines := make([]string, len(e.cause.Problems))
	for i, p := range e.cause.Problems {
		lines[i] = fmt.Sprintf("%s:%s", e.path, p)
	}
	return "policy refused: " + strings.Join(lines, "\n  ")
}

// checkPolicyFiles keeps a fleet from publishing a policy that every device would refuse.
func checkPolicyFiles(paths []string) error {
	if len(paths) != 1 {
		return usageError{errors.New("a policy release is one file")}
	}
	_, err := readPolicy(paths[0])
	return err
}

// explainFlags is a question to a policy as the command line puts it.
type explainFlags struct {
	ask                 agent.ExplainRequest
	caller              policy.Caller
	file, request, from string
}

func policyExplain(o *options) *cobra.Command {
	var e explainFlags
	cmd := &cobra.Command{
		Use: "explain [TEXT]", Short: "Say which rule would decide a request, and why, without running it",
		Long: "Say which rule of the policy in force, or of a file, would decide a request, without\n" +
			"running it. The caller is a running process (--pid), or described by --unit, --exe, --uid\n" +
			"and --gid, or this command itself; --request takes all as JSON, as policy prove prints it.",
		Example: `  bothy policy explain --unit web.service --model assistant "card 4111 1111 1111 1111"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := e.question(cmd, args)
			if err != nil {
				return err
			}
			a, err := o.explain(cmd.Context(), e.from, q)
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), a)
			}
			return printExplain(cmd.OutOrStdout(), a)
		},
	}
	f := cmd.Flags()
	f.Int32Var(&e.ask.PID, "pid", 0, "the caller is this running process")
	f.StringVar(&e.caller.Unit, "unit", "", "the caller's systemd unit")
	f.StringVar(&e.caller.Exe, "exe", "", "the caller's executable")
	f.Uint32Var(&e.caller.UID, "uid", 0, "the caller's user id")
	f.Uint32Var(&e.caller.GID, "gid", 0, "the caller's group id")
	f.StringVarP(&e.ask.Ask.Model, "model", "m", "", "model alias that is asked for")
	f.StringVar(&e.ask.Ask.API, "api", "chat", "chat, completions or embeddings")
	f.StringVarP(&e.file, "file", "f", "", "read the text from a file, - for standard input")
	f.StringArrayVar(&e.ask.Ask.Labels, "class", nil, "class that the request claims for itself")
	f.StringVar(&e.from, "policy", "", "explain with this policy file instead; needs no agent")
	f.StringVar(&e.request, "request", "", "read the request as JSON from a file, - for standard input")
	f.BoolVar(&e.ask.Ask.OnlyLocal, "local", false, "the request asks to stay")
	f.IntVar(&e.ask.Ask.Bytes, "bytes", 0, "size of the request")
	jsonFlag(cmd, o)
	return cmd
}

// question puts flags and arguments together.
func (e *explainFlags) question(cmd *cobra.Command, args []string) (agent.ExplainRequest, error) {
	if e.request != "" {
		return readRequest(e.request, cmd.InOrStdin())
	}
	q := e.ask
	q.Text = strings.Join(args, " ")
	if e.file != "" {
		text, err := readText(e.file, cmd.InOrStdin())
		if err != nil {
			return q, err
		}
		q.Text = text
	}
	described := slices.ContainsFunc([]string{"unit", "exe", "uid", "gid"}, cmd.Flags().Changed)
	switch {
	case described && q.PID != 0:
		return q, usageError{errors.New("describe the caller with either --pid or --unit, --exe, --uid and --gid")}
	case described:
		q.Caller = &e.caller
	case q.PID == 0:
		q.PID = int32(os.Getpid()) // as `bothy chat` would be seen
	}
	q.Ask.Bytes = max(q.Ask.Bytes, len(q.Text))
	return q, nil
}

func readText(path string, stdin io.Reader) (string, error) {
	if path == "-" {
		b, err := io.ReadAll(stdin)
		return string(b), err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the text: %w", err)
	}
	return string(b), nil
}

func printExplain(w io.Writer, a agent.ExplainAnswer) error {
	out := screen{tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)}
	name := a.Policy
	if a.Release != "" {
		name += " (" + a.Release + ")"
	}
	out.line("policy", "%s", name)
	if a.Narrowed != "" {
		out.line("narrowed by", "%s", a.Narrowed)
	}
	out.line("caller", "uid %d, unit %q, exe %q, container %q", a.Caller.UID, a.Caller.Unit, a.Caller.Exe, a.Caller.Container)
	if a.Caller.Unattested && a.Identity != nil {
		out.line("", "not attested: %s", a.Identity.Why)
	}
	if a.Verdict.Deny != "" {
		out.line("denied", "%s", a.Verdict.Deny)
	} else {
		out.line("places", "%s, priority %s", strings.Trim(fmt.Sprint(a.Verdict.Places), "[]"), a.Verdict.Priority)
	}
	if err := out.tw.Flush(); err != nil {
		return err
	}
	for _, e := range a.Policies {
		if _, err := fmt.Fprintf(w, "\n%s", e.Text()); err != nil {
			return err
		}
	}
	return nil
}
