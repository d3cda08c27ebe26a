package fleet

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/bothy-edge/bothy/updater/release"
)

// cheap is a cost of passphrases that tests can afford.
const cheap = 8

// answers gives passphrases by key name and counts the questions.
type answers struct {
	given map[string]string
	asked []string
}

func (a *answers) ask(name string) ([]byte, error) {
	a.asked = append(a.asked, name)
	return []byte(a.given[name]), nil
}

func newKeyring(t *testing.T) (*Keyring, *answers) {
	t.Helper()
	k := OpenKeys(t.TempDir())
	k.work = cheap
	a := &answers{given: map[string]string{}}
	k.Ask = a.ask
	return k, a
}

func create(t *testing.T, k *Keyring, name, algorithm, passphrase string) KeyInfo {
	t.Helper()
	info, err := k.Create(name, algorithm, []byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// public is the exported half of a key, by way of a file.
func public(t *testing.T, k *Keyring, name string) crypto.PublicKey {
	t.Helper()
	text, err := k.Export(name)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "exported.pub")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	key, err := ReadPublicKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestKeysAreListedLockedAndSignUnlocked(t *testing.T) {
	for _, algorithm := range []string{Ed25519, ECDSAP256} {
		for _, passphrase := range []string{"", "correct horse"} {
			k, a := newKeyring(t)
			made := create(t, k, "release-7", algorithm, passphrase)
			list, err := k.List()
			if err != nil || len(list) != 1 || list[0].ID != made.ID || len(a.asked) != 0 {
				t.Fatalf("got %v, %v and questions %v", list, err, a.asked)
			}
			if got := list[0]; got.Name != "release-7" || got.Algorithm != algorithm || got.Encrypted != (passphrase != "") || !got.Private {
				t.Errorf("got %+v", got)
			}
			text, err := os.ReadFile(k.path("release-7", ".pem"))
			if err != nil {
				t.Fatal(err)
			}
			if open := strings.Contains(string(text), "PRIVATE KEY"); open != (passphrase == "") {
				t.Errorf("the key's file is readable: %v, with passphrase %q", open, passphrase)
			}
			if _, id, err := keyID(public(t, k, "release-7")); err != nil || id != made.ID {
				t.Errorf("got id %s exported, want %s (%v)", id, made.ID, err)
			}
			a.given["release-7"] = passphrase
			for range 2 {
				keys, err := k.signers([]string{made.ID, "other"}, 1)
				if err != nil || len(keys) != 1 {
					t.Fatalf("got %d signers, %v", len(keys), err)
				}
			}
			if want := min(len(passphrase), 1); len(a.asked) != want {
				t.Errorf("asked %d times, want %d", len(a.asked), want)
			}
		}
	}
}

// TestEncryptedKeyIsAnAgeFile: what other tools can open is not lost with bothy.
func TestEncryptedKeyIsAnAgeFile(t *testing.T) {
	k, _ := newKeyring(t)
	made := create(t, k, "root", Ed25519, "secret")
	file, err := os.Open(k.path("root", ".pem"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	identity, err := age.NewScryptIdentity("secret")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := age.Decrypt(armor.NewReader(file), identity)
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 4096)
	n, _ := plain.Read(text)
	key, err := parsePrivate("root", text[:n])
	if err != nil {
		t.Fatal(err)
	}
	if _, id, _ := keyID(key.Public()); id != made.ID {
		t.Errorf("got key %s in the file, want %s", id, made.ID)
	}
}

func TestWrongOrNoPassphraseLeavesTheKeyLocked(t *testing.T) {
	k, a := newKeyring(t)
	made := create(t, k, "root", ECDSAP256, "right")
	a.given["root"] = "wrong"
	if _, err := k.signers([]string{made.ID}, 1); !errors.Is(err, errPassphrase) {
		t.Errorf("got %v with a wrong passphrase", err)
	}
	if err := k.SetPassphrase("root", []byte("new")); !errors.Is(err, errPassphrase) {
		t.Errorf("got %v", err)
	}
	a.given["root"] = ""
	if keys, err := k.signers([]string{made.ID}, 1); err != nil || len(keys) != 0 {
		t.Errorf("got %d signers, %v without a passphrase", len(keys), err)
	}
	a.given["root"] = "right"
	if err := k.SetPassphrase("root", []byte("new")); err != nil {
		t.Fatal(err)
	}
	again := OpenKeys(k.dir)
	again.Ask = (&answers{given: map[string]string{"root": "right"}}).ask
	if _, err := again.signers([]string{made.ID}, 1); !errors.Is(err, errPassphrase) {
		t.Errorf("got %v with the old passphrase", err)
	}
	again.Ask = (&answers{given: map[string]string{"root": "new"}}).ask
	if keys, err := again.signers([]string{made.ID}, 1); err != nil || len(keys) != 1 {
		t.Errorf("got %d signers, %v with the new passphrase", len(keys), err)
	}
}

func TestCreateReplacesNothing(t *testing.T) {
	k, _ := newKeyring(t)
	create(t, k, "one", Ed25519, "")
	for name, algorithm := range map[string]string{"one": Ed25519, "../two": Ed25519, "": Ed25519, "three": "rsa"} {
		if info, err := k.Create(name, algorithm, nil); err == nil {
			t.Errorf("got %+v, want an error for %q", info, name)
		}
	}
	if err := os.Remove(k.path("one", ".pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Create("one", Ed25519, nil); err == nil {
		t.Error("made a key where the public half of another is")
	}
}

// makeCostly is an age file whose header asks for more work than is accepted.
func makeCostly(t *testing.T) []byte {
	t.Helper()
	file, err := encrypt([]byte("x"), []byte("secret"), cheap)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(armor.NewReader(bytes.NewReader(file)))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := armor.NewWriter(&out)
	changed := bytes.Replace(plain, fmt.Appendf(nil, " %d\n", cheap), fmt.Appendf(nil, " %d\n", maxWork+1), 1)
	if _, err := w.Write(changed); err != nil || bytes.Equal(changed, plain) {
		t.Fatalf("cannot change the header: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBadKeyFilesAreRefused(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	costly := makeCostly(t)
	noKey, err := encrypt([]byte("no key at all"), []byte("secret"), cheap)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text []byte
		want string
	}{
		"another curve":    {pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der}), "want ed25519 or ecdsa-p256"},
		"no key":           {[]byte("hello"), "neither PKCS#8 in PEM nor an armoured age file"},
		"not PKCS#8":       {pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: []byte("x")}), "cannot load key"},
		"huge":             {make([]byte, maxKeyFile+1), "are no key"},
		"cut short":        {costly[:100], "cannot open key"},
		"costly":           {costly, "work factor"},
		"age, but no key":  {noKey, "not PKCS#8 in PEM"},
		"empty, encrypted": {[]byte("-----BEGIN AGE ENCRYPTED FILE-----\n"), "cannot open key"},
	} {
		t.Run(name, func(t *testing.T) {
			k, a := newKeyring(t)
			create(t, k, "key", Ed25519, "")
			a.given["key"] = "secret"
			if err := os.WriteFile(k.path("key", ".pem"), c.text, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := k.unlock("key"); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
	k, a := newKeyring(t)
	one := create(t, k, "one", Ed25519, "secret")
	create(t, k, "two", Ed25519, "secret")
	a.given["two"] = "secret"
	if err := os.Chmod(k.path("one", ".pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := k.List(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v for a key that others can read", err)
	}
	if err := errors.Join(os.Remove(k.path("one", ".pem")), os.Rename(k.path("one", ".pub"), k.path("two", ".pub"))); err != nil {
		t.Fatal(err)
	}
	if _, err := k.signers([]string{one.ID}, 1); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("got %v for a public half that is another key's", err)
	}
}

func TestFolderOfAnEarlierBothyAndOtherFilesInIt(t *testing.T) {
	f := newFleet(t)
	halves, err := filepath.Glob(filepath.Join(f.Dir(), "keys", "*.pub"))
	if err != nil || len(halves) != 20 {
		t.Fatalf("got %d public halves, %v", len(halves), err)
	}
	for _, path := range halves {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"broker.pem": "-----BEGIN CERTIFICATE-----\n", "id.pub": "ssh-ed25519 AAAA", "notes.txt": "x"} {
		if err := os.WriteFile(filepath.Join(f.Dir(), "keys", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	add(t, f, release.Model, "mote", "weights")
	if got := sign1(t, f); len(got) != 1 {
		t.Errorf("signed %d releases, want 1", len(got))
	}
	if keys, err := f.ListKeys(); err != nil || len(keys) != 20 {
		t.Errorf("got %d keys, %v", len(keys), err)
	}
	// Closing a key makes its public half; losing that is said, and mended by the same command.
	f.Keys.work = cheap
	a := &answers{given: map[string]string{"release-1": "secret"}}
	f.Keys.Ask = a.ask
	for range 2 {
		if err := f.Keys.SetPassphrase("release-1", []byte("secret")); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Keys.Export("release-1"); err != nil {
			t.Error(err)
		}
		if err := os.Remove(f.Keys.path("release-1", ".pub")); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ListKeys(); err == nil || !strings.Contains(err.Error(), "; run: bothy fleet key passphrase") {
			t.Errorf("got %v without the public half of an encrypted key", err)
		}
	}
}

func TestSigningAsksOnceAndOnlyForAsManyKeysAsAreNeeded(t *testing.T) {
	f := newFleet(t)
	f.Keys.work = cheap
	a := &answers{given: map[string]string{"release-1": "one", "release-2": "two", "release-3": "three"}}
	for name, passphrase := range a.given {
		if err := f.Keys.SetPassphrase(name, []byte(passphrase)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := Open(f.Dir())
	if err != nil {
		t.Fatal(err)
	}
	f.Now = noon
	add(t, f, release.Model, "mote", "weights")
	if _, err := f.Sign(); err == nil || !strings.Contains(err.Error(), "0 of the 2 needed are here") {
		t.Errorf("got %v without passphrases", err)
	}
	f.Keys.Ask = a.ask
	sign1(t, f)
	add(t, f, release.Model, "mote", "more weights")
	sign1(t, f)
	if got := strings.Join(a.asked, " "); got != "release-1 release-2" {
		t.Errorf("asked for %q", got)
	}
	assign(t, f, "box-1", map[string]string{"chat": "mote"}, "")
	if want, err := client(t, f, "box-1", noon).Refresh(t.Context(), from{f, "box-1"}); err != nil || want.Models["chat"].Version != 2 {
		t.Errorf("got %v, %v", want, err)
	}
}
