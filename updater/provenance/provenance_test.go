package provenance_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/updater/provenance"
	"github.com/bothy-edge/bothy/updater/provenance/provenancetest"
)

type object = provenancetest.Object

var (
	day  = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	from = day.AddDate(0, -1, 0)
	to   = day.AddDate(0, 1, 0)
)

func model() []provenance.File {
	return []provenance.File{provenancetest.FileOf("config.json", "{}"), provenancetest.FileOf("weights/a.gguf", "weights")}
}

func signer(t testing.TB, spec provenance.Spec) provenance.Signer {
	t.Helper()
	s, err := provenance.NewSigner(spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func byKey(t testing.TB, s provenancetest.Signer) provenance.Signer {
	return signer(t, provenance.Spec{Name: "vendor", Key: s.KeyPEM})
}

func byRoots(t testing.TB, s provenancetest.Signer, identity string) provenance.Signer {
	return signer(t, provenance.Spec{Name: "team", Roots: s.RootsPEM, Identity: identity})
}

func TestKeySignatureOfEveryCurveVerifies(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		s := provenancetest.NewKey(t, curve)
		other := provenancetest.NewKey(t, elliptic.P256())
		got, err := provenance.Verify(s.Sign(model()...), []provenance.Signer{byKey(t, other), byKey(t, s)}, day)
		if err != nil {
			t.Fatalf("%s: %v", curve.Params().Name, err)
		}
		if got.Method != provenance.Key || got.Signer != "vendor" || got.Subject != "model" {
			t.Errorf("%s: got %+v", curve.Params().Name, got)
		}
		if err := got.Match(model()); err != nil {
			t.Errorf("%s: %v", curve.Params().Name, err)
		}
	}
}

// TestOlderBundlesVerify: what tools before version 1.1 wrote, by section 11 of the specification.
func TestOlderBundlesVerify(t *testing.T) {
	s := provenancetest.NewKey(t, elliptic.P384())
	one := provenancetest.FileOf(".", "weights")
	statement := provenancetest.Statement(one)
	delete(statement["predicate"].(object)["serialization"].(object), "ignore_paths")
	statement["subject"].([]any)[0].(object)["name"] = "a.gguf"
	bundle := s.Bundle(statement)
	bundle["verificationMaterial"] = object{"publicKey": object{"rawBytes": "AAAA", "keyDetails": "PKIX_ECDSA_P384_SHA_384"}}
	bundle["dsseEnvelope"].(object)["signatures"].([]any)[0].(object)["keyid"] = nil
	got, err := provenance.Verify(provenancetest.Encode(t, bundle), []provenance.Signer{byKey(t, s)}, day)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Match([]provenance.File{provenancetest.FileOf("a.gguf", "weights")}); err != nil {
		t.Error(err)
	}
}

func TestCertificateSignature(t *testing.T) {
	usage := func(u x509.KeyUsage, ext ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.KeyUsage, c.ExtKeyUsage = u, ext }
	}
	for name, test := range map[string]struct {
		edit     func(*x509.Certificate)
		identity string
		at       time.Time
		want     string // in the error; "" verifies
	}{
		"any identity":                      {nil, "", day, ""},
		"identity by e-mail address":        {nil, "models@example.com", day, ""},
		"identity by common name":           {nil, "model team", day, ""},
		"another identity":                  {nil, "sales@example.com", day, "not of"},
		"part of an identity":               {nil, "model", day, "not of"},
		"before it is valid":                {nil, "", from.Add(-time.Hour), "not yet valid"},
		"after it was valid":                {nil, "", to.Add(time.Hour), "expired"},
		"digitalSignature without extended": {usage(x509.KeyUsageDigitalSignature), "", day, ""},
		"codeSigning without a usage":       {usage(0, x509.ExtKeyUsageCodeSigning), "", day, ""},
		"a server's certificate":            {usage(x509.KeyUsageDigitalSignature, x509.ExtKeyUsageServerAuth), "", day, "not for signing"},
		"for encryption":                    {usage(x509.KeyUsageKeyEncipherment), "", day, "not for signing"},
		"codeSigning for encryption only":   {usage(x509.KeyUsageKeyEncipherment, x509.ExtKeyUsageCodeSigning), "", day, "not for signing"},
		"no usage at all":                   {usage(0), "", day, "not for signing"},
		"a critical extension nobody knows of": {func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, critical())
		}, "", day, "critical"},
	} {
		t.Run(name, func(t *testing.T) {
			s := provenancetest.NewCertificate(t, from, to, test.edit)
			got, err := provenance.Verify(s.Sign(model()...), []provenance.Signer{byRoots(t, s, test.identity)}, test.at)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, %v; want an error with %q", got, err, test.want)
				}
				return
			}
			if err != nil || got.Method != provenance.Certificate || got.Signer != "team" || got.Match(model()) != nil {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// critical is an extension that a verifier must understand and none does.
func critical() pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}
}

func ed25519PEM(t *testing.T) string {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// attack spoils a signature that is otherwise as the publisher made it.
type attack struct {
	name string
	// statement changes what is signed, bundle what is around it.
	statement func(object)
	bundle    func(object)
	want      string
}

func predicate(s object) object { return s["predicate"].(object) }
func how(s object) object       { return predicate(s)["serialization"].(object) }
func file(s object) object      { return predicate(s)["resources"].([]any)[0].(object) }
func envelope(b object) object  { return b["dsseEnvelope"].(object) }
func material(b object) object  { return b["verificationMaterial"].(object) }

func statementAttacks() []attack {
	all := []attack{
		{"another statement", func(s object) { s["_type"] = "https://in-toto.io/Statement/v0.1" }, nil, "states"},
		{"another predicate", func(s object) { s["predicateType"] = "https://slsa.dev/provenance/v1" }, nil, "predicate is"},
		{"the predicate of version 0.2", func(s object) { s["predicateType"] = "https://model_signing/Digests/v0.1" }, nil, "sign again"},
		{"shards", func(s object) { how(s)["method"] = "shards" }, nil, "whole file"},
		{"another hash for all", func(s object) { how(s)["hash_type"] = "blake3" }, nil, "want sha256"},
		{"another hash for one", func(s object) { file(s)["algorithm"] = "blake2b" }, nil, "SHA-256"},
		{"a digest that is cut off", func(s object) { file(s)["digest"] = "abcd" }, nil, "SHA-256"},
		{"a digest in upper case", func(s object) { file(s)["digest"] = strings.ToUpper(file(s)["digest"].(string)) }, nil, "lower-case"},
		{"no files", func(s object) { predicate(s)["resources"] = []any{} }, nil, "lists 0 files"},
		{"two subjects", func(s object) { s["subject"] = append(s["subject"].([]any), s["subject"].([]any)[0]) }, nil, "2 subjects"},
		{"no subject", func(s object) { s["subject"] = []any{} }, nil, "0 subjects"},
		{"another subject digest", func(s object) { s["subject"].([]any)[0].(object)["digest"] = object{"sha256": strings.Repeat("0", 64)} }, nil, "files give"},
		{"no subject digest", func(s object) { s["subject"].([]any)[0].(object)["digest"] = object{} }, nil, "files give"},
		{"files in another order than their digest", func(s object) {
			r := predicate(s)["resources"].([]any)
			r[0], r[1] = r[1], r[0]
		}, nil, "files give"},
		{"a file twice", func(s object) { file(s)["name"] = "weights/a.gguf" }, nil, "twice"},
		{"a file twice in other case", func(s object) { file(s)["name"] = "Weights/A.gguf" }, nil, "twice"},
		{"a number for a name", func(s object) { file(s)["name"] = 5 }, nil, "cannot be read"},
	}
	for _, name := range []string{"../config.json", "a/../../b", "/etc/passwd", "..", ".", "./a", "a//b", "a/", "", `..\a`, "C:a", "a\x00b", "a\nb", strings.Repeat("a", 513)} {
		all = append(all, attack{fmt.Sprintf("a file named %.20q", name), func(s object) { file(s)["name"] = name }, nil, "lists a file"})
	}
	return all
}

func bundleAttacks() []attack {
	return []attack{
		{"another media type", nil, func(b object) { b["mediaType"] = "application/json" }, "media type"},
		{"a bundle of a later version", nil, func(b object) { b["mediaType"] = "application/vnd.dev.sigstore.bundle.v9.0+json" }, "media type"},
		{"no material", nil, func(b object) { b["verificationMaterial"] = object{} }, "either a public key or"},
		{"two materials", nil, func(b object) { material(b)["x509CertificateChain"] = object{"certificates": []any{}} }, "either a public key or"},
		{"keyless", nil, func(b object) { b["verificationMaterial"] = object{"certificate": object{"rawBytes": "AAAA"}} }, "transparency log"},
		{"a chain of nothing", nil, func(b object) {
			b["verificationMaterial"] = object{"x509CertificateChain": object{"certificates": []any{}}}
		}, "0 certificates"},
		{"a chain that is no certificate", nil, func(b object) {
			b["verificationMaterial"] = object{"x509CertificateChain": object{"certificates": []any{object{"rawBytes": "AAAA"}}}}
		}, "certificates"},
		{"a certificate of a megabyte", nil, func(b object) {
			b["verificationMaterial"] = object{"x509CertificateChain": object{"certificates": []any{object{"rawBytes": base64.StdEncoding.EncodeToString(make([]byte, 1<<20))}}}}
		}, "certificate has"},
		{"a chain without end", nil, func(b object) {
			c := make([]any, 100)
			for i := range c {
				c[i] = object{"rawBytes": "AAAA"}
			}
			b["verificationMaterial"] = object{"x509CertificateChain": object{"certificates": c}}
		}, "100 certificates"},
		{"no envelope", nil, func(b object) { delete(b, "dsseEnvelope") }, "no DSSE envelope"},
		{"a message signature too", nil, func(b object) { b["messageSignature"] = object{} }, "or more"},
		{"another payload type", nil, func(b object) { envelope(b)["payloadType"] = "application/json" }, "envelope holds"},
		{"no signature", nil, func(b object) { envelope(b)["signatures"] = []any{} }, "0 signatures"},
		{"two signatures", nil, func(b object) {
			envelope(b)["signatures"] = append(envelope(b)["signatures"].([]any), envelope(b)["signatures"].([]any)...)
		}, "2 signatures"},
		{"a signature that is not base64", nil, func(b object) { envelope(b)["signatures"] = []any{object{"sig": "%%"}} }, "not base64"},
		{"an empty signature", nil, func(b object) { envelope(b)["signatures"] = []any{object{"sig": ""}} }, "no possible length"},
		{"a signature of something else", nil, func(b object) { envelope(b)["signatures"] = []any{object{"sig": "AAAA"}} }, "was changed"},
		{"a payload that is not base64", nil, func(b object) { envelope(b)["payload"] = "%%" }, "not base64"},
		{"a payload that was changed", nil, func(b object) {
			raw, _ := base64.StdEncoding.DecodeString(envelope(b)["payload"].(string))
			envelope(b)["payload"] = base64.StdEncoding.EncodeToString(bytes.Replace(raw, []byte("config"), []byte("confic"), 1))
		}, "was changed"},
		{"a key that nobody knows", nil, func(b object) { // as if another had signed
			material(b)["publicKey"] = object{"hint": "beef"}
			envelope(b)["signatures"] = []any{object{"sig": "AAAA"}}
		}, "none of the keys"},
	}
}

func TestSpoiltSignaturesAreRefused(t *testing.T) {
	s := provenancetest.NewKey(t, elliptic.P256())
	roots := provenancetest.NewCertificate(t, from, to, nil)
	for _, a := range append(statementAttacks(), bundleAttacks()...) {
		t.Run(a.name, func(t *testing.T) {
			statement := provenancetest.Statement(model()...)
			if a.statement != nil {
				a.statement(statement)
			}
			bundle := s.Bundle(statement)
			if a.bundle != nil {
				a.bundle(bundle)
			}
			got, err := provenance.Verify(provenancetest.Encode(t, bundle), []provenance.Signer{byKey(t, s), byRoots(t, roots, "")}, day)
			if err == nil || !strings.Contains(err.Error(), a.want) {
				t.Errorf("got %v, %v; want an error with %q", got, err, a.want)
			}
		})
	}
}

func TestSignatureOfAStrangerIsRefused(t *testing.T) {
	ours, key := provenancetest.NewCertificate(t, from, to, nil), provenancetest.NewKey(t, elliptic.P256())
	stranger := provenancetest.NewCertificate(t, from, to, nil)
	mixed := stranger // our certificate over the stranger's signature
	mixed.Chain = ours.Chain
	short := ours // without the certificate between
	short.Chain = ours.Chain[:1]
	for name, test := range map[string]struct {
		raw     []byte
		signers []provenance.Signer
		want    string
	}{
		"certificate of another root": {stranger.Sign(model()...), []provenance.Signer{byRoots(t, ours, "")}, "unknown authority"},
		"certificate of another":      {mixed.Sign(model()...), []provenance.Signer{byRoots(t, ours, "")}, "its own certificate"},
		"incomplete chain":            {short.Sign(model()...), []provenance.Signer{byRoots(t, ours, "")}, "unknown authority"},
		"certificate, but keys known": {ours.Sign(model()...), []provenance.Signer{byKey(t, key)}, "no roots are known"},
		"key, but roots known":        {key.Sign(model()...), []provenance.Signer{byRoots(t, ours, "")}, "no key is known"},
		"nobody known":                {key.Sign(model()...), nil, "no key is known"},
	} {
		if got, err := provenance.Verify(test.raw, test.signers, day); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, %v; want an error with %q", name, got, err, test.want)
		}
	}
}

// TestHugeKeysInAChainAreRefusedBeforeTheyAreUsed: one check with a key that
// fills a certificate takes seconds, and a chain has many.
func TestHugeKeysInAChainAreRefusedBeforeTheyAreUsed(t *testing.T) {
	s := provenancetest.NewCertificate(t, from, to, nil)
	by, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	huge := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 20_000, 1), E: 65537}
	c := &x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "huge"}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, c, c, huge, by)
	if err != nil {
		t.Fatal(err)
	}
	s.Chain = append(s.Chain, der)
	got, err := provenance.Verify(s.Sign(model()...), []provenance.Signer{byRoots(t, s, "")}, day)
	if err == nil || !strings.Contains(err.Error(), "20001 bits") {
		t.Errorf("got %v, %v; want the key refused", got, err)
	}
}

func TestAmbiguousOrHugeJSONIsRefused(t *testing.T) {
	s := provenancetest.NewKey(t, elliptic.P256())
	payload := provenancetest.Encode(t, provenancetest.Statement(model()...))
	twice := bytes.Replace(payload, []byte(`"resources":`), []byte(`"Resources":[],"resources":`), 1)
	for name, test := range map[string]struct {
		raw  []byte
		want string
	}{
		"a member of the statement twice": {provenancetest.Encode(t, s.Wrap(twice)), "twice"},
		"a member twice, with a long s":   {bytes.Replace(s.Sign(model()...), []byte(`{`), []byte(`{"dſseEnvelope":{},`), 1), "twice"},
		"a member of the bundle twice":    {bytes.Replace(s.Sign(model()...), []byte(`{`), []byte(`{"DSSEEnvelope":{},`), 1), "twice"},
		"more after the end":              {append(s.Sign(model()...), "{}"...), "cannot be read"},
		"nothing":                         {nil, "cannot be read"},
		"null":                            {[]byte("null"), "media type"},
		"deep":                            {bytes.Repeat([]byte(`[`), 1000), "deeper"},
		"too large":                       {make([]byte, provenance.MaxBundle+1), "at most"},
		"a statement that is no JSON":     {provenancetest.Encode(t, s.Wrap([]byte("hello"))), "not JSON"},
	} {
		if got, err := provenance.Verify(test.raw, []provenance.Signer{byKey(t, s)}, day); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, %v; want an error with %q", name, got, err, test.want)
		}
	}
}

func TestFilesMustBeExactlyThoseSigned(t *testing.T) {
	s := provenancetest.NewKey(t, elliptic.P256())
	got, err := provenance.Verify(s.Sign(model()...), []provenance.Signer{byKey(t, s)}, day)
	if err != nil {
		t.Fatal(err)
	}
	config, weights := model()[0], model()[1]
	for name, test := range map[string]struct {
		files []provenance.File
		want  string
	}{
		"all":                        {[]provenance.File{weights, config}, ""},
		"one missing":                {[]provenance.File{config}, "missing"},
		"none":                       {nil, "missing"},
		"one more":                   {append(model(), provenancetest.FileOf("evil.so", "x")), "not among those signed"},
		"one more that is ignored":   {append(model(), provenancetest.FileOf(".gitattributes", "x")), "not among those signed"},
		"one changed":                {[]provenance.File{config, provenancetest.FileOf("weights/a.gguf", "other")}, "SHA-256"},
		"one twice":                  {[]provenance.File{config, config, weights}, "not among those signed"},
		"one in another folder":      {[]provenance.File{config, provenancetest.FileOf("a.gguf", "weights")}, "not among those signed"},
		"two with each other's name": {[]provenance.File{{Name: config.Name, SHA256: weights.SHA256}, {Name: weights.Name, SHA256: config.SHA256}}, "SHA-256"},
	} {
		err := got.Match(test.files)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want an error with %q", name, err, test.want)
		}
	}
}

func TestIgnoredPathsAreThoseThatWereSigned(t *testing.T) {
	s := provenancetest.NewKey(t, elliptic.P256())
	statement := provenancetest.Statement(model()...)
	how(statement)["ignore_paths"] = []any{"model.sig", "cache", "logs/", "", "/", "../outside"}
	got, err := provenance.Verify(provenancetest.Encode(t, s.Bundle(statement)), []provenance.Signer{byKey(t, s)}, day)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"model.sig": true, "cache": true, "cache/a/b": true, "logs/1": true, ".git/config": true, ".gitignore": true,
		"sub/model.sig": false, "cached": false, "config.json": false, "sub/.git/config": false, "a": false, ".github2": false,
	} {
		if got.Ignores(name) != want {
			t.Errorf("%s: got ignored %v, want %v", name, !want, want)
		}
	}
}

func TestSignersAreDescribedInFull(t *testing.T) {
	key, roots := provenancetest.NewKey(t, elliptic.P256()), provenancetest.NewCertificate(t, from, to, nil)
	for name, test := range map[string]struct {
		spec provenance.Spec
		want string
	}{
		"nothing":           {provenance.Spec{}, "either"},
		"both":              {provenance.Spec{Key: key.KeyPEM, Roots: roots.RootsPEM}, "either"},
		"key and identity":  {provenance.Spec{Key: key.KeyPEM, Identity: "x"}, "goes with roots"},
		"two keys":          {provenance.Spec{Key: key.KeyPEM + key.KeyPEM}, "not several"},
		"no PEM":            {provenance.Spec{Key: "hello"}, "PEM block"},
		"a private key":     {provenance.Spec{Key: "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}, "PUBLIC KEY"},
		"a broken key":      {provenance.Spec{Key: "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}, "cannot read"},
		"a key for roots":   {provenance.Spec{Roots: key.KeyPEM}, "CERTIFICATE"},
		"a root for a key":  {provenance.Spec{Key: roots.RootsPEM}, "PUBLIC KEY"},
		"broken roots":      {provenance.Spec{Roots: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "cannot read"},
		"no roots":          {provenance.Spec{Roots: "# none yet\n"}, "one or more"},
		"too much":          {provenance.Spec{Roots: strings.Repeat(roots.RootsPEM, 200)}, "at most"},
		"an ed25519 key":    {provenance.Spec{Key: ed25519PEM(t)}, "ECDSA"},
		"a key of 224 bits": {provenance.Spec{Key: provenancetest.NewKey(t, elliptic.P224()).KeyPEM}, "P-224"},
	} {
		if _, err := provenance.NewSigner(test.spec); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, test.want)
		}
	}
}

// FuzzVerify: hostile bytes, also behind a good signature, end in an error or
// in a manifest whose names all stay in their folder.
func FuzzVerify(f *testing.F) {
	s := provenancetest.NewKey(f, elliptic.P256())
	chain := provenancetest.NewCertificate(f, from, to, nil)
	f.Add(s.Sign(model()...), false)
	f.Add(chain.Sign(model()...), false)
	f.Add(provenancetest.Encode(f, provenancetest.Statement(model()...)), true)
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"..","digest":{"sha256":""}}],"predicateType":"https://model_signing/signature/v1.0","predicate":{"serialization":{"method":"files","hash_type":"sha256"},"resources":[{"name":".","algorithm":"sha256","digest":"00"}]}}`), true)
	f.Add([]byte(`{"a":{"b":[{"a":1,"A":2}]}}`), true)
	f.Add([]byte(`[[[[`), false)
	signers := []provenance.Signer{byKey(f, s), byRoots(f, chain, "")}
	f.Fuzz(func(t *testing.T, raw []byte, signed bool) {
		if signed {
			raw = provenancetest.Encode(t, s.Wrap(raw))
		}
		got, err := provenance.Verify(raw, signers, day)
		if err != nil {
			return
		}
		names := map[string]bool{}
		for _, file := range got.Files {
			if strings.HasPrefix(file.Name, "/") || strings.Contains("/"+file.Name+"/", "/../") || strings.Contains(file.Name, `\`) || names[file.Name] || len(file.SHA256) != 64 {
				t.Errorf("accepted the file %+v", file)
			}
			names[file.Name] = true
		}
		if err := got.Match(got.Files); err != nil || len(got.Files) == 0 {
			t.Errorf("the signed files do not match themselves: %v", err)
		}
	})
}

// TestUnknownMembersDecideNothing: the specification asks that they be ignored.
func TestUnknownMembersDecideNothing(t *testing.T) {
	s := provenancetest.NewKey(t, elliptic.P256())
	statement := provenancetest.Statement(model()...)
	file(statement)["annotations"] = object{"x": 1}
	predicate(statement)["model_card"] = "later"
	bundle := s.Bundle(statement)
	maps.Copy(material(bundle), object{"timestampVerificationData": object{"rfc3161Timestamps": []any{}}})
	if _, err := provenance.Verify(provenancetest.Encode(t, bundle), []provenance.Signer{byKey(t, s)}, day); err != nil {
		t.Error(err)
	}
}
