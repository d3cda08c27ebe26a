package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent/audit"
)

func auditCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "audit", Short: "Read and verify the record of who asked what to run where",
		Long:    "Read and verify the record of who asked what to run where. It is a chain of hashes in\nfiles of the state folder; these commands read it there, with or without an agent.",
		Example: "  bothy audit verify",
	}
	cmd.AddCommand(auditVerify(o), auditList(o), auditExport(o))
	return cmd
}

// auditFolder is the folder given, or the one of the configuration.
func (o *options) auditFolder(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	c, err := o.loadConfig()
	return filepath.Join(c.State, "audit"), err
}

// examine reads the log and says what to type when it cannot.
func (o *options) examine(dir string, each func(audit.Entry) error) (string, audit.Findings, error) {
	dir, err := o.auditFolder(dir)
	if err != nil {
		return dir, audit.Findings{}, err
	}
	f, err := audit.Examine(dir, each)
	switch {
	case errors.Is(err, fs.ErrPermission):
		err = withHint{err, "sudo bothy audit verify"}
	case errors.Is(err, fs.ErrNotExist):
		err = withHint{err, "name the folder with --dir, or the configuration with --config"}
	}
	return dir, f, err
}

// verified is the JSON of `audit verify`.
type verified struct {
	Dir   string `json:"dir"`
	Whole bool   `json:"whole"`
	audit.Findings
	// Kept says how the log stands to the head given with --head: "holds", "differs" or "missing".
	Kept string `json:"kept,omitempty"`
}

func auditVerify(o *options) *cobra.Command {
	var dir, kept string
	cmd := &cobra.Command{
		Use: "verify", Short: "Check that no record was changed, removed, added or moved", Args: exactly(),
		Long: "Check that no record was changed, removed, added or moved. That records are missing at\n" +
			"the end, or that the last one was changed, shows only against a head that was kept\n" +
			"elsewhere: --head takes one as this command prints it. Needs no agent.\n" +
			"Exit status: 0 whole, 1 damaged, 2 no answer.",
		Example: "  bothy audit verify",
		RunE: func(cmd *cobra.Command, _ []string) error {
			head, err := parseHead(kept)
			if err != nil {
				return usageError{err}
			}
			out := verified{}
			if kept != "" {
				out.Kept = "missing"
			}
			out.Dir, out.Findings, err = o.examine(dir, func(e audit.Entry) error {
				if kept != "" && e.Seq == head.Seq {
					out.Kept = "differs"
					if e.Hash == head.Hash {
						out.Kept = "holds"
					}
				}
				return nil
			})
			if err != nil {
				return unanswered(cmd, err)
			}
			out.Whole = len(out.Breaks) == 0 && (kept == "" || out.Kept == "holds")
			if o.json {
				err = printJSON(cmd.OutOrStdout(), out)
			} else {
				err = printVerified(cmd.OutOrStdout(), out)
			}
			if err == nil && !out.Whole {
				return otherAnswer
			}
			return err
		},
	}
	cmd.Flags().StringVar(&kept, "head", "", "a head that was kept, SEQ:HASH: the log must have it")
	cmd.Flags().StringVar(&dir, "dir", "", "folder of the log (default: audit in the state folder)")
	jsonFlag(cmd, o)
	return cmd
}

// parseHead reads "12:9f2c...", a record's number and hash; "" is none.
func parseHead(s string) (audit.Head, error) {
	if s == "" {
		return audit.Head{}, nil
	}
	number, hash, _ := strings.Cut(s, ":")
	seq, err := strconv.ParseUint(number, 10, 64)
	if raw, err2 := hex.DecodeString(hash); err != nil || err2 != nil || len(raw) != 32 {
		return audit.Head{}, fmt.Errorf("--head %q is not SEQ:HASH, as bothy audit verify prints it", s)
	}
	return audit.Head{Seq: seq, Hash: strings.ToLower(hash)}, nil
}

func printVerified(w io.Writer, v verified) error {
	for _, b := range v.Breaks {
		fmt.Fprintf(w, "%s: %s\n", b.File, b.Cause)
	}
	switch v.Kept {
	case "missing":
		fmt.Fprintln(w, "the record of --head is not in the log: records were removed, or it was rotated away")
	case "differs":
		fmt.Fprintln(w, "the record of --head is another one in the log: it or one before it was changed")
	}
	if v.Torn {
		fmt.Fprintln(w, "note: the last line is not complete: it is being written, or a crash left it; the agent cuts it off when it starts")
	}
	for _, path := range v.SetAside {
		fmt.Fprintf(w, "note: %s did not verify when the agent started; its records are not in the chain\n", path)
	}
	if v.Lost > 0 {
		fmt.Fprintf(w, "note: %d records could not be written at their time, and the log says so\n", v.Lost)
	}
	switch {
	case v.Records == 0 && v.Whole:
		_, err := fmt.Fprintln(w, "the log has no records")
		return err
	case v.Whole:
		_, err := fmt.Fprintf(w, "%d records from %d to %d are whole, head %d:%s\n", v.Records, v.First, v.Head.Seq, v.Head.Seq, v.Head.Hash)
		return err
	}
	_, err := fmt.Fprintf(w, "the log is NOT whole: %d records can be read, the chain breaks at %d places\n", v.Records, len(v.Breaks))
	return err
}

// selection says which records are asked for.
type selection struct {
	since, place, event string
	dir                 string
}

func (s *selection) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.since, "since", "", "only since then: 24h, 2026-03-02, or 2026-03-02T09:30:00Z")
	f.StringVar(&s.place, "place", "", "only of this place: local, an upstream, or cloud for any")
	f.StringVar(&s.event, "event", "", "only of this event: departed, finished or reset")
	f.StringVar(&s.dir, "dir", "", "folder of the log (default: audit in the state folder)")
}

// filter is the selection as a condition; now is what durations count from.
func (s *selection) filter(now time.Time) (func(audit.Record) bool, error) {
	from, err := parseSince(s.since, now)
	if err != nil {
		return nil, usageError{err}
	}
	switch s.event {
	case "", audit.Departed, audit.Finished, audit.Reset:
	default:
		return nil, usageError{fmt.Errorf("there is no event %q; known: departed, finished, reset", s.event)}
	}
	return func(r audit.Record) bool {
		atPlace := s.place == "" || s.place == r.Place || s.place == "cloud" && r.Place != "" && r.Place != "local"
		return atPlace && (s.event == "" || s.event == r.Event) && !r.Time.Before(from)
	}, nil
}

// parseSince reads a duration before now, a local day, or a moment.
func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, s, now.Location()); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("--since %q is neither a duration such as 24h nor a time such as 2026-03-02 or 2026-03-02T09:30:00Z", s)
	}
	return t, nil
}

func auditList(o *options) *cobra.Command {
	var s selection
	var n int
	cmd := &cobra.Command{
		Use: "list", Short: "List the newest records", Args: exactly(),
		Long:    "List the newest records, the oldest of them first. Needs no agent; what the agent holds\nback for its next write, up to two seconds, is not there yet.",
		Example: "  bothy audit list --since 24h --place cloud",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n < 1 {
				return usageError{errors.New("--lines is less than 1")}
			}
			wanted, err := s.filter(time.Now())
			if err != nil {
				return err
			}
			records := []audit.Record{}
			_, found, err := o.examine(s.dir, func(e audit.Entry) error {
				if wanted(e.Record) {
					records = append(records, e.Record)
				}
				if len(records) >= 2*n { // the newest n, without moving all for each
					records = append(records[:0], records[len(records)-n:]...)
				}
				return nil
			})
			if err != nil {
				return err
			}
			records = records[max(len(records)-n, 0):]
			if o.json {
				err = printJSON(cmd.OutOrStdout(), records)
			} else {
				err = printRecords(cmd.OutOrStdout(), records)
			}
			warnBroken(cmd.ErrOrStderr(), found)
			return err
		},
	}
	s.flags(cmd)
	cmd.Flags().IntVarP(&n, "lines", "n", 50, "how many records")
	jsonFlag(cmd, o)
	return cmd
}

// warnBroken keeps a damaged log from being read as a whole one.
func warnBroken(talk io.Writer, f audit.Findings) {
	if len(f.Breaks) > 0 {
		fmt.Fprintf(talk, "bothy: warning: the audit log does not verify: %s\n", f.Breaks[0].Cause)
		fmt.Fprintln(talk, "bothy: hint: bothy audit verify")
	}
}

func printRecords(w io.Writer, records []audit.Record) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "SEQ\tTIME\tEVENT\tCALLER\tMODEL\tPLACE\tREASON\tRULE\tTOKENS\tSTATUS")
	for _, r := range records {
		status := ""
		if r.Status != 0 {
			status = strings.TrimSpace(fmt.Sprint(r.Status, " ", r.Code))
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Seq, r.Time.Local().Format(time.DateTime), r.Event,
			orDash(whoText(r)), orDash(r.Model), orDash(r.Place), orDash(r.Reason), orDash(r.Rule), tokensText(r), orDash(status))
	}
	return tw.Flush()
}

// whoText names a caller by the most telling thing known.
func whoText(r audit.Record) string {
	switch {
	case r.Unit != "":
		return r.Unit
	case r.Container != "":
		return "container " + r.Container[:min(len(r.Container), 12)]
	case r.Exe != "":
		return r.Exe
	case r.Event == audit.Reset:
		return ""
	}
	return fmt.Sprintf("uid %d", r.UID)
}

func tokensText(r audit.Record) string {
	if r.TokensIn == 0 && r.TokensOut == 0 {
		return "-"
	}
	return fmt.Sprintf("%d+%d", r.TokensIn, r.TokensOut)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func auditExport(o *options) *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use: "export", Short: "Print records as JSON lines, as they are in the log", Args: exactly(),
		Long: "Print records as JSON lines, byte for byte as they are in the log: without a selection,\n" +
			"the lines saved as audit-SEQ.jsonl (SEQ of the first, 20 digits) verify elsewhere.\nNeeds no agent. Exit status: 0 whole, 1 the log does not verify, 2 it cannot be read.",
		Example: "  bothy audit export --since 2026-03-01 > march.jsonl",
		RunE: func(cmd *cobra.Command, _ []string) error {
			wanted, err := s.filter(time.Now())
			if err != nil {
				return err
			}
			out := bufio.NewWriter(cmd.OutOrStdout())
			_, found, err := o.examine(s.dir, func(e audit.Entry) error {
				if !wanted(e.Record) {
					return nil
				}
				_, err := out.Write(append(e.Line[:len(e.Line):len(e.Line)], '\n'))
				return err
			})
			if err = errors.Join(err, out.Flush()); err != nil {
				return unanswered(cmd, err)
			}
			if warnBroken(cmd.ErrOrStderr(), found); len(found.Breaks) > 0 {
				return otherAnswer
			}
			return nil
		},
	}
	s.flags(cmd)
	cmd.Flags().Bool("json", true, "print JSON lines; there is no other format")
	return cmd
}
