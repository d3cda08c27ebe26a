package trust

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// standIn puts a systemd-creds first in PATH that "seals" by keeping what it got
// beside itself, under a number, as a TPM would keep the key of it: for what the
// real one can only show on a box with a TPM. It records how it was called.
func standIn(t *testing.T) (calls func() string) {
	t.Helper()
	dir := t.TempDir()
	script := `#!/bin/sh
cd ` + dir + `
echo "$@" >> calls
case "$1" in
has-tpm2) exit 0 ;;
encrypt) cat > kept; echo sealed-by-tpm ;;
decrypt) read word; [ "$word" = sealed-by-tpm ] && [ -f kept ] && exec cat kept; echo "no such TPM" >&2; exit 1 ;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "systemd-creds"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		raw, _ := os.ReadFile(filepath.Join(dir, "calls"))
		return string(raw)
	}
}

func TestKeyIsSealedToTheTPM(t *testing.T) {
	calls := standIn(t)
	dir := filepath.Join(t.TempDir(), "identity")
	if !HasTPM(t.Context()) {
		t.Error("no TPM was found")
	}
	key, err := SealDeviceKey(t.Context(), dir, "tpm2")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(calls(), "encrypt --with-key=tpm2 --name=bothy.device - -\n") {
		t.Errorf("systemd-creds was called as %q", calls())
	}
	if _, err := os.Stat(filepath.Join(dir, DeviceKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v for the open key file, want none", err)
	}
	again, err := SealDeviceKey(t.Context(), dir, "tpm2")
	if err != nil || !again.Equal(key) {
		t.Errorf("got another key the second time (%v), want the same", err)
	}
	if loaded, err := DeviceKey(dir); err != nil || !loaded.Equal(key) {
		t.Errorf("got another key when loaded (%v), want the same", err)
	}
	// On another box the file is worth nothing, and no new key takes its place.
	standIn(t)
	if _, err := DeviceKey(dir); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no such TPM") {
		t.Errorf("got %v on another box, want a refusal with the TPM's word", err)
	}
}

func TestSealedKeyComesFromTheServiceManagerFirst(t *testing.T) {
	calls := standIn(t)
	dir := t.TempDir()
	key, err := SealDeviceKey(t.Context(), dir, "tpm2")
	if err != nil {
		t.Fatal(err)
	}
	given := t.TempDir()
	raw, err := exec.Command("systemd-creds", "decrypt", "-", "-").Output()
	if err == nil {
		t.Fatalf("the stand-in opened nothing as %q", raw)
	}
	cmd := exec.Command("systemd-creds", "decrypt", "-", "-")
	cmd.Stdin = strings.NewReader("sealed-by-tpm\n")
	if raw, err = cmd.Output(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(given, SealName), raw, 0o400); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", given)
	before := calls()
	if got, err := DeviceKey(dir); err != nil || !got.Equal(key) {
		t.Errorf("got another key (%v), want the service manager's", err)
	}
	if calls() != before {
		t.Error("systemd-creds was asked, though the service manager had opened the key")
	}
}

// The real program, with a key of the host instead of a TPM's.
func TestKeyIsSealedBySystemd(t *testing.T) {
	t.Setenv("SYSTEMD_CREDENTIAL_SECRET", filepath.Join(t.TempDir(), "secret"))
	if out, err := exec.Command("systemd-creds", "setup").CombinedOutput(); err != nil {
		t.Fatalf("systemd-creds setup: %v: %s: it needs systemd 250", err, out)
	}
	dir := t.TempDir()
	key, err := SealDeviceKey(t.Context(), dir, "host")
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := os.ReadFile(filepath.Join(dir, SealedKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DeviceKey(dir); err != nil || !got.Equal(key) {
		t.Errorf("got another key (%v), want the one that was sealed", err)
	}
	sealed[len(sealed)/2] ^= 1
	if err := os.WriteFile(filepath.Join(dir, SealedKeyFile), sealed, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := DeviceKey(dir); err == nil {
		t.Error("a sealed key with a changed byte was opened")
	}
}
