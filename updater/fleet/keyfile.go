package fleet

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/bothy-edge/bothy/agent/store"
)

// Algorithms of keys, as they are written and shown.
const (
	Ed25519   = "ed25519"
	ECDSAP256 = "ecdsa-p256"
)

// Types of PEM blocks.
const (
	pemPrivate   = "PRIVATE KEY"
	pemPublic    = "PUBLIC KEY"
	pemEncrypted = armorType
	armorType    = "AGE ENCRYPTED FILE"
)

// maxWork bounds what a key file may cost to open: 2^20 is some four seconds
// and 1 GiB. Files are written with age's own default, 2^18.
const maxWork = 20

// maxKeyFile bounds a key file in bytes.
const maxKeyFile = 64 << 10

func newPrivateKey(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case ECDSAP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return nil, fmt.Errorf("there is no algorithm %q; want %s or %s", algorithm, Ed25519, ECDSAP256)
}

// algorithmOf refuses keys that the fleet does not make: what is not P-256
// would be signed with the wrong digest.
func algorithmOf(public crypto.PublicKey) (string, error) {
	switch key := public.(type) {
	case ed25519.PublicKey:
		return Ed25519, nil
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			return ECDSAP256, nil
		}
	}
	return "", fmt.Errorf("it is a %T, want %s or %s: %w", public, Ed25519, ECDSAP256, errNoKey)
}

// signPayload signs as TUF names it: ed25519 over the payload, or
// ecdsa-sha2-nistp256 over its SHA-256.
func signPayload(key crypto.Signer, payload []byte) ([]byte, error) {
	if _, ok := key.(ed25519.PrivateKey); ok {
		return key.Sign(rand.Reader, payload, crypto.Hash(0))
	}
	sum := sha256.Sum256(payload)
	return key.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// keyID is a public key as go-tuf has it, and its id.
func keyID(public crypto.PublicKey) (*metadata.Key, string, error) {
	if _, err := algorithmOf(public); err != nil {
		return nil, "", err
	}
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return nil, "", fmt.Errorf("cannot describe key: %w", err)
	}
	id, err := key.ID()
	if err != nil {
		return nil, "", fmt.Errorf("cannot describe key: %w", err)
	}
	return key, id, nil
}

// writePrivate stores a private key as PKCS#8 in PEM. With a passphrase, that
// text is the content of an armoured age file, which the age program opens too.
func writePrivate(path string, key crypto.Signer, passphrase []byte, work int) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("cannot encode key %s: %w", path, err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der})
	if len(passphrase) > 0 {
		if text, err = encrypt(text, passphrase, work); err != nil {
			return fmt.Errorf("cannot encrypt key %s: %w", path, err)
		}
	}
	return store.WriteFile(path, text, 0o600)
}

// encrypt makes an armoured age file; work 0 is age's default cost.
func encrypt(text, passphrase []byte, work int) ([]byte, error) {
	recipient, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return nil, err
	}
	if work > 0 {
		recipient.SetWorkFactor(work)
	}
	var out bytes.Buffer
	armoured := armor.NewWriter(&out)
	w, err := age.Encrypt(armoured, recipient)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), armoured.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// errNoKey is a file that is something else than a key of a fleet.
var errNoKey = errors.New("it is no key of a fleet")

// errPassphrase is a passphrase that does not open the file.
var errPassphrase = errors.New("the passphrase is wrong")

func decrypt(text, passphrase []byte) ([]byte, error) {
	identity, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, err
	}
	identity.SetMaxWorkFactor(maxWork)
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(text)), identity)
	if errors.As(err, new(*age.NoIdentityMatchError)) {
		return nil, errPassphrase
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, maxKeyFile))
}

// readPrivateFile reads a key file and the type of its PEM block. A file that
// others can read is refused.
func readPrivateFile(path string) (text []byte, kind string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, "", fmt.Errorf("cannot load key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, "", fmt.Errorf("cannot load key %s: its mode is %04o, others can read it; run: chmod 600 %s", path, mode, path)
	}
	if info.Size() > maxKeyFile {
		return nil, "", fmt.Errorf("cannot load key %s: %d bytes are no key", path, info.Size())
	}
	if text, err = os.ReadFile(path); err != nil {
		return nil, "", fmt.Errorf("cannot load key: %w", err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	switch string(bytes.TrimSpace(line)) {
	case "-----BEGIN " + pemPrivate + "-----":
		return text, pemPrivate, nil
	case "-----BEGIN " + pemEncrypted + "-----":
		return text, pemEncrypted, nil
	}
	return nil, "", fmt.Errorf("cannot load key %s: it is neither PKCS#8 in PEM nor an armoured age file: %w", path, errNoKey)
}

func parsePrivate(path string, text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemPrivate {
		return nil, fmt.Errorf("cannot load key %s: it is not PKCS#8 in PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot load key %s: %w", path, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("cannot load key %s: a %T cannot sign", path, parsed)
	}
	if _, err := algorithmOf(key.Public()); err != nil {
		return nil, fmt.Errorf("cannot load key %s: %w", path, err)
	}
	return key, nil
}

func encodePublic(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("cannot encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der}), nil
}

// ReadPublicKey loads a public key, as PKIX in PEM, that Export wrote.
func ReadPublicKey(path string) (crypto.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot load public key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemPublic {
		return nil, fmt.Errorf("cannot load public key %s: it is no public key in PEM: %w; run: bothy fleet key export DIR NAME", path, errNoKey)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot load public key %s: %w", path, err)
	}
	if _, err := algorithmOf(public); err != nil {
		return nil, fmt.Errorf("cannot load public key %s: %w", path, err)
	}
	return public, nil
}
