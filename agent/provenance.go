package agent

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/bothy-edge/bothy/agent/policy"
	"github.com/bothy-edge/bothy/updater/provenance"
	"github.com/bothy-edge/bothy/updater/release"
)

// provenance says why a model of a want does not carry the signatures that the
// policies in force and the want's own policy ask for. What was signed is
// compared with the digests of the release, which every file was verified by.
func (p *policies) provenance(own []byte, want release.Want, have func(release.File) (string, bool)) error {
	asking := slices.Clone(p.current.Load().all)
	if own != nil {
		parsed, err := policy.Parse(own)
		if err != nil {
			return err
		}
		asking = append(asking, parsed)
	}
	for _, alias := range slices.Sorted(maps.Keys(want.Models)) {
		for _, asks := range asking {
			if len(asks.Signers()) == 0 {
				continue
			}
			if err := signed(want.Models[alias], asks.Signers(), have); err != nil {
				return fmt.Errorf("policy %q asks for a signature of models: %w", asks.Name(), err)
			}
		}
	}
	return nil
}

// signed says why none of the signers signed exactly the files of a release.
func signed(doc release.Document, signers []provenance.Signer, have func(release.File) (string, bool)) error {
	files := doc.FilesOf(release.Signature)
	if len(files) == 0 {
		return fmt.Errorf("model %s carries none; add it again with bothy fleet add --signature", doc.ID())
	}
	raw, err := readSignature(files[0], have)
	if err != nil {
		return fmt.Errorf("model %s: %w", doc.ID(), err)
	}
	got, err := provenance.Verify(raw, signers, doc.Provenance.Verified)
	if err != nil {
		return fmt.Errorf("model %s: %w", doc.ID(), err)
	}
	var content []provenance.File
	for _, f := range doc.Content() {
		content = append(content, provenance.File{Name: f.Path, SHA256: f.SHA256})
	}
	if err := got.Match(content); err != nil {
		return fmt.Errorf("model %s: the signature of %q is not one of these files: %w", doc.ID(), got.Signer, err)
	}
	return nil
}

func readSignature(f release.File, have func(release.File) (string, bool)) ([]byte, error) {
	path, ok := have(f)
	if !ok {
		return nil, errors.New("the file of its signature is not on this box")
	}
	in, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read its signature: %w", err)
	}
	defer in.Close() //nolint:errcheck // read only
	raw, err := io.ReadAll(io.LimitReader(in, provenance.MaxBundle+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read its signature: %w", err)
	}
	return raw, nil
}
