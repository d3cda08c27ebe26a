package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/release"
)

func fleetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "fleet", Short: "Publish, sign and assign releases (the fleet manager's side)",
		Long:    "Publish, sign and assign releases. The fleet is a folder: keys, two signed\nrepositories and the files. Keep it on a machine that you trust.",
		Example: "  bothy fleet init /srv/fleet --tenant acme --broker tls://127.0.0.1:8883",
	}
	cmd.AddCommand(fleetInit(), fleetAdd(), fleetAddEngine(), fleetSign(), fleetAssign(), fleetServe(), fleetKey(), fleetMirror())
	cmd.AddCommand(fleetStatus(), fleetWatch(), fleetRollback(), fleetRetire())
	cmd.AddCommand(fleetEnroll(), fleetACL())
	cmd.AddCommand(fleetOrder())
	return cmd
}

func fleetInit() *cobra.Command {
	var o fleet.Options
	var brokerCA string
	cmd := &cobra.Command{
		Use: "init DIR", Short: "Make the folder of a fleet: keys, two repositories, the ticket for devices",
		Args: exactly("DIR"), Example: "  bothy fleet init /srv/fleet --tenant acme --broker tls://broker.example:8883",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Dir = args[0]
			if brokerCA != "" {
				var err error
				if o.BrokerCA, err = os.ReadFile(brokerCA); err != nil {
					return fmt.Errorf("cannot read the broker's authority: %w", err)
				}
			}
			f, err := fleet.Init(o)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "fleet of tenant %q in %s\nticket for devices: %s\n", f.Tenant(), f.Dir(), filepath.Join(f.Dir(), "enroll.json"))
			fmt.Fprintf(os.Stderr, "bothy: hint: the private keys are in %s; encrypt the offline ones (bothy fleet key passphrase) and carry them away\n", filepath.Join(f.Dir(), "keys"))
			return nil
		},
	}
	cmd.Flags().StringVar(&o.Tenant, "tenant", "", "name of the fleet (required)")
	cmd.Flags().StringVar(&o.Broker, "broker", "", "tls://host:port, tcp://host:port; none: import from folders")
	cmd.Flags().StringVar(&o.EnrollBroker, "enroll-broker", "", "where boxes that enrol connect (default: --broker)")
	cmd.Flags().StringVar(&brokerCA, "broker-ca", "", "PEM `FILE` of the broker's authority (default: the fleet's)")
	cmd.Flags().IntVar(&o.Keys, "keys", 3, "keys of each offline set")
	cmd.Flags().IntVar(&o.Threshold, "threshold", 2, "how many of them a release needs")
	required(cmd, "tenant")
	return cmd
}

// required marks flags whose absence is a usage error.
func required(cmd *cobra.Command, names ...string) {
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		for _, n := range names {
			if !cmd.Flags().Changed(n) {
				return usageError{fmt.Errorf("--%s is missing", n)}
			}
		}
		return nil
	}
}

func fleetAdd() *cobra.Command {
	var o fleet.AddOptions
	var model, policyName, accept string
	var flags []string
	var asJSON bool
	var by makers
	cmd := &cobra.Command{
		Use: "add DIR FILE...", Short: "Take in a model or a policy as the next version of a release",
		Long:    "Take in a policy file or a model (a GGUF file, the first file of a split one, or a\nfolder) as the next version of a release. It can be assigned once it is signed.",
		Example: "  bothy fleet add /srv/fleet --model assistant llama-1b.gguf --accept checks.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return exactly("DIR", "FILE")(nil, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := describeRelease(&o, model, policyName, accept, flags); err != nil {
				return err
			}
			o.Files = args[1:]
			var err error
			if o.Signers, err = by.signers(); err != nil {
				return err
			}
			return fleetAddRun(cmd, args[0], o, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVar(&model, "model", "", "name of a model release")
	f.StringVar(&policyName, "policy", "", "name of a policy release")
	f.Uint64Var(&o.Version, "release-version", 0, "version (default: the next)")
	f.StringVar(&o.Engine.Kind, "engine", "", "llama-server[@LOWEST], embedded or command (default: any)")
	f.IntVar(&o.Engine.Context, "context", 0, "tokens of one request (default: the model's)")
	f.IntVar(&o.Engine.Slots, "slots", 0, "requests served at once (default 1)")
	f.StringArrayVar(&flags, "flag", nil, "engine flag as name=value; may be given again")
	f.Int64Var(&o.Requires.MemoryBytes, "memory", 0, "bytes of memory that a device must have free")
	f.StringVar(&accept, "accept", "", "YAML list of checks: [{prompt: 2 and 2 is?, want: four}]")
	f.StringVar(&o.Projector, "mmproj", "", "`FILE` that turns images into what the model reads")
	f.StringArrayVar(&o.Adapters, "lora", nil, "`FILE` of a LoRA adapter; may be given again")
	by.flags(cmd, &o)
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func describeRelease(o *fleet.AddOptions, model, policyName, accept string, flags []string) error {
	switch {
	case (model == "") == (policyName == ""):
		return usageError{fmt.Errorf("name the release with either --model or --policy")}
	case model != "":
		o.Kind, o.Name = release.Model, model
	default:
		o.Kind, o.Name = release.Policy, policyName
	}
	if kind, version, ok := strings.Cut(o.Engine.Kind, "@"); ok {
		if err := release.CheckVersion(version); err != nil || kind == "" {
			return usageError{fmt.Errorf("cannot read --engine %q: write it as llama-server or llama-server@b6123", o.Engine.Kind)}
		}
		o.Engine.Kind, o.Requires.EngineVersion = kind, version
	}
	for _, f := range flags {
		name, value, ok := strings.Cut(f, "=")
		if !ok {
			return usageError{fmt.Errorf("cannot read --flag %q: write it as name=value", f)}
		}
		if o.Engine.Flags == nil {
			o.Engine.Flags = map[string]string{}
		}
		o.Engine.Flags[name] = value
	}
	if accept == "" {
		return nil
	}
	var err error
	o.Accept, err = readChecks(accept)
	return err
}

// readChecks reads acceptance checks strictly: a misspelt field would be a check that checks nothing.
func readChecks(path string) ([]release.Check, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the acceptance checks: %w", err)
	}
	text, err := yaml.YAMLToJSON(raw)
	if err != nil {
		return nil, fmt.Errorf("cannot read the acceptance checks %s: %s", path, yaml.FormatError(err, false, true))
	}
	var checks []release.Check
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&checks); err != nil {
		return nil, fmt.Errorf("cannot read the acceptance checks %s: %w; want a list of checks with prompt and want", path, err)
	}
	return checks, nil
}

func fleetAddRun(cmd *cobra.Command, dir string, o fleet.AddOptions, asJSON bool) error {
	f, err := fleet.Open(dir)
	if err != nil {
		return err
	}
	if err := o.Expand(); err != nil {
		return fmt.Errorf("cannot add %s %q: %w", o.Kind, o.Name, err)
	}
	if err := o.FindSignature(); err != nil {
		return fmt.Errorf("cannot add %s %q: %w", o.Kind, o.Name, err)
	}
	switch o.Kind {
	case release.Policy:
		err = checkPolicyFiles(o.Files)
	case release.Model:
		err = checkModelFiles(o.Sources, o.Engine, cmd.ErrOrStderr())
	}
	if err != nil {
		return err
	}
	bar := newBar(cmd.ErrOrStderr(), "reading")
	o.Progress = bar.set
	doc, err := f.Add(cmd.Context(), o)
	bar.done()
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(cmd.OutOrStdout(), doc)
	}
	if p := doc.Provenance; p != nil {
		fmt.Fprintf(cmd.OutOrStdout(), "signature of its maker verified (method %s)\n", p.Method)
	}
	signed, err := isSigned(f, doc)
	if err != nil {
		return err
	}
	if signed {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s is there already, and signed\n", doc.Kind, doc.ID())
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s %s added, not signed yet\n", doc.Kind, doc.ID())
	fmt.Fprintf(cmd.ErrOrStderr(), "bothy: hint: bothy fleet sign %s %s\n", dir, doc.ID())
	return nil
}

// isSigned says that the release was added and signed before: adding may be repeated.
func isSigned(f *fleet.Fleet, doc release.Document) (bool, error) {
	all, err := f.Releases()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(r fleet.Release) bool { return r.Signed && r.Document.Target() == doc.Target() }), nil
}

func fleetSign() *cobra.Command {
	var asJSON bool
	var p passphrases
	var request string
	cmd := &cobra.Command{
		Use: "sign DIR [NAME[@VERSION]...]", Short: "Sign releases into the catalog with the offline keys in the folder",
		Long:    "Sign the named releases, or all that are not signed yet, into the catalog with the\noffline keys that are in the folder. Where these are elsewhere, --request writes a\nfile for `bothy fleet key sign` there and `bothy fleet key apply` here.",
		Example: "  bothy fleet sign /srv/fleet assistant@1",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 {
				return exactly("DIR")(nil, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := openFleet(args[0], &p)
			if err != nil {
				return err
			}
			if request != "" {
				return requestRelease(cmd, f, args[1:], request)
			}
			docs, err := f.Sign(args[1:]...)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), docs)
			}
			for _, d := range docs {
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s signed\n", d.Kind, d.ID())
			}
			if len(docs) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing to sign")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&request, "request", "", "`FILE` to write what must be signed elsewhere to")
	p.flag(cmd)
	return cmd
}

func fleetAssign() *cobra.Command {
	var devices []string
	var policyName, engine, window, transfer string
	var asJSON, approval bool
	cmd := &cobra.Command{
		Use: "assign DIR ALIAS=NAME[@VERSION]...", Short: "Make signed releases what a device shall run",
		Long:    "Make signed releases what a device shall run. Aliases that are not named stay;\nALIAS=none takes one out. Without a version the newest signed one is taken. A device is\nnamed, or a pattern names those that the fleet knows: 'press-*', or '*' for all.",
		Example: "  bothy fleet assign /srv/fleet --device press-7 --policy site@1 assistant=assistant@1",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 {
				return exactly("DIR")(nil, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			models, err := aliases(args[1:])
			if err != nil {
				return err
			}
			f, err := openFleet(args[0], &passphrases{})
			if err != nil {
				return err
			}
			c := fleet.Change{Models: models, Policy: policyName, Engine: engine, AnyTime: window == "any"}
			if cmd.Flags().Changed("approval") {
				c.Approval = &approval
			}
			if window != "" && window != "any" {
				w, err := readWindow(window)
				if err != nil {
					return err
				}
				c.Window = &w
			}
			if transfer != "" {
				t, err := readTransfer(transfer)
				if err != nil {
					return err
				}
				c.Transfer = &t
			}
			return assignTo(cmd.OutOrStdout(), f, devices, c, asJSON)
		},
	}
	cmd.Flags().StringArrayVar(&devices, "device", nil, "`DEVICE`, or all that match a pattern; may be repeated (required)")
	cmd.Flags().StringVar(&policyName, "policy", "", "policy release, NAME[@VERSION] or none")
	cmd.Flags().StringVar(&engine, "engine", "", "engine release, NAME[@VERSION] or none")
	cmd.Flags().StringVar(&window, "window", "", "when it may switch, device time: \"sat 08:00-18:00\", any")
	cmd.Flags().StringVar(&transfer, "transfer", "", "how it may fetch: 8MiB (a second), \"8MiB 22:00-04:00\", any")
	cmd.Flags().BoolVar(&approval, "approval", false, "an operator at the device must approve it first")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	required(cmd, "device")
	return cmd
}
