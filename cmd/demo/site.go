package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// device is the name of the one box of this fleet.
const device = "demo-box"

// site is a fleet of one: its folder, its processes and its cloud.
type site struct {
	dir    string // everything lives here
	bothy  string // the binary
	model  string // GGUF of the first model release
	second string // GGUF of the second
	own    bool   // the models are the project's, so their answers are known
	crowd  int    // requests of a burst
	tokens int    // most tokens of an answer
	broker string // host:port
	cloud  *cloud
	api    *http.Client
	depot  *process
	agent  *process
}

func newSite(bothy, model string) (*site, error) {
	// Unix sockets want short paths, so not under a long TMPDIR.
	dir, err := os.MkdirTemp("/tmp", "bothy-demo-")
	if err != nil {
		return nil, err
	}
	// Small, because a model of a billion parameters makes some ten tokens a second on two cores.
	s := &site{dir: dir, bothy: bothy, model: model, second: model, crowd: 12, tokens: 12}
	if model == "" {
		s.own, s.crowd, s.tokens = true, 64, 200
		s.model, s.second = "testdata/models/mote-chat-q8_0.gguf", "testdata/models/mote-256-q4_k_m.gguf"
	}
	for _, f := range []string{s.model, s.second} {
		if _, err := os.Stat(f); err != nil {
			return nil, fmt.Errorf("cannot find the model: %w", err)
		}
	}
	if s.broker, err = freeAddr(); err != nil {
		return nil, err
	}
	s.api = &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", s.path("run/api.sock"))
		},
	}}
	return s, nil
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }
func (s *site) fleet() string           { return s.path("fleet") }

// start makes the fleet with its keys, and brings up depot, cloud and agent.
func (s *site) start(ctx context.Context) error {
	if _, err := s.run(ctx, "fleet", "init", s.fleet(), "--tenant", "demo", "--broker", "tls://"+s.broker); err != nil {
		return err
	}
	if err := s.startDepot(ctx); err != nil {
		return err
	}
	var err error
	if s.cloud, err = startCloud(ctx, s); err != nil {
		return err
	}
	if err := s.writeConfig(); err != nil {
		return err
	}
	token := s.path("token.json")
	if _, err := s.run(ctx, "fleet", "enroll", "token", s.fleet(), "--device", device, "--approve", "--out", token); err != nil {
		return err
	}
	if _, err := s.run(ctx, "enroll", token, "--timeout", "1m", "--config", s.path("bothy.yaml")); err != nil {
		return err
	}
	return s.startAgent(ctx)
}

func (s *site) startDepot(ctx context.Context) error {
	var err error
	if s.depot, err = s.spawn("depot", "fleet", "serve", s.fleet(), "--embedded-broker", s.broker); err != nil {
		return err
	}
	return waitFor(ctx, "the broker", func() error {
		if s.depot.ended() {
			return errEnded
		}
		return dial("tcp", s.broker)
	})
}

func (s *site) writeConfig() error {
	if err := os.WriteFile(s.path("cloud.key"), []byte(cloudKey+"\n"), 0o600); err != nil {
		return err
	}
	config := fmt.Sprintf("state: %s\nruntime: %s\nupdates: {watch: 1s}\nupstreams:\n  cloud:\n    key_file: %s\n    ca: %s\n",
		s.path("state"), s.path("run"), s.path("cloud.key"), s.path("cloud.pem"))
	return os.WriteFile(s.path("bothy.yaml"), []byte(config), 0o600)
}

func (s *site) startAgent(ctx context.Context) error {
	var err error
	if s.agent, err = s.spawn("agent", "run", "--config", s.path("bothy.yaml")); err != nil {
		return err
	}
	return waitFor(ctx, "the agent", func() error {
		if s.agent.ended() {
			return errEnded
		}
		return dial("unix", s.path("run/admin.sock"))
	})
}

// run runs one bothy command to its end and returns its standard output.
func (s *site) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.bothy, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("bothy %s: %w\n%s%s", strings.Join(args, " "), err, errs.String(), out.String())
	}
	return out.String(), nil
}

// admin is run with the agent's configuration.
func (s *site) admin(ctx context.Context, args ...string) (string, error) {
	return s.run(ctx, append(args, "--config", s.path("bothy.yaml"))...)
}

// read is a reading command with --json, decoded into out.
func (s *site) read(ctx context.Context, out any, args ...string) error {
	text, err := s.admin(ctx, append(args, "--json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), out)
}

// process is a bothy command that goes on running.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan struct{}
}

var errEnded = errors.New("the process has ended")

func (s *site) spawn(name string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(s.bothy, args...), log: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in its log
		close(p.done)
	}()
	return p, nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends a process politely, then by force.
func (p *process) stop() {
	if p == nil || p.ended() {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended meanwhile
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.kill()
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended meanwhile
	<-p.done
}

func (s *site) close() {
	s.agent.stop()
	s.cloud.stop()
	s.depot.stop()
	if err := os.RemoveAll(s.dir); err != nil {
		fmt.Fprintf(os.Stderr, "demo: cannot remove %s: %v\n", s.dir, err)
	}
}

// logs is the end of what the processes wrote.
func (s *site) logs() string {
	var b strings.Builder
	for _, p := range []*process{s.depot, s.agent} {
		if p == nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(p.log.String()), "\n")
		fmt.Fprintf(&b, "--- %s\n%s\n", p.name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
	return b.String()
}

// invite prints what to try while everything runs.
func (s *site) invite() {
	fmt.Printf(`
Everything goes on running until you press Ctrl-C. Try, in another terminal:

  curl --unix-socket %[1]s http://bothy/v1/models
  curl --unix-socket %[1]s http://bothy/v1/chat/completions -H 'content-type: application/json' -d '{"model":"mote","messages":[{"role":"user","content":"What is the capital of France?"}]}'
  %[2]s status --config %[3]s
  %[2]s change list --config %[3]s
`, s.path("run/api.sock"), s.bothy, s.path("bothy.yaml"))
}

func dial(network, addr string) error {
	c, err := net.DialTimeout(network, addr, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

// waitFor asks until the answer is nil, the process has ended or the context is done.
func waitFor(ctx context.Context, what string, ask func() error) error {
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s did not come: %w", what, err)
		}
		if errors.Is(err, errEnded) {
			return fmt.Errorf("%s did not come: %w", what, err)
		}
	}
}

// lockedBuffer takes the output of a process while others read it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
