package fleet

import (
	"crypto/elliptic"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/updater/provenance"
	"github.com/bothy-edge/bothy/updater/provenance/provenancetest"
	"github.com/bothy-edge/bothy/updater/release"
)

// signedModel writes a model of two files and its signature.
func signedModel(t *testing.T, by provenancetest.Signer) (files []string, signature string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"a.gguf": "weights", "b.json": "{}"} {
		write(t, filepath.Join(dir, name), text)
	}
	return []string{filepath.Join(dir, "a.gguf"), filepath.Join(dir, "b.json")}, by.SignFolder(dir)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func knows(t *testing.T, s provenance.Spec) []provenance.Signer {
	t.Helper()
	signer, err := provenance.NewSigner(s)
	if err != nil {
		t.Fatal(err)
	}
	return []provenance.Signer{signer}
}

func TestSignatureOfTheMakerTravelsWithTheRelease(t *testing.T) {
	f := newFleet(t)
	maker := provenancetest.NewKey(t, elliptic.P256())
	files, signature := signedModel(t, maker)
	o := AddOptions{Kind: release.Model, Name: "mote", Files: files, Signers: knows(t, provenance.Spec{Name: "vendor", Key: maker.KeyPEM})}
	doc, err := f.Add(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if p := doc.Provenance; p == nil || p.Method != "key" || !p.Verified.Equal(noon()) {
		t.Errorf("got provenance %+v, want key at noon", doc.Provenance)
	}
	blob, err := f.Blob(doc.FilesOf(release.Signature)[0].SHA256)
	if err != nil {
		t.Fatal(err)
	}
	want, errWant := os.ReadFile(signature)
	got, errGot := os.ReadFile(blob)
	if errWant != nil || errGot != nil || string(got) != string(want) {
		t.Errorf("the blob is not the signature (%v, %v)", errWant, errGot)
	}
	// A day later the same model is the same release, by the time it was verified first.
	f.Now = func() time.Time { return noon().AddDate(0, 0, 1) }
	for _, version := range []uint64{0, 1} {
		o.Version = version
		if again, err := f.Add(t.Context(), o); err != nil || again.Digest() != doc.Digest() {
			t.Errorf("version %d: got %+v, %v; want the first release", version, again, err)
		}
	}
}

func TestModelsThatAreNotWhatTheirMakerSignedAreRefused(t *testing.T) {
	f := newFleet(t)
	key, other := provenancetest.NewKey(t, elliptic.P256()), provenancetest.NewKey(t, elliptic.P256())
	good := func(edit func(*x509.Certificate)) provenancetest.Signer {
		return provenancetest.NewCertificate(t, noon().AddDate(0, 0, -1), noon().AddDate(0, 0, 1), edit)
	}
	expired := good(func(c *x509.Certificate) { c.NotAfter = noon().Add(-time.Hour) })
	for name, c := range map[string]struct {
		by      provenancetest.Signer
		signers provenance.Spec
		edit    func(o *AddOptions, dir string)
		want    string
	}{
		"another signer":    {other, provenance.Spec{Key: key.KeyPEM}, nil, "none of the keys"},
		"expired":           {expired, provenance.Spec{Roots: expired.RootsPEM}, nil, "expired"},
		"a file is missing": {key, provenance.Spec{Key: key.KeyPEM}, func(o *AddOptions, _ string) { o.Files = o.Files[:1] }, `missing, the first is "b.json"`},
		"a file is changed": {key, provenance.Spec{Key: key.KeyPEM}, func(_ *AddOptions, dir string) { write(t, filepath.Join(dir, "a.gguf"), "other") }, "signed was"},
		"a file more": {key, provenance.Spec{Key: key.KeyPEM}, func(o *AddOptions, dir string) {
			write(t, filepath.Join(dir, "c.so"), "x")
			o.Files = append(o.Files, filepath.Join(dir, "c.so"))
		}, "not among those signed"},
		"a link": {key, provenance.Spec{Key: key.KeyPEM}, func(o *AddOptions, dir string) {
			if err := os.Symlink(filepath.Join(dir, "a.gguf"), filepath.Join(dir, "c.gguf")); err != nil {
				t.Fatal(err)
			}
			o.Files[0] = filepath.Join(dir, "c.gguf")
		}, "never reached through links"},
		"a signature without end": {key, provenance.Spec{Key: key.KeyPEM}, func(_ *AddOptions, dir string) {
			if err := os.Truncate(filepath.Join(dir, signatureName), 1<<40); err != nil {
				t.Fatal(err)
			}
		}, "at most"},
		"a signature that is a folder": {key, provenance.Spec{Key: key.KeyPEM}, func(o *AddOptions, dir string) { o.Signature = dir }, "not a regular file"},
		"a policy":                     {key, provenance.Spec{Key: key.KeyPEM}, func(o *AddOptions, _ string) { o.Kind = release.Policy }, "only models"},
	} {
		t.Run(name, func(t *testing.T) {
			files, signature := signedModel(t, c.by)
			o := AddOptions{Kind: release.Model, Name: "mote", Files: files, Signers: knows(t, c.signers)}
			if c.edit != nil {
				c.edit(&o, filepath.Dir(signature))
			}
			if doc, err := f.Add(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want an error with %q", doc.ID(), err, c.want)
			}
			if all, err := f.Releases(); err != nil || len(all) != 0 {
				t.Errorf("got %d releases, %v; want none", len(all), err)
			}
		})
	}
}

func TestSignatureBesideAModelIsNotPassedOver(t *testing.T) {
	f := newFleet(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "a.gguf")
	write(t, path, "weights")
	for _, name := range []string{"model.sig", "a.gguf.sig"} {
		write(t, filepath.Join(dir, name), "{}")
		o := AddOptions{Kind: release.Model, Name: "mote", Files: []string{path}}
		if _, err := f.Add(t.Context(), o); err == nil || !strings.Contains(err.Error(), "--signer-key") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want to be asked for a signer", name, err)
		}
		o.Unsigned = true
		if doc, err := f.Add(t.Context(), o); err != nil || doc.Provenance != nil || len(doc.Files) != 1 {
			t.Errorf("%s: got %+v, %v; want it without a signature", name, doc, err)
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFolderOfASignedModel: everything in it was signed, or left out by the signer.
func TestFolderOfASignedModel(t *testing.T) {
	f := newFleet(t)
	maker := provenancetest.NewKey(t, elliptic.P256())
	signers := knows(t, provenance.Spec{Name: "vendor", Key: maker.KeyPEM})
	for name, c := range map[string]struct {
		spoil func(dir string)
		want  string // in the error; "" takes it in
	}{
		"as it was signed": {func(string) {}, ""},
		"with what was left out": {func(dir string) {
			write(t, filepath.Join(dir, "notes.txt"), "mine")
			write(t, filepath.Join(dir, ".gitattributes"), "x")
		}, ""},
		"a file more":           {func(dir string) { write(t, filepath.Join(dir, "weights", "evil.so"), "x") }, `"weights/evil.so" is not among those signed`},
		"a file less":           {func(dir string) { remove(t, filepath.Join(dir, "weights", "b.bin")) }, `missing, the first is "weights/b.bin"`},
		"a file moved":          {func(dir string) { rename(t, filepath.Join(dir, "weights", "b.bin"), filepath.Join(dir, "b.bin")) }, `"b.bin" is not among those signed`},
		"a link to a file":      {func(dir string) { link(t, "../a.gguf", filepath.Join(dir, "weights", "c.gguf")) }, "never reached through links"},
		"a link that leads out": {func(dir string) { link(t, "/etc/hostname", filepath.Join(dir, "weights", "c.bin")) }, "leads out"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "weights"), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "a.gguf"), "weights")
			write(t, filepath.Join(dir, "weights", "b.bin"), "more")
			files := []provenance.File{provenancetest.FileOf("a.gguf", "weights"), provenancetest.FileOf("weights/b.bin", "more")}
			write(t, filepath.Join(dir, signatureName), string(maker.SignIgnoring([]string{"model.sig", "notes.txt"}, files...)))
			c.spoil(dir)
			doc, err := f.Add(t.Context(), AddOptions{Kind: release.Model, Name: "mote", Files: []string{dir}, Signers: signers})
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, %v; want an error with %q", doc.ID(), err, c.want)
				}
				return
			}
			if err != nil || len(doc.Content()) != 2 || doc.Provenance == nil || doc.Primary().Path != "a.gguf" {
				t.Errorf("got %+v, %v; want the two files that were signed", doc, err)
			}
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}
