package powerloss

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// call is one system call that succeeded, with what it did as far as this
// package cares. begun stands for a sync that has started: what is written
// while it runs is not covered by it.
type call struct {
	name   string
	thread string
	begun  bool
	args   []string // as strace wrote them
	result int64
	path   string // of the descriptor that an openat returned
}

var (
	lineStart = regexp.MustCompile(`^(\d+) +(\w+)\(`)
	resumed   = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>`)
	outcome   = regexp.MustCompile(`\) += (-?\d+)(?:<([^>]*)>)?`)
)

const unfinished = " <unfinished ...>"

// parse reads what `strace -f -y -xx` wrote.
func parse(r io.Reader, each func(call) error) error {
	begun := map[string]string{} // thread -> the beginning of its call
	in := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		line = strings.TrimSuffix(line, "\n")
		if m := resumed.FindStringSubmatch(line); m != nil {
			line = begun[m[1]] + line[len(m[0]):]
			delete(begun, m[1])
		} else if m := lineStart.FindStringSubmatch(line); m != nil && isSync(m[2]) {
			if err := each(call{name: m[2], thread: m[1], begun: true, args: arguments(line[len(m[0]):])}); err != nil {
				return err
			}
		}
		if head, ok := strings.CutSuffix(line, unfinished); ok {
			begun[strings.Fields(line)[0]] = head
			continue
		}
		c, ok, err := complete(line)
		if err != nil {
			return err
		}
		if ok {
			if err := each(c); err != nil {
				return err
			}
		}
	}
}

func isSync(name string) bool { return name == "fsync" || name == "fdatasync" }

// complete takes a whole line apart; calls that failed and other lines are none.
func complete(line string) (call, bool, error) {
	m := lineStart.FindStringSubmatch(line)
	ends := outcome.FindAllStringSubmatchIndex(line, -1)
	if m == nil || len(ends) == 0 {
		return call{}, false, nil
	}
	end := ends[len(ends)-1]
	c := call{name: m[2], thread: m[1], args: arguments(line[len(m[0]):end[0]])}
	var err error
	if c.result, err = strconv.ParseInt(line[end[2]:end[3]], 10, 64); err != nil || c.result < 0 {
		return call{}, false, err
	}
	if end[4] >= 0 {
		if c.path, err = unescape(line[end[4]:end[5]]); err != nil {
			return call{}, false, fmt.Errorf("cannot read the trace: %w in %.200q", err, line)
		}
	}
	return c, true, nil
}

// arguments splits at the commas; with -xx there is none inside a string or a path.
func arguments(s string) []string { return strings.Split(s, ", ") }

// descriptor reads "5<\x2f...>".
func descriptor(arg string) (int, error) {
	number, _, _ := strings.Cut(arg, "<")
	fd, err := strconv.Atoi(number)
	if err != nil {
		return 0, fmt.Errorf("cannot read descriptor %.80q", arg)
	}
	return fd, nil
}

// text reads a quoted string of hexadecimal escapes.
func text(arg string) ([]byte, error) {
	s, err := unescape(strings.Trim(arg, `"`))
	if err != nil || !strings.HasPrefix(arg, `"`) || !strings.HasSuffix(arg, `"`) {
		return nil, fmt.Errorf("cannot read string %.80q: %v", arg, err)
	}
	return []byte(s), nil
}

func unescape(s string) (string, error) {
	if strings.Count(s, `\x`)*4 != len(s) {
		return "", fmt.Errorf("%.80q is not all hexadecimal", s)
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, `\x`, ""))
	return string(b), err
}

func escape(s string) string {
	var out strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&out, `\x%02x`, c)
	}
	return out.String()
}
