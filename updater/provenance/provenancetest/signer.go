// Package provenancetest signs models for tests, after the OpenSSF Model Signing
// specification, the way a publisher's tool does: a statement over the digests of
// the files, in a DSSE envelope, in a Sigstore bundle. What it makes can be spoilt
// at every layer before it is signed. No product code may use it: its keys are
// made on the spot and it ends the test on any error.
package provenancetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/updater/provenance"
)

// Object is a JSON object.
type Object = map[string]any

// Signer is a publisher of models.
type Signer struct {
	t   testing.TB
	key *ecdsa.PrivateKey
	// KeyPEM is the public key. RootsPEM are the roots of Chain.
	KeyPEM, RootsPEM string
	// Chain is in DER, the signer's certificate first; empty for the method "key".
	Chain [][]byte
}

// NewKey makes a signer who is known by a key.
func NewKey(t testing.TB, curve elliptic.Curve) Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	return Signer{t: t, key: key, KeyPEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

// NewCertificate makes a signer who is known by a certificate of a new company:
// root, intermediate and signer. edit may change the signer's certificate.
func NewCertificate(t testing.TB, from, to time.Time, edit func(*x509.Certificate)) Signer {
	t.Helper()
	s := NewKey(t, elliptic.P384())
	root, between := NewKey(t, elliptic.P256()), NewKey(t, elliptic.P256())
	authority := func(name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: from.AddDate(-5, 0, 0),
			NotAfter: to.AddDate(5, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "model team"}, NotBefore: from, NotAfter: to,
		EmailAddresses: []string{"models@example.com"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
	if edit != nil {
		edit(leaf)
	}
	top, middle := authority("root"), authority("intermediate")
	rootDER := issue(t, top, top, root, root)
	s.Chain = [][]byte{issue(t, leaf, middle, s, between), issue(t, middle, top, between, root)}
	s.RootsPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}))
	return s
}

func issue(t testing.TB, c, parent *x509.Certificate, of, by Signer) []byte {
	der, err := x509.CreateCertificate(rand.Reader, c, parent, of.key.Public(), by.key)
	must(t, err)
	return der
}

// must is not t.Helper: a signer made for a fuzz test signs inside its target too.
func must(t testing.TB, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

// FileOf describes a file's contents.
func FileOf(name, contents string) provenance.File {
	sum := sha256.Sum256([]byte(contents))
	return provenance.File{Name: name, SHA256: hex.EncodeToString(sum[:])}
}

// SignIgnoring signs files and the paths that were left out.
func (s Signer) SignIgnoring(ignored []string, files ...provenance.File) []byte {
	statement := Statement(files...)
	statement["predicate"].(Object)["serialization"].(Object)["ignore_paths"] = ignored
	return Encode(s.t, s.Bundle(statement))
}

// Statement is what is signed of files, as a publisher's tool writes it.
func Statement(files ...provenance.File) Object {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b provenance.File) int { return strings.Compare(a.Name, b.Name) })
	all := sha256.New()
	resources := []any{}
	for _, f := range files {
		sum, _ := hex.DecodeString(f.SHA256)
		all.Write(sum)
		resources = append(resources, Object{"name": f.Name, "algorithm": "sha256", "digest": f.SHA256})
	}
	return Object{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{Object{"name": "model", "digest": Object{"sha256": hex.EncodeToString(all.Sum(nil))}}},
		"predicateType": "https://model_signing/signature/v1.0",
		"predicate": Object{
			"serialization": Object{"method": "files", "hash_type": "sha256", "allow_symlinks": false,
				"ignore_paths": []any{"model.sig", ".git", ".gitignore", ".gitattributes", ".github"}},
			"resources": resources,
		},
	}
}

// Sign signs files.
func (s Signer) Sign(files ...provenance.File) []byte {
	return Encode(s.t, s.Bundle(Statement(files...)))
}

// SignFolder signs every file in a folder, by its path below it, and writes model.sig into it.
func (s Signer) SignFolder(dir string) (path string) {
	s.t.Helper()
	var files []provenance.File
	must(s.t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files = append(files, FileOf(filepath.ToSlash(name), string(raw)))
		return err
	}))
	path = filepath.Join(dir, "model.sig")
	must(s.t, os.WriteFile(path, s.Sign(files...), 0o644))
	return path
}

// Bundle signs a statement, whatever it says.
func (s Signer) Bundle(statement Object) Object {
	return s.Wrap(Encode(s.t, statement))
}

// Wrap signs a payload, whatever it is.
func (s Signer) Wrap(payload []byte) Object {
	const kind = "application/vnd.in-toto+json"
	signature, err := ecdsa.SignASN1(rand.Reader, s.key, digest(s.key.Curve, fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload)))
	must(s.t, err)
	hint := sha256.Sum256([]byte(s.KeyPEM))
	material := Object{"publicKey": Object{"hint": hex.EncodeToString(hint[:])}, "tlogEntries": []any{}}
	if len(s.Chain) > 0 {
		certificates := []any{}
		for _, der := range s.Chain {
			certificates = append(certificates, Object{"rawBytes": base64.StdEncoding.EncodeToString(der)})
		}
		material = Object{"x509CertificateChain": Object{"certificates": certificates}, "tlogEntries": []any{}}
	}
	return Object{
		"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": material,
		"dsseEnvelope": Object{"payload": base64.StdEncoding.EncodeToString(payload), "payloadType": kind,
			"signatures": []any{Object{"sig": base64.StdEncoding.EncodeToString(signature), "keyid": ""}}},
	}
}

func digest(curve elliptic.Curve, message []byte) []byte {
	switch curve {
	case elliptic.P384():
		sum := sha512.Sum384(message)
		return sum[:]
	case elliptic.P521():
		sum := sha512.Sum512(message)
		return sum[:]
	}
	sum := sha256.Sum256(message)
	return sum[:]
}

// Encode writes JSON.
func Encode(t testing.TB, v any) []byte {
	raw, err := json.Marshal(v)
	must(t, err)
	return raw
}
