package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/internal/parts"
	"github.com/bothy-edge/bothy/runtime"
	"github.com/bothy-edge/bothy/updater"
)

const sitePolicy = `schema: 1
name: site
classes:
  - name: sensitive
    detectors: [card, email]
rules:
  - name: sensitive stays
    when: {class: [sensitive]}
    places: [local]
  - name: all stays
    places: [local]
`

// TestBoxWithoutBroker brings a box up from a stick and reads it with every reading command.
func TestBoxWithoutBroker(t *testing.T) {
	t.Parallel()
	metrics := parts.FreeAddr(t)
	w := offline(t, "metrics: {listen: "+metrics+"}")
	if r := w.run("status"); r.code != 1 || !strings.Contains(r.err, "no agent answers") || !strings.Contains(r.err, "bothy: hint:") {
		t.Errorf("status without an agent: exit %d: %s", r.code, r.err)
	}
	w.startAgent()
	if r := w.run("chat", question); r.code != 1 || !strings.Contains(r.err, "no model is installed") {
		t.Errorf("chat without a model: exit %d: %s", r.code, r.err)
	}
	w.add("mote", "mote-chat-q8_0.gguf")
	policyFile := w.path("site.yaml")
	if err := os.WriteFile(policyFile, []byte(sitePolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	w.must("fleet", "add", w.fleet.Dir(), "--policy", "site", policyFile)
	w.must("fleet", "sign", w.fleet.Dir())
	w.assign("mote=mote@1", "--policy", "site@1")

	stick := w.path("stick")
	for _, name := range []string{"catalog", "director", "blobs"} { // no keys travel
		if err := os.CopyFS(filepath.Join(stick, name), os.DirFS(filepath.Join(w.fleet.Dir(), name))); err != nil {
			t.Fatal(err)
		}
	}
	if c := read[updater.Change](w, "update", "import", stick); c.State != updater.Committed || c.Want.Counter != 1 {
		t.Fatalf("got change %+v", c)
	}
	if c := read[updater.Change](w, "update", "import", stick); c.ID != 1 {
		t.Errorf("importing again made change %d", c.ID)
	}
	if out := w.must("chat", question); !strings.Contains(out, fact) {
		t.Errorf("bothy chat says %q", out)
	}
	readingCommands(t, w, policyFile)
	humanScreens(t, w)
	for name, client := range map[string]*http.Client{"http://bothy": w.admin, "http://" + metrics: http.DefaultClient} {
		metricsOf(t, client, name+"/metrics")
	}
}

func readingCommands(t *testing.T, w *world, policyFile string) {
	t.Helper()
	s := read[agent.Status](w, "status")
	if s.Health == agent.HealthCritical || s.Device != device || s.Tenant != tenant || len(s.Models) != 1 || s.Update.Running != 1 ||
		s.Policy.Release != "site@1" || s.Traffic.Recent.Choices == nil || s.Broker.URL != "" || s.PID != w.agent.cmd.Process.Pid {
		t.Errorf("got status %+v", s)
	}
	models := read[[]runtime.AliasStatus](w, "model", "list")
	if len(models) != 1 || models[0].Alias != "mote" || models[0].Phase != runtime.PhaseReady || models[0].Current.Release != "mote@1" {
		t.Errorf("got models %+v", models)
	}
	if m := read[runtime.AliasStatus](w, "model", "show", "mote"); m.Alias != "mote" || m.Spec.Engine != "embedded" {
		t.Errorf("got model %+v", m)
	}
	if lines := read[[]runtime.Line](w, "model", "logs", "mote"); len(lines) == 0 || lines[0].Generation == 0 {
		t.Errorf("got log lines %+v", lines)
	}
	if r := w.run("model", "show", "nobody"); r.code != 1 || !strings.Contains(r.err, "bothy: hint: bothy model list") {
		t.Errorf("a model that is not there: exit %d: %s", r.code, r.err)
	}
	if p := read[agent.PolicyShown](w, "policy", "show"); p.Release != "site@1" || len(p.Document) == 0 {
		t.Errorf("got policy %+v", p)
	}
	type checked struct {
		File, Name, Error string
		Valid             bool
	}
	if c := read[checked](w, "policy", "check", policyFile); !c.Valid || c.Name != "site" {
		t.Errorf("got %+v", c)
	}
	e := read[agent.ExplainAnswer](w, "policy", "explain", "--model", "mote", "mail to jane@example.com")
	if len(e.Policies) != 1 || e.Verdict.Rule != "sensitive stays" || len(e.Ask.Kinds) != 1 {
		t.Errorf("got explanation %+v", e)
	}
	all := read[[]updater.Change](w, "change", "list")
	if len(all) != 1 || all[0].State != updater.Committed || len(all[0].History) == 0 {
		t.Errorf("got changes %+v", all)
	}
	if c := read[updater.Change](w, "change", "show", "1"); c.ID != 1 || len(c.Tasks) == 0 {
		t.Errorf("got change %+v", c)
	}
	if c := read[updater.Change](w, "change", "wait", "--counter", "1"); c.ID != 1 {
		t.Errorf("got change %+v", c)
	}
	examined := read[[]agent.Examined](w, "doctor")
	for _, x := range examined {
		if x.Severity == agent.HealthCritical {
			t.Errorf("doctor: %+v", x)
		}
	}
	if len(examined) < 5 {
		t.Errorf("doctor looked at %d things", len(examined))
	}
	type version struct{ Version, Commit, Date, Go, OS, Arch string }
	if v := strict[version](t, w.must("version", "--json")); v.Go == "" || v.Arch == "" {
		t.Errorf("got version %+v", v)
	}
}

// humanScreens fit a terminal and say the same.
func humanScreens(t *testing.T, w *world) {
	t.Helper()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"status"}, "mote: mote@1 on embedded, ready"}, {[]string{"model", "list"}, "mote"},
		{[]string{"policy", "show"}, "site"}, {[]string{"change", "list"}, "committed"}, {[]string{"doctor"}, "ok"},
	} {
		if out := w.must(c.args...); !strings.Contains(out, c.want) {
			t.Errorf("bothy %v shows no %q:\n%s", c.args, c.want, out)
		}
	}
	if n := strings.Count(w.must("status"), "\n"); n > 24 {
		t.Errorf("status has %d lines: more than a screen", n)
	}
}

func metricsOf(t *testing.T, client *http.Client, url string) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`bothy_model_ready{model="mote",release="mote@1"} 1`, "bothy_running_want 1", "go_goroutines "} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s has no %s", url, want)
		}
	}
}

// TestServiceManagerHearsAndStreamsFinish starts the agent as systemd would and stops it in the middle of an answer.
func TestServiceManagerHearsAndStreamsFinish(t *testing.T) {
	t.Parallel()
	w := offline(t)
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: w.path("notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	w.env = []string{"NOTIFY_SOCKET=" + w.path("notify")}
	w.launch()
	heard(t, manager, "READY=1")
	// What says that it is ready answers at once.
	if _, err := w.status(); err != nil {
		t.Fatal(err)
	}
	w.add("mote", "mote-chat-q8_0.gguf")
	w.assign("mote=mote@1")
	w.imported()

	body := `{"model":"mote","stream":true,"temperature":0,"max_tokens":400,"messages":[{"role":"user","content":"` + story + `"}]}`
	resp, err := w.api.Post("http://bothy/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "data: ") {
		t.Fatalf("got %q, want the first event", lines.Text())
	}
	w.agent.signal(syscall.SIGTERM)
	heard(t, manager, "STOPPING=1")
	events, last := 1, ""
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			events, last = events+1, text
		}
	}
	if lines.Err() != nil || last != "[DONE]" || events < 20 {
		t.Errorf("the stream ended after %d events with %q (%v), want [DONE]", events, last, lines.Err())
	}
	if code := w.agent.exit(t); code != 0 {
		t.Errorf("the agent ended with %d:\n%s", code, tail(w.agent))
	}
	w.noOrphans()
	for _, name := range []string{"run/api.sock", "run/admin.sock"} {
		if _, err := os.Stat(w.path(name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}

// heard waits for a notification; others may come before it.
func heard(t *testing.T, manager *net.UnixConn, want string) {
	t.Helper()
	if err := manager.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		n, err := manager.Read(buf)
		if err != nil {
			t.Fatal(fmt.Errorf("no %s: %w", want, err))
		}
		if string(buf[:n]) == want {
			return
		}
	}
}
