package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bothy-edge/bothy/agent/audit"
)

// auditLog is a log of six records, an hour apart, one file each.
func auditLog(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "audit")
	now := time.Now().Add(-6 * time.Hour)
	l, _, err := audit.Open(audit.Options{Dir: dir, Segment: 1, Now: func() time.Time { now = now.Add(time.Hour); return now }})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []audit.Record{
		{Request: "r1", Place: "local", Unit: "web.service", Model: "mote", Rule: "rest", Reason: "preferred", TokensIn: 3, TokensOut: 4, Status: 200},
		{Request: "r2", Place: "burst", Container: "0123456789abcdef", Model: "mote"},
		{Request: "r3", Place: "local", Exe: "/usr/bin/app", Status: 503, Code: "overloaded"},
		{Request: "r4", Place: "burst"},
		{Request: "r5", Place: "local", UID: 7},
		{Request: "r6", Place: "other", UID: 8},
	} {
		if err := l.Depart(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// bothy runs a command line in this process.
func bothy(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	root := newRoot()
	var out, talk bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&talk)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	var exit exitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		status = int(exit)
	case errors.As(err, new(usageError)):
		status = 2
	default:
		status = 1
	}
	if err != nil && status != int(exit) {
		talk.WriteString(err.Error())
	}
	return out.String(), talk.String(), status
}

func verify(t *testing.T, want int, args ...string) verified {
	t.Helper()
	out, talk, status := bothy(t, append([]string{"audit", "verify", "--json"}, args...)...)
	if status != want {
		t.Fatalf("%v: got status %d, want %d: %s%s", args, status, want, out, talk)
	}
	var v verified
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return v
}

func TestAuditVerifyFindsAChangeInAnyRecord(t *testing.T) {
	dir := auditLog(t)
	whole := verify(t, 0, "--dir", dir)
	head := whole.Head
	if !whole.Whole || whole.Records != 6 || whole.First != 1 || head.Seq != 6 || whole.Files != 6 {
		t.Fatalf("got %+v, want six records", whole)
	}
	kept := "6:" + head.Hash
	verify(t, 0, "--dir", dir, "--head", kept)
	files, _ := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	for i, path := range files {
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, tampered := range []string{
			strings.Replace(string(was), `"place":"`, `"place":"x`, 1),
			strings.Replace(string(was), `"uid":`, `"uid":9`, 1),
			strings.Replace(string(was), `"time":"2`, `"time":"3`, 1),
			"{}\n", "",
		} {
			if err := os.WriteFile(path, []byte(tampered), 0o600); err != nil {
				t.Fatal(err)
			}
			v := verify(t, 1, "--dir", dir, "--head", kept)
			// In the last record it shows by the kept head, before it also without.
			if i < len(files)-1 && len(v.Breaks) == 0 && tampered != "" {
				t.Errorf("record %d changed to %q: got %+v, want a break", i+1, tampered, v)
			}
		}
		if err := os.WriteFile(path, was, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verify(t, 0, "--dir", dir, "--head", kept)
	if err := os.Remove(files[5]); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, 1, "--dir", dir, "--head", kept); v.Kept != "missing" || len(v.Breaks) > 0 {
		t.Errorf("got %+v, want the head missing", v)
	}
	verify(t, 0, "--dir", dir)
}

func TestAuditVerifyInWords(t *testing.T) {
	dir := auditLog(t)
	out, _, status := bothy(t, "audit", "verify", "--dir", dir)
	if status != 0 || !strings.HasPrefix(out, "6 records from 1 to 6 are whole, head 6:") {
		t.Errorf("got %d %q", status, out)
	}
	path := filepath.Join(dir, "audit-00000000000000000002.jsonl")
	was, _ := os.ReadFile(path)
	if err := os.WriteFile(path, bytes.Replace(was, []byte("burst"), []byte("local"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, status = bothy(t, "audit", "verify", "--dir", dir)
	want := strings.Replace(path, "0002", "0003", 1) + ": record 3 does not follow from record 2: one of the two was changed\n" +
		"the log is NOT whole: 6 records can be read, the chain breaks at 1 places\n"
	if status != 1 || out != want {
		t.Errorf("got %d %q, want %q", status, out, want)
	}
	for _, args := range [][]string{{"list"}, {"export"}} {
		_, talk, _ := bothy(t, append(append([]string{"audit"}, args...), "--dir", dir)...)
		if !strings.Contains(talk, "bothy: warning: the audit log does not verify: record 3 does not follow") {
			t.Errorf("%v of a damaged log says only %q", args, talk)
		}
	}
	for args, want := range map[string]int{"--head 6": 2, "--head 6:ff": 2, "--dir " + dir + "/none": 2, "--head x:" + strings.Repeat("ab", 32): 2} {
		if _, _, status := bothy(t, append([]string{"audit", "verify"}, strings.Fields(args)...)...); status != want {
			t.Errorf("%s: got status %d, want %d", args, status, want)
		}
	}
}

func TestAuditListSelects(t *testing.T) {
	dir := auditLog(t)
	for args, want := range map[string]string{
		"":                              "r1 r2 r3 r4 r5 r6",
		"-n 2":                          "r5 r6",
		"--place local":                 "r1 r3 r5",
		"--place cloud":                 "r2 r4 r6",
		"--place burst -n 1":            "r4",
		"--since 150m":                  "r4 r5 r6",
		"--since 2000-01-01":            "r1 r2 r3 r4 r5 r6",
		"--since 2999-01-01T00:00:00Z":  "",
		"--event departed --since 90m":  "r5 r6",
		"--event finished":              "",
		"--place cloud --since 150m -n": "",
	} {
		fields := strings.Fields(args)
		if args == "--place cloud --since 150m -n" {
			fields, want = append(fields, "1"), "r6"
		}
		out, talk, status := bothy(t, append([]string{"audit", "list", "--json", "--dir", dir}, fields...)...)
		var records []audit.Record
		if err := json.Unmarshal([]byte(out), &records); err != nil || status != 0 || records == nil {
			t.Fatalf("%s: %v %s%s", args, err, out, talk)
		}
		var got []string
		for _, r := range records {
			got = append(got, r.Request)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", args, got, want)
		}
	}
	for _, args := range []string{"--since yesterday", "--event gone", "-n 0", "extra"} {
		if _, _, status := bothy(t, append([]string{"audit", "list", "--dir", dir}, strings.Fields(args)...)...); status != 2 {
			t.Errorf("%s: got status %d, want 2", args, status)
		}
	}
}

func TestAuditListIsATable(t *testing.T) {
	out, _, _ := bothy(t, "audit", "list", "--dir", auditLog(t))
	var got []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if f[0] != "SEQ" {
			f = append(f[:1], f[3:]...) // without the time
		}
		got = append(got, strings.Join(f, " "))
	}
	want := "SEQ TIME EVENT CALLER MODEL PLACE REASON RULE TOKENS STATUS\n" +
		"1 departed web.service mote local preferred rest 3+4 200\n2 departed container 0123456789ab mote burst - - - -\n" +
		"3 departed /usr/bin/app - local - - - 503 overloaded\n4 departed uid 0 - burst - - - -\n5 departed uid 7 - local - - - -\n6 departed uid 8 - other - - - -"
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("got\n%s\nwant\n%s", s, want)
	}
}

func TestAuditExportIsTheLogByteForByte(t *testing.T) {
	dir := auditLog(t)
	var whole []byte
	files, _ := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		whole = append(whole, b...)
	}
	out, _, status := bothy(t, "audit", "export", "--dir", dir)
	if status != 0 || out != string(whole) {
		t.Fatalf("got %d\n%s\nwant\n%s", status, out, whole)
	}
	elsewhere := t.TempDir()
	if err := os.WriteFile(filepath.Join(elsewhere, "audit-00000000000000000001.jsonl"), []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, 0, "--dir", elsewhere); v.Records != 6 {
		t.Errorf("got %+v, want an export that verifies", v)
	}
	if out, _, _ := bothy(t, "audit", "export", "--dir", dir, "--place", "other"); strings.Count(out, "\n") != 1 || !strings.Contains(out, `"r6"`) {
		t.Errorf("got %s, want one line", out)
	}
}
