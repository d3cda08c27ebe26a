package policy

import (
	"crypto/elliptic"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/updater/provenance"
	"github.com/bothy-edge/bothy/updater/provenance/provenancetest"
)

// block writes PEM as a block of text under a field.
func block(pem string) string {
	return "|\n" + strings.ReplaceAll("        "+strings.TrimSpace(pem), "\n", "\n        ") + "\n"
}

func TestPolicyNamesWhoMustHaveSignedModels(t *testing.T) {
	key := provenancetest.NewKey(t, elliptic.P256())
	now := time.Now()
	team := provenancetest.NewCertificate(t, now.Add(-time.Hour), now.Add(time.Hour), nil)
	src := head + "updates:\n  require_signature:\n    - name: vendor\n      key: " + block(key.KeyPEM) +
		"    - name: team\n      identity: models@example.com\n      roots: " + block(team.RootsPEM)
	p := mustParse(t, src)
	again := mustParse(t, string(p.Document())) // its canonical form asks for the same
	file := provenancetest.FileOf("m.gguf", "weights")
	for _, p := range []*Policy{p, again} {
		for want, by := range map[string]provenancetest.Signer{"vendor": key, "team": team} {
			got, err := provenance.Verify(by.Sign(file), p.Signers(), now)
			if err != nil || got.Signer != want {
				t.Errorf("got signer %q, %v; want %q", got.Signer, err, want)
			}
		}
		stranger := provenancetest.NewKey(t, elliptic.P256())
		if got, err := provenance.Verify(stranger.Sign(file), p.Signers(), now); err == nil {
			t.Errorf("got signer %q for a stranger", got.Signer)
		}
	}
	if got := mustParse(t, head+"updates: {}\n").Signers(); len(got)+len(Default().Signers()) != 0 {
		t.Errorf("got %d signers of policies that ask for none", len(got))
	}
	s, _ := readSchema(t)
	if err := validate(t, s, src); err != nil {
		t.Errorf("the schema refuses it: %v", err)
	}
}

func TestSignersThatSayTooLittleAreRefusedWhereTheyStand(t *testing.T) {
	key := strings.ReplaceAll(provenancetest.NewKey(t, elliptic.P256()).KeyPEM, "\n", `\n`)
	var many []string
	for i := range maxSigners + 1 {
		many = append(many, fmt.Sprintf(`{name: s%d, key: "%s"}`, i, key))
	}
	for signer, want := range map[string]string{
		`{name: a}`: `3:31: signer "a": a signer is known by either a key or roots`,
		fmt.Sprintf(`{name: a, key: "%s", identity: b}`, key):               `an identity is looked for in certificates`,
		fmt.Sprintf(`{key: "%s"}`, key):                                     `a signer needs the field "name"`,
		fmt.Sprintf(`{name: a, key: "%s"}, {name: a, key: "%s"}`, key, key): `signer "a" is already defined`,
		`{name: a, key: hello}`:                                             `a key is one PEM block`,
		`{name: a, roots: hello}`:                                           `roots are one or more PEM blocks`,
		`{name: a, file: b}`:                                                `unknown field "file" of a signer`,
		`{name: a, key: 5}`:                                                 `key is text`,
		``:                                                                  `lists nothing`,
		strings.Join(many, ", "):                                            `the limit is 32`,
	} {
		src := head + "updates: {require_signature: [" + signer + "]}\n"
		_, err := Parse([]byte(src))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want %q", signer, err, want)
		}
	}
}

func TestManualsSignersParse(t *testing.T) {
	manual, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(manual), "```yaml\nupdates:")
	example, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatal("docs/policy.md shows no updates")
	}
	if got := mustParse(t, head+"updates:"+example).Signers(); len(got) != 1 {
		t.Errorf("got %d signers, want 1", len(got))
	}
}
