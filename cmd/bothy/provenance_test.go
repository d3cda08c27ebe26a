package main

import (
	"crypto/elliptic"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bothy-edge/bothy/updater/provenance/provenancetest"
)

// sign signs a folder as the maker of a model does and writes the PEM that the
// signer is known by: sign FOLDER PEM, or with a third word by a certificate.
func sign(t *testing.T) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < 2 {
			ts.Fatalf("usage: sign FOLDER PEM [certificate]")
		}
		maker := provenancetest.NewKey(t, elliptic.P256())
		pem := maker.KeyPEM
		if len(args) > 2 {
			maker = provenancetest.NewCertificate(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), nil)
			pem = maker.RootsPEM
		}
		maker.SignFolder(ts.MkAbs(args[0]))
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(pem), 0o600))
	}
}

// asks makes a policy ask for models signed with a key: asks POLICY PEM.
func asks(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: asks POLICY PEM")
	}
	pem := strings.TrimSpace(ts.ReadFile(args[1]))
	text := ts.ReadFile(args[0]) + "updates:\n  require_signature:\n    - name: vendor\n      key: |\n        " +
		strings.ReplaceAll(pem, "\n", "\n        ") + "\n"
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}
