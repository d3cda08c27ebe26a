package agent

import (
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/provenance"
	"github.com/bothy-edge/bothy/updater/provenance/provenancetest"
	"github.com/bothy-edge/bothy/updater/release"
)

// asking is a policy that asks for a signature of one of the signers.
func asking(name string, signers ...provenancetest.Signer) string {
	indent := func(s string) string {
		return "|\n        " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n        ")
	}
	text := "schema: 1\nname: " + name + "\nupdates:\n  require_signature:\n"
	for i, s := range signers {
		text += "    - name: s" + string(rune('a'+i)) + "\n"
		if len(s.Chain) > 0 {
			text += "      roots: " + indent(s.RootsPEM) + "\n"
			continue
		}
		text += "      key: " + indent(s.KeyPEM) + "\n"
	}
	return text
}

// shelf holds the files of releases by digest.
type shelf struct {
	t   *testing.T
	dir string
}

func (s shelf) put(path, contents string) release.File {
	sum := sha256.Sum256([]byte(contents))
	f := release.File{Path: path, Size: int64(len(contents)), SHA256: hex.EncodeToString(sum[:]), IndexSHA256: strings.Repeat("0", 64)}
	if err := os.WriteFile(filepath.Join(s.dir, f.SHA256), []byte(contents), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return f
}

func (s shelf) have(f release.File) (string, bool) {
	path := filepath.Join(s.dir, f.SHA256)
	_, err := os.Stat(path)
	return path, err == nil
}

// model is a release of one file, signed with raw unless that is nil.
func (s shelf) model(raw []byte, at time.Time) release.Document {
	d := release.Document{Schema: 1, Kind: release.Model, Name: "mote", Version: 2, Files: []release.File{s.put("mote.gguf", "weights")}}
	if raw != nil {
		f := s.put("model.sig", string(raw))
		f.Role = release.Signature
		d.Files = append(d.Files, f)
		d.Provenance = &release.Provenance{Method: "key", Verified: at}
	}
	if err := d.Validate(); err != nil {
		s.t.Fatal(err)
	}
	return d
}

func TestModelsMustCarryTheSignatureThatEveryPolicyAsksFor(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	vendor, other := provenancetest.NewKey(t, elliptic.P256()), provenancetest.NewKey(t, elliptic.P384())
	team := provenancetest.NewCertificate(t, now.AddDate(-2, 0, 0), now.AddDate(-1, 0, 0), nil)
	signed := now.AddDate(-1, -6, 0) // while the team's certificate was good
	file := provenancetest.FileOf("mote.gguf", "weights")
	s := shelf{t, t.TempDir()}
	more := s.model(vendor.Sign(file), now)
	more.Files = append(more.Files, s.put("evil.so", "x"))
	gone := s.model(vendor.Sign(file), now)
	gone.Files[1].SHA256 = strings.Repeat("1", 64)
	for _, c := range []struct {
		name    string
		inForce []string // documents
		own     string
		doc     release.Document
		want    string // in the error; "" passes
	}{
		{"no policy asks", []string{openPolicy}, openPolicy, s.model(nil, now), ""},
		{"no policy at all", nil, "", s.model(nil, now), ""},
		{"asked for and there", []string{asking("p", vendor)}, asking("q", vendor), s.model(vendor.Sign(file), now), ""},
		{"one of two signers", []string{asking("p", other, vendor)}, "", s.model(vendor.Sign(file), now), ""},
		{"asked for and not there", []string{asking("p", vendor)}, "", s.model(nil, now), `policy "p" asks for a signature of models: model mote@2 carries none`},
		{"asked for by its own policy alone", []string{openPolicy}, asking("q", vendor), s.model(nil, now), `policy "q" asks`},
		{"its own policy asks for nothing more", []string{asking("p", vendor)}, openPolicy, s.model(nil, now), `policy "p" asks`},
		{"asked for by a policy that narrows", []string{openPolicy, asking("old", vendor)}, openPolicy, s.model(nil, now), `policy "old" asks`},
		{"signed by another", []string{asking("p", vendor)}, "", s.model(other.Sign(file), now), "none of the keys"},
		{"the two policies ask for different signers", []string{asking("p", vendor)}, asking("q", other), s.model(vendor.Sign(file), now), `policy "q" asks`},
		{"signature of other files", []string{asking("p", vendor)}, "", s.model(vendor.Sign(provenancetest.FileOf("mote.gguf", "other")), now), "not one of these files"},
		{"a file more than was signed", []string{asking("p", vendor)}, "", more, `"evil.so" is not among those signed`},
		{"certificate, judged at the time of the fleet", []string{asking("p", team)}, "", s.model(team.Sign(file), signed), ""},
		{"certificate that had expired", []string{asking("p", team)}, "", s.model(team.Sign(file), now), "expired"},
		{"signature that is no bundle", []string{asking("p", vendor)}, "", s.model([]byte("hello"), now), "not JSON"},
		{"signature that is too large", []string{asking("p", vendor)}, "", s.model(make([]byte, provenance.MaxBundle+1), now), "at most"},
		{"signature that is lost", []string{asking("p", vendor)}, "", gone, "not on this box"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPolicies(slog.New(slog.DiscardHandler))
			var list []updater.Policy
			for _, document := range c.inForce {
				list = append(list, item("x", document))
			}
			if err := p.Activate(list); err != nil {
				t.Fatal(err)
			}
			var own []byte
			if c.own != "" {
				own = []byte(c.own)
			}
			err := p.provenance(own, release.Want{Models: map[string]release.Document{"chat": c.doc}}, s.have)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
