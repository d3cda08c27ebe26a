package agent

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/report"
)

func TestJournalHoldsNoSecretsAndNoTextsOfRequests(t *testing.T) {
	var shown bytes.Buffer
	j, log := newJournal(slog.New(slog.NewTextHandler(&shown, nil)))
	const prompt = "how do I treat my rash"
	token := "sk-proj-" + strings.Repeat("Ab3dEf9h", 6)
	secret := []string{prompt, token, "4111 1111 1111 1111", "anna@example.com", "hunter2", "pod-7 asks"}
	log.Info("request not served", "request", "r1", "model", prompt, "code", "engine-down", "error", errors.New(prompt))
	log.With("request", "r2").Warn("answer broke off", "error", prompt)
	log.Info("upstream answered", "error", fmt.Errorf("401: bad key %s", token))
	log.Info("card "+secret[2]+" of "+secret[3], "note", "kept")
	log.Info("login", "password", "hunter2", slog.Group("http", "Authorization", "hunter2", "body", "pod-7 asks"))
	log.Debug("not worth it")
	log.Info("plain", "change", 7, "epoch", 1784567890, "broker", "tcp://10.0.0.7:1883", "error", "no space left on device")

	all := string(bytes.Join(j.last(100), []byte("\n")))
	for _, s := range secret {
		if strings.Contains(all, s) {
			t.Errorf("the journal holds %q:\n%s", s, all)
		}
	}
	for _, want := range []string{`"change":7`, `"epoch":1784567890`, "tcp://10.0.0.7:1883", `"time":"20`, "no space left on device", `"request":"r1"`, "engine-down", `"note":"kept"`, "[api-token]"} {
		if !strings.Contains(all, want) {
			t.Errorf("the journal lacks %q:\n%s", want, all)
		}
	}
	if strings.Contains(all, "not worth it") {
		t.Error("the journal holds what is below info")
	}
	if !strings.Contains(shown.String(), "r1") {
		t.Error("the log itself lost a line")
	}
	for _, line := range j.last(100) {
		var v struct{ Time time.Time }
		if err := json.Unmarshal(line, &v); err != nil || v.Time.IsZero() {
			t.Errorf("a line is no JSON with its time: %s", line)
		}
	}
}

func TestJournalIsBounded(t *testing.T) {
	j, log := newJournal(slog.New(slog.DiscardHandler))
	for i := range 2 * journalLines {
		log.Info("line", "n", i, "pad", strings.Repeat("x y ", i%3*2000))
	}
	lines := j.last(10 * journalLines)
	size := 0
	for _, l := range lines {
		size += len(l)
		if len(l) > journalLine || !json.Valid(l) {
			t.Fatalf("a line has %d bytes, or is no JSON: %.100s", len(l), l)
		}
	}
	if len(lines) > journalLines || size > journalBytes || len(lines) < 100 {
		t.Errorf("got %d lines of %d bytes, want at most %d and %d", len(lines), size, journalLines, journalBytes)
	}
	if !bytes.Contains(lines[len(lines)-1], fmt.Appendf(nil, "%d", 2*journalLines-1)) {
		t.Errorf("the last line is %.100s", lines[len(lines)-1])
	}
}

// The largest bundle there can be: every part, sealed as an event, passes a broker.
func TestBundlePassesInPartsThatABrokerTakes(t *testing.T) {
	o, _ := orderBox(t)
	l := &link{outbox: o.outbox}
	noise := make([]byte, report.MaxLogs)
	for i := range noise {
		noise[i] = byte(i * i >> 3)
	}
	if err := l.sendLogs(o.db, 5, noise); err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	var whole []byte
	for i, p := range waiting[report.LogPart](t, o.db, report.LogsEvent) {
		body, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := report.ParseLogPart(body); err != nil || p.Part != i || p.Number != 5 {
			t.Fatalf("part %d: got part %d of order %d, %v", i, p.Part, p.Number, err)
		}
		event, err := json.Marshal(mqtt.Event{V: 1, Device: strings.Repeat("d", 64), Origin: 1 << 63, Seq: 1 << 63, Time: time.Now(), Kind: report.LogsEvent, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := release.SignEnvelope(key, release.EventType, event)
		if err != nil || len(sealed) > mqtt.MaxControl-1024 {
			t.Fatalf("part %d takes %d bytes (%v), a control packet %d", i, len(sealed), err, mqtt.MaxControl)
		}
		whole = append(whole, p.Data...)
	}
	if !bytes.Equal(whole, noise) {
		t.Error("the parts are not the bundle")
	}
}

func TestBundleUnpacks(t *testing.T) {
	lines := [][]byte{[]byte(`{"msg":"a"}`), []byte(`{"msg":"b"}`)}
	raw, err := pack(bundleHead{V: 1, Device: "press-7", Order: 5, Lines: 2}, report.State{Device: "press-7"}, lines)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var msgs []string
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		var v map[string]any
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatalf("%v: %s", err, s.Text())
		}
		msgs = append(msgs, fmt.Sprint(v["order"], v["device"], v["msg"]))
	}
	if got, want := strings.Join(msgs, "|"), "5press-7<nil>|<nil>press-7<nil>|<nil> <nil>a|<nil> <nil>b"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
