// Package e2e tests the bothy binary as its users have it: real processes,
// Mosquitto, the depot, engines and the official clients, over real sockets.
//
// A world is one site: a fleet's folder, a broker and its depot where the test
// wants one, and an enrolled agent. Tests drive it by the command line and read
// its JSON into the types that the agent writes it from, strictly, so that a
// field that is renamed on one side alone fails here. Whatever a test starts
// dies with it. Tests run beside each other; each has a world of its own.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/updater"
	"github.com/bothy-edge/bothy/updater/fleet"
)

const (
	tenant   = "e2e"
	device   = "press-7"
	question = "What is the capital of France?"
	fact     = "Paris"
	story    = "Tell me a long story"
)

// patience bounds every wait for an event. Nothing waits that long on a good day.
const patience = 60 * time.Second

// TestMain looks at every source of the binary, which this package does not
// import: go test then knows that an old result does not hold for a new binary.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == babbler {
		os.Exit(babble(os.Args[1:]))
	}
	err := filepath.WalkDir(parts.Root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && (name == "build" || strings.HasPrefix(name, ".")) {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot look at the sources:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// world is one site under test.
type world struct {
	t      *testing.T
	dir    string // short, for sockets
	fleet  *fleet.Fleet
	broker *parts.Broker // nil: updates come from folders
	key    string        // the device's public key, hex
	depot  *process
	agent  *process
	api    *http.Client
	admin  *http.Client
	within []string // what the agent's commands run in, for example nsenter
	env    []string // added to the agent's environment
}

// offline makes a fleet without a broker and an enrolled device, not started. Lines are added to the configuration.
func offline(t *testing.T, lines ...string) *world {
	t.Helper()
	w := &world{t: t, dir: parts.SocketDir(t)}
	w.setUp("", lines)
	return w
}

// online is a world with Mosquitto and a running depot; the agent is not started.
func online(t *testing.T, lines ...string) *world {
	t.Helper()
	w := &world{t: t, dir: parts.SocketDir(t), broker: parts.Mosquitto(t)}
	w.setUp(w.broker.URL, lines)
	w.startDepot()
	return w
}

func (w *world) setUp(broker string, lines []string) {
	w.t.Helper()
	w.api, w.admin = unixClient(w.path("run/api.sock")), unixClient(w.path("run/admin.sock"))
	config := fmt.Sprintf("state: %s\nruntime: %s\nupdates: {watch: 300ms}\n%s\n", w.path("state"), w.path("run"), strings.Join(lines, "\n"))
	if err := os.WriteFile(w.path("bothy.yaml"), []byte(config), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.must("fleet", "init", w.path("fleet"), "--tenant", tenant, "--broker", broker)
	var err error
	if w.fleet, err = fleet.Open(w.path("fleet")); err != nil {
		w.t.Fatal(err)
	}
	w.enroll()
	w.t.Cleanup(func() {
		w.agent.stop()
		w.depot.stop()
		if w.t.Failed() {
			w.t.Logf("depot:\n%s\nagent:\n%s", tail(w.depot), tail(w.agent))
		}
	})
}

// enroll makes the device's identity in the state folder.
func (w *world) enroll() {
	w.t.Helper()
	out := w.must("enroll", filepath.Join(w.fleet.Dir(), "enroll.json"), "--device", device)
	m := regexp.MustCompile(`device key: ([0-9a-f]{64})`).FindStringSubmatch(out)
	if m == nil {
		w.t.Fatalf("enroll printed no device key: %q", out)
	}
	w.key = m[1]
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// unixClient speaks HTTP over one unix socket, a connection a request: a pooled one would outlive a killed agent.
func unixClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
}

// result is how one command ended.
type result struct {
	out, err string
	code     int
}

// run runs one bothy command with the world's configuration to its end.
func (w *world) run(args ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if args[0] != "fleet" && args[0] != "version" {
		args = append(args[:len(args):len(args)], "--config", w.path("bothy.yaml"))
	}
	args = append(append(append([]string{}, w.within...), parts.Bothy(w.t)), args...)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, w.environ()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		w.t.Fatalf("cannot run %v: %v\n%s", args, err, errs.String())
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// must is run for a command that has to succeed; it answers its standard output.
func (w *world) must(args ...string) string {
	w.t.Helper()
	r := w.run(args...)
	if r.code != 0 {
		w.t.Fatalf("bothy %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.err, r.out)
	}
	return r.out
}

// read decodes the JSON of a reading command strictly; the command may exit 1, as those do that judge.
func read[T any](w *world, args ...string) T {
	w.t.Helper()
	r := w.run(append(args, "--json")...)
	if r.code > 1 || r.out == "" {
		w.t.Fatalf("bothy %s: exit %d\n%s", strings.Join(args, " "), r.code, r.err)
	}
	return strict[T](w.t, r.out)
}

// strict decodes one JSON value that may hold no field that T does not know.
func strict[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("cannot read %T: %v\n%s", v, err, text)
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Fatalf("more than one JSON value: %s", text)
	}
	return v
}

// environ is what the test has, without what a service manager or a user would have set for the agent.
func (w *world) environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case strings.HasPrefix(name, "BOTHY_"), name == "NOTIFY_SOCKET", name == "STATE_DIRECTORY", name == "RUNTIME_DIRECTORY":
		default:
			env = append(env, kv)
		}
	}
	return append(env, w.env...)
}

// process is a bothy command that goes on running.
type process struct {
	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan struct{} // closed once it was waited for
}

func (w *world) spawn(args ...string) *process {
	w.t.Helper()
	p := &process{log: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = p.log, p.log, w.environ()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = time.Second // an orphan would hold the pipes
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // exit tells
		close(p.done)
	}()
	return p
}

// exit waits for the end and answers the exit code, -1 for a signal.
func (p *process) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("the process has not ended:\n%s", p.log)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) } // it may have ended

// stop ends a process politely, then by force. A nil process, and one that has ended, are fine.
func (p *process) stop() {
	if p == nil || p.ended() {
		return
	}
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.kill()
	}
}

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

func tail(p *process) string {
	if p == nil {
		return "(not started)"
	}
	lines := strings.Split(strings.TrimSpace(p.log.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}

func (w *world) startDepot() {
	w.t.Helper()
	w.depot = w.spawn(parts.Bothy(w.t), "fleet", "serve", w.fleet.Dir())
}

// startAgent starts the agent and waits until it serves.
func (w *world) startAgent() {
	w.t.Helper()
	w.launch()
	w.eventually("the agent serves", func() error {
		if w.agent.ended() {
			w.t.Fatalf("the agent ended:\n%s", tail(w.agent))
		}
		_, err := w.status()
		return err
	})
}

func (w *world) launch() {
	w.t.Helper()
	args := append(append([]string{}, w.within...), parts.Bothy(w.t), "run", "--config", w.path("bothy.yaml"))
	w.agent = w.spawn(args...)
}

// eventually asks until the answer is nil. It bounds how long that may take.
func (w *world) eventually(what string, ask func() error) {
	w.t.Helper()
	end := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// get reads an admin route into out. It may fail where the agent is being killed, so it does not end the test.
func (w *world) get(path string, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://bothy"+path, nil)
	if err != nil {
		return err
	}
	resp, err := w.admin.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

func (w *world) status() (s agent.Status, err error) {
	err = w.get("/v1/status", &s)
	return s, err
}

// add takes a model of the project in as the next version of the release name, signed.
func (w *world) add(name, file string, flags ...string) {
	w.t.Helper()
	args := append([]string{"fleet", "add", w.fleet.Dir(), "--model", name, parts.Model(w.t, file), "--context", "512", "--slots", "2"}, flags...)
	w.must(args...)
	w.must("fleet", "sign", w.fleet.Dir())
}

// assign makes releases what the device shall run.
func (w *world) assign(what ...string) {
	w.t.Helper()
	w.must(append([]string{"fleet", "assign", w.fleet.Dir(), "--device", device}, what...)...)
}

// lastChange is the number of the newest change, 0 before the first.
func (w *world) lastChange() uint64 {
	w.t.Helper()
	if all := read[[]updater.Change](w, "change", "list"); len(all) > 0 {
		return all[0].ID
	}
	return 0
}

// changeAfter waits for the end of the change that comes after one.
func (w *world) changeAfter(last uint64) updater.Change {
	w.t.Helper()
	return read[updater.Change](w, "change", "wait", "--after", fmt.Sprint(last), "--any", "--timeout", "50s")
}

// install assigns and fails the test unless the change is committed.
func (w *world) install(what ...string) updater.Change {
	w.t.Helper()
	last := w.lastChange()
	w.assign(what...)
	c := w.changeAfter(last)
	if c.State != updater.Committed {
		w.t.Fatalf("change %d ended %s (%s): %s", c.ID, c.State, c.Code, c.Error)
	}
	return c
}

// imported imports the fleet's own folder and fails the test unless that is committed.
func (w *world) imported() updater.Change {
	w.t.Helper()
	c := read[updater.Change](w, "update", "import", w.fleet.Dir())
	if c.State != updater.Committed {
		w.t.Fatalf("change %d ended %s (%s): %s", c.ID, c.State, c.Code, c.Error)
	}
	return c
}

// chat asks the model a question and answers the text and the release that gave it.
func (w *world) chat(model, text string) (answer, release string, err error) {
	body := fmt.Sprintf(`{"model":%q,"temperature":0,"max_tokens":32,"messages":[{"role":"user","content":%q}]}`, model, text)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://bothy/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return "", "", err
	}
	req.Header.Set("content-type", "application/json")
	resp, err := w.api.Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", "", refusedError{resp.StatusCode, string(raw)}
	}
	var got struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err := json.Unmarshal(raw, &got); err != nil || len(got.Choices) != 1 {
		return "", "", fmt.Errorf("cannot read the answer (%v): %s", err, raw)
	}
	return got.Choices[0].Message.Content, resp.Header.Get("x-bothy-model-release"), nil
}

// refusedError is an answer of the API other than 200.
type refusedError struct {
	status int
	body   string
}

func (e refusedError) Error() string { return fmt.Sprintf("%d: %s", e.status, e.body) }

// answers fails the test unless the model knows its capital and runs as release, now.
func (w *world) answers(release string) {
	w.t.Helper()
	text, by, err := w.chat("mote", question)
	if err != nil || !strings.Contains(text, fact) || by != release {
		w.t.Fatalf("got %q from %q (%v), want an answer with %q from %s", text, by, err, fact, release)
	}
}

// comesBackRunning waits after a start until the release answers, whatever became of its last change.
func (w *world) comesBackRunning(release string) {
	w.t.Helper()
	w.eventually(release+" answers", func() error {
		_, by, err := w.chat("mote", question)
		if err == nil && by != release {
			err = fmt.Errorf("%q answers", by)
		}
		return err
	})
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
