package trust

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/bothy-edge/bothy/agent/store"
)

// SealedKeyFile holds the device key sealed by systemd-creds, in place of DeviceKeyFile.
const SealedKeyFile = "device.cred"

// SealName is the credential's name: part of what is sealed, so no other credential passes for it.
const SealName = "bothy.device"

// sealLimit bounds one run of systemd-creds; a TPM takes a second or two.
const sealLimit = 30 * time.Second

// HasTPM says whether systemd can seal to this box's TPM 2.0.
func HasTPM(ctx context.Context) bool {
	_, err := systemdCreds(ctx, nil, "has-tpm2", "--quiet")
	return err == nil
}

// SealDeviceKey makes the device's key in dir, sealed with what systemd-creds
// calls "tpm2", "host" or "host+tpm2": the file is worth nothing on another box.
// One that is there, sealed or not, is loaded and stays as it is. The key is
// opened again before this returns, so a box that cannot is found out here.
func SealDeviceKey(ctx context.Context, dir, with string) (ed25519.PrivateKey, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make device key: %w", err)
	}
	key, err := loadDeviceKey(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if _, key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, fmt.Errorf("cannot make device key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("internal error: cannot encode the device key: %w", err)
	}
	sealed, err := systemdCreds(ctx, der, "encrypt", "--with-key="+with, "--name="+SealName, "-", "-")
	if err != nil {
		return nil, fmt.Errorf("cannot seal the device key with %s: %w", with, err)
	}
	opened, err := unseal(ctx, sealed)
	if err == nil && !opened.Equal(key) {
		err = errors.New("another key comes out")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot seal the device key with %s: it does not open again: %w", with, err)
	}
	return key, store.WriteFile(filepath.Join(dir, SealedKeyFile), sealed, 0o600)
}

// loadDeviceKey loads the key in dir, as a file or sealed. Without either the
// error is fs.ErrNotExist.
func loadDeviceKey(dir string) (ed25519.PrivateKey, error) {
	sealed, err := os.ReadFile(filepath.Join(dir, SealedKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return ReadKey(filepath.Join(dir, DeviceKeyFile))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot load device key: %w", err)
	}
	// The service manager opens it for a unit with LoadCredentialEncrypted=.
	if given := os.Getenv("CREDENTIALS_DIRECTORY"); given != "" {
		if der, err := os.ReadFile(filepath.Join(given, SealName)); err == nil {
			return parseDER(der)
		}
	}
	// Loading an identity is the start of everything; there is no context above it yet.
	key, err := unseal(context.Background(), sealed)
	if err != nil {
		return nil, fmt.Errorf("cannot open the sealed device key %s: %w; run the agent with LoadCredentialEncrypted=%s:%[1]s in its unit",
			filepath.Join(dir, SealedKeyFile), err, SealName)
	}
	return key, nil
}

func unseal(ctx context.Context, sealed []byte) (ed25519.PrivateKey, error) {
	der, err := systemdCreds(ctx, sealed, "decrypt", "--name="+SealName, "-", "-")
	if err != nil {
		return nil, err
	}
	return parseDER(der)
}

func parseDER(der []byte) (ed25519.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T, want ed25519", parsed)
	}
	return key, nil
}

// systemdCreds runs the program with a key on its standard input: never in its arguments.
func systemdCreds(ctx context.Context, in []byte, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, sealLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemd-creds", args...)
	cmd.WaitDelay = time.Second
	cmd.Stdin = bytes.NewReader(in)
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("systemd-creds %s: %w: %s", args[0], err, strings.TrimSpace(words.String()))
	}
	return out, nil
}
