package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/provenance"
)

// makers are the flags that say who made a model that is taken in.
type makers struct {
	key, roots, identity string
}

func (m *makers) flags(cmd *cobra.Command, o *fleet.AddOptions) {
	f := cmd.Flags()
	f.StringVar(&o.Signature, "signature", "", "signature `FILE` of its maker (default: model.sig beside it)")
	f.StringVar(&m.key, "signer-key", "", "`PEM` file: the public key of who made it")
	f.StringVar(&m.roots, "signer-roots", "", "`PEM` file: certificates that theirs must lead to")
	f.StringVar(&m.identity, "signer-identity", "", "`NAME` that their certificate must carry")
	f.BoolVar(&o.Unsigned, "unsigned", false, "take it in without its maker's signature")
}

// signers reads the PEM files. A signer is called by its file's name.
func (m makers) signers() ([]provenance.Signer, error) {
	if m.identity != "" && m.roots == "" {
		return nil, usageError{fmt.Errorf("--signer-identity goes with --signer-roots")}
	}
	var all []provenance.Signer
	for _, of := range []struct {
		flag, path string
		spec       func(pem string) provenance.Spec
	}{
		{"--signer-key", m.key, func(pem string) provenance.Spec { return provenance.Spec{Key: pem} }},
		{"--signer-roots", m.roots, func(pem string) provenance.Spec { return provenance.Spec{Roots: pem, Identity: m.identity} }},
	} {
		if of.path == "" {
			continue
		}
		raw, err := os.ReadFile(of.path)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", of.flag, err)
		}
		spec := of.spec(string(raw))
		spec.Name = strings.TrimSuffix(filepath.Base(of.path), filepath.Ext(of.path))
		signer, err := provenance.NewSigner(spec)
		if err != nil {
			return nil, fmt.Errorf("cannot use %s %s: %w", of.flag, of.path, err)
		}
		all = append(all, signer)
	}
	return all, nil
}
