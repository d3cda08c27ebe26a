package main

import (
	"cmp"
	"crypto"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/updater/fleet"
)

func fleetKey() *cobra.Command {
	cmd := &cobra.Command{
		Use: "key", Short: "Create, rotate and revoke the keys of a fleet; sign with them elsewhere",
		Long: "Create, list, rotate and revoke the keys of a fleet. New roots and releases can be\n" +
			"signed on machines without a network: rotate, revoke and `fleet sign --request`\nwrite a request, `sign` adds signatures to it, `apply` publishes it.",
		Example: "  bothy fleet key list /srv/fleet",
	}
	cmd.AddCommand(keyCreate(), keyList(), keyExport(), keyPassphrase(), keyRotate(), keyRevoke(), keyShow(), keySign(), keyApply())
	return cmd
}

func keyCreate() *cobra.Command {
	var p passphrases
	var algorithm string
	var open, asJSON bool
	cmd := &cobra.Command{
		Use: "create DIR NAME", Short: "Make a key in DIR/keys; no device trusts it before it is rotated in",
		Long:    "Make a key in DIR/keys, encrypted with a passphrase. DIR is a fleet, or any folder on\nthe machine where the key shall stay. No device trusts it before it is rotated in.",
		Example: "  bothy fleet key create /media/stick release-4 --type ecdsa-p256", Args: exactly("DIR", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var passphrase []byte
			if !open {
				var err error
				if passphrase, err = p.choose(args[1]); err != nil {
					return err
				}
			}
			info, err := fleet.OpenKeys(args[0]).Create(args[1], algorithm, passphrase)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), info)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "key %s created, %s, %s\n%s\n", info.Name, info.Algorithm, protection(info), info.ID)
			return err
		},
	}
	cmd.Flags().StringVar(&algorithm, "type", fleet.Ed25519, "ed25519 or ecdsa-p256")
	cmd.Flags().BoolVar(&open, "no-passphrase", false, "leave it unencrypted, as an online key may be")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	p.flag(cmd)
	return cmd
}

func protection(k fleet.KeyInfo) string {
	switch {
	case !k.Private:
		return "elsewhere"
	case k.Encrypted:
		return "encrypted"
	}
	return "open"
}

func keyList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list DIR", Short: "Show the keys that are here and those that devices trust",
		Example: "  bothy fleet key list /srv/fleet", Args: exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := listKeys(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), keys)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tTYPE\tPRIVATE HALF\tTRUSTED FOR\tID")
			for _, k := range keys {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", cmp.Or(k.Name, "-"), k.Algorithm, protection(k), cmp.Or(strings.Join(k.Sets, " "), "nothing"), k.ID)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// listKeys also lists a folder that only has keys.
func listKeys(dir string) ([]fleet.KeyInfo, error) {
	f, err := fleet.Open(dir)
	if errors.Is(err, fleet.ErrNoFleet) {
		keys, listErr := fleet.OpenKeys(dir).List()
		if len(keys) > 0 || listErr != nil {
			return keys, listErr
		}
	}
	if err != nil {
		return nil, err
	}
	return f.ListKeys()
}

func keyExport() *cobra.Command {
	return &cobra.Command{
		Use: "export DIR NAME", Short: "Print the public half of a key, to be rotated in where the fleet is",
		Example: "  bothy fleet key export /media/stick release-4 > release-4.pub", Args: exactly("DIR", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := fleet.OpenKeys(args[0]).Export(args[1])
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
}

func keyPassphrase() *cobra.Command {
	var p, next passphrases
	var open bool
	cmd := &cobra.Command{
		Use: "passphrase DIR NAME", Short: "Encrypt a key, change its passphrase, or take it away",
		Example: "  bothy fleet key passphrase /srv/fleet catalog-root-1", Args: exactly("DIR", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys := fleet.OpenKeys(args[0])
			keys.Ask = p.ask
			var passphrase []byte
			if !open {
				var err error
				if passphrase, err = next.choose(args[1]); err != nil {
					return err
				}
			}
			if err := keys.SetPassphrase(args[1], passphrase); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "key %s is %s\n", args[1], map[bool]string{true: "open", false: "encrypted"}[open])
			return err
		},
	}
	p.flag(cmd)
	cmd.Flags().StringArrayVar(&next.files, "new-passphrase-file", nil, "`FILE` whose first line is the new passphrase")
	cmd.Flags().BoolVar(&open, "no-passphrase", false, "leave it unencrypted")
	return cmd
}

func keyRotate() *cobra.Command {
	var p passphrases
	var add, remove []string
	var threshold int
	var request string
	cmd := &cobra.Command{
		Use: "rotate DIR SET", Short: "Change the keys of a set, signed by the old keys and the new",
		Long: "Change the keys of a set. With enough keys here the change is published at once; else\n--request writes it to a file for `key sign`. Without --add, --remove and --threshold\nthe set stays and its root gets a new life.\n\nSets: " +
			strings.NewReplacer(" release", "\n  release", " director-snap", "\n  director-snap").Replace(strings.Join(fleet.KeySets(), ", ")),
		Example: "  bothy fleet key rotate /srv/fleet release --add release-4.pub --remove release-1", Args: exactly("DIR", "SET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := openFleet(args[0], &p)
			if err != nil {
				return err
			}
			r := fleet.Rotation{Set: args[1], Threshold: threshold}
			for _, name := range add {
				key, err := publicKey(f, name)
				if err != nil {
					return err
				}
				r.Add = append(r.Add, key)
			}
			for _, name := range remove {
				id, err := keyOfName(f, name)
				if err != nil {
					return err
				}
				r.Remove = append(r.Remove, id)
			}
			made, err := f.Rotate(r)
			if err != nil {
				return err
			}
			return signAndApply(cmd, f, made, request)
		},
	}
	cmd.Flags().StringArrayVar(&add, "add", nil, "`KEY` to add: a name in DIR/keys, or an exported file")
	cmd.Flags().StringArrayVar(&remove, "remove", nil, "`KEY` to remove: a name in DIR/keys, or an id")
	cmd.Flags().IntVar(&threshold, "threshold", 0, "how many keys must sign (default: as it is)")
	cmd.Flags().StringVar(&request, "request", "", "`FILE` to write what must be signed elsewhere to")
	p.flag(cmd)
	return cmd
}

func keyRevoke() *cobra.Command {
	var p passphrases
	var replacement, request string
	cmd := &cobra.Command{
		Use: "revoke DIR KEY", Short: "Take a key, by name or id, out of every set that trusts it",
		Example: "  bothy fleet key revoke /srv/fleet release-1 --replace-by release-4.pub", Args: exactly("DIR", "KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := openFleet(args[0], &p)
			if err != nil {
				return err
			}
			id, err := keyOfName(f, args[1])
			if err != nil {
				return err
			}
			var instead crypto.PublicKey
			if replacement != "" {
				if instead, err = publicKey(f, replacement); err != nil {
					return err
				}
			}
			made, err := f.Revoke(id, instead)
			if err != nil {
				return err
			}
			return signAndApply(cmd, f, made, request)
		},
	}
	cmd.Flags().StringVar(&replacement, "replace-by", "", "`KEY` for its place: a name in DIR/keys, or an exported file")
	cmd.Flags().StringVar(&request, "request", "", "`FILE` to write what must be signed elsewhere to")
	p.flag(cmd)
	return cmd
}

// openFleet opens a fleet whose keys may be encrypted.
func openFleet(dir string, p *passphrases) (*fleet.Fleet, error) {
	f, err := fleet.Open(dir)
	if err == nil {
		f.Keys.Ask = p.ask
	}
	return f, err
}

// publicKey reads a key by its name in the folder, or from an exported file.
func publicKey(f *fleet.Fleet, name string) (crypto.PublicKey, error) {
	keys, err := f.Keys.List()
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(keys, func(k fleet.KeyInfo) bool { return k.Name == name }) {
		return f.Keys.Public(name)
	}
	return fleet.ReadPublicKey(name)
}

// keyOfName is the id of a key by its name in the folder, or by enough of the id.
func keyOfName(f *fleet.Fleet, name string) (string, error) {
	keys, err := f.ListKeys()
	if err != nil {
		return "", err
	}
	var ids []string
	for _, k := range keys {
		if k.Name == name {
			return k.ID, nil
		}
		if len(name) >= 8 && strings.HasPrefix(k.ID, name) {
			ids = append(ids, k.ID)
		}
	}
	if ids = slices.Compact(ids); len(ids) == 1 {
		return ids[0], nil
	}
	return "", fmt.Errorf("there is no key %q; run: bothy fleet key list %s", name, f.Dir())
}

// signAndApply publishes a request if the keys for it are here; else it goes to
// a file, with the signatures it has.
func signAndApply(cmd *cobra.Command, f *fleet.Fleet, r fleet.Request, file string) error {
	if err := describe(cmd, r, f.Keys); err != nil {
		return err
	}
	if _, err := r.Sign(f.Keys); err != nil {
		return err
	}
	missing := r.Missing()
	if len(missing) == 0 {
		if err := f.Apply(r); err != nil {
			return err
		}
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "published")
		return err
	}
	for _, line := range missing {
		fmt.Fprintln(cmd.ErrOrStderr(), line)
	}
	if file == "" {
		return withHint{errors.New("not all keys are here; nothing was changed"), "add --request FILE and carry the file to them"}
	}
	return writeRequest(cmd, r, file, f.Dir())
}

func writeRequest(cmd *cobra.Command, r fleet.Request, file, dir string) error {
	if err := r.Write(file); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "request written to %s\n", file)
	fmt.Fprintf(cmd.ErrOrStderr(), "bothy: hint: bothy fleet key sign %s --keys FOLDER, where the keys are; then bothy fleet key apply %s %s\n", file, dir, file)
	return nil
}

// describe prints what a signature would stand for.
func describe(cmd *cobra.Command, r fleet.Request, keys *fleet.Keyring) error {
	lines, err := r.Describe(keys)
	if err != nil {
		return err
	}
	for _, line := range lines {
		fmt.Fprintln(cmd.OutOrStdout(), line)
	}
	return nil
}

// requestShown is the JSON of `fleet key show`.
type requestShown struct {
	Tenant  string   `json:"tenant"`
	Changes []string `json:"changes"`
	Missing []string `json:"missing,omitempty"`
}

func keyShow() *cobra.Command {
	var asJSON bool
	var dir string
	cmd := &cobra.Command{
		Use: "show FILE", Short: "Say what a request changes and which signatures are missing",
		Example: "  bothy fleet key show root.json", Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := fleet.ReadRequest(args[0])
			if err != nil {
				return err
			}
			var keys *fleet.Keyring
			if dir != "" {
				keys = fleet.OpenKeys(dir)
			}
			if asJSON {
				lines, err := r.Describe(keys)
				if err != nil {
					return err
				}
				return printJSON(cmd.OutOrStdout(), requestShown{r.Tenant, lines, r.Missing()})
			}
			if err := describe(cmd, r, keys); err != nil {
				return err
			}
			for _, line := range r.Missing() {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&dir, "keys", "", "`DIR` of keys that signed before: list only what is new")
	return cmd
}

func keySign() *cobra.Command {
	var p passphrases
	var dir string
	var yes bool
	cmd := &cobra.Command{
		Use: "sign FILE", Short: "Add signatures to a request that is carried on a stick",
		Long:    "Show what a request changes and, after a yes, add the signatures of the keys in\nDIR/keys to the file. It needs no network and no fleet.",
		Example: "  bothy fleet key sign /media/stick/root.json --keys /media/vault", Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := fleet.ReadRequest(args[0])
			if err != nil {
				return err
			}
			keys := fleet.OpenKeys(dir)
			keys.Ask = p.ask
			if err := describe(cmd, r, keys); err != nil {
				return err
			}
			if !yes {
				if err := confirm(fmt.Sprintf("Sign this for the fleet %q?", r.Tenant)); err != nil {
					return err
				}
			}
			signed, err := r.Sign(keys)
			if err != nil {
				return err
			}
			if len(signed) == 0 {
				return withHint{fmt.Errorf("no key in %s signs this, or each did already", dir), "bothy fleet key show " + args[0]}
			}
			if err := r.Write(args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "signed: %s\n", strings.Join(signed, ", "))
			for _, line := range r.Missing() {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "keys", "", "`DIR` that holds keys/ (required)")
	cmd.Flags().BoolVar(&yes, "yes", false, "sign without asking")
	p.flag(cmd)
	required(cmd, "keys")
	return cmd
}

func keyApply() *cobra.Command {
	var p passphrases
	cmd := &cobra.Command{
		Use: "apply DIR FILE", Short: "Verify a request that came back signed, and publish it",
		Example: "  bothy fleet key apply /srv/fleet /media/stick/root.json", Args: exactly("DIR", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := openFleet(args[0], &p)
			if err != nil {
				return err
			}
			r, err := fleet.ReadRequest(args[1])
			if err != nil {
				return err
			}
			if err := f.Apply(r); err != nil {
				return err
			}
			for _, u := range r.Documents {
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s published\n", u.Repo, u.Role)
			}
			return nil
		},
	}
	p.flag(cmd)
	return cmd
}

// requestRelease writes the request for what `fleet sign` would sign here.
func requestRelease(cmd *cobra.Command, f *fleet.Fleet, names []string, file string) error {
	r, err := f.SignRequest(names...)
	if err != nil {
		return err
	}
	if len(r.Documents) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "nothing to sign")
		return err
	}
	if _, err := os.Stat(file); err == nil {
		return fmt.Errorf("cannot write request: there is %s already", file)
	}
	if err := describe(cmd, r, f.Keys); err != nil {
		return err
	}
	return writeRequest(cmd, r, file, f.Dir())
}
