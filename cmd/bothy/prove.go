package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/agent/policy/prove"
)

// Exit statuses of the commands that answer a question, as diff(1) has them: 0 the
// hoped-for answer, 1 the other one, 2 no answer at all.
const (
	otherAnswer = exitError(1)
	noAnswer    = exitError(2)
)

// unanswered reports why there is no answer, with a status that is neither answer.
func unanswered(cmd *cobra.Command, err error) error {
	if errors.As(err, new(usageError)) {
		return err
	}
	text, hint := inWords(err, cmd)
	fmt.Fprintf(cmd.ErrOrStderr(), "bothy: error: %s\n", text)
	if hint != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "bothy: hint: %s\n", hint)
	}
	return noAnswer
}

// parsePolicy reads a policy file; unlike readPolicy it does not ask for its probes to pass.
func parsePolicy(path string) (*policy.Policy, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the policy: %w", err)
	}
	p, err := policy.Parse(raw)
	if err != nil {
		return nil, withHint{fmt.Errorf("policy %s refused: %w", path, err), "bothy policy check " + path}
	}
	return p, nil
}

// proof is the JSON of `policy prove`.
type proof struct {
	File  string   `json:"file"`
	Claim []string `json:"claim"`
	prove.Answer
	// Curl sends the counterexample; empty when no command line can.
	Curl string `json:"curl,omitempty"`
}

func policyProve(o *options) *cobra.Command {
	var terms []string
	cmd := &cobra.Command{
		Use: "prove FILE --never-leaves CLAIM", Short: "Prove that no request of a kind ever leaves the box, or show one that may",
		Long: "Prove that no request that fits the claim may run in the cloud, or show one that may.\n" +
			"A claim is class=, unit=, exe=, container=, uid=, gid=, model=, api= or any; terms with\n" +
			"different keys must all hold. Exact, not sampling. Needs no agent.\n" +
			"Exit status: 0 proven, 1 a counterexample, 2 neither.",
		Args: exactly("FILE"), Example: "  bothy policy prove policy.yaml --never-leaves class=phi",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(terms) == 0 {
				return usageError{errors.New("--never-leaves is missing")}
			}
			claim, err := prove.ParseClaim(terms)
			if err != nil {
				return usageError{err}
			}
			p, err := parsePolicy(args[0])
			if err != nil {
				return unanswered(cmd, err)
			}
			answer, err := prove.Never(p, claim)
			if err != nil {
				return unanswered(cmd, err)
			}
			out := proof{File: args[0], Claim: terms, Answer: answer}
			if answer.Counterexample != nil {
				out.Curl = answer.Counterexample.Curl(o.apiSocket())
			}
			if o.json {
				err = printJSON(cmd.OutOrStdout(), out)
			} else {
				err = printProof(cmd.OutOrStdout(), p, out)
			}
			if err == nil && !answer.Proven {
				return otherAnswer
			}
			return err
		},
	}
	cmd.Flags().StringSliceVar(&terms, "never-leaves", nil, "what the requests have in common, for example class=phi")
	jsonFlag(cmd, o)
	return cmd
}

// apiSocket is the configured socket of the API, or its usual place.
func (o *options) apiSocket() string {
	c, err := o.loadConfig()
	if err != nil || c.API.Socket == "" {
		return "/run/bothy/api.sock"
	}
	return c.API.Socket
}

func printProof(w io.Writer, p *policy.Policy, out proof) error {
	claim := strings.Join(out.Claim, ", ")
	if out.Proven {
		text := fmt.Sprintf("proven: no request with %s leaves the box under policy %q\n", claim, p.Name())
		if out.Vacuous {
			text += "but no request can be like that\n"
		}
		_, err := io.WriteString(w, text)
		return err
	}
	r, v := out.Counterexample, out.Verdict
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	fmt.Fprintf(w, "not so: rule %q of policy %q sends a request with %s to %v\n", v.Rule, p.Name(), claim, v.Places)
	fmt.Fprintf(w, "  %s\n\n%s\n", r.Circumstances(), raw)
	if out.Curl != "" {
		fmt.Fprintf(w, "\n%s\n", out.Curl)
	}
	_, err = fmt.Fprintf(w, "\nThe JSON is for: bothy policy explain --policy %s --request -\n", out.File)
	return err
}

// differences is the JSON of `policy diff`.
type differences struct {
	Old  string `json:"old"`
	New  string `json:"new"`
	Same bool   `json:"same"`
	prove.Difference
}

func policyDiff() *cobra.Command {
	var asJSON bool
	var limit int
	cmd := &cobra.Command{
		Use: "diff OLD NEW", Short: "Show which requests change place between two policies",
		Long: "Show every request that changes place, or whose places change order, between two policy\n" +
			"files: by the rules that decide, with what is enough to be concerned, and an example.\n" +
			"Exact, not sampling. Needs no agent. Exit status: 0 none, 1 some, 2 no answer.",
		Args: exactly("OLD", "NEW"), Example: "  bothy policy diff policy.yaml policy-next.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usageError{errors.New("--limit is less than 1")}
			}
			old, err := parsePolicy(args[0])
			if err != nil {
				return unanswered(cmd, err)
			}
			next, err := parsePolicy(args[1])
			if err != nil {
				return unanswered(cmd, err)
			}
			found, err := prove.Diff(old, next, limit)
			if err != nil {
				return unanswered(cmd, err)
			}
			out := differences{Old: args[0], New: args[1], Same: len(found.Regions) == 0, Difference: found}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), out)
			} else {
				err = printDifferences(cmd.OutOrStdout(), out)
			}
			if err == nil && !out.Same {
				return otherAnswer
			}
			return err
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "show at most so many kinds of request")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printDifferences(w io.Writer, out differences) error {
	if out.Same {
		_, err := fmt.Fprintln(w, "no request changes place")
		return err
	}
	for _, r := range out.Regions {
		fmt.Fprintf(w, "%s -> %s   (rule %q, now %q)\n", placesText(r.From), placesText(r.To), r.Old, r.New)
		if len(r.Changed) > 0 {
			fmt.Fprintf(w, "  another upstream by the same name: %s\n", placesText(r.Changed))
		}
		for _, t := range r.Where {
			fmt.Fprintf(w, "  where %s\n", t)
		}
		raw, err := json.Marshal(r.Example)
		if err != nil {
			return fmt.Errorf("internal error: %w", err)
		}
		fmt.Fprintf(w, "  e.g. %s\n\n", raw)
	}
	if out.More {
		_, err := fmt.Fprintln(w, "and more: --limit shows them")
		return err
	}
	return nil
}

func placesText(places []policy.Place) string {
	if len(places) == 0 {
		return "denied"
	}
	words := make([]string, len(places))
	for i, p := range places {
		words[i] = string(p)
	}
	return strings.Join(words, ", ")
}

// probed is the JSON of `policy probe`.
type probed struct {
	File   string               `json:"file"`
	Passed bool                 `json:"passed"`
	Probes []policy.ProbeResult `json:"probes"`
}

func policyProbe() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "probe FILE", Short: "Run the probes of a policy file, one line each; needs no agent",
		Long: "Run the probes of a policy file: example requests with the verdict they must get. A\npolicy whose probes fail is never activated. Needs no agent.\nExit status: 0 all pass, 1 one fails, 2 no answer.",
		Args: exactly("FILE"), Example: "  bothy policy probe policy.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePolicy(args[0])
			if err != nil {
				return unanswered(cmd, err)
			}
			out := probed{File: args[0], Passed: p.Probe() == nil, Probes: p.Probes()}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), out)
			} else {
				err = printProbes(cmd.OutOrStdout(), out)
			}
			if err == nil && !out.Passed {
				return otherAnswer
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printProbes(w io.Writer, out probed) error {
	if len(out.Probes) == 0 {
		_, err := fmt.Fprintln(w, "the policy has no probes")
		return err
	}
	for _, r := range out.Probes {
		line := fmt.Sprintf("pass  %s", r.Name)
		if !r.Passed {
			line = fmt.Sprintf("FAIL  %s: %s; decided by rule %q", r.Name, r.Problem, r.Verdict.Rule)
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// explain asks the agent about the policy in force, or answers from a policy file.
func (o *options) explain(ctx context.Context, file string, q agent.ExplainRequest) (agent.ExplainAnswer, error) {
	if file == "" {
		var a agent.ExplainAnswer
		err := o.adminCall(ctx, "POST", "/v1/policy/explain", q, &a)
		return a, err
	}
	p, err := parsePolicy(file)
	if err != nil {
		return agent.ExplainAnswer{}, err
	}
	return q.Answer(p)
}

// readRequest reads the JSON of one request, as `policy prove` prints it.
func readRequest(path string, stdin io.Reader) (agent.ExplainRequest, error) {
	var q agent.ExplainRequest
	text, err := readText(path, stdin)
	if err != nil {
		return q, err
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q); err != nil {
		return q, fmt.Errorf("cannot read the request %s: %w", path, err)
	}
	return q, nil
}
