package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bothy-edge/bothy/agent/policy/detect"
	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/release"
	"github.com/bothy-edge/bothy/updater/report"
)

// Bounds of the log lines that the agent remembers for the fleet, and of a bundle.
const (
	journalLines = 2000
	journalBytes = 512 << 10
	journalLine  = 4 << 10 // the rest of a longer line is cut off
	bundleLines  = 500     // unless the order says another number
)

// journal remembers the agent's own last log lines, redacted, as JSON. Engines
// write elsewhere: what they log may hold what people asked. Safe for concurrent use.
type journal struct {
	mu    sync.Mutex
	lines [][]byte
	bytes int
}

// newJournal answers a journal, and a logger that writes both to it and where log does.
func newJournal(log *slog.Logger) (*journal, *slog.Logger) {
	j := &journal{}
	kept := slog.NewJSONHandler(j, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: redactAttr})
	return j, slog.New(slog.NewMultiHandler(log.Handler(), requestless{Handler: kept}))
}

// Write implements io.Writer for the handler, which writes a line at a time.
func (j *journal) Write(p []byte) (int, error) {
	line := redact(bytes.TrimSpace(p))
	if len(line) > journalLine {
		line, _ = json.Marshal(map[string]string{"cut": strings.ToValidUTF8(string(line[:journalLine/2]), "")}) // a map of strings cannot fail
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
	j.bytes += len(line)
	for len(j.lines) > journalLines || j.bytes > journalBytes {
		j.bytes -= len(j.lines[0])
		j.lines = j.lines[1:]
	}
	return len(p), nil
}

// last answers the newest n lines, oldest first.
func (j *journal) last(n int) [][]byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([][]byte{}, j.lines[max(0, len(j.lines)-n):]...)
}

// secretName is an attribute that may hold a secret or what somebody asked, whatever it looks like.
var secretName = regexp.MustCompile(`(?i)(secret|token|passw|passphrase|authorization|cookie|credential|api_?key|private|prompt|content|message|body)`)

// redactAttr takes the values of telling names out.
func redactAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
		return a
	}
	if secretName.MatchString(a.Key) {
		return slog.String(a.Key, "[redacted]")
	}
	return a
}

// redact replaces, in the texts of one JSON value, what the detectors know of
// people and secrets. What would not be JSON afterwards goes as a whole.
func redact(line []byte) []byte {
	found, _, err := detect.JSON(line)
	if err != nil {
		return []byte(`{"redacted":"all"}`)
	}
	var out bytes.Buffer
	at, inText := 0, textOf(line)
	kept := []detect.Kind{detect.IP, detect.MAC, detect.BirthDate} // of machines, and times: what logs are read for
	for _, f := range found {
		if f.Start < at || !inText[f.Start] || slices.Contains(kept, f.Kind) {
			continue // numbers that are not text are the agent's own: times, sizes, orders
		}
		out.Write(line[at:f.Start])
		fmt.Fprintf(&out, "[%s]", f.Kind)
		at = f.End
	}
	out.Write(line[at:])
	if !json.Valid(out.Bytes()) {
		return []byte(`{"redacted":"all"}`)
	}
	return out.Bytes()
}

// textOf says which bytes of a JSON value lie within its strings.
func textOf(line []byte) []bool {
	mask, in := make([]bool, len(line)), false
	for i := 0; i < len(line); i++ {
		mask[i] = in
		switch {
		case line[i] == '"':
			in = !in
		case line[i] == '\\' && in && i+1 < len(line):
			i++
			mask[i] = true
		}
	}
	return mask
}

// requestless keeps, of a line about a request, only what cannot hold its text.
type requestless struct {
	slog.Handler
	about bool // the logger itself is about a request
}

// Handle implements slog.Handler.
func (h requestless) Handle(ctx context.Context, r slog.Record) error {
	about := h.about
	var kept []slog.Attr
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "request":
			about = true
			kept = append(kept, a)
		case "code", "place", "reason":
			kept = append(kept, a)
		}
		return true
	})
	if about {
		r = slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
		r.AddAttrs(kept...)
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h requestless) WithAttrs(attrs []slog.Attr) slog.Handler {
	about := h.about || slices.ContainsFunc(attrs, func(a slog.Attr) bool { return a.Key == "request" })
	return requestless{h.Handler.WithAttrs(attrs), about}
}

// WithGroup implements slog.Handler.
func (h requestless) WithGroup(name string) slog.Handler {
	return requestless{h.Handler.WithGroup(name), h.about}
}

// bundleHead is the first line of a bundle; the state and the log lines follow.
type bundleHead struct {
	V      int       `json:"v"` // 1
	Device string    `json:"device"`
	Order  uint64    `json:"order"`
	Time   time.Time `json:"time"`
	Lines  int       `json:"lines"`
}

// collectLogs sends the last log lines and the state to the fleet, in events: as
// surely as reports, and signed like them. It holds no prompts, keys or tokens,
// nothing of the engines' own logs, and nothing of the audit log.
func (b *box) collectLogs(_ context.Context, o release.Order) (string, error) {
	n := bundleLines
	if text := o.Args["lines"]; text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > journalLines {
			return "", fmt.Errorf("cannot collect %q lines: want 1 to %d", text, journalLines)
		}
	}
	lines := b.journal.last(n)
	now := time.Now()
	head := bundleHead{V: 1, Device: o.Device, Order: o.Number, Time: now.UTC(), Lines: len(lines)}
	bundle, err := pack(head, b.deviceState(b.status(now)), lines)
	if err != nil {
		return "", err
	}
	if err := b.link.sendLogs(b.db, o.Number, bundle); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d log lines, %d bytes", len(lines), len(bundle)), nil
}

// pack compresses a bundle: JSON, one value a line.
func pack(head bundleHead, state report.State, lines [][]byte) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	enc := json.NewEncoder(z)
	if err := enc.Encode(head); err != nil {
		return nil, fmt.Errorf("internal error: cannot pack the log: %w", err)
	}
	text, err := state.Encode()
	if err != nil {
		return nil, err
	}
	for _, line := range append([][]byte{redact(text)}, lines...) {
		if _, err := z.Write(append(line, '\n')); err != nil {
			return nil, fmt.Errorf("internal error: cannot pack the log: %w", err)
		}
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("internal error: cannot pack the log: %w", err)
	}
	if out.Len() > report.MaxLogs {
		return nil, fmt.Errorf("cannot send the log: it takes %d bytes, at most %d are accepted; ask for fewer lines", out.Len(), report.MaxLogs)
	}
	return out.Bytes(), nil
}

// sendLogs puts a bundle into the outbox, in parts that pass any broker.
func (l *link) sendLogs(db *store.DB, order uint64, bundle []byte) error {
	sum := sha256.Sum256(bundle)
	p := report.LogPart{Number: order, Parts: (len(bundle) + report.LogPartSize - 1) / report.LogPartSize, SHA256: hex.EncodeToString(sum[:])}
	err := db.Update(func(tx *store.Tx) error {
		for p.Part = 0; p.Part < p.Parts; p.Part++ {
			at := p.Part * report.LogPartSize
			p.Data = bundle[at:min(len(bundle), at+report.LogPartSize)]
			if _, err := l.outbox.Put(tx, report.LogsEvent, p); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot send the log: %w", err)
	}
	l.outbox.Poke()
	return nil
}
