package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// DefaultConfigPath is read when no other file is named. It may be missing.
const DefaultConfigPath = "/etc/bothy/bothy.yaml"

// maxSocketPath is what sun_path holds, without its ending NUL (unix(7)).
const maxSocketPath = 107

// Config is the agent's configuration file. Every field has a working default;
// unknown fields are refused with their line and column.
type Config struct {
	// State is the folder of everything that must survive: store, artifacts, identity, audit. Mode 0700.
	State string `yaml:"state"`
	// Runtime is the folder of the sockets. It may be emptied at every boot.
	Runtime string `yaml:"runtime"`
	// API is the socket of applications, Admin the one of operators.
	API   SocketConfig `yaml:"api"`
	Admin SocketConfig `yaml:"admin"`
	// Engines tells where engine programs lie.
	Engines EngineConfig `yaml:"engines"`
	// Broker holds what the fleet's ticket does not say: certificates, and the consent to plain TCP.
	Broker BrokerConfig `yaml:"broker"`
	// Mirror is a web server with what the fleet publishes.
	Mirror MirrorConfig `yaml:"mirror"`
	// Peers are other devices of the fleet.
	Peers PeersConfig `yaml:"peers"`
	// Upstreams gives each cloud upstream that a policy may name its key and its certificate authority.
	Upstreams map[string]UpstreamConfig `yaml:"upstreams"`
	// Metrics, when its listen address is set, serves Prometheus metrics on loopback TCP too.
	Metrics MetricsConfig `yaml:"metrics"`
	Updates UpdatesConfig `yaml:"updates"`
	// Transfer bounds what fetching updates may take.
	Transfer TransferConfig `yaml:"transfer"`
	Log      LogConfig      `yaml:"log"`
}

// SocketConfig is one listening unix socket, mode 0660.
type SocketConfig struct {
	Socket string `yaml:"socket"` // path; empty: api.sock or admin.sock in the runtime folder
	Group  string `yaml:"group"`  // group that may connect; empty: the agent's own
	// MaxBody bounds a request's body, for example "32MiB". Only for the API socket.
	MaxBody Size `yaml:"max_body"`
}

// EngineConfig tells where engine programs lie and how many cores they get.
type EngineConfig struct {
	LlamaServer string        `yaml:"llama_server"` // path of llama-server; empty: looked up in PATH
	Threads     int           `yaml:"threads"`      // cores an engine may use; 0: all of them
	Command     CommandConfig `yaml:"command"`
}

// CommandConfig is an OpenAI-compatible server started by a template. Only this
// root-owned file can hold one, never a release.
type CommandConfig struct {
	// Path is the program, absolute; empty: there is none.
	Path string `yaml:"path"`
	// Args are its arguments; {socket}, {model}, {folder}, {alias}, {context}, {slots} and {threads} are replaced.
	Args []string `yaml:"args"`
	// Health is the path that answers 200 once the server is ready. Default /health.
	Health string `yaml:"health"`
}

// BrokerConfig is how the agent reaches the MQTT broker that its ticket names.
type BrokerConfig struct {
	CA   string `yaml:"ca"`   // PEM file of the certificate authority; empty: the system's
	Cert string `yaml:"cert"` // PEM file of the device's certificate
	Key  string `yaml:"key"`  // PEM file of its key
	// AllowPlaintext consents to tcp:// beyond loopback. The content stays signed; who reads along sees it.
	AllowPlaintext bool `yaml:"allow_plaintext"`
	// Heartbeat is how often the device reports its state when nothing changes; the fleet takes three
	// times that without one for silence. Default 10m.
	Heartbeat Duration `yaml:"heartbeat"`
}

// UpstreamConfig is the secret half of an upstream; the policy holds the public one.
type UpstreamConfig struct {
	KeyFile    string `yaml:"key_file"`   // file of mode 0600 that holds the API key
	Credential string `yaml:"credential"` // name of a systemd credential instead
	CA         string `yaml:"ca"`         // PEM file of the certificate authority; empty: the system's
}

// MetricsConfig opens the metrics on TCP.
type MetricsConfig struct {
	Listen string `yaml:"listen"` // loopback address and port; empty: admin socket only
}

// UpdatesConfig is how updates are applied.
type UpdatesConfig struct {
	// Watch is the probation after a switch, in which a failing engine undoes the change. Default 30s.
	Watch Duration `yaml:"watch"`
	// GiveUpPrevious lets an update that is short of space have that of the files of the
	// set that ran before. Otherwise it waits for an operator.
	GiveUpPrevious bool `yaml:"give_up_previous"`
	// Sources is the order in which blocks are asked for. Default directory, peers, mirror, mqtt.
	Sources []string `yaml:"sources"`
	// Directory is a folder of this box that may hold updates, as `bothy fleet mirror` writes it.
	Directory string `yaml:"directory"`
}

// Duration is written as Go prints it: 30s, 5m, 1h30m.
type Duration time.Duration

// UnmarshalYAML reads a duration.
func (d *Duration) UnmarshalYAML(raw []byte) error {
	n, err := time.ParseDuration(strings.Trim(strings.TrimSpace(string(raw)), `"'`))
	if err != nil || n <= 0 {
		return fmt.Errorf("cannot read the duration %q: write it as 30s or 5m", raw)
	}
	*d = Duration(n)
	return nil
}

// LogConfig shapes the structured log on standard error.
type LogConfig struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // text or json
}

// Size is a number of bytes, written as 512KiB, 32MiB, 1GiB or a plain number.
type Size int64

// UnmarshalYAML reads a size.
func (s *Size) UnmarshalYAML(raw []byte) error {
	text := strings.Trim(strings.TrimSpace(string(raw)), `"'`)
	unit := int64(1)
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = strings.TrimSpace(rest), u
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || n > (1<<62)/unit {
		return fmt.Errorf("cannot read the size %q: write it as 32MiB", raw)
	}
	*s = Size(n * unit)
	return nil
}

// LoadConfig reads path, fills in defaults and checks the result. A missing file
// is an error only when explicit is set. Errors carry line and column.
func LoadConfig(path string, explicit bool) (Config, error) {
	var c Config
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !explicit:
	case err != nil:
		return c, fmt.Errorf("cannot read the configuration: %w", err)
	case len(bytes.TrimSpace(raw)) > 0:
		if err := yaml.UnmarshalWithOptions(raw, &c, yaml.Strict()); err != nil {
			return c, fmt.Errorf("cannot read the configuration %s: %s", path, yaml.FormatError(err, false, true))
		}
	}
	c.fill()
	return c, c.check()
}

func (c *Config) fill() {
	root := os.Geteuid() == 0
	or(&c.State, systemFolder(root, "STATE_DIRECTORY", "/var/lib/bothy", "XDG_STATE_HOME", ".local/state"))
	or(&c.Runtime, systemFolder(root, "RUNTIME_DIRECTORY", "/run/bothy", "XDG_RUNTIME_DIR", ".local/run"))
	or(&c.API.Socket, filepath.Join(c.Runtime, "api.sock"))
	or(&c.Admin.Socket, filepath.Join(c.Runtime, "admin.sock"))
	or(&c.Engines.Command.Health, "/health")
	or(&c.Log.Level, "info")
	or(&c.Log.Format, "text")
	if c.Updates.Watch == 0 {
		c.Updates.Watch = Duration(30 * time.Second)
	}
	if c.Broker.Heartbeat == 0 {
		c.Broker.Heartbeat = Duration(10 * time.Minute)
	}
	if c.Transfer.BusyRate == 0 {
		c.Transfer.BusyRate = 4 << 20
	}
	if c.Peers.Rate == 0 {
		c.Peers.Rate = 32 << 20
	}
	if c.API.MaxBody == 0 {
		c.API.MaxBody = 32 << 20
	}
}

func or(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// systemFolder is what systemd gave, or the system's folder for root, or the user's own.
func systemFolder(root bool, given, system, xdg, home string) string {
	if dir := os.Getenv(given); dir != "" {
		first, _, _ := strings.Cut(dir, ":")
		return first
	}
	if root {
		return system
	}
	if dir := os.Getenv(xdg); dir != "" {
		return filepath.Join(dir, "bothy")
	}
	h, err := os.UserHomeDir()
	if err != nil {
		return "" // check says what to do; a folder that anybody can guess and make would hold our keys
	}
	return filepath.Join(h, home, "bothy")
}

func (c *Config) check() error {
	if c.State == "" || c.Runtime == "" {
		return errors.New("cannot choose the state and runtime folders: HOME is not set; name `state` and `runtime` in the configuration")
	}
	for _, s := range []struct{ name, path string }{{"api.socket", c.API.Socket}, {"admin.socket", c.Admin.Socket}} {
		if len(s.path) > maxSocketPath {
			return fmt.Errorf("cannot use %s %s: the path has %d bytes, a unix socket's at most %d; choose a shorter runtime folder", s.name, s.path, len(s.path), maxSocketPath)
		}
	}
	if c.Metrics.Listen != "" {
		host, _, err := net.SplitHostPort(c.Metrics.Listen)
		if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("cannot use metrics.listen %q: want a loopback address and a port, for example 127.0.0.1:9464", c.Metrics.Listen)
		}
	}
	if h := time.Duration(c.Broker.Heartbeat); h < time.Minute || h > 7*24*time.Hour {
		return fmt.Errorf("cannot use broker.heartbeat %s: want 1m to 168h", h)
	}
	for name, u := range c.Upstreams {
		if (u.KeyFile == "") == (u.Credential == "") {
			return fmt.Errorf("cannot use the upstream %q: give it either key_file or credential", name)
		}
	}
	if err := c.checkSources(); err != nil {
		return err
	}
	if err := c.checkTransfer(); err != nil {
		return err
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		return fmt.Errorf("cannot use log.format %q: want text or json", c.Log.Format)
	}
	return nil
}

// KeyFileSecret reads an API key from a file that nobody else may read.
func KeyFileSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the key file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("cannot use the key file %s: its mode is %04o and others may read it; run chmod 600 %s", path, info.Mode().Perm(), path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the key file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
