package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bothy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMissingConfigurationMeansDefaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	t.Setenv("STATE_DIRECTORY", "/s")
	t.Setenv("RUNTIME_DIRECTORY", "/r")
	c, err := LoadConfig(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if c.State != "/s" || c.API.Socket != "/r/api.sock" || c.Admin.Socket != "/r/admin.sock" || c.API.MaxBody != 32<<20 || c.Log.Format != "text" {
		t.Errorf("got %+v, want the folders that systemd gave and the defaults", c)
	}
	if _, err := LoadConfig(path, true); err == nil {
		t.Error("got no error for a named file that is missing, want one")
	}
}

func TestConfigurationIsRead(t *testing.T) {
	c, err := LoadConfig(configFile(t, `
state: /srv/bothy
runtime: /run/b
api: {group: users, max_body: 1GiB}
upstreams:
  cloud: {credential: azure}
metrics: {listen: "[::1]:9464"}
`), true)
	if err != nil {
		t.Fatal(err)
	}
	if c.State != "/srv/bothy" || c.API.Group != "users" || c.API.MaxBody != 1<<30 || c.Upstreams["cloud"].Credential != "azure" {
		t.Errorf("got %+v, want what the file says", c)
	}
}

func TestBadConfigurationIsNamed(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"api:\n  sokcet: /x\n", "[2:3]"},
		{"state: [1]\n", "[1:8]"},
		{"runtime: /" + strings.Repeat("x", 110) + "\n", "a unix socket's at most 107"},
		{"api: {max_body: many}\n", "write it as 32MiB"},
		{"metrics: {listen: 0.0.0.0:9464}\n", "want a loopback address"},
		{"upstreams: {cloud: {}}\n", "either key_file or credential"},
		{"upstreams: {cloud: {key_file: a, credential: b}}\n", "either key_file or credential"},
		{"log: {format: xml}\n", "want text or json"},
	} {
		_, err := LoadConfig(configFile(t, c.text), true)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want an error with %q", c.text, err, c.want)
		}
	}
}

func TestAFolderThatCannotBeChosenIsAnError(t *testing.T) {
	t.Setenv("HOME", "/home/x")
	if got := systemFolder(false, "NO_SUCH", "/var/lib/bothy", "NO_SUCH", ".local/state"); !strings.HasSuffix(got, "/.local/state/bothy") {
		t.Errorf("got %q with HOME set, want a folder under it", got)
	}
	t.Setenv("HOME", "")
	if got := systemFolder(false, "NO_SUCH", "/var/lib/bothy", "NO_SUCH", ".local/state"); got != "" {
		t.Errorf("got %s without HOME, want none", got)
	}
	c := Config{}
	if err := c.check(); err == nil || !strings.Contains(err.Error(), "HOME is not set") {
		t.Errorf("got %v, want an error that says what is missing", err)
	}
}

func TestKeyFileMustBePrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(" sk-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := KeyFileSecret(path); err != nil || got != "sk-1" {
		t.Errorf("got %q, %v, want sk-1", got, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := KeyFileSecret(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v, want an error that says chmod 600", err)
	}
}
